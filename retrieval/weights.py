"""Weights as safetensors: written whole or not at all, loaded strictly or refused.

It does not know what a model is for; `retrieval/models.py` knows its folder.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from store.generations import write_atomically
from store.records import LookaheadError

_SCALE = ":scale"  # of a matrix in eight bits; no parameter's name has a colon


def write_weights(path: Path, model: nn.Module, *, half: bool, header: dict[str, str] | None = None) -> None:
    """All parameters and buffers, in half precision where that is asked for, and what the `header` is to say."""
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        tensors[name] = value.half() if half and value.is_floating_point() else value
    write_atomically(path, save(tensors, header))


def write_rounded(path: Path, model: nn.Module) -> None:
    """As `write_weights`, with each row of a matrix in eight bits and a scale of its own; what is no matrix is kept in
    half precision. A quarter of the bytes; who ships it judges the model as it is loaded again."""
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().float().contiguous()
        if value.ndim < 2:
            tensors[name] = value.half()
            continue
        scale = value.abs().amax(dim=1).clamp(min=1e-12) / 127
        tensors[name] = (value / scale[:, None]).round().to(torch.int8)
        tensors[name + _SCALE] = scale
    write_atomically(path, save(tensors))


def load_weights(path: Path, model: nn.Module) -> None:
    """Into a model of exactly those names and shapes; anything else is refused with both named."""
    tensors, _ = read_tensors(path)
    for name in [name for name in tensors if name.endswith(_SCALE)]:
        rounded = name.removesuffix(_SCALE)
        if rounded in tensors and tensors[rounded].shape[:1] == tensors[name].shape:  # else it is refused below
            tensors[rounded] = tensors[rounded].float() * tensors.pop(name)[:, None]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        name = sorted({*wanted.items()} ^ {*found.items()}, key=str)[0][0]
        raise LookaheadError(
            f"{path} is not of a {type(model).__name__} of this size: {name} is "
            f"{found.get(name, 'not there')}, expected {wanted.get(name, 'nothing of that name')}"
        )
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, header) of a safetensors file; a damaged one is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LookaheadError(f"cannot read {path}: {error}; train it again") from error
    return tensors, header
