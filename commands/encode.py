"""`lookahead encode-shards`: part of the encoding of a prepared ingest, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from commands.common import DEFAULT_COLLECTION
from store.records import LookaheadError


@click.command()
@click.option("--collection", "-c", "name", default=DEFAULT_COLLECTION, show_default=True, help="Which collection.")
@click.option(
    "--only", metavar="I/N", default="0/1", help="Shards I, I + N, I + 2 N, …, counted from 0.  [default: all]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda: where vectors are computed.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Cores to take.  [default: all]")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_obj
def encode_shards(home: Path, name: str, only: str, device: str, workers: int | None, quiet: bool) -> None:
    """Encode part of what `ingest --prepare` has read: for a job array, or several machines that share a folder.

    Any number of these may run at once, in any order, and again: a shard that is done is left alone, and one made twice
    is the same twice. When all are done, or some of them, type the same ingest without --prepare: it makes what is
    missing, and publishes.

    \b
    Examples:
      lookahead ingest simplewiki.xml.bz2 -c simple --prepare
      lookahead encode-shards -c simple --only 3/16
      sbatch --array=0-15 --wrap 'lookahead encode-shards -c simple --only $SLURM_ARRAY_TASK_ID/16'
      lookahead ingest simplewiki.xml.bz2 -c simple
    """
    from index.prepared import encode_part
    from retrieval.search import collection_at

    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", only)
    if parts is None or not int(parts[1]) < int(parts[2]):
        raise LookaheadError(f"--only is I/N with I from 0 to N - 1, such as 3/16, not {only[:40]!r}")
    part = encode_part(
        collection_at(home, name), int(parts[1]), int(parts[2]), device=device, threads=workers, quiet=quiet
    )
    click.echo(
        f"{part.made:,} of {part.own:,} shards made, {part.own - part.made:,} were there; {part.shards:,} in all"
    )
