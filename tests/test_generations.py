"""Generations: all or nothing at any moment, no damaged byte served in silence, one writer at a time."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.layout import is_derived
from store import generations
from store.generations import (
    FORMAT,
    MANIFEST,
    Collection,
    DamageWarning,
    FileSeal,
    Generation,
    Manifest,
    link_or_copy,
    seal_of,
    write_atomically,
)
from store.records import LookaheadError

OLD = {
    "chunks.duckdb": b"one",
    "vectors/00000.npy": b"vectors" * 50,
    "lexical/meta.json": b"{}",
    "dense.faiss": b"graph",
}
NEW = {**OLD, "chunks.duckdb": b"two", "dense.faiss": b"graph, grown"}
SHARED = "vectors/00000.npy"
LINKED = (SHARED, "lexical/meta.json")  # the same in both: carried over as hard links


def publish(collection: Collection, files: dict[str, bytes], parent: Generation | None = None) -> Generation:
    """Files that the parent has with the same content are hard links to it."""
    with collection.writing():
        build = collection.build_folder()
        for name, content in files.items():
            before = parent.path / name if parent else None
            if before is not None and before.exists() and before.read_bytes() == content:
                link_or_copy(before, build / name)
            else:
                (build / name).parent.mkdir(parents=True, exist_ok=True)
                (build / name).write_bytes(content)
        return collection.publish(
            build,
            parent=parent.manifest.number if parent else None,
            code_version="test",
            counts={"chunks": len(files)},
            facts={"encoder": {"spec": "hashing"}},
        )


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "wiki")


@pytest.fixture
def two(collection: Collection) -> Collection:
    """gen-000001 and gen-000002, checked once."""
    publish(collection, NEW, publish(collection, OLD))
    assert collection.current().manifest.number == 2
    return collection


def flip(path: Path, place: int, bit: int = 0) -> None:
    """One bit, by a hand that also puts the times back."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def published_files(collection: Collection) -> list[str]:
    every = (path.relative_to(collection.path).as_posix() for path in collection.path.rglob("*") if path.is_file())
    return sorted(name for name in every if name not in ("LOCK", ".checked.json"))


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def served(collection: Collection) -> tuple[int | None, str]:
    """The number served and the warning given with it; None and the error where nothing is served."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            number: int | None = collection.current().manifest.number
            said = "; ".join(str(each.message) for each in caught)
            assert all(each.category is DamageWarning for each in caught)
        except LookaheadError as error:
            number, said = None, str(error)
    assert "\n" not in said
    return number, said


# -- publishing ------------------------------------------------------------------------------------------


def test_a_folder_without_a_collection_says_what_to_type(collection: Collection) -> None:
    assert not collection.exists()
    with pytest.raises(LookaheadError, match=r"there is no collection at .*wiki; run: lookahead ingest"):
        collection.current()
    assert collection.bytes_kept() == 0
    assert not collection.path.exists()


def test_what_is_published_is_current_and_sound(collection: Collection) -> None:
    published = publish(collection, OLD)
    with no_warning():
        assert collection.current() == published
    assert published.path == collection.path / "gen-000001"
    assert published.manifest.name == "gen-000001"
    assert published.manifest.parent is None
    assert published.manifest.files.keys() == OLD.keys()
    assert published.manifest.files["chunks.duckdb"] == FileSeal(
        3, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    )
    assert collection.verify() == []
    assert list(collection.path.glob("*.tmp")) == []


def test_the_next_generation_takes_over_and_the_one_before_stays(two: Collection) -> None:
    with no_warning():
        now = two.current()
    assert (now.manifest.number, now.manifest.parent) == (2, 1)
    assert (now.path / "chunks.duckdb").read_bytes() == b"two"
    assert (two.path / "gen-000001" / "chunks.duckdb").read_bytes() == b"one"
    assert two.verify() == []


def test_a_reader_of_the_old_generation_is_not_disturbed(collection: Collection) -> None:
    reader = publish(collection, OLD)
    before = {name: (reader.path / name).read_bytes() for name in OLD}
    publish(collection, NEW, reader)
    assert {name: (reader.path / name).read_bytes() for name in OLD} == before


def test_a_hard_linked_file_keeps_its_seal_and_is_not_read_again(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(collection, OLD)
    read: list[str] = []
    monkeypatch.setattr(generations, "seal_of", lambda path: read.append(path.name) or seal_of(path))
    second = publish(collection, NEW, first)
    assert sorted(read) == ["chunks.duckdb", "dense.faiss"]
    assert (second.path / SHARED).samefile(first.path / SHARED)
    assert second.manifest.files[SHARED] == first.manifest.files[SHARED]


def test_a_changed_copy_of_a_file_of_the_parent_gets_its_own_seal(collection: Collection) -> None:
    first = publish(collection, OLD)
    second = publish(collection, {**OLD, SHARED: b"other" * 70}, first)
    assert second.manifest.files[SHARED].sha256 != first.manifest.files[SHARED].sha256
    assert collection.verify() == []


def test_everything_is_synced_before_the_folder_gets_its_name(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, rename = generations._sync, os.rename

    def noting_sync(path: Path) -> None:
        seen.append(f"sync {path.name}")
        sync(path)

    def noting_rename(old: Path, new: Path) -> None:
        seen.append("rename")
        rename(old, new)

    monkeypatch.setattr(generations, "_sync", noting_sync)
    monkeypatch.setattr(os, "rename", noting_rename)
    publish(collection, OLD)
    before, after = seen[: seen.index("rename")], seen[seen.index("rename") + 1 :]
    expected = [
        "chunks.duckdb",
        "00000.npy",
        "meta.json",
        "dense.faiss",
        MANIFEST,
        "vectors",
        "lexical",
        "build-000001.tmp",
    ]
    assert sorted(before) == sorted(f"sync {name}" for name in expected)
    assert before.index(f"sync {MANIFEST}") > before.index("sync dense.faiss")
    assert after[0] == "sync wiki"  # the name is on disk before CURRENT speaks it
    assert len(after) == 3


def test_a_copy_is_made_where_hard_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"content")
    link_or_copy(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_bytes() == b"content"
    assert not (tmp_path / "a").samefile(tmp_path / "deep" / "b")


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["CURRENT", f"gen-000002/{MANIFEST}", *(f"gen-000002/{name}" for name in NEW)])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_in_any_file_is_found_and_never_served_in_silence(two: Collection, file: str, place: int) -> None:
    assert file in published_files(two)
    flip(two.path / file, place)
    number, said = served(two)
    if file == "CURRENT":
        assert number == 2  # the generations are sound, and each can tell so by itself
    elif file.endswith(LINKED):
        assert number is None  # one file under two names
    else:
        assert number == 1
    assert "CURRENT" in said or file.split("/", 1)[-1] in said
    assert file in {
        fault.file if fault.file == "CURRENT" else f"{fault.generation}/{fault.file}" for fault in two.verify()
    }


def test_every_single_bit_of_current_and_any_byte_of_the_manifest_counts(collection: Collection) -> None:
    publish(collection, OLD)
    manifest, pointer = collection.path / "gen-000001" / MANIFEST, collection.path / "CURRENT"
    flips = [(pointer, place, bit) for place in range(pointer.stat().st_size) for bit in range(8)]
    flips += [(manifest, place, place % 8) for place in range(0, manifest.stat().st_size, 5)]
    whole = {file: file.read_bytes() for file in (manifest, pointer)}
    for file, place, bit in flips:
        flip(file, place, bit)
        assert collection.verify(), (file.name, place, bit)
        assert served(collection)[1], (file.name, place, bit)
        file.write_bytes(whole[file])
    assert collection.verify() == []
    assert served(collection) == (1, "")


@pytest.mark.parametrize("name", OLD)
def test_damage_to_an_old_generation_is_found_while_the_new_one_is_served(two: Collection, name: str) -> None:
    flip(two.path / "gen-000001" / name, 0)
    assert ("gen-000001", name) in {(fault.generation, fault.file) for fault in two.verify()}
    if name not in LINKED:
        assert served(two) == (2, "")


@pytest.mark.parametrize("name", [MANIFEST, *NEW])
@pytest.mark.parametrize("how", ["truncated", "emptied", "lengthened", "missing", "a folder"])
def test_a_file_of_another_size_or_kind_is_found_and_never_served_in_silence(
    two: Collection, name: str, how: str
) -> None:
    path = two.path / "gen-000002" / name
    content = path.read_bytes()
    path.unlink()
    if how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "lengthened":
        path.write_bytes(content + b"\0")
    elif how == "a folder":
        path.mkdir()
    number, said = served(two)
    assert number == 1
    assert "gen-000002" in said
    assert ("gen-000002", name) in {(fault.generation, fault.file) for fault in two.verify()}


def test_a_file_that_was_not_published_is_found(two: Collection) -> None:
    # a log left beside the database would be read into it
    (two.path / "gen-000002" / "chunks.duckdb.wal").write_bytes(b"more")
    assert ("gen-000002", "chunks.duckdb.wal") in {(fault.generation, fault.file) for fault in two.verify()}
    number, said = served(two)
    assert number == 1
    assert "chunks.duckdb.wal" in said


def test_the_lock_a_reader_of_the_words_leaves_is_no_damage(two: Collection) -> None:
    (two.path / "gen-000002" / "lexical" / ".tantivy-meta.lock").touch()
    assert two.verify() == []
    assert served(two) == (2, "")


def test_the_warning_of_a_fallback_names_the_file_and_says_what_to_type(two: Collection) -> None:
    flip(two.path / "gen-000002" / "chunks.duckdb", 1)
    with pytest.warns(
        DamageWarning, match=r"gen-000002 is damaged \(chunks\.duckdb: its checksum changed\); run: lookahead verify"
    ):
        assert two.current().manifest.number == 1


def test_when_no_generation_is_sound_nothing_is_served(two: Collection) -> None:
    flip(two.path / "gen-000001" / "chunks.duckdb", 0)
    flip(two.path / "gen-000002" / "chunks.duckdb", 0)
    with pytest.raises(LookaheadError, match="gen-000002 is damaged"):
        two.current()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\n",
        b"gen-000002\n",
        b"\xff\xfe",
        b"gen-000007 0\n",
        b"gen-000000 " + b"0" * 64 + b"\n",
        b"gen-000001 " + b"0" * 64 + b"\n",
        b"gen-2 0\n",
        b"../x 0",
    ],
)
def test_without_a_readable_current_the_newest_sound_generation_is_served_with_a_warning(
    two: Collection, content: bytes | None
) -> None:
    if content is None:
        (two.path / "CURRENT").unlink()
    else:
        (two.path / "CURRENT").write_bytes(content)
    number, said = served(two)
    assert number == 2
    assert said
    flip(two.path / "gen-000002" / "dense.faiss", 0)
    assert served(two)[0] == 1


def test_a_derived_file_may_be_damaged_where_it_will_be_made_anew(two: Collection) -> None:
    flip(two.path / "gen-000002" / "dense.faiss", 0)
    with no_warning():
        assert two.current(ignoring=is_derived).manifest.number == 2
    flip(two.path / "gen-000002" / "chunks.duckdb", 0)
    with pytest.warns(DamageWarning):
        assert two.current(ignoring=is_derived).manifest.number == 1


def test_verify_reads_every_byte_kept_and_tells_how_many(two: Collection) -> None:
    heard: list[int] = []
    assert two.verify(heard.append) == []
    manifests = sum((two.path / f"gen-00000{number}" / MANIFEST).stat().st_size for number in (1, 2))
    assert sum(heard) == two.bytes_kept() - manifests


# -- checked once, and only once -------------------------------------------------------------------------


def test_an_unchanged_file_is_summed_once_and_a_changed_one_again(
    two: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        generations, "seal_of", lambda path, progress: read.append(path.name) or seal_of(path, progress)
    )
    assert served(two) == (2, "")
    assert read == []
    flip(two.path / "gen-000002" / "chunks.duckdb", 0)
    assert served(two)[0] == 1
    assert "chunks.duckdb" in read


def test_the_note_of_what_was_checked_cannot_make_a_damaged_file_pass(two: Collection) -> None:
    note = two.path / ".checked.json"
    whole = note.read_bytes()
    for place in range(0, len(whole), 3):
        flip(note, place, place % 8)
        assert served(two) == (2, ""), place
        note.write_bytes(whole)
    for strange in (
        b"",
        b"[]",
        b"null",
        b'{"gen-000002": 5}',
        b'{"gen-000002": {"chunks.duckdb": 7}}',
        b"\xff",
    ):
        note.write_bytes(strange)
        assert served(two) == (2, ""), strange[:40]
    flip(two.path / "gen-000002" / "chunks.duckdb", 0)
    note.write_bytes(whole)
    assert served(two)[0] == 1


def test_a_folder_that_cannot_be_written_can_be_read(two: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    (two.path / ".checked.json").unlink()

    def refuse(path: Path, content: bytes, *, sync: bool = True) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(generations, "write_atomically", refuse)
    assert served(two) == (2, "")
    flip(two.path / "gen-000002" / "chunks.duckdb", 0)
    assert served(two)[0] == 1
    assert not (two.path / ".checked.json").exists()


# -- the manifest ----------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=("Cs",)))
json_facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
manifests = st.builds(
    Manifest,
    number=st.integers(1, 10**7),
    parent=st.none() | st.integers(1, 10**7),
    code_version=words,
    created=st.just("2025-01-01T00:00:00+00:00"),
    counts=st.dictionaries(st.sampled_from(["chunks", "live"]), st.integers(0)),
    facts=st.dictionaries(words, json_facts, max_size=3),
    files=st.dictionaries(words, st.builds(FileSeal, st.integers(0), words), max_size=3),
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest) -> None:
    assert Manifest.load(manifest.dump()) == manifest


def test_a_source_whose_name_is_not_utf8_can_be_recorded() -> None:
    manifest = Manifest(1, None, "test", "now", {}, {"sources": [os.fsdecode(b"caf\xe9")]})
    assert Manifest.load(manifest.dump()) == manifest


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"null", b'"text"', b"\xff", b'{"self": ""}', b'{"self": "", "format": "x"}'],
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a manifest|checksum"):
        Manifest.load(raw)


def test_white_space_counts_in_a_manifest() -> None:
    raw = Manifest(1, None, "test", "now", {}, {}).dump()
    with pytest.raises(ValueError, match="not as it was written"):
        Manifest.load(raw + b"\n")


def test_a_manifest_of_a_later_format_is_refused_and_both_formats_named() -> None:
    later = replace(Manifest(1, None, "test", "now", {}, {}), format=FORMAT + 1)
    with pytest.raises(ValueError, match=f"format {FORMAT + 1} is newer than this program's {FORMAT}"):
        Manifest.load(later.dump())


def test_a_later_format_is_refused_even_with_fields_unknown_here() -> None:
    fields = {"format": FORMAT + 1, "shape": "unheard of"}
    raw = json.dumps({**fields, "self": generations._own_seal(fields)}).encode()
    with pytest.raises(ValueError, match="is newer than"):
        Manifest.load(raw)


def test_a_well_sealed_manifest_with_other_fields_is_refused() -> None:
    for fields in (
        {"number": 1},
        {"format": FORMAT, "files": {}, "surprise": 1},
        {"format": FORMAT, "files": {"a": {}}},
    ):
        raw = json.dumps({**fields, "self": generations._own_seal(fields)}).encode()
        with pytest.raises(ValueError, match="not a manifest"):
            Manifest.load(raw)


# -- killed in the middle --------------------------------------------------------------------------------


@contextmanager
def dying_after(calls: int, *names: str) -> Iterator[None]:
    """Lets so many calls of those functions of `os` pass and dies at the next."""
    left = calls

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return real(*args, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield


def killed_before_naming(collection: Collection, files: dict[str, bytes], parent: Generation | None) -> None:
    """A publish that renamed its folder and never got to CURRENT."""
    with pytest.MonkeyPatch.context() as patch:

        def die(path: Path, content: bytes, *, sync: bool = True) -> None:
            raise KeyboardInterrupt

        patch.setattr(generations, "write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            publish(collection, files, parent)


def test_a_publish_killed_before_current_moved_is_not_seen_yet_and_completed_by_the_next_writer(
    collection: Collection,
) -> None:
    first = publish(collection, OLD)
    killed_before_naming(collection, NEW, first)
    assert served(collection) == (1, "")
    with collection.writing():
        assert served(collection) == (2, "")
    assert served(collection) == (2, "")
    assert collection.verify() == []


def test_the_very_first_publish_killed_before_current_is_completed_too(collection: Collection) -> None:
    killed_before_naming(collection, OLD, None)
    assert collection.exists()
    number, said = served(collection)
    assert number == 1
    assert "CURRENT is unreadable" in said
    with collection.writing():
        pass
    assert served(collection) == (1, "")


@pytest.mark.parametrize("how", ["no manifest", "empty", "half a manifest", "a file is missing", "a file is short"])
def test_a_half_written_generation_that_was_never_named_is_removed_by_the_next_writer(
    collection: Collection, how: str
) -> None:
    publish(collection, OLD)
    half = collection.path / "gen-000002"
    shutil.copytree(collection.path / "gen-000001", half)
    if how == "empty":
        shutil.rmtree(half)
        half.mkdir()
    elif how == "no manifest":
        (half / MANIFEST).unlink()
    elif how == "half a manifest":
        (half / MANIFEST).write_bytes((half / MANIFEST).read_bytes()[:200])
    elif how == "a file is missing":
        (half / "chunks.duckdb").unlink()
    else:
        (half / "chunks.duckdb").write_bytes(b"on")
    assert served(collection) == (1, "")
    with collection.writing():
        assert not half.exists()
    assert served(collection) == (1, "")
    assert publish(collection, NEW).manifest.number == 2


def test_a_published_generation_is_not_removed_because_current_was_lost(collection: Collection) -> None:
    # its chunks are sound, and its index can be made again from them
    publish(collection, OLD)
    flip(collection.path / "gen-000001" / "dense.faiss", 0)
    (collection.path / "CURRENT").unlink()
    with collection.writing():
        pass
    assert (collection.path / "gen-000001" / "chunks.duckdb").read_bytes() == b"one"


def test_a_writer_mends_a_damaged_current(two: Collection) -> None:
    (two.path / "CURRENT").write_bytes(b"")
    with two.writing():
        pass
    assert served(two) == (2, "")


def test_a_real_kill_between_the_two_steps_is_survived(collection: Collection) -> None:
    code = f"""
import os
from pathlib import Path
from store import generations
from store.generations import Collection
collection = Collection(Path({str(collection.path)!r}))
with collection.writing():
    build = collection.build_folder()
    (build / "chunks.duckdb").write_bytes(b"one")
    generations.write_atomically = lambda *_, **__: os._exit(9)
    collection.publish(build, parent=None, code_version="", counts={{}}, facts={{}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with collection.writing():  # the lock of a dead process holds nobody up
        assert collection.current().manifest.files.keys() == {"chunks.duckdb"}
    assert served(collection) == (1, "")


def test_a_publish_killed_anywhere_leaves_the_old_or_the_new_and_never_less(collection: Collection) -> None:
    first = publish(collection, OLD)
    pristine = collection.path.with_name("pristine")
    shutil.copytree(collection.path, pristine)
    outcomes: list[int | None] = []
    for calls in itertools.count():
        shutil.rmtree(collection.path)
        shutil.copytree(pristine, collection.path)
        try:
            with dying_after(calls, "fsync", "rename", "replace"):
                publish(collection, NEW, first)
        except KeyboardInterrupt:
            done = False
        else:
            done = True
        number, said = served(collection)
        assert not said
        outcomes.append(number)
        with collection.writing():
            completed, said = served(collection)
        assert not said
        assert completed in (number, 2)
        assert collection.verify() == []
        if done:
            break
    assert outcomes == sorted(outcomes, key=str)
    assert set(outcomes) == {1, 2}
    assert len(outcomes) > 8


def test_an_unfinished_build_is_found_again_and_older_ones_are_removed(collection: Collection) -> None:
    with collection.writing():
        stale = collection.path / "build-000000.tmp"
        stale.mkdir()
        (stale / "chunks.duckdb").touch()
        build = collection.build_folder()
        (build / "chunks.duckdb").write_bytes(b"half")
        assert collection.build_folder() == build
        assert (build / "chunks.duckdb").read_bytes() == b"half"
        assert not stale.exists()


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    path = tmp_path / "CURRENT"
    write_atomically(path, b"old", sync=sync)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new", sync=sync)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", sync=sync)
    assert path.read_bytes() == b"new"


# -- one writer ------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_holds_the_lock(collection: Collection) -> None:
    code = f"""
import sys
from pathlib import Path
from store.generations import Collection
with Collection(Path({str(collection.path)!r})).writing():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refused = pytest.raises(LookaheadError, match=f"is being written by pid {other.pid} on .* since 20.*; wait")
        with refused, collection.writing():
            pass
        other.kill()
    publish(collection, OLD)  # the kernel took the lock back
    assert served(collection) == (1, "")


def test_the_lock_is_free_again_after_an_error(collection: Collection) -> None:
    with pytest.raises(ZeroDivisionError), collection.writing():
        raise ZeroDivisionError
    with collection.writing():
        pass


def test_reading_goes_on_while_the_next_generation_is_written(two: Collection) -> None:
    with two.writing():
        two.build_folder()
        assert served(two) == (2, "")


# -- rolling back and collecting garbage -----------------------------------------------------------------


def test_rolling_back_makes_the_generation_before_current_and_removes_the_newer(two: Collection) -> None:
    with two.writing():
        assert two.roll_back().manifest.number == 1
    assert served(two) == (1, "")
    assert not (two.path / "gen-000002").exists()
    assert two.verify() == []
    with two.writing():
        assert served(two) == (1, "")


def test_nothing_before_the_first_generation_to_roll_back_to(collection: Collection) -> None:
    publish(collection, OLD)
    with pytest.raises(LookaheadError, match="keeps no generation before gen-000001"):
        collection.roll_back()
    assert served(collection) == (1, "")


def test_rolling_back_from_a_damaged_generation_goes_to_the_one_before_it(two: Collection) -> None:
    third = publish(two, {**NEW, "chunks.duckdb": b"three"}, two.current())
    flip(third.path / "chunks.duckdb", 0)
    with two.writing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DamageWarning)
        assert two.roll_back().manifest.number == 2
    assert served(two) == (2, "")
    assert (two.path / "gen-000001").exists()


def test_rolling_back_to_a_damaged_generation_is_refused(two: Collection) -> None:
    flip(two.path / "gen-000001" / "chunks.duckdb", 0)
    with two.writing(), pytest.raises(LookaheadError, match=r"chunks\.duckdb"):
        two.roll_back()
    assert served(two) == (2, "")


@pytest.mark.parametrize("calls", range(4))
def test_a_roll_back_killed_anywhere_ends_in_one_of_the_two(two: Collection, calls: int) -> None:
    with two.writing(), pytest.raises(KeyboardInterrupt), dying_after(calls, "replace", "rename", "unlink", "rmdir"):
        two.roll_back()
    before, _ = served(two)
    assert before in (1, 2)
    with two.writing():
        pass
    assert served(two)[0] == before


def test_garbage_is_all_but_the_newest_two_generations_and_every_unfinished_build(two: Collection) -> None:
    third = publish(two, {**NEW, "chunks.duckdb": b"three"}, two.current())
    for name in ("build-000004.tmp", "build-000001.tmp"):
        (two.path / name).mkdir()
        (two.path / name / "chunks.duckdb").touch()
    with two.writing():
        assert two.collect_garbage() == ["gen-000001", "build-000001.tmp", "build-000004.tmp"]
    assert sorted(path.name for path in two.path.glob("*-*")) == ["gen-000002", "gen-000003"]
    assert served(two) == (3, "")
    assert (third.path / SHARED).read_bytes() == OLD[SHARED]  # the links that went were not its own
    assert two.verify() == []


@pytest.mark.parametrize(("keep", "left"), [(1, [2]), (0, [2]), (-5, [2]), (2, [1, 2]), (9, [1, 2])])
def test_the_current_generation_is_never_garbage(two: Collection, keep: int, left: list[int]) -> None:
    two.collect_garbage(keep)
    assert sorted(path.name for path in two.path.glob("gen-*")) == [f"gen-00000{number}" for number in left]
    assert served(two) == (2, "")


def test_the_generation_served_is_never_garbage_when_newer_ones_are_damaged(collection: Collection) -> None:
    last = publish(collection, OLD)
    for number in range(2, 5):
        last = publish(collection, {**OLD, "chunks.duckdb": b"%d" % number}, last)
        if number > 2:
            flip(last.path / "chunks.duckdb", 0)
    assert served(collection)[0] == 2
    assert collection.collect_garbage() == []  # the newer two may be mended
    assert served(collection)[0] == 2


def test_what_could_not_be_written_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "told", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "told", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["told"]
    assert (tmp_path / "told").read_bytes() == b"old"
