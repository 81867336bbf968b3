"""The house: rooms look one way only, each heavy library has one home, a search loads none that it does not need."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import write_model

from index.build import Choices, ingest
from store.generations import Collection
from store.sources import open_source

ROOT = Path(__file__).parent.parent
ROOMS = ["store", "index", "retrieval", "commands", "cli"]  # each may look at those before it
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ROOMS
    for path in [ROOT / f"{room}.py", *(ROOT / room).rglob("*.py")]
    if path.exists()
)

# library → the files that may import it; a folder stands for all below it
HOMES = {
    "faiss": ("index/dense.py",),
    "tantivy": ("index/lexical.py",),
    "duckdb": ("store/duck.py",),
    "duckdb_engine": ("store/duck.py",),
    "psycopg": ("store/postgres.py",),
    "sqlalchemy": ("store/database.py", "store/duck.py", "store/postgres.py"),
    "mwparserfromhell": ("store/wikitext.py",),
    "defusedxml": ("store/sources/mediawiki.py",),
    "sentencex": ("store/chunking.py",),
    "nncf": ("index/quantize.py",),
    "openvino": ("index/graphs.py",),
    "tokenizers": (
        "index/fast.py",
        "index/static.py",
        "retrieval/inverter.py",
        "retrieval/spans.py",
        "retrieval/words.py",
    ),
    "torch": (
        "index/conversion.py",
        "retrieval/characters/model.py",
        "retrieval/characters/task.py",
        "retrieval/decode.py",
        "retrieval/distill_losses.py",
        "retrieval/distillation.py",
        "retrieval/export.py",
        "retrieval/export_reranker.py",
        "retrieval/inverter.py",
        "retrieval/losses.py",
        "retrieval/rerank_features.py",
        "retrieval/rerank_lists.py",
        "retrieval/reranker.py",
        "retrieval/students.py",
        "retrieval/sweep_models.py",
        "retrieval/sweep_predictors.py",
        "retrieval/towers.py",
        "retrieval/train_inverter.py",
        "retrieval/train_predictor.py",
        "retrieval/train_reranker.py",
        "retrieval/train_towers.py",
        "retrieval/training.py",
        "retrieval/weights.py",
        "retrieval/predictors/",
        "retrieval/benchmarks/predictors.py",
        "retrieval/benchmarks/architectures.py",
    ),
    "sentence_transformers": ("index/conversion.py", "retrieval/students.py"),
    "transformers": ("index/conversion.py", "retrieval/decode.py", "retrieval/students.py"),
    "vec2text": ("retrieval/decode.py",),
    "mteb": ("retrieval/sts_hub.py",),
    "sacrebleu": ("retrieval/text_metrics.py",),
    "matplotlib": ("retrieval/plots.py",),
    "ray": ("index/ray_shards.py",),
    "tqdm": ("index/progress.py",),
    "pymilvus": ("index/milvus_server.py",),
    "milvus_lite": ("index/milvus_server.py",),
    "grpc": ("index/milvus_server.py",),
    "aiohttp": ("retrieval/benchmarks/load.py",),
    "anyio": ("retrieval/service/",),
    "fastapi": ("retrieval/service/",),
    "starlette": ("retrieval/service/",),
    "pydantic": ("retrieval/service/",),
    "orjson": ("retrieval/service/",),
    "uvicorn": ("retrieval/service/server.py",),
    "uvloop": ("retrieval/service/server.py",),
    "httptools": ("retrieval/service/server.py",),
    "prometheus_client": ("retrieval/service/meters.py",),
    "swagger_ui_bundle": ("retrieval/service/about_routes.py",),
    "click": ("cli.py", "commands/"),
}
# what takes seconds to import, or hundreds of megabytes
HEAVY = ["torch", "transformers", "sentence_transformers", "vec2text", "matplotlib", "scipy", "pandas", "sklearn"]
HEAVY += ["pymilvus", "milvus_lite", "grpc", "psycopg", "ray"]  # which only those need who asked for them


@functools.cache
def nodes(file: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def imported(file: str) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in it that is."""
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            yield node.module


def room_of(name: str) -> str:
    return name.replace("/", ".").removesuffix(".py").split(".")[0]


def calls(file: str) -> Iterator[ast.Call]:
    yield from (node for node in nodes(file) if isinstance(node, ast.Call))


# -- read, not run ---------------------------------------------------------------------------------------


def test_all_rooms_are_there() -> None:
    assert {room_of(file) for file in FILES} == set(ROOMS)


@pytest.mark.parametrize("file", FILES)
def test_a_room_looks_only_at_those_below_it(file: str) -> None:
    below = ROOMS[: ROOMS.index(room_of(file)) + 1]
    ours = {room_of(name) for name in imported(file)} & {*ROOMS, "tests"}
    assert ours <= set(below)


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_at_home_only(library: str) -> None:
    homes = HOMES[library]
    importers = {file for file in FILES for name in imported(file) if name.split(".")[0] == library}
    assert {file for file in importers if not any(file == home or file.startswith(home) for home in homes)} == set()


@pytest.mark.parametrize("library", ["faiss", "tantivy", "sqlalchemy", "mwparserfromhell", "torch", "openvino"])
def test_the_reader_of_imports_does_find_them(library: str) -> None:
    assert any(name.split(".")[0] == library for file in FILES for name in imported(file))


def test_nothing_of_ours_can_be_made_to_run_code_by_a_file() -> None:
    for file in FILES:
        modules = {name.split(".")[0] for name in imported(file)}
        assert not modules & {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, (
            file
        )
        for call in calls(file):
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            name = ast.unparse(call.func)
            assert options.get("allow_pickle", "False") == "False", file
            assert name not in ("eval", "exec"), file
            if name in ("torch.load", "load_state_dict_from_url"):
                assert options.get("weights_only") == "True", file


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) not in ("commands", "cli")])
def test_only_commands_print(file: str) -> None:
    assert not [call.lineno for call in calls(file) if ast.unparse(call.func) == "print"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_says_first_what_it_is(file: str) -> None:
    module = nodes(file)[0]
    assert isinstance(module, ast.Module)
    said = ast.get_docstring(module)
    assert said
    assert said.splitlines()[0].endswith((".", ":"))


# -- run, in a process of its own ------------------------------------------------------------------------


def loaded_by(code: str, *arguments: str | Path) -> set[str]:
    """The top-level modules in memory after some code."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert told.returncode == 0, told.stderr
    return set(told.stdout.splitlines()[-1].split())


def test_the_door_loads_next_to_nothing() -> None:
    assert not loaded_by("import cli") & {*HEAVY, "faiss", "openvino", "tantivy", "duckdb", "sqlalchemy", "numpy"}


@pytest.mark.parametrize(
    "room",
    [
        *("store.database", "index.build", "retrieval.search", "retrieval.predict", "retrieval.models"),
        *("retrieval.sequences", "commands.ingest", "commands.search", "commands.predict"),
        *("commands.serve", "retrieval.service.app"),
    ],
)
def test_no_heavy_library_is_loaded_by_importing(room: str) -> None:
    assert not loaded_by(f"import {room}") & set(HEAVY)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_whole_search_loads_no_heavy_library(tmp_path: Path, mode: str) -> None:
    page = {"page_id": 1, "title": "Bridge", "text": "A bridge carries loads over a river. " * 30}
    (tmp_path / "pages.jsonl").write_text(json.dumps(page) + "\n", encoding="utf-8")
    choices = Choices(encoder="hashing", workers=1, quiet=True)
    ingest(Collection(tmp_path / "wiki"), [open_source(tmp_path / "pages.jsonl", "jsonl")], choices)
    code = """
import sys
from pathlib import Path
from retrieval.search import Mode, Searcher
from store.generations import Collection
with Searcher.open(Collection(Path(sys.argv[1]))) as searcher:
    passages = searcher.search("who carries loads", 1, mode=Mode(sys.argv[2]))
assert passages[0].title == "Bridge", passages
"""
    loaded = loaded_by(code, tmp_path / "wiki", mode)
    assert not loaded & set(HEAVY)
    assert {"numpy", "duckdb"} <= loaded


@pytest.mark.parametrize("way", ["after", "text"])
def test_a_whole_prediction_loads_no_heavy_library(tmp_path: Path, way: str) -> None:
    text = "The old road leaves the village beside the stone bridge. Beyond it the road climbs a steep green hill."
    page = {"page_id": 1, "title": "Bridge", "text": text}
    (tmp_path / "pages.jsonl").write_text(json.dumps(page) + "\n", encoding="utf-8")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(Collection(tmp_path / "wiki"), [open_source(tmp_path / "pages.jsonl", "jsonl")], choices)
    write_model(tmp_path / "models" / "tiny")
    code = """
import sys
from pathlib import Path
from retrieval.predict import LookAhead
from retrieval.search import Searcher
from store.generations import Collection
with Searcher.open(Collection(Path(sys.argv[1]))) as searcher:
    look = LookAhead.open(searcher, texts=sys.argv[3] == "text", shipped=Path(sys.argv[2]))
    row = searcher.store.article_titled("Bridge")
    prediction = look.text("A road.", 1) if sys.argv[3] == "text" else look.after(row, 1, 1)
assert prediction.passages[0].title == "Bridge", prediction
"""
    loaded = loaded_by(code, tmp_path / "wiki", tmp_path / "models", way)
    assert not loaded & set(HEAVY)
    assert {"numpy", "duckdb", "openvino"} <= loaded


@pytest.mark.parametrize("room", ["index.graphs", "retrieval.runtime", "retrieval.export_reranker", "index.fast"])
def test_openvino_is_loaded_without_what_reports_its_use(room: str) -> None:
    loaded_by(f"import sys, {room}; assert sys.modules['openvino'] and sys.modules['openvino_telemetry'] is None")


def test_openvino_does_fall_back_to_its_stub() -> None:
    code = "import index.graphs; import openvino.tools.ovc.telemetry_utils as told; assert 'stub' in told.tm.__name__"
    assert "openvino_telemetry.main" not in loaded_by(code)
