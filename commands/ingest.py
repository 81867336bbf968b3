"""`lookahead ingest`: articles into a collection."""

from __future__ import annotations

from pathlib import Path

import click

from commands.common import DEFAULT_COLLECTION, SAMPLE_COLLECTION, print_json


@click.command()
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path))
@click.option("--collection", "-c", "name", help='Where to put them.  [default: "default"; "sample" for the sample]')
@click.option("--format", "format_", help="mediawiki, wikiextractor, jsonl or text.  [default: found by looking]")
@click.option("--wikipedia", metavar="LANG", help="Download the current dump of that Wikipedia (en, de, simple, …).")
@click.option(
    "--encoder",
    metavar="MODEL",
    help='"bundled", one distilled here or that came with the program by its name, a sentence-transformers name or '
    'folder, "gtr-t5-base", or "hashing".',
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "full", "int8"]),
    default="auto",
    show_default=True,
    help="int8 is the encoder's twin in eight bits, made by quantize; auto takes it where it is faster and as good.",
)
@click.option("--force-encoder", is_flag=True, help="Take a distilled encoder that failed its tests.")
@click.option("--chunk-words", "words", type=int, help="Length of a chunk aimed at.  [default: 80]")
@click.option("--overlap", type=int, help="Words of whole sentences a chunk repeats.  [default: 0]")
@click.option(
    "--prefix", type=click.Choice(["none", "title", "section", "title-section"]), help="Embedded before the text."
)
@click.option("--language", help="ISO code for sentences and stemming.  [default: en, or that of --wikipedia]")
@click.option("--device", default="auto", help="auto, cpu, cuda: where vectors are computed.")
@click.option(
    "--index",
    metavar="WHERE",
    help='Where the indexes are: "faiss" (files of the collection), "milvus:FILE.db" (milvus-lite) or '
    '"milvus://HOST:19530".  [default: faiss]',
)
@click.option(
    "--store",
    metavar="URL",
    help='Where articles and chunks are: "duckdb" (a file of the collection) or "postgresql+psycopg://USER@HOST/NAME"; '
    "the password comes from PGPASSWORD or ~/.pgpass.  [default: duckdb]",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help='Encode on a Ray cluster: "auto" joins the one that runs here, "local" starts one, or its address.',
)
@click.option(
    "--workers",
    type=click.IntRange(1, 4096),
    help="Processes that read wikitext; with --ray, actors that encode.  [default: one a core]",
)
@click.option("--prepare", is_flag=True, help="Stop when only vectors are missing; encode-shards makes them anywhere.")
@click.option(
    "--index-memory",
    type=click.IntRange(1),
    default=700,
    show_default=True,
    help="MB the vector index may take; a larger one is kept as 8-bit codes and rescored.",
)
@click.option("--delete-missing", is_flag=True, help="Articles of this source that are gone from it are removed.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_obj
def ingest(
    home: Path,
    sources: tuple[Path, ...],
    name: str | None,
    format_: str | None,
    wikipedia: str | None,
    encoder: str | None,
    precision: str,
    force_encoder: bool,
    words: int | None,
    overlap: int | None,
    prefix: str | None,
    language: str | None,
    device: str,
    index: str | None,
    store: str | None,
    ray: str | None,
    workers: int | None,
    prepare: bool,
    index_memory: int,
    delete_missing: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Read articles, cut them into chunks, embed and index them, and publish the result in one step.

    SOURCES are MediaWiki dumps (.xml, .xml.bz2, .xml.gz), WikiExtractor output, JSON lines with page_id, title and
    text or sections, or folders of .txt and .md files. Without any, the bundled sample is taken.

    What is already there is left alone, what changed is replaced, and a killed ingest goes on where it was: type the
    same command again. Searching goes on meanwhile and sees the new articles when all of them are in.

    \b
    Examples:
      lookahead ingest                                   # the bundled sample
      lookahead ingest ../shared/data/enwiki/AA --collection wiki
      lookahead ingest simplewiki-latest-pages-articles.xml.bz2 -c simple
      lookahead ingest --wikipedia simple -c simple
      lookahead ingest ~/notes -c notes --delete-missing
      lookahead ingest ../shared/data/enwiki -c wiki --encoder fast
      lookahead ingest ../shared/data/enwiki -c wiki --index milvus:./wiki.db
      lookahead ingest enwiki.xml.bz2 -c en --index milvus://host:19530 --store postgresql+psycopg://me@host/wiki
      lookahead ingest enwiki.xml.bz2 -c en --ray auto --workers 16
    """
    import os

    from index.build import Choices, IngestReport
    from index.build import ingest as run
    from index.encoder import BUNDLED
    from index.students import find_encoder, int8_of, refuse_failed
    from retrieval.search import collection_at
    from store.chunking import Prefix
    from store.sources import open_source

    collection = collection_at(home, name or (DEFAULT_COLLECTION if sources or wikipedia else SAMPLE_COLLECTION))
    if wikipedia:
        sources += (_downloaded(home, wikipedia, quiet),)
    spec = None if encoder is None else find_encoder(encoder, home)
    if spec is not None:
        refuse_failed(spec, force=force_encoder)
    opened = [open_source(path, format_) for path in sources or (sample_articles(),)]
    choices = Choices(
        encoder=spec,
        precision=precision,
        int8=int8_of(spec or BUNDLED, home),
        words=words,
        overlap=overlap,
        prefix=Prefix(prefix) if prefix else None,
        language=language or (wikipedia if wikipedia and len(wikipedia) == 2 else None),
        device=device,
        workers=workers or os.cpu_count() or 1,
        index=index,
        store=store,
        ray=ray,
        prepare=prepare,
        index_memory=index_memory * 1_000_000,
        delete_missing=delete_missing,
        quiet=quiet,
    )
    report: IngestReport = run(collection, opened, choices)
    if as_json:
        print_json(as_dict(report))
    else:
        click.echo(in_words(report, collection.path))


def sample_articles() -> Path:
    """The corpus written for this project."""
    return Path(__file__).resolve().parent.parent / "data" / "sample" / "articles.jsonl"


def as_dict(report: object) -> dict[str, object]:
    """An ingest report for JSON."""
    from index.build import IngestReport

    assert isinstance(report, IngestReport)
    manifest = report.generation.manifest if report.generation else None
    return {
        "generation": manifest.name if manifest else None,
        "prepared": report.prepared,
        "counts": manifest.counts if manifest else None,
        "added": report.added,
        "replaced": report.replaced,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "skipped": dict(report.skipped),
        "failed": report.failed,
        "quarantine": str(report.quarantine) if report.quarantine else None,
        "seconds": {phase: round(spent, 3) for phase, spent in report.seconds.items()},
        "pace": [(count, round(spent, 4)) for count, spent in report.pace],
    }


def in_words(report: object, path: Path) -> str:
    """An ingest report for a person."""
    from index.build import IngestReport

    assert isinstance(report, IngestReport)
    lines = []
    if report.prepared == 0:
        lines.append("prepared, and all shards are there: type the same ingest without --prepare")
    elif report.prepared is not None:
        lines.append(
            f"prepared: {report.prepared:,} shards to be encoded; run lookahead encode-shards -c {path.name} "
            "(in parts, anywhere that sees this folder: --only 0/16 and so on), then the same ingest without --prepare"
        )
    elif report.generation is None:
        lines.append(f"nothing new: {report.unchanged:,} articles are in {path} as they are")
    else:
        manifest = report.generation.manifest
        changes = [
            f"{count:,} {word}"
            for count, word in (
                (report.added, "added"),
                (report.replaced, "replaced"),
                (report.removed, "removed"),
                (report.unchanged, "unchanged"),
            )
            if count
        ]
        facts = manifest.facts["dense"]
        lines.append(
            f"{path.name} {manifest.name}: {manifest.counts['articles']:,} articles ({', '.join(changes)}), "
            f"{manifest.counts['live']:,} chunks; {facts['kind']} index, recall@10 {facts['recall']:.3f}"
        )
        spent = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in report.seconds.items() if seconds >= 0.05)
        lines.append(f"{sum(report.seconds.values()):.1f} s: {spent}")
    if report.skipped:
        lines.append("skipped: " + ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.most_common()))
    if report.quarantine:
        lines.append(f"{report.failed:,} could not be read; each with its reason in {report.quarantine}")
    return "\n".join(lines)


def _downloaded(home: Path, wikipedia: str, quiet: bool) -> Path:
    from index.progress import bar
    from store.sources.download import fetch

    with bar(f"downloading {wikipedia}", None, "B", quiet=quiet, scale=True) as shown:

        def heard(done: int, total: int) -> None:
            shown.total = total or None
            shown.update(done - shown.n)

        return fetch(wikipedia, home / "downloads", on_bytes=heard)
