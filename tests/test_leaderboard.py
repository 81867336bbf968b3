"""The leaderboard: what is computed from times, what a measuring process tells, how rows stand, and what is refused.

No test says how fast anything is.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import COPY_LAST, SUM, config_of, write_model
from tiny_pipelines import AGAINST_PREDICTION, write_reranker, write_towers

from cli import main
from index import fast
from index.build import Choices, ingest
from retrieval import models
from retrieval.benchmarks import architectures, predictors
from retrieval.benchmarks.architectures import PARAMETERS, Architecture, Architectures, smallest_cosine, write_fresh
from retrieval.benchmarks.predictors import OPENVINO, TORCH, Job, Machine, Speed, in_one, refuse_emulated, speed_of
from retrieval.benchmarks.speed_tables import aligned, in_markdown, milliseconds
from retrieval.export import export, export_tower
from retrieval.leaderboard import Leaderboard, Standing
from retrieval.models import GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS, WEIGHTS, ModelConfig, seal
from retrieval.next_report import Against
from retrieval.plots import plot_leaderboard
from retrieval.predictors import KINDS, build
from retrieval.reports import Estimate
from retrieval.rerankers import RERANKER, RERANKER_WEIGHTS
from retrieval.towers import Towers, build_tower
from retrieval.weights import write_weights
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source
from store.splits import split_of

MACHINE = Machine("a processor", 2, "3.11", "2.13", "2026.4.1-1234", 0.5)


def speed(runtime: str = OPENVINO, *, p50: float = 0.25, precision: str = "f32") -> Speed:
    return Speed(runtime, precision, 2, 0.3, p50, 0.5, 0.9, {1: 0.25, 8: 0.1, 32: 0.05, 128: 0.0125}, 30, 50, 100, 2.5)


def quick(job: Job) -> Speed:
    """What measuring would tell, without a process."""
    return speed(job.runtime, p50=0.25 if job.runtime == OPENVINO else 0.5)


# -- arithmetic ---------------------------------------------------------------------------------------------------


def test_percentiles_are_times_that_were_measured_in_milliseconds() -> None:
    seconds = [(1 + (37 * place) % 200) / 1000 for place in range(200)]  # 1 to 200 ms in some order
    assert in_one(seconds) == pytest.approx({"mean": 100.5, "p50": 101, "p95": 191, "p99": 199})


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=300))
def test_percentiles_come_in_their_order(seconds: list[float]) -> None:
    told = in_one(seconds)
    assert 1e3 * min(seconds) <= told["p50"] <= told["p95"] <= told["p99"] <= 1e3 * max(seconds)
    assert 1e3 * min(seconds) <= told["mean"] * (1 + 1e-9)
    assert told["mean"] <= 1e3 * max(seconds) * (1 + 1e-9)


def test_the_first_queries_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "_start", lambda runtime: None)
    monkeypatch.setattr(predictors, "_open", lambda job: (lambda context, mask: context[:, -1], "f32", 1))
    monkeypatch.setattr(predictors, "_each", lambda *_: iter([60.0, 60.0, 0.001, 0.002, 0.003]))
    folder = str(write_model(tmp_path / "tiny"))
    told = predictors.measure(Job(folder, OPENVINO, singles=3, warm_up=2, batches=(1,)))
    assert (told.mean, told.p50, told.p95, told.p99) == pytest.approx((2, 2, 3, 3))


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0196, ".0196"), (0.1174, ".117"), (1.204, "1.20"), (23.44, "23.4"), (1234.5, "1,234.5")]
)
def test_a_time_has_three_digits_that_matter(value: float, shown: str) -> None:
    assert milliseconds(value) == shown


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    grid = [["", "p50"], ["amn", ".1"], ["lstm-1024", "12.5"]]
    assert aligned(grid, 1) == ["            p50", "amn          .1", "lstm-1024  12.5"]
    assert in_markdown(grid, 1) == ["|  | p50 |", "|---|---:|", "| amn | .1 |", "| lstm-1024 | 12.5 |"]


# -- a process of its own -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own architecture at 16 dimensions, untrained."""
    folder = tmp_path_factory.mktemp("fresh") / "residual"
    assert write_fresh(folder, "residual", 16) == ModelConfig.read(folder).parameters
    return folder


@pytest.mark.parametrize("runtime", [TORCH, OPENVINO])
def test_a_process_of_its_own_tells_what_a_model_takes(fresh: Path, runtime: str) -> None:
    told = speed_of(Job(str(fresh), runtime, "f32", singles=10, warm_up=2, batches=(1, 4)))
    assert (told.runtime, told.precision) == (runtime, "f32")
    assert 0 < told.p50 <= told.p95 <= told.p99
    assert told.mean > 0
    assert list(told.batches) == [1, 4]
    assert all(each > 0 for each in told.batches.values())
    files = [WEIGHTS] if runtime == TORCH else [GRAPH, GRAPH_WEIGHTS]
    assert told.disk == sum((fresh / name).stat().st_size for name in files) / 1e6
    assert told.load > 0
    assert told.memory >= 0
    assert told.base > 20  # no interpreter with numpy is smaller
    assert told.threads >= 1


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Towers]:
    """Two towers at 128 dimensions, untrained, whose P tower is another space; and their folder."""
    folder = tmp_path_factory.mktemp("fresh") / "towers"
    folder.mkdir()
    query, passage = build("residual", 128, anchored=True).eval(), build_tower("reference", 128).eval()
    both = Towers(query, passage)
    write_weights(folder / WEIGHTS, both.kept(), half=False)
    export(query, folder, 128)
    export_tower(passage, folder)
    tower = {"kind": "reference", "options": {}}
    config_of(kind="residual", anchored=True, tower=tower, seals=seal(folder)).write(folder)
    return folder, both


@pytest.mark.parametrize("runtime", [TORCH, OPENVINO])
def test_of_two_towers_it_is_the_q_tower_that_answers(towers: tuple[Path, Towers], runtime: str) -> None:
    folder, both = towers
    context, mask = predictors.questions(7, 128)
    answer, _, _ = predictors._open(Job(str(folder), runtime, "f32"))
    with torch.inference_mode():
        wanted = both.query(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
    assert answer(context, mask) == pytest.approx(wanted, abs=1e-3)


def test_files_that_are_read_and_not_others_count_as_disk(towers: tuple[Path, Towers], tmp_path: Path) -> None:
    folder, _ = towers
    reranker = write_reranker(tmp_path / "reranker", folder, depth=7, blend=0.5)
    graphs = [GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS]

    def disk(runtime: str, place: Path | None = None) -> float:
        job = Job(
            str(folder), runtime, "f32", None if place is None else str(place), singles=2, warm_up=1, batches=(1, 3)
        )
        return predictors.measure(job).disk

    def size(place: Path, names: list[str]) -> int:
        return sum((place / name).stat().st_size for name in names)

    assert disk(TORCH) == size(folder, [WEIGHTS]) / 1e6
    assert disk(OPENVINO) == size(folder, graphs) / 1e6
    whole = size(folder, graphs) + size(reranker, [RERANKER, RERANKER_WEIGHTS])
    assert disk(OPENVINO, reranker) == whole / 1e6


def test_with_a_reranker_an_answer_is_a_list_that_stood_by_the_first_score(tmp_path: Path) -> None:
    folder = write_towers(tmp_path / "towers")
    context, mask = predictors.questions(3, 128)
    last = context[:, -1]
    for blend in (0.0, 0.5):
        reranker = write_reranker(tmp_path / "reranker", folder, AGAINST_PREDICTION, depth=9, blend=blend)
        answer, precision, _ = predictors._open(Job(str(folder), OPENVINO, "f32", str(reranker)))
        told = answer(context, mask)
        assert (told.shape, precision) == ((3, 9), "f32")
        rows, passages = (predictors._directions(9, 128, seed) for seed in (2, 3))
        decayed = context.transpose(0, 2, 1) @ [0.1, 0.12, 0.16, 0.22, 0.4]
        first = last @ passages.T + blend * (decayed / np.linalg.norm(decayed, axis=1, keepdims=True)) @ rows.T
        wanted = [-10 * passages[order] @ one for one, order in zip(last, np.argsort(-first, axis=1), strict=True)]
        assert told == pytest.approx(np.array(wanted), abs=1e-2)


def test_a_process_of_its_own_measures_a_reranker_too(tmp_path: Path) -> None:
    folder = write_towers(tmp_path / "towers")
    reranker = write_reranker(tmp_path / "reranker", folder)
    told = speed_of(Job(str(folder), OPENVINO, "f32", str(reranker), singles=4, warm_up=1, batches=(1, 2)))
    assert (told.runtime, told.precision, list(told.batches)) == (OPENVINO, "f32", [1, 2])
    (reranker / RERANKER_WEIGHTS).write_bytes(b"x")
    with pytest.raises(LookaheadError, match=r"reranker\.bin is damaged"):
        predictors.measure(Job(str(folder), OPENVINO, "f32", str(reranker)))


def test_what_a_process_cannot_load_is_refused_in_its_words(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    with pytest.raises(LookaheadError, match=r"cannot read .*weights\.safetensors.*train it again"):
        predictors.measure(Job(str(folder), TORCH))  # whose weights are none
    (folder / GRAPH_WEIGHTS).write_bytes(b"x")
    with pytest.raises(LookaheadError, match=r"predictor\.bin is damaged"):
        speed_of(Job(str(folder), OPENVINO))


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (-9, "", "", "measuring tiny in torch ended with exit code -9: is memory short?"),
        (1, "", "Traceback\nMemoryError: no\n", "measuring tiny in torch ended with exit code 1: MemoryError: no"),
        (0, "", "", "measuring tiny in torch gave no figures but ''"),
        (0, "hello\n", "", "measuring tiny in torch gave no figures but 'hello\\n'"),
    ],
)
def test_a_process_that_ends_without_figures_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, said: str
) -> None:
    ended = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(LookaheadError) as caught:
        speed_of(Job(str(tmp_path / "tiny"), TORCH))
    assert str(caught.value) == said


def test_a_speed_survives_json() -> None:
    assert Speed.from_json(json.loads(json.dumps(asdict(speed())))) == speed()


def test_noise_around_the_figures_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "a library says hello\n" + json.dumps({"speed": asdict(speed())}) + "\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, "and warns"))
    assert speed_of(Job("x", OPENVINO)) == speed()


def test_a_precision_that_would_be_imitated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "precisions", lambda: ["f32"])
    for sound in (None, "f32", "auto"):
        refuse_emulated(sound)
    with pytest.raises(LookaheadError, match="does not compute in bf16; take one of: f32, auto"):
        refuse_emulated("bf16")


# -- the architectures with fresh weights -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_they_are_compared_with_are_those_they_have(kind: str) -> None:
    with torch.device("meta"):
        model = build(kind, 768, anchored=kind == "residual")
    assert sum(value.numel() for value in model.parameters()) == PARAMETERS[kind]


def test_predictions_at_the_same_precision_are_the_same(fresh: Path) -> None:
    assert smallest_cosine(fresh, 16, "f32") == pytest.approx(1, abs=1e-6)


def architectures_of(dim: int, p50: float = 0.25, parameters: int = 5_120_768) -> Architectures:
    speeds = (speed(TORCH), speed(p50=p50), speed(precision="bf16", p50=0.81))
    return Architectures(dim, MACHINE, "cli.py", (Architecture("lstm", parameters, speeds, {"bf16": 0.99987}),))


def test_a_limit_is_met_up_to_itself_and_missed_above() -> None:
    told = architectures_of(768, p50=0.8).table().splitlines()
    assert "lstm: 5,120,768 parameters, as published ✓" in told
    assert "lstm, f32, one query (p50): .800 ms, at most 0.8 ✓" in told
    assert "lstm, bf16, one query (p50): .810 ms, at most 0.8 missed" in told
    assert "lstm, bf16, each of a batch of 128: .0125 ms, at most 0.12 ✓" in told
    assert "lstm, bf16: cosine to f32 at least 0.99987" in told
    assert "lstm: 5 parameters, as published missed: expected 5,120,768" in architectures_of(768, parameters=5).table()
    limits = architectures_of(768, p50=0.8).as_json()["rows"][0]["limits"]
    assert [(one["precision"], one["met"]) for one in limits] == [
        ("f32", True),
        ("f32", True),
        ("bf16", False),
        ("bf16", True),
    ]


def test_at_other_dimensions_there_is_nothing_to_compare_with() -> None:
    told = architectures_of(384)
    assert "at most" not in told.table()
    assert "published" not in told.table()
    assert told.as_json()["rows"][0]["limits"] == []
    assert told.as_json()["rows"][0]["expected"] is None


def test_bench_predictors_makes_exports_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    def measured(job: Job) -> Speed:
        config = ModelConfig.read(Path(job.folder))
        made.append({"kind": config.kind, "dim": config.dim, "runtime": job.runtime, "precision": job.precision})
        return quick(job)

    monkeypatch.setattr(architectures, "speed_of", measured)
    command = ["bench", "predictors", "--dim", "12", "--model", "amn", "--precision", "f32", "--json"]
    result = CliRunner(catch_exceptions=False).invoke(main, command)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    amn = {"kind": "amn", "dim": 12}
    assert made == [{**amn, "runtime": TORCH, "precision": None}, {**amn, "runtime": OPENVINO, "precision": "f32"}]
    assert told["rows"][0]["cosines"] == {}
    assert [one["runtime"] for one in told["rows"][0]["speeds"]] == [TORCH, OPENVINO]


def test_an_architecture_that_does_not_exist_is_one_line() -> None:
    result = CliRunner(catch_exceptions=False).invoke(main, ["bench", "predictors", "--model", "gpt"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"error: there is no predictor 'gpt'; there are: {', '.join(KINDS)}"]


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections cut alike and one cut otherwise, with the hashing encoder; none has a model.

    That one has no test article either."""
    home = tmp_path_factory.mktemp("leaderboard")
    untested = [page for page in range(20) if split_of(page) is Split.TRAIN]
    for name, words, pages in (("wiki", 20, range(40)), ("other", 20, range(100, 120)), ("long", 40, untested)):
        rows = []
        for page in pages:
            parts = [f"The {page} thing number {i // 3} stands beside item {i} of group {page % 7}." for i in range(24)]
            rows.append(json.dumps({"page_id": page, "title": f"Page {page}", "text": " ".join(parts)}))
        (home / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        choices = Choices(encoder="hashing", workers=1, quiet=True, words=words)
        ingest(Collection(home / "collections" / name), [open_source(home / f"{name}.jsonl", "jsonl")], choices)
    return home


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two models that can be computed in the head; measuring takes no process."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr(models, "SHIPPED", folder)
    monkeypatch.setattr(predictors, "speed_of", quick)
    write_model(folder / "sum", SUM)
    write_model(folder / "same", COPY_LAST)
    return folder


Told = tuple[int, str, str]
Runs = Callable[..., Told]


@pytest.fixture
def run(home: Path) -> Runs:
    def command(*arguments: str | Path) -> Told:
        result = CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return command


Measures = dict[str, dict[str, float]]


def alike(one: Measures, other: Measures) -> bool:
    """The same to three digits: where the processor has bfloat16, a graph that copies its input rounds it."""
    return one.keys() == other.keys() and all(one[name] == pytest.approx(other[name], abs=1e-3) for name in one)


def test_accuracy_is_what_the_evaluator_says(run: Runs, shipped: Path) -> None:
    code, out, err = run("leaderboard", "-c", "wiki", "--ood", "other", "--json")
    assert code == 0, err
    board = json.loads(out)
    code, out, err = run("evaluate", "next", "-c", "wiki", "--ood", "other", "--json")
    assert code == 0, err
    report = json.loads(out)

    def rows(raw: dict[str, list[dict[str, object]]]) -> dict[str, dict[str, object]]:
        table = next(one for one in raw["tables"] if one["view"] == "new")
        return {row["name"]: row["measures"] for row in table["rows"]}  # type: ignore[attr-defined]

    found = {one["name"]: one for one in board["standings"]}
    assert set(found) == {"same", "sum", "copy-last"}
    for name, one in found.items():
        assert one["measures"] == rows(report)[name]
        assert one["outside"] == rows(report["outside"][0])[name]
    assert alike(found["same"]["measures"], found["copy-last"]["measures"])
    assert (board["queries"], board["articles"]) == (report["queries"], report["articles"])


def test_rows_are_in_the_order_of_r5_and_efficiency_follows_from_it(run: Runs, shipped: Path) -> None:
    code, out, err = run("leaderboard", "-c", "wiki", "--json", "--quiet")
    assert code == 0, err
    (told,) = out.splitlines()
    standings = json.loads(told)["standings"]
    recalls = [one["measures"]["R@5"]["mean"] for one in standings]
    assert recalls == sorted(recalls, reverse=True)
    for one in standings:
        if one["name"] == "copy-last":
            assert (one["speeds"], one["against"]) == ([], None)
            continue
        assert [speed["runtime"] for speed in one["speeds"]] == [TORCH, OPENVINO]
        for each in one["speeds"]:
            assert each["efficiency"] == pytest.approx(1000 * one["measures"]["R@5"]["mean"] / each["p50"])
        assert one["shipped"]
        assert one["against"]["verdict"] in ("above", "below", "no difference")


@pytest.fixture
def towered(shipped: Path) -> Path:
    """The shipped two, and towers in whose space others are near; "same" and the towers have rerankers."""
    write_towers(shipped / "towers", parameters=1_000)
    write_reranker(shipped / "rerankers" / "towers", shipped / "towers", blend=0.5, parameters=30)
    write_reranker(shipped / "rerankers" / "same", shipped / "same", AGAINST_PREDICTION, parameters=4)
    return shipped


def test_pipelines_stand_as_the_evaluator_judges_them(
    run: Runs, towered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Job] = []
    monkeypatch.setattr(predictors, "speed_of", lambda job: asked.append(job) or quick(job))
    code, out, err = run("leaderboard", "-c", "wiki", "--ood", "other", "--json")
    assert code == 0, err
    found = {one["name"]: one for one in json.loads(out)["standings"]}
    code, out, err = run("evaluate", "next", "-c", "wiki", "--ood", "other", "--json")
    assert code == 0, err
    report = json.loads(out)
    names = {"same", "same + reranker", "sum", "towers", "towers + reranker", "copy-last"}
    assert set(found) == names
    for raw, measures in ((report, "measures"), (report["outside"][0], "outside")):
        table = next(one for one in raw["tables"] if one["view"] == "new")
        wanted = {row["name"]: row["measures"] for row in table["rows"]}
        assert {name: one[measures] for name, one in found.items()} == {name: wanted[name] for name in names}
    level = found["copy-last"]["measures"]
    assert found["towers"]["measures"]["cosine"] == pytest.approx(level["cosine"], abs=1e-3)  # the same prediction
    assert found["towers"]["measures"]["MRR@50"] != pytest.approx(level["MRR@50"], abs=1e-3)  # in another space
    assert found["same + reranker"]["measures"]["R@5"]["mean"] < level["R@5"]["mean"]  # it turns lists around
    assert "cosine" not in found["towers + reranker"]["measures"]

    def facts(name: str) -> tuple[object, ...]:
        one = found[name]
        return (
            one["kind"],
            one["tower"],
            one["reranked"],
            one["parameters"],
            [each["runtime"] for each in one["speeds"]],
        )

    assert facts("towers") == ("residual", "tiny", False, 1_000, [TORCH, OPENVINO])
    assert facts("towers + reranker") == ("residual", "tiny", True, 1_030, [OPENVINO])
    assert facts("same + reranker") == ("amn", "", True, 9, [OPENVINO])
    alone = [job for job in asked if job.reranker is not None]
    assert alone == [
        Job(str(towered / name), OPENVINO, None, str(towered / "rerankers" / name)) for name in ("same", "towers")
    ]
    assert len(asked) == 2 * 3 + 2


def test_a_reranked_row_is_told_with_what_it_is_not(run: Runs, towered: Path, tmp_path: Path) -> None:
    code, table, err = run("leaderboard", "-c", "wiki", "--ood", "other", "--out", tmp_path / "out", "--quiet")
    assert code == 0, err
    assert max(map(len, table.splitlines()[:-1])) <= 110
    lines = table.splitlines()
    row = next(line for line in lines if line.startswith("towers + reranker"))
    assert row.removeprefix("towers + reranker").split()[4] == "–"  # its cosine
    assert sum(line.startswith("towers + reranker  OpenVINO f32") for line in lines) == 2
    assert not any(line.startswith("towers + reranker  torch") for line in lines)
    said = " ".join(line.strip() for line in lines)
    assert "towers's reranker orders the best 6 by prediction · passage + 0.5 × decayed mean · chunk" in said
    assert "same's reranker orders the best 6 by prediction · passage + " not in said
    assert "a P tower counts in parameters, disk and load, and in no time" in said
    assert "a reranker gives an order and no vector, hence no cosine, and runs in OpenVINO only, in f32" in said
    markdown = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| towers + reranker | OpenVINO f32 | .300 | .250 |" in markdown
    assert (tmp_path / "out" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_in_torch_alone_a_reranked_row_has_no_speed(run: Runs, towered: Path, tmp_path: Path) -> None:
    arguments = ("--model", "towers", "--runtime", "torch", "--quiet", "--out", tmp_path / "out")
    code, table, err = run("leaderboard", "-c", "wiki", *arguments)
    assert code == 0, err
    assert sum(line.startswith("towers + reranker") for line in table.splitlines()) == 1
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text(encoding="utf-8"))
    assert {one["name"]: len(one["speeds"]) for one in board["standings"]} == {
        "towers": 1,
        "towers + reranker": 0,
        "copy-last": 0,
    }


def test_tables_fit_a_terminal_and_everything_is_written(run: Runs, shipped: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    code, table, err = run("leaderboard", "-c", "wiki", "--ood", "other", "--out", out, "--quiet")
    assert code == 0, err
    assert max(map(len, table.splitlines()[:-1])) <= 110  # the last is the command, which may be long
    heads = [line.split() for line in table.splitlines()]
    assert ["R@5", "MRR", "cosine", "R@5", "over", "baseline", "R@5", "outside", "MRR", "outside"] in heads
    assert ["mean", "p50", "p95", "p99", "×1", "×8", "×32", "×128", "efficiency"] in heads
    assert ["parameters", "disk", "MB", "memory", "MB", "load", "ms", "threads"] in heads
    for name in ("sum", "same"):
        assert table.count(f"\n{name} ") == 1 + 2 + 2
    assert "accuracy is that of the OpenVINO graphs in " in table
    assert "out: out of domain, other: " in table
    assert {path.name for path in out.iterdir()} == {"leaderboard.json", "leaderboard.md", "leaderboard.png"}
    assert (out / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    markdown = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert markdown.count("|---") == 6 + 1 + 10 + 1 + 6 + 1
    assert "| sum | OpenVINO f32 | .300 | .250 |" in markdown
    written = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert written["machine"]["cores"] >= 1


def test_one_model_in_one_runtime(run: Runs, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []
    monkeypatch.setattr(predictors, "speed_of", lambda job: asked.append(job) or quick(job))
    arguments = ("--model", "sum", "--model", "sum", "--runtime", "torch", "--runtime", "torch", "--precision", "f32")
    code, out, err = run("leaderboard", "-c", "wiki", "--quiet", *arguments)
    assert code == 0, err
    assert asked == [Job(str(shipped / "sum"), TORCH, "f32")]
    assert "OpenVINO f32" not in out
    assert "outside" not in out


def test_a_model_of_the_collection_comes_before_a_shipped_one_of_its_name(
    run: Runs, home: Path, shipped: Path, tmp_path: Path
) -> None:
    own = home / "collections" / "wiki" / "models"
    write_model(own / "sum", COPY_LAST)
    try:
        code, out, err = run("leaderboard", "-c", "wiki", "--json")
    finally:
        own.rename(tmp_path / "models")
    assert code == 0, err
    found = {one["name"]: one for one in json.loads(out)["standings"]}
    assert (found["sum"]["shipped"], found["same"]["shipped"]) == (False, True)
    assert alike(found["sum"]["measures"], found["copy-last"]["measures"])


def other_encoder(folder: Path) -> None:
    config = ModelConfig.read(folder)
    replace(config, encoder=replace(config.encoder, model="another")).write(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-c", "none"), 'there is no collection "none"'),
        (("-c", "wiki", "--model", "gru"), 'there is no model "gru" for wiki (there are: same, sum)'),
        (("-c", "wiki", "--model", "../x"), "'../x' is not a name for a model"),
        (("-c", "wiki", "--model", "foreign"), "model foreign is for another"),
        (("-c", "wiki", "--model", "copy-last"), "a model has the name of a baseline: copy-last"),
        (("-c", "wiki", "--model", "damaged"), "predictor.bin is damaged"),
        (("-c", "wiki", "--model", "unranked"), "reranker.bin is damaged"),
        (("-c", "wiki", "--ood", "wiki"), "wiki is the collection itself"),
        (("-c", "wiki", "--ood", "long"), "wiki and long are chunked differently"),
        (("-c", "wiki", "--ood", "none"), 'there is no collection "none"'),
        (("-c", "long"), "so there is no window"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    run: Runs, shipped: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    if "unranked" in arguments:
        write_reranker(shipped / "rerankers" / "unranked", write_model(shipped / "unranked"))
        (shipped / "rerankers" / "unranked" / RERANKER_WEIGHTS).write_bytes(b"x")
    for name in ("foreign", "damaged", "copy-last"):
        if name in arguments:
            write_model(shipped / name)
    if "foreign" in arguments:
        other_encoder(shipped / "foreign")
    if "damaged" in arguments:
        (shipped / "damaged" / GRAPH_WEIGHTS).write_bytes(b"x")
    code, out, err = run("leaderboard", *arguments, "--quiet", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_without_a_trained_model_it_says_how_to_get_one(
    run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "nothing")
    code, out, err = run("leaderboard", "-c", "wiki")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: wiki has no trained model for its encoder")
    assert line.endswith("run: lookahead train predictor amn --collection wiki")


# -- rows and the picture -----------------------------------------------------------------------------------------


def test_a_board_without_models_outside_has_no_such_columns() -> None:
    estimate = Estimate(0.5, 0.4, 0.6)
    measures = dict.fromkeys(("R@5", "MRR@50", "cosine"), estimate)
    against = Against("tiny", "R@5", "copy-last", Estimate(0.03, 0.01, 0.05))
    standing = Standing("tiny", "amn", "", False, 5, True, measures, {}, against, (speed(), speed(TORCH, p50=0.5)))
    level = {**measures, "R@5": Estimate(0.47, 0.4, 0.5)}
    base = Standing("copy-last", "", "", False, 0, False, level, {}, None, ())
    board = Leaderboard(
        "wiki", "test", 3, 40, 60, "", MACHINE, "cli.py leaderboard", 0, 2000, 0.95, (), (standing, base)
    )
    assert standing.efficiency(speed()) == 2000
    assert "tiny       .500 ±.100  .500 ±.100  .500 ±.100  +.030 ±.020 above" in board.table()
    assert "| tiny | .500 (.400 to .600) |" in board.markdown()
    assert "| +.030 (+.010 to +.050) above |" in board.markdown()
    assert board.points(TORCH) == {"tiny": (0.5, 0.5)}
    assert "P tower" not in board.table()
    assert "reranker" not in board.table()
    assert "machine: a processor, 2 cores, load average 0.5; Python 3.11, torch 2.13, OpenVINO 2026.4.1" in (
        board.table()
    )


@settings(max_examples=6)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), min_size=1, max_size=4))
def test_a_picture_can_be_drawn_of_any_points(points: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[bytes] = []
        patch.setattr("retrieval.plots.write_atomically", lambda path, raw: written.append(raw))
        named = {f"model_{place}_$": point for place, point in enumerate(points)}
        plot_leaderboard(named, ("copy-last", 0.4), Path("x.png"), "a title", "torch f32")
    assert written[0].startswith(b"\x89PNG")
