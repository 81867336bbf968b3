"""The inverter's network: layers as BERT's, texts as a slow clear search finds them, no look ahead; and as opened."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inverters import config_of
from tiny_wordpiece import wordpiece
from torch import Tensor, nn

import retrieval.inverter as subject
from index.hashing import HashingEncoder
from retrieval.inverter import Hypothesis, InverterNetwork, Layer, OwnInverter, Shape
from retrieval.inverters import WORDS, FoundInverter, seal
from retrieval.models import WEIGHTS
from retrieval.train_inverter import begin_as
from retrieval.weights import write_rounded
from retrieval.words import NONE, Words
from store.records import LookaheadError

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Shape(dim=6, words=3, longest=3, width=8, inner=16, heads=2, pseudo=2, read=1, write=2)
END = TINY.words


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of such small numbers two make hardly anything but way for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(shape: Shape = TINY, seed: int = 0, spread: float = 0.4) -> InverterNetwork:
    """In double precision, and with opinions: as it begins all texts are about as likely."""
    torch.manual_seed(seed)
    made = InverterNetwork(shape)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * spread)
    return made.double().eval()


def vectors(count: int, dim: int = TINY.dim, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def hypotheses(count: int, *, seed: int = 0, length: int = 4) -> Hypothesis:
    """Texts of 0, 1, 2 … tokens in turn."""
    ids = torch.full((count, length), NONE)
    generator = torch.Generator().manual_seed(seed)
    for row in range(count):
        many = row % length
        ids[row, :many] = torch.randint(END, (many,), generator=generator)
        ids[row, many] = END
    return Hypothesis(ids, vectors(count, seed=seed + 100))


def only(hypothesis: Hypothesis | None, row: int) -> Hypothesis | None:
    return None if hypothesis is None else Hypothesis(hypothesis.ids[[row]], hypothesis.vectors[[row]])


# -- a layer is BERT's -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it
        from transformers import BertConfig, BertModel
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=9, initializer_range=0.4,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


KEPT = [2, 5, 7, 50, 51, 52, 119]  # of BERT's tokens, those that are there
LIKE_BERT = Shape(dim=5, words=len(KEPT), longest=6, width=24, inner=40, heads=3, pseudo=2, read=2, write=2)


def test_a_network_that_begins_as_bert_has_its_states(bert: Any) -> None:
    ours = network(LIKE_BERT).float()
    assert begin_as(ours, bert.state_dict(), KEPT) == 4
    ids = torch.tensor([[0, 3, 6, 1, 2], [4, 4, 5, 0, 0]])
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    mask = torch.where(there.bool(), 0.0, -1e9)[:, None, None]
    with torch.no_grad():
        theirs = bert(torch.tensor(KEPT)[ids], attention_mask=there, output_hidden_states=True).hidden_states
        for layers in (ours.reading, ours.writing):
            states = ours._placed(ids)
            torch.testing.assert_close(states, theirs[0])
            for layer, wanted in zip(layers, theirs[1:], strict=True):
                states = layer(states, layer.keys_values(states), mask)
                torch.testing.assert_close(states[there.bool()], wanted[there.bool()], rtol=1e-4, atol=1e-5)


def test_one_more_layer_or_place_than_bert_has_begins_as_it_did(bert: Any) -> None:
    shape = Shape(dim=5, words=7, longest=12, width=24, inner=40, heads=3, pseudo=2, read=1, write=3)
    ours, untouched = network(shape).float(), network(shape).float()
    assert begin_as(ours, bert.state_dict(), KEPT) == 3
    assert torch.equal(ours.writing[2].query.weight, untouched.writing[2].query.weight)
    assert torch.equal(ours.places.weight[9:], untouched.places.weight[9:])
    assert not torch.equal(ours.places.weight[8], untouched.places.weight[8])
    for name in ("target.first", "pseudo_norm", "head"):
        assert torch.equal(ours.get_parameter(f"{name}.weight"), untouched.get_parameter(f"{name}.weight"))


def test_the_end_begins_between_what_begins_and_what_ends_in_bert(bert: Any) -> None:
    ours = network(LIKE_BERT).float()
    begin_as(ours, bert.state_dict(), KEPT)
    table = bert.state_dict()["embeddings.word_embeddings.weight"]
    assert torch.equal(ours.table.weight[:-1], table[KEPT])
    torch.testing.assert_close(ours.table.weight[-1], (table[101] + table[102]) / 2)


@pytest.mark.parametrize(
    "foreign",
    ["nothing", "of another width", "with fewer tokens", "without token types", "with layers of other names"],
)
def test_of_what_is_no_bert_of_this_size_nothing_is_taken(bert: Any, foreign: str) -> None:
    weights = {} if foreign == "nothing" else dict(bert.state_dict())
    if foreign == "without token types":  # DistilBERT's embeddings
        del weights["embeddings.token_type_embeddings.weight"]
    if foreign == "with layers of other names":  # MPNet's
        weights = {name.replace("attention.self.query", "attention.attn.q"): value for name, value in weights.items()}
    shape = LIKE_BERT if foreign != "of another width" else Shape(5, 7, 6, width=12, inner=40, heads=3, pseudo=2)
    ours, untouched = network(shape).float(), network(shape).float()
    assert begin_as(ours, weights, [*KEPT[:-1], 120] if foreign == "with fewer tokens" else KEPT) == 0
    for name, value in untouched.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_attention_looks_at_what_it_may_see_and_at_nothing_else() -> None:
    torch.manual_seed(0)
    layer = Layer(TINY).double()
    states, others = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    mask = torch.zeros(2, 1, 1, 4).double()
    mask[..., 2] = -1e9
    changed = others.clone()
    changed[:, 2] += 5
    told = layer(states, layer.keys_values(others), mask)
    assert torch.equal(layer(states, layer.keys_values(changed), mask), told)
    changed[:, 1] += 5
    assert not torch.allclose(layer(states, layer.keys_values(changed), mask), told)


# -- what a text costs -----------------------------------------------------------------------------------------------


def cost(of: InverterNetwork, target: Tensor, tokens: Sequence[int], hypothesis: Hypothesis | None = None) -> float:
    """Minus the log-likelihood of these tokens, by the loss that is trained on: of one text, whole, each time anew."""
    ids = torch.full((1, of.shape.longest + 1), NONE)
    ids[0, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        return float(of(target[None], ids, hypothesis)) * len(tokens)


def test_what_comes_later_changes_nothing_of_what_came_before() -> None:
    """The chances of all next tokens add up to one only where the cost of the tokens before them is the same."""
    made, hypothesis = network(), hypotheses(3)
    for row, target in enumerate(vectors(3)):
        for one in (None, only(hypothesis, row)):
            for before in ((), (0,), (2, 1), (0, 0, 1)):
                spent = cost(made, target, before, one) if before else 0.0
                chances = [np.exp(spent - cost(made, target, (*before, token), one)) for token in range(END + 1)]
                assert sum(chances) == pytest.approx(1, abs=1e-5)
                assert max(chances) - min(chances) > 0.01


def test_the_loss_of_many_texts_is_the_mean_of_their_tokens() -> None:
    made, targets, hypothesis = network(), vectors(4), hypotheses(4)
    texts = [(0, 1, 2, END), (END,), (1, END), (2, 2, END)]
    ids = torch.full((4, 4), NONE)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    for one in (None, hypothesis):
        costs = [
            cost(made, target, text, only(one, row))
            for row, (target, text) in enumerate(zip(targets, texts, strict=True))
        ]
        assert float(made(targets, ids, one).detach()) == pytest.approx(sum(costs) / 10, abs=1e-5)


def test_all_of_it_learns_from_a_hypothesis_and_without_one_what_reads_it_does_not() -> None:
    ids = torch.tensor([[0, 1, END, NONE], [2, END, NONE, NONE]])
    for hypothesis, idle in ((hypotheses(2), set()), (None, {"reached", "missing"})):
        made = network()
        made(vectors(2), ids, hypothesis).backward()
        still = {
            name.split(".")[0] for name, value in made.named_parameters() if value.grad is None or not value.grad.any()
        }
        assert still == idle


# -- what it looks at ------------------------------------------------------------------------------------------------


def test_behind_the_end_of_a_hypothesis_there_is_nothing() -> None:
    made, targets, hypothesis = network(), vectors(4), hypotheses(4)
    with torch.no_grad():
        states, there = made.memory(targets, hypothesis)
        assert there.tolist() == [[True] * 6 + [place <= row for place in range(4)] for row in range(4)]
        for row in range(4):
            alone = Hypothesis(hypothesis.ids[[row], : row + 1], hypothesis.vectors[[row]])
            few, all_there = made.memory(targets[[row]], alone)
            assert all_there.all()
            torch.testing.assert_close(states[row, : 6 + row + 1], few[0])
        # and so nothing that stands there costs or writes anything else
        ids = torch.tensor([[1, 0, END, NONE]])
        short = Hypothesis(hypothesis.ids[[1], :2], hypothesis.vectors[[1]])
        torch.testing.assert_close(made(targets[[1]], ids, only(hypothesis, 1)), made(targets[[1]], ids, short))
        assert torch.equal(made.write(targets[[1]], 4, only(hypothesis, 1)), made.write(targets[[1]], 4, short))


def test_pseudo_tokens_stand_for_the_target_the_hypothesis_and_what_it_misses() -> None:
    made, targets, hypothesis = network(), vectors(3), hypotheses(3)
    seen: dict[str, Tensor] = {}
    for name in ("target", "reached", "missing"):
        made.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0]})  # type: ignore[misc]
        )
    made.memory(targets)
    assert torch.equal(seen.pop("target"), targets)
    assert not seen
    made.memory(targets, hypothesis)
    assert torch.equal(seen["target"], targets)
    assert torch.equal(seen["reached"], hypothesis.vectors)
    assert torch.equal(seen["missing"], targets - hypothesis.vectors)


def test_a_hypothesis_its_vector_and_the_target_all_matter() -> None:
    made, target, hypothesis = network(), vectors(2), hypotheses(4)
    text, base = (0, 1, END), Hypothesis(hypothesis.ids[[2]], hypothesis.vectors[[2]])
    told = [
        cost(made, target[0], text),
        cost(made, target[1], text),
        cost(made, target[0], text, base),
        cost(made, target[0], text, Hypothesis(hypothesis.ids[[3]], hypothesis.vectors[[2]])),
        cost(made, target[0], text, Hypothesis(hypothesis.ids[[2]], hypothesis.vectors[[3]])),
        cost(made, target[1], text, base),
    ]
    assert min(abs(one - other) for one, other in itertools.combinations(told, 2)) > 1e-3


# -- what it writes --------------------------------------------------------------------------------------------------


def slowly(
    of: InverterNetwork, target: Tensor, width: int, hypothesis: Hypothesis | None = None
) -> list[tuple[int, ...]]:
    """As one would explain it: token by token, each the best by its log-likelihood and the luck with it, but none
    that has followed the last one before."""
    end, longest = of.shape.words, of.shape.longest
    luck = subject._luck(longest + 1, width, end + 1)
    told = []
    for number in range(width):
        text: tuple[int, ...] = ()
        while text[-1:] != (end,):
            place = len(text)
            tokens = range(end + 1) if place < longest else [end]
            pairs = set(itertools.pairwise(text))
            free = [token for token in tokens if (*text[-1:], token) not in pairs]
            scores = [
                -cost(of, target, (*text, token), hypothesis) + float(luck[place, number, token]) for token in free
            ]
            text = (*text, free[int(np.argmax(scores))])
        told.append(text)
    return told


def written(ids: Tensor, end: int = END) -> list[list[tuple[int, ...]]]:
    """Up to and with each text's end; behind it there are ends only."""
    told = []
    for beam in ids.tolist():
        told.append([])
        for row in beam:
            cut = row.index(end) + 1
            assert set(row[cut:]) <= {end}
            told[-1].append(tuple(row[:cut]))
    return told


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_it_writes_what_a_slow_search_finds(seed: int, width: int) -> None:
    made, targets, hypothesis = network(seed=seed), vectors(4, seed=seed), hypotheses(4, seed=seed)
    for one in (None, hypothesis):
        fast = written(made.write(targets, width, one))
        assert fast == [slowly(made, target, width, only(one, row)) for row, target in enumerate(targets)]


def test_the_first_text_has_no_luck_and_the_others_differ() -> None:
    made, targets = network(seed=2), vectors(6, seed=2)
    alone = made.write(targets, 1)
    many = written(made.write(targets, 6))
    assert written(alone) == [beam[:1] for beam in many]
    assert max(len(set(beam)) for beam in many) > 2


def test_no_two_tokens_stand_side_by_side_twice() -> None:
    shape = Shape(dim=6, words=3, longest=12, width=8, inner=16, heads=2, pseudo=2, read=1, write=2)
    torch.manual_seed(0)
    made = InverterNetwork(shape).eval()
    with torch.no_grad():
        made.bias[END] = -60.0  # nine pairs of three tokens: the tenth token must be the last
        made.bias[0] = 5.0
    for beam in written(made.write(vectors(4).float(), 3)):
        for text in beam:
            pairs = list(itertools.pairwise(text[:-1]))
            assert len(pairs) == len(set(pairs))
            assert len(text) > 4


def test_draws_are_as_frequent_as_likely() -> None:
    luck = subject._luck(1, 20_001, 3)[0, 1:]
    logits = torch.tensor([1.0, 0.0, -1.0])
    shares = torch.bincount((logits + luck).argmax(dim=1), minlength=3) / 20_000
    assert torch.allclose(shares, (logits / subject._TEMPERATURE).softmax(dim=0), atol=0.015)


def test_many_vectors_at_once_are_written_as_one_by_one() -> None:
    made, targets, hypothesis = network(seed=3), vectors(9), hypotheses(9)
    for one in (None, hypothesis):
        for width in (1, 4):
            together = written(made.write(targets, width, one))
            assert together == [written(made.write(targets[[row]], width, only(one, row)))[0] for row in range(9)]
    assert len({text for beam in together for text in beam}) > 4


def test_a_text_that_would_not_end_is_ended() -> None:
    made = network()
    with torch.no_grad():
        made.bias[END] = -60.0
    told = made.write(vectors(3), 2)
    assert told.shape == (3, 2, 4)
    assert all(len(text) == 4 for beam in written(told) for text in beam)
    with torch.no_grad():
        made.bias[END] = 60.0
    assert made.write(vectors(3), 1).tolist() == [[[END]]] * 3  # and nothing is written on


# -- as numpy has it -------------------------------------------------------------------------------------------------

SPACE = HashingEncoder(8).fingerprint
TOKENS = wordpiece()
SHAPE = Shape(8, TOKENS.get_vocab_size(), longest=5, width=8, inner=16, heads=2, pseudo=2, read=1, write=1)


def found(folder: Path, shape: Shape = SHAPE, **changes: Any) -> FoundInverter:
    """A whole folder on disk, of a network that was not trained."""
    folder.mkdir(exist_ok=True)
    TOKENS.save(str(folder / WORDS))
    write_rounded(folder / WEIGHTS, network(shape, spread=0.3))
    sound = {"encoder": SPACE, "longest": 4, "options": shape.as_json(), "seals": seal(folder)}
    config = config_of(**{**sound, **changes})
    config.write(folder)
    return FoundInverter("mine", folder, config, shipped=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnInverter:
    return OwnInverter.open(found(tmp_path_factory.mktemp("own")), exact=True)


def test_the_unknown_token_is_never_written(tmp_path: Path) -> None:
    there = found(tmp_path)
    unknown = TOKENS.token_to_id("[UNK]")
    made = network(SHAPE, spread=0.3)
    with torch.no_grad():
        made.bias[unknown] = 60.0
    write_rounded(there.folder / WEIGHTS, made)
    there = replace(there, config=replace(there.config, seals=seal(there.folder)))
    own = OwnInverter.open(there, exact=True)
    assert own.words.unknown == unknown
    assert int(made.write(vectors(3, 8).to(made.bias.dtype), 1)[0, 0, 0]) == unknown
    assert unknown not in own.network.write(torch.from_numpy(asked(3)), 4)


def asked(count: int) -> Any:
    return vectors(count, 8).float().numpy()


def test_an_inverter_is_opened_with_all_that_is_asked_of_it(own: OwnInverter) -> None:
    assert (own.name, own.space, own.longest) == ("mine", SPACE, 4)  # of the encoder's tokens, not of its own
    assert own.probe().tolist() == [0.5] * 8
    assert own.probe().dtype == np.float32
    assert not own.network.training


def test_texts_are_those_of_the_network_so_many_for_each_vector(
    own: OwnInverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = asked(5)
    whole = own.propose(targets, 3)
    assert [len(texts) for texts in whole] == [3] * 5
    ids = own.network.write(torch.from_numpy(targets), 3)
    assert whole == [own.words.texts(beam) for beam in ids.tolist()]
    assert len({text for texts in whole for text in texts}) > 5
    monkeypatch.setattr("retrieval.inverter._AT_ONCE", 2)
    assert own.propose(targets, 3) == whole
    assert own.propose(targets[:0], 3) == []


def test_a_correction_reads_the_text_and_its_vector(own: OwnInverter, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, reached = asked(5), asked(6)[1:]
    texts = ["the mill", "", "the old stone bridge over the river", "zyx", "of the river"]
    whole = own.correct(targets, texts, reached, 2)
    ids = torch.from_numpy(Words(TOKENS).ids(texts, 5))
    wanted = own.network.write(torch.from_numpy(targets), 2, Hypothesis(ids, torch.from_numpy(reached)))
    assert whole == [own.words.texts(beam) for beam in wanted.tolist()]
    monkeypatch.setattr("retrieval.inverter._AT_ONCE", 2)
    assert own.correct(targets, texts, reached, 2) == whole
    assert own.correct(targets, texts, -reached, 2) != whole
    assert own.correct(targets, texts[::-1], reached, 2) != whole


@settings(max_examples=10)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_only_the_directions_of_vectors_count_as_in_training(own: OwnInverter, one: float, other: float) -> None:
    targets, reached, texts = asked(2), asked(3)[1:], ["the mill", "old"]
    a, b = np.float32(one), np.float32(other)
    assert own.propose(a * targets, 2) == own.propose(targets, 2)
    assert own.correct(a * targets, texts, b * reached, 2) == own.correct(targets, texts, reached, 2)


@pytest.mark.parametrize("able", [["f32"], ["f32", "bf16"]], ids=str)
def test_it_computes_in_half_precision_where_the_machine_does_unless_it_is_to_be_exact(
    own: OwnInverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: list[str]
) -> None:
    monkeypatch.setattr("retrieval.inverter.precisions", lambda: able)
    there = found(tmp_path)
    quick, exact = OwnInverter.open(there), OwnInverter.open(there, exact=True)
    kinds = [{value.dtype for value in one.network.parameters()} for one in (quick, exact)]
    assert kinds == [{torch.bfloat16 if "bf16" in able else torch.float32}, {torch.float32}]
    targets, texts = asked(40), ["the mill"] * 40
    for one, other in (
        (quick.propose(targets, 2), own.propose(targets, 2)),
        (quick.correct(targets, texts, targets[::-1].copy(), 2), own.correct(targets, texts, targets[::-1].copy(), 2)),
    ):
        assert sum(few[0] == many[0] for few, many in zip(one, other, strict=True)) >= (30 if "bf16" in able else 40)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**SHAPE.as_json(), "taste": 1},
        {**SHAPE.as_json(), "width": "8"},
        {**SHAPE.as_json(), "width": -8},
        {**SHAPE.as_json(), "heads": 3},
        {**SHAPE.as_json(), "heads": 0},
        {**SHAPE.as_json(), "dim": 9},
        {**SHAPE.as_json(), "words": 7},
        {**SHAPE.as_json(), "write": 2},
        {**SHAPE.as_json(), "longest": 6},
    ],
    ids=str,
)
def test_options_that_describe_another_network_are_one_line(tmp_path: Path, options: dict[str, Any]) -> None:
    there = found(tmp_path, options=options)
    with pytest.raises(LookaheadError, match=r"describes no inverter of ours|is not of a InverterNetwork of this size"):
        OwnInverter.open(there)


@pytest.mark.parametrize("name", [WEIGHTS, WORDS])
def test_a_file_with_another_byte_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    there = found(tmp_path)
    raw = bytearray((tmp_path / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(LookaheadError, match=f"{name} is damaged: its checksum is .*train it again"):
        OwnInverter.open(there)
