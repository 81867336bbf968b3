"""Weights on disk: whole, in half precision or in eight bits a number, and loaded into that very model or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from retrieval.weights import load_weights, read_tensors, write_rounded, write_weights
from store.records import LookaheadError


class Small(nn.Module):
    """A matrix, a vector, and a count that is no weight."""

    def __init__(self, rows: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(rows, 5, generator=generator))
        self.gain = nn.Parameter(torch.randn(5, generator=generator))


def test_what_is_written_whole_comes_back_to_the_bit_with_its_header(tmp_path: Path) -> None:
    model, other = Small(), Small(seed=1)
    write_weights(tmp_path / "w", model, half=False, header={"facts": "{}"})
    assert read_tensors(tmp_path / "w")[1] == {"facts": "{}"}
    load_weights(tmp_path / "w", other)
    assert torch.equal(other.matrix, model.matrix)
    assert torch.equal(other.gain, model.gain)
    write_weights(tmp_path / "w", model, half=True)
    assert read_tensors(tmp_path / "w")[1] == {}
    assert load_file(tmp_path / "w")["matrix"].dtype == torch.float16


@given(st.integers(0, 100), st.sampled_from([1e-6, 1.0, 1e4]))
def test_a_rounded_number_is_off_by_less_than_half_a_step_of_its_row(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: float
) -> None:
    folder = tmp_path_factory.mktemp("rounded")
    model, other = Small(seed=seed), Small(seed=seed + 1)
    with torch.no_grad():
        model.matrix[0] *= size
        model.matrix[1] = 0
    write_rounded(folder / "w", model)
    load_weights(folder / "w", other)
    step = model.matrix.abs().amax(dim=1, keepdim=True) / 127
    assert ((other.matrix - model.matrix).abs() <= step * 0.501).all()
    assert torch.equal(other.matrix[1], torch.zeros(5))
    assert torch.equal(other.gain, model.gain.half().float())
    assert other.matrix.dtype == torch.float32
    largest = int(model.matrix[2].abs().argmax())
    assert other.matrix[2, largest].item() == pytest.approx(model.matrix[2, largest].item(), rel=1e-6)


def test_eight_bits_a_number_and_a_scale_a_row_are_kept(tmp_path: Path) -> None:
    write_rounded(tmp_path / "w", Small())
    tensors = load_file(tmp_path / "w")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()} == {
        "matrix": (torch.int8, (3, 5)),
        "matrix:scale": (torch.float32, (3,)),
        "gain": (torch.float16, (5,)),
    }
    assert tensors["matrix"].abs().amax(dim=1).tolist() == [127, 127, 127]


def test_what_is_rounded_again_stays_as_it_is(tmp_path: Path) -> None:
    model = Small()
    write_rounded(tmp_path / "w", model)
    load_weights(tmp_path / "w", model)
    write_rounded(tmp_path / "again", model)
    assert torch.equal(load_file(tmp_path / "w")["matrix"], load_file(tmp_path / "again")["matrix"])


def test_weights_of_another_model_are_refused_with_both_named(tmp_path: Path) -> None:
    for write in (write_rounded, lambda path, model: write_weights(path, model, half=False)):
        write(tmp_path / "w", Small(rows=4))
        with pytest.raises(LookaheadError, match=r"is not of a Small of this size: matrix is \(.*, expected \("):
            load_weights(tmp_path / "w", Small())
        write(tmp_path / "w", nn.Linear(2, 2))
        with pytest.raises(LookaheadError, match=r"is not there, expected|expected nothing of that name"):
            load_weights(tmp_path / "w", Small())


@pytest.mark.parametrize("what", ["of too few rows", "of no matrix there is"])
def test_a_scale_that_fits_nothing_is_refused(tmp_path: Path, what: str) -> None:
    write_rounded(tmp_path / "w", Small())
    tensors = load_file(tmp_path / "w")
    if what == "of too few rows":
        tensors["matrix:scale"] = tensors["matrix:scale"][:2].clone()
    else:
        tensors["other:scale"] = tensors["matrix:scale"].clone()
    save_file(tensors, tmp_path / "w")
    with pytest.raises(LookaheadError, match=r"(matrix|other):scale is \(\d,\), expected nothing of that name"):
        load_weights(tmp_path / "w", Small())


@pytest.mark.parametrize("raw", [b"", b"nothing of the kind", b"\x10" + bytes(40)])
def test_a_damaged_file_is_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(LookaheadError, match=r"cannot read .*; train it again"):
        load_weights(tmp_path / "w", Small())
    with pytest.raises(LookaheadError, match="cannot read"):
        load_weights(tmp_path / "none", Small())
