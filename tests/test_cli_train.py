"""`train predictor` at the command line, and the whole way from there: evaluate, card, predict-next, leaderboard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from index.build import Choices, ingest
from retrieval import models, train_predictor
from retrieval.models import CARD, METRICS
from store.generations import Collection
from store.sources import open_source

QUICK = ("--epochs", "1", "--batch", "64", "--run", "16", "--checks", "2", "--ema", "0", "--quiet")


def story(page: int) -> str:
    """Twelve sentences of ten words; a word lives for three of them, so neighbours have much in common."""
    return " ".join(
        " ".join(f"w{page}x{(9 * place + word) // 3}" for word in range(9)) + f" end{page}." for place in range(12)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two collections: `tales`, and `note`, which is too small for anything."""
    folder = tmp_path_factory.mktemp("cli-train")
    for name, pages in (("tales", range(1, 61)), ("note", range(1, 2))):
        rows = ({"page_id": page, "title": f"Page {page}", "text": story(page)} for page in pages)
        (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
        ingest(Collection(folder / "collections" / name), [open_source(folder / "pages.jsonl", "jsonl")], choices)
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none-came-with-it")
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same home with a model `residual` of `tales`."""
    folder = tmp_path_factory.mktemp("cli-trained") / "home"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "SHIPPED", folder / "none-came-with-it")
        assert train(folder, "residual", "-c", "tales", *QUICK).exit_code == 0
    return folder


@pytest.fixture
def residual(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with that model."""
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none-came-with-it")
    return Path(shutil.copytree(trained, tmp_path / "home"))


def run(home: Path, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *arguments])


def train(home: Path, *arguments: str) -> Result:
    return run(home, "train", "predictor", *arguments)


def test_from_training_to_a_prediction(home: Path) -> None:
    trained = train(home, "residual", "-c", "tales", *QUICK, "--half")
    assert trained.exit_code == 0, trained.stderr
    said = trained.stdout.splitlines()
    assert said[0].startswith("residual  ")
    assert said[1].startswith("copy-last  ")
    assert said[-1] == "next: lookahead evaluate next --collection tales --model residual --baselines"
    folder = home / "collections" / "tales" / "models" / "residual"
    assert not (folder / METRICS).exists()

    evaluated = run(home, "evaluate", "next", "-c", "tales", "--model", "residual", "--quiet")
    assert evaluated.exit_code == 0, evaluated.stderr
    figures = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    assert set(figures["rows"]) >= {"residual", "copy-last", "ridge", "oracle"}
    assert figures["rows"]["oracle"]["R@1"]["mean"] == 1
    card = (folder / CARD).read_text(encoding="utf-8")
    assert "test articles of `tales`" in card
    assert "R@5 against" in card

    foretold = run(home, "predict-next", "-c", "tales", "--article", "Page 9", "--position", "6")
    assert foretold.exit_code == 0, foretold.stderr
    assert "model residual" in foretold.stdout


def test_a_partial_evaluation_leaves_the_card_alone(residual: Path) -> None:
    folder = residual / "collections" / "tales" / "models" / "residual"
    less = (("--split", "valid"), ("--limit", "2"), ("--context", "2"), ("--bank", "article"), ("--no-baselines",))
    for partial in less:
        assert run(residual, "evaluate", "next", "-c", "tales", "--quiet", *partial).exit_code == 0
        assert not (folder / METRICS).exists()


def test_json_is_one_object(home: Path) -> None:
    result = train(home, "residual", "-c", "tales", "--name", "second", *QUICK, "--json")
    row = json.loads(result.stdout)
    assert row["model"] == "second"
    assert (Path(row["folder"]) / "weights.safetensors").is_file()
    assert set(row["valid"]) == set(row["copy_last"]) == {"MRR", "R@1", "R@5", "R@20", "cosine", "spread"}


def test_training_again_replaces_the_model_and_another_name_does_not(residual: Path) -> None:
    folder = residual / "collections" / "tales" / "models"
    first = (folder / "residual" / "weights.safetensors").read_bytes()
    assert train(residual, "residual", "-c", "tales", *QUICK, "--seed", "1", "--name", "other").exit_code == 0
    assert (folder / "residual" / "weights.safetensors").read_bytes() == first
    assert train(residual, "residual", "-c", "tales", *QUICK, "--seed", "1").exit_code == 0
    assert (folder / "residual" / "weights.safetensors").read_bytes() != first
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["other", "residual"]


def test_training_begins_with_another_models_weights(residual: Path) -> None:
    more = train(residual, "residual", "-c", "tales", *QUICK, "--name", "more", "--from", "residual")
    assert more.exit_code == 0, more.stderr
    other = train(residual, "amn", "-c", "tales", *QUICK, "--from", "residual")
    assert other.exit_code == 2
    assert "residual holds a predictor residual, not amn" in other.stderr
    plain = train(residual, "residual", "-c", "tales", *QUICK, "--from", "residual", "--plain", "--name", "plain")
    assert plain.exit_code == 2
    assert "is not of a Residual of this size" in plain.stderr


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_numpy_or_torch_would_not_take_is_a_usage_error(home: Path, seed: str) -> None:
    for command in (("train", "predictor", "amn"), ("evaluate", "next"), ("evaluate", "data"), ("leaderboard",)):
        result = run(home, *command, "-c", "tales", "--seed", seed)
        assert result.exit_code == 2
        assert "Invalid value for '--seed'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("amm", "-c", "tales"), "there is no predictor 'amm'; there are: amn, gru, lstm"),
        (("amn", "-c", "tale"), 'there is no collection "tale"'),
        (("amn", "-c", "note"), "split has 6 chunks, so there is no window; ingest more articles"),
        (("amn", "-c", "tales", "--contrast", "0"), "nothing to train for"),
        (("amn", "-c", "tales", "--name", "../up"), "is not a name for a model"),
        (("amn", "-c", "tales", "--device", "cuda"), "there is no GPU here"),
        (("amn", "-c", "tales", "--from", "nobody"), "there is no model in"),
        (("amn", "-c", "tales", "--rate", "1e30", *QUICK), "error: "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_trained_is_one_line_and_leaves_no_model(
    home: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_predictor.torch.cuda, "is_available", lambda: False)
    result = train(home, *arguments, "--quiet")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr
    for name in ("tales", "note"):
        folder = home / "collections" / name / "models"
        assert not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir())
