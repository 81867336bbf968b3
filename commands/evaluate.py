"""`lookahead evaluate`: how good it is, with baselines, intervals, and checks of the test itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import SEED, collection_option, existing_collection, json_option, keep_report, print_json, typed
from commands.evaluate_decode import decode
from commands.evaluate_next import data, next_chunk
from commands.evaluate_sts import sts
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.encoders_report import EncodersReport
    from retrieval.metrics import Ranks
    from retrieval.questions import QuestionSet
    from retrieval.reports import SearchReport


@click.group()
def evaluate() -> None:
    """Measure a collection or a model."""


@evaluate.command("search")
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="SQuAD JSON, TREC topics, or TSV.")
@click.option("--qrels", type=click.Path(path_type=Path), help="Of TREC topics.  [default: found beside them]")
@collection_option
@click.option("--add-paragraphs", is_flag=True, help="Search a SQuAD file's own paragraphs among the collection.")
@click.option("--limit", type=click.IntRange(1), help="Only so many questions, drawn with --seed.")
@click.option("--fusion", type=click.Choice(["zsum", "rrf"]), default="zsum", help="How hybrid joins the lists.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the bootstrap, --limit and --articles.")
@click.option("--encoder", "specs", metavar="MODEL", multiple=True, help="Compare with the collection's (repeatable).")
@click.option("--precision", type=click.Choice(["auto", "full", "int8"]), default="auto", help="Of each --encoder.")
@click.option("--articles", type=click.IntRange(0), help="Besides those that answer, embed only so many.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Where an encoder's vectors are kept.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for JSON, TREC runs and a plot.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def search(
    home: Path,
    questions: Path,
    qrels: Path | None,
    name: str | None,
    add_paragraphs: bool,
    limit: int | None,
    fusion: str,
    seed: int,
    specs: tuple[str, ...],
    precision: str,
    articles: int | None,
    keep: Path | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask every question by meaning, by words and by both, and count where the right answer came.

    With --encoder the collection's chunks are embedded again with another model, searched exactly as its own vectors
    then are, and what each keeps of the collection's own figures is told.

    The report and its plot are kept beside the collection's models, in evaluations/search, until the next one.

    \b
    Examples:
      lookahead evaluate search --questions data/sample/questions.tsv -c sample
      lookahead evaluate search --questions ../shared/data/squad/squad-v2.0-dev-part1.json --add-paragraphs -c wiki
      lookahead evaluate search --questions ../shared/data/miracl-en/topics-train.tsv -c wiki --out out/miracl
      lookahead evaluate search --questions data/sample/questions.tsv -c sample --encoder layers-3 --encoder static
    """
    import contextlib
    from dataclasses import replace

    import numpy as np

    from retrieval import evaluate_encoders as comparing
    from retrieval import evaluate_search as asking
    from retrieval.encoders_report import EncodersReport, rows_of, runs_of
    from retrieval.questions import Unit, read_questions, within
    from retrieval.reports import SearchReport
    from retrieval.runs import write_run
    from retrieval.search import Fusion, Searcher

    if not specs and (articles is not None or keep is not None):
        raise LookaheadError("--articles and --keep go with --encoder MODEL; add it or leave them out")
    collection = existing_collection(home, name)
    asked = read_questions(questions, qrels)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        searched = collection
        if add_paragraphs:
            searched = stack.enter_context(asking.with_paragraphs(collection, asked, quiet=quiet or as_json))
        searcher = stack.enter_context(Searcher.open(searched))
        pages = {row.page_id for row in searcher.store.articles()}
        if asked.unit is Unit.PARAGRAPH and not add_paragraphs:
            asked = asking.by_title(asked, searcher.store)
        elif asked.unit is Unit.ARTICLE:
            asked = within(asked, pages)
            if not asked.questions:
                raise LookaheadError(f"none of the pages that {questions} asks for is in {collection.name}")
        unit_of = asking.paragraph_unit(asked) if asked.unit is Unit.PARAGRAPH else asking.page_unit
        if limit is not None and limit < len(asked.questions):
            drawn = np.sort(np.random.default_rng(seed).choice(len(asked.questions), limit, replace=False))
            left_out = asked.left_out | {"beyond --limit": len(asked.questions) - limit}
            asked = replace(asked, questions=tuple(asked.questions[i] for i in drawn), left_out=left_out)
        report: SearchReport | EncodersReport
        counts = dict(searcher.generation.manifest.counts)
        collected, command = collection.name, typed()
        if specs:
            rows = searcher.store.articles()
            if articles is not None:
                rows = comparing.some_articles(rows, asked, unit_of, articles, seed)
            ids = comparing.chunks_of(rows)
            trial = comparing.Trial(searcher, asked, unit_of, ids, Fusion(fusion), quiet or as_json)
            own = comparing.own_answers(trial)
            others = [
                comparing.answers_of(trial, spec, home, keep=keep, precision=precision) for spec in dict.fromkeys(specs)
            ]
            counts |= {"articles": len(rows), "chunks": len(ids), "live": len(ids)}
            ranks, runs = rows_of(own, others), runs_of(own, others)
            report = EncodersReport.of(
                asked,
                own,
                others,
                units=len(rows),
                left_out=len(pages) - len(rows),
                collection=collected,
                counts=counts,
                command=command,
                seed=seed,
            )
        else:
            ranks, runs = asking.ask(searcher, asked, unit_of, fusion=Fusion(fusion), quiet=quiet or as_json)
            report = SearchReport.of(
                asked, ranks, units=len(pages), collection=collected, counts=counts, command=command, seed=seed
            )
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    keep_report(collection, "search", partial(_write, report, ranks, asked, collection.name, seed), out)
    if out is not None:
        for row, run in runs.items():
            name = row.replace("/", "--").replace(" ", "-")
            write_run(out / f"{name}.run", {key: _spaceless(found) for key, found in run.items()}, f"lookahead-{name}")
        click.echo(f"report.json, report.md, {len(runs)} TREC runs and recall.png are in {out.absolute()}", err=True)


def _write(
    report: SearchReport | EncodersReport,
    ranks: Mapping[str, Ranks],
    asked: QuestionSet,
    collection: str,
    seed: int,
    folder: Path,
) -> list[str]:
    from retrieval.plots import plot_recall_curves
    from retrieval.questions import groups_of
    from store.generations import write_atomically

    write_atomically(folder / "report.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False).encode())
    write_atomically(folder / "report.md", report.markdown().encode())
    plot_recall_curves(ranks, folder / "recall.png", f"{asked.name} in {collection}", groups_of(asked), seed=seed)
    return ["report.json", "report.md", "recall.png"]


def _spaceless(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """A TREC run separates by white space, and paragraph keys may hold some."""
    return [("_".join(unit.split()), score) for unit, score in found]


evaluate.add_command(next_chunk)
evaluate.add_command(data)
evaluate.add_command(decode)
evaluate.add_command(sts)
