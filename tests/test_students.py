"""Encoders made here: what a folder says of itself, who may be used, and where each is found."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import students as subject
from index.encoder import BUNDLED, HASHING, RECIPE
from index.hashing import HashingEncoder
from index.students import (
    STUDENT,
    Status,
    Student,
    check_encoder_name,
    encoders_folder,
    failure_of,
    find_encoder,
    int8_of,
    opened,
    read_student,
    refuse_failed,
    same_model,
)
from store.records import LookaheadError

GOOD = Student(Status.USABLE, (), HashingEncoder().fingerprint.as_json(), {"cosine": 0.95, "STS": 0.8}, {"seed": 3})
BAD = replace(GOOD, status=Status.FAILED, reasons=("cosine to its teacher 0.770, needed 0.9", "it was not fun"))
RAW = {"format": 1, **GOOD.as_json()}


def put(folder: Path, student: Student) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    student.write(folder)
    return folder


# -- what a folder says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [GOOD, BAD])
def test_a_student_is_read_as_it_was_written(tmp_path: Path, student: Student) -> None:
    assert read_student(put(tmp_path, student)) == student


def test_a_figure_that_is_no_number_is_null_for_others_and_none_for_us(tmp_path: Path) -> None:
    put(tmp_path, replace(BAD, figures={"STS": math.nan, "fit": -math.inf, "cosine": 0.5}))
    raw = json.loads((tmp_path / STUDENT).read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert raw["figures"] == {"STS": None, "fit": None, "cosine": 0.5}
    read = read_student(tmp_path)
    assert read is not None
    assert math.isnan(read.figures["STS"])


def test_a_folder_without_a_verdict_is_nobodys_student(tmp_path: Path) -> None:
    assert read_student(tmp_path) is None
    assert read_student(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"null", "no table"),
        (b'["format"]', "no table"),
        (b"{}", "format is null"),
        ({**RAW, "format": 2}, "format is 2, this program reads 1"),
        ({**RAW, "format": ["x" * 500]}, "format is"),
        ({**RAW, "surprise": 1}, "missing or unknown: 'surprise'"),
        ({name: RAW[name] for name in RAW if name != "figures"}, "missing or unknown: 'figures'"),
        ({**RAW, "status": "splendid"}, 'status is "splendid"'),
        ({**RAW, "status": {}}, "status is {}"),
        ({**RAW, "reasons": "none"}, "mistyped: reasons"),
        ({**RAW, "reasons": [1]}, "reasons are no sentences"),
        ({**RAW, "teacher": "bundled", "made": []}, "mistyped: teacher, made"),
        ({**RAW, "figures": {"cosine": "high"}}, "figures are no numbers"),
        ({**RAW, "figures": {"cosine": True}}, "figures are no numbers"),
    ],
)
def test_a_damaged_verdict_is_one_line_that_names_its_file(
    tmp_path: Path, raw: bytes | dict[str, Any], said: str
) -> None:
    (tmp_path / STUDENT).write_bytes(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    for ask in (read_student, lambda folder: refuse_failed(str(folder))):
        with pytest.raises(LookaheadError) as caught:
            ask(tmp_path)
        told = str(caught.value)
        assert str(tmp_path / STUDENT) in told
        assert said in told
        assert told.endswith("distil it again")
        assert "\n" not in told
        assert len(told) < 500 + len(str(tmp_path))


def test_reasons_of_several_lines_become_one(tmp_path: Path) -> None:
    put(tmp_path, replace(BAD, reasons=("first\n\x0b second\x1b[2J",)))
    with pytest.raises(LookaheadError) as caught:
        refuse_failed(str(tmp_path))
    assert "first second" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- who may be used -------------------------------------------------------------------------------------------------


def test_a_failed_student_is_refused_with_its_reasons_unless_forced(tmp_path: Path) -> None:
    folder = put(tmp_path / "bad", BAD)
    with pytest.raises(LookaheadError) as caught:
        refuse_failed(str(folder))
    assert str(caught.value) == (
        f"the student in {folder} failed: cosine to its teacher 0.770, needed 0.9; it was not fun; "
        "train it further, take another --encoder, or add --force-encoder"
    )
    refuse_failed(str(folder), force=True)


def test_neither_its_pooled_vectors_nor_its_twin_are_a_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "bad", BAD)
    (folder / "int8").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in (f"pooled:{folder}", str(folder / "int8"), "bad", "~/bad", "bad/../bad/int8/"):
        assert failure_of(spec) == f"the student in {folder} failed: {'; '.join(BAD.reasons)}", spec


def test_a_usable_student_and_what_is_no_student_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "good", GOOD)
    put(tmp_path / "bundled", BAD)  # a folder of that name here is not what "bundled" means
    (tmp_path / "plain" / "below").mkdir(parents=True)
    put(tmp_path / "plain", BAD)  # only a twin is its parent's
    monkeypatch.chdir(tmp_path)
    for spec in ("good", "plain/below", BUNDLED, HASHING, "nobody/has-this", "x" * 5_000):
        refuse_failed(spec)


# -- where each is found ---------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(subject, "shipped_encoders", lambda: tmp_path / "shipped")
    for place in (
        "home/encoders/own",
        "home/encoders/both",
        "shipped/both",
        "shipped/fast",
        "home/encoders/.making-own",
    ):
        (tmp_path / place).mkdir(parents=True)
    for name in (BUNDLED, HASHING):
        (tmp_path / "home" / "encoders" / name).mkdir()
    (tmp_path / "home" / "encoders" / "file").touch()
    return tmp_path / "home"


def test_a_name_is_found_here_first_then_among_what_came_with_the_program(home: Path) -> None:
    assert find_encoder("own", home) == str(home / "encoders" / "own")
    assert find_encoder("both", home) == str(home / "encoders" / "both")
    assert find_encoder("fast", home) == str(home.parent / "shipped" / "fast")


def test_a_name_that_nobody_has_is_told_once_with_those_there_are(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_encoder("fsat", home) == "fsat"
    assert int8_of("fsat", home) == home / "encoders" / "hub--fsat" / "int8"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "called 'fsat' (there are: bundled, both, " in said
    find_encoder("own", home)
    find_encoder("owner/model", home)
    assert not capsys.readouterr().err


def test_what_came_with_the_program_is_the_same_wherever_that_stands(tmp_path: Path) -> None:
    assert same_model("/old/data/models/encoders/fast", "/new/data/models/encoders/fast")
    assert not same_model("/old/data/models/encoders/fast", "/old/data/models/encoders/other")
    assert not same_model("/old/encoders/fast", "/new/encoders/fast")
    assert same_model(str(tmp_path), f"{tmp_path}/../{tmp_path.name}")
    assert same_model(BUNDLED, BUNDLED)
    assert not same_model(BUNDLED, HASHING)


@pytest.mark.parametrize(
    "spec", [BUNDLED, HASHING, "file", "nobody", "a/b", ".making-own", "../encoders/own", "pooled:own", "./own", ""]
)
def test_all_else_stays_what_it_is(home: Path, spec: str) -> None:
    assert find_encoder(spec, home) == spec


def test_a_twin_is_in_the_models_folder_or_has_one_of_its_own(home: Path) -> None:
    assert int8_of("own", home) == home / "encoders" / "own" / "int8"
    assert int8_of("fast", home) == home.parent / "shipped" / "fast" / "int8"
    assert int8_of(BUNDLED, home) == home / "encoders" / "bundled" / "int8"
    assert int8_of("some/model", home) == home / "encoders" / "some--model" / "int8"


def test_what_came_with_the_program_lies_beside_the_code() -> None:
    assert subject.shipped_encoders() == Path(__file__).parent.parent / "data" / "models" / "encoders"
    assert encoders_folder(Path("home")) == Path("home/encoders")


@pytest.mark.parametrize("name", ["layers-3", "static", "a", "0.5_x", "a" * 64])
def test_names_of_small_letters_and_digits_will_do(name: str) -> None:
    assert check_encoder_name(name) == name


@pytest.mark.parametrize(
    "name", ["", BUNDLED, HASHING, "fast", "Layers", "a/b", ".a", "-a", "..", "a b", "a" * 65, "ä", "a\n"]
)
def test_other_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(LookaheadError, match="is no name for an encoder; use small letters") as caught:
        check_encoder_name(name)
    assert "\n" not in str(caught.value)


@settings(max_examples=40)
@given(st.text(alphabet="a.-/A_ 0", max_size=5))
def test_a_name_that_is_accepted_stays_in_its_folder(name: str) -> None:
    try:
        check_encoder_name(name)
    except LookaheadError:
        return
    assert (Path("encoders") / name).resolve().parent == Path("encoders").resolve()
    assert not name.startswith(".")


def test_an_opened_encoder_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    prepare = subject.prepare
    monkeypatch.setattr(
        subject, "prepare", lambda spec, folder, **rest: (folders.append(folder), prepare(spec, folder, **rest))[1]
    )
    with opened(HASHING) as encoder:
        assert encoder.fingerprint == HashingEncoder().fingerprint
        assert (folders[0] / RECIPE).is_file()
    assert not folders[0].exists()
