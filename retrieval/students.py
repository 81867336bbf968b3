"""Makes students: sentence-transformers models that begin as a part of their teacher, and what trains them.

A student has layers copied out of its teacher, or fewer dimensions inside with a Linear to the teacher's, or is only a
table of its tokens' vectors. It does not know what is learned from, nor what good is.
"""

from __future__ import annotations

import copy
import itertools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from store.records import LookaheadError

Row = NDArray[np.int32]
STATIC = "static"
_FREQUENT = 1e-3  # the share of a token in a text at which its weight is halved (Arora et al. 2017, SIF)
_TABLE_BATCH = 512
_GRAIN = 16  # tokens
_AT_ONCE = 16_384  # tokens, padding included: a batch of 128 chunks of 80 words is below it


@dataclass(frozen=True, slots=True)
class Plan:
    """`layers:N` is N layers of the teacher, evenly chosen; `narrow:NxS` N new ones of S times its width; `static` none
    at all."""

    layers: int
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Plan:
        if text == STATIC:
            return cls(0)
        if found := re.fullmatch(r"layers:([1-9][0-9]?)", text):
            return cls(int(found[1]))
        if found := re.fullmatch(r"narrow:([1-9][0-9]?)x(0?\.[0-9]{1,3})", text):
            share = float(found[2])
            if share > 0:
                return cls(int(found[1]), share)
        raise LookaheadError(f"there is no student {text!r}; say layers:3, narrow:6x0.5 or static")

    def __str__(self) -> str:
        if not self.layers:
            return STATIC
        return f"layers:{self.layers}" if self.share == 1 else f"narrow:{self.layers}x{self.share:g}"


class Pupil(nn.Module):
    """A student as something to be trained: rows of token ids in, vectors (B, D) of length one out.

    It stays in evaluation mode: dropout costs a small student more than it saves (it never sees a text often).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.static = type(model[0]).__name__ == "StaticEmbedding"
        self._inputs = frozenset(model.preprocess(["a text"]))

    def train(self, mode: bool = True) -> Pupil:
        super().train(False)
        return self

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Many long texts are read a few at a time, and again when gradients need what they left behind: the weights
        that come of it are the same, and attention over them takes a fraction of the memory."""
        many = max(1, _AT_ONCE // max(map(len, rows)))
        if self.static or len(rows) <= many or not torch.is_grad_enabled():
            return self._vectors(rows)
        parts = [rows[start : start + many] for start in range(0, len(rows), many)]
        return torch.cat([checkpoint(self._vectors, part, use_reentrant=False) for part in parts])

    def _vectors(self, rows: Sequence[Row]) -> Tensor:
        device = next(self.inner.parameters()).device
        features = _bag(rows) if self.static else _padded(rows, self.inner.max_seq_length or 0)
        read = {name: value.to(device) for name, value in features.items() if name in self._inputs}
        out = self.inner(read)["sentence_embedding"]
        return functional.normalize(out.float(), dim=-1)


def make_student(plan: Plan, teacher: Any, *, longest: int, counts: NDArray[np.int64], seed: int) -> Any:
    """A student of a SentenceTransformer, not trained yet. `longest` is the most tokens it will read; `counts` says how
    often each token occurs in what it will learn from (for `static`)."""
    refuse_teacher(plan, teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not plan.layers:
            return _static(teacher, counts)
        if plan.share != 1:
            return _narrow(teacher, plan, longest)
        return _shallow(teacher, plan.layers)


def refuse_teacher(plan: Plan, teacher: Any) -> None:
    """Raises where no such student can be made of a SentenceTransformer."""
    held = int(_transformer(teacher).config.num_hidden_layers)
    if plan.share == 1 and plan.layers > held:
        raise LookaheadError(f"the teacher has {held} layers, a student cannot have {plan.layers} of them")
    if not hasattr(teacher.tokenizer, "backend_tokenizer"):
        raise LookaheadError("the teacher's tokenizer is not one of the tokenizers library; take another --teacher")


def evenly(layers: int, of: int) -> list[int]:
    """Which of `of` layers are kept: the first and the last are, and the others as far apart as can be. A single one is
    the last: after 100 steps here it had a cosine of .80 to its teacher, the first one .65."""
    if layers == 1:
        return [of - 1]
    return [round(place * (of - 1) / (layers - 1)) for place in range(layers)]


def _shallow(teacher: Any, layers: int) -> Any:
    student = copy.deepcopy(teacher).float()  # it is trained, however it is kept
    inner = _transformer(student)
    held = int(inner.config.num_hidden_layers)
    kept = evenly(layers, held)
    lists = (
        (module, name, child)
        for module in inner.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == held
    )
    for module, name, child in itertools.islice(lists, 1):  # others of that length are parts of a layer, as in T5
        setattr(module, name, nn.ModuleList(child[place] for place in kept))
    inner.config.num_hidden_layers = layers
    kinds = getattr(inner.config, "layer_types", None)  # one entry a layer, where layers differ
    if kinds is not None:
        inner.config.layer_types = [kinds[place] for place in kept]
    return student


def _narrow(teacher: Any, plan: Plan, longest: int) -> Any:
    """New BERT layers over the teacher's token table, seen from the directions in which it varies most."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    table = _transformer(teacher).get_input_embeddings().weight.detach().float()
    heads = max(1, round(table.shape[1] * plan.share / 64))
    width = heads * max(1, round(table.shape[1] * plan.share / heads))
    config = BertConfig(
        vocab_size=len(table),
        hidden_size=width,
        num_hidden_layers=plan.layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max(longest, 16),
        pad_token_id=teacher.tokenizer.pad_token_id or 0,
    )
    bert = BertModel(config)
    # the eigenvectors of the largest eigenvalues: a singular value decomposition of a large table takes gigabytes
    directions = torch.linalg.eigh((table - table.mean(dim=0)).T @ (table - table.mean(dim=0)))[1].flip(1).T
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.copy_(table @ directions[:width].T)
    with tempfile.TemporaryDirectory() as folder:
        bert.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=longest)
    dense = Dense(width, int(teacher.get_embedding_dimension()), activation_function=nn.Identity())
    modules: list[nn.Module] = [transformer, Pooling(width, "mean"), dense, Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", **_prompts(teacher))


def _static(teacher: Any, counts: NDArray[np.int64]) -> Any:
    """A table with what the teacher makes of each token alone, frequent tokens made small: model2vec's way, before its
    rows are trained."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    backend = copy.deepcopy(teacher.tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    pupil = Pupil(teacher)
    before, after = frame_of(teacher.tokenizer)
    rows = [np.array([*before, token, *after], np.int32) for token in range(backend.get_vocab_size())]
    with torch.no_grad():
        table = torch.cat([pupil(rows[at : at + _TABLE_BATCH]) for at in range(0, len(rows), _TABLE_BATCH)])
    table -= table.mean(dim=0)
    shares = torch.from_numpy(np.resize(counts, len(rows)) / max(1, counts.sum())).float()
    table *= (_FREQUENT / (_FREQUENT + shares))[:, None]
    modules: list[nn.Module] = [StaticEmbedding(backend, embedding_weights=table), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", **_prompts(teacher))


def _prompts(teacher: Any) -> dict[str, Any]:
    return {"prompts": dict(teacher.prompts), "default_prompt_name": teacher.default_prompt_name}


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    place = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
    return whole[:place], whole[place + len(bare) :]


def _transformer(model: Any) -> Any:
    inner = getattr(model[0], "auto_model", None)
    if inner is None or not hasattr(inner.config, "num_hidden_layers"):
        raise LookaheadError("the teacher has no transformer layers, so no student can be made of it; take another")
    return inner


def _padded(rows: Sequence[Row], most: int) -> dict[str, Tensor]:
    # few different shapes, so that the memory of one step fits the next; no more tokens than there are positions
    needed = max(map(len, rows))
    longest = max(needed, min(-(-needed // _GRAIN) * _GRAIN, most))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def _bag(rows: Sequence[Row]) -> dict[str, Tensor]:
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return {"input_ids": torch.from_numpy(np.concatenate(rows)).long(), "offsets": torch.from_numpy(offsets)}
