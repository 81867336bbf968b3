"""`lookahead export`: a collection as files that any other program reads."""

from __future__ import annotations

import json
from pathlib import Path

import click

from commands.common import collection_option, existing_collection
from store.records import LookaheadError


@click.command()
@collection_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON lines of chunks.")
@click.option("--vectors", type=click.Path(path_type=Path, dir_okay=False), help="Also their vectors, as one .npy.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only articles of that split.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_obj
def export(home: Path, name: str | None, out: Path, vectors: Path | None, split: str | None, quiet: bool) -> None:
    """Write all live chunks as JSON lines, article by article, in reading order.

    Row n of --vectors (float16, as the encoder gave them) belongs to line n of --out.

    \b
    Example:
      lookahead export --collection wiki --out wiki.jsonl --vectors wiki.npy
    """
    import os

    import numpy as np

    from index.progress import bar
    from retrieval.search import Searcher
    from store.records import Split

    for target in filter(None, (out, vectors)):
        if not target.absolute().parent.is_dir():
            raise LookaheadError(f"the folder {target.absolute().parent} does not exist")
    with Searcher.open(existing_collection(home, name)) as searcher:
        rows = searcher.store.articles(Split(split) if split else None)
        temporary = out.with_name(out.name + ".tmp")
        with (
            temporary.open("w", encoding="utf-8") as file,
            bar("exporting", len(rows), "articles", quiet=quiet) as shown,
        ):
            for row in rows:
                texts = searcher.store.texts(row.first_chunk, row.first_chunk + row.chunk_count)
                for position, (title, section, text) in enumerate(texts):
                    line = {
                        "chunk_id": row.first_chunk + position,
                        "page_id": row.page_id,
                        "title": title,
                        "split": row.split.value,
                        "position": position,
                        "section": section,
                        "text": text,
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                shown.update(1)
        os.replace(temporary, out)
        count = sum(row.chunk_count for row in rows)
        if vectors is not None:
            kept = np.lib.format.open_memmap(vectors, mode="w+", dtype=np.float16, shape=(count, searcher.vectors.dim))
            written = 0
            for row in rows:
                kept[written : written + row.chunk_count] = searcher.vectors.between(
                    row.first_chunk, row.first_chunk + row.chunk_count
                )
                written += row.chunk_count
            kept.flush()
    click.echo(f"{count:,} chunks of {len(rows):,} articles in {out.absolute()}")
