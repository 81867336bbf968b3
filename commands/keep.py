"""`lookahead info`, `verify`, `compact`, `rollback`, `gc`: what is there, whether it is sound, and its upkeep."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click

from commands.common import (
    collection_names,
    collection_option,
    existing_collection,
    human_bytes,
    json_option,
    print_json,
    print_table,
)
from store.generations import Collection
from store.records import LookaheadError


@click.command()
@collection_option
@json_option
@click.pass_obj
def info(home: Path, name: str | None, as_json: bool) -> None:
    """What is ingested: all collections, or one in full.

    \b
    Examples:
      lookahead info
      lookahead info --collection wiki --json
    """
    from retrieval.search import collection_at

    if name is not None:
        facts = _facts(existing_collection(home, name))
        if as_json:
            print_json(facts)
        else:
            _show(facts)
        return
    rows = [_facts(collection_at(home, one)) for one in collection_names(home)]
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(
            ["collection", "generation", "articles", "chunks", "encoder", "index", "size"],
            [
                (
                    row["collection"],
                    row["generation"],
                    f"{row['counts']['articles']:,}",
                    f"{row['counts']['live']:,}",
                    row["encoder"]["fingerprint"]["model"],
                    row["dense"]["kind"],
                    human_bytes(row["bytes"]),
                )
                for row in rows
            ],
        )
    else:
        click.echo("nothing is ingested yet; run: lookahead ingest SOURCE --collection NAME", err=True)


@click.command()
@collection_option
@click.argument("also", required=False)
@json_option
@click.pass_obj
def verify(home: Path, name: str | None, also: str | None, as_json: bool) -> None:
    """Read every byte of a collection and compare it with what was published; exit code 1 when anything differs.

    \b
    Examples:
      lookahead verify wiki
      lookahead verify --collection wiki --json
    """
    from index.layout import is_derived
    from index.progress import bar
    from index.upkeep import remote_faults

    collection = existing_collection(home, name or also)
    with bar("verifying", collection.bytes_kept(), "B", quiet=as_json, scale=True) as shown:
        faults = collection.verify(shown.update)
    if not faults:
        for generation in collection.generations():
            faults += remote_faults(generation)
    for fault in faults:
        if as_json:
            print_json({"generation": fault.generation, "file": fault.file, "fault": fault.what})
        else:
            click.echo(f"{fault.generation}/{fault.file}: {fault.what}".lstrip("/"))
    if not faults:
        if not as_json:
            click.echo(f"{collection.path}: every byte is as it was published")
        return
    if not as_json:
        if all(is_derived(fault.file) for fault in faults):
            advice = f"indexes can be made again: lookahead compact --collection {collection.name}"
        else:
            advice = (
                f"the newest sound generation is served; ingest the source again to publish a new one, "
                f"or drop the damaged one: lookahead rollback --collection {collection.name}"
            )
        click.echo(f"{len(faults)} faults; {advice}", err=True)
    raise SystemExit(1)


@click.command()
@collection_option
@click.option("--index", metavar="WHERE", help="Move the indexes there: what ingest --index takes.")
@click.option("--store", metavar="URL", help="Move articles and chunks there: what ingest --store takes.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_obj
def compact(home: Path, name: str | None, index: str | None, store: str | None, quiet: bool) -> None:
    """Publish the same articles without the rows that changes left behind; also makes damaged indexes anew.

    Nothing is encoded again, so this is also how a collection moves to servers and back.

    \b
    Examples:
      lookahead compact --collection wiki
      lookahead compact -c wiki --index milvus://host:19530 --store postgresql+psycopg://me@host/wiki
      lookahead compact -c wiki --index faiss --store duckdb
    """
    from index.build import compact as run

    collection = existing_collection(home, name)
    generation = run(collection, index=index, store=store, quiet=quiet)
    counts = generation.manifest.counts
    click.echo(f"{collection.name} {generation.manifest.name}: {counts['live']:,} chunks, none dead")


@click.command()
@collection_option
@click.pass_obj
def rollback(home: Path, name: str | None) -> None:
    """Go back to the generation before the newest; the newest is removed.

    \b
    Example:
      lookahead rollback --collection wiki
    """
    from index.upkeep import roll_back

    collection = existing_collection(home, name)
    with collection.writing():
        generation = roll_back(collection)
    click.echo(f"{collection.name} is at {generation.manifest.name}: {generation.manifest.counts['live']:,} chunks")


@click.command()
@collection_option
@click.option("--keep", type=click.IntRange(1, 100), default=2, show_default=True, help="Generations to keep.")
@click.pass_obj
def gc(home: Path, name: str | None, keep: int) -> None:
    """Remove old generations, unfinished builds, and the P-tower vectors of models that are gone.

    \b
    Example:
      lookahead gc --collection wiki --keep 1
    """
    from index.upkeep import sweep

    collection = existing_collection(home, name)
    with collection.writing():
        before = collection.bytes_kept()
        gone = list(dict.fromkeys([*collection.collect_garbage(keep), *sweep(collection)]))
        freed = before - collection.bytes_kept()
        for model, folders in _forsaken_spaces(collection).items():
            freed += sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
            for folder in folders:
                shutil.rmtree(folder)
            gone.append(f"the space of model {model}")
    click.echo(
        f"removed {', '.join(gone)} (up to {human_bytes(freed)}; shared files stay)" if gone else "nothing to remove"
    )


@click.command()
@collection_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--leave-servers", is_flag=True, help="Do not look at servers; what is there stays there.")
@click.pass_obj
def drop(home: Path, name: str | None, yes: bool, leave_servers: bool) -> None:
    """Remove a collection for good: its generations, its models, what is unfinished, and its parts on servers.

    \b
    Example:
      lookahead drop --collection wiki
    """
    from index.upkeep import forget
    from retrieval.search import collection_at

    if name is None:
        raise LookaheadError(f"say which --collection is to go; there are: {', '.join(collection_names(home))}")
    collection = collection_at(home, name)
    if not collection.unfinished():  # one that was never published may go too
        existing_collection(home, name)
    if not yes:
        size = human_bytes(sum(path.stat().st_size for path in collection.path.rglob("*") if path.is_file()))
        click.confirm(f"remove {collection.path} ({size}) with its models?", abort=True)
    with collection.writing():
        try:
            elsewhere = [] if leave_servers else forget(collection)
        except LookaheadError as error:
            raise LookaheadError(f"{error}; or leave what is there: lookahead drop --leave-servers") from error
        going = collection.path.with_name(f".dropped-{collection.name}-{os.getpid()}")
        collection.path.rename(going)  # first: half a collection must not look like one
    shutil.rmtree(going)
    click.echo(f"removed {collection.name}" + (f" and {', '.join(dict.fromkeys(elsewhere))}" if elsewhere else ""))


def _forsaken_spaces(collection: Collection) -> dict[str, list[Path]]:
    """model → the folders of its space, the unfinished ones too, for models that neither are the collection's nor came
    with the program. One that is being trained, or was when its maker was killed, is not gone."""
    from retrieval import models

    own, spaces = models.models_folder(collection), models.spaces_folder(collection)
    found: dict[str, list[Path]] = {}
    for folder in sorted(spaces.iterdir()) if spaces.is_dir() else []:
        model = folder.name.removeprefix(".making-").removeprefix(".before-")
        if model.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        if not any(
            place.exists()
            for place in (own / model, own / f".making-{model}", own / f".before-{model}", models.SHIPPED / model)
        ):
            found.setdefault(model, []).append(folder)
    return found


def _facts(collection: Collection) -> dict[str, Any]:
    try:
        generation = collection.current()
    except LookaheadError as error:
        raise LookaheadError(f"{collection.name}: {error}") from error
    manifest = generation.manifest
    return {
        "collection": collection.name,
        "path": str(collection.path),
        "generation": manifest.name,
        "created": manifest.created,
        "code_version": manifest.code_version,
        "counts": manifest.counts,
        "bytes": sum(seal.size for seal in manifest.files.values()),
        **manifest.facts,
    }


def _show(facts: dict[str, Any]) -> None:
    from index.encoder import Fingerprint

    counts, cut, dense = facts["counts"], facts["chunking"], facts["dense"]
    breadth = {"hnsw": "efSearch", "ivf": "nprobe"}.get(dense["kind"])
    rows = [
        ("collection", f"{facts['collection']} at {facts['path']}"),
        ("generation", f"{facts['generation']} of {facts['created']}, lookahead {facts['code_version']}"),
        ("articles", f"{counts['articles']:,}"),
        ("chunks", f"{counts['live']:,} live, {counts['chunks'] - counts['live']:,} dead"),
        ("cut", f"about {cut['words']} words, overlap {cut['overlap']}, prefix {cut['prefix']}, {cut['language']}"),
        ("encoder", str(Fingerprint.from_json(facts["encoder"]["fingerprint"]))),
        (
            "index",
            dense["kind"]
            + (f", {breadth} {dense['breadth']}" if breadth else "")
            + f", recall@10 {dense['recall']:.4f} over {dense['probes']} probes",
        ),
        *_elsewhere(facts),
        ("size", human_bytes(facts["bytes"])),
        ("sources", ", ".join(facts["sources"])),
    ]
    for label, value in rows:
        click.echo(f"{label:<11} {value}")


def _elsewhere(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Which parts are on servers, and as what."""
    index, store = facts.get("index"), facts.get("store")
    rows = []
    if index is not None:
        rows.append(("indexes", f"{index['spec']}, {index['collection']} (alias {index['alias']})"))
    if store is not None:
        rows.append(("rows", f"{store['url']}, schema {store['name']}"))
    return rows
