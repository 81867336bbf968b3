"""The nine predictors: the published sizes, what padding may not do, what each one sees, and Mamba's two scans."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from retrieval.predictors import KINDS, build
from retrieval.predictors.base import Anchored, Predictor, at, sinusoids, to_front
from retrieval.predictors.mamba import Mamba, fast_scan, slow_scan
from retrieval.predictors.transformer import Transformer
from retrieval.predictors.transformer_encoder import TransformerEncoder
from store.records import LookaheadError

DIM = 6
LENGTHS = torch.tensor([5, 4, 3, 2, 1])

PARAMETERS = {  # at 768 dimensions; the first seven are published
    "mlp": 4_720_384,
    "amn": 1_510_912,
    "lstm": 5_120_768,
    "lstm-1024": 17_581_824,
    "gru": 7_095_552,
    "transformer": 17_867_520,
    "transformer-encoder": 13_659_904,
    "mamba": 35_483_136,
    "residual": 1_246_464,
}


@functools.cache
def predictor(kind: str, anchored: bool = False) -> Predictor:
    """One of each, untrained, in evaluation mode; an anchored one's net has a say."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(kind, DIM, anchored=anchored).eval()
    if isinstance(model, Anchored):
        torch.nn.init.constant_(model.gain, 0.5)
    return model


def contexts(seed: int = 0, count: int = len(LENGTHS)) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 5, DIM, generator=chance), dim=-1)


def masks(lengths: Tensor = LENGTHS) -> Tensor:
    return torch.arange(5) >= 5 - lengths.unsqueeze(1)


def sizes(model: torch.nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


# -- the same models as the published ones ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_768_dimensions_a_predictor_has_the_published_number_of_parameters(kind: str) -> None:
    with torch.device("meta"):  # nothing but shapes
        assert sizes(build(kind, 768, anchored=False)) == PARAMETERS[kind]


def test_the_published_mamba_is_ours_with_a_full_step_size_projection_and_a_bias_less() -> None:
    low, full = 1536 * 48 + (48 * 1536 + 1536), 1536 * 1536 + 1536
    assert PARAMETERS["mamba"] + 8 * (full - low) - 768 == 53_177_088


def test_an_anchor_costs_five_weights_and_a_gain() -> None:
    assert sizes(build("residual", DIM, anchored=True)) - sizes(build("residual", DIM, anchored=False)) == 5 + 1


def test_options_are_the_arguments_of_the_class() -> None:
    assert sizes(build("residual", 2, anchored=False, options={"rank": 1})) == (10 + 1) + (1 + 1) + (2 + 2)


def test_a_predictor_nobody_wrote_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookaheadError, match="amn, gru, lstm"):
        build("oracle", DIM, anchored=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 7])
def test_any_dimension_works(kind: str, dim: int) -> None:
    model = build(kind, dim, anchored=True).eval()
    with torch.no_grad():
        assert model(torch.ones(2, 5, dim), masks(torch.tensor([5, 1]))).shape == (2, dim)


# -- what all of them promise ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3), junk=st.sampled_from([math.nan, math.inf, 0.5]))
def test_what_stands_in_the_padding_makes_no_difference(kind: str, lengths: list[int], junk: float) -> None:
    context, mask = contexts(count=len(lengths)), masks(torch.tensor(lengths))
    with torch.no_grad():
        clean = predictor(kind, True)(context.masked_fill(~mask.unsqueeze(-1), 0.0), mask)
        assert torch.equal(predictor(kind, True)(context.masked_fill(~mask.unsqueeze(-1), junk), mask), clean)
    assert clean.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_has_length_one_and_does_not_depend_on_its_neighbours_in_the_batch(kind: str) -> None:
    context, mask = contexts(), masks()
    with torch.no_grad():
        together = predictor(kind)(context, mask)
        for row in range(len(context)):
            alone = predictor(kind)(context[row : row + 1], mask[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(len(context)))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_differ_with_the_context_and_with_its_length(kind: str) -> None:
    context, full = contexts(), torch.ones(5, 5, dtype=torch.bool)
    with torch.no_grad():
        whole = predictor(kind)(context, full)
        assert not torch.allclose(whole[0], whole[1], atol=1e-4)
        for row in range(1, 5):  # the longest is whole already
            assert not torch.allclose(predictor(kind)(context, masks())[row], whole[row], atol=1e-4)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str, anchored: bool) -> None:
    model = predictor(kind, anchored)
    model.zero_grad()
    (model(contexts(1), masks()) * contexts(2)[:, 0]).sum().backward()
    idle = {name for name, value in model.named_parameters() if value.grad is None or value.grad.abs().max() < 1e-9}
    # a bias that adds the same to every score is lost in the softmax: the published AMN carries it along
    lost = {name for name, _ in model.named_parameters() if name.endswith("context_encoder.bias")}
    assert idle - lost == set()


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_trains_on_finite_numbers_near_the_full_ones(kind: str) -> None:
    model, context, mask = predictor(kind), contexts(), masks()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(context, mask)
    mixed.sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    with torch.no_grad():
        assert functional.cosine_similarity(mixed.float(), model(context, mask)).min() > 0.99


# -- the anchor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_an_anchored_predictor_copies_the_last_chunk(kind: str) -> None:
    model = Anchored(predictor(kind))
    context = torch.eye(5, DIM).repeat(2, 1, 1)
    with torch.no_grad():
        prediction = model(context, masks(torch.tensor([5, 1])))
    # at right angles to it stand four others of weight e^-4, or none
    expected = torch.tensor([1 / math.sqrt(1 + 4 * math.exp(-8)), 1.0])
    torch.testing.assert_close((prediction * context[:, -1]).sum(dim=-1), expected)


def test_the_first_step_opens_the_gain_and_the_second_reaches_the_net() -> None:
    model = build("residual", DIM, anchored=True)
    assert isinstance(model, Anchored)
    for reached in (False, True):
        model.zero_grad()
        (model(contexts(1), masks()) * contexts(2)[:, 0]).sum().backward()
        grads = [value.grad for value in model.net.parameters()]
        assert all(grad is not None and bool(grad.abs().max() > 0) == reached for grad in grads)
        with torch.no_grad():
            model.gain += 0.1


# -- short contexts --------------------------------------------------------------------------------------


def test_to_front_puts_the_padding_last_and_says_where_the_last_chunk_went() -> None:
    states = torch.arange(5.0).repeat(2, 1).unsqueeze(-1)
    rolled, last = to_front(states, masks(torch.tensor([3, 5])))
    assert rolled.squeeze(-1).tolist() == [[2, 3, 4, 0, 1], [0, 1, 2, 3, 4]]
    assert last.tolist() == [2, 4]
    assert at(rolled, last).squeeze(-1).tolist() == [4, 4]


@pytest.mark.parametrize("kind", ["amn", "lstm", "lstm-1024", "gru", "mamba"])
def test_a_short_context_gives_what_the_short_sequence_alone_gives(kind: str) -> None:
    context = contexts()
    with torch.no_grad():
        padded = predictor(kind)(context, masks())
        for row, length in enumerate(LENGTHS.tolist()):
            alone = predictor(kind)(context[row : row + 1, -length:], torch.ones(1, length, dtype=torch.bool))
            torch.testing.assert_close(padded[row], alone[0], rtol=1e-4, atol=1e-5)


def whole_decoder(model: Transformer, steps: Tensor) -> Tensor:
    """As published: all states of all layers, with causal masks, of which the last is used."""
    later = torch.nn.Transformer.generate_square_subsequent_mask(steps.shape[1])
    states = steps
    for layer in [*model.below, model.top]:
        states = layer(states, steps, tgt_mask=later, memory_mask=later)
    return states[:, -1]


def whole_encoder(model: TransformerEncoder, steps: Tensor) -> Tensor:
    for layer in [*model.below, model.top]:
        steps = layer(steps)
    return steps[:, -1]


@pytest.mark.parametrize(("kind", "whole"), [("transformer", whole_decoder), ("transformer-encoder", whole_encoder)])
def test_a_transformer_gives_what_its_whole_layers_give_on_the_chunks_that_are_there(
    kind: str, whole: Callable[[Predictor, Tensor], Tensor]
) -> None:
    model, context = predictor(kind), contexts()
    assert isinstance(model, Transformer | TransformerEncoder)
    with torch.no_grad():
        ours = model(context, masks())
        for row, length in enumerate(LENGTHS.tolist()):
            steps = model.into(context[row : row + 1, -length:]) + model.positions[-length:]
            theirs = functional.normalize(model.head(whole(model, steps)), dim=-1)
            torch.testing.assert_close(ours[row], theirs[0], rtol=1e-4, atol=1e-5)


def test_attention_to_a_mixture_does_not_see_the_order_and_all_others_do() -> None:
    context, full = contexts(), torch.ones(5, 5, dtype=torch.bool)
    with torch.no_grad():
        blind = {
            kind
            for kind in KINDS
            if torch.allclose(predictor(kind)(context, full), predictor(kind)(context.flip(1), full), atol=1e-5)
        }
    assert blind == {"amn"}


def test_positions_begin_with_zeros_and_ones_and_turn_slower_with_width() -> None:
    positions = sinusoids(4, 2)
    slow = 1 / 100
    expected = [[0, 1, 0, 1], [math.sin(1), math.cos(1), math.sin(slow), math.cos(slow)]]
    torch.testing.assert_close(positions, torch.tensor(expected))


# -- the selective scan ----------------------------------------------------------------------------------

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def scan_arguments(rows: int, width: int, states: int, dtype: torch.dtype) -> list[Tensor]:
    chance = torch.Generator().manual_seed(0)
    u, delta, A, B, C = (
        torch.randn(shape, generator=chance, dtype=dtype)
        for shape in ((rows, 5, width), (rows, 5, width), (width, states), (rows, 5, states), (rows, 5, states))
    )
    return [value.requires_grad_() for value in (u, functional.softplus(delta), -A.exp(), B, C)]


@pytest.mark.parametrize("scan", [slow_scan, fast_scan])
def test_without_decay_a_scan_sums_and_with_total_decay_it_forgets(scan: Scan) -> None:
    u = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    ones = torch.ones(1, 3, 2)
    assert scan(u, torch.ones(1, 3, 1), torch.zeros(1, 2), ones, ones).flatten().tolist() == [2, 6, 12]
    assert scan(u, torch.ones(1, 3, 1), torch.full((1, 2), -1e9), ones, ones).flatten().tolist() == [2, 4, 6]


@pytest.mark.parametrize("scan", [slow_scan, fast_scan])
def test_a_scan_reads_its_state_through_c(scan: Scan) -> None:
    u, B = torch.ones(1, 2, 1), torch.tensor([1.0, 10.0]).expand(1, 2, 2)
    C = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert scan(u, torch.ones(1, 2, 1), torch.zeros(1, 2), B, C).flatten().tolist() == [1, 20]


@pytest.mark.parametrize(("rows", "width"), [(3, 4), (5, 1024)])  # the latter in runs of two rows
def test_the_two_scans_agree_in_values_and_gradients(rows: int, width: int) -> None:
    weights = torch.linspace(-1, 1, width)
    results = []
    for scan in (slow_scan, fast_scan):
        arguments = scan_arguments(rows, width, 128, torch.float64)
        y = scan(*arguments)
        gradients = torch.autograd.grad((y * weights).sum(), arguments)
        results.append([y, *gradients])
    for slow, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def test_the_fast_scan_has_the_gradient_that_differences_give() -> None:
    assert torch.autograd.gradcheck(fast_scan, [*scan_arguments(2, 3, 2, torch.float64)])


def test_a_step_size_begins_between_a_thousandth_and_a_tenth() -> None:
    model = predictor("mamba")
    assert isinstance(model, Mamba)
    for block in model.blocks:
        step = functional.softplus(block.dt_proj.bias)
        assert 0.00099 < step.min() < step.max() < 0.101
