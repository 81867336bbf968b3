"""`bench scale` on a few hundred rows, and `bench plan` by arithmetic that can be done in the head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from index import build
from index.build import Choices, ingest
from index.dense import Hit, Kind, normalised
from index.encoder import HASHING, open_encoder, prepare
from index.layout import ENCODER
from retrieval.benchmarks import scale
from retrieval.benchmarks.measured import Run, forget
from retrieval.benchmarks.plan import Machine, Rates, chosen, in_words, leave_at, need
from retrieval.benchmarks.scale import Line, Measured, ScaleReport, bench_scale, fitted, write_report
from retrieval.benchmarks.scale_material import NOISE, Known, cut_alike, key_of, with_noise, write_material
from retrieval.benchmarks.scale_process import JOBS, Replayed, overlap
from retrieval.search import Searcher
from store.chunking import ChunkingRules, pieces_of
from store.generations import Collection
from store.records import Article, LookaheadError, Section
from store.sources import open_source

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "jetty", "kelp", "lagoon"]
QUESTIONS = ["birch and cedar", "where is the lagoon", "ember dune"]


def sentence(rng: np.random.Generator) -> str:
    return " ".join(["The", *(WORDS[place] for place in rng.integers(0, len(WORDS), 9))]) + "."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection "small" of 30 articles with two chunks of 30 words each, and one chunk of 15 that is too short."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    with (home / "pages.jsonl").open("w") as file:
        for page in range(1, 31):
            sections = [{"heading": f"S{part}", "text": " ".join(sentence(rng) for _ in range(3))} for part in (1, 2)]
            file.write(json.dumps({"page_id": page, "title": f"T{page}", "sections": sections}) + "\n")
        short = {"page_id": 99, "title": "short", "text": "One two three four five six seven eight nine ten eleven."}
        file.write(json.dumps(short) + "\n")
    choices = Choices(encoder=HASHING, words=60, quiet=True)
    ingest(Collection(home / "collections" / "small"), [open_source(home / "pages.jsonl")], choices)
    return home


def searcher_of(home: Path) -> Searcher:
    return Searcher.open(Collection(home / "collections" / "small"))


# -- pages and vectors -------------------------------------------------------------------------------------


def test_chunks_beyond_the_collection_are_real_ones_with_noise(home: Path, tmp_path: Path) -> None:
    with searcher_of(home) as searcher:
        material = write_material(searcher, [50, 150], tmp_path)
        real = searcher.vectors.between(0, 60)
        texts = [text for _, _, text in searcher.store.texts(0, 60)]
    assert (material.real, material.left_out) == (60, 1)
    small, large = ([json.loads(line) for line in path.read_text().splitlines()] for path in material.pages.values())
    assert small == large[:25]
    flat = [section["text"] for page in large for section in page["sections"]]
    assert len(flat) == 150
    assert flat[:60] == texts
    assert len({page["page_id"] for page in large}) == len({page["title"] for page in large}) == 75
    assert [page["title"].endswith("(copy 1)") for page in large] == [False] * 30 + [True] * 30 + [False] * 15
    assert sorted(" ".join(flat[60:120]).split()) == sorted(" ".join(texts).split())
    known = Known(tmp_path).of(flat)
    assert known[:60] == pytest.approx(real)
    near = normalised(known[60:]) @ normalised(real).T
    origins = [sorted(text.split()) for text in texts]
    cosine = 1 / np.sqrt(1 + NOISE**2)
    for row, text in enumerate(flat[60:]):
        assert near[row][origins.index(sorted(text.split()))] == pytest.approx(cosine, abs=0.15)


def test_noise_has_the_length_it_is_said_to_have() -> None:
    rows = np.tile(np.float32([[3, *[0] * 383]]), (200, 1))
    noisy = with_noise(rows, np.random.default_rng(0))
    assert np.linalg.norm(noisy, axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert noisy[:, 0].mean() == pytest.approx(1 / np.sqrt(1 + NOISE**2), abs=0.01)


def test_a_text_is_known_whatever_its_white_space_and_another_is_refused(home: Path, tmp_path: Path) -> None:
    with searcher_of(home) as searcher:
        write_material(searcher, [10], tmp_path)
        text, row = searcher.store.texts(7, 8)[0][2], searcher.vectors.gather([7])
        replayed = Replayed(open_encoder(searcher.generation.path / ENCODER), Known(tmp_path))
    assert replayed.encode([text.replace(" ", "  ")]) == pytest.approx(row)
    assert replayed.fingerprint.model == HASHING
    assert replayed.encode_queries(["a question"]).shape == row.shape
    with pytest.raises(LookaheadError, match="a chunk was cut that has no vector: 'never seen'"):
        replayed.encode([text, "never seen"])
    assert key_of("a b") == key_of("ab\n") != key_of("ba")


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("word " * 20, True),
        ("word " * 19, False),  # would be read with the next section
        ("word " * 105 + "one.Two " * 7, True),
        ("word " * 113, False),
        ("word " * 30 + "London–Paris–Marseille–Pisa", False),  # counts for thirteen words
    ],
)
def test_a_chunk_is_taken_where_it_is_cut_alike_again(text: str, alike: bool) -> None:
    assert cut_alike(text, 80) is alike
    if alike:
        pieces = pieces_of(Article(1, "t", (Section("h", text),)), ChunkingRules(words=80))
        assert [key_of(piece.text) for piece in pieces] == [key_of(text)]


# -- the whole ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["here", pytest.param("apart", marks=pytest.mark.slow)])
def report(request: pytest.FixtureRequest, home: Path) -> ScaleReport:
    """By the jobs' own functions, or as processes of their own, which takes seconds."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "prepare", prepare)  # so that it is put back
        if request.param == "here":
            patch.setattr(scale, "_apart", lambda job: json.loads(json.dumps(JOBS[job["job"]](job))))
            patch.setattr(scale, "run", lambda arguments: Run(0.5, 100, ""))
        collection = Collection(home / "collections" / "small")
        report = bench_scale(collection, home, [100, 40], QUESTIONS, 10**9, "bench scale …", said.append, ["faiss"])
    assert "ingesting 40 chunks as a process of its own" in said
    return report


def test_every_size_is_ingested_whole_and_nothing_is_left(home: Path, report: ScaleReport) -> None:
    assert report.rows == [40, 100]
    assert (report.real, report.left_out) == (60, 1)
    assert sorted(path.name for path in home.iterdir()) == ["collections", "pages.jsonl"]
    assert [path.name for path in (home / "collections").iterdir()] == ["small"]
    for one in report.sizes:
        assert one.index["kind"] == "flat"
        assert one.recall == 1.0
        assert {"read", "encode", "lexical", "dense", "check", "publish"} <= one.seconds.keys()
        assert one.disk["vectors"] == 128 + 2 * report.dim * one.rows
        assert one.disk["dense"] == pytest.approx(4 * report.dim * one.rows, abs=200)
        assert 0 <= one.of_files < one.resident <= 4e9
        assert one.p50["dense"] <= one.p95["dense"]
        assert one.started > 0


def test_another_engine_is_asked_the_same(report: ScaleReport) -> None:
    assert [(one.rows, one.index) for one in report.others] == [(40, "faiss"), (100, "faiss")]
    for one in report.others:
        assert (one.same, one.overlap, one.recalls) == (1, 1, (1, 1))
        assert 0 < one.p50[1] <= one.p95[1]
    assert "| faiss | 100 |" in report.in_words()
    assert "faiss, 100 chunks: same 10 hits" in [figure.what for figure in report.figures()]


def test_answers_overlap_by_what_they_share_and_ties_are_the_same() -> None:
    ours = [Hit(1, 0.9), Hit(2, 0.8), Hit(3, 0.7), Hit(4, 0.6)]
    assert overlap(ours, ours) == 1
    assert overlap(ours, [*ours[:3], Hit(9, 0.6)]) == 1
    assert overlap(ours, [*ours[:3], Hit(9, 0.65)]) == 0.75
    assert overlap(ours, ours[:2]) == 0.5
    assert (overlap([], []), overlap([], ours)) == (1, 0)


def test_a_report_survives_being_written_and_says_what_is_noise(report: ScaleReport, tmp_path: Path) -> None:
    assert write_report(report, tmp_path) == ["scale.md", "scale.json", "scale.png"]
    again = ScaleReport.from_json(json.loads((tmp_path / "scale.json").read_text()))
    assert again == replace(report, sizes=again.sizes)
    assert again.in_words() == report.in_words()
    said = (tmp_path / "scale.md").read_text()
    assert "The first 60 chunks are real, the other 40 are real ones with noise" in said
    assert "| index, breadth | flat, 1 | flat, 1 | | |" in said
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


# -- fits --------------------------------------------------------------------------------------------------


def test_a_power_law_gives_its_exponent_and_no_residual() -> None:
    fit = fitted([10, 100, 1000], [3 * 10**0.5, 30, 3 * 1000**0.5])
    assert (fit.exponent, fit.factor) == (pytest.approx(0.5), pytest.approx(3))
    assert fit.off == pytest.approx(0, abs=1e-9)


def test_a_point_off_the_line_is_said_to_be() -> None:
    fit = fitted([1, 10, 100], [1, 10 * 8, 100])  # the line runs through twice the outer two
    assert (fit.exponent, fit.factor) == (pytest.approx(1), pytest.approx(2))
    assert fit.off == pytest.approx(3)


def test_what_was_not_measured_is_not_fitted() -> None:
    assert Line("a", "s", (None, 2.0, None)).fit([1, 10, 100]) is None
    fit = Line("a", "s", (1.0, None, 100.0)).fit([1, 10, 100])
    assert fit is not None
    assert fit.exponent == pytest.approx(1)


# -- goals and plans ---------------------------------------------------------------------------------------


def measured(rows: int, seconds: float) -> Measured:
    times = {"dense": 0.001, "deep": 0.002, "words": 0.001, "hybrid": 0.005}
    return Measured(
        rows=rows,
        index={"kind": "hnsw8", "breadth": 384},
        seconds={"read": seconds, "encoder": 99.0},
        peak=10**9,
        disk={"chunks": 400 * rows, "vectors": 768 * rows, "dense": 600 * rows, "lexical": 132 * rows},
        p50=times,
        p95=times,
        recall=0.98,
        resident=10**9,
        of_files=9 * 10**8,
        opened=0.1,
        opened_cold=None,
        started=1.0,
        started_cold=None,
    )


MADE = ScaleReport((measured(1_000, 1.0), measured(10_000, 30.0)), 10_000, 0, 384, 500.0, "")


def test_the_goals_are_judged_at_the_largest_size() -> None:
    verdicts = {figure.what: (figure.value, figure.reached) for figure in MADE.figures()}
    # 1,000 rows: 1 s and 2 s of encoding; 10,000 rows: 30 s and 20 s
    ratio = verdicts["ingest with encoding, rows a second at 10,000 against 1,000"]
    assert ratio == (pytest.approx(200 / (1000 / 3)), False)
    assert verdicts["hnsw8 index, 10 nearest of 10,000, p50"] == (pytest.approx(1), True)
    assert verdicts["its recall@10 against exact search, on real questions"] == (0.98, False)
    assert verdicts["resident, searching"] == (pytest.approx(1), True)


RATES = Rates.of(MADE)
MACHINE = Machine(memory=100e9, disk=1e12, share=0.6)


def test_a_plan_is_in_proportion_to_what_was_measured() -> None:
    assert Rates(10_000, 384, 1300, 0.003, 0.002) == RATES
    one = need(10**9, Kind.HNSW8, RATES, MACHINE)
    assert (one.memory, one.disk, one.machines) == (600e9, 1.9e12, 10)  # 600 GB of graph at 60 GB a machine
    assert (one.encoding, one.ingest) == (pytest.approx(2e6 / 3600), pytest.approx(3e6 / 3600))
    assert need(10**9, Kind.HNSW8, RATES, replace(MACHINE, disk=1e11)).machines == 19


@pytest.mark.parametrize(
    ("rows", "kind", "machines"),
    [
        (60_000_000, Kind.HNSW, 1),  # 984 bytes a row: 59 GB
        (61_000_000, Kind.HNSW8, 1),  # 60.02 GB with float16 copies
        (100_000_000, Kind.HNSW8, 1),
        (150_000_000, Kind.IVF, 1),  # 392 bytes a row: 58.8 GB
        (160_000_000, Kind.HNSW8, 2),
    ],
)
def test_the_best_index_that_one_machine_holds_is_chosen(rows: int, kind: Kind, machines: int) -> None:
    best = chosen(rows, RATES, MACHINE)
    assert (best.kind, best.machines) == (kind, machines)


def test_the_default_ends_where_the_first_of_its_limits_is_met() -> None:
    assert leave_at(RATES, MACHINE) == (28_800_000, "an ingest from nothing takes a day beside the encoding")
    fast = replace(RATES, ingest=1e-6)
    assert leave_at(fast, MACHINE)[0] == 100_000_000
    assert "memory" in leave_at(fast, MACHINE)[1]
    assert leave_at(fast, replace(MACHINE, disk=1.9e9)) == (1_000_000, "all of it no longer fits its disk")


def test_a_plan_is_printed_with_what_it_starts_from(tmp_path: Path) -> None:
    source = tmp_path / "scale.json"
    source.write_text(json.dumps(MADE.as_json()))
    told = CliRunner().invoke(main, ["bench", "plan", "--from", str(source), "--sizes", "1e9", "--workers", "10"])
    assert told.exit_code == 0, told.output
    assert "1,300 bytes a chunk on disk" in told.output
    assert "| 1,000,000,000 | **hnsw8** | 600.0 GB | 1.9 TB | 14 | 23.1 days | 2.3 days | 34.7 days |" in told.output
    assert "up to about 30,000,000 chunks" in told.output
    assert told.output.strip() == in_words([10**9], 10, RATES, Machine(64e9, 2000e9))
    source.write_text("{}")
    refused = CliRunner().invoke(main, ["bench", "plan", "--from", str(source)])
    assert refused.exit_code != 0
    assert "is no scale.json; run: lookahead bench scale" in refused.output


@pytest.mark.parametrize("sizes", ["", "many", "0", "1e4;1e5", "1e999"])
def test_sizes_that_are_none_are_one_line(tmp_path: Path, sizes: str) -> None:
    (tmp_path / "scale.json").write_text(json.dumps(MADE.as_json()))
    told = CliRunner().invoke(main, ["bench", "plan", "--from", str(tmp_path / "scale.json"), "--sizes", sizes])
    assert told.exit_code != 0
    assert f"--sizes is numbers separated by commas, such as 1e4,1e5,1e6, not {sizes!r}" in told.output


def test_a_file_is_forgotten_and_still_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert forget(tmp_path) == forget(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"
