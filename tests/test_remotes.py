"""By what a collection's parts on servers are known: an owner for each folder, noted before anything is made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from index import upkeep
from store.generations import Collection
from store.records import LookaheadError, Unreachable
from store.remotes import remember, remote_name, remotes_of, strike_out


def test_a_collection_of_files_has_no_owner(tmp_path: Path) -> None:
    assert remotes_of(tmp_path) is None


def test_what_was_noted_stays_and_the_owner_with_it(tmp_path: Path) -> None:
    first = remember(tmp_path, index="milvus://here:19530")
    assert re.fullmatch("[0-9a-f]{8}", first.owner)
    second = remember(tmp_path, store="postgresql+psycopg://there/wiki")
    third = remember(tmp_path, index="milvus://here:19530")
    assert third == second == remotes_of(tmp_path)
    assert (third.owner, third.indexes) == (first.owner, ("milvus://here:19530",))
    assert third.stores == ("postgresql+psycopg://there/wiki",)


def test_a_moved_folder_keeps_its_owner_and_a_copied_one_gets_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    owner = remember(tmp_path / "a", index="milvus:/x.db").owner
    (tmp_path / "a").rename(tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    moved = remotes_of(tmp_path / "b")
    assert moved is not None
    assert moved.owner == owner
    assert remotes_of(tmp_path / "c") is None  # nothing is its to sweep
    copied = remember(tmp_path / "c", index="milvus:/x.db")
    assert copied == remotes_of(tmp_path / "c")
    assert copied.owner != owner


def test_a_server_without_parts_is_struck_out(tmp_path: Path) -> None:
    noted = remember(tmp_path, index="milvus:/x.db", store="postgresql+psycopg://there/wiki")
    strike_out(tmp_path, ["milvus:/x.db", "milvus:/never.db"])
    left = remotes_of(tmp_path)
    assert left is not None
    assert (left.owner, left.indexes, left.stores) == (noted.owner, (), noted.stores)


class Engine:
    """Has one part, and remembers whether it was swept."""

    swept = False

    def parts(self, owner: str) -> list[str]:
        return [f"wiki_{owner}_000001_abcdef"]

    def sweep(self, owner: str, keep: object) -> list[str]:
        self.swept = True
        return self.parts(owner)


@pytest.mark.parametrize("away", [True, False])
def test_all_parts_are_forgotten_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool) -> None:
    engine, dropped = Engine(), []
    owner = remember(tmp_path, index="milvus:/x.db", store="postgresql+psycopg://there/wiki").owner

    def schemas(url: str, owner: str) -> list[str]:
        if away:
            raise Unreachable("there does not answer")
        return ["a", "b"]

    monkeypatch.setattr(upkeep, "open_engine", lambda spec: engine)
    monkeypatch.setattr(upkeep, "schemas_of", schemas)
    monkeypatch.setattr(upkeep, "drop", lambda schema: dropped.append(schema.name))
    if away:
        with pytest.raises(Unreachable):
            upkeep.forget(Collection(tmp_path))
    else:
        assert upkeep.forget(Collection(tmp_path)) == [f"wiki_{owner}_000001_abcdef", "a", "b"]
    assert (engine.swept, dropped) == ((False, []) if away else (True, ["a", "b"]))


@pytest.mark.parametrize("damaged", ["", "[]", '{"owner": "0123abcd"}'])
def test_a_damaged_note_is_not_taken_for_none(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "remotes.json").write_text(damaged)
    with pytest.raises(LookaheadError, match="is unreadable; restore it from a copy"):
        remotes_of(tmp_path)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("wiki", "wiki_0123abcd_000003_9f3c1a"),
        ("My-Notes.2", "my_notes_2_0123abcd_000003_9f3c1a"),
        ("pg-wiki", "cpg_wiki_0123abcd_000003_9f3c1a"),  # PostgreSQL keeps names with pg_ for itself
        ("pgs", "pgs_0123abcd_000003_9f3c1a"),
        ("2024", "c2024_0123abcd_000003_9f3c1a"),
        ("日本", "c_0123abcd_000003_9f3c1a"),
    ],
)
def test_names_on_servers_are_plain_letters(title: str, name: str) -> None:
    assert remote_name(title, "0123abcd", 3, "9f3c1a") == name


def test_a_name_on_a_server_is_never_too_long() -> None:
    assert len(remote_name("x" * 100, "0123abcd", 1_234_567_890, "9f3c1a")) <= 63
