"""`lookahead quantize`: an encoder's twin in eight bits, and what became of its size, speed and quality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import (
    existing_collection,
    human_bytes,
    json_option,
    print_json,
    print_table,
)
from commands.ingest import sample_articles

if TYPE_CHECKING:
    from index.encoder import Encoder
    from index.twin import Measured


@click.command()
@click.argument("model")
@click.option("--int8", "int8", is_flag=True, default=True, help="Eight bits, which is the only width there is.")
@click.option("--collection", "-c", "name", help="Whose chunks are taken.  [default: the bundled sample's]")
@click.option("--texts", type=click.IntRange(20), default=300, show_default=True, help="How many to calibrate on.")
@click.option(
    "--sts",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the STS sets, to judge both by STS Benchmark's test split; without it auto never takes the twin.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "static", "dynamic"]),
    default="auto",
    show_default=True,
    help="static: activations in eight bits too, by calibration; dynamic: weights alone, the rest as it comes.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def quantize(
    home: Path,
    model: str,
    int8: bool,
    name: str | None,
    texts: int,
    sts: Path | None,
    mode: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make the twin of an encoder in eight bits and print its size, speed and quality beside the model's.

    MODEL is "bundled", the name of one distilled here, a folder, or a sentence-transformers name. The twin is kept in
    int8/ in the model's folder, or in encoders/MODEL/int8 of the home. An ingest takes it where it is faster on that
    machine, keeps a cosine of .99 and loses no more than .01 on STS; --precision int8 takes it anyway.

    Texts come from --collection, or from the bundled sample's articles: the more they are like what will be encoded,
    the better. Half of them are cut short, as questions are.

    \b
    Examples:
      lookahead quantize bundled --int8 --sts ../shared/data/sts
      lookahead quantize layers-3 --int8 -c wiki --sts ../shared/data/sts
      lookahead ingest ../shared/data/enwiki/AA -c small --encoder layers-3 --precision int8
    """
    from index.quantize import of_many_lengths
    from index.quantize import quantize as run
    from index.students import find_encoder, int8_of

    assert int8
    judge = None if sts is None else sts_judge(sts)
    found = of_many_lengths(calibration_texts(home, name, texts + texts // 4))
    place = int8_of(model, home)
    measured = run(find_encoder(model, home), place, found, mode=mode, judge=judge, quiet=quiet)
    if as_json:
        print_json({"model": model, "folder": str(place), **measured.as_json()})
        return
    print_table(["", *measured.rates], _rows(measured))
    for line in in_words(measured, place):
        click.echo(line)


def calibration_texts(home: Path, name: str | None, count: int) -> list[str]:
    """What an encoder reads for chunks drawn from all over a collection, or from the bundled sample."""
    import random

    chance = random.Random(0)
    if name is None:
        from retrieval.benchmarks.encode import chunks_of_file

        found = chunks_of_file(sample_articles())
        return chance.sample(found, min(count, len(found)))
    from store.chunking import ChunkingRules, embedded_text
    from store.database import Store

    generation = existing_collection(home, name).current()
    prefix = ChunkingRules.from_json(generation.manifest.facts["chunking"]).prefix
    with Store.at(generation) as store:
        live = sorted(set(range(store.counts().chunks)) - set(store.dead_ids().tolist()))
        drawn = store.chunks(chance.sample(live, min(count, len(live))))
        return [embedded_text(hit.title, hit.chunk.section, hit.chunk.text, prefix) for hit in drawn]


def sts_judge(folder: Path) -> Callable[[Encoder], float]:
    """Spearman's correlation on STS Benchmark's test split; the files are read before anything long begins."""
    from index.fast import cosines_of
    from retrieval.sts import spearman, stsbenchmark

    pairs = stsbenchmark(folder, "test")

    def judge(encoder: Encoder) -> float:
        cosines = cosines_of(encoder.encode(pairs.first), encoder.encode(pairs.second))
        return spearman(pairs.scores, cosines.tolist())

    return judge


def in_words(measured: Measured, place: Path) -> list[str]:
    """The verdict for a person."""
    from index.quantize import keeps

    way = f"calibrated on {measured.texts} texts" if measured.texts else "weights alone, activations as they come"
    lines = [
        f"cosine to f32 on {measured.held_out} other texts: mean {measured.cosine_mean:.4f}, "
        f"smallest {measured.cosine_least:.4f}",
        f"{place} ({measured.mode}: {way}; {measured.seconds:.0f} s)",
    ]
    faster = measured.rates["int8"] > measured.rates[measured.full]
    if measured.sts_after is None:
        lines.append("not judged on STS: taken only by --precision int8; add --sts FOLDER to have it judged")
    elif keeps(measured) and faster:
        lines.append("an ingest on a machine like this one will take it by itself")
    else:
        reasons = [*([] if keeps(measured) else ["it loses too much"]), *([] if faster else ["it is not faster here"])]
        lines.append(f"taken only by --precision int8: {' and '.join(reasons)}")
    return lines


def _rows(measured: Measured) -> list[list[str]]:
    names = list(measured.rates)
    slowest = measured.rates["f32"]
    sizes = {name: measured.bytes_before / (1 if name == "f32" else 2) for name in names}
    sizes["int8"] = measured.bytes_after
    scores = {measured.full: measured.sts_before, "int8": measured.sts_after}
    shown = {name: "–" if (score := scores.get(name)) is None else f"{score:.4f}" for name in names}
    return [
        ["bytes", *(human_bytes(sizes[name]) for name in names)],
        ["of f32", *(f"{sizes[name] / measured.bytes_before:.1%}" for name in names)],
        ["texts/s", *(f"{measured.rates[name]:.0f}" for name in names)],
        ["against f32", *(f"{measured.rates[name] / slowest:.2f} ×" for name in names)],
        ["STS Benchmark test", *(shown[name] for name in names)],
    ]
