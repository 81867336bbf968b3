"""Training an inverter on sentences with a few words to choose: what it learns, what is written, that it resumes."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tiny_wordpiece import wordpiece
from torch import Tensor

from cli import main
from index import conversion
from index.build import Choices, ingest
from index.encoder import write_recipe
from index.hashing import HashingEncoder
from retrieval import models, plots
from retrieval import train_inverter as subject
from retrieval.inversion import Decoder
from retrieval.inverter import InverterNetwork, OwnInverter, Shape
from retrieval.inverters import WORDS, FoundInverter, InverterConfig, check_seals, find_inverter
from retrieval.models import CARD, CONFIG, CURVES, LOG, WEIGHTS
from retrieval.open_inverter import open_decoder
from retrieval.search import Searcher
from retrieval.spans import Spans
from retrieval.text_metrics import token_f1
from retrieval.train_inverter import InverterRecipe, TrainedInverter, Watched, train_inverter
from retrieval.training import CHECKPOINT
from retrieval.words import Words
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread", "small_start")

SLOTS = [
    ["old", "new", "grey", "small"],
    ["bridge", "mill", "tower", "barn"],
    ["stands", "leans", "burned", "sank"],
    ["river", "road", "hill", "sea"],
    ["spring", "summer", "autumn", "winter"],
]
KNOWN = [word for slot in SLOTS for word in slot] + ["the", "near", "in"]
QUICK = InverterRecipe(
    steps=150, first=0.45, batch=32, rate=1e-2, words=200, longest=16, pieces=16, pseudo=4, read=1, write=1, checks=4
)
BRIEF = replace(QUICK, steps=12, checks=2)  # 8 + 4, for what does not ask how well it is learned
WIDTH, INNER, HEADS = 32, 48, 4


def sentence(chance: random.Random) -> str:
    """Eleven words, of which five were chosen."""
    what, thing, did, where, when = (chance.choice(slot) for slot in SLOTS)
    return f"The {what} {thing} {did} near the {where} in the {when}."


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bert() -> dict[str, Tensor]:
    """As much of an encoder's weights as a network begins with, by their authors' names; one layer."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    sizes = {
        "attention.self.query": (WIDTH, WIDTH),
        "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (INNER, WIDTH),
        "output.dense": (WIDTH, INNER),
    }
    told = {
        "embeddings.word_embeddings.weight": drawn(wordpiece(KNOWN).get_vocab_size(), WIDTH),
        "embeddings.position_embeddings.weight": drawn(64, WIDTH),
        "embeddings.token_type_embeddings.weight": drawn(2, WIDTH),
    }
    for name, (out, into) in sizes.items():
        told |= {f"encoder.layer.0.{name}.weight": drawn(out, into), f"encoder.layer.0.{name}.bias": drawn(out)}
    for name in ("embeddings.", "encoder.layer.0.attention.output.", "encoder.layer.0.output."):
        told |= {f"{name}LayerNorm.weight": torch.ones(WIDTH), f"{name}LayerNorm.bias": torch.zeros(WIDTH)}
    return told


OF_THE_ENCODER = subject.transformer_weights


@pytest.fixture(scope="module")
def small_start() -> Iterator[None]:
    """The hashing encoder has no weights to begin with, and a network of the usual size takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "transformer_weights", lambda recipe: (bert(), HEADS))
        patch.setattr(subject, "precision_for", lambda device: "f32")
        yield


def ingested(home: Path, name: str, pages: range, *, tokenizer: bool = True) -> None:
    """A collection of the hashing encoder, which has been given a tokenizer."""
    written(home, pages)

    def recipe_and_tokenizer(folder: Path, recipe: dict[str, Any]) -> None:
        write_recipe(folder, recipe)
        if tokenizer:
            wordpiece(KNOWN).save(str(folder / "tokenizer.json"))

    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.encoder.write_recipe", recipe_and_tokenizer)
        ingest(Collection(home / "collections" / name), [open_source(home / "pages.jsonl", "jsonl")], choices)


def written(home: Path, pages: range) -> None:
    """pages.jsonl, of eight sentences a page."""
    chance = random.Random(0)
    rows = [
        {"page_id": page, "title": f"Page {page}", "text": " ".join(sentence(chance) for _ in range(8))}
        for page in pages
    ]
    (home / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inverter")
    ingested(folder, "tales", range(1, 61))
    ingested(folder, "plain", range(1, 3), tokenizer=False)
    return folder


@pytest.fixture(scope="module")
def searcher(home: Path) -> Iterator[Searcher]:
    with Searcher.open(Collection(home / "collections" / "tales")) as one:
        yield one


def trained(searcher: Searcher, folder: Path, recipe: InverterRecipe = QUICK, **changes: Any) -> TrainedInverter:
    folder.mkdir(exist_ok=True, parents=True)
    return train_inverter(searcher, folder, name="mine", recipe=recipe, command="typed", quiet=True, **changes)


@pytest.fixture(scope="module")
def made(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedInverter]:
    folder = tmp_path_factory.mktemp("made") / "mine"
    return folder, trained(searcher, folder)


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """In so few steps nothing is learned, and there is nothing to see."""
    monkeypatch.setattr(subject.InverterTask, "trouble", lambda *_: None)
    monkeypatch.setattr(subject, "plot_inverter", lambda *_: None)


def brief(searcher: Searcher, folder: Path) -> TrainedInverter:
    return trained(searcher, folder, BRIEF, limit=70)


@pytest.fixture(scope="module")
def whole(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a brief training makes in one go."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject.InverterTask, "trouble", lambda *_: None)
        patch.setattr(subject, "plot_inverter", lambda *_: None)
        brief(searcher, folder)
    return folder


@pytest.fixture
def own(made: tuple[Path, TrainedInverter]) -> OwnInverter:
    return OwnInverter.open(FoundInverter("mine", made[0], InverterConfig.read(made[0]), shipped=False), exact=True)


# -- what it learns --------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_unseen_texts_are_likelier_from_their_own_vectors(
    made: tuple[Path, TrainedInverter],
) -> None:
    _, result = made
    losses = [line["loss"] for line in result.first.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert result.valid["likelihood"] > result.valid["others"] + 0.3
    assert result.valid["cosine"] > 0.8
    assert result.valid["F1"] > 0.75
    assert result.second.best["likelihood"] >= result.first.best["likelihood"] - 0.05  # the first is not forgotten


def test_it_decodes_vectors_of_test_articles(searcher: Searcher, own: OwnInverter) -> None:
    encoder = HashingEncoder()
    rows = searcher.store.articles(Split.TEST)
    texts = [text for row in rows for _, _, text in searcher.store.texts(row.first_chunk, row.first_chunk + 8)]
    vectors = encoder.encode(texts)
    gists = Decoder(own, encoder).decode(vectors, steps=1, beam=2)
    mine = np.mean([token_f1(gist.text, text) for gist, text in zip(gists, texts, strict=True)])
    others = np.mean([token_f1(gist.text, text) for gist, text in zip(gists[1:], texts, strict=False)])
    assert mine > 0.8
    assert mine > others + 0.15
    assert {gist.text[-1:] for gist in gists} == {"."}


def test_it_begins_as_the_encoder_where_it_can(made: tuple[Path, TrainedInverter]) -> None:
    config = made[1].config
    assert config.trained["layers_taken"] == 2
    assert config.options == Shape(
        128, config.options["words"], 16, width=WIDTH, inner=INNER, heads=HEADS, pseudo=4, read=1, write=1
    ).as_json()  # fmt: skip


# -- what is written -------------------------------------------------------------------------------------------------


def test_a_folder_holds_all_of_an_inverter_and_nothing_of_its_making(
    searcher: Searcher, made: tuple[Path, TrainedInverter]
) -> None:
    folder, result = made
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, WORDS, CARD, LOG, CURVES}
    config = InverterConfig.read(folder)
    assert config == result.config
    check_seals(FoundInverter("mine", folder, config, shipped=False))
    assert config.encoder == HashingEncoder().fingerprint
    assert config.longest == 16
    assert config.parameters == sum(value.numel() for value in InverterNetwork(Shape(**config.options)).parameters())
    train = searcher.store.articles(Split.TRAIN)
    assert config.trained["data"] == {
        "collection": "tales",
        "train_articles": len(train),
        "train_spans": sum(row.chunk_count for row in train),
    }
    assert config.trained["recipe"] == json.loads(json.dumps({name: getattr(QUICK, name) for name in QUICK.__slots__}))
    assert [config.trained[stage]["steps"] for stage in ("first", "second")] == [
        101,
        49,
    ]  # .45 and .55 of the time, a later one taking 2.5 times as long
    assert config.trained["valid_spans"] == sum(row.chunk_count for row in searcher.store.articles(Split.VALID))
    assert config.trained["valid"] == result.valid
    assert (folder / CURVES).read_bytes().startswith(b"\x89PNG")


def test_the_log_has_the_validations_of_both_stages(made: tuple[Path, TrainedInverter]) -> None:
    folder, result = made
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    assert [(line.pop("stage"), line["step"]) for line in lines] == [
        *(("first", step) for step in (25, 50, 75, 100, 101)),
        *(("second", step) for step in (12, 24, 36, 48, 49)),
    ]
    assert lines == [*result.first.history, *result.second.history]
    assert all("corrected F1" in line for line in lines[5:])
    assert not any("corrected F1" in line for line in lines[:5])


def test_the_curves_of_the_second_stage_stand_behind_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, legend, path: drawn.extend((figure, legend, path)))
    first = [{"step": step, "F1": 0.1 * step, "cosine": 0.2, "likelihood": -step} for step in (1.0, 2.0, 3.0)]
    second = [{**line, "corrected F1": 0.5, "corrected cosine": 0.6} for line in first[:2]]
    plots.plot_inverter([first, second], tmp_path / "curves.png", "a title")
    figure, legend, path = drawn
    assert path == tmp_path / "curves.png"
    left, right = figure.axes
    lines = [[(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for line in left.get_lines()]
    assert lines[0] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3)), (4, 0.1), (5, 0.2)]
    assert lines[1] == [(4, 0.5), (5, 0.5)]
    assert lines[-1] == [(3, 0), (3, 1)]  # where the second begins
    assert [y for _, y in zip(*right.get_lines()[0].get_data(), strict=True)] == [-1, -2, -3, -1, -2]
    assert [text.get_text() for text in legend.get_texts()] == [
        *("F1  (0.300 at best)", "corrected F1  (0.500 at best)", "cosine  (0.200 at best)"),
        *("corrected cosine  (0.600 at best)", "log-likelihood, nats a token (right axis)"),
    ]


def test_the_card_says_data_command_start_figures_and_what_it_is_worth(made: tuple[Path, TrainedInverter]) -> None:
    folder, result = made
    card = (folder / CARD).read_text(encoding="utf-8")
    valid = result.valid
    for said in (
        "# mine\n",
        "vector of `hashing` back into a text of at most 16 of its tokens: 4 pseudo-tokens, 1 layers that read, 1 that",
        f"{result.config.parameters:,} parameters in eight bits",
        "collection `tales`, training articles only",
        "`typed`",
        "rate 0.01",
        "| start | 2 layers and the token table are the encoder's |",
        "| training | 101 + 49 steps on cpu, ",
        f"| first text | {valid['F1']:.3f} | {valid['cosine']:.3f} |",
        f"| after one step | {valid['corrected F1']:.3f} | {valid['corrected cosine']:.3f} |",
        "Apache-2.0",
        "names, numbers and dates in it are invented",
    ):
        assert said in card


def test_the_inverter_is_found_by_its_encoder(home: Path, made: tuple[Path, TrainedInverter], tmp_path: Path) -> None:
    collection = Collection(tmp_path / "tales")
    shutil.copytree(made[0], tmp_path / "tales" / "models" / "inverters" / "mine")
    for name in (None, "mine"):
        found = find_inverter(collection, HashingEncoder().fingerprint, name, shipped=tmp_path)
        assert (found.name, found.shipped) == ("mine", False)
        OwnInverter.open(found)


def test_the_figures_kept_are_of_the_rounded_weights(
    searcher: Searcher, made: tuple[Path, TrainedInverter], own: OwnInverter
) -> None:
    spans = subject._watched(searcher, HashingEncoder(), QUICK)
    watched = Watched(spans, own.words, 16, HashingEncoder(), torch.device("cpu"))
    watched.correcting = True
    assert watched.figures(own.network) == pytest.approx(made[1].valid)
    rounded = load_file(made[0] / WEIGHTS)
    assert rounded["table.weight"].dtype == torch.int8
    assert rounded["bias"].dtype == torch.float16


def test_vectors_are_as_the_probe_says(own: OwnInverter) -> None:
    Decoder(own, HashingEncoder())  # refuses where they are not


# -- the same again --------------------------------------------------------------------------------------------------


@contextmanager
def killed(patch: pytest.MonkeyPatch, of: object, name: str, when: Callable[..., bool]) -> Iterator[None]:
    """The first call of a function for which `when` holds is the last thing that happens."""
    whole = getattr(of, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    with patch.context() as inner:
        inner.setattr(of, name, call)
        with pytest.raises(KeyboardInterrupt):
            yield


def steps_made(patch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which steps of which stage are made from now on."""
    made: list[tuple[str, int]] = []
    whole = subject.InverterTask.loss

    def loss(task: subject.InverterTask, step: int) -> Tensor:
        made.append((stage_of(task), step))
        return whole(task, step)

    patch.setattr(subject.InverterTask, "loss", loss)
    return made


def stage_of(task: subject.InverterTask) -> str:
    return "first" if task._examples.proposed is None else "second"


def same_files(one: Path, other: Path) -> None:
    for name in (WEIGHTS, WORDS):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    mine, theirs = ([json.loads(line) for line in (at / LOG).read_text().splitlines()] for at in (one, other))
    assert mine == theirs


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(
    ("stage", "at", "goes_on"),
    [
        ("first", 4, ("first", 0)),
        ("first", 8, ("first", 4)),
        ("second", 2, ("second", 0)),
        ("second", 4, ("second", 2)),
    ],
)
def test_killed_in_a_stage_it_goes_on_to_the_same_weights(
    searcher: Searcher,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    at: int,
    goes_on: tuple[str, int],
) -> None:
    with killed(
        monkeypatch, subject.InverterTask, "validate", lambda task, step: (stage_of(task), step) == (stage, at)
    ):
        brief(searcher, tmp_path)
    assert not (tmp_path / CONFIG).exists()
    steps = steps_made(monkeypatch)
    brief(searcher, tmp_path)
    assert steps[0] == goes_on
    same_files(tmp_path, whole)


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(
    ("of", "name", "when"),
    [
        (subject, "_proposed", lambda *_: True),
        (InverterNetwork, "write", lambda network, targets, *_: len(targets) == 72),  # all that is trained on
        (subject, "kept_spans", lambda folder, *_: folder.name == "reached"),
        (subject, "plot_inverter", lambda *_: True),
    ],
    ids=["before", "proposing", "embedding", "at the end"],
)
def test_killed_between_the_stages_the_first_is_not_trained_again(
    searcher: Searcher,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of: object,
    name: str,
    when: Callable[..., bool],
) -> None:
    with killed(monkeypatch, of, name, when):
        brief(searcher, tmp_path)
    steps = steps_made(monkeypatch)
    brief(searcher, tmp_path)
    assert steps[:1] == ([] if name == "plot_inverter" else [("second", 0)])
    same_files(tmp_path, whole)


def test_spans_are_embedded_once(searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed(monkeypatch, subject, "frequent", lambda *_: True):
        trained(searcher, tmp_path)
    asked: list[int] = []
    encode = HashingEncoder.encode
    monkeypatch.setattr(
        HashingEncoder, "encode", lambda self, texts: (asked.append(len(texts)), encode(self, texts))[1]
    )
    with killed(monkeypatch, subject, "frequent", lambda *_: True):
        trained(searcher, tmp_path)
    valid = sum(row.chunk_count for row in searcher.store.articles(Split.VALID))
    assert asked == [valid]  # and none that it is trained on


@pytest.mark.usefixtures("unjudged")
def test_the_same_seed_gives_the_same_weights_and_another_others(
    searcher: Searcher, whole: Path, tmp_path: Path
) -> None:
    brief(searcher, tmp_path / "same")
    same_files(tmp_path / "same", whole)
    trained(searcher, tmp_path / "other", replace(BRIEF, seed=1), limit=70)
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (whole / WEIGHTS).read_bytes()


# -- how long it takes -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unjudged")
def test_hours_are_planned_by_the_speed_and_a_plan_is_kept(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def clock(tick: float) -> Callable[[], float]:
        def told() -> float:
            now[0] += tick
            return now[0]

        return told

    # a step takes the tick of the clock: 36 s of hours hold 36 / (1.1 × 1) = 32.7 steps
    hourly = replace(QUICK, steps=None, hours=0.01, checks=1)
    with monkeypatch.context() as patch:
        patch.setattr(subject.time, "perf_counter", clock(1.0))
        with killed(patch, subject.InverterTask, "loss", lambda *_: True):
            trained(searcher, tmp_path, hourly, limit=70)
        plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
        assert plan["steps"] == [15, 7]  # .45 × 32.7, and .55 × 32.7 / 2.5
        patch.setattr(subject.time, "perf_counter", clock(7.0))  # a busier machine
        with killed(patch, subject.InverterTask, "validate", lambda task, step: stage_of(task) == "second"):
            trained(searcher, tmp_path, hourly, limit=70)
    result = trained(searcher, tmp_path, hourly, limit=70)
    assert (result.first.steps, result.second.steps) == (15, 7)


@pytest.mark.parametrize(
    "raw", ["[]", "{", '{"facts": 3, "steps": []}', '{"facts": {}, "steps": [1]}', '{"facts": {}}']
)
def test_a_damaged_plan_is_none(tmp_path: Path, raw: str) -> None:
    (tmp_path / "plan.json").write_text(raw, encoding="utf-8")
    assert subject._plan_in(tmp_path) == ({}, (0, 0))


@pytest.mark.usefixtures("unjudged")
def test_another_training_is_refused_before_anything_of_the_first_is_lost(
    searcher: Searcher, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed(monkeypatch, subject, "_proposed", lambda *_: True):
        brief(searcher, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for recipe, limit, said in (
        (replace(BRIEF, steps=14), 70, "recipe"),
        (replace(BRIEF, steps=None, hours=0.5), 70, "recipe"),
        (replace(BRIEF, seed=1), 70, "seed, recipe"),
        (BRIEF, 90, "limit"),
    ):
        with pytest.raises(LookaheadError, match=rf"\(different: {said}\); train under another --name, or add --res"):
            trained(searcher, tmp_path, recipe, limit=limit)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    brief(searcher, tmp_path)
    same_files(tmp_path, whole)


# -- when it is no use -----------------------------------------------------------------------------------------------


def test_an_inverter_that_ignores_its_vector_is_stopped(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = InverterNetwork.memory
    monkeypatch.setattr(InverterNetwork, "memory", lambda network, targets, *more: memory(network, 0 * targets, *more))
    with pytest.raises(LookaheadError, match=r"stopped at step 4: it writes no better from a text's vector \(-"):
        trained(searcher, tmp_path, BRIEF, limit=70)
    assert not (tmp_path / CONFIG).exists()
    assert not (tmp_path / "first" / CHECKPOINT).exists()


def test_trouble_is_known_half_way() -> None:
    task = subject.InverterTask.__new__(subject.InverterTask)
    same, apart = {"likelihood": -3.0, "others": -3.0}, {"likelihood": -3.0, "others": -3.1}
    assert task.trouble(same, 0.49) is None
    assert "(-3.00 nats a token) than from another's (-3.00)" in (task.trouble(same, 0.5) or "")
    assert task.trouble(apart, 1.0) is None


def test_too_few_spans_are_refused(searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(
        LookaheadError, match=r"^tales has \d+ training spans, an inverter needs 64 at least; ingest mo"
    ):
        trained(searcher, tmp_path, limit=20)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_takes_whole_articles(whole: Path) -> None:
    assert InverterConfig.read(whole).trained["data"] == {
        "collection": "tales",
        "train_articles": 9,
        "train_spans": 72,
    }


@pytest.mark.parametrize(
    ("valid", "said"), [(0, "0 validation articles, of 0 chunks"), (1, "1 .* articles, of 1 chunk")]
)
def test_without_two_validation_spans_it_is_refused_at_once(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: int, said: str
) -> None:
    whole = searcher.store.articles
    few = [replace(row, chunk_count=1) for row in whole(Split.VALID)[:valid]]
    monkeypatch.setattr(searcher.store, "articles", lambda split: few if split is Split.VALID else whole(split))
    with pytest.raises(LookaheadError, match=f"there are {said}.* to watch the training on"):
        trained(searcher, tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- what it is watched on -------------------------------------------------------------------------------------------


class Copying(InverterNetwork):
    """Writes one text whatever it is asked, and finds a text as likely as its first number says."""

    def __init__(self, words: Words, text: str) -> None:
        super().__init__(Shape(8, words.size, 16, width=8, inner=8, heads=1, read=0, write=0))
        self.ids = torch.from_numpy(words.ids([text], 16))
        self.read: list[list[int]] = []

    def forward(self, targets: Tensor, ids: Tensor, hypothesis: Any = None) -> Tensor:
        return targets[:, 0].mean()

    def write(self, targets: Tensor, width: int, hypothesis: Any = None) -> Tensor:
        if hypothesis is not None:
            self.read += hypothesis.ids.tolist()
        return self.ids[None].expand(len(targets), 1, -1)


def test_figures_are_those_of_what_is_written() -> None:
    words, encoder = Words(wordpiece(KNOWN)), HashingEncoder()
    texts = ["the old mill", "the new road"]
    watched = Watched(Spans(texts, encoder.encode(texts).astype(np.float16)), words, 16, encoder, torch.device("cpu"))
    copying = Copying(words, "the old road")
    told = watched.figures(copying)
    assert told["F1"] == pytest.approx(2 / 3)
    assert told["cosine"] == pytest.approx(
        float((encoder.encode(["the old road"]) @ encoder.encode(texts).T).mean()), abs=1e-3
    )
    assert told["likelihood"] == told["others"] == pytest.approx(-float(watched.spans.vectors[:, 0].mean()), abs=1e-3)
    assert set(told) == {"likelihood", "others", "F1", "cosine"}
    watched.correcting = True
    assert set(watched.figures(copying)) == {
        *told,
        *(f"corrected {name}" for name in ("F1", "cosine", "likelihood")),
        "both",
    }
    assert copying.read == words.ids(["the old road"] * 2, 16).tolist()


def test_others_are_the_same_texts_from_the_vectors_of_others(
    made: tuple[Path, TrainedInverter], own: OwnInverter
) -> None:
    encoder, texts = HashingEncoder(), ["the old mill stands", "the new barn sank", "the grey tower burned"]
    vectors = encoder.encode(texts).astype(np.float16)
    told = Watched(Spans(texts, vectors), own.words, 16, encoder, torch.device("cpu")).figures(own.network)
    ids = torch.from_numpy(own.words.ids(texts, 16))
    with torch.no_grad():
        for name, order in (("likelihood", [0, 1, 2]), ("others", [2, 0, 1])):
            loss = own.network(torch.from_numpy(vectors[order]).float(), ids)
            assert told[name] == pytest.approx(-float(loss), abs=1e-5)


def test_every_span_is_learned_once_an_epoch() -> None:
    examples = subject.Examples(np.zeros((10, 4), np.float16), np.zeros((10, 3), np.int32))
    task = subject.InverterTask(Any, examples, Any, 3, 0, torch.device("cpu"))  # type: ignore[arg-type]
    assert task.per_epoch == 3
    epochs = [np.concatenate([task._rows(step) for step in range(3 * epoch, 3 * epoch + 3)]) for epoch in range(2)]
    assert all(len(set(rows.tolist())) == 9 for rows in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert task._rows(1).tolist() == epochs[0][3:6].tolist()  # a step's rows are the same whenever it is made


class Echo(InverterNetwork):
    """Writes the text of the nearest vector it knows."""

    def __init__(self, vectors: Tensor, ids: Tensor, words: Words) -> None:
        super().__init__(Shape(128, words.size, 16, width=8, inner=8, heads=1, read=0, write=0))
        self.known, self.ids = vectors, ids

    def write(self, targets: Tensor, width: int, hypothesis: Any = None) -> Tensor:
        return self.ids[(targets.float() @ self.known.T).argmax(dim=1)][:, None]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_what_is_proposed_stands_beside_its_own_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(subject, "precision_for", lambda device: precision)
    words, encoder, chance = Words(wordpiece(KNOWN)), HashingEncoder(), random.Random(1)
    texts = list(dict.fromkeys(sentence(chance) for _ in range(500)))
    assert len(texts) > 300  # more than are written at once
    vectors, ids = encoder.encode(texts), words.ids(texts, 16)
    ids[::3, 1] = words.end  # what is written is not always what was asked: here one word
    echo = Echo(torch.from_numpy(vectors), torch.from_numpy(np.maximum(ids, 0)), words)
    examples = subject.Examples(vectors.astype(np.float16), words.ids(texts, 16).astype(np.int32))
    rows = np.array([7, 0, *range(20, 320)])
    pairs = subject._proposed(tmp_path, {}, echo, words, encoder, examples, rows, torch.device("cpu"), True)
    assert np.array_equal(pairs.vectors, examples.vectors[rows])
    assert np.array_equal(pairs.ids, examples.ids[rows])
    said = ["the" if row % 3 == 0 else texts[row] for row in rows.tolist()]
    assert pairs.proposed is not None
    assert np.array_equal(pairs.proposed, words.ids(said, 16))
    assert pairs.reached == pytest.approx(encoder.encode(said), abs=1e-3)


def test_in_the_second_stage_each_text_is_learned_with_its_hypothesis_and_without(own: OwnInverter) -> None:
    encoder, texts, said = HashingEncoder(), ["the old mill stands", "the new barn sank"], ["the mill", "the new sea"]
    ids, proposed = (own.words.ids(some, 16).astype(np.int32) for some in (texts, said))
    vectors, reached = (encoder.encode(some).astype(np.float16) for some in (texts, said))
    examples = subject.Examples(vectors, ids, proposed, reached)
    task = subject.InverterTask(own.network, examples, Any, 2, 0, torch.device("cpu"))  # type: ignore[arg-type]
    targets, tokens, hypothesis = examples.batch(np.arange(2), torch.device("cpu"))
    assert hypothesis is not None
    alone, beside = own.network(targets, tokens), own.network(targets, tokens, hypothesis)
    assert (alone - beside).abs() > 1e-3
    torch.testing.assert_close(task.loss(0), (alone + beside) / 2)
    torch.testing.assert_close(
        subject.InverterTask(own.network, subject.Examples(vectors, ids), Any, 2, 0, torch.device("cpu")).loss(0),  # type: ignore[arg-type]
        alone,
    )


# -- at the command line ---------------------------------------------------------------------------------------------


def run(home: Path, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), "train", "inverter", *arguments])


def test_help_says_how_it_is_called() -> None:
    result = CliRunner().invoke(main, ["train", "inverter", "--help"])
    assert result.exit_code == 0
    assert "lookahead train inverter --collection wiki\n" in result.stdout
    assert "lookahead train inverter -c wiki --hours 3 --name mine\n" in result.stdout
    assert "inverter" in CliRunner().invoke(main, ["train", "--help"]).stdout


SHORT = ("-c", "tales", "--steps", "6", "--batch", "16", "--checks", "1", "--words", "150", "--spans", "70")


@pytest.mark.usefixtures("unjudged")
def test_it_is_trained_from_the_command_line(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    told = run(home, *SHORT, "--name", "mine")
    assert told.exit_code == 0, told.stderr
    assert "inverter mine: " in told.stderr
    assert " 5 + 1 steps of 16" in told.stderr
    folder = home / "collections" / "tales" / "models" / "inverters" / "mine"
    said = told.stdout.splitlines()
    assert said[0].startswith("first text      token F1 0.")
    assert said[1].startswith("after one step  token F1 0.")
    assert said[-2:] == [f"kept in {folder}", "next: lookahead evaluate decode --collection tales --inverter mine"]
    config = InverterConfig.read(folder)
    assert config.trained["recipe"]["steps"] == 6
    quiet = run(home, *SHORT, "--name", "other", "--json", "--seed", "3")
    assert quiet.exit_code == 0, quiet.stderr
    assert quiet.stderr == ""
    [line] = quiet.stdout.splitlines()
    row = json.loads(line)
    assert row["steps"] == [5, 1]
    assert Path(row["folder"]) == folder.with_name("other")
    assert set(row) == {"name", "folder", "parameters", "valid", "steps", "seconds", "peak_bytes"}
    assert InverterConfig.read(folder.with_name("other")).trained["recipe"]["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-c", "tale"), 'there is no collection "tale"'),
        (("-c", "plain"), "has no tokenizer.json: an inverter needs one; ingest with --encoder bundled"),
        (("-c", "tales", "--spans", "9"), "training spans, an inverter needs 64 at least"),
        (("-c", "tales", "--name", "../up"), "is not a name for a model"),
        (("-c", "tales", "--name", "gtr-base"), "--name gtr-base is that of vec2text's inverter"),
        (("-c", "tales", "--device", "cuda"), "there is no GPU here"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_trained_is_one_line(
    home: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(home, *arguments, "--quiet")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr


# -- with an encoder of a transformer's --------------------------------------------------------------------------------


def tiny_encoder(folder: Path) -> Path:
    """A sentence-transformers model of random weights, with a BERT of two layers and mean pooling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing them
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    tokenizer = wordpiece(KNOWN)
    shape = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    with conversion._quiet():
        BertModel(shape).save_pretrained(folder / "bert")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **named).save_pretrained(
            folder / "bert"
        )
        parts = [modules.Transformer(str(folder / "bert")), modules.Pooling(32, pooling_mode="mean")]
        SentenceTransformer(modules=parts, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


@pytest.mark.slow
def test_from_an_ingest_with_a_real_encoder_to_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose vectors have all lengths: only their directions count."""
    monkeypatch.setattr(subject, "transformer_weights", OF_THE_ENCODER)
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none-came-with-it")
    written(tmp_path, range(1, 61))
    choices = Choices(encoder=str(tiny_encoder(tmp_path)), words=10, workers=1, quiet=True)
    collection = Collection(tmp_path / "collections" / "tales")
    ingest(collection, [open_source(tmp_path / "pages.jsonl", "jsonl")], choices)
    told = run(tmp_path, "-c", "tales", "--steps", "300", "--batch", "32", "--rate", "5e-3", "--words", "200", "--json")
    assert told.exit_code == 0, told.stderr
    row = json.loads(told.stdout)
    assert row["valid"]["likelihood"] > row["valid"]["others"] + 0.2
    with Searcher.open(collection) as searcher:
        decoder = open_decoder(searcher, None)
        assert isinstance(decoder.inverter, OwnInverter)
        assert not decoder.inverter.space.normalised
        shape = decoder.inverter.network.shape
        assert (shape.width, shape.heads, shape.inner) == (32, 4, 64)
        config = InverterConfig.read(collection.path / "models" / "inverters" / "inverter")
        assert config.trained["layers_taken"] == 4  # two that read, two that write
        rows = searcher.store.articles(Split.TEST)
        texts = [text for row in rows for _, _, text in searcher.store.texts(row.first_chunk, row.first_chunk + 8)]
        vectors = decoder.encoder.encode(texts)
        assert np.linalg.norm(vectors, axis=1).min() > 1.5
        gists = decoder.decode(vectors, steps=1, beam=2)
    mine = np.mean([token_f1(gist.text, text) for gist, text in zip(gists, texts, strict=True)])
    others = np.mean([token_f1(gist.text, text) for gist, text in zip(gists[1:], texts, strict=False)])
    assert mine > others + 0.1
