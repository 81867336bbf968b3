"""STS tasks of the `mteb` package, an optional extra: STS22 and others, for whoever has the hub.

It does not judge: it gives the pairs as sets, and what mteb's own evaluator says of an encoder of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoder
from retrieval.sts import StsSet
from store.records import LookaheadError

EXTRA = "lookahead[mteb]"


@dataclass(frozen=True, slots=True)
class HubTask:
    """A task of mteb with its data, and its pairs: one set for each split and subset (a language or two).

    `official` names where in mteb's results a set's figures stand: key → (split, subset)."""

    task: Any
    sets: tuple[StsSet, ...]
    official: dict[str, tuple[str, str]]


class MtebEncoder:
    """An encoder of ours as mteb calls one."""

    def __init__(self, encoder: Encoder, meta: Any) -> None:
        self._encoder = encoder
        self.mteb_model_meta = meta

    def encode(
        self,
        inputs: Any,  # a torch DataLoader of {"text": [...]}
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: object,  # batch_size and whatever else mteb's next version hands to every model
    ) -> NDArray[np.float32]:
        """The texts of all batches to (n, dim); with the words of a question before them where mteb says so."""
        texts = [text for batch in inputs for text in batch["text"]]
        asked = getattr(prompt_type, "value", prompt_type) == "query"
        return self._encoder.encode_queries(texts) if asked else self._encoder.encode(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def find_tasks(names: Sequence[str]) -> list[Any]:
    """The tasks of those names, without their data; nothing is fetched."""
    mteb = _mteb()
    found = []
    for name in names:
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            hint = str(error.args[0]).removeprefix("KeyError: ") if error.args else repr(name)
            raise LookaheadError(f"mteb has no such task: {hint} STS tasks are STS12 to STS17, STS22.v2 …") from error
        if task.metadata.type != "STS":
            raise LookaheadError(f"{name} is a task of mteb's type {task.metadata.type}; expected STS, as STS22.v2 is")
        found.append(task)
    return found


def load(task: Any) -> HubTask:
    """The task with its data, fetched from the hub where this machine does not have it yet."""
    name = task.metadata.name
    try:
        task.load_data()
    except Exception as error:  # datasets, the hub client and its transport each have their own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise LookaheadError(
            f"cannot load {name} of mteb: {reason}; it comes from the Hugging Face hub, so look at the connection, "
            "or leave --mteb out"
        ) from error
    sets, official = [], {}
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            # a task of one language keeps its splits without a subset around them
            one = _set(task, task.dataset.get(subset, task.dataset)[split], split, subset)
            sets.append(one)
            official[one.key] = (split, subset)
    return HubTask(task, tuple(sets), official)


def mteb_says(task: HubTask, encoder: Encoder) -> dict[str, tuple[float, float]]:
    """(Spearman, Pearson) of each set by key, of the cosines, as mteb's evaluator computes them."""
    mteb = _mteb()
    from mteb.models.model_meta import ModelMeta

    wrapped = MtebEncoder(encoder, ModelMeta.create_empty())
    result = mteb.evaluate(
        wrapped,
        task.task,
        cache=None,  # nothing is read from, or left in, the user's home
        co2_tracker=False,
        overwrite_strategy="always",
        show_progress_bar=False,
    )
    scores = result.task_results[0].scores
    found = {}
    for key, (split, subset) in task.official.items():
        row = next(row for row in scores[split] if row["hf_subset"] == subset)
        found[key] = (float(row["cosine_spearman"]), float(row["cosine_pearson"]))
    return found


def _set(task: Any, rows: Any, split: str, subset: str) -> StsSet:
    first, second = task.column_names
    name = task.metadata.name if subset == "default" else f"{task.metadata.name}-{subset}"
    languages = task.metadata.eval_langs
    spoken = languages[subset] if isinstance(languages, dict) else languages
    scores = tuple(map(float, rows["score"]))
    if len(set(scores)) < 2:
        raise LookaheadError(f"{name} of mteb, split {split}: all scores are alike; nothing to rank")
    return StsSet(
        name,
        split,
        tuple(code.split("-")[0] for code in spoken),
        scores,
        tuple(map(str, rows[first])),
        tuple(map(str, rows[second])),
    )


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise LookaheadError(f"--mteb needs the mteb package; run: pip install '{EXTRA}'") from error
    return mteb
