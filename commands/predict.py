"""`lookahead predict-next`: the passages that a trained model expects after a place in an article or after a text."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.common import (
    collection_option,
    existing_collection,
    human_bytes,
    hush_at_exit,
    json_option,
    print_json,
)
from commands.decode import cosine_line, decoder_dict, effort_options, gist_dict, show_words
from retrieval.search_rows import as_dict
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.gists import Worded
    from retrieval.inversion import Decoder
    from retrieval.predict import Context, LookAhead, Prediction, Truth, Way
    from retrieval.search import Searcher
    from store.database import ArticleRow, Store

_MOST_BYTES = 4_000_000  # the most that a text of the longest kind can take
_WAYS = "--article, --page-id, --text, --file or -"


@click.command("predict-next")
@click.argument("stdin", required=False, metavar="[-]")
@click.option("--article", help="After a place in the article of that title …")
@click.option("--page-id", type=int, help="… or in that page.")
@click.option("--position", type=int, help="The place: chunks count from 0.  [default: after the article's end]")
@click.option("--text", help="After this text of one or several paragraphs.")
@click.option("--file", type=click.Path(path_type=Path, allow_dash=True), help="After the text of a file; - is stdin.")
@collection_option
@click.option("--model", help="Which model.  [default: the collection's best, or the one that came with the program]")
@click.option("-k", "k", type=int, default=5, show_default=True, help="How many passages.")
@click.option("--include-context", is_flag=True, help="What the prediction was made from may answer too.")
@click.option(
    "--rerank/--no-rerank",
    default=None,
    help="Whether a reranker orders the best candidates anew.  [default: where the model has one]",
)
@click.option(
    "--assist",
    type=int,
    metavar="N",
    help="The N nearest chunks of the article at hand join the candidates.  [default: none]",
)
@click.option(
    "--variety",
    type=float,
    metavar="λ",
    help="Unlike candidates before much alike ones (MMR): 1 minds only the score, .7 some variety.  [default: off]",
)
@click.option("--decode", "in_words", is_flag=True, help="Also put the predicted vector into words: a gist at best.")
@effort_options
@json_option
@click.pass_obj
def predict_next(
    home: Path,
    stdin: str | None,
    article: str | None,
    page_id: int | None,
    position: int | None,
    text: str | None,
    file: Path | None,
    name: str | None,
    model: str | None,
    k: int,
    include_context: bool,
    rerank: bool | None,
    assist: int | None,
    variety: float | None,
    in_words: bool,
    inverter: str | None,
    steps: int | None,
    time_limit: float | None,
    as_json: bool,
) -> None:
    """Foretell what comes next, and show the passages of the collection nearest to it.

    A model reads the vectors of the last chunks, at most five, and predicts the vector of the next. Inside an article
    the true next chunk is known: the last line says where it came, and where it would have come had the last chunk
    itself been taken for the prediction. It also says what answered.

    A model may have a reranker, which orders the best candidates anew; a passage's score is then its share of them, and
    else its cosine to the predicted vector. A model with a P tower compares with its own vectors of the chunks, which
    are made once for each generation of the collection.

    With --decode an inverter (see decode) makes words of the predicted vector, and beside them of the true next chunk's
    and of the last chunk's. What it writes reads like a text and is none: a topic at best, its names and numbers
    invented. --steps and --time-limit are the inverter's.

    With --json the first line is {"prediction": {"context", "model", "way", "truth", "notes"}}, where truth is null
    after a text or an article's end; the passages follow, one a line as in search --json, each with "true_next". With
    --decode the first object also has "decode": {"inverter", "space", "longest", "texts", "notes"}, and each text "of",
    "text", "cosine" to the vector asked for, "step", and "to_truth", its cosine to the true next chunk's vector.

    \b
    Examples:
      lookahead predict-next --article "Isaac Newton" --position 12
      lookahead predict-next --text "Bees live in colonies. A colony has one queen." -k 3
      lookahead predict-next --file chapter.txt --model amn
      lookahead predict-next --article "Isaac Newton" --position 12 --model towers --rerank --assist 20
      lookahead predict-next --article "Isaac Newton" --position 12 --decode --steps 3
      cat chapter.txt | lookahead predict-next - --json | jq "select(.rank).title"
    """
    given = _the_one_way(stdin, article, page_id, text, file)
    if position is not None and given in ("text", "file"):
        raise LookaheadError("--position is a place in an article; say which with --article or --page-id")
    if assist is not None and given in ("text", "file"):
        raise LookaheadError("--assist takes chunks of the article at hand; say which with --article or --page-id")
    if in_words:
        from retrieval.inversion import BEAM, STEPS, check_effort

        check_effort(STEPS if steps is None else steps, BEAM, time_limit)
    elif (inverter, steps, time_limit) != (None, None, None):
        raise LookaheadError("--inverter, --steps and --time-limit say how to decode; add --decode")
    if given == "file":
        assert file is not None or stdin is not None
        text = _read(file if file is not None else Path("-"))

    from retrieval.predict import LookAhead
    from retrieval.search import Searcher

    with Searcher.open(existing_collection(home, name)) as searcher:
        look = LookAhead.open(
            searcher, model, texts=text is not None, rerank=rerank, assist=assist or 0, variety=variety, quiet=False
        )
        if text is not None:
            prediction = look.text(text, k, include_context=include_context)
        else:
            row = _article(searcher.store, article, page_id)
            place = row.chunk_count if position is None else position
            prediction = look.after(row, place, k, include_context=include_context)
        decoder = _opened(searcher, inverter) if in_words else None
        if not as_json:
            show(look, prediction, k)
        words = None if decoder is None else _worded(look, prediction, decoder, steps, time_limit)
        if as_json:
            _print_json(look, prediction, words)
        elif words is not None:
            _show_words(words)


def _opened(searcher: Searcher, name: str | None) -> Decoder:
    from retrieval.open_inverter import open_decoder

    hush_at_exit()
    return open_decoder(searcher, name)


@dataclass(frozen=True, slots=True)
class _Words:
    """What an inverter made of a prediction and of the vectors beside it."""

    decoder: Decoder
    told: list[Worded]
    notes: list[str]


def _worded(
    look: LookAhead, prediction: Prediction, decoder: Decoder, steps: int | None, time_limit: float | None
) -> _Words:
    from index.progress import say
    from retrieval.gists import better_for_words, in_words
    from retrieval.inversion import STEPS

    told = in_words(
        look,
        prediction,
        decoder,
        steps=STEPS if steps is None else steps,
        time_limit=time_limit,
        tell=lambda sentence: say(sentence, quiet=False),
        quiet=False,
    )
    return _Words(decoder, told, [note for note in [better_for_words(look)] if note])


def _the_one_way(
    stdin: str | None, article: str | None, page_id: int | None, text: str | None, file: Path | None
) -> str:
    """Which of the ways in was taken: "article", "page", "text" or "file"."""
    if stdin not in (None, "-"):
        raise LookaheadError(f"{stdin[:60]!r} is no option; a text is given with --text, a title with --article")
    ways = {"article": article, "page": page_id, "text": text, "file": file, "stdin": stdin}
    taken = [way for way, value in ways.items() if value is not None]
    if len(taken) != 1:
        raise LookaheadError(f"say after what: one of {_WAYS}" + (f", not {len(taken)} of them" if taken else ""))
    return "file" if taken[0] == "stdin" else taken[0]


def _article(store: Store, title: str | None, page_id: int | None) -> ArticleRow:
    return store.article_titled(title or "") if page_id is None else store.article(page_id)


def _read(path: Path) -> str:
    """The text of a file or of the standard input, which must be UTF-8."""
    where = "the standard input" if str(path) == "-" else str(path.absolute())
    try:
        with click.open_file(str(path), "rb") as file:
            raw: bytes = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise LookaheadError(
                f"{where} has more than {human_bytes(_MOST_BYTES)}; only its last chunks would be read"
            )
        return raw.decode("utf-8")
    except OSError as error:
        raise LookaheadError(f"cannot read {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LookaheadError(f"{where} is not UTF-8 text (byte {error.start})") from error


def show(look: LookAhead, prediction: Prediction, k: int) -> None:
    """A prediction for a person; `k` is how many passages were asked for."""
    width = min(110, shutil.get_terminal_size().columns)
    for note in prediction.notes:
        click.secho(f"note: {note}", err=True, fg="yellow")
    click.secho(f"after {_context_line(prediction.context)}", dim=True)
    last = textwrap.shorten(prediction.context.texts[-1], 2 * width - 8, placeholder=" …")
    click.secho(textwrap.fill(last, width, initial_indent="   ", subsequent_indent="   "), dim=True)
    truth = prediction.truth
    for place, passage in enumerate(prediction.passages, 1):
        where = passage.title + (f" — {passage.chunk.section}" if passage.chunk.section else "")
        click.secho(f"{place}. {where}", bold=True, nl=False)
        click.secho(f"  (chunk {passage.chunk.chunk_id}, score {passage.score:.3f})", dim=True, nl=False)
        click.secho("  ← the true next chunk" if truth and truth.place == place else "", fg="green", bold=True)
        click.echo(textwrap.fill(passage.chunk.text, width, initial_indent="   ", subsequent_indent="   "))
    click.echo(_closing_line(look, prediction))
    if len(prediction.passages) < k:
        click.echo(f"{len(prediction.passages) or 'no'} different passages may answer: these are all", err=True)


def _context_line(context: Context) -> str:
    read = len(context.texts)
    if context.article is None:
        return f"the text's {_chunks(context.chunks)}" + (f", read: the last {read}" if context.chunks > read else "")
    row = context.article
    assert context.position is not None
    span = (
        f"chunk {context.position - 1}" if read == 1 else f"chunks {context.position - read} to {context.position - 1}"
    )
    end = " (its end)" if context.position == row.chunk_count else ""
    return f'"{row.title}", {span} of {row.chunk_count}{end}'


def _chunks(count: int) -> str:
    return "one chunk" if count == 1 else f"{count} chunks"


def _closing_line(look: LookAhead, prediction: Prediction) -> str:
    came = f"model {look.model.name} ({_origin(look)}){_in_words(prediction.way)}"
    truth = prediction.truth
    if truth is None:
        return came
    return (
        f"the true next chunk came at rank {truth.rank:,} of {truth.among:,} "
        f"(copying the last chunk: rank {truth.copied:,}); {came}, cosine {truth.cosine:.3f}"
    )


def _in_words(way: Way) -> str:
    """What stands between the model and the answer; nothing where it is the model alone."""
    said = ["P tower"] if way.tower else []
    if way.reranked:
        said.append(f"its best {way.candidates} reranked")
    if way.assist:
        said.append(f"{way.assist} of them from the article")
    if way.variety is not None:
        said.append(f"variety {way.variety:g}")
    return f" with {', '.join(said)}" if said else ""


def _origin(look: LookAhead) -> str:
    return "came with the program" if look.model.shipped else "trained on this collection"


_OF = {
    "prediction": "the predicted vector",
    "truth": "the true next chunk's vector",
    "copy-last": "the last chunk's vector (copying it)",
}


def _show_words(words: _Words) -> None:
    """For a person, below the passages."""
    width = min(110, shutil.get_terminal_size().columns)
    inverter = words.decoder.inverter
    worth = (
        f"In words, by inverter {inverter.name}, at most {inverter.longest} tokens each: a gist at best. Those of a "
        "predicted vector may tell its topic, and their names and numbers are invented. What is real stands above."
    )
    click.echo("\n" + textwrap.fill(worth, width))
    for one in words.told:
        click.secho(_OF[one.of], bold=True)
        show_words("in words", one.gist.text, width)
        told = cosine_line(one.gist)
        if one.to_truth is not None and one.of != "truth":
            told += f"; cosine to the true next chunk {one.to_truth:.3f}"
        click.secho(f"   {told}", dim=True)
    for note in words.notes:
        click.secho(f"note: {note}", err=True, fg="yellow")


def _words_dict(words: _Words) -> dict[str, object]:
    texts = [
        {"of": one.of, **gist_dict(one.gist), "to_truth": None if one.to_truth is None else round(one.to_truth, 6)}
        for one in words.told
    ]
    return {**decoder_dict(words.decoder), "texts": texts, "notes": words.notes}


def _print_json(look: LookAhead, prediction: Prediction, words: _Words | None) -> None:
    context, truth = prediction.context, prediction.truth
    row = context.article
    facts = {
        "context": {
            "title": row.title if row else None,
            "page_id": row.page_id if row else None,
            "position": context.position,
            "chunks": context.chunks,
            "texts": list(context.texts),
        },
        "model": {
            "name": look.model.name,
            "kind": look.model.config.kind,
            "shipped": look.model.shipped,
            "folder": str(look.model.folder),
        },
        "way": _way_dict(prediction.way),
        "truth": None if truth is None else _truth_dict(truth),
        "notes": list(prediction.notes),
    }
    if words is not None:
        facts["decode"] = _words_dict(words)
    print_json({"prediction": facts})
    for place, passage in enumerate(prediction.passages, 1):
        print_json({**as_dict(place, passage), "true_next": truth is not None and truth.place == place})


def _truth_dict(truth: Truth) -> dict[str, Any]:
    chunk = truth.passage.chunk
    return {
        "chunk_id": chunk.chunk_id,
        "section": chunk.section,
        "text": chunk.text,
        "cosine": round(truth.cosine, 6),
        "rank": truth.rank,
        "copy_last_rank": truth.copied,
        "among": truth.among,
    }


def _way_dict(way: Way) -> dict[str, Any]:
    return {
        "tower": way.tower,
        "reranked": way.reranked,
        "candidates": way.candidates,
        "assist": way.assist,
        "variety": way.variety,
    }
