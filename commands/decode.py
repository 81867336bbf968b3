"""`lookahead decode`: a vector back into words, the vector of a chunk, of a text, or of a file."""

from __future__ import annotations

import os
import shutil
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import click

from commands.common import collection_option, existing_collection, human_bytes, hush_at_exit, json_option, print_json
from store.records import LookaheadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retrieval.inversion import Decoder, Gist
    from retrieval.search import Searcher

    Floats = NDArray[np.float32]

_MOST_ROWS = 10_000
_MOST_HEADER = 65_536
_LONGEST_TEXT = 10_000  # characters; an encoder reads a few hundred words of them
_WORDS_A_TOKEN = 0.75  # in English, about


def effort_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--inverter, --steps, --time-limit: what turning vectors back into words takes."""
    for option in (
        click.option(
            "--time-limit",
            type=float,
            metavar="SECONDS",
            help="Begin no step that would end later; every vector gets its first words.  [default: none]",
        ),
        click.option("--steps", type=int, metavar="N", help="How often a text is corrected, 0 to 50.  [default: 1]"),
        click.option(
            "--inverter",
            metavar="NAME",
            help="One of the collection's or of the program's; gtr-base, a folder with inversion/ and corrector/, or "
            "two hub names joined by a comma is vec2text's.  [default: the first that fits]",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--chunk", type=int, metavar="ID", help="The vector of that chunk, as the collection has it.")
@click.option("--text", help="The vector of this text.")
@click.option("--vector", type=click.Path(path_type=Path), help="A .npy file with one vector (D,) or several (n, D).")
@collection_option
@effort_options
@click.option("--beam", type=int, metavar="N", help="How many texts are kept to be corrected, 1 to 16.  [default: 8]")
@json_option
@click.option("--quiet", is_flag=True, help="No progress and no notes.")
@click.pass_obj
def decode(
    home: Path,
    chunk: int | None,
    text: str | None,
    vector: Path | None,
    name: str | None,
    inverter: str | None,
    steps: int | None,
    time_limit: float | None,
    beam: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a vector back into words: a gist, and how near the gist's own vector comes to it.

    An inverter proposes texts, the collection's encoder embeds them, the inverter corrects them by how far they are
    off. It was trained on texts of at most some 32 tokens: of a longer passage the words are a gist of its beginning at
    best. Vectors are of the collection's encoder; where it does not normalise, their lengths count too.

    With --json each vector is a line {"text", "cosine", "step", "inverter", "space", "longest", "of"}; "of" says what
    was decoded: {"chunk_id", "title", "section", "text"}, {"text"}, or {"file", "row"}.

    \b
    Examples:
      lookahead decode --chunk 1234
      lookahead decode --text "The bridge was opened in 1861." --steps 5
      lookahead decode --vector vectors.npy --beam 16 --time-limit 60 --json | jq -r .text
      lookahead decode --chunk 1234 -c papers --inverter gtr-base --steps 20
    """
    from index.progress import say
    from retrieval.inversion import BEAM, STEPS, check_effort

    steps, beam = STEPS if steps is None else steps, BEAM if beam is None else beam
    check_effort(steps, beam, time_limit)
    given = {"--chunk": chunk, "--text": text, "--vector": vector}
    taken = [way for way, value in given.items() if value is not None]
    if len(taken) != 1:
        raise LookaheadError(
            "say what to decode: one of --chunk, --text or --vector" + (f", not {len(taken)} of them" if taken else "")
        )

    from retrieval.open_inverter import open_decoder
    from retrieval.search import Searcher

    with Searcher.open(existing_collection(home, name)) as searcher:
        if chunk is not None:
            asked = _of_chunk(searcher, chunk)
        elif text is not None:
            asked = _of_text(searcher, text)
        else:
            assert vector is not None
            asked = _of_file(vector, searcher.fingerprint.dim)
        hush_at_exit()
        decoder = open_decoder(searcher, inverter)
        for note in [] if quiet else _notes(asked, decoder):
            say(note, quiet=False)
        gists = decoder.decode(
            asked.vectors,
            steps=steps,
            beam=beam,
            time_limit=time_limit,
            tell=lambda sentence: say(sentence, quiet=quiet),
            quiet=quiet,
        )
        if as_json:
            for of, gist in zip(asked.of, gists, strict=True):
                print_json({**gist_dict(gist), **decoder_dict(decoder), "of": of})
        else:
            _show(asked, gists, decoder)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Vectors (n, D), and of each what it is of, as JSON has it."""

    vectors: Floats
    of: list[dict[str, Any]]


def _of_chunk(searcher: Searcher, chunk_id: int) -> _Asked:
    """A live chunk: the vectors of others are still there, but nothing else in the program answers with them."""
    count = searcher.generation.manifest.counts["chunks"]
    if not 0 <= chunk_id < count:
        raise LookaheadError(f"no chunk has the id {chunk_id}; ids are 0 to {count - 1} and stand in every answer")
    if searcher.live < count and chunk_id in searcher.store.dead_ids():
        raise LookaheadError(f"chunk {chunk_id} is dead: its article was changed or removed; search for the text anew")
    (found,) = searcher.store.chunks([chunk_id])
    of = {"chunk_id": chunk_id, "title": found.title, "section": found.chunk.section, "text": found.chunk.text}
    return _Asked(searcher.vectors.gather([chunk_id]), [of])


def _of_text(searcher: Searcher, text: str) -> _Asked:
    tidy = " ".join(text.encode("utf-8", "replace").decode().split())
    if not tidy:
        raise LookaheadError('the text is empty; type for example: lookahead decode --text "Bees dance."')
    if len(tidy) > _LONGEST_TEXT:
        raise LookaheadError(f"the text has {len(tidy):,} characters, at most {_LONGEST_TEXT:,} are read; shorten it")
    return _Asked(searcher.encoder.encode([tidy]), [{"text": tidy}])


def _of_file(path: Path, dim: int) -> _Asked:
    from retrieval.inversion import check_vectors

    vectors = read_vectors(path, dim)
    check_vectors(vectors, dim)
    return _Asked(vectors, [{"file": str(path.absolute()), "row": row} for row in range(len(vectors))])


def read_vectors(path: Path, dim: int) -> Floats:
    """The vectors (n, dim) of a .npy file, of which nothing is read before its header is understood."""
    import numpy as np

    where = path.absolute()
    again = f"expected a .npy file of floats, ({dim},) or (n, {dim}): numpy.save(path, vectors)"
    try:
        if path.exists() and not path.is_file():
            raise LookaheadError(f"{where} is no file; {again}")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of files that it would rather not read
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_ROWS * dim * 16 + _MOST_HEADER:
                raise LookaheadError(f"{where} has {human_bytes(size)}: more than {_MOST_ROWS:,} vectors; {again}")
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version}")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, kind = read(file)
            room = size - file.tell()
            rows = _checked_shape(shape, kind, dim, room, f"{where} holds {kind.name} {shape}; {again}")
            raw = np.frombuffer(file.read(room), dtype=kind)
    except OSError as error:
        raise LookaheadError(f"cannot read {where}: {error.strerror}") from error
    except (ValueError, TypeError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise LookaheadError(f"{where} is damaged, or no .npy file; {again}") from error
    table = raw.reshape((rows, dim), order="F" if by_columns else "C")
    with np.errstate(over="ignore"):  # what single precision cannot hold is refused as infinite
        return np.ascontiguousarray(table, dtype=np.float32)


def _checked_shape(shape: tuple[int, ...], kind: np.dtype[Any], dim: int, room: int, said: str) -> int:
    """How many rows a header promises, where those are vectors and the file's other `room` bytes hold them."""
    if kind.kind != "f" or len(shape) not in (1, 2) or shape[-1] != dim:
        raise LookaheadError(said)
    rows = shape[0] if len(shape) == 2 else 1
    if not 1 <= rows <= _MOST_ROWS:
        raise LookaheadError(f"{said}; n is 1 to {_MOST_ROWS:,}")
    if room != rows * dim * kind.itemsize:
        raise LookaheadError(f"{said}; it is cut short or goes on behind them: {room:,} bytes of data")
    return rows


def _notes(asked: _Asked, decoder: Decoder) -> list[str]:
    from store.chunking import length_of

    longest = decoder.inverter.longest
    words = length_of(asked.of[0].get("text", "")) if "chunk_id" not in asked.of[0] else 0
    if words <= _WORDS_A_TOKEN * longest:
        return []
    return [
        f"note: the text has {words} words, inverter {decoder.inverter.name} makes texts of at most {longest} tokens "
        f"(some {_WORDS_A_TOKEN * longest:.0f} words): what comes back is a gist of its beginning at best"
    ]


def _show(asked: _Asked, gists: list[Gist], decoder: Decoder) -> None:
    width = min(110, shutil.get_terminal_size().columns)
    for of, gist in zip(asked.of, gists, strict=True):
        if "chunk_id" in of:
            where = of["title"] + (f" — {of['section']}" if of["section"] else "")
            click.secho(where, bold=True, nl=False)
            click.secho(f"  (chunk {of['chunk_id']})", dim=True)
        elif "row" in of:
            click.secho(f"row {of['row']}", bold=True)
        if "text" in of:
            show_words("the text", textwrap.shorten(of["text"], 2 * width, placeholder=" …"), width, dim=True)
        show_words("the gist", gist.text, width)
        click.echo(f"   {cosine_line(gist)}")
    click.echo(about(decoder))


def show_words(label: str, text: str, width: int, *, dim: bool = False) -> None:
    """Words under their label, or that there are none."""
    said = f"{label}: {text or '(no words came)'}"
    click.secho(textwrap.fill(said, width, initial_indent="   ", subsequent_indent="   "), dim=dim)


def cosine_line(gist: Gist) -> str:
    came = f"after {gist.step} step{'' if gist.step == 1 else 's'}" if gist.step else "as first proposed"
    return f"its vector has cosine {gist.cosine:.3f} to the one asked for; found {came}"


def about(decoder: Decoder) -> str:
    """What an inverter's words are worth, in a sentence."""
    longest = decoder.inverter.longest
    return (
        f"inverter {decoder.inverter.name} makes texts of some {longest} tokens at most: "
        "a longer passage comes back as a gist of its beginning at best"
    )


def gist_dict(gist: Gist) -> dict[str, object]:
    """A gist for JSON."""
    return {"text": gist.text, "cosine": round(gist.cosine, 6), "step": gist.step}


def decoder_dict(decoder: Decoder) -> dict[str, object]:
    """What turned a vector back, for JSON."""
    inverter = decoder.inverter
    return {"inverter": inverter.name, "space": str(inverter.space), "longest": inverter.longest}
