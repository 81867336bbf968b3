"""STS files: two layouts told apart, what a name says, every kind of damage by its line, and correlations by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from retrieval.sts import (
    StsSet,
    average_ranks,
    chosen_sets,
    pearson,
    read_file,
    read_sts,
    spearman,
    stsbenchmark,
)
from store.records import LookaheadError

THREE = "5.0\tA dog runs.\tA hound runs.\n0\tA cat sleeps.\tRain.\n"
SEVEN = (
    'news\tMSRpar\t2012test\t0001\t4.750\t"Well," he said.\the said "so\n'
    "news\tMSRpar\t2012test\t0002\t1.000\tOne.\tTwo.\n"
)
VALUES = st.lists(st.integers(-4, 4), min_size=2, max_size=30)


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# -- files -----------------------------------------------------------------------------------------------


def test_the_layout_of_three_columns_is_read(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "sts17-es-en-test.tsv", THREE)) == StsSet(
        "sts17-es-en", "test", ("es", "en"), (5.0, 0.0), ("A dog runs.", "A cat sleeps."), ("A hound runs.", "Rain.")
    )


def test_the_layout_of_seven_columns_is_read_with_its_quotation_marks(tmp_path: Path) -> None:
    """A reader of quoted CSV would make one row of these two."""
    assert read_file(written(tmp_path, "sts-dev.csv", SEVEN)) == StsSet(
        "stsbenchmark", "dev", ("en", "en"), (4.75, 1.0), ('"Well," he said.', "One."), ('he said "so', "Two.")
    )


def test_the_ending_of_a_name_does_not_decide_the_layout(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "a.csv", THREE)).scores == (5.0, 0.0)
    assert read_file(written(tmp_path, "b.tsv", SEVEN)).scores == (4.75, 1.0)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, mark: str) -> None:
    found = read_file(written(tmp_path, "a.tsv", THREE.replace("cat sleeps", f"cat{mark}sleeps")))
    assert found.first[1] == f"A cat{mark}sleeps."


def test_windows_files_and_a_byte_order_mark_are_read_alike(tmp_path: Path) -> None:
    plain = read_file(written(tmp_path, "a.tsv", THREE))
    assert read_file(written(tmp_path, "w/a.tsv", b"\xef\xbb\xbf" + THREE.replace("\n", "\r\n").encode())) == plain
    assert read_file(written(tmp_path, "n/a.tsv", THREE.rstrip("\n"))) == plain


@pytest.mark.parametrize(
    ("file", "key", "languages", "crossed"),
    [
        ("sts17-es-en-test.tsv", "sts17-es-en-test", ("es", "en"), True),
        ("sts17-es-en-news-test.tsv", "sts17-es-en-news-test", ("es", "en"), True),
        ("sts17-en-en-test.tsv", "sts17-en-en-test", ("en", "en"), False),
        ("sts22-zh-test.tsv", "sts22-zh-test", ("zh", "zh"), False),
        ("ours.tsv", "ours", (), False),
        ("train.tsv", "train", (), False),
    ],
)
def test_name_split_and_languages_come_from_the_name(
    tmp_path: Path, file: str, key: str, languages: tuple[str, ...], crossed: bool
) -> None:
    found = read_file(written(tmp_path, file, THREE))
    assert (found.key, found.languages, found.cross_lingual) == (key, languages, crossed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: 1 columns, expected 3"),
        ("a,b,c\n", "line 1: 1 columns, expected 3"),
        ("1\ta\tb\tc\n", "line 1: 4 columns, expected 3"),
        (THREE + "3\tonly one\n", "line 3: 2 columns, the first line has 3"),
        (THREE + "\n" + THREE, "line 3: 1 columns, the first line has 3"),
        (SEVEN + "5\ta\tb\n", "line 3: 3 columns, the first line has 7"),
        (THREE + "high\ta\tb\n", "line 3: 'high' is no score"),
        (THREE + "\ta\tb\n", "line 3: '' is no score"),
        (THREE + "5.1\ta\tb\n", "line 3: a score of 5.1, expected 0 to 5"),
        (THREE + "-1\ta\tb\n", "line 3: a score of -1"),
        (THREE + "nan\ta\tb\n", "line 3: a score of nan"),
        (THREE + "3\t \tb\n", "line 3: the first sentence is empty"),
        (THREE + "3\ta\t\n", "line 3: the second sentence is empty"),
        (THREE.encode() + b"3\ta\xff\tb\n", "line 3: it is not UTF-8"),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path, "bad.tsv", text)
    with pytest.raises(LookaheadError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}, {said}")
    assert "\n" not in str(caught.value)


def test_scores_that_are_all_alike_rank_nothing(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="all of its 2 scores are 3; nothing to rank"):
        read_file(written(tmp_path, "flat.tsv", "3\ta\tb\n3\tc\td\n"))


def test_a_folder_gives_all_its_sets_by_path_and_a_file_gives_one(tmp_path: Path) -> None:
    written(tmp_path, "sts17/sts17-fr-en-test.tsv", THREE)
    written(tmp_path, "bench/sts-test.CSV", SEVEN)
    written(tmp_path, "README.md", "no set")
    assert [one.key for one in read_sts(tmp_path)] == ["stsbenchmark-test", "sts17-fr-en-test"]
    assert [one.key for one in read_sts(tmp_path / "sts17" / "sts17-fr-en-test.tsv")] == ["sts17-fr-en-test"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="neither a file nor a folder"):
        read_sts(tmp_path / "nothing")
    with pytest.raises(LookaheadError, match=r"no \.csv or \.tsv file"):
        read_sts(tmp_path)
    with pytest.raises(LookaheadError, match=r"stsbenchmark/sts-dev\.csv is missing"):
        stsbenchmark(tmp_path, "dev")
    with pytest.raises(LookaheadError, match="no split 'valid'; it has train, dev, test"):
        stsbenchmark(tmp_path, "valid")


def test_sts_benchmark_is_found_in_its_folder_or_beside_it(tmp_path: Path) -> None:
    written(tmp_path, "stsbenchmark/sts-dev.csv", SEVEN)
    assert stsbenchmark(tmp_path, "dev") == stsbenchmark(tmp_path / "stsbenchmark", "dev")


def test_training_splits_are_judged_on_only_when_they_are_named(tmp_path: Path) -> None:
    for name in ("sts-train.csv", "sts-dev.csv", "sts-test.csv"):
        written(tmp_path, name, SEVEN)
    for name in ("sts17-en-en-test.tsv", "sts17-es-en-test.tsv", "sts17-es-en-news-test.tsv"):
        written(tmp_path, name, THREE)
    sets = read_sts(tmp_path)

    def chosen(*wanted: str) -> list[str]:
        return [one.key.removesuffix("-test") for one in chosen_sets(sets, wanted)]

    every = ["stsbenchmark-dev", "stsbenchmark", "sts17-en-en", "sts17-es-en-news", "sts17-es-en"]
    assert chosen() == every
    assert chosen("stsbenchmark") == every[:2]
    assert chosen("sts17") == every[2:]
    assert chosen("sts17-es-en") == every[3:]
    assert chosen("sts17-es-en-test", "stsbenchmark-train") == ["stsbenchmark-train", "sts17-es-en"]
    with pytest.raises(LookaheadError, match="there is no set 'sts1'; there are stsbenchmark-dev, "):
        chosen("sts17", "sts1")
    with pytest.raises(LookaheadError, match="only training splits are there"):
        chosen_sets([one for one in sets if one.split == "train"], ())


def test_the_real_files_are_read_to_the_last_pair() -> None:
    folder = Path(os.environ.get("LOOKAHEAD_DATA", Path(__file__).parents[2] / "shared" / "data"), "sts")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set LOOKAHEAD_DATA to the folder with the real data")
    counts = {one.key: len(one) for one in read_sts(folder)}
    assert {name: counts.pop(f"stsbenchmark-{name}") for name in ("train", "dev", "test")} == {
        "train": 5749,
        "dev": 1500,
        "test": 1379,
    }
    assert len(counts) == 11
    assert set(counts.values()) == {250}


# -- correlations ----------------------------------------------------------------------------------------


def test_correlations_by_hand() -> None:
    assert pearson([1, 2, 3], [1, 2, 3]) == 1.0
    assert pearson([1, 2, 3], [3, 2, 1]) == -1.0
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert spearman([1, 2, 3], [1, 30, 20]) == pytest.approx(0.5)
    assert average_ranks([7, 5, 7, 9]).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert spearman([7, 5, 7, 9], [2.5, 1, 2.5, 4]) == pytest.approx(1.0)


@pytest.mark.parametrize("measure", [pearson, spearman])
@pytest.mark.parametrize("bad", [[2, 2, 2], [1, 2, math.nan], [1, 2, math.inf]])
def test_what_is_not_defined_is_nan(measure: type[float], bad: list[float]) -> None:
    assert math.isnan(measure(bad, [1, 2, 3]))
    assert math.isnan(measure([1, 2, 3], bad))


def test_lists_of_two_lengths_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="not two lists of pairs"):
        pearson([1, 2, 3], [1, 2])


@given(VALUES, st.data())
def test_correlations_are_those_of_scipy(a: list[int], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.integers(-4, 4), min_size=len(a), max_size=len(a)))
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert math.isnan(pearson(a, b))
        assert math.isnan(spearman(a, b))
        return
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b)[0], abs=1e-9)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0], abs=1e-9)


@given(VALUES)
def test_ranks_are_those_of_scipy(values: list[int]) -> None:
    np.testing.assert_array_equal(average_ranks(values), scipy.stats.rankdata(values))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.data())
def test_correlations_stay_within_one(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.floats(-1, 1), min_size=len(a), max_size=len(a)))
    for found in (pearson(a, b), spearman(a, b)):
        assert math.isnan(found) or -1 <= found <= 1
