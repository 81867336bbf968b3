"""Distilling tiny students: what they learn from, what judges them, that runs resume, when they stop, the verdict."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_teacher import READS, as_torch, ingested, opened_by_torch, page, write_sts, write_teacher
from torch import Tensor

from index import conversion
from index.encoder import FULL, Fingerprint, fingerprint_in
from index.static import UNLIMITED
from index.students import STUDENT, Status, Student, opened, read_student
from retrieval import distillation as subject
from retrieval import plots
from retrieval.distill_recipes import PRESETS, DistillRecipe, distill_recipe
from retrieval.distillation import Distilled, DistillTask, Watched, distill, sts_of, verdict
from retrieval.lessons import Lessons
from retrieval.models import CARD, CURVES, LOG, METRICS
from retrieval.search import Searcher
from retrieval.sts import stsbenchmark
from retrieval.student_cards import write_student_card
from retrieval.students import Plan, Pupil
from retrieval.training import CHECKPOINT, STEPS
from store.records import LookaheadError, Split
from store.splits import split_of

PAGES = range(1, 26)
BRIEF = DistillRecipe(student="layers:2", texts=60, steps=8, checks=4, batch=16, rate=1e-3)
STILL = replace(BRIEF, student="layers:4", steps=1, checks=1, rate=1e-9)  # its teacher, and nothing more

Ints = NDArray[np.int64]


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    """One thread, single precision, students run as torch makes them, and no pictures."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "precision_for", lambda device: "f32")
        patch.setattr(conversion, "convert_apart", as_torch)
        patch.setattr(subject, "opened", opened_by_torch)
        patch.setattr(subject, "plot_distillation", lambda *_: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distillation")
    write_sts(folder / "sts")
    return folder


@pytest.fixture(scope="module")
def teacher(home: Path) -> str:
    return str(write_teacher(home / "teacher"))


@pytest.fixture(scope="module")
def searcher(home: Path, teacher: str) -> Iterator[Searcher]:
    with Searcher.open(ingested(home, "tales", [page(number) for number in PAGES], teacher)) as one:
        yield one


@pytest.fixture
def run(searcher: Searcher, home: Path, teacher: str) -> Callable[..., Distilled]:
    """Distils into a folder; what the teacher said is kept for the next."""

    def told(folder: Path, recipe: DistillRecipe = BRIEF, **changes: Any) -> Distilled:
        folder.mkdir(parents=True, exist_ok=True)
        usual: dict[str, Any] = {
            "name": "mine", "teacher": teacher, "kept": home / "kept", "sts": home / "sts", "command": "typed",
        }  # fmt: skip
        return distill(searcher, folder, recipe=recipe, quiet=True, **{**usual, **changes})

    return told


@pytest.fixture(scope="module")
def whole(searcher: Searcher, home: Path, teacher: str) -> tuple[Path, Distilled]:
    """What a brief run makes in one go."""
    folder = home / "whole"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "plot_distillation", plots.plot_distillation)
        patch.setattr(subject, "opened", opened)
        made = distill(
            searcher, folder, name="mine", teacher=teacher, recipe=BRIEF, kept=home / "kept", sts=home / "sts",
            command="typed", quiet=True,
        )  # fmt: skip
    return folder, made


@contextmanager
def killed(patch: pytest.MonkeyPatch, of: object, name: str, when: Callable[..., bool]) -> Iterator[None]:
    """The first call of a function for which `when` holds is the last thing that happens."""
    usual = getattr(of, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise KeyboardInterrupt
        return usual(*arguments, **named)

    with patch.context() as inner:
        inner.setattr(of, name, call)
        with pytest.raises(KeyboardInterrupt):
            yield


def steps_made(patch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    usual = DistillTask.loss

    def loss(task: DistillTask, step: int) -> Tensor:
        made.append(step)
        return usual(task, step)

    patch.setattr(DistillTask, "loss", loss)
    return made


def weights_in(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def lines_in(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pages_in(texts: Sequence[str]) -> set[int]:
    return {int(number) for text in texts for number in re.findall(r"\d+", text)}


# -- what is made ----------------------------------------------------------------------------------------------------


def test_a_folder_holds_a_model_with_its_verdict_and_nothing_of_its_making(whole: tuple[Path, Distilled]) -> None:
    folder, made = whole
    names = {path.name for path in folder.iterdir()}
    assert {STUDENT, CARD, CURVES, LOG, STEPS, "modules.json", "model.safetensors"} <= names
    assert CHECKPOINT not in names
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]
    assert read_student(folder) == made.student
    student = made.student
    assert student.teacher["model"] == "teacher"
    told = student.made
    assert (told["command"], told["collection"], told["language"], told["device"]) == ("typed", "tales", "en", "cpu")
    assert (told["steps"], told["ended"], told["reads"]) == (8, "all steps done", READS)
    assert told["recipe"] == json.loads(json.dumps(BRIEF.as_json()))
    assert told["articles"] == len([number for number in PAGES if split_of(number) is Split.TRAIN])
    assert sum(told["texts"].values()) == pytest.approx(60, abs=4)
    assert told["parameters"] == made.parameters
    assert told["valid"] == made.outcome.best
    assert (folder / CURVES).read_bytes().startswith(b"\x89PNG")


def test_the_figures_kept_are_those_of_the_written_model_on_test_pairs(
    whole: tuple[Path, Distilled], home: Path, teacher: str
) -> None:
    folder, made = whole
    test = stsbenchmark(home / "sts", "test")
    with opened(str(folder)) as ours, opened(teacher) as theirs:
        assert made.student.figures["STS"] == pytest.approx(sts_of(ours, test), abs=1e-6)
        assert made.student.figures["teacher STS"] == pytest.approx(sts_of(theirs, test), abs=1e-6)


def test_it_learns(run: Callable[..., Distilled], tmp_path: Path) -> None:
    notes: list[str] = []
    made = run(tmp_path, replace(BRIEF, steps=24, rate=4e-3), note=notes.append, sts=None)
    before = next(float(found[1]) for note in notes if (found := re.match(r"before training: cosine (-?[.\d]+)", note)))
    assert made.outcome.best["cosine"] > before + 0.3
    assert [line["loss"] for line in made.outcome.history] == sorted(
        (line["loss"] for line in made.outcome.history), reverse=True
    )


def test_validation_is_on_validation_articles_and_the_verdict_on_test_articles_even_without_sts(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Lessons] = {}
    init, judge, task = Watched.__init__, subject.judged, DistillTask.__init__
    monkeypatch.setattr(
        Watched, "__init__", lambda self, held, *rest: (seen.update(valid=held), init(self, held, *rest))[1]
    )
    monkeypatch.setattr(
        subject, "judged", lambda folder, guide, held, sts: (seen.update(test=held), judge(folder, guide, held, sts))[1]
    )
    vectors: list[Any] = []
    monkeypatch.setattr(DistillTask, "__init__", lambda self, *rest: (vectors.append(rest[2]), task(self, *rest))[1])
    made = run(tmp_path, STILL, sts=None)
    assert not [name for name in made.student.figures if "STS" in name]  # nearness alone decides
    assert made.student.status is Status.USABLE
    assert "judged by its nearness to its teacher alone" in (tmp_path / CARD).read_text(encoding="utf-8")
    for name, split in (("valid", Split.VALID), ("test", Split.TEST)):
        assert pages_in(seen[name].texts) == {number for number in PAGES if split_of(number) is split}
    learned = {vector.tobytes() for vector in vectors[0]}
    assert not learned & {vector.tobytes() for one in seen.values() for vector in one.vectors}


def test_a_student_of_all_layers_that_stands_still_is_its_teacher_and_usable(
    run: Callable[..., Distilled], tmp_path: Path
) -> None:
    made = run(tmp_path, STILL)
    assert (made.student.status, made.student.reasons) == (Status.USABLE, ())
    assert made.student.figures["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert made.student.figures["fit"] == pytest.approx(1.0, abs=1e-4)
    assert made.student.figures["STS"] == pytest.approx(made.student.figures["teacher STS"], abs=2e-3)


# -- teachers --------------------------------------------------------------------------------------------------------


def test_another_teacher_puts_its_words_before_texts_and_its_students_do_too(
    home: Path, tmp_path: Path, run: Callable[..., Distilled]
) -> None:
    other = str(write_teacher(tmp_path / "prompted", seed=3, prompts={"query": "old mill ", "document": "near the "}))
    made = run(tmp_path / "mine", STILL, teacher=other, kept=tmp_path / "kept")
    assert made.student.figures["cosine"] == pytest.approx(1.0, abs=1e-4)
    with opened(other) as theirs:
        assert theirs.fingerprint.document_prefix == "near the "
        dev = stsbenchmark(home / "sts", "dev")
        assert made.outcome.best["STS"] == pytest.approx(sts_of(theirs, dev), abs=2e-3)
    with opened(str(tmp_path / "mine")) as ours:
        assert (ours.fingerprint.document_prefix, ours.fingerprint.query_prefix) == ("near the ", "old mill ")


def test_a_teacher_is_converted_once_and_again_when_its_weights_are_others(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    usual = subject.prepare
    monkeypatch.setattr(
        subject, "prepare",
        lambda spec, folder, **rest: (made.append(rest["precision"]), usual(spec, folder, **rest))[1],
    )  # fmt: skip
    found = []
    for seed in (1, None, 2):
        if seed is not None:
            spec = str(write_teacher(tmp_path / "other", seed=seed))
            fingerprint = conversion.fingerprint_of(spec, conversion.load(spec, "cpu"))
        found.append(subject.teacher_of(searcher, spec, fingerprint, tmp_path / "kept", lambda _: None).fingerprint)
        assert found[-1] == fingerprint
    assert made == [FULL, FULL]  # never its twin in eight bits
    assert found[0] == found[1] != found[2]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(
        f"teacher-{one.key}" for one in {*found}
    )


def test_the_collections_own_encoder_is_the_teacher_where_it_is_the_same(searcher: Searcher, tmp_path: Path) -> None:
    own = fingerprint_in(searcher.generation.path / "encoder")
    assert subject.teacher_of(searcher, "unasked", own, tmp_path / "kept", lambda _: None).fingerprint == own
    assert not (tmp_path / "kept").exists()


def test_a_teacher_that_another_distillation_has_just_made_is_taken(
    searcher: Searcher, tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Fingerprint("x", "1", 2, "mean", False, True, "", "", 8)
    place = tmp_path / "kept" / f"teacher-{wanted.key}"

    def both(spec: str, folder: Path, **rest: Any) -> None:
        for one in (folder, place):
            one.mkdir(parents=True)
            as_torch(teacher, one, device="cpu", note=lambda _: None)

    monkeypatch.setattr(subject, "prepare", both)
    subject.teacher_of(searcher, teacher, wanted, tmp_path / "kept", lambda _: None)
    assert list((tmp_path / "kept").iterdir()) == [place]


def test_who_cannot_teach_is_refused_before_anything_is_embedded(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    monkeypatch.setattr(subject, "lessons", lambda *_, **__: pytest.fail("lessons were made"))
    failed = tmp_path / "failed"
    failed.mkdir()
    Student(Status.FAILED, ("it is far off",), {}, {}).write(failed)
    for spec, plan, said in (
        ("hashing", "layers:1", "the hashing encoder has no layers to make a student of; take --teacher bundled"),
        (str(failed), "layers:1", "failed: it is far off; take another --teacher"),
        (str(tmp_path), "layers:1", "cannot load the encoder"),
        (teacher, "layers:5", "the teacher has 4 layers, a student cannot have 5 of them"),
        (teacher, "layers:0", "there is no student 'layers:0'"),
    ):
        with pytest.raises(LookaheadError, match=said) as caught:
            run(tmp_path / "mine", replace(BRIEF, student=plan), teacher=spec, kept=tmp_path / "kept")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "kept").exists()


def test_too_few_texts_are_refused(run: Callable[..., Distilled], tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"tales has 4 texts to learn from; ingest more articles"):
        run(tmp_path, replace(BRIEF, texts=1))


# -- batches ---------------------------------------------------------------------------------------------------------


def task_of(of: Sequence[int], **changes: Any) -> DistillTask:
    """A task whose rows are n, n, …, n for a length of n."""
    rows = [np.full(length, length, np.int32) for length in of]
    recipe = replace(DistillRecipe(batch=4), **changes)
    nobody: Any = None
    return DistillTask(nobody, rows, np.zeros((len(rows), 2), np.float16), nobody, recipe, 12, 1)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 40), min_size=4, max_size=80), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_reads_every_text_once_but_for_an_incomplete_batch(lengths: list[int], seed: int, epoch: int) -> None:
    task = task_of(lengths, seed=seed)
    assert task.per_epoch == len(lengths) // 4
    steps = range(epoch * task.per_epoch, (epoch + 1) * task.per_epoch)
    read = np.concatenate([task._places(step) for step in steps])
    assert len(set(read.tolist())) == len(read) == 4 * task.per_epoch
    again = task_of(lengths, seed=seed)  # as a run that is taken up: any step first
    for step in reversed(steps):
        assert np.array_equal(again._places(step), task._places(step))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = [1 + number % 7 for number in range(40)]

    def order(seed: int, epoch: int) -> list[int]:
        task = task_of(lengths, seed=seed)
        return [int(place) for step in range(10) for place in task._places(10 * epoch + step)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_texts_of_a_batch_are_of_nearly_one_length() -> None:
    lengths = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 11), 8)).tolist()
    task = task_of(lengths)
    spans = [np.ptp(np.array(lengths)[task._places(step)]) for step in range(task.per_epoch)]
    assert max(spans) <= 1
    firsts = [lengths[task._places(step)[0]] for step in range(task.per_epoch)]
    assert firsts != sorted(firsts)  # but the batches come in any order


def test_a_batch_is_no_larger_than_what_there_is() -> None:
    assert sorted(task_of([3, 4, 5], batch=100)._places(0).tolist()) == [0, 1, 2]


def test_a_curriculum_reads_more_in_each_part_of_the_run() -> None:
    told = [task_of([3] * 4, lengths=(8, 16, 32))._longest(step) for step in range(12)]
    assert told == [8] * 4 + [16] * 4 + [32] * 4
    assert task_of([3] * 4, lengths=(8,))._longest(11) == 8
    assert task_of([3] * 4)._longest(3) is None


def test_a_text_is_cut_to_the_curriculum_and_keeps_its_last_special_token(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[bool, list[list[int]]]] = []
    usual = Pupil.forward

    def forward(pupil: Pupil, rows: Sequence[Any]) -> Tensor:
        read.append((torch.is_grad_enabled(), [row.tolist() for row in rows]))
        return usual(pupil, rows)

    monkeypatch.setattr(Pupil, "forward", forward)
    run(tmp_path, replace(BRIEF, lengths=(6, 12), steps=4, checks=1), sts=None)
    steps = [rows for learning, rows in read if learning]
    assert len(steps) == 4
    for number, rows in enumerate(steps):
        assert max(map(len, rows)) <= (6, 6, 12, 12)[number]
        assert all((row[0], row[-1]) == (2, 3) for row in rows)  # [CLS] … [SEP]
    assert max(len(row) for rows in steps for row in rows) == 12
    assert max(len(row) for learning, rows in read if not learning for row in rows) == 12  # and so will it read later


@settings(max_examples=40)
@given(length=st.integers(0, 20), longest=st.none() | st.integers(2, 20), ends=st.integers(0, 2))
def test_a_cut_row_is_its_beginning_and_its_end(length: int, longest: int | None, ends: int) -> None:
    row = np.arange(length, dtype=np.int32)
    cut = subject._cut(row, longest, ends).tolist()
    kept = length if longest is None else min(length, longest)
    assert len(cut) == kept
    if kept < length:
        assert cut == [*range(kept - ends), *range(length - ends, length)]
    else:
        assert cut == row.tolist()


# -- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "goes_on"), [pytest.param(2, 0, marks=pytest.mark.slow), (6, 4)])
def test_killed_it_goes_on_to_the_same_weights(
    run: Callable[..., Distilled],
    whole: tuple[Path, Distilled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    goes_on: int,
) -> None:
    with killed(monkeypatch, DistillTask, "validate", lambda task, step: step == at):
        run(tmp_path)
    assert not (tmp_path / STUDENT).exists()
    steps = steps_made(monkeypatch)
    made = run(tmp_path)
    assert steps == list(range(goes_on, 8))
    assert weights_in(tmp_path) == weights_in(whole[0])
    assert lines_in(tmp_path / LOG) == lines_in(whole[0] / LOG)
    assert made.student.figures == pytest.approx(whole[1].student.figures)


@pytest.mark.parametrize(
    "name",
    ["judged", *(pytest.param(name, marks=pytest.mark.slow) for name in ("_save", "write_student_card", "forget"))],
)
def test_killed_after_its_last_step_nothing_is_trained_again(
    run: Callable[..., Distilled],
    whole: tuple[Path, Distilled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    with killed(monkeypatch, subject, name, lambda *_: True):
        run(tmp_path)
    steps = steps_made(monkeypatch)
    made = run(tmp_path)
    assert steps == []
    assert weights_in(tmp_path) == weights_in(whole[0])
    assert made.student.figures == pytest.approx(whole[1].student.figures)
    assert not (tmp_path / CHECKPOINT).exists()


def test_another_seed_gives_other_weights(
    run: Callable[..., Distilled], whole: tuple[Path, Distilled], tmp_path: Path
) -> None:
    run(tmp_path, replace(BRIEF, seed=1), sts=None)
    assert weights_in(tmp_path) != weights_in(whole[0])


def test_a_checkpoint_of_another_recipe_is_refused(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed(monkeypatch, DistillTask, "validate", lambda task, step: step == 6):
        run(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(
        LookaheadError, match=r"\(different: recipe, schedule\); train under another --name, or add --r"
    ):
        run(tmp_path, replace(BRIEF, rate=2e-3), sts=None)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


# -- when it is no use -----------------------------------------------------------------------------------------------


def figures_of(monkeypatch: pytest.MonkeyPatch, told: Callable[[int], dict[str, float]]) -> None:
    """What every validation says, by the number of the validation; the one before training is 0."""
    usual, number = Watched.figures, iter(range(100))
    monkeypatch.setattr(Watched, "figures", lambda self, pupil: {**usual(self, pupil), **told(next(number))})


def test_a_figure_that_is_no_number_stops_the_run(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures_of(monkeypatch, lambda number: {"cosine": math.nan} if number == 2 else {})
    with pytest.raises(LookaheadError, match=r"stopped at step 4: cosine is no number any more; try a lower --rate"):
        run(tmp_path, sts=None)
    assert not (tmp_path / STUDENT).exists()
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["fit", "STS", "query cosine"])
def test_no_figure_may_be_no_number(name: str, value: float) -> None:
    said = task_of([3] * 4).trouble({"cosine": 0.5, name: value}, 0.1)
    assert said == f"{name} is no number any more; try a lower --rate"


def test_an_sts_that_falls_three_times_stops_the_run_and_a_kill_between_makes_no_difference(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = [0.8, 0.8, 0.79, 0.78, 0.7]
    said = r"stopped at step 8: STS has fallen three times in a row, to 0.700 from 0.800; try a lower --rate or other"
    with monkeypatch.context() as patch:
        figures_of(patch, lambda number: {"STS": falling[number]})
        with killed(patch, DistillTask, "validate", lambda task, step: step == 6):
            run(tmp_path, sts=None)
    figures_of(monkeypatch, lambda number: {"STS": falling[number + 3]})
    with pytest.raises(LookaheadError, match=said):
        run(tmp_path, sts=None)
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / STUDENT).exists()


@pytest.mark.parametrize(
    ("told", "stops"),
    [
        ([0.8, 0.79, 0.78, 0.75], True),
        ([0.9, 0.8, 0.7], False),  # twice
        ([0.8, 0.79, 0.79, 0.7], False),
        ([0.8, 0.799, 0.798, 0.775], False),  # not far below the best
        ([0.85, 0.7, 0.8, 0.799, 0.798, 0.797], True),
        ([], False),
    ],
)
def test_sts_must_fall_three_times_and_far(told: list[float], stops: bool) -> None:
    task = task_of([3] * 4)
    task._spearmans = told
    assert (task.trouble({"cosine": 0.5}, 0.5) is not None) is stops


def test_a_checkpoint_from_before_there_was_a_memory_is_taken_up() -> None:
    task = task_of([3] * 4)
    task.recall({})
    assert task._spearmans == []


def test_patience_ends_a_run_with_its_best_weights(
    run: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures_of(monkeypatch, lambda number: {"fit": 0.5 if number == 1 else 0.1})
    made = run(tmp_path, replace(BRIEF, watch="fit", patience=2), sts=None)
    assert (made.outcome.best_step, made.outcome.steps) == (2, 6)
    assert made.student.made["ended"] == "no better fit in 2 validations"


# -- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "reasons"),
    [
        ({"cosine": 0.9}, ()),
        ({"cosine": 0.89}, ("cosine to its teacher 0.890, needed 0.9",)),
        ({"cosine": math.nan}, ("cosine to its teacher nan, needed 0.9",)),
        ({"cosine": 0.95, "STS": 0.68, "teacher STS": 0.8}, ()),  # 15 % below
        (
            {"cosine": 0.95, "STS": 0.849 * 0.8, "teacher STS": 0.8},
            ("STSBenchmark 0.679 against the teacher's 0.800, needed 0.680",),
        ),
        (
            {"cosine": 0.95, "STS": math.nan, "teacher STS": 0.8},
            ("STSBenchmark nan against the teacher's 0.800, needed 0.680",),
        ),
        (
            {"cosine": 0.95, "STS": 0.8, "teacher STS": math.nan},
            ("STSBenchmark 0.800 against the teacher's nan, needed nan",),
        ),
        (
            {"cosine": 0.77, "STS": 0.223, "teacher STS": 0.8},  # the first experiment
            ("cosine to its teacher 0.770, needed 0.9", "STSBenchmark 0.223 against the teacher's 0.800, needed 0.680"),
        ),
    ],
)
def test_the_verdict_and_its_reasons(figures: dict[str, float], reasons: tuple[str, ...]) -> None:
    assert verdict(figures) == (Status.FAILED if reasons else Status.USABLE, reasons)


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_the_presets_are_the_earlier_experiments_to_the_letter() -> None:
    one, two = (distill_recipe(None, name, {}) for name in ("leaf-v1", "leaf-v2"))
    assert (one.student, one.texts, one.epochs, one.lengths) == ("narrow:6x0.5", 50_000, 3.0, (512,))
    assert one.losses == {"distillation": 0.5, "alignment": 1.0, "contrastive": 0.3}
    assert Plan.parse(one.student) == Plan(6, 0.5)
    assert (two.student, two.texts, two.epochs, two.lengths) == ("narrow:12x0.75", 200_000, 10.0, (512, 1024, 2048))
    assert two.losses["alignment"] == 2.5
    assert two.losses.keys() == {"distillation", "alignment", "contrastive", "triplet"}
    assert (two.watch, two.patience > 0) == ("fit", True)  # early stop on the alignment loss
    assert distill_recipe(None, None, {}) == DistillRecipe()
    assert set(PRESETS) == {"layers", "static", "leaf-v1", "leaf-v2"}


def test_what_is_asked_for_goes_before_the_preset() -> None:
    assert distill_recipe("static", None, {}).batch == PRESETS["static"]["batch"]
    assert distill_recipe("layers:2", None, {"seed": 4, "rate": None}) == replace(
        DistillRecipe(), student="layers:2", seed=4
    )
    mixed = distill_recipe("static", "leaf-v1", {"texts": 9})
    assert (mixed.student, mixed.texts, mixed.epochs) == ("static", 9, 3.0)
    assert distill_recipe("layers", None, {}).student == "layers:3"
    with pytest.raises(LookaheadError, match="there is no preset 'leaf'; there are layers, static, leaf-v1, leaf-v2"):
        distill_recipe(None, "leaf", {})


@pytest.mark.parametrize("preset", ["leaf-v1", "leaf-v2", "static"])
def test_presets_run_from_end_to_end(run: Callable[..., Distilled], tmp_path: Path, preset: str) -> None:
    from sentence_transformers import SentenceTransformer

    recipe = distill_recipe(None, preset, {"texts": 40, "steps": 2, "checks": 2, "batch": 16, "rate": 1e-3})
    made = run(tmp_path, recipe)
    assert made.student.status is Status.FAILED  # of two steps
    assert made.outcome.steps == 2
    for line in lines_in(tmp_path / LOG):  # what is validated is told from the losses of the steps
        assert line["fit"] == pytest.approx(1 - line["alignment"])
        parts = sum(weight * line[f"{name} loss"] for name, weight in recipe.losses.items())
        assert line["loss"] == pytest.approx(parts, rel=1e-4)
    assert lines_in(tmp_path / STEPS)[0].keys() == {"step", "loss", *(f"{name} loss" for name in recipe.losses)}
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert model.encode(["The old bridge."]).shape == (1, 32)
    reads = UNLIMITED if preset == "static" else READS  # no more than its teacher, whatever the recipe says
    assert made.student.made["reads"] == reads
    if preset != "static":
        assert (model.max_seq_length, len(model[0].auto_model.encoder.layer)) == (
            reads,
            int(recipe.student[7:].split("x")[0]),
        )


# -- the card and the curves -----------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_what_it_learned_from_and_what_it_is_worth(whole: tuple[Path, Distilled]) -> None:
    folder, made = whole
    card, figures = (folder / CARD).read_text(encoding="utf-8"), made.student.figures
    counts = made.student.made["texts"]
    for said in (
        "# mine\n",
        f"from `teacher`: 2 of its layers, chosen evenly and trained on, {made.parameters:,} parameters, 32 dimensions",
        "it reads the first 64 tokens of a text",
        f"| status | **failed**: cosine to its teacher {figures['cosine']:.3f}, needed 0.9",
        f"| teacher | {Fingerprint.from_json(made.student.teacher)} |",
        f"`tales`, training articles only: {made.student.made['articles']} articles; {counts['chunk']} chunks, ",
        f" chunks, {counts['passage']} passages, {counts['sentence']} sentences, ",
        f"{counts['query']} queries |",
        "| not learned from | validation and test articles |",
        "| command | `typed` |",
        "| seed | 0 |",
        "losses 1 distillation, lengths the teacher's",
        f"| training | 8 steps on cpu in {made.outcome.seconds:,.0f} s, best at step {made.outcome.best_step}; all",
        "| licence | that of `teacher`, which it was made of;",
        f"| cosine to the teacher, all texts | {figures['cosine']:.3f} | {made.outcome.best['cosine']:.3f} |",
        f"| … single sentences | {figures['sentence cosine']:.3f} | {made.outcome.best['sentence cosine']:.3f} |",
        f"| STSBenchmark, Spearman (test; dev) | {figures['STS']:.3f} | {made.outcome.best['STS']:.3f} |",
        f"The teacher has {figures['teacher STS']:.3f} on the same test pairs.",
        "Not for use: see its status.",
        "For English only",
        "a space of their own",
    ):
        assert said in card, said
    assert "epochs" not in card  # it was given steps


def test_a_card_is_written_anew_from_the_verdict_alone(tmp_path: Path, whole: tuple[Path, Distilled]) -> None:
    student = replace(
        whole[1].student, status=Status.USABLE, reasons=(),
        teacher={**whole[1].student.teacher, "model": "all-MiniLM-L6-v2"},
        made={"held_out": ["squad.json", "topics.tsv"], "recipe": {"student": "narrow:6x0.5"}, "reads": UNLIMITED,
              "language": "de"},
    )  # fmt: skip
    (tmp_path / METRICS).write_text(json.dumps({"command": "judge it", "lines": ["| R@1 | .5 |"]}), encoding="utf-8")
    write_student_card(tmp_path, "fast", student)
    card = (tmp_path / CARD).read_text(encoding="utf-8")
    for said in (
        "6 new layers of 0.5 times its width, and a Linear to its dimensions",
        "it reads texts of any length",
        "**usable**: near enough to its teacher",
        "validation and test articles; articles that the questions of `squad.json`, `topics.tsv` are about",
        "Apache-2.0, as the program and the bundled encoder",
        "| R@1 | .5 |\n\nMade by `judge it`.",
        "--encoder fast`",
        "For texts in `de` only",
    ):
        assert said in card, said
    assert "Not for use" not in card


def test_the_curves_are_of_what_was_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, legend, path: drawn.append((figure, legend, path)))
    history = [{"step": step, "cosine": 0.2 * step, "fit": -3.0 + step, "loss": 5.0 - step} for step in (1.0, 2.0, 4.0)]
    plots.plot_distillation(history, tmp_path / "curves.png", "a title")
    plots.plot_distillation([{**line, "fit": 0.93, "STS": 0.97, "cosine": 0.99} for line in history], tmp_path, "near")
    (figure, legend, path), (near, other, _) = drawn
    assert path == tmp_path / "curves.png"
    left, right = figure.axes
    lines = [list(zip(*line.get_data(), strict=True)) for line in left.get_lines()]
    assert lines == [[(1, 0.2), (2, 0.4), (4, 0.8)], [(1, -2), (2, -1), (4, 1)]]
    assert [y for _, y in zip(*right.get_lines()[0].get_data(), strict=True)] == [4, 3, 1]
    assert left.get_ylim() == (0.0, 1.01)
    assert near.axes[0].get_ylim() == (0.9, 1.01)
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["cosine  (0.800 at best)", "fit  (1.000 at best)", "loss on training texts (right axis)"]
    assert [text.get_text() for text in other.get_texts()][2] == "STS  (0.970 at best)"
