"""Distils an encoder: a student learns to place texts where its teacher does, and is judged before it may be used.

It knows the batches, the loss of a step and what is watched; the loop is in `training`, the students in `students`,
the texts in `lessons`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index.conversion import fingerprint_of, load
from index.dense import normalised
from index.encoder import FULL, HASHING, RECIPE, Encoder, Fingerprint, fingerprint_in, open_encoder, prepare
from index.progress import bar
from index.static import UNLIMITED
from index.students import Status, Student, failure_of, opened
from retrieval.distill_losses import Alignment, Weighted
from retrieval.distill_recipes import DistillRecipe
from retrieval.lessons import WATCHED, Kind, Lessons, Mix, lessons, taught
from retrieval.models import CURVES, LOG
from retrieval.plots import plot_distillation
from retrieval.questions import QuestionSet
from retrieval.search import Searcher
from retrieval.sts import StsSet, spearman, stsbenchmark
from retrieval.student_cards import write_student_card
from retrieval.students import Plan, Pupil, Row, frame_of, make_student, refuse_teacher
from retrieval.train_predictor import peak_bytes, precision_for
from retrieval.training import CHECKPOINT, Outcome, Schedule, forget, train
from store.generations import MANIFEST, seal_of
from store.records import LookaheadError, Split

COSINE = 0.9  # to the teacher, below which a student is of no use: one at .77 found nothing (prior results, section 5)
STS_KEPT = 0.85  # of the teacher's Spearman
_POOL = 50  # batches among which texts are sorted by their length
_ASIDE = 256  # texts in a batch of a validation

Floats = NDArray[np.float32]
Half = NDArray[np.float16]


class DistillTask:
    """A pupil, the rows of tokens it reads, and the teacher's vectors of them."""

    def __init__(
        self,
        pupil: Pupil,
        rows: Sequence[Row],
        vectors: Half,
        watched: Watched,
        recipe: DistillRecipe,
        steps: int,
        ends: int,
    ) -> None:
        self._pupil = pupil
        self._rows = rows
        self._vectors = vectors
        self._watched = watched
        self._recipe = recipe
        self._steps = steps
        self._ends = ends  # special tokens at the end of a row, kept when it is cut
        self._loss = Weighted(recipe.losses)
        self._batch = min(recipe.batch, len(rows))
        self._lengths = np.array([len(row) for row in rows])
        self._order: tuple[int, list[NDArray[np.int64]]] = (-1, [])
        self._spearmans: list[float] = []
        self.per_epoch = len(rows) // self._batch

    @property
    def model(self) -> nn.Module:
        return self._pupil

    def loss(self, step: int) -> Tensor:
        places = self._places(step)
        longest = self._longest(step)
        goal = torch.from_numpy(self._vectors[places]).float()
        student = self._pupil([_cut(self._rows[place], longest, self._ends) for place in places])
        return self._loss(student, goal.to(student.device))

    def told(self) -> dict[str, float]:
        return dict(self._loss.told)

    def _places(self, step: int) -> NDArray[np.int64]:
        """The texts of a step: of nearly one length, so that hardly any padding is computed."""
        epoch, number = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._recipe.seed, epoch])
            order = rng.permutation(len(self._rows))[: self.per_epoch * self._batch]
            batches = []
            for start in range(0, len(order), _POOL * self._batch):
                pool = order[start : start + _POOL * self._batch]
                pool = pool[np.argsort(self._lengths[pool], kind="stable")]
                batches += list(pool.reshape(-1, self._batch))
            self._order = epoch, [batches[place] for place in rng.permutation(len(batches))]
        return self._order[1][number]

    def _longest(self, step: int) -> int | None:
        lengths = self._recipe.lengths
        return lengths[min(len(lengths) - 1, step * len(lengths) // self._steps)] if lengths else None

    def validate(self, step: int) -> dict[str, float]:
        figures = self._watched.figures(self._pupil)
        if "STS" in figures:
            self._spearmans.append(figures["STS"])
        return figures

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        """A figure that is none, or an STS that falls and falls: nobody looked when the first experiment's did."""
        lost = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if lost:
            return f"{', '.join(lost)} is no number any more; try a lower --rate"
        last = self._spearmans[-4:]
        falling = len(last) == 4 and all(after < before for before, after in itertools.pairwise(last))
        if falling and last[-1] < max(self._spearmans) - 0.03:
            return (
                f"STS has fallen three times in a row, to {last[-1]:.3f} from {max(self._spearmans):.3f}; "
                "try a lower --rate or other losses"
            )
        return None

    def memory(self) -> dict[str, Tensor]:
        return {"spearmans": torch.tensor(self._spearmans, dtype=torch.float64)}

    def recall(self, memory: dict[str, Tensor]) -> None:
        self._spearmans = memory.get("spearmans", torch.zeros(0)).tolist()


class Watched:
    """Texts that are not learned from, with their teacher's vectors, and the sentence pairs of STS where there are."""

    def __init__(self, held: Lessons, rows: Sequence[Row], sts: StsSet | None, sts_rows: Sequence[Row], precision: str):
        self._held = held
        self._rows = rows
        self._sts = sts
        self._sts_rows = sts_rows
        self._precision = precision

    def figures(self, pupil: Pupil) -> dict[str, float]:
        """`cosine` to the teacher, also by kind of text; the `alignment` loss and `fit`, 1 less that; `STS`."""
        vectors = self._vectors(pupil, self._rows)
        told = closeness(vectors, self._held)
        if self._sts is not None:
            found = self._vectors(pupil, self._sts_rows)
            half = len(found) // 2
            told["STS"] = spearman((found[:half] * found[half:]).sum(axis=1).tolist(), self._sts.scores)
        return told

    def _vectors(self, pupil: Pupil, rows: Sequence[Row]) -> Floats:
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        out = np.empty((len(rows), 0), np.float32)
        on_gpu = next(pupil.parameters()).is_cuda
        low = self._precision == "bf16"
        with torch.no_grad(), torch.autocast("cuda" if on_gpu else "cpu", dtype=torch.bfloat16, enabled=low):
            for start in range(0, len(order), _ASIDE):
                places = order[start : start + _ASIDE]
                found = pupil([rows[place] for place in places]).cpu().numpy()
                if not out.shape[1]:
                    out = np.empty((len(rows), found.shape[1]), np.float32)
                out[places] = found
        return out


def closeness(vectors: Floats, held: Lessons) -> dict[str, float]:
    """How near unit vectors of texts are to the teacher's, in all and by kind, and how alike the two see the texts."""
    goal = held.vectors.astype(np.float32)
    cosines = (vectors * goal).sum(axis=1)
    told = {"cosine": float(cosines.mean())}
    for kind in Kind:
        those = [place for place, one in enumerate(held.kinds) if one is kind]
        if those:
            told[f"{kind.value} cosine"] = float(cosines[those].mean())
    loss = float(Alignment()(torch.from_numpy(vectors), torch.from_numpy(goal)))
    return told | {"alignment": loss, "fit": 1 - loss}


@dataclass(frozen=True, slots=True)
class Distilled:
    """A finished distillation and its verdict."""

    student: Student
    outcome: Outcome
    parameters: int
    seconds: float
    peak_bytes: int


def distill(
    searcher: Searcher,
    folder: Path,
    *,
    name: str,
    teacher: str,
    recipe: DistillRecipe,
    kept: Path,
    without: Sequence[QuestionSet] = (),
    sts: Path | None = None,
    device: str = "cpu",
    command: str = "",
    quiet: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> Distilled:
    """Writes a sentence-transformers folder with the verdict on it, `student.json` last.

    Only training articles are learned from, less those that the questions of `without` are about; validation articles
    are watched and test articles judge. `kept` is where the teacher's vectors are kept for the next student. `sts` is
    the folder of the STS sets; without it the student is judged by its nearness to the teacher alone.
    """
    began = time.perf_counter()
    collection = searcher.generation.path.parent.name
    plan = Plan.parse(recipe.student)
    original = teacher_model(teacher, plan)
    guide = teacher_of(searcher, teacher, fingerprint_of(teacher, original), kept, note)
    articles = taught(searcher, Split.TRAIN, without)
    mix = Mix() if recipe.texts is None else Mix().scaled(recipe.texts)
    school = lessons(searcher, articles, guide, mix, kept, seed=recipe.seed, quiet=quiet)
    if len(school) < 8:
        raise LookaheadError(f"{collection} has {len(school)} texts to learn from; ingest more articles")
    aside = {
        split: lessons(searcher, taught(searcher, split, without), guide, WATCHED, kept, seed=recipe.seed, quiet=quiet)
        for split in (Split.VALID, Split.TEST)
    }
    # what its teacher never read of a text is not in the vector it learns
    longest = min(max(recipe.lengths, default=0) or guide.fingerprint.max_tokens, guide.fingerprint.max_tokens)
    backend, ends = _tokenizer(original, None if not plan.layers else longest)
    special = bool(plan.layers)
    rows = _rows(backend, school.as_read(guide.fingerprint), special, quiet=quiet)
    counts = np.bincount(np.concatenate(rows), minlength=backend.get_vocab_size())
    model = make_student(plan, original, longest=longest, counts=counts, seed=recipe.seed)
    pupil = Pupil(model).to(device)
    attention = _attend_plainly(model) if device == "cpu" else None
    benchmark = stsbenchmark(sts, "dev") if sts is not None else None
    before = guide.fingerprint.document_prefix
    pairs = [before + text for text in (*benchmark.first, *benchmark.second)] if benchmark is not None else []
    precision = precision_for(device) if plan.layers else "f32"
    watched = Watched(
        aside[Split.VALID],
        _rows(backend, aside[Split.VALID].as_read(guide.fingerprint), special),
        benchmark,
        _rows(backend, pairs, special),
        precision,
    )
    steps = recipe.steps or max(1, round(recipe.epochs * len(rows) / min(recipe.batch, len(rows))))
    task = DistillTask(pupil, rows, school.vectors, watched, recipe, steps, ends)
    parameters = sum(value.numel() for value in model.parameters())
    note(
        f"student {name}: {plan}, {parameters:,} parameters, {len(rows):,} texts of {len(articles):,} articles "
        f"({sum(map(len, rows)) / len(rows):.0f} tokens each), {steps:,} steps of {min(recipe.batch, len(rows))}"
    )
    facts = {
        "generation": seal_of(searcher.generation.path / MANIFEST).sha256,
        "teacher": guide.fingerprint.key,
        "recipe": recipe.as_json(),
        "texts": hashlib.sha256("\0".join(school.texts).encode()).hexdigest(),
        "parameters": parameters,
    }
    schedule = Schedule(
        steps=steps,
        every=max(1, math.ceil(steps / recipe.checks)),
        rate=recipe.rate,
        warm_up=recipe.warm_up,
        decay=recipe.decay,
        patience=recipe.patience,
        seed=recipe.seed,
        precision=precision,
        score=recipe.watch,
        per_epoch=task.per_epoch,
    )
    start = watched.figures(pupil) if not (folder / CHECKPOINT).exists() else {}
    if start:
        note("before training: " + ", ".join(f"{key} {value:.3f}" for key, value in start.items()))
    outcome = train(task, schedule, folder, log=folder / LOG, identity=facts, quiet=quiet)
    _attend_as_before(model, attention)
    _save(model.cpu(), folder)
    made: dict[str, Any] = {
        "command": command,
        "collection": collection,
        "language": searcher.generation.manifest.facts["chunking"]["language"],
        "articles": len(articles),
        "texts": school.counts(),
        "held_out": [one.name for one in without],
        "recipe": recipe.as_json(),
        "parameters": parameters,
        "reads": longest if plan.layers else UNLIMITED,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "ended": outcome.ended,
        "valid": outcome.best,
        "seconds": round(outcome.seconds, 1),
        "device": device,
    }
    figures = judged(folder, guide, aside[Split.TEST], sts)
    status, reasons = verdict(figures)
    student = Student(status, reasons, guide.fingerprint.as_json(), figures, made)
    plot_distillation(outcome.history, folder / CURVES, f"{name} on {collection}")
    write_student_card(folder, name, student)
    student.write(folder)
    forget(folder)
    return Distilled(student, outcome, parameters, time.perf_counter() - began, peak_bytes())


def teacher_model(teacher: str, plan: Plan) -> Any:
    """The teacher as a SentenceTransformer; refused before anything is embedded where no such student can be made."""
    if teacher == HASHING:
        raise LookaheadError("the hashing encoder has no layers to make a student of; take --teacher bundled")
    if failed := failure_of(teacher):
        raise LookaheadError(f"{failed}; take another --teacher")
    original = load(teacher, "cpu")
    refuse_teacher(plan, original)
    return original


def teacher_of(
    searcher: Searcher, teacher: str, fingerprint: Fingerprint, kept: Path, note: Callable[[str], object]
) -> Encoder:
    """The teacher for bulk work: the collection's own where it is that, or else converted once into `kept`, under its
    fingerprint: a name may mean other weights tomorrow."""
    home = searcher.generation.path / "encoder"
    if fingerprint_in(home) == fingerprint:
        return open_encoder(home, bulk=True)
    folder = kept / f"teacher-{fingerprint.key}"
    if not (folder / RECIPE).is_file():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept, prefix=".teacher-") as place:
            prepare(teacher, Path(place) / "encoder", precision=FULL, note=note)
            with contextlib.suppress(OSError):  # another distillation was quicker
                os.rename(Path(place) / "encoder", folder)
    return open_encoder(folder, bulk=True)


def judged(folder: Path, guide: Encoder, held: Lessons, sts: Path | None) -> dict[str, float]:
    """The student as it will be used, on articles nobody learned from or looked at, and both on STS."""
    figures: dict[str, float] = {}
    with opened(str(folder)) as encoder:
        texts = held.texts
        asked = held.kinds.index(Kind.QUERY) if Kind.QUERY in held.kinds else len(texts)
        parts = [encoder.encode(texts[:asked]), encoder.encode_queries(texts[asked:])]
        figures |= closeness(normalised(np.concatenate([part for part in parts if len(part)])), held)
        if sts is not None:
            pairs = stsbenchmark(sts, "test")
            figures |= {"STS": sts_of(encoder, pairs), "teacher STS": sts_of(guide, pairs)}
    return figures


def sts_of(encoder: Encoder, pairs: StsSet) -> float:
    """Spearman's rank correlation of the cosines with what people said."""
    first, second = (normalised(encoder.encode(list(side))) for side in (pairs.first, pairs.second))
    return spearman((first * second).sum(axis=1).tolist(), pairs.scores)


def verdict(figures: dict[str, float]) -> tuple[Status, tuple[str, ...]]:
    """Whether a student may be used, and why not; a figure that is no number never passes."""
    reasons = []
    if not figures["cosine"] >= COSINE:
        reasons.append(f"cosine to its teacher {figures['cosine']:.3f}, needed {COSINE:g}")
    if "STS" in figures:
        least = STS_KEPT * figures["teacher STS"]
        if not figures["STS"] >= least:
            reasons.append(
                f"STSBenchmark {figures['STS']:.3f} against the teacher's {figures['teacher STS']:.3f}, needed "
                f"{least:.3f}"
            )
    return (Status.FAILED if reasons else Status.USABLE), tuple(reasons)


def _cut(row: Row, longest: int | None, ends: int) -> Row:
    if longest is None or len(row) <= longest:
        return row
    return np.concatenate([row[: longest - ends], row[len(row) - ends :]])


def _tokenizer(model: Any, longest: int | None) -> tuple[Any, int]:
    """The teacher's tokenizer, cutting at `longest`, and how many special tokens end a text."""
    backend = copy.deepcopy(model.tokenizer.backend_tokenizer)
    backend.no_padding()
    if longest is None:
        backend.no_truncation()
        return backend, 0
    backend.enable_truncation(longest)
    return backend, len(frame_of(model.tokenizer)[1])


def _rows(backend: Any, texts: Sequence[str], special: bool, *, quiet: bool = True) -> list[Row]:
    """Token ids; of a text without any, the first token of all, so that a mean exists."""
    found: list[Row] = []
    with bar("reading texts", len(texts), "texts", quiet=quiet) as shown:
        for start in range(0, len(texts), 4_096):
            some = backend.encode_batch_fast(list(texts[start : start + 4_096]), add_special_tokens=special)
            found += [np.array(one.ids or [0], np.int32) for one in some]
            shown.update(len(some))
    return found


def _attend_plainly(model: Any) -> str | None:
    """torch's fused attention is half as fast as plain matrices in bfloat16 on a CPU and texts as short as these."""
    inner = getattr(model[0], "auto_model", None)
    if inner is None or not hasattr(inner, "set_attn_implementation"):
        return None
    before = str(inner.config._attn_implementation)
    inner.set_attn_implementation("eager")
    return before


def _attend_as_before(model: Any, attention: str | None) -> None:
    if attention is not None:
        model[0].auto_model.set_attn_implementation(attention)


def _save(model: Any, folder: Path) -> None:
    model.save(str(folder), create_model_card=False, safe_serialization=True)
    for litter in folder.glob("*.tmp"):
        litter.unlink()
