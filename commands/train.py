"""`lookahead train`: models of a collection's own, from its training articles."""

from __future__ import annotations

from pathlib import Path

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, typed
from commands.train_inverter import inverter
from commands.train_reranker import reranker
from commands.train_towers import print_trained, towers
from store.records import LookaheadError


@click.group()
def train() -> None:
    """Train a model on a collection."""


@train.command("predictor")
@click.argument("kind", metavar="MODEL")
@collection_option
@click.option("--name", "as_name", help="Under which name it is kept.  [default: MODEL]")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the training windows.")
@click.option("--windows", type=click.IntRange(1), help="Use about so many training windows, as whole articles.")
@click.option("--batch", type=click.IntRange(2), help="Windows in a batch.")
@click.option("--run", type=click.IntRange(1), help="Windows of one article in a batch, at most.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option("--decay", type=click.FloatRange(0), help="Weight decay of matrices.")
@click.option("--contrast", type=click.FloatRange(0), help="Weight of InfoNCE: find the target among the bank.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Of InfoNCE.")
@click.option("--smoothing", type=click.FloatRange(0, 0.9), help="Share of near-duplicates in InfoNCE's target.")
@click.option("--cosine", type=click.FloatRange(0), help="Weight of 1 − cosine.")
@click.option("--mse", type=click.FloatRange(0), help="Weight of the squared distance, on the scale of cosine.")
@click.option("--short", type=click.FloatRange(0, 1), help="Share of windows with a context of random length.")
@click.option("--ema", type=click.FloatRange(0, 0.9999), help="Averaging of weights: .99 is over some 100 steps.")
@click.option("--patience", type=click.IntRange(0), help="Validations no better before it stops; 0: never.")
@click.option("--watch", type=click.Choice(["MRR", "cosine"]), help="What better means.  [default: MRR]")
@click.option("--checks", type=click.IntRange(1), help="Validations of a whole training.")
@click.option(
    "--anchored/--plain",
    default=True,
    show_default=True,
    help="Start at a learned mixture of the context, or as published.",
)
@click.option("--from", "start", metavar="NAME", help="Begin with the weights of this model of the collection.")
@click.option("--half", is_flag=True, help="Store weights in half precision.")
@click.option("--precision", type=click.Choice(["auto", "f32", "bf16"]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, batches and dropout.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on from a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def predictor(
    home: Path,
    kind: str,
    name: str | None,
    as_name: str | None,
    epochs: float | None,
    windows: int | None,
    batch: int | None,
    run: int | None,
    rate: float | None,
    decay: float | None,
    contrast: float | None,
    temperature: float | None,
    smoothing: float | None,
    cosine: float | None,
    mse: float | None,
    short: float | None,
    ema: float | None,
    patience: int | None,
    checks: int | None,
    watch: str | None,
    anchored: bool,
    start: str | None,
    half: bool,
    precision: str,
    device: str,
    seed: int,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a next-vector predictor: what comes after five chunks of an article?

    MODEL is amn, gru, lstm, lstm-1024, mlp, transformer, transformer-encoder, mamba (as published) or residual (ours).
    It is trained on the collection's training articles, watched on its validation articles, and kept beside the
    collection. A run that was stopped or killed goes on when the same command is given again.

    \b
    Examples:
      lookahead train predictor amn --collection wiki
      lookahead train predictor gru -c wiki --epochs 2 --windows 100000
      lookahead train predictor mlp -c wiki --name mlp-cosine --contrast 0 --cosine 1 --watch cosine
    """
    from retrieval.predictors import KINDS

    if kind not in KINDS:
        raise LookaheadError(f"there is no predictor {kind!r}; there are: {', '.join(KINDS)}")
    collection = existing_collection(home, name)

    hush_at_exit()
    from index.progress import say
    from retrieval.models import check_name, models_folder
    from retrieval.recipes import recipe_for
    from retrieval.search import Searcher
    from retrieval.train_predictor import device_for, precision_for, train_predictor
    from store.staging import making

    where = device_for(device)
    changes = {
        "epochs": epochs,
        "windows": batch,
        "run": run,
        "rate": rate,
        "decay": decay,
        "contrast": contrast,
        "temperature": temperature,
        "smoothing": smoothing,
        "cosine": cosine,
        "mse": mse,
        "short": short,
        "ema": ema,
        "patience": patience,
        "checks": checks,
        "watch": watch,
        "seed": seed,
        "precision": None if precision == "auto" else precision,
    }
    recipe = recipe_for(kind, changes, native=precision_for(where))
    models = models_folder(collection)
    as_name = check_name(as_name or kind)
    with Searcher.open(collection) as searcher, making(models, as_name, restart=restart) as folder:
        trained = train_predictor(
            searcher,
            folder,
            kind,
            name=as_name,
            recipe=recipe,
            anchored=anchored,
            limit=windows,
            start=None if start is None else models / check_name(start),
            device=where,
            half=half,
            command=typed(),
            quiet=quiet or as_json,
            note=lambda sentence: say(sentence, quiet=quiet or as_json),
        )
    following = f"lookahead evaluate next --collection {collection.name} --model {as_name} --baselines"
    print_trained(trained, as_name, models / as_name, following, as_json=as_json)


train.add_command(inverter)
train.add_command(reranker)
train.add_command(towers)
