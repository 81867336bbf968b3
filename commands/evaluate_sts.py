"""`lookahead evaluate sts`: whether encoders know which sentences mean the same, by language, and how fast they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from commands.common import SEED, existing_collection, hush_at_exit, json_option, keep_report, print_json, typed
from store.generations import Collection
from store.records import LookaheadError


@click.command("sts")
@click.option(
    "--model",
    "-m",
    "models",
    metavar="MODEL",
    multiple=True,
    default=("bundled",),
    show_default=True,
    help="An "
    "encoder: bundled, hashing, the name of one distilled here or that came with the program, a folder, or a "
    "sentence-transformers name. Give it several times; every model is held against the last one.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder with STS files at any depth, or one file.  [default: $LOOKAHEAD_DATA/sts]",
)
@click.option(
    "--set",
    "wanted",
    metavar="NAME",
    multiple=True,
    help="Only this set or family (stsbenchmark-test, sts17, "
    "sts17-en-en). Give it several times.  [default: all but training splits]",
)
@click.option(
    "--mteb",
    "tasks",
    metavar="TASK",
    multiple=True,
    help="An STS task of the mteb package as well (STS22.v2), from the Hugging Face hub. Give it several times.",
)
@click.option("--collection", "-c", "name", help="Measure speed on this collection's texts instead of the sets'.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the bootstrap and of what is drawn.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for sts.json, sts.md, sts.png.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def sts(
    home: Path,
    models: tuple[str, ...],
    data: Path | None,
    wanted: tuple[str, ...],
    tasks: tuple[str, ...],
    name: str | None,
    seed: int,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Hold the cosines of sentence pairs against people's scores: Spearman and Pearson with 95 % intervals.

    Every model is judged on each set, in words too: against the last --model on the same pairs, against the plain
    share of words in both sentences, and against chance. Sets of two languages are marked; an English model is low on
    them by nature.

    Speed is measured on 80-word texts in the same run, all models in turn, so that their ratio can be trusted on a
    machine that does other things too.

    With --mteb the pairs come from the hub, and mteb's own evaluator is asked as well (pip install 'lookahead[mteb]').
    With --json the report is one JSON document. With --collection it is kept beside that collection's models, in
    evaluations/sts, until the next one.

    \b
    Examples:
      lookahead evaluate sts --model fast --model bundled --data ../shared/data/sts
      lookahead evaluate sts --model fast --model bundled --data ../shared/data/sts --out out/sts
      lookahead evaluate sts --data ../shared/data/sts/stsbenchmark/sts-test.csv
      lookahead evaluate sts --model fast --model bundled --data ../shared/data/sts --set sts17 --json | jq .summaries
      lookahead evaluate sts --model bundled --mteb STS22.v2
    """
    import contextlib
    from functools import partial

    from index.progress import say
    from index.students import Status, find_encoder, opened, read_student
    from retrieval.evaluate_sts import (
        ORACLE,
        RANDOM,
        SPEED_TEXTS,
        SPEED_WORDS,
        WORDS,
        Recalled,
        encode,
        judge,
        speed_texts,
        speeds,
    )
    from retrieval.plots import plot_quality_speed
    from retrieval.sts import chosen_sets, read_sts
    from retrieval.sts_report import StsReport
    from store.generations import write_atomically

    quiet = quiet or as_json
    hush_at_exit()
    if len(set(models)) < len(models):
        raise LookaheadError("a --model is named twice; its rows could not be told apart")
    if taken := {WORDS, ORACLE, RANDOM} & set(models):
        raise LookaheadError(f"{taken.pop()!r} is the name of a row; give the --model as a path, such as ./NAME")
    surroundings = os.environ.get("LOOKAHEAD_DATA")
    if data is None and surroundings and not tasks:
        data = Path(surroundings, "sts")
    if data is None and not tasks:
        raise LookaheadError("nothing to judge on; name a folder with STS files by --data, or set LOOKAHEAD_DATA")
    if data is None and wanted:
        raise LookaheadError("--set chooses among the files of --data; name a folder or file by --data")
    sets = [] if data is None else chosen_sets(read_sts(data), wanted)
    collection = None if name is None else existing_collection(home, name)
    from_hub = []
    if tasks:
        from retrieval.sts_hub import find_tasks, load, mteb_says

        from_hub = [load(task) for task in find_tasks(tasks)]
        sets += [one for task in from_hub for one in task.sets]

    specs = {model: find_encoder(model, home) for model in models}
    notes = []
    for model, spec in specs.items():
        student = read_student(Path(spec)) if Path(spec).is_dir() else None
        if student is not None and student.status is Status.FAILED:
            notes.append(f"{model} is a student that failed: {'; '.join(student.reasons)}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    note = partial(say, quiet=quiet)
    with contextlib.ExitStack() as stack:
        encoders = {model: stack.enter_context(opened(spec, note=note)) for model, spec in specs.items()}
        encoded = {model: encode(encoder, sets, quiet=quiet) for model, encoder in encoders.items()}
        if collection is None:
            texts, of = [text for one in sets for text in one.sentences], "sentences of the sets strung together"
        else:
            texts, of = _texts_in(collection, SPEED_TEXTS, seed), f"of collection {collection.name}"
        rates = speeds(encoders, speed_texts(texts), quiet=quiet)
        official = {
            (model, key): figures
            for task in from_hub
            for model, encoder in encoders.items()
            for key, figures in mteb_says(task, Recalled(encoder, encoded[model])).items()
        }
    judged = [(one, judge(one, encoded, seed=seed)) for one in sets]
    report = StsReport.of(
        judged,
        models,
        rates=rates,
        sentence_rates={model: len(one.place) / one.seconds for model, one in encoded.items()},
        texts=f"texts of {SPEED_WORDS} words, {of}",
        data=" and ".join([*([str(data)] if data else []), *(["mteb"] if tasks else [])]),
        notes=notes,
        command=typed(),
        seed=seed,
        hub=official,
    )
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())

    def write(folder: Path) -> list[str]:
        raw = json.dumps(report.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / "sts.json", raw.encode())
        write_atomically(folder / "sts.md", report.markdown().encode())
        if not report.points():
            return ["sts.json", "sts.md"]
        plot_quality_speed(
            report.points(),
            folder / "sts.png",
            f"{report.chosen().key}: quality against speed",
            speed=f"texts of {SPEED_WORDS} words a second, on this machine",
            quality="Spearman",
        )
        return ["sts.json", "sts.md", "sts.png"]

    written = keep_report(collection, "sts", write, out)
    if out is not None:
        click.echo(f"{', '.join(written)} are in {out.absolute()}", err=True)


def _texts_in(collection: Collection, count: int, seed: int) -> list[str]:
    """Texts of chunks of a collection, drawn: as many as surely fill `count` texts for the speed."""
    import numpy as np

    from retrieval.search import Searcher

    with Searcher.open(collection) as searcher:
        rows = int(searcher.generation.manifest.counts["chunks"])
        alive = np.setdiff1d(np.arange(rows), searcher.store.dead_ids())
        drawn = np.random.default_rng(seed).permutation(alive)[: 4 * count]
        return [found.chunk.text for found in searcher.store.chunks(drawn.tolist())]
