"""`lookahead distill`: a small encoder that places texts where a large one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.common import SEED, collection_option, existing_collection, hush_at_exit, json_option, print_json, typed
from store.records import LookaheadError


@click.command()
@click.option("--teacher", default="bundled", show_default=True, metavar="MODEL", help="Whose vectors are learned.")
@click.option("--student", help="layers:N, narrow:NxSHARE or static.  [default: layers:3, or the preset's]")
@click.option("--preset", type=click.Choice(["layers", "static", "leaf-v1", "leaf-v2"]), help="Settings to start from.")
@collection_option
@click.option("--name", "as_name", help="Under which name it is kept.  [default: the student's or the preset's]")
@click.option(
    "--sts",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the STS sets, to watch and to judge by.",
)
@click.option(
    "--without",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Questions whose articles are not learned from (repeatable).",
)
@click.option("--texts", type=click.IntRange(8), help="How many texts are learned from.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="How often each is read.")
@click.option("--steps", type=click.IntRange(1), help="So many steps instead.")
@click.option("--batch", type=click.IntRange(2), help="Texts in a step.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option("--checks", type=click.IntRange(1), help="Validations in all.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, batches and texts.")
@click.option("--restart", is_flag=True, help="Begin again instead of going on from a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_context
def distill(
    ctx: click.Context,
    teacher: str,
    student: str | None,
    preset: str | None,
    name: str | None,
    as_name: str | None,
    sts: Path | None,
    without: tuple[Path, ...],
    texts: int | None,
    epochs: float | None,
    steps: int | None,
    batch: int | None,
    rate: float | None,
    checks: int | None,
    device: str,
    seed: int,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Distil a small, fast encoder out of a large one, and judge whether it may be used.

    The student begins as a part of its teacher and learns to place the collection's chunks, sentences, titles and
    headings where the teacher does; no labels are needed. One that does not come near enough (cosine under .9, or
    STSBenchmark more than 15 % below) is kept as failed, with the reasons, and ingest refuses it. A run that was
    stopped or killed goes on when the same command is given again.

    \b
    Examples:
      lookahead distill --teacher bundled --student layers:3 --collection wiki --sts ../shared/data/sts
      lookahead distill --student static -c wiki
      lookahead distill --preset leaf-v2 --teacher google/embeddinggemma-300m -c wiki --device cuda
    """
    home: Path = ctx.obj
    collection = existing_collection(home, name)

    hush_at_exit()
    from retrieval.allocation import keep_freed_memory

    keep_freed_memory()  # before torch takes any
    from index.progress import say
    from index.students import Status, check_encoder_name, encoders_folder, find_encoder, read_student
    from retrieval.distill_recipes import distill_recipe
    from retrieval.distillation import distill as run
    from retrieval.questions import read_questions
    from retrieval.search import Searcher
    from retrieval.students import Plan
    from retrieval.train_predictor import device_for
    from store.staging import making

    changes: dict[str, Any] = {
        "texts": texts,
        "epochs": epochs,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "checks": checks,
        "seed": seed,
    }
    recipe = distill_recipe(student, preset, changes)
    plan = Plan.parse(recipe.student)
    as_name = check_encoder_name(as_name or preset or str(plan).replace(":", "-"))
    asked = [read_questions(path) for path in without]
    folder = encoders_folder(home)
    hushed = quiet or as_json
    before = read_student(folder / as_name)
    if before is not None and not restart and not (folder / f".making-{as_name}").exists():
        held = before.made.get("recipe"), before.made.get("collection"), before.made.get("command")
        if held == (recipe.as_json(), collection.name, typed()):
            raise LookaheadError(f"{folder / as_name} is what this command made; add --restart to make it again")
    with Searcher.open(collection) as searcher, making(folder, as_name, restart=restart) as place:
        distilled = run(
            searcher,
            place,
            name=as_name,
            teacher=find_encoder(teacher, home),
            recipe=recipe,
            kept=folder / ".lessons",
            without=asked,
            sts=sts,
            device=device_for(device),
            command=typed(),
            quiet=hushed,
            note=lambda sentence: say(sentence, quiet=hushed),
        )
        verdict = distilled.student
        if verdict.status is Status.FAILED and before is not None and before.status is Status.USABLE:
            raise LookaheadError(
                f"the new student failed ({'; '.join(verdict.reasons)}) and the usable {as_name} that is there stays; "
                f"take another --name; the failed one is in {place}"
            )
    if as_json:
        print_json(
            {
                "name": as_name,
                "folder": str((folder / as_name).absolute()),
                "status": verdict.status.value,
                "reasons": list(verdict.reasons),
                "parameters": distilled.parameters,
                "figures": verdict.as_json()["figures"],
                "seconds": distilled.seconds,
                "peak_bytes": distilled.peak_bytes,
            }
        )
    else:
        for figure, value in verdict.figures.items():
            click.echo(f"{figure:<16} {value:.3f}")
        peak = f"{distilled.peak_bytes / 1e9:.2f} GB at most"
        click.echo(f"{distilled.parameters:,} parameters, {distilled.seconds:.0f} s, {peak}")
        click.echo(f"{verdict.status.value}: {'; '.join(verdict.reasons) or 'near enough to its teacher'}")
        click.echo(f"kept in {(folder / as_name).absolute()}")
        if verdict.status is Status.USABLE:
            click.echo(
                f"next: lookahead quantize {as_name} --int8, or "
                f"lookahead evaluate sts --model {as_name} --model {teacher} --data {sts or 'FOLDER'}"
            )
        else:
            click.echo("next: distil it again with more --texts, --epochs or layers; ingest refuses it as it is")
    if verdict.status is Status.FAILED:
        ctx.exit(1)
