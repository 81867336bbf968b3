"""A prediction in words: whose vectors are decoded, how long they are, and what the words are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_articles import article_rows, vectors_of
from tiny_inverters import Tabled

from index.hashing import HashingEncoder
from retrieval import gists
from retrieval.gists import COPY_LAST, PREDICTION, TRUTH, in_words
from retrieval.inversion import Decoder
from retrieval.predict import Context
from store.chunking import ChunkingRules, Prefix

Floats = NDArray[np.float32]

ENCODER = HashingEncoder()
FAR = "tea in a cup"
TEXTS = ["a stone bridge", "a bridge over a river", "a river and a mill", FAR]


def looking(folder: Path, *, normalised: bool = True, lengths: Sequence[float] = (1, 1, 1, 1)) -> Any:
    """What is read of a `LookAhead` with one article of four chunks, whose vectors have these lengths."""
    rows = ENCODER.encode(TEXTS) * np.array(lengths, dtype=np.float32)[:, None]
    searcher = SimpleNamespace(
        fingerprint=replace(ENCODER.fingerprint, normalised=normalised),
        vectors=vectors_of(folder, rows),
        encoder=ENCODER,
    )
    return SimpleNamespace(searcher=searcher, rules=ChunkingRules(words=10, prefix=Prefix.NONE))


def predicted(text: str, *, position: int | None = None, texts: Sequence[str] = (), true: int | None = None) -> Any:
    """What is read of a `Prediction` whose vector is that of a text."""
    row = None if position is None else article_rows([4])[0]
    context = Context(tuple(texts or TEXTS[:position]), position or len(texts), row, position)
    truth = None if true is None else SimpleNamespace(passage=SimpleNamespace(chunk=SimpleNamespace(chunk_id=true)))
    return SimpleNamespace(vector=ENCODER.encode([text])[0], context=context, truth=truth)


def test_inside_an_article_three_vectors_are_decoded_at_once_and_held_against_the_true_one(tmp_path: Path) -> None:
    inverter = Tabled(["stone mill", *TEXTS])
    told = in_words(
        looking(tmp_path),
        predicted("stone mill", position=2, true=2),
        Decoder(inverter, ENCODER),
        steps=0,
        beam=5,
    )
    assert [(one.of, one.gist.text) for one in told] == [
        (PREDICTION, "stone mill"),
        (TRUTH, TEXTS[2]),
        (COPY_LAST, TEXTS[1]),
    ]
    near = ENCODER.encode(["stone mill", TEXTS[2], TEXTS[1]]) @ ENCODER.encode([TEXTS[2]])[0]
    assert [one.to_truth for one in told] == pytest.approx(near.tolist(), abs=1e-3)
    assert [one.gist.cosine for one in told] == pytest.approx([1, 1, 1], abs=1e-3)
    assert [len(targets) for targets in inverter.targets] == [3]


def test_at_an_articles_end_nothing_is_true(tmp_path: Path) -> None:
    told = in_words(looking(tmp_path), predicted("tea", position=4), Decoder(Tabled(TEXTS), ENCODER), steps=0)
    assert [(one.of, one.gist.text, one.to_truth) for one in told] == [
        (PREDICTION, FAR, None),
        (COPY_LAST, FAR, None),
    ]


def test_after_a_text_its_last_chunk_is_what_copying_gives(tmp_path: Path) -> None:
    look, asked = looking(tmp_path), predicted("tea", texts=["a mill", "a river"])
    found = gists.vectors_of(look, asked)
    assert list(found) == [PREDICTION, COPY_LAST]
    assert np.allclose(found[COPY_LAST], ENCODER.encode(["a river"])[0])


def test_words_that_did_not_come_are_near_to_nothing(tmp_path: Path) -> None:
    class Wordy(HashingEncoder):
        def encode(self, texts: Sequence[str]) -> Floats:
            return super().encode([text or TEXTS[2] for text in texts])  # no text has a vector too, in most spaces

    told = in_words(looking(tmp_path), predicted("tea", position=2, true=2), Decoder(Tabled([]), Wordy()))
    assert [(one.gist.text, one.to_truth) for one in told] == [("", 0.0)] * 3


def test_in_a_space_with_lengths_a_prediction_is_as_long_as_its_context(tmp_path: Path) -> None:
    look = looking(tmp_path, normalised=False, lengths=(2, 4, 7, 9))
    found = gists.vectors_of(look, predicted("tea", position=2, true=2))
    lengths = {of: float(np.linalg.norm(vector)) for of, vector in found.items()}
    assert lengths == pytest.approx({PREDICTION: 3, TRUTH: 7, COPY_LAST: 4}, rel=1e-3)
    assert np.allclose(found[PREDICTION] / 3, ENCODER.encode(["tea"])[0], atol=1e-2)


def test_in_a_space_without_lengths_it_stays_as_it_is(tmp_path: Path) -> None:
    look = looking(tmp_path, lengths=(2, 4, 7, 9))
    assert np.linalg.norm(gists.vectors_of(look, predicted("tea", position=2))[PREDICTION]) == pytest.approx(1)


# -- a better model for words --------------------------------------------------------------------------------------


def model(name: str, cosine: object) -> Any:
    tower = {"kind": "residual"} if name == "tower" else {}
    return SimpleNamespace(name=name, config=SimpleNamespace(trained={"valid": {"cosine": cosine}}, tower=tower))


def test_a_model_with_a_tower_is_told_apart_where_nothing_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = looking(tmp_path)
    look.searcher.generation = SimpleNamespace(path=tmp_path / "gen")
    look.model = model("tower", 0.5)
    monkeypatch.setattr(gists, "fitting_models", lambda collection, space: [look.model])
    assert gists.better_for_words(look).startswith("model tower predicts for its own P tower")
    monkeypatch.setattr(gists, "fitting_models", lambda collection, space: [look.model, model("near", 0.6)])
    assert gists.better_for_words(look).endswith("for words take --model near")


@pytest.mark.parametrize(
    ("mine", "others", "best"),
    [
        (0.51, {"far": 0.4, "near": 0.61}, "near"),
        (0.51, {"far": 0.4, "near": 0.52}, None),  # not clearly
        (0.61, {"far": 0.4}, None),
        (0.0, {"near": 0.61}, None),  # it was not measured
        (0.51, {"near": "?"}, None),
        (0.51, {"tower": 0.61}, None),  # a space of its own is no better for words
        (0.51, {}, None),
    ],
)
def test_a_model_whose_vectors_are_clearly_nearer_to_the_true_ones_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: float, others: dict[str, object], best: str | None
) -> None:
    there = [model("mine", mine), *(model(name, cosine) for name, cosine in others.items())]
    monkeypatch.setattr(gists, "fitting_models", lambda collection, space: there if others else [])
    look = looking(tmp_path)
    look.searcher.generation = SimpleNamespace(path=tmp_path / "gen")
    look.model = there[0]
    told = gists.better_for_words(look)
    if best is None:
        assert told == ""
    else:
        assert told.startswith(
            "model mine orders chunks well, but on its validation articles its vectors have a cosine"
        )
        assert told.endswith("of 0.51 to the true ones, those of near 0.61: for words take --model near")
