"""The checks of the data: Wikipedia-like articles pass, and each of the earlier failures is caught by its check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_articles import Floats, article_rows, vectors_of, wandering

from retrieval.data_checks import DataReport, check_data
from retrieval.sequences import Sequences
from store.database import ArticleRow
from store.records import Split

COUNTS = (14, 9, 22, 7, 30, 12, 3, 18) * 6
WORDS = ["bridge", "river", "stone", "mill", "road", "hill", "tea", "cup", "village", "water", "iron", "tower"]


class Data:
    """A collection to be spoilt: vectors and texts by chunk, articles by split."""

    def __init__(self, articles: Sequence[Floats]) -> None:
        rng = np.random.default_rng(1)
        self.rows = np.concatenate(articles)
        self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)
        self.articles = article_rows([len(one) for one in articles])
        self.pages = np.repeat([row.page_id for row in self.articles], [len(one) for one in articles])
        self.keys = np.array([f"{place:032d}" for place in range(len(self.rows))], dtype="S32")
        self.texts = [
            " ".join(" ".join(rng.choice(WORDS, 9)).capitalize() + f" {place}." for _ in range(3))
            for place in range(len(self.rows))
        ]
        third = len(self.articles) // 4
        self.splits: dict[Split, list[ArticleRow]] = {
            Split.TRAIN: self.articles[: 2 * third],
            Split.VALID: self.articles[2 * third : 3 * third],
            Split.TEST: self.articles[3 * third :],
        }

    def check(self, folder: Path) -> DataReport:
        vectors = vectors_of(folder, self.rows)
        splits = {split: Sequences(rows, vectors) for split, rows in self.splits.items()}
        return check_data("wiki", splits, self.pages, self.keys, lambda first, stop: self.texts[first:stop])


@pytest.fixture
def data() -> Data:
    return Data(wandering(COUNTS, dim=32))


def failed(report: DataReport) -> set[str]:
    return {check.name for check in report.failed}


def test_sound_data_passes_every_check(data: Data, tmp_path: Path) -> None:
    report = data.check(tmp_path)
    assert failed(report) == set(), report.table()
    assert len(report.checks) == 12
    assert report.lags is not None
    means = [lag.mean for lag in report.lags]
    assert means == sorted(means, reverse=True)
    assert [(one.split, one.articles) for one in report.splits] == [("train", 24), ("valid", 12), ("test", 12)]
    assert report.splits[2].windows == sum(max(0, row.chunk_count - 5) for row in data.splits[Split.TEST])


def test_scrambled_order_is_caught(data: Data, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for row in data.articles:
        some = row.first_chunk + np.arange(row.chunk_count)
        data.rows[some] = data.rows[rng.permutation(some)]
    assert failed(data.check(tmp_path)) >= {"lag 1 above random order", "lag 1 above lag 5"}


def test_two_articles_dealt_into_one_are_caught(data: Data, tmp_path: Path) -> None:
    """Every other chunk from another article: a chunk is nearer to the next but one than to the next."""
    for row in data.articles:
        some = row.first_chunk + np.arange(1, row.chunk_count, 2)
        data.rows[some] = data.rows[(some + 40) % len(data.rows)]
    assert "least fall from a lag to the next" in failed(data.check(tmp_path))


def test_windows_that_slide_across_articles_are_caught(data: Data, tmp_path: Path) -> None:
    """As if each article began three chunks later than it does, and so ended in the next."""
    for split, rows in data.splits.items():
        data.splits[split] = [
            ArticleRow(row.page_id, row.title, row.split, "s", "d", row.first_chunk + 3, row.chunk_count)
            for row in rows
            if row.first_chunk + row.chunk_count + 3 <= len(data.rows)
        ]
    assert "windows across articles" in failed(data.check(tmp_path / "by page"))


def test_misplaced_borders_are_caught_by_vectors_alone(data: Data, tmp_path: Path) -> None:
    """The same where the page ids are wrong alike: the chunk after an article's end is as near as one of its own."""
    data.rows = np.roll(data.rows, -3, axis=0)
    assert "lag 1 above the next article" in failed(data.check(tmp_path))


def test_overlapping_chunks_are_caught(data: Data, tmp_path: Path) -> None:
    for place in range(1, len(data.rows)):
        if data.pages[place] == data.pages[place - 1]:
            data.texts[place] = data.texts[place - 1].split(". ")[-1] + " " + data.texts[place]
    assert failed(data.check(tmp_path)) == {"neighbours that share a sentence"}


def test_neighbours_that_tell_the_same_are_caught(data: Data, tmp_path: Path) -> None:
    for row in data.articles:
        for place in range(row.first_chunk + 1, row.first_chunk + row.chunk_count, 4):
            data.rows[place] = data.rows[place - 1]
    assert "neighbours with cosine ≥ .980" in failed(data.check(tmp_path))


def test_a_random_split_is_caught(data: Data, tmp_path: Path) -> None:
    """As if windows had been dealt out: test holds articles that train has too."""
    data.splits[Split.TEST] = data.splits[Split.TEST] + data.splits[Split.TRAIN][:6]
    assert failed(data.check(tmp_path)) == {
        "articles in two splits",
        "chunks in two splits",
        "test chunks whose text is in another split",
        "test chunks with cosine ≥ .995 to train",
    }


def test_texts_shared_by_splits_are_caught(data: Data, tmp_path: Path) -> None:
    train, test = (data.splits[split][0].first_chunk for split in (Split.TRAIN, Split.TEST))
    data.keys[test : test + 8] = data.keys[train : train + 8]
    assert failed(data.check(tmp_path / "keys")) == {"test chunks whose text is in another split"}
    data = Data(wandering(COUNTS, dim=32))
    noise = np.random.default_rng(0).normal(size=(8, 32)) * 0.005
    data.rows[test : test + 8] = data.rows[train : train + 8] + noise  # other texts, told almost the same
    assert failed(data.check(tmp_path / "near")) == {"test chunks with cosine ≥ .995 to train"}


def test_an_empty_split_is_caught_and_the_rest_is_still_measured(data: Data, tmp_path: Path) -> None:
    data.splits[Split.VALID] = []
    assert failed(data.check(tmp_path / "valid")) == {"fewest windows of a split"}
    data.splits = {Split.TRAIN: data.splits[Split.TRAIN][6:7], Split.VALID: [], Split.TEST: []}
    report = data.check(tmp_path / "nearly all")
    assert failed(report) == {"fewest windows of a split"}
    assert report.lags is None


def test_the_table_names_what_a_failed_check_caught(data: Data, tmp_path: Path) -> None:
    data.splits[Split.TEST] = data.splits[Split.TEST] + data.splits[Split.TRAIN][:1]
    report = data.check(tmp_path)
    lines = report.table().splitlines()
    assert any(
        line.startswith("articles in two splits") and "FAILED: the split is not by article" in line for line in lines
    )
    assert any(line.startswith("lag 1 above lag 5") and line.endswith("passed") for line in lines)
    assert any(line.startswith("cosine by lag 1 to 5: .") for line in lines)
    assert max(map(len, lines)) <= 130
    raw = json.loads(json.dumps(report.as_json()))
    assert {check["name"]: check["passed"] for check in raw["checks"]}["articles in two splits"] is False
    assert raw["splits"][0]["split"] == "train"
