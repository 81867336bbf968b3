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


def write_weights(path: Path, model: nn.Module, *, half: bool) -> None:
    """All parameters and buffers, in half precision where that is asked for."""
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        tensors[name] = value.half() if half and value.is_floating_point() else value
    write_atomically(path, save(tensors))


def load_weights(path: Path, model: nn.Module) -> None:
    """Into a model of exactly those names and shapes; anything else is refused with both named."""
    tensors, _ = read_tensors(path)
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
