"""`lookahead bench`: speed, memory and fidelity as tables, for the README and for whoever doubts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.common import collection_option, existing_collection, hush_at_exit, json_option, print_json, typed
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.benchmarks.measured import Figure


_SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "articles.jsonl"


@click.group()
def bench() -> None:
    """Measure this machine with real work. Nothing here is a test; figures are medians and ratios of one run."""


@bench.command("ingest")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@json_option
@click.pass_obj
def ingest(home: Path, source: Path, as_json: bool) -> None:
    """Ingest SOURCE into a throw-away collection: speed against sentence-transformers, overhead, pace, memory.

    \b
    Example:
      lookahead bench ingest ../shared/data/enwiki/AA
    """
    from retrieval.benchmarks.ingest import bench_ingest

    home.mkdir(parents=True, exist_ok=True)
    _print(bench_ingest(source, home, _say), as_json)


@bench.command("search")
@collection_option
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="SQuAD JSON, TREC topics, or TSV.")
@click.option("--limit", type=click.IntRange(20), default=500, show_default=True, help="How many of them.")
@json_option
@click.pass_obj
def search(home: Path, name: str | None, questions: Path, limit: int, as_json: bool) -> None:
    """Time searches with real questions: as whole processes, in process, part by part.

    \b
    Example:
      lookahead bench search -c wiki --questions ../shared/data/squad/squad-v2.0-dev-part1.json
    """
    import numpy as np

    from retrieval.benchmarks.search import bench_search
    from retrieval.questions import read_questions

    texts = [question.text for question in read_questions(questions).questions]
    drawn = np.random.default_rng(0).permutation(len(texts))[:limit]
    _print(bench_search(existing_collection(home, name), home, [texts[place] for place in drawn], _say), as_json)


@bench.command("serve")
@collection_option
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="SQuAD JSON, TREC topics, or TSV.")
@click.option("--seconds", type=click.FloatRange(3), default=60, show_default=True, help="Of the main run.")
@click.option(
    "--ingest",
    "source",
    type=click.Path(path_type=Path, exists=True),
    default=_SAMPLE,
    help="A few articles to publish under load.  [default: the bundled sample]",
)
@json_option
@click.pass_obj
def serve(home: Path, name: str | None, questions: Path, seconds: float, source: Path, as_json: bool) -> None:
    """Put the service under load: searches a second, batches against none, a crowd, a publish, a cold start.

    The collection itself is only read: what is ingested meanwhile goes into a copy of hard links that is thrown away.

    \b
    Example:
      lookahead bench serve -c wiki --questions ../shared/data/squad/squad-v2.0-dev-part1.json
    """
    import numpy as np

    from retrieval.benchmarks.serve import bench_serve
    from retrieval.questions import read_questions
    from retrieval.search import Searcher

    collection = existing_collection(home, name)
    texts = [question.text for question in read_questions(questions).questions]
    order = np.random.default_rng(0)
    with Searcher.open(collection) as searcher:
        titles = [row.title for row in searcher.store.articles()]
    asked = [texts[place] for place in order.permutation(len(texts))]
    within = [titles[place] for place in order.permutation(len(titles))[:500]]
    _print(bench_serve(collection, home, asked, within, source, seconds, _say), as_json)


@bench.command("encode")
@click.option("--model", "specs", multiple=True, required=True, help="Which encoder (repeatable).")
@click.option("--against", metavar="MODEL", default="bundled", show_default=True, help="Who is 1 ×.")
@click.option("--collection", "-c", "name", help="Whose chunks are taken.  [default: the bundled sample's]")
@click.option("--chunks", type=click.IntRange(20), default=25_000, show_default=True, help="How many, at most.")
@click.option("--precision", type=click.Choice(["auto", "full", "int8"]), default="auto", show_default=True)
@click.option("--goal", type=click.FloatRange(0, min_open=True), help="Of the ratio.  [default: by the kind of model]")
@json_option
@click.pass_obj
def encode(
    home: Path,
    specs: tuple[str, ...],
    against: str,
    name: str | None,
    chunks: int,
    precision: str,
    goal: float | None,
    as_json: bool,
) -> None:
    """Time encoders on a collection's chunks against sentence-transformers' default of one of them.

    Without --collection the chunks are those of the bundled sample.

    \b
    Examples:
      lookahead bench encode --model layers-3 --model bundled
      lookahead bench encode --model static -c wiki --goal 150 --json
    """
    hush_at_exit()
    from commands.ingest import sample_articles
    from retrieval.benchmarks.encode import bench_encode, chunks_in, chunks_of_file

    texts = chunks_of_file(sample_articles()) if name is None else chunks_in(existing_collection(home, name), chunks)
    figures = bench_encode(
        tuple(dict.fromkeys(specs)), home, texts[:chunks], against=against, precision=precision, goal=goal, say=_say
    )
    _print(figures, as_json)


@bench.command("predictors")
@click.option("--model", "kinds", multiple=True, help="Which architecture (repeatable).  [default: all]")
@click.option("--dim", type=click.IntRange(2), default=768, show_default=True, help="Of the vectors.")
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["torch", "openvino"]),
    multiple=True,
    default=["torch", "openvino"],
    show_default=True,
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["f32", "bf16", "auto"]),
    multiple=True,
    help="Of OpenVINO (repeatable).  [default: f32, and bf16 where the processor has it]",
)
@json_option
def predictors(
    kinds: tuple[str, ...], dim: int, runtimes: tuple[str, ...], precisions: tuple[str, ...], as_json: bool
) -> None:
    """Time the predictors with fresh weights, and compare their sizes and times with what they should be at 768.

    \b
    Examples:
      lookahead bench predictors --dim 768
      lookahead bench predictors --model amn --model lstm --runtime openvino --precision bf16
    """
    from index.fast import precisions as native
    from retrieval.benchmarks.architectures import bench_architectures
    from retrieval.predictors import KINDS

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise LookaheadError(f"there is no predictor {unknown[0]!r}; there are: {', '.join(KINDS)}")
    chosen = precisions or tuple(name for name in native() if name in ("f32", "bf16"))
    kinds, runtimes, chosen = (tuple(dict.fromkeys(given)) for given in (kinds, runtimes, chosen))
    report = bench_architectures(kinds, dim, runtimes, chosen, typed(), _say)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())


@bench.command("pipeline")
@collection_option
@click.option("--model", help="Which model.  [default: as predict-next]")
@click.option("--rerank/--no-rerank", default=None, help="[default: where the model has a reranker]")
@click.option("--windows", type=click.IntRange(20), default=300, show_default=True, help="Of test articles.")
@json_option
@click.pass_obj
def pipeline(home: Path, name: str | None, model: str | None, rerank: bool | None, windows: int, as_json: bool) -> None:
    """Time an answer to one context stage by stage: predicting, both indexes, first score, reranker.

    \b
    Example:
      lookahead bench pipeline -c wiki --model towers
    """
    from retrieval.benchmarks.pipeline import bench_pipeline
    from retrieval.predict import LookAhead
    from retrieval.search import Searcher

    with Searcher.open(existing_collection(home, name)) as searcher:
        look = LookAhead.open(searcher, model, texts=False, rerank=rerank, quiet=False)
        _print(bench_pipeline(look, windows, _say), as_json)


@bench.command("decode")
@collection_option
@click.option("--inverter", metavar="NAME", help="[default: the first that fits]")
@click.option("--steps", type=int, help="Corrections of each text.  [default: as decode]")
@click.option("--beam", type=int, help="Texts kept to be corrected.  [default: as decode]")
@json_option
@click.pass_obj
def decode(
    home: Path, name: str | None, inverter: str | None, steps: int | None, beam: int | None, as_json: bool
) -> None:
    """Time an inverter: opening it, one vector, and many together.

    \b
    Example:
      lookahead bench decode -c wiki
    """
    hush_at_exit()
    from retrieval.benchmarks.decode import bench_decode
    from retrieval.inversion import BEAM, STEPS, check_effort
    from retrieval.search import Searcher

    steps, beam = STEPS if steps is None else steps, BEAM if beam is None else beam
    check_effort(steps, beam, None)
    with Searcher.open(existing_collection(home, name)) as searcher:
        _print(bench_decode(searcher, inverter, steps, beam, _say), as_json)


@bench.command("scale")
@collection_option
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="SQuAD JSON, TREC topics, or TSV.")
@click.option("--limit", type=click.IntRange(20), default=500, show_default=True, help="How many of them.")
@click.option("--sizes", default="1e4,1e5,1e6", show_default=True, help="Chunks, separated by commas.")
@click.option("--index-memory", type=click.IntRange(1), help="MB the vector index may take.  [default: as ingest]")
@click.option("--index", "indexes", metavar="SPEC", multiple=True, help="Also in milvus:FILE.db or milvus://HOST:PORT.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the report and its picture.")
@json_option
@click.pass_obj
def scale(
    home: Path,
    name: str | None,
    questions: Path,
    limit: int,
    sizes: str,
    index_memory: int | None,
    indexes: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Ingest and search collections of several sizes, and see what grows how.

    The chunks and vectors are the collection's; beyond its end they are the same again with noise. Everything is
    ingested as a user would, but for the encoding, whose pace is measured apart. A million chunks take ten minutes and
    5 GB of disk meanwhile, in the home.

    \b
    Example:
      lookahead bench scale -c enwiki --questions ../shared/data/squad/squad-v2.0-dev-part1.json --out scale
    """
    import numpy as np

    from index.build import INDEX_MEMORY
    from retrieval.benchmarks.scale import bench_scale, write_report
    from retrieval.questions import read_questions

    asked = [question.text for question in read_questions(questions).questions]
    drawn = np.random.default_rng(0).permutation(len(asked))[:limit]
    report = bench_scale(
        existing_collection(home, name),
        home,
        _counts(sizes, "--sizes"),
        [asked[place] for place in drawn],
        INDEX_MEMORY if index_memory is None else index_memory * 1_000_000,
        typed(),
        _say,
        indexes,
    )
    if out is not None:
        for file in write_report(report, out):
            _say(f"wrote {(out / file).resolve()}")
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.in_words())


@bench.command("plan")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="A scale.json of bench scale.",
)
@click.option("--sizes", default="4.1e7,1e9", show_default=True, help="Chunks, separated by commas.")
@click.option("--memory", type=click.FloatRange(1), default=64, show_default=True, help="GB of a machine.")
@click.option("--disk", type=click.FloatRange(1), default=2000, show_default=True, help="GB of a machine.")
@click.option("--workers", type=click.IntRange(1), default=16, show_default=True, help="Machines that encode.")
def plan(source: Path, sizes: str, memory: float, disk: float, workers: int) -> None:
    """Say what larger collections would need: arithmetic from figures that bench scale measured.

    \b
    Example:
      lookahead bench plan --from scale/scale.json --sizes 4.1e7,1e9 --memory 64
    """
    import json

    from retrieval.benchmarks.plan import Machine, Rates, in_words
    from retrieval.benchmarks.scale import ScaleReport

    try:
        report = ScaleReport.from_json(json.loads(source.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise LookaheadError(f"{source} is no scale.json; run: lookahead bench scale --out FOLDER") from error
    click.echo(in_words(_counts(sizes, "--sizes"), workers, Rates.of(report), Machine(memory * 1e9, disk * 1e9)))


@bench.command("ray")
@collection_option
@click.option("--chunks", type=click.IntRange(1024), default=16_384, show_default=True, help="How many, at most.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Actors, one core each.")
@json_option
@click.pass_obj
def ray(home: Path, name: str | None, chunks: int, workers: int, as_json: bool) -> None:
    """Encode chunks on a Ray cluster of this machine against this process alone: speed, start-up, the same bytes.

    \b
    Example:
      lookahead bench ray -c wiki --chunks 16384 --workers 2
    """
    from retrieval.benchmarks.ray import bench_ray

    _print(bench_ray(existing_collection(home, name), chunks, workers, _say), as_json)


@bench.command("wikitext")
@click.argument("dump", type=click.Path(path_type=Path, exists=True))
@click.argument("reference", type=click.Path(path_type=Path, exists=True))
def wikitext(dump: Path, reference: Path) -> None:
    """Compare our text of a DUMP with WikiExtractor's text of the same pages in the folder REFERENCE.

    \b
    Example:
      lookahead bench wikitext ../shared/data/dump/enwiki-20160407-pages-articles1-shortened.xml.bz2 \\
          ../shared/data/enwiki
    """
    from retrieval.benchmarks.wikitext import as_text, compare_with_extractor

    click.echo(as_text(compare_with_extractor(dump, reference)))


def _print(figures: Sequence[Figure], as_json: bool) -> None:
    from retrieval.benchmarks.measured import markdown

    if as_json:
        for figure in figures:
            print_json(figure.as_json())
    else:
        click.echo(markdown(figures))


def _counts(given: str, option: str) -> list[int]:
    """Whole numbers, ascending, of a list such as "1e4,100000"."""
    try:
        counts = sorted({int(float(part)) for part in given.split(",")})
    except (ValueError, OverflowError):
        counts = []
    if not counts or counts[0] < 1:
        raise LookaheadError(f"{option} is numbers separated by commas, such as 1e4,1e5,1e6, not {given!r}")
    return counts


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
