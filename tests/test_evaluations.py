"""The last report of each kind: kept whole beside the models, read by its name, in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_service import PAGES, publish

from cli import main
from retrieval import evaluations
from retrieval.evaluations import FACTS, evaluations_folder, keep, kept_in, read_kept
from store.generations import Collection
from store.records import LookaheadError


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    (tmp_path / "c").mkdir()
    return Collection(tmp_path / "c")


def writing(**files: str) -> Callable[[Path], object]:
    """Of files named as `report_md`."""
    return lambda folder: [(folder / name.replace("_", ".")).write_text(text) for name, text in files.items()]


def test_a_report_takes_the_place_of_the_last_one_of_its_kind(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_in(collection) == []
    assert keep(collection, "search", "lookahead evaluate search", writing(report_md="old", old_png="plot")) == ""
    assert keep(collection, "next", "lookahead evaluate next", writing(report_md="next")) == ""
    assert keep(collection, "search", "lookahead evaluate search -k", writing(report_md="new")) == ""
    for place, made in enumerate(("2030-01-01T00:00:00+00:00", "2030-01-02T00:00:00+00:00")):
        facts = evaluations_folder(collection) / ("search", "next")[place] / FACTS
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "made": made}))
    found = kept_in(collection)
    assert [(one.kind, one.made[:10], one.command, one.files) for one in found] == [
        ("next", "2030-01-02", "lookahead evaluate next", ("report.md",)),
        ("search", "2030-01-01", "lookahead evaluate search -k", ("report.md",)),
    ]
    assert read_kept(collection, "search", "report.md") == (b"new", "text/markdown; charset=utf-8")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LookaheadError("no such thing")])
def test_one_that_cannot_be_written_leaves_the_last_one(collection: Collection, error: Exception) -> None:
    def fails(folder: Path) -> None:
        (folder / "report.md").write_text("half")
        raise error

    keep(collection, "search", "lookahead", writing(report_md="whole"))
    said = keep(collection, "search", "lookahead", fails)
    assert said.startswith(f"the report is not kept in {evaluations_folder(collection) / 'search'}: ")
    assert str(error) in said
    assert read_kept(collection, "search", "report.md")[0] == b"whole"
    assert keep(collection, "search", "lookahead", writing(report_json="{}")) == ""
    assert kept_in(collection)[0].files == ("report.json",)


def test_only_what_is_named_is_read(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    keep(
        collection, "search", "lookahead", writing(report_md="told", page_html="<script>", run_run="1", _hidden_md="x")
    )
    folder = evaluations_folder(collection) / "search"
    (folder / "link.md").symlink_to(tmp_path / "secret.md")
    (folder / "folder.md").mkdir()
    os.mkfifo(folder / "pipe.md")
    (evaluations_folder(collection) / "away").symlink_to(folder)
    (evaluations_folder(collection) / "unsaid").mkdir()
    (evaluations_folder(collection) / "odd").mkdir()
    (evaluations_folder(collection) / "odd" / FACTS).write_text("[" * 100_000)
    assert [(one.kind, one.files) for one in kept_in(collection)] == [("search", ("report.md",))]
    for kind, name in (
        ("search", "link.md"),
        ("search", "page.html"),
        ("search", FACTS),
        ("search", "../../../secret.md"),
        ("search", "folder.md"),
        ("search", "pipe.md"),
        ("search", ""),
        ("away", "report.md"),
        ("..", "secret.md"),
        ("", "search/report.md"),
        (".making-search", "report.md"),
    ):
        with pytest.raises(LookaheadError, match="has no such file of an evaluation"):
            read_kept(collection, kind, name)


def test_a_link_that_comes_between_the_look_and_the_reading_is_not_followed(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(collection, "search", "lookahead", writing(report_md="told"))
    found = kept_in(collection)
    path = evaluations_folder(collection) / "search" / "report.md"
    path.unlink()
    (tmp_path / "secret.md").write_text("secret")
    path.symlink_to(tmp_path / "secret.md")
    monkeypatch.setattr(evaluations, "kept_in", lambda _: found)
    with pytest.raises(LookaheadError, match="any more"):
        read_kept(collection, "search", "report.md")


# -- the command, and the upkeep beside it -------------------------------------------------------------------


def run(home: Path, *arguments: str | Path) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *map(str, arguments)])


def test_evaluate_keeps_its_report_and_nothing_else_minds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = publish(tmp_path, "wiki", PAGES)
    questions = tmp_path / "questions.tsv"
    questions.write_text("green tea\t1\nblack coffee\t2\n")
    monkeypatch.setattr("retrieval.plots.plot_recall_curves", lambda ranks, path, *_, **__: path.write_bytes(b"PNG"))
    evaluated = run(tmp_path, "evaluate", "search", "--questions", questions, "-c", "wiki", "--quiet")
    assert (evaluated.exit_code, evaluated.stderr) == (0, "")
    (kept,) = kept_in(collection)
    assert (kept.kind, kept.files) == ("search", ("recall.png", "report.json", "report.md"))
    assert json.loads(read_kept(collection, "search", "report.json")[0])["collection"] == "wiki"
    publish(tmp_path, "wiki", {**PAGES, 6: PAGES[1]})
    for command in (["verify"], ["gc", "--keep", "1"], ["info"]):
        done = run(tmp_path, *command, "--collection", "wiki")
        assert done.exit_code == 0, (command, done.output)
    assert kept_in(collection) == [kept]
    shutil.rmtree(collection.path / "evaluations")
    (collection.path / "evaluations").write_text("in the way")
    again = run(tmp_path, "evaluate", "search", "--questions", questions, "-c", "wiki", "--quiet")
    assert (again.exit_code, "hybrid" in again.stdout) == (0, True)
    assert again.stderr.startswith("the report is not kept in ")
