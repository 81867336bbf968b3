"""The sweep over next-chunk predictors: published shapes, what a configuration may not say, and the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from index.build import Choices, ingest
from retrieval import models
from retrieval.predictors import build
from retrieval.search import Searcher
from retrieval.sequences import Sequences
from retrieval.sweep import Value
from retrieval.sweep_predictors import KEYS, PredictorsTask, built
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source

SMALL: dict[str, Value] = {"kind": "mlp", "width": 8, "batch": 64, "run": 16, "checks": 2}


def task(dim: int = 768) -> PredictorsTask:
    """One that has no collection: it can check and count."""
    return PredictorsTask(Path("nowhere"), "none", None, 100, dim, {})


@pytest.mark.parametrize("kind", ["mlp", "lstm", "gru", "transformer-encoder", "amn", "lstm-1024", "transformer"])
def test_a_kind_alone_is_the_published_model(kind: str) -> None:
    with torch.device("meta"):
        published = sum(value.numel() for value in build(kind, 768, anchored=False).parameters())
    assert task().parameters({"kind": kind, "anchored": False}) == published
    assert task().parameters({"kind": kind}) == published + 6  # five weights and a gain


def test_the_published_encoder_and_this_one_predict_alike() -> None:
    torch.manual_seed(0)
    ours = built(task(16).checked({"kind": "transformer-encoder", "anchored": False}), 16).eval()
    theirs = build("transformer-encoder", 16, anchored=False).eval()
    names = {f"below.{place}.": f"layers.{place}." for place in range(3)} | {"top.": "layers.3."}
    weights = ours.state_dict()
    renamed = {}
    for name in theirs.state_dict():
        own = name
        for before, after in names.items():
            own = own.replace(before, after) if own.startswith(before) else own
        renamed[name] = weights[own]
    theirs.load_state_dict(renamed)
    context, mask = torch.randn(3, 5, 16), torch.tensor([[True] * 5, [False] * 2 + [True] * 3, [False] * 4 + [True]])
    torch.testing.assert_close(ours(context, mask), theirs(context, mask))


def test_depth_and_width_are_what_they_say() -> None:
    # 5·4 → 8 → 8 → 4: 20·8 + 8 + 8·8 + 8 + 8·4 + 4
    assert task(4).parameters({"kind": "mlp", "depth": 2, "width": 8, "anchored": False}) == 276
    assert task(4).parameters({"kind": "mlp", "depth": 2, "width": 8, "anchored": False, "context": 2}) == 276 - 96


@pytest.mark.parametrize("kind", ["mlp", "lstm", "gru", "transformer-encoder", "residual", "amn"])
def test_chunks_beyond_the_context_make_no_difference(kind: str) -> None:
    torch.manual_seed(0)
    given = task(16).checked({"kind": kind, "context": 2})
    model = built(given, 16).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    context, mask = torch.randn(4, 5, 16), torch.ones(4, 5, dtype=torch.bool)
    before = model(context, mask)
    context[:, :3] = torch.randn(4, 3, 16)
    assert torch.equal(model(context, mask), before)
    context[:, 3] = torch.randn(4, 16)
    assert not torch.allclose(model(context, mask), before)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hight": 1}, "predictors have no hight; there are: kind, depth, width, heads,"),
        ({"kind": "rnn"}, "kind = 'rnn': expected one of amn, gru,"),
        ({"loss": "mse"}, "loss = 'mse': expected one of contrast, cosine, both"),
        ({"width": "wide"}, "width = 'wide': expected a whole number"),
        ({"width": 12.5}, "width = 12.5: expected a whole number"),
        ({"depth": True}, "depth = True: expected a whole number"),
        ({"anchored": 1}, "anchored = 1: expected true or false"),
        ({"rate": float("nan")}, "rate = nan: expected a finite number"),
        ({"context": 6}, "context = 6: expected 1 to 5"),
        ({"kind": "amn", "width": 64}, "width = 64: there is no width to choose for amn"),
        ({"kind": "gru", "heads": 2}, "heads = 2: there is no heads to choose for gru"),
        ({"kind": "gru", "norm": "pre"}, "norm = 'pre': there is no norm to choose for gru"),
        ({"kind": "transformer-encoder", "width": 100}, "width = 100 is not a multiple of heads = 8"),
        ({"kind": "transformer-encoder", "width": 9, "heads": 3}, "width = 9: sinusoidal positions need an even width"),
        ({"batch": 1}, "batch = 1: there is nothing to tell a window's target from"),
    ],
)
def test_what_a_configuration_may_not_say(values: dict[str, Value], said: str) -> None:
    with pytest.raises(LookaheadError) as refused:
        task().checked(values)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_what_is_left_out_is_as_published_and_as_recommended() -> None:
    given = task().checked({"kind": "gru"})
    assert given.keys() == KEYS.keys()
    assert [given[key] for key in ("depth", "width", "heads", "rate", "batch")] == [4, 512, 0, 5e-4, 1024]
    assert task().checked(given) == given
    assert type(task().checked({"rate": 1})["rate"]) is float


def test_more_takes_more_memory() -> None:
    small, large = task().memory({"kind": "gru", "width": 64}), task().memory({"kind": "gru", "width": 2048})
    assert 5 * 10**8 < small < large < 10**10


# -- on a collection ---------------------------------------------------------------------------------------------------


def story(page: int) -> str:
    """Twelve sentences of ten words; a word lives for three of them, so neighbours have much in common."""
    return " ".join(
        " ".join(f"w{page}x{(9 * place + word) // 3}" for word in range(9)) + f" end{page}." for place in range(12)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep-predictors")
    for name, pages in (("tales", range(1, 61)), ("note", range(1, 2))):
        rows = ({"page_id": page, "title": f"Page {page}", "text": story(page)} for page in pages)
        (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
        ingest(Collection(folder / "collections" / name), [open_source(folder / "pages.jsonl", "jsonl")], choices)
    return folder


def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tales = PredictorsTask.of(home, "tales", queries=20)
    whole = tales.run(SMALL, 1, 6, tmp_path / "whole", quiet=True)
    own = PredictorsTask._training

    def dying(self: PredictorsTask, *arguments: object) -> object:
        training = own(self, *arguments)  # type: ignore[arg-type]
        usual = training.loss
        monkeypatch.setattr(training, "loss", lambda step: usual(step) if step < 5 else 1 / 0)
        return training

    monkeypatch.setattr(PredictorsTask, "_training", dying)
    with pytest.raises(ZeroDivisionError):
        tales.run(SMALL, 1, 6, tmp_path / "killed", quiet=True)
    monkeypatch.setattr(PredictorsTask, "_training", own)
    again = tales.run(SMALL, 1, 6, tmp_path / "killed", quiet=True)
    assert (again.figures, again.history, again.samples) == (whole.figures, whole.history, whole.samples)
    assert whole.steps == 6
    assert [line["step"] for line in whole.history] == [3, 6]


def test_figures_are_those_of_the_article_bank_without_the_context(home: Path) -> None:
    lines = PredictorsTask.of(home, "tales").references()
    assert set(lines) == {"copy-last", "context mean", "decayed mean"}
    ranks, cosines = [], []
    with Searcher.open(Collection(home / "collections" / "tales")) as searcher:
        articles = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
        for first, count in zip(articles.first.tolist(), articles.count.tolist(), strict=True):
            chunks = articles.between(first, first + count)
            for target in range(5, count):
                scores = chunks @ chunks[target - 1]
                cosines.append(float(scores[target]))
                others = [place for place in range(count) if not target - 5 <= place <= target]
                ranks.append(1 + sum(scores[place] >= scores[target] - 1e-6 for place in others))
    assert len(ranks) > 20
    assert lines["copy-last"]["test_r1"] == pytest.approx(sum(rank <= 1 for rank in ranks) / len(ranks))
    assert lines["copy-last"]["test_r3"] == pytest.approx(sum(rank <= 3 for rank in ranks) / len(ranks))
    assert lines["copy-last"]["test_loss"] == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-5)


def test_a_budget_of_time_becomes_steps(home: Path) -> None:
    tales = PredictorsTask.of(home, "tales", queries=20)
    assert 1 <= tales.steps_for(SMALL, 0.001) <= 2 < tales.steps_for(SMALL, 600.0)


def test_data_that_cannot_be_swept_over_is_refused(home: Path) -> None:
    with pytest.raises(LookaheadError, match="so there is no window; ingest more articles"):
        PredictorsTask.of(home, "note")


def run(home: Path, *arguments: str | Path) -> Result:
    runner = CliRunner(catch_exceptions=False)
    return runner.invoke(main, ["--home", str(home), "sweep", *map(str, arguments)])


GRID = '[base]\nbatch = 64\nrun = 16\n[grid]\nkind = ["mlp", "residual"]\nwidth = [8, 16]\n'


@pytest.mark.slow
def test_the_whole_way_at_the_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none-came-with-it")
    (tmp_path / "sweep.toml").write_text(GRID)
    asked = ("predictors", "-c", "tales", "--grid", tmp_path / "sweep.toml", "--budget", "4 steps", "--workers", "1")
    swept = run(home, *asked, "--out", tmp_path / "out")
    assert swept.exit_code == 0, swept.stderr
    assert "predictors: 4 configurations, 4 steps each" in swept.stdout
    assert "copy-last" in swept.stdout
    assert "mlp, width 8, seed 0: R@1 (dev)" in swept.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {"report.json", "report.md", "parameters.png", "time.png", "results.jsonl", "sweep.json"}
    again = run(home, *asked, "--out", tmp_path / "out", "--json", "--sort", "parameters")
    assert again.exit_code == 0, again.stderr
    told = json.loads(again.stdout)
    assert [row["name"] for row in told["rows"]] == [
        *("mlp, width 8", "mlp, width 16", "residual, width 8", "residual, width 16")
    ]
    assert told["columns"][0]["figure"] == "dev_r1"
    other = run(home, *asked[:-4], "--budget", "5 steps", "--out", tmp_path / "out")
    assert other.exit_code == 2
    assert "holds another sweep (different: budget); give another --out" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predictors", "-c", "tales"), "error: give the configurations with --grid FILE;"),
        (
            ("predictors", "-c", "tales", "--grid", "bad.toml"),
            "error: configuration hight 1: predictors have no hight;",
        ),
        (("predictors", "-c", "tales", "--grid", "sweep.toml", "--sort", "speed"), "error: --sort speed: expected one"),
        (("predictors", "-c", "tales", "--grid", "sweep.toml", "--budget", "soon"), 'error: a budget of "soon";'),
        (("characters", "-c", "tales"), "error: give the configurations with one of --preset published and --grid"),
        (("characters", "--preset", "published", "--text", "quijote.txt"), "error: --text quijote.txt: expected LANG"),
        (("characters", "--preset", "published", "--text", "a=b", "--text", "a=c"), "error: --text names a twice;"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(GRID)
    Path("bad.toml").write_text("[grid]\nhight = [1]\n")
    refused = run(home, *arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(said), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (home / "sweeps").exists()
