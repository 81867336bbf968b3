"""`lookahead evaluate next` and `lookahead evaluate data`: predictors beside what they must beat, and their data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import SEED, collection_option, existing_collection, json_option, keep_report, print_json, typed
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.evaluate_next import Outcome, Ranker, Whole
    from retrieval.next_report import Apart, NextReport
    from retrieval.search import Searcher
    from retrieval.sequences import Sequences, Windows

_RUN_QUERIES = 2_000  # in a run file; all of a large split would be 100 MB a row


@click.command("next")
@collection_option
@click.option("--model", "names", multiple=True, help="Which model (repeatable).  [default: all that fit]")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="What a model must beat, beside it.")
@click.option(
    "--rerank/--no-rerank",
    default=None,
    help="A second row for each model, with its reranker.  [default: where it has one]",
)
@click.option("--assist", type=click.IntRange(1), metavar="N", help="A row more: N candidates of the article.")
@click.option("--variety", type=click.FloatRange(0, 1), metavar="λ", help="A row more: unlike candidates (MMR).")
@click.option("--ablate", is_flag=True, help="Tables of what each part of a model with a reranker is worth.")
@click.option("--rules", is_flag=True, help="What a rule reaches that sees positions, in a table apart.")
@click.option(
    "--bank",
    "banks",
    type=click.Choice(["heldout", "full", "article"]),
    multiple=True,
    default=["heldout"],
    show_default=True,
    help="Look among the split's chunks, the whole collection's, the article's own (repeatable).",
)
@click.option(
    "--protocol",
    type=click.Choice(["all", "published"]),
    default="all",
    show_default=True,
    help="Every window, or about 54 articles and 1,600 queries as earlier work drew them.",
)
@click.option("--ood", "outside", multiple=True, help="A collection to report beside this one (repeatable).")
@click.option(
    "--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Whose articles."
)
@click.option(
    "--context", "shortest", type=click.IntRange(1, 5), default=5, show_default=True, help="At least so many."
)
@click.option("--limit", type=click.IntRange(1), help="Only so many articles, drawn with --seed.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of every draw and of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for JSON, TREC runs and plots.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def next_chunk(
    home: Path,
    name: str | None,
    names: tuple[str, ...],
    baselines: bool,
    rerank: bool | None,
    assist: int | None,
    variety: float | None,
    ablate: bool,
    rules: bool,
    banks: tuple[str, ...],
    protocol: str,
    outside: tuple[str, ...],
    split: str,
    shortest: int,
    limit: int | None,
    seed: int,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask for the chunk that follows every five of the held-out articles, and count where the true one came.

    Each bank is asked twice: with the query's own context in it (seen), as published figures have it, and without
    (new), which is what a reader wants. Every model is compared with the best baseline by the same measure.

    A model that has a reranker gets a row with it. With --ablate its parts are judged one by one (bank heldout),
    several models are held against the first one named, and the rule "the chunk after the last one" is told apart.

    The report and its plots are kept beside the collection's models, in evaluations/next, until the next one.

    \b
    Examples:
      lookahead evaluate next --collection wiki --model amn --model gru --baselines
      lookahead evaluate next -c wiki --bank heldout --bank full --out out/next
      lookahead evaluate next -c wiki --protocol published --ood sample
      lookahead evaluate next -c wiki --model towers --rerank --ablate
    """
    import contextlib
    from dataclasses import replace
    from functools import partial

    from retrieval.baselines import BASELINES, Fitted, fitted
    from retrieval.candidates import ASSIST
    from retrieval.cards import write_metrics
    from retrieval.evaluate_next import ORACLE, RANDOM, Bank, at_most, drawn, judge, published
    from retrieval.evaluate_pipeline import InOrder, ablation_of, models_apart, ranker_of
    from retrieval.models import ModelConfig, fitting_models, refuse_names, trained_on
    from retrieval.next_report import Apart, NextReport
    from retrieval.outside import QUERIES, outside_articles
    from retrieval.pipeline import Pipeline
    from retrieval.rerankers import rerankers_for
    from retrieval.search import Searcher
    from retrieval.sequences import CONTEXT, Sequences, needed
    from store.records import Split

    quiet = quiet or as_json
    collection = existing_collection(home, name)
    wanted = tuple(Bank(bank) for bank in banks)
    if assist is not None and assist > ASSIST:
        raise LookaheadError(f"--assist is at most {ASSIST}, not {assist}")
    if ablate and rerank is False:
        raise LookaheadError("--ablate takes rerankers apart and --no-rerank leaves them out; take one of the two")
    if ablate and Bank.HELDOUT not in wanted:
        raise LookaheadError("--ablate is judged in the bank heldout; add --bank heldout")

    def asked(called: str, sequences: Sequences, windows: Windows) -> tuple[Sequences, Windows]:
        """What of a collection is judged."""
        if limit is not None and limit < len(sequences.articles):
            sequences = sequences.only(drawn(len(sequences.articles), limit, seed).tolist())
            windows = sequences.windows(shortest)
        if protocol == "published":
            return published(sequences, called, shortest=shortest, seed=seed)
        if not len(windows):
            many = len(sequences.articles)
            raise LookaheadError(
                f"{called}: none of {many:,} articles has {shortest + 1} chunks" + ("; raise --limit" if limit else "")
            )
        return sequences, windows

    def judged(
        searcher: Searcher, sequences: Sequences, windows: Windows, asked: Sequence[Ranker], run_queries: int = 0
    ) -> Outcome:
        return judge(
            sequences,
            windows,
            {**models, **found.predict},
            asked,
            banks=wanted,
            whole=_whole(searcher) if Bank.FULL in wanted else None,
            run_queries=run_queries,
            seed=seed,
            quiet=quiet,
        )

    def report_of(
        outcome: Outcome,
        called: str,
        part: str,
        sequences: Sequences,
        windows: Windows,
        notes: Sequence[str],
        others: Sequence[NextReport] = (),
        apart: Sequence[Apart] = (),
    ) -> NextReport:
        return NextReport.of(
            outcome.judgements,
            [row for name, ranker in rankers.items() for row in dict.fromkeys((name, *ranker.pipelines))],
            collection=called,
            split=part,
            protocol=protocol,
            shortest=shortest,
            articles=len(sequences.articles),
            queries=len(windows),
            notes=notes,
            command=typed(),
            seed=seed,
            outside=others,
            apart=apart,
        )

    with contextlib.ExitStack() as stack:
        searcher = stack.enter_context(Searcher.open(collection))
        of_split = {one: Sequences(searcher.store.articles(one), searcher.vectors) for one in Split}
        held = of_split[Split(split)]
        held, windows = asked(collection.name, held, needed(held, Split(split), collection.name, shortest))
        strangers = []  # found fault with before anything is fitted
        for where in outside:
            other = stack.enter_context(Searcher.open(existing_collection(home, where)))
            articles, note = outside_articles(searcher, collection.name, other, where)
            some = at_most(articles, QUERIES, shortest=shortest, seed=seed)
            strangers.append((other, where, note, *asked(where, *some)))
        there = fitting_models(collection, searcher.fingerprint, names)
        if not there and rerank:
            raise LookaheadError(f"no model is for the encoder of {collection.name}, so there is nothing to rerank")
        if not there:
            click.echo(f"no model is for the encoder of {collection.name}: baselines only", err=True)
        refuse_names(there, {*(BASELINES if baselines else ()), RANDOM, ORACLE})
        pipelines = {model.name: Pipeline.open(model, rerankers_for(collection), rerank=rerank) for model in there}
        able = [name for name, pipeline in pipelines.items() if pipeline.reranker is not None]
        if ablate and not able and len(there) < 2:
            raise LookaheadError(
                "--ablate needs a model with a reranker, or several models; "
                f"run: lookahead train reranker --over {there[0].name if there else 'MODEL'}"
            )
        # a model without a P tower is judged by its predictions alone, which has a cosine's contrast and gap as well
        models = {name: pipeline.predict for name, pipeline in pipelines.items() if pipeline.tower is None}
        rankers = {
            name: ranker_of(name, pipeline, assist=assist or 0, variety=variety, ablate=ablate)
            for name, pipeline in pipelines.items()
        }
        apart = [ablation_of(name, rankers[name]) for name in able] if ablate else []
        apart += models_apart(list(pipelines), able) if ablate else []
        asked_of: list[Ranker] = [ranker for ranker in rankers.values() if ranker.pipelines or ranker.apart]
        if rules or ablate:
            rule = InOrder()
            asked_of.append(rule)
            apart.append(Apart("a rule that sees positions, apart from all that see vectors alone", (rule.name,)))
        found = Fitted({}, ())
        if baselines:
            choosing = of_split[Split.VALID] if split != "valid" else None
            found = fitted(of_split[Split.TRAIN], choosing, seed=seed, shortest=shortest, quiet=quiet)
        outcome = judged(searcher, held, windows, asked_of, _RUN_QUERIES if out is not None else 0)
        whole = [replace(ranker, apart={}) for ranker in rankers.values() if ranker.pipelines]
        others = [
            report_of(judged(other, articles, their_windows, whole), where, "every", articles, their_windows, note)
            for other, where, note, articles, their_windows in strangers
        ]
    computed = sorted({pipeline.predictor.precision for pipeline in pipelines.values()})
    notes = [*found.said, *(f"models were computed in {one} by OpenVINO" for one in computed)]
    notes += [
        f"{name}'s reranker orders the best {choice.depth} by prediction · passage"
        + (f" + {choice.blend:g} × decayed mean · chunk" if choice.blend else "")
        for name, choice in ((name, pipelines[name].choice) for name in able)
    ]
    if assist is not None or (ablate and able):
        notes.append(
            "a row with assist knows which article the context is from, and has its chunks among its candidates"
        )
    foreign = [f"{model.name} ({trained_on(model)})" for model in there if trained_on(model) != collection.name]
    if foreign:
        notes.append(f"trained on another collection, of which articles may be among these: {', '.join(foreign)}")
    report = report_of(outcome, collection.name, split, held, windows, notes, others, apart)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    keep_report(collection, "next", partial(_write, report, outcome, seed), out)
    if out is not None:
        _write_runs(outcome, out)
        click.echo(f"report.json, report.md, TREC runs, recall.png and ranks.png are in {out.absolute()}", err=True)
    everything = limit is None and rerank is not False
    if baselines and protocol == "all" and split == "test" and everything and shortest == CONTEXT:
        for model in there:
            # a model that was trained again meanwhile is another one
            if not model.shipped and ModelConfig.read(model.folder) == model.config:
                write_metrics(model.folder, model.name, model.config, report)


@click.command("data")
@collection_option
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of every draw and of the bootstrap.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def data(home: Path, name: str | None, seed: int, quiet: bool, as_json: bool) -> None:
    """Check what predictors learn from and are judged on; fails (exit code 2) when a check does.

    \b
    Examples:
      lookahead evaluate data --collection wiki
      lookahead evaluate data -c wiki --json | jq .checks
    """
    from retrieval.data_checks import check_data
    from retrieval.search import Searcher
    from retrieval.sequences import Sequences
    from store.records import Split

    collection = existing_collection(home, name)
    with Searcher.open(collection) as searcher:
        store = searcher.store
        report = check_data(
            collection.name,
            {split: Sequences(store.articles(split), searcher.vectors) for split in Split},
            *store.pages_and_keys(),
            lambda first, stop: [text for _, _, text in store.texts(first, stop)],
            seed=seed,
            quiet=quiet or as_json,
        )
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())
    if report.failed:
        failed = "; ".join(f"{check.name} ({check.catches})" for check in report.failed)
        raise LookaheadError(
            f"{len(report.failed)} of {len(report.checks)} checks of {collection.name} failed: {failed}"
        )


def _whole(searcher: Searcher) -> Whole:
    import numpy as np

    from retrieval.evaluate_next import Whole

    rows = searcher.generation.manifest.counts["chunks"]
    return Whole(searcher.vectors, np.arange(rows) if searcher.alive is None else searcher.alive.ids)


def _write(report: NextReport, outcome: Outcome, seed: int, out: Path) -> list[str]:
    import numpy as np

    from retrieval.baselines import LEAST_SQUARES, MEAN_VECTOR
    from retrieval.evaluate_next import ORACLE, View
    from retrieval.metrics import Ranks
    from retrieval.plots import plot_rank_histogram, plot_recall_curves
    from store.generations import write_atomically

    write_atomically(out / "report.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False).encode())
    write_atomically(out / "report.md", report.markdown().encode())
    judgement = next(one for one in outcome.judgements if one.view is View.NEW)
    shown = [row.name for row in next(table.rows for table in report.tables if table.view is View.NEW)]
    rows: dict[str, Ranks] = {
        name: [int(rank) if np.isfinite(rank) else None for rank in judgement.rows[name].ranks]
        for name in shown
        if name not in (ORACLE, MEAN_VECTOR, LEAST_SQUARES)  # at the edge of the picture, and as decayed mean
    }
    title = f"the next chunk of {report.collection}, bank {judgement.bank}, {judgement.view}"
    plot_recall_curves(rows, out / "recall.png", title, judgement.article.tolist(), seed=seed)
    plot_rank_histogram(rows, out / "ranks.png", title)
    return ["report.json", "report.md", "recall.png", "ranks.png"]


def _write_runs(outcome: Outcome, out: Path) -> None:
    from retrieval.runs import write_run
    from store.generations import write_atomically

    for name, run in outcome.runs.items():
        spaceless = name.replace(" ", "-")
        write_run(out / f"{spaceless}.run", run, f"lookahead-{spaceless}")
    asked = next(iter(outcome.runs.values()), {})
    write_atomically(out / "qrels.txt", "".join(f"{query} 0 {query} 1\n" for query in asked).encode())
