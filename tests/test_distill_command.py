"""`lookahead distill` as it is typed: what it says, its exit code, its JSON, and what ingest does with a failed one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_teacher import as_torch, ingested, opened_by_torch, page, write_sts, write_teacher

from cli import main
from index import conversion
from index.students import STUDENT, Status, read_student
from retrieval import allocation
from retrieval import distillation as subject
from retrieval.models import CARD
from retrieval.training import CHECKPOINT
from store.generations import Collection
from store.records import Split
from store.splits import split_of

PAGES = range(1, 26)
STILL = ("--student", "layers:4", "--rate", "1e-9")  # it stays what its teacher is


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "precision_for", lambda device: "f32")
        patch.setattr(conversion, "convert_apart", as_torch)
        patch.setattr(subject, "opened", opened_by_torch)
        patch.setattr(subject, "plot_distillation", lambda *_: None)
        patch.setattr(allocation, "keep_freed_memory", lambda: False)  # it is for the life of a process
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    write_sts(folder / "sts")
    write_teacher(folder / "teacher")
    ingested(folder, "tales", [page(number) for number in PAGES], str(folder / "teacher"))
    (folder / "questions.tsv").write_text("who leans?\t2\nwho sank?\t3\n", encoding="utf-8")
    return folder


def called(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def distilled(home: Path, *words: str) -> Result:
    brief = ("--texts", "40", "--steps", "1", "--batch", "16", "--checks", "1", "--device", "cpu")
    return called(home, "distill", "--teacher", str(home / "teacher"), "-c", "tales", *brief, *words)


@pytest.fixture(scope="module")
def failed(home: Path) -> Result:
    return distilled(
        home,
        "--student",
        "layers:1",
        "--name",
        "bad",
        "--sts",
        str(home / "sts"),
        "--without",
        str(home / "questions.tsv"),
    )


def test_a_usable_student_is_told_in_json_and_kept_under_its_plans_name(home: Path) -> None:
    result = distilled(home, *STILL, "--sts", str(home / "sts"), "--json")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["name"], told["status"], told["reasons"]) == ("layers-4", "usable", [])
    assert told["folder"] == str(home / "encoders" / "layers-4")
    assert told["figures"]["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert {"STS", "teacher STS", "fit"} < told["figures"].keys()
    assert told["parameters"] > 1_000
    student = read_student(home / "encoders" / "layers-4")
    assert student is not None
    assert student.figures == told["figures"]
    assert (student.made["recipe"]["rate"], student.made["recipe"]["texts"]) == (1e-9, 40)


def test_a_failed_student_is_kept_with_its_reasons_and_the_exit_code_says_so(home: Path, failed: Result) -> None:
    assert failed.exit_code == 1
    student = read_student(home / "encoders" / "bad")
    assert student is not None
    assert student.status is Status.FAILED
    assert student.made["held_out"] == ["questions.tsv"]
    train = {number for number in PAGES if split_of(number) is Split.TRAIN}
    assert student.made["articles"] == len(train - {2, 3}) < len(train)
    lines = failed.stdout.splitlines()
    assert f"cosine           {student.figures['cosine']:.3f}" in lines
    assert f"failed: {'; '.join(student.reasons)}" in lines
    assert f"kept in {home / 'encoders' / 'bad'}" in lines
    assert lines[-1].startswith("next: distil it again with more --texts")
    assert "Traceback" not in failed.output
    assert "student bad: layers:1, " in failed.stderr  # progress is no result
    card = (home / "encoders" / "bad" / CARD).read_text(encoding="utf-8")
    assert "**failed**" in card
    assert "articles that the questions of `questions.tsv` are about" in card


def test_ingest_refuses_a_failed_student_unless_forced(home: Path, failed: Result) -> None:
    words = ("ingest", str(home / "pages.jsonl"), "-c", "other", "--encoder", "bad", "--workers", "1", "--quiet")
    refused = called(home, *words)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert f"the student in {home / 'encoders' / 'bad'} failed: cosine to its teacher" in line
    assert line.endswith("or add --force-encoder")
    assert not Collection(home / "collections" / "other").exists()
    forced = called(home, *words, "--force-encoder")
    assert forced.exit_code == 0, forced.output
    assert Collection(home / "collections" / "other").exists()


def test_a_usable_student_says_what_to_do_next(home: Path) -> None:
    result = distilled(home, *STILL, "--name", "good", "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "usable: near enough to its teacher" in lines
    assert lines[-1] == (
        "next: lookahead quantize good --int8, or "
        f"lookahead evaluate sts --model good --model {home / 'teacher'} --data FOLDER"
    )
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--student", "LAYERS:3"), "there is no student 'LAYERS:3'; say layers:3, narrow:6x0.5 or static"),
        (("--student", "layers:9"), "the teacher has 4 layers, a student cannot have 9 of them"),
        (("--name", "../out"), "'../out' is no name for an encoder; use small letters"),
        (("--name", "bundled"), "'bundled' is no name for an encoder"),
        (("--teacher", "hashing"), "the hashing encoder has no layers to make a student of"),
        (("--teacher", "bad"), "failed: cosine to its teacher"),
    ],
)
@pytest.mark.usefixtures("failed")
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(home: Path, words: tuple[str, ...], said: str) -> None:
    before = {path for path in (home / "encoders").iterdir() if path.suffix != ".lock"}
    result = distilled(home, *words)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert said in line
    assert {path for path in (home / "encoders").iterdir() if path.suffix != ".lock"} == before


def test_a_stopped_run_is_kept_for_the_same_command_and_begins_again_when_told_to(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--student", "layers:2", "--name", "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(subject, "judged", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        distilled(home, *words)
    making = home / "encoders" / ".making-stopped"
    assert (making / CHECKPOINT).is_file()
    other = distilled(home, *words, "--seed", "1")
    assert "add --restart to begin again" in other.stderr
    assert (making / CHECKPOINT).is_file()
    again = distilled(home, *words, "--seed", "1", "--restart")
    assert again.exit_code == 1  # of one step nothing becomes usable
    assert (home / "encoders" / "stopped" / STUDENT).is_file()
    assert not making.exists()


def test_a_failed_student_does_not_take_the_place_of_a_usable_one(home: Path) -> None:
    assert distilled(home, *STILL, "--name", "kept").exit_code == 0
    result = distilled(home, "--student", "layers:1", "--name", "kept")
    assert result.exit_code == 2
    assert "the usable kept that is there stays" in result.output
    held = read_student(home / "encoders" / "kept")
    assert held is not None
    assert held.status is Status.USABLE


def test_what_a_command_made_is_not_made_again_unless_told_to(home: Path) -> None:
    assert distilled(home, *STILL, "--name", "once").exit_code == 0
    result = distilled(home, *STILL, "--name", "once")
    assert result.exit_code == 2
    assert "add --restart to make it again" in result.output
    assert distilled(home, *STILL, "--name", "once", "--restart").exit_code == 0


def test_help_has_an_example_of_each_kind() -> None:
    told = CliRunner().invoke(main, ["distill", "--help"]).stdout
    for said in ("--student layers:3", "--student static", "--preset leaf-v2", "--sts", "--without", "kept as failed"):
        assert said in told
