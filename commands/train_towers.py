"""`lookahead train towers`: a Q tower over the context and a P tower over candidates, and how a training is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, print_json, typed
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.train_predictor import Trained

LEARNED = "learned"


class _Temperature(click.ParamType[str | float]):
    """A number above 0, or "learned"."""

    name = "number|learned"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        if value == LEARNED:
            return LEARNED
        number: float = click.FloatRange(0, min_open=True).convert(value, param, ctx)
        return number


@click.command("towers")
@collection_option
@click.option("--name", "as_name", default="towers", show_default=True, help="Under which name it is kept.")
@click.option("--backbone", default="residual", show_default=True, help="The Q tower: any predictor.")
@click.option(
    "--tower",
    type=click.Choice(["identity", "reference", "none"]),
    default="identity",
    show_default=True,
    help="The P tower: a residual that starts at the identity, the published one, or none.",
)
@click.option("--temperature", type=_Temperature(), help='Of InfoNCE, or "learned".  [default: 0.04]')
@click.option("--symmetric", type=click.FloatRange(0), help="Weight of finding a chunk's window.  [default: 0]")
@click.option("--negatives", type=click.IntRange(0, 50), help="Chunks of its own article a window.  [default: 0]")
@click.option("--near-miss", "near_misses", type=click.IntRange(0, 50), help="Mined negatives a window.  [default: 0]")
@click.option(
    "--hard-from",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the steps before either of them takes part.  [default: 0.25]",
)
@click.option("--memory", type=click.IntRange(0), help="Passages of earlier batches as negatives.  [default: 0]")
@click.option(
    "--length-correction",
    type=click.FloatRange(0, 1),
    help="0: windows weigh the same, 1: articles do.  [default: 0]",
)
@click.option("--no-neighbours", is_flag=True, help="The chunk after the next one is no negative.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the training windows.")
@click.option("--windows", type=click.IntRange(1), help="Use about so many training windows, as whole articles.")
@click.option("--batch", type=click.IntRange(2), help="Windows in a batch.")
@click.option("--run", type=click.IntRange(1), help="Windows of one article in a batch, at most.  [default: 256]")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option("--decay", type=click.FloatRange(0), help="Weight decay of matrices.")
@click.option("--ema", type=click.FloatRange(0, 0.9999), help="Averaging of weights: .99 is over some 100 steps.")
@click.option("--patience", type=click.IntRange(0), help="Validations no better before it stops; 0: never.")
@click.option("--checks", type=click.IntRange(1), help="Validations of a whole training.")
@click.option("--half", is_flag=True, help="Store weights in half precision.")
@click.option("--precision", type=click.Choice(["auto", "f32", "bf16"]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, batches, negatives and dropout.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on from a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def towers(
    home: Path,
    name: str | None,
    as_name: str,
    backbone: str,
    tower: str,
    temperature: str | float | None,
    symmetric: float | None,
    negatives: int | None,
    near_misses: int | None,
    hard_from: float | None,
    memory: int | None,
    length_correction: float | None,
    no_neighbours: bool,
    epochs: float | None,
    windows: int | None,
    batch: int | None,
    run: int | None,
    rate: float | None,
    decay: float | None,
    ema: float | None,
    patience: int | None,
    checks: int | None,
    half: bool,
    precision: str,
    device: str,
    seed: int,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train two towers: one over the context, one over the chunks that may come next.

    The Q tower foretells from five chunks what comes next, the P tower brings every chunk of the collection into the
    space where the two are compared. A window's negatives are all other chunks of its batch; harder ones can be added.
    A run that was stopped or killed goes on when the same command is given again; `heartbeat.json` in the folder it is
    made in (models/.making-NAME) says how far it is.

    \b
    Examples:
      lookahead train towers --collection wiki
      lookahead train towers -c wiki --name k3 --negatives 3 --near-miss 1 --hard-from 0.3
      lookahead train towers -c wiki --name published --backbone mamba --tower reference --temperature learned
    """
    from retrieval.predictors import KINDS

    if backbone not in KINDS:
        raise LookaheadError(f"there is no predictor {backbone!r}; there are: {', '.join(KINDS)}")
    collection = existing_collection(home, name)

    hush_at_exit()
    from index.progress import say
    from retrieval.models import check_name, models_folder
    from retrieval.recipes import towers_recipe_for
    from retrieval.search import Searcher
    from retrieval.train_predictor import device_for, precision_for
    from retrieval.train_towers import train_towers
    from store.staging import making

    where = device_for(device)
    changes = {
        "temperature": None if temperature == LEARNED else temperature,
        "learned": temperature == LEARNED,
        "symmetric": symmetric,
        "negatives": negatives,
        "near_misses": near_misses,
        "hard_from": hard_from,
        "memory": memory,
        "length_correction": length_correction,
        "neighbours": not no_neighbours,
        "epochs": epochs,
        "windows": batch,
        "run": run,
        "rate": rate,
        "decay": decay,
        "ema": ema,
        "patience": patience,
        "checks": checks,
        "seed": seed,
        "precision": None if precision == "auto" else precision,
    }
    recipe = towers_recipe_for(backbone, changes, native=precision_for(where))
    models = models_folder(collection)
    check_name(as_name)
    with Searcher.open(collection) as searcher, making(models, as_name, restart=restart) as folder:
        trained = train_towers(
            searcher,
            folder,
            backbone,
            name=as_name,
            recipe=recipe,
            tower=None if tower == "none" else tower,
            limit=windows,
            device=where,
            half=half,
            command=typed(),
            quiet=quiet or as_json,
            note=lambda sentence: say(sentence, quiet=quiet or as_json),
        )
    following = f"lookahead train reranker --over {as_name} -c {collection.name}"
    print_trained(trained, as_name, models / as_name, following, as_json=as_json)


def print_trained(trained: Trained, name: str, folder: Path, following: str, *, as_json: bool) -> None:
    """What a training gave beside copying the last chunk, what it took, and the command that comes next."""
    best = trained.outcome.best
    if as_json:
        print_json(
            {
                "model": name,
                "folder": str(folder.absolute()),
                "parameters": trained.config.parameters,
                "valid": best,
                "copy_last": trained.copy_last,
                "best_step": trained.outcome.best_step,
                "steps": trained.outcome.steps,
                "ended": trained.outcome.ended,
                "seconds": trained.seconds,
                "peak_bytes": trained.peak_bytes,
            }
        )
        return
    for label, figures in ((name, best), ("copy-last", trained.copy_last)):
        shown = "  ".join(f"{key} {figures[key]:.3f}" for key in ("R@1", "R@5", "R@20", "MRR", "cosine"))
        click.echo(f"{label:<20} {shown}")
    click.echo(
        f"on {trained.config.trained['data']['valid_windows']:,} validation windows; best at step "
        f"{trained.outcome.best_step:,} of {trained.outcome.steps:,} ({trained.outcome.ended}); "
        f"{trained.seconds:.0f} s, {trained.peak_bytes / 1e9:.2f} GB at most"
    )
    if "kept" in best:
        click.echo(f"a passage keeps a cosine of {best['kept']:.3f} to its chunk")
    click.echo(f"kept in {folder.absolute()}\nnext: {following}")
