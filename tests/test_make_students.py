"""Students before they learn anything: what of the teacher is in each, and that others open them as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_teacher import DIM, KNOWN, LAYERS, READS, write_teacher

from index import conversion
from index.encoder import open_encoder
from retrieval import students
from retrieval.students import Plan, Pupil, Row, evenly, frame_of, make_student, refuse_teacher
from store.records import LookaheadError

TEXTS = [
    "The old bridge stands near the river.",
    "mill",
    "In spring the grey tower burned, in winter the small barn sank near the sea; the new road leans.",
    "the the the",
]
PLANS = ["layers:2", "narrow:2x0.5", "static"]
TRACED = ["layers:2", pytest.param("narrow:2x0.5", marks=pytest.mark.slow), "static"]

Floats = NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def teacher(place: Path) -> Any:
    prompts = {"query": "old ", "document": ""}
    return conversion.load(str(write_teacher(place / "teacher", prompts=prompts)), "cpu")


def size(teacher: Any) -> int:
    return int(teacher.tokenizer.backend_tokenizer.get_vocab_size())


def made(teacher: Any, plan: str, *, longest: int = READS, seed: int = 0, counts: Any = None) -> Any:
    found = np.zeros(size(teacher), np.int64) if counts is None else counts
    return make_student(Plan.parse(plan), teacher, longest=longest, counts=found, seed=seed)


def rows_of(model: Any, texts: list[str], *, special: bool = True) -> list[Row]:
    backend = copy.deepcopy(getattr(model.tokenizer, "backend_tokenizer", model.tokenizer))
    backend.no_padding()
    return [np.array(one.ids, np.int32) for one in backend.encode_batch(texts, add_special_tokens=special)]


def seen(pupil: Pupil, rows: list[Row]) -> Floats:
    with torch.no_grad():
        return pupil(rows).numpy()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


# -- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["layers:1", "layers:12", "narrow:6x0.5", "narrow:12x0.75", "narrow:2x0.125", "static"]
)
def test_a_plan_is_written_as_it_is_read(text: str) -> None:
    assert str(Plan.parse(text)) == text
    assert Plan.parse(text) == Plan.parse(str(Plan.parse(text)))


def test_a_share_may_leave_out_its_nought() -> None:
    assert Plan.parse("narrow:6x.5") == Plan(6, 0.5)


@pytest.mark.parametrize(
    "text",
    ["", "layers", "layers:0", "layers:-1", "layers:100", "layers:3 ", "narrow:6", "narrow:6x1", "narrow:6x0",
     "narrow:6x0.0", "narrow:0x0.5", "Static", "layers:3\n", "leaf-v1"],
)  # fmt: skip
def test_what_is_no_student_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(LookaheadError, match=r"there is no student .*; say layers:3, narrow:6x0.5 or static"):
        Plan.parse(text)


def test_layers_are_kept_as_far_apart_as_can_be() -> None:
    assert [evenly(count, 6) for count in (1, 2, 3, 4, 6)] == [
        *([5], [0, 5], [0, 2, 5], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]),
    ]
    assert evenly(6, 12) == [0, 2, 4, 7, 9, 11]


@given(of=st.integers(2, 60), layers=st.integers(2, 60))
def test_the_first_and_the_last_are_kept_none_twice_and_gaps_differ_by_one_at_most(of: int, layers: int) -> None:
    kept = evenly(min(layers, of), of)
    gaps = np.diff(kept)
    assert (kept[0], kept[-1]) == (0, of - 1)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


# -- layers ----------------------------------------------------------------------------------------------------------


def test_a_student_of_all_layers_is_its_teacher(teacher: Any) -> None:
    rows = rows_of(teacher, TEXTS)
    assert seen(Pupil(made(teacher, f"layers:{LAYERS}")), rows) == pytest.approx(seen(Pupil(teacher), rows), abs=1e-6)


def test_a_student_of_two_layers_has_the_first_and_the_last_and_its_teacher_keeps_all(teacher: Any) -> None:
    student, before = made(teacher, "layers:2"), {name: value.clone() for name, value in weights(teacher).items()}
    ours = weights(student)
    for name, value in before.items():
        theirs = name.replace(".layer.3.", ".layer.1.")
        if ".layer.1." in name or ".layer.2." in name:
            continue
        assert torch.equal(ours.pop(theirs), value), name
    assert ours == {}
    assert student[0].auto_model.config.num_hidden_layers == 2
    assert teacher[0].auto_model.config.num_hidden_layers == LAYERS
    with torch.no_grad():
        next(student.parameters()).add_(1.0)  # they share no memory
    assert all(torch.equal(value, before[name]) for name, value in weights(teacher).items())


def test_more_layers_than_the_teacher_has_are_refused(teacher: Any) -> None:
    with pytest.raises(LookaheadError, match="the teacher has 4 layers, a student cannot have 5 of them"):
        made(teacher, "layers:5")
    refuse_teacher(Plan.parse("narrow:9x0.5"), teacher)  # new layers may be more


def test_layers_of_two_parts_are_not_taken_apart() -> None:
    from transformers import T5Config, T5EncoderModel

    class Teacher(torch.nn.Sequential):
        tokenizer = SimpleNamespace(backend_tokenizer=None)

    body = torch.nn.Module()
    body.auto_model = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=2, d_ff=8, num_layers=2, num_heads=2))
    student = make_student(
        Plan.parse("layers:1"), Teacher(body), longest=8, counts=np.zeros(9, np.int64), seed=0
    )[0].auto_model  # fmt: skip
    assert len(student.encoder.block) == 1
    assert len(student.encoder.block[0].layer) == 2  # attention, and what comes behind it
    assert student(input_ids=torch.tensor([[3, 4]])).last_hidden_state.shape == (1, 2, 8)


def test_a_student_of_a_teacher_in_half_precision_is_trained_in_single(teacher: Any) -> None:
    half = copy.deepcopy(teacher).half()
    assert {value.dtype for value in made(half, "layers:2").parameters()} == {torch.float32}


# -- narrow ----------------------------------------------------------------------------------------------------------


def test_a_narrow_student_has_its_share_of_the_width_and_the_teachers_dimension(place: Path) -> None:
    wide = conversion.load(str(write_teacher(place / "wide", width=192, dense=40, layers=1)), "cpu")
    student = made(wide, "narrow:3x0.75", longest=20)
    config = student[0].auto_model.config
    # 192 × .75 = 144, in heads of about 64: two of 72
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (144, 2, 576)
    assert config.num_hidden_layers == 3
    assert config.max_position_embeddings == student.max_seq_length == 20
    assert [type(module).__name__ for module in student] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert (student[2].in_features, student[2].out_features) == (144, 40)
    assert student.get_embedding_dimension() == 40


def test_its_token_table_is_the_teachers_along_the_directions_in_which_it_varies_most(teacher: Any) -> None:
    student = made(teacher, "narrow:1x0.5")
    ours = student[0].auto_model.get_input_embeddings().weight.detach()
    theirs = teacher[0].auto_model.get_input_embeddings().weight.detach()
    assert ours.shape == (len(theirs), DIM // 2)
    spread = torch.linalg.svdvals(theirs - theirs.mean(dim=0))
    assert torch.linalg.svdvals(ours - ours.mean(dim=0)) == pytest.approx(spread[: DIM // 2], rel=1e-4)


def test_new_layers_come_from_the_seed_and_leave_the_programs_chance_alone(teacher: Any) -> None:
    torch.manual_seed(5)
    first, drawn = weights(made(teacher, "narrow:1x0.5")), torch.rand(1)
    torch.manual_seed(6)
    again, other = weights(made(teacher, "narrow:1x0.5")), weights(made(teacher, "narrow:1x0.5", seed=1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


# -- static ----------------------------------------------------------------------------------------------------------


def test_a_row_is_what_the_teacher_makes_of_the_token_alone_less_the_mean_and_halved_at_a_thousandth(
    teacher: Any,
) -> None:
    old, mill = (teacher.tokenizer.backend_tokenizer.token_to_id(word) for word in ("old", "mill"))
    counts = np.zeros(size(teacher), np.int64)
    counts[old], counts[mill], counts[0] = 1, 9, 990  # shares of .001, .009 and .99
    table = made(teacher, "static", counts=counts)[0].embedding.weight.detach()
    alone = torch.from_numpy(seen(Pupil(teacher), [np.array([2, token, 3], np.int32) for token in range(len(table))]))
    centred = alone - alone.mean(dim=0)
    for token, weight in ((old, 0.5), (mill, 0.1), (0, 0.001 / 0.991), (7, 1.0)):
        assert table[token] == pytest.approx(weight * centred[token], abs=1e-6), token


def test_a_text_is_the_mean_of_its_tokens_rows_at_length_one(teacher: Any) -> None:
    cutting = copy.deepcopy(teacher)  # as a tokenizer is that was used, or saved so
    cutting.tokenizer.backend_tokenizer.enable_truncation(5)
    cutting.tokenizer.backend_tokenizer.enable_padding(length=7)
    student = made(cutting, "static")
    table = student[0].embedding.weight.detach()
    ids = [teacher.tokenizer.backend_tokenizer.token_to_id(word) for word in ("old", "mill", "near")]
    mean = table[ids].mean(dim=0)
    assert student.encode(["old mill near"])[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-6)
    long = " ".join(KNOWN * 20)  # more than the teacher reads
    whole = [teacher.tokenizer.backend_tokenizer.token_to_id(word) for word in KNOWN * 20]
    rows = table[whole].mean(dim=0)
    assert student.encode([long])[0] == pytest.approx((rows / rows.norm()).numpy(), abs=1e-5)


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", TRACED)
def test_others_open_a_student_as_it_is_and_it_says_what_it_said_here(
    teacher: Any, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    student = made(teacher, plan, longest=24)
    ours = seen(Pupil(student), rows_of(student, TEXTS, special=plan != "static"))
    student.save(str(tmp_path / "student"), create_model_card=False)
    theirs = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert theirs.encode(TEXTS, prompt="") == pytest.approx(ours, abs=1e-5)
    assert theirs.prompts == {"query": "old ", "document": ""}
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    monkeypatch.setattr(conversion, "probe", lambda folder, texts: ("f32", {"f32": (1.0, 1.0)}))  # saves a second
    (tmp_path / "encoder").mkdir()
    notes: list[str] = []
    conversion.convert(str(tmp_path / "student"), tmp_path / "encoder", device="cpu", note=notes.append)
    fast = open_encoder(tmp_path / "encoder", device="cpu")
    assert type(fast).__name__ == ("StaticEncoder" if plan == "static" else "FastEncoder"), notes
    assert fast.fingerprint.query_prefix == "old "
    found = fast.encode(TEXTS)
    assert (found * ours).sum(axis=1) / np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-3)


@pytest.mark.parametrize("plan", PLANS)
def test_a_text_says_the_same_alone_and_among_longer_ones(teacher: Any, plan: str) -> None:
    student = made(teacher, plan)
    pupil, rows = Pupil(student), rows_of(student, TEXTS, special=plan != "static")
    together = seen(pupil, rows)
    assert together == pytest.approx(np.concatenate([seen(pupil, [row]) for row in rows]), abs=1e-5)
    assert seen(pupil, rows[::-1]) == pytest.approx(together[::-1], abs=1e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_a_few_at_a_time_a_step_is_the_same(teacher: Any, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    for at_once in (1_000, 30):
        monkeypatch.setattr(students, "_AT_ONCE", at_once)
        student = made(teacher, plan)
        rows = rows_of(student, TEXTS, special=plan != "static")
        assert max(map(len, rows)) * len(rows) > 30
        vectors = Pupil(student)(rows)
        (vectors * torch.arange(vectors.numel()).reshape(vectors.shape)).sum().backward()
        grads.append([vectors.detach(), *(value.grad for value in student.parameters() if value.grad is not None)])
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_few_different_shapes_are_computed_and_none_longer_than_is_read() -> None:
    rows = [np.ones(length, np.int32) for length in (3, 17)]
    assert students._padded(rows, 64)["input_ids"].shape == (2, 32)
    assert students._padded(rows, 20)["input_ids"].shape == (2, 20)
    assert students._padded(rows[:1], 64)["attention_mask"].tolist() == [[1] * 3 + [0] * 13]
    assert students._padded(rows, 0)["input_ids"].shape == (2, 17)


@pytest.mark.parametrize("plan", PLANS)
def test_a_student_in_training_drops_nothing_out_and_can_learn(teacher: Any, plan: str) -> None:
    student = made(teacher, plan)
    pupil, rows = Pupil(student).train(), rows_of(student, TEXTS, special=plan != "static")
    assert pupil(rows).detach() == pytest.approx(seen(pupil, rows), abs=1e-6)
    pupil(rows).square()[:, 0].sum().backward()
    grads = [value.grad for name, value in student.named_parameters() if "pooler" not in name]
    assert all(grad is not None for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads if grad is not None)


class Bodiless(torch.nn.Module):
    """A model of the inputs it names, which says nothing but which it was given."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.names = names
        self.max_seq_length = 8
        self.given: list[str] = []

    def __getitem__(self, place: int) -> None:
        return None

    def preprocess(self, texts: list[str]) -> dict[str, None]:
        return dict.fromkeys(self.names)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.given = sorted(features)
        return {"sentence_embedding": self.weight * torch.ones(len(features["input_ids"]), 3)}


@pytest.mark.parametrize("names", [("attention_mask", "input_ids"), ("attention_mask", "input_ids", "token_type_ids")])
def test_a_model_is_given_the_inputs_it_reads_and_no_others(names: tuple[str, ...]) -> None:
    model = Bodiless(*names, "modality")
    seen(Pupil(model), [np.array([2, 5, 3], np.int32)])
    assert model.given == list(names)


def test_the_special_tokens_before_and_after_a_text(teacher: Any) -> None:
    assert frame_of(teacher.tokenizer) == ([2], [3])


def test_a_static_model_is_nobodys_teacher(teacher: Any) -> None:
    static = made(teacher, "static")
    for plan in PLANS:
        with pytest.raises(LookaheadError, match="no transformer layers, so no student can be made of it"):
            refuse_teacher(Plan.parse(plan), static)


def test_a_tokenizer_in_plain_python_is_refused(teacher: Any) -> None:
    slow = copy.copy(teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(slow), "tokenizer", object())
        with pytest.raises(LookaheadError, match="tokenizer is not one of the tokenizers library"):
            refuse_teacher(Plan.parse("static"), slow)
