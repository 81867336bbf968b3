"""Vectors back to words: the nearest text wins, corrections only help, order and limits are kept, bad vectors refused.

The inverters here are tables of texts, and the encoder sums the vectors of words, so that a text's nearness follows
from the words it shares.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_inverters import Tabled

from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from retrieval import inversion
from retrieval.inversion import Decoder, Gist, check_effort, check_vectors
from store.records import LookaheadError

Floats = NDArray[np.float32]

ENCODER = HashingEncoder()
WORDS = ["stone", "bridge", "river", "old", "road", "mill", "hill", "tea", "cup", "slow", "green", "sail"]
GOAL = "stone bridge river old"


def decoder(inverter: Tabled) -> Decoder:
    return Decoder(inverter, ENCODER)


def goal(*texts: str) -> Floats:
    return ENCODER.encode(texts or [GOAL])


# -- which text is found -------------------------------------------------------------------------------------------


def test_the_proposal_nearest_to_the_vector_is_its_gist() -> None:
    (gist,) = decoder(Tabled(["tea cup", "stone bridge tea", GOAL, "river"])).decode(goal(), steps=0)
    assert gist == Gist(GOAL, pytest.approx(1.0, abs=1e-6), 0)


def test_the_cosine_told_is_that_of_the_texts_own_vector() -> None:
    (gist,) = decoder(Tabled(["stone bridge"])).decode(goal(), steps=0)
    assert gist.cosine == pytest.approx(float(goal()[0] @ goal("stone bridge")[0]), abs=1e-6)


def test_a_correction_that_comes_nearer_is_taken_with_the_step_it_came_at() -> None:
    ladder = Tabled(["stone"], {"stone": ["stone bridge"], "stone bridge": [GOAL]})
    found = [decoder(ladder).decode(goal(), steps=steps)[0] for steps in range(4)]
    assert [(gist.text, gist.step) for gist in found] == [("stone", 0), ("stone bridge", 1), (GOAL, 2), (GOAL, 2)]


def test_what_is_farther_is_never_taken_for_what_is_nearer() -> None:
    (gist,) = decoder(Tabled(["stone bridge"], {"stone bridge": ["tea cup"]})).decode(goal(), steps=3)
    assert (gist.text, gist.step) == ("stone bridge", 0)


def test_the_way_to_a_better_text_may_lead_through_a_worse_one_of_the_beam() -> None:
    inverter = Tabled(["stone bridge", "tea"], {"tea": [GOAL]})
    assert decoder(inverter).decode(goal(), steps=1, beam=2)[0].text == GOAL
    assert decoder(inverter).decode(goal(), steps=5, beam=1)[0].text == "stone bridge"


def test_only_the_beam_is_corrected_and_each_text_once() -> None:
    inverter = Tabled(["stone", "stone bridge", "tea"], {"stone bridge": ["stone bridge river", "tea"]})
    decoder(inverter).decode(goal(), steps=9, beam=2)
    assert inverter.asked == [["stone bridge", "stone"], ["stone bridge river"]]


def test_a_text_is_corrected_by_its_own_vector_and_the_one_asked_for() -> None:
    class Seeing(Tabled):
        def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
            assert np.allclose(vectors, ENCODER.encode(texts), atol=1e-6)
            assert np.allclose(targets[: len(targets) // 2], goal(GOAL), atol=1e-6)
            assert np.allclose(targets[len(targets) // 2 :], goal("tea"), atol=1e-6)
            return super().correct(targets, texts, vectors, width)

    inverter = Seeing(["stone", "mill"], {"stone": ["stone bridge", "river"]})
    decoder(inverter).decode(goal(GOAL, "tea"), steps=1, beam=2)
    assert [len(texts) for texts in inverter.asked] == [4]


def test_it_ends_when_nothing_is_left_to_correct() -> None:
    inverter = Tabled(["stone"], {"stone": ["stone"]})
    said: list[str] = []
    decoder(inverter).decode(goal(), steps=50, time_limit=60, tell=said.append)
    assert inverter.asked == [["stone"]]
    assert len(said) == 1  # no word of a limit that was not reached


def test_of_equally_near_texts_the_first_found_stays() -> None:
    inverter = Tabled(["road tea"], {"road tea": ["Road, tea!"]})  # the same words, and so the same vector
    (gist,) = decoder(inverter).decode(goal("road"), steps=2)
    assert (gist.text, gist.step) == ("road tea", 0)


@pytest.mark.parametrize("proposals", [[], ["", "  ", "\n"]])
def test_a_vector_without_words_has_an_empty_gist(proposals: list[str]) -> None:
    inverter = Tabled(proposals)
    assert decoder(inverter).decode(goal(GOAL, "tea"), steps=2) == [Gist("", 0.0, 0)] * 2
    assert inverter.asked == []


def test_no_vectors_have_no_gists() -> None:
    assert decoder(Tabled(["tea"])).decode(np.zeros((0, 128), dtype=np.float32)) == []


def test_each_vector_of_many_gets_its_own_gist_in_its_place() -> None:
    texts = [f"{one} {two} {number}" for number in range(5) for one in WORDS[:6] for two in WORDS[6:]]
    assert len(texts) == 180

    class Near(Tabled):
        def propose(self, targets: Floats, width: int) -> list[list[str]]:
            return [[texts[one] for one in np.argsort(-(ENCODER.encode(texts) @ row))[:width]] for row in targets]

    order = random.Random(0).sample(texts, 180)
    gists = decoder(Near([])).decode(ENCODER.encode(order), steps=1, beam=2)
    assert [gist.text for gist in gists] == order


def test_the_same_vectors_give_the_same_gists() -> None:
    vectors = goal(GOAL, "tea cup", "four sail mill")
    once, again = (decoder(Wanderer(3)).decode(vectors, steps=3, beam=3) for _ in range(2))
    assert once == again


# -- lengths -------------------------------------------------------------------------------------------------------


def test_lengths_do_not_count_where_the_space_is_of_normalised_vectors() -> None:
    inverter = Tabled(["stone bridge"])
    long, short = (decoder(inverter).decode(goal() * np.float32(scale), steps=0)[0] for scale in (1e5, 1e-5))
    assert long.cosine == pytest.approx(short.cosine, abs=1e-6)
    assert np.allclose(inverter.targets[0], inverter.targets[1], atol=1e-6)


def test_lengths_reach_the_inverter_where_they_count() -> None:
    class Long(HashingEncoder):
        @property
        def fingerprint(self) -> Fingerprint:
            return replace(super().fingerprint, normalised=False)

        def encode(self, texts: Sequence[str]) -> Floats:
            return super().encode(texts) * np.float32(7)

    inverter = Tabled(["stone bridge"], space=Long().fingerprint)
    (gist,) = Decoder(inverter, Long()).decode(goal() * np.float32(3), steps=0)
    assert np.linalg.norm(inverter.targets[0]) == pytest.approx(3)
    assert gist.cosine == pytest.approx(float(goal()[0] @ goal("stone bridge")[0]), abs=1e-6)


# -- properties ----------------------------------------------------------------------------------------------------


class Wanderer(Tabled):
    """Any texts for any vector, always the same ones; a wider beam is told the narrower one's and more."""

    def __init__(self, seed: int) -> None:
        super().__init__([])
        self.seed = seed

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        return [self._some(row.tobytes().hex(), width) for row in targets]

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        return [self._some(row.tobytes().hex() + text, width) for row, text in zip(targets, texts, strict=True)]

    def _some(self, key: str, width: int) -> list[str]:
        chance = random.Random(f"{self.seed} {key}")
        return [" ".join(chance.choices(WORDS, k=3)) for _ in range(16)][:width]


texts_of = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5)


@given(texts_of, st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=30)
def test_more_steps_never_lead_farther_away(texts: list[str], seed: int, beam: int) -> None:
    cosines = [
        [gist.cosine for gist in decoder(Wanderer(seed)).decode(goal(*texts), steps=steps, beam=beam)]
        for steps in range(4)
    ]
    assert all(
        after >= before - 1e-6 for pair in itertools.pairwise(cosines) for before, after in zip(*pair, strict=True)
    )


@given(texts_of, st.integers(0, 99), st.integers(0, 1))
@settings(max_examples=30)
def test_a_wider_beam_does_not_lead_farther_away_in_a_step(texts: list[str], seed: int, steps: int) -> None:
    """Later steps of a wider beam start elsewhere, and may end farther away, as in any beam search."""
    cosines = [
        [gist.cosine for gist in decoder(Wanderer(seed)).decode(goal(*texts), steps=steps, beam=beam)]
        for beam in (1, 2, 5)
    ]
    assert all(
        wide >= narrow - 1e-6 for pair in itertools.pairwise(cosines) for narrow, wide in zip(*pair, strict=True)
    )


@given(texts_of, st.integers(0, 99), st.integers(0, 2))
@settings(max_examples=20)
def test_every_vector_gets_words_and_their_true_cosine_whatever_is_beside_it(
    texts: list[str], seed: int, steps: int
) -> None:
    gists = decoder(Wanderer(seed)).decode(goal(*texts), steps=steps, beam=2)
    assert all(gist.text and 0 <= gist.step <= steps for gist in gists)
    own = np.einsum("nd,nd->n", ENCODER.encode([gist.text for gist in gists]), goal(*texts))
    assert [gist.cosine for gist in gists] == pytest.approx(own.tolist(), abs=1e-5)
    alone = [decoder(Wanderer(seed)).decode(goal(text), steps=steps, beam=2)[0] for text in texts]
    assert [gist.text for gist in gists] == [gist.text for gist in alone]


# -- time ----------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that moves only when an inverter works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(inversion, "time", SimpleNamespace(perf_counter=lambda: self.now))


class Slow(Wanderer):
    """Every call takes `call` seconds and `each` for every row, a correction so many times as long."""

    def __init__(self, clock: Clock, call: float, each: float, longer: float = 1.0) -> None:
        super().__init__(0)
        self.clock, self.call, self.each, self.longer = clock, call, each, longer

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        self.clock.now += self.call + self.each * len(targets)
        return super().propose(targets, width)

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        self.clock.now += self.longer * (self.call + self.each * len(targets))
        self.asked.append(list(texts))
        return super().correct(targets, texts, vectors, width)


class SlowLadder(Slow):
    """Comes a word nearer to `LONG` with each step, so that there is always a next one."""

    def _some(self, key: str, width: int) -> list[str]:
        return [" ".join(LADDER[: 1 + sum(word in key for word in LADDER)])]


LONG = " ".join(WORDS)
LADDER = ["stone", "sail", "mill", "bridge"]  # each comes nearer


def test_no_step_is_begun_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), []
    slow = SlowLadder(clock, 0.0, 1.0)
    (gist,) = decoder(slow).decode(goal(LONG), steps=9, beam=1, time_limit=3.5, tell=said.append)
    assert (clock.now, gist.step, gist.text) == (103.0, 2, "stone sail mill")  # the third step would end after 4 s
    assert said == [
        "the first texts took 1.0 s; all will take up to about 10.0 s",
        "the time limit of 3.5 s came after 2 of 9 steps",
    ]


def test_the_first_step_is_not_taken_to_be_as_short_as_the_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    decoder(Slow(clock, 0.0, 1.0)).decode(goal(), steps=1, beam=4, time_limit=3)  # the step would take 4 s
    assert clock.now == 101.0


def test_steps_that_take_longer_than_the_proposal_are_expected_to_go_on_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    decoder(SlowLadder(clock, 0.0, 1.0, longer=2)).decode(goal(LONG), steps=9, beam=1, time_limit=6.5)
    assert clock.now == 105.0  # 1 + 2 + 2 s, and the next step would end after 7 s


def test_a_step_of_fewer_texts_is_not_taken_to_be_shorter_than_any(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    decoder(Slow(clock, 3.0, 0.0)).decode(goal(GOAL, "tea"), steps=9, beam=1, time_limit=8)
    assert clock.now == 106.0


def test_without_time_every_vector_still_gets_its_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), []
    texts = [f"{word} {number}" for word in WORDS for number in range(13)]
    slow = Slow(clock, 1.0, 0.0)
    gists = decoder(slow).decode(goal(*texts), steps=3, time_limit=0.001, tell=said.append)
    assert len(gists) == 156
    assert all(gist.text and gist.step == 0 for gist in gists)
    assert slow.asked == []
    assert said[1:] == ["the time limit of 0.001 s came after 0 of 3 steps for 156 of 156 vectors"]


def test_the_first_vectors_leave_the_later_ones_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slow = SlowLadder(clock, 0.0, 1 / 64)
    gists = decoder(slow).decode(goal(*[LONG] * 192), steps=50, beam=1, time_limit=9)  # three blocks, a second a step
    assert [len(texts) for texts in slow.asked] == [64] * 6
    assert {gist.step for gist in gists} == {2}
    assert clock.now == 109


@given(
    st.integers(1, 150),
    st.integers(0, 4),
    st.integers(1, 3),
    st.floats(0, 2),
    st.floats(0.001, 0.1),
    st.floats(0.1, 99),
)
@settings(max_examples=40)
def test_the_time_limit_is_kept_where_the_first_words_can_be_had_in_it(
    count: int, steps: int, beam: int, call: float, each: float, limit: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        vectors = np.random.default_rng(count).normal(size=(count, 128)).astype(np.float32)
        gists = decoder(Slow(clock, call, each)).decode(vectors, steps=steps, beam=beam, time_limit=limit)
        assert len(gists) == count
        assert all(gist.text for gist in gists)
        parts = [min(64, count - start) for start in range(0, count, 64)]
        proposals = [call + each * part for part in parts]
        assert clock.now - 100 <= max(limit, len(parts) * max(proposals)) + 1e-6


def test_nothing_is_foretold_where_there_are_no_steps() -> None:
    said: list[str] = []
    decoder(Tabled(["tea"])).decode(goal(), steps=0, tell=said.append)
    assert said == []


def test_of_many_vectors_even_the_first_texts_are_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.inversion._AT_ONCE", 1)
    said: list[str] = []
    decoder(Tabled(["tea"])).decode(goal("tea", "mug"), steps=0, tell=said.append)
    assert len(said) == 1
    assert said[0].startswith("the first texts took ")


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones(128), "n × 128, not 128"),
        (np.ones((2, 3)), "n × 128, not 2 × 3"),
        (np.float32(1.0), "n × 128, not a single number"),
        (np.array([[1.0] * 128, [np.nan] * 128]), "vector 1 holds NaN or infinity"),
        (np.array([[np.inf] * 128]), "vector 0 holds NaN"),
        (np.array([[1.0] * 128, [0.0] * 128]), "vector 1 has length zero: it points nowhere"),
        (np.full((1, 128), 1e30), r"vector 0 has length 1e\+31: no encoder makes such vectors"),
    ],
)
def test_what_is_no_vector_of_the_space_is_refused(vectors: NDArray[np.float64], said: str) -> None:
    with pytest.raises(LookaheadError, match=said):
        check_vectors(np.asarray(vectors, dtype=np.float32), 128)
    with pytest.raises(LookaheadError, match=said):
        decoder(Tabled(["tea"])).decode(np.asarray(vectors, dtype=np.float32))


@pytest.mark.parametrize(
    ("steps", "beam", "limit", "said"),
    [
        (1000, 4, None, "--steps is between 0 and 50, not 1000"),
        (-1, 4, None, "--steps is between 0 and 50, not -1"),
        (1, 0, None, "--beam is between 1 and 16, not 0"),
        (1, 17, None, "--beam is between 1 and 16, not 17"),
        (1, 4, 0.0, "--time-limit is a number of seconds above 0, not 0"),
        (1, 4, -3.0, "above 0, not -3"),
        (1, 4, float("nan"), "above 0, not nan"),
    ],
)
def test_an_effort_out_of_reason_is_refused(steps: int, beam: int, limit: float | None, said: str) -> None:
    with pytest.raises(LookaheadError, match=said):
        check_effort(steps, beam, limit)
    with pytest.raises(LookaheadError, match=said):
        decoder(Tabled(["tea"])).decode(goal(), steps=steps, beam=beam, time_limit=limit)


def test_the_reasonable_efforts_at_the_ends_are_not() -> None:
    check_effort(0, 1, 0.001)
    check_effort(50, 16, float("inf"))


def test_an_encoder_of_another_space_is_refused_with_both_named() -> None:
    space = replace(ENCODER.fingerprint, model="other")
    with pytest.raises(LookaheadError, match=r"inverter tabled is for other 128d .*, but this is hashing 128d"):
        decoder(Tabled(["tea"], space=space))


@pytest.mark.parametrize("probe", [np.ones(128), np.zeros(128), np.full(128, np.nan)])
def test_an_encoder_that_calls_itself_right_but_places_texts_elsewhere_is_refused(probe: Floats) -> None:
    with pytest.raises(LookaheadError, match="places a probe text elsewhere"):
        decoder(Tabled(["tea"], probe=probe.astype(np.float32)))


def test_an_encoder_that_is_nearly_the_inverters_is_taken() -> None:
    probe = Tabled([]).probe()
    aside = np.random.default_rng(0).normal(size=128).astype(np.float32)
    aside -= probe * (aside @ probe)
    aside /= np.linalg.norm(aside)
    decoder(Tabled([], probe=probe + np.float32(0.1) * aside))  # cosine .995, as that of an encoder in eight bits
    with pytest.raises(LookaheadError, match=r"cosine 0\.981"):
        decoder(Tabled([], probe=probe + np.float32(0.2) * aside))
