"""`lookahead sweep`: many shapes of a model side by side, which of them earn their cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, print_json, typed
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.sweep import Asked, Config, Done, SweepTask
    from retrieval.sweep_report import SweepReport

BUDGET = "5m"

grid_option = click.option(
    "--grid", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file of configurations (see sweep --help)."
)
budget_option = click.option(
    "--budget", help=f'For one configuration: 90s, 30m, 2h, or "5000 steps".  [default: {BUDGET}]'
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(1), help="Of every configuration; on a front they get two at least.  [default: 1]"
)
halving_option = click.option(
    "--halving",
    type=click.IntRange(2),
    metavar="N",
    help="All for budget / N², the best N-th of them for budget / N, the best N-th of those for all of it.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Trainings at a time.  [default: as cores and memory allow]"
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: sweeps/ in the home]"
)
sort_option = click.option("--sort", metavar="FIGURE", help="What the table is sorted by.  [default: the first column]")
seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Of the bootstrap.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")


@click.group()
def sweep() -> None:
    """Train many shapes of a model and see which earn their cost.

    Every configuration is trained for the same budget, a few at a time. What is finished is kept: a sweep that was
    stopped or killed goes on when the same command is given again, trainings that had begun from their checkpoints.
    Configurations on a front (nothing is both better and cheaper) are trained with a second seed.

    \b
    A grid is a TOML file; keys in it are the task's:
      [sweep]            # or at the command line
      budget = "10m"
      [base]             # of every configuration
      loss = "contrast"
      [grid]             # every combination
      width = [128, 256]
      depth = [1, 2]
      [[config]]         # and these
      name = "wide"
      width = 1024

    \b
    Examples:
      lookahead sweep characters --collection wiki --preset published --budget 2m
      lookahead sweep predictors --collection wiki --grid sweep.toml --halving 3 --workers 2
    """


@sweep.command("predictors")
@collection_option
@grid_option
@click.option("--windows", type=click.IntRange(1), help="Use about so many training windows, as whole articles.")
@budget_option
@seeds_option
@halving_option
@workers_option
@out_option
@sort_option
@seed_option
@quiet_option
@json_option
@click.pass_obj
def predictors(
    home: Path,
    name: str | None,
    grid: Path | None,
    windows: int | None,
    budget: str | None,
    seeds: int | None,
    halving: int | None,
    workers: int | None,
    out: Path | None,
    sort: str | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Sweep next-chunk predictors over a collection's windows.

    R@1 and R@3 are those of the true next chunk among the chunks of its own article, the context taken out, beside
    copying the last chunk. Keys: kind (mlp, lstm, gru, transformer-encoder, residual, or amn, lstm-1024, transformer,
    mamba as published), depth, width, heads, context (1 to 5 chunks), anchored, norm, loss (contrast, cosine, both),
    temperature, rate, decay, batch, run, warm_up, checks. One that is left out is as published.

    \b
    Examples:
      lookahead sweep predictors --collection wiki --grid sweep.toml --budget 2m
      lookahead sweep predictors -c wiki --grid sweep.toml --budget "500 steps" --windows 20000 --json
    """
    if grid is None:
        raise LookaheadError("give the configurations with --grid FILE; an example is in: lookahead sweep --help")
    collection = existing_collection(home, name)

    hush_at_exit()
    from retrieval.sweep_predictors import PredictorsTask

    asked = _asked(grid, (), budget, seeds, halving)
    task = PredictorsTask.of(home, collection.name, limit=windows)
    _swept(home, task, asked, workers, out, sort, seed, quiet, as_json)


@sweep.command("characters")
@collection_option
@click.option("--languages", help="Comma-separated; of --text, or the collection's own.  [default: all there are]")
@click.option(
    "--text", "texts", metavar="LANGUAGE=PATH", multiple=True, help="Text of a language: a file or folder (repeatable)."
)
@grid_option
@click.option("--preset", help="Configurations by name: published.")
@budget_option
@seeds_option
@halving_option
@workers_option
@out_option
@sort_option
@seed_option
@quiet_option
@json_option
@click.pass_obj
def characters(
    home: Path,
    name: str | None,
    languages: str | None,
    texts: tuple[str, ...],
    grid: Path | None,
    preset: str | None,
    budget: str | None,
    seeds: int | None,
    halving: int | None,
    workers: int | None,
    out: Path | None,
    sort: str | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Sweep transformers that predict the next character, over 78 symbols.

    Top-1 and Top-3 of every language and of all together, on articles (or blocks of files) that were not trained on.
    Keys: width, depth, heads, ff, dropout, norm (post, pre), warm_up, rate, decay, batch, length, checks, precision
    (f32, bf16). The vocabulary is kept beside the report.

    \b
    Examples:
      lookahead sweep characters --collection wiki --preset published --budget 2m
      lookahead sweep characters -c wiki --text es=quijote.txt --preset published --budget "2000 steps"
      lookahead sweep characters --text en=english/ --text es=spanish/ --grid sweep.toml
    """
    if (grid is None) == (preset is None):
        raise LookaheadError("give the configurations with one of --preset published and --grid FILE")
    collection = None if texts and name is None else existing_collection(home, name)

    hush_at_exit()
    from retrieval.characters.presets import preset as preset_named
    from retrieval.characters.task import CharactersTask
    from retrieval.characters.texts import corpus_of

    asked = _asked(grid, () if preset is None else preset_named(preset), budget, seeds, halving)
    wanted = None if languages is None else [one.strip() for one in languages.split(",") if one.strip()]
    corpus = corpus_of(collection, _paths(texts), wanted)
    folder = _swept(home, CharactersTask(corpus), asked, workers, out, sort, seed, quiet, as_json)
    corpus.vocabulary.save(folder / "vocabulary.json")


def _paths(texts: Sequence[str]) -> dict[str, Path]:
    """Language → file or folder."""
    paths: dict[str, Path] = {}
    for text in texts:
        language, equals, path = text.partition("=")
        if not (language and equals and path):
            raise LookaheadError(f"--text {text}: expected LANGUAGE=PATH, such as es=quijote.txt")
        if language in paths:
            raise LookaheadError(f"--text names {language} twice; put its files into one folder")
        paths[language] = Path(path)
    return paths


def _asked(
    grid: Path | None, configs: Sequence[Config], budget: str | None, seeds: int | None, halving: int | None
) -> Asked:
    """The command line goes before the file."""
    from retrieval.sweep import Asked
    from retrieval.sweep_grid import Grid, budget_of, read_grid

    given = Grid(tuple(configs)) if grid is None else read_grid(grid)
    allowed = budget_of(budget) if budget is not None else given.budget or budget_of(BUDGET)
    return Asked(given.configs, allowed, seeds or given.seeds or 1, halving or given.halving or 0)


def _swept(
    home: Path,
    task: SweepTask,
    asked: Asked,
    workers: int | None,
    out: Path | None,
    sort: str | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> Path:
    """The folder of the sweep, once it has ended."""
    from index.progress import say
    from retrieval.sweep import folder_for, identity_of, read_references, read_sweep
    from retrieval.sweep import sweep as run
    from retrieval.sweep_report import SweepReport

    quiet = quiet or as_json
    first = task.columns[0]
    figures = [*(column.figure for column in task.columns), "parameters", "seconds"]
    if sort is not None and sort not in figures:
        raise LookaheadError(f"--sort {sort}: expected one of {', '.join(figures)}")
    folder = out if out is not None else folder_for(home, identity_of(task, asked))

    def told(done: Done) -> None:
        part = f", 1/{done.share} of the budget" if done.share > 1 else ""
        named = f"{done.config}, seed {done.seed}{part}"
        if done.result is None:
            say(f"{named} failed: {done.failed}", quiet=quiet)
        else:
            result = done.result
            say(
                f"{named}: {first.heading} {result.figures[first.figure]:.3f}, {result.parameters:,} parameters, "
                f"{result.steps:,} steps in {result.seconds:,.0f} s",
                quiet=quiet,
            )

    say(f"{len(asked.configs):,} configurations; results as they come are in {folder.absolute()}", quiet=quiet)
    dones = run(task, asked, folder, workers=workers, command=typed(), quiet=quiet, told=told)
    report = SweepReport.of(read_sweep(folder), dones, task.columns, task.sampled, read_references(folder), seed=seed)
    _write(report, folder)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table(sort or ""))
    click.echo(f"report.json, report.md, parameters.png and time.png are in {folder.absolute()}", err=True)
    return folder


def _write(report: SweepReport, folder: Path) -> None:
    from retrieval.plots import plot_front
    from store.generations import write_atomically

    write_atomically(folder / "report.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False).encode())
    write_atomically(folder / "report.md", report.markdown().encode())
    first = report.columns[0]
    lines = {name: figures[first.figure] for name, figures in report.references.items() if first.figure in figures}
    for cost, file, axis in (("parameters", "parameters", "parameters"), ("seconds", "time", "seconds of training")):
        points = report.points(cost)
        if points:
            front = [row.name for row in report.front(cost)]
            title = f"{report.task}: {len(points)} configurations, {report.budget} each"
            plot_front(points, front, lines, folder / f"{file}.png", title, cost=axis, quality=first.heading)
