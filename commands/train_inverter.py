"""`lookahead train inverter`: from vectors back to words, learned from the leading spans of training chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, print_json, typed
from store.records import LookaheadError


@click.command("inverter")
@collection_option
@click.option("--name", "as_name", default="inverter", show_default=True, help="Under which name it is kept.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="How long both stages train.  [default: 1]")
@click.option("--steps", type=click.IntRange(2), help="So many steps instead, whatever they take.")
@click.option("--spans", type=click.IntRange(1), help="Use about so many training chunks, as whole articles.")
@click.option("--batch", type=click.IntRange(2), help="Texts in a batch.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option("--words", type=click.IntRange(100), help="Tokens it may write with; rarer words fall apart.")
@click.option("--checks", type=click.IntRange(1), help="Validations of each stage.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, batches and spans.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on from a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def inverter(
    home: Path,
    name: str | None,
    as_name: str,
    hours: float | None,
    steps: int | None,
    spans: int | None,
    batch: int | None,
    rate: float | None,
    words: int | None,
    checks: int | None,
    device: str,
    seed: int,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train an inverter: which words have this vector?

    The beginnings of the collection's training chunks, at most 32 tokens each, are embedded on their own; a small
    network learns to write them from their vectors, and then to better a first text by where its own vector lies. A run
    that was stopped or killed goes on when the same command is given again.

    \b
    Examples:
      lookahead train inverter --collection wiki
      lookahead train inverter -c wiki --hours 3 --name mine
    """
    collection = existing_collection(home, name)

    hush_at_exit()
    from dataclasses import replace

    from index.progress import say
    from retrieval.inverters import inverters_folder
    from retrieval.models import check_name
    from retrieval.open_inverter import is_published
    from retrieval.search import Searcher
    from retrieval.train_inverter import InverterRecipe, train_inverter
    from retrieval.train_predictor import device_for
    from store.staging import making

    given: dict[str, Any] = {
        "hours": hours,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "words": words,
        "checks": checks,
        "seed": seed,
    }
    if is_published(check_name(as_name)):
        raise LookaheadError(f"--name {as_name} is that of vec2text's inverter; take another name")
    recipe = replace(InverterRecipe(), **{key: value for key, value in given.items() if value is not None})
    folder = inverters_folder(collection)
    with Searcher.open(collection) as searcher, making(folder, as_name, restart=restart) as place:
        trained = train_inverter(
            searcher,
            place,
            name=as_name,
            recipe=recipe,
            limit=spans,
            device=device_for(device),
            command=typed(),
            quiet=quiet or as_json,
            note=lambda sentence: say(sentence, quiet=quiet or as_json),
        )
    if as_json:
        print_json(
            {
                "name": as_name,
                "folder": str((folder / as_name).absolute()),
                "parameters": trained.config.parameters,
                "valid": trained.valid,
                "steps": [trained.first.steps, trained.second.steps],
                "seconds": trained.seconds,
                "peak_bytes": trained.peak_bytes,
            }
        )
        return
    valid = trained.valid
    for label, key in (("first text", ""), ("after one step", "corrected ")):
        click.echo(f"{label:<15} token F1 {valid[key + 'F1']:.3f}  cosine {valid[key + 'cosine']:.3f}")
    click.echo(
        f"on {trained.config.trained['written_spans']:,} validation spans of at most {trained.config.longest} tokens; "
        f"{trained.config.parameters:,} parameters, {trained.seconds:.0f} s, {trained.peak_bytes / 1e9:.2f} GB at most"
    )
    click.echo(
        f"kept in {(folder / as_name).absolute()}\n"
        f"next: lookahead evaluate decode --collection {collection.name} --inverter {as_name}"
    )
