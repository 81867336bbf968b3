"""`lookahead leaderboard`: the models of a collection by accuracy, speed and size, in torch and in OpenVINO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import SEED, collection_option, existing_collection, json_option, print_json, typed
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.benchmarks.predictors import Speed
    from retrieval.leaderboard import Leaderboard
    from retrieval.next_report import NextReport
    from retrieval.pipeline import Pipeline
    from retrieval.search import Searcher
    from retrieval.sequences import Sequences, Windows


@click.command("leaderboard")
@collection_option
@click.option("--model", "names", multiple=True, help="Which model (repeatable).  [default: all that fit]")
@click.option("--ood", "outside", metavar="NAME", help="A collection to report beside this one.")
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["torch", "openvino"]),
    multiple=True,
    default=["torch", "openvino"],
    show_default=True,
    help="Whose speed is measured (repeatable).",
)
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16", "auto"]),
    help="Of OpenVINO; auto leaves it the choice.  [default: as in predict-next]",
)
@click.option("--limit", type=click.IntRange(1), help="Accuracy of only so many articles, drawn with --seed.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of every draw and of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for JSON, Markdown and a plot.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def leaderboard(
    home: Path,
    name: str | None,
    names: tuple[str, ...],
    outside: str | None,
    runtimes: tuple[str, ...],
    precision: str | None,
    limit: int | None,
    seed: int,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Rank the models of a collection beside copying the last chunk.

    Accuracy is that of the test articles, bank heldout, without the query's own context (as in evaluate next): of a
    model with a P tower among the chunks as its tower has them, and once more of a model that has a reranker, with it.
    Speed and memory are measured in a process for each row and runtime, one after the other; other work on this
    machine shows in them.

    \b
    Examples:
      lookahead leaderboard --collection wiki --out out/leaderboard
      lookahead leaderboard -c wiki --model amn --model gru --runtime openvino --precision bf16
      lookahead leaderboard -c wiki --ood sample --json | jq ".standings[].name"
    """
    from dataclasses import replace

    from index.progress import bar
    from retrieval.baselines import COPY_LAST
    from retrieval.benchmarks.predictors import (
        OPENVINO,
        Job,
        Machine,
        files_of,
        open_compiled,
        refuse_emulated,
        speed_of,
    )
    from retrieval.evaluate_next import ORACLE, RANDOM
    from retrieval.leaderboard import Leaderboard
    from retrieval.models import check_seals, find_model, fitting_models, refuse_names
    from retrieval.next_report import reranked
    from retrieval.pipeline import Pipeline
    from retrieval.rerankers import find_reranker, rerankers_for
    from retrieval.search import Searcher

    quiet, runtimes = quiet or as_json, tuple(dict.fromkeys(runtimes))
    machine = Machine.here()  # before this adds to the load
    collection = existing_collection(home, name)
    refuse_emulated(precision)
    with Searcher.open(collection) as searcher:
        models = fitting_models(collection, searcher.fingerprint, names)
        if not models:
            find_model(collection, searcher.fingerprint)  # which knows what to say then
        refuse_names(models, (COPY_LAST, RANDOM, ORACLE))
        for model in models:
            check_seals(model.folder, model.config, [file for one in runtimes for file in files_of(model.config, one)])
        pipelines, rerankers, jobs = {}, {}, {}
        for model in models:
            pipeline = Pipeline.open(model, rerankers_for(collection))
            if precision is not None:
                pipeline = replace(pipeline, predictor=open_compiled(model.folder, precision))
            pipelines[model.name] = pipeline
            jobs[model.name] = [Job(str(model.folder), runtime, precision) for runtime in runtimes]
            found = find_reranker(model, rerankers_for(collection))
            if found is not None:
                rerankers[model.name] = found.config
                alone = [job for job in jobs[model.name] if job.runtime == OPENVINO]
                jobs[reranked(model.name)] = [replace(job, reranker=str(found.folder)) for job in alone]
        notes = [f"accuracy is that of the OpenVINO graphs in {pipeline.predictor.precision}"]
        notes += [
            f"{name}'s reranker orders the best {config.depth} by prediction · passage"
            + (f" + {config.blend:g} × decayed mean · chunk" if config.blend else "")
            for name, config in rerankers.items()
        ]
        report = _accuracy(home, collection.name, searcher, pipelines, notes, outside, limit, seed, quiet)
    speeds: dict[str, list[Speed]] = {row: [] for row in jobs}
    with bar("timing", sum(map(len, jobs.values())), "processes", quiet=quiet) as shown:
        for row, asked in jobs.items():
            for job in asked:
                speeds[row].append(speed_of(job))
                shown.update()
    board = Leaderboard.of(report, models, rerankers, speeds, machine)
    if as_json:
        print_json(board.as_json())
    else:
        click.echo(board.table())
    if out is not None:
        _write(board, out)
        click.echo(f"leaderboard.json, leaderboard.md and leaderboard.png are in {out.absolute()}", err=True)


def _accuracy(
    home: Path,
    called: str,
    searcher: Searcher,
    pipelines: Mapping[str, Pipeline],
    notes: Sequence[str],
    outside: str | None,
    limit: int | None,
    seed: int,
    quiet: bool,
) -> NextReport:
    """The evaluation of the models, each as it is and with its reranker, and of copy-last; and the same on another
    collection."""
    from retrieval.baselines import COPY_LAST, copy_last
    from retrieval.evaluate_next import at_most, drawn, judge
    from retrieval.evaluate_pipeline import ranker_of
    from retrieval.next_report import NextReport
    from retrieval.outside import QUERIES, outside_articles
    from retrieval.search import Searcher
    from retrieval.sequences import CONTEXT, Sequences, needed
    from store.records import Split

    def report_of(
        where: str, part: str, articles: Sequences, windows: Windows, notes: Sequence[str], others: Sequence[NextReport]
    ) -> NextReport:
        if not len(windows):
            raise LookaheadError(f"{where}: none of {len(articles.articles):,} articles has {CONTEXT + 1} chunks")
        outcome = judge(articles, windows, {**plain, COPY_LAST: copy_last}, able, seed=seed, quiet=quiet)
        return NextReport.of(
            outcome.judgements,
            [row for name, ranker in rankers.items() for row in dict.fromkeys((name, *ranker.pipelines))],
            collection=where,
            split=part,
            protocol="all",
            shortest=CONTEXT,
            articles=len(articles.articles),
            queries=len(windows),
            notes=notes,
            command=typed(),
            seed=seed,
            outside=others,
        )

    def some(articles: Sequences) -> Sequences:
        if limit is None or limit >= len(articles.articles):
            return articles
        return articles.only(drawn(len(articles.articles), limit, seed).tolist())

    plain = {called: pipeline.predict for called, pipeline in pipelines.items() if pipeline.tower is None}
    rankers = {called: ranker_of(called, pipeline) for called, pipeline in pipelines.items()}
    able = [ranker for ranker in rankers.values() if ranker.pipelines]
    held = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
    needed(held, Split.TEST, called)
    held = some(held)
    others = []
    if outside is not None:
        with Searcher.open(existing_collection(home, outside)) as other:
            articles, left_out = outside_articles(searcher, called, other, outside)
            others.append(report_of(outside, "every", *at_most(some(articles), QUERIES, seed=seed), left_out, ()))
    return report_of(called, Split.TEST.value, held, held.windows(), notes, others)


def _write(board: Leaderboard, out: Path) -> None:
    from retrieval.baselines import COPY_LAST
    from retrieval.benchmarks.speed_tables import runtime_of
    from retrieval.plots import plot_leaderboard
    from store.generations import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "leaderboard.json", json.dumps(board.as_json(), indent=1, ensure_ascii=False).encode())
    write_atomically(out / "leaderboard.md", (board.markdown() + "\n").encode())
    speeds = [speed for one in board.standings for speed in one.speeds]
    fastest = next((speed for speed in speeds if speed.runtime == "openvino"), speeds[0])
    level = next(one.measures["R@5"].mean for one in board.standings if one.name == COPY_LAST)
    title = f"next chunk of {board.collection}, bank heldout, new: {board.queries:,} queries"
    plot_leaderboard(
        board.points(fastest.runtime), (COPY_LAST, level), out / "leaderboard.png", title, runtime_of(fastest)
    )
