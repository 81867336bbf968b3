"""`lookahead train reranker`: an order of candidates learned from the lists that a model makes of training articles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, print_json, typed


@click.command("reranker")
@collection_option
@click.option("--over", metavar="MODEL", help="Whose candidates it orders.  [default: the best model there is]")
@click.option("--kind", type=click.Choice(["list", "mlp"]), help="Candidates look at each other, or each by itself.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the lists.")
@click.option("--windows", type=click.IntRange(1), help="Make lists of about so many windows, as whole articles.")
@click.option("--batch", type=click.IntRange(2), help="Lists in a batch.")
@click.option("--depth", type=click.IntRange(10, 1000), help="Candidates in a list.")
@click.option("--blend", type=click.FloatRange(0), help="Weight of the decayed mean in choosing candidates.")
@click.option("--seen", type=click.FloatRange(0, 1), help="Share of lists that hold the query's own context.")
@click.option("--short", type=click.FloatRange(0, 1), help="Share of windows with a context of random length.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option("--decay", type=click.FloatRange(0), help="Weight decay of matrices.")
@click.option("--checks", type=click.IntRange(1), help="Validations of a whole training.")
@click.option("--patience", type=click.IntRange(0), help="Validations no better before it stops; 0: never.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, lists and dropout.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on from a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def reranker(
    home: Path,
    name: str | None,
    over: str | None,
    kind: str | None,
    epochs: float | None,
    windows: int | None,
    batch: int | None,
    depth: int | None,
    blend: float | None,
    seen: float | None,
    short: float | None,
    rate: float | None,
    decay: float | None,
    checks: int | None,
    patience: int | None,
    device: str,
    seed: int,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a reranker over a model: which of its candidates is the next chunk?

    It is told cosines and what is made of them, nothing of texts, places or articles; it learns from the candidates
    that the model finds for windows of training articles, and belongs to that very model: train it anew when the model
    is. A run that was stopped or killed goes on when the same command is given again.

    \b
    Examples:
      lookahead train reranker --collection wiki
      lookahead train reranker -c wiki --over amn --windows 50000
    """
    collection = existing_collection(home, name)

    hush_at_exit()
    from dataclasses import replace

    from index.progress import say
    from retrieval.models import find_model, models_folder
    from retrieval.pipeline import Pipeline
    from retrieval.rerankers import FOLDER
    from retrieval.search import Searcher
    from retrieval.train_predictor import device_for
    from retrieval.train_reranker import RerankRecipe, train_reranker
    from store.staging import making

    changes: dict[str, Any] = {
        "kind": kind,
        "epochs": epochs,
        "batch": batch,
        "depth": depth,
        "blend": blend,
        "seen": seen,
        "short": short,
        "rate": rate,
        "decay": decay,
        "checks": checks,
        "patience": patience,
        "seed": seed,
    }
    recipe = replace(RerankRecipe(), **{key: value for key, value in changes.items() if value is not None})
    folder = models_folder(collection) / FOLDER
    with Searcher.open(collection) as searcher:
        model = find_model(collection, searcher.fingerprint, over)
        pipeline = Pipeline.open(model, (), rerank=False)
        with making(folder, model.name, restart=restart) as place:
            trained = train_reranker(
                searcher,
                place,
                model,
                pipeline,
                recipe=recipe,
                limit=windows,
                device=device_for(device),
                command=typed(),
                quiet=quiet or as_json,
                note=lambda sentence: say(sentence, quiet=quiet or as_json),
            )
    config, best = trained.config, trained.outcome.best
    if as_json:
        print_json(
            {
                "over": model.name,
                "folder": str((folder / model.name).absolute()),
                "parameters": config.parameters,
                "lists": config.trained["lists"],
                "in_list": config.trained["in_list"],
                "valid": best,
                "first": trained.first,
                "best_step": trained.outcome.best_step,
                "steps": trained.outcome.steps,
                "ended": trained.outcome.ended,
                "seconds": trained.seconds,
                "peak_bytes": trained.peak_bytes,
            }
        )
        return
    for label, figures in (("reranked", best), ("prediction alone", trained.first)):
        shown = "  ".join(f"{key} {figures[key]:.3f}" for key in ("R@1", "R@5", "R@20", "MRR", "seen R@5", "seen MRR"))
        click.echo(f"{label:<17} {shown}")
    click.echo(
        f"on {config.trained['valid_windows']:,} validation windows; {100 * config.trained['in_list']:.1f} % of "
        f"{config.trained['lists']:,} lists hold the next chunk; best at step {trained.outcome.best_step:,} of "
        f"{trained.outcome.steps:,} ({trained.outcome.ended}); {trained.seconds:.0f} s, "
        f"{trained.peak_bytes / 1e9:.2f} GB at most"
    )
    click.echo(
        f"kept in {(folder / model.name).absolute()}\nnext: lookahead evaluate next --collection {collection.name} "
        f"--model {model.name} --rerank"
    )
