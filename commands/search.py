"""`lookahead search`: a question, and the passages that answer it."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import collection_option, existing_collection, json_option, print_json

if TYPE_CHECKING:
    from retrieval.search import Passage, Searcher


@click.command()
@click.argument("query")
@collection_option
@click.option("-k", "k", type=int, default=5, show_default=True, help="How many passages.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "lexical"]),
    default="hybrid",
    show_default=True,
    help="By meaning and words, by meaning, by words.",
)
@click.option("--title", "titles", multiple=True, help="Only in the article of that title (repeatable).")
@click.option("--page-id", "page_ids", type=int, multiple=True, help="Only in that page (repeatable).")
@click.option("--section", "sections", multiple=True, help="Only under that heading (repeatable).")
@click.option("--split", "splits", type=click.Choice(["train", "valid", "test"]), multiple=True, help="Only there.")
@click.option("--fusion", type=click.Choice(["zsum", "rrf"]), default="zsum", help="How hybrid joins the lists.")
@click.option("--explain", is_flag=True, help="Show both scores and ranks of every passage.")
@json_option
@click.pass_obj
def search(
    home: Path,
    query: str,
    name: str | None,
    k: int,
    mode: str,
    titles: tuple[str, ...],
    page_ids: tuple[int, ...],
    sections: tuple[str, ...],
    splits: tuple[str, ...],
    fusion: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Find the passages that answer QUERY best.

    \b
    Examples:
      lookahead search "who built the first programmable computer"
      lookahead search "why is the sky dark at night" -k 10 --explain
      lookahead search "tolls" --mode lexical --title "Suez Canal" --section "Opening"
      lookahead search "tea" --json | jq .title
    """
    from retrieval.search import Fusion, Mode, Searcher
    from retrieval.search_rows import as_dict, why_fewer
    from store.database import Filter
    from store.records import Split

    wanted = Filter(titles, page_ids, sections, tuple(Split(split) for split in splits))
    with Searcher.open(existing_collection(home, name)) as searcher:
        passages = searcher.search(query, k, mode=Mode(mode), wanted=wanted, fusion=Fusion(fusion))
        if as_json:
            for place, passage in enumerate(passages, 1):
                print_json(as_dict(place, passage))
        else:
            show(searcher, query, passages, explain=explain)
        if len(passages) < k and not as_json:
            click.echo(why_fewer(len(passages), mode, bool(wanted)), err=True)


def show(searcher: Searcher, query: str, passages: list[Passage], *, explain: bool) -> None:
    """Passages for a person; the query's words are highlighted where the terminal can."""
    width = min(110, shutil.get_terminal_size().columns)
    for place, passage in enumerate(passages, 1):
        where = passage.title + (f" — {passage.chunk.section}" if passage.chunk.section else "")
        click.secho(f"{place}. {where}", bold=True, nl=False)
        click.secho(f"  (chunk {passage.chunk.chunk_id}, score {passage.score:.3f})", dim=True)
        if explain:
            click.secho(f"   {_explained(passage)}", fg="cyan")
        text = _highlighted(passage.chunk.text, searcher.lexical.spans(passage.chunk.text, query))
        click.echo(textwrap.indent("\n".join(_wrapped(text, width - 3)), "   "))


def _explained(passage: Passage) -> str:
    parts = passage.parts
    said = []
    for label, score, rank in (
        ("meaning: cosine", parts.dense, parts.dense_rank),
        ("words: BM25", parts.lexical, parts.lexical_rank),
    ):
        if score is not None:
            said.append(f"{label} {score:.3f}, " + (f"rank {rank}" if rank else "below its list"))
    if parts.closeness is not None:
        said.append(f"{parts.closeness:.0%} of the words within a sentence's length")
    return " · ".join(said)


def _highlighted(text: str, spans: list[tuple[int, int]]) -> str:
    out, read = [], 0
    for start, stop in spans:
        out += [text[read:start], click.style(text[start:stop], fg="yellow", bold=True)]
        read = stop
    return "".join([*out, text[read:]])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters; the codes that colour words take no room."""
    lines, line, room = [], "", 0
    for word in text.split():
        length = len(click.unstyle(word))
        if line and room + 1 + length > width:
            lines.append(line)
            line, room = word, length
        else:
            line, room = (f"{line} {word}", room + 1 + length) if line else (word, length)
    return [*lines, line]
