"""`train reranker` at the command line: what it prints, that it can be read by a program, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_models import write_model

from cli import main
from index.build import Choices, ingest
from retrieval import models, train_reranker
from retrieval.models import WEIGHTS
from retrieval.rerankers import RerankerConfig
from store.generations import Collection
from store.sources import open_source

QUICK = ("--kind", "mlp", "--batch", "32", "--depth", "10", "--checks", "2")


def story(page: int) -> str:
    """Twelve sentences of ten words, of which each has eight of the one before."""
    return " ".join(" ".join(f"w{page}x{place + word}" for word in range(9)) + f" end{page}." for place in range(12))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two collections, `tales` with the models copy and sum, and `note`, too small for anything."""
    folder = tmp_path_factory.mktemp("cli-rerank")
    for name, pages in (("tales", range(1, 41)), ("note", range(1, 2))):
        rows = ({"page_id": page, "title": f"Page {page}", "text": story(page)} for page in pages)
        (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
        ingest(Collection(folder / "collections" / name), [open_source(folder / "pages.jsonl", "jsonl")], choices)
        write_model(folder / "collections" / name / "models" / "copy")
    write_model(folder / "collections" / "tales" / "models" / "other", trained={"valid": {"MRR": 0.1}})
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none-came-with-it")
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph takes seconds to make."""

    def written(network: object, folder: Path, dim: int, depth: int) -> None:
        for name in ("reranker.xml", "reranker.bin"):
            (folder / name).touch()

    monkeypatch.setattr(train_reranker, "export_reranker", written)


def train(home: Path, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), "train", "reranker", *arguments])


def rerankers(home: Path, collection: str = "tales") -> Path:
    return home / "collections" / collection / "models" / "rerankers"


def test_help_says_how_it_is_called() -> None:
    result = CliRunner().invoke(main, ["train", "reranker", "--help"])
    assert result.exit_code == 0
    assert "lookahead train reranker --collection wiki\n" in result.stdout
    assert "lookahead train reranker -c wiki --over amn --windows 50000\n" in result.stdout
    assert "reranker" in CliRunner().invoke(main, ["train", "--help"]).stdout


def test_the_best_model_is_reranked_and_what_comes_next_is_said(home: Path) -> None:
    result = train(home, "-c", "tales", *QUICK, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    said = result.stdout.splitlines()
    assert said[0].startswith("reranked          R@1 ")
    assert "seen MRR" in said[0]
    assert said[1].startswith("prediction alone  R@1 ")
    assert "% of " in said[2]
    assert said[3] == f"kept in {rerankers(home) / 'copy'}"
    assert said[4] == "next: lookahead evaluate next --collection tales --model copy --rerank"
    assert [path.name for path in rerankers(home).iterdir() if path.name[0] != "."] == ["copy"]
    config = RerankerConfig.read(rerankers(home) / "copy")
    assert config.trained["recipe"]["batch"] == 32
    assert (config.depth, config.blend) == (10, 0.7)
    # and it is used from now on
    foretold = CliRunner(catch_exceptions=False).invoke(
        main, ["--home", str(home), "predict-next", "-c", "tales", "--article", "Page 9", "--position", "6"]
    )
    assert foretold.exit_code == 0, foretold.stderr


@pytest.mark.usefixtures("unexported")
def test_json_is_one_line(home: Path) -> None:
    result = train(home, "-c", "tales", "--over", "other", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    [line] = result.stdout.splitlines()
    row = json.loads(line)
    assert row["over"] == "other"
    assert Path(row["folder"]) == rerankers(home) / "other"
    assert set(row) == {
        *("over", "folder", "parameters", "lists", "in_list", "valid", "first"),
        *("best_step", "steps", "ended", "seconds", "peak_bytes"),
    }
    names = {f"{view}{name}" for view in ("", "seen ") for name in ("MRR", "R@1", "R@5", "R@20")}
    assert set(row["valid"]) == set(row["first"]) == names


@pytest.mark.usefixtures("unexported")
def test_it_says_on_stderr_what_it_does_unless_quiet(home: Path) -> None:
    result = train(home, "-c", "tales", *QUICK)
    assert "mlp reranker over copy: 6,145 parameters, " in result.stderr
    assert " 100.0 % hold the next chunk" in result.stderr


@pytest.mark.usefixtures("unexported")
def test_training_again_replaces_the_reranker(home: Path) -> None:
    assert train(home, "-c", "tales", *QUICK, "--quiet").exit_code == 0
    first = (rerankers(home) / "copy" / WEIGHTS).read_bytes()
    again = train(home, "-c", "tales", *QUICK, "--quiet")
    assert again.exit_code == 0, again.stderr
    assert (rerankers(home) / "copy" / WEIGHTS).read_bytes() == first
    assert train(home, "-c", "tales", *QUICK, "--seed", "1", "--quiet").exit_code == 0
    assert (rerankers(home) / "copy" / WEIGHTS).read_bytes() != first
    assert {path.name for path in rerankers(home).iterdir()} == {"copy", ".copy.lock"}


@pytest.mark.usefixtures("unexported")
def test_an_interrupted_training_with_other_choices_is_kept_until_restart(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_reranker, "write_weights", killed)
        assert train(home, "-c", "tales", *QUICK, "--quiet").exit_code != 0
    assert not (rerankers(home) / "copy").exists()
    other = train(home, "-c", "tales", *QUICK, "--rate", "0.001", "--quiet")
    assert other.exit_code == 2
    assert len(other.stderr.splitlines()) == 1
    assert "holds another training that was interrupted" in other.stderr
    assert "--restart" in other.stderr
    assert train(home, "-c", "tales", *QUICK, "--rate", "0.001", "--restart", "--quiet").exit_code == 0
    config = RerankerConfig.read(rerankers(home) / "copy")
    assert config.trained["recipe"]["rate"] == 0.001


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-c", "tales", "--over", "nobody"), 'there is no model "nobody" for tales (there are: copy, other)'),
        (("-c", "tales", "--over", "../copy"), "is not a name for a model"),
        (("-c", "tale"), 'there is no collection "tale"'),
        (("-c", "note"), "split has 6 chunks, so there is no window; ingest more articles"),
        (("-c", "tales", "--device", "cuda"), "there is no GPU here"),
        (("-c", "tales", "--rate", "1e30", *QUICK), "error: "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_trained_is_one_line_and_leaves_no_reranker(
    home: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval import train_predictor

    monkeypatch.setattr(train_predictor.torch.cuda, "is_available", lambda: False)
    result = train(home, *arguments, "--quiet")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr
    for name in ("tales", "note"):
        folder = rerankers(home, name)
        assert not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir())


@pytest.mark.parametrize("wrong", [("--depth", "9"), ("--kind", "tree"), ("--seen", "2"), ("--seed", "-1")])
def test_what_means_nothing_is_a_usage_error(home: Path, wrong: tuple[str, str]) -> None:
    result = train(home, "-c", "tales", *wrong)
    assert result.exit_code == 2
    assert f"Invalid value for '{wrong[0]}'" in result.stderr
