"""Windows and batches: never across articles, contexts before targets, the same from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.vectors import Vectors, shard_name, write_shard
from retrieval.batches import Batches, Steps, places_of
from retrieval.sequences import CONTEXT, Sequences, needed
from store.database import ArticleRow
from store.records import LookaheadError, Split

DIM = 8


def sequences(folder: Path, counts: list[int], *, shard_rows: int = 16, gap: int = 0) -> Sequences:
    """Articles of so many chunks, `gap` foreign rows between them; a chunk's vector points by its id."""
    rows, first = [], 0
    for page, count in enumerate(counts):
        rows.append(ArticleRow(page, f"Page {page}", Split.TRAIN, "", "", first, count))
        first += count + gap
    total = max(first, 1)
    vectors = np.random.default_rng(0).normal(size=(total, DIM)).astype(np.float32)
    for number in range(-(-total // shard_rows)):
        write_shard(folder / shard_name(number), vectors[number * shard_rows : (number + 1) * shard_rows])
    return Sequences(rows, Vectors(folder, total, DIM, shard_rows))


def test_every_chunk_with_five_before_it_is_a_target(tmp_path: Path) -> None:
    windows = sequences(tmp_path, [7, 3, 6]).windows()
    assert windows.target.tolist() == [5, 6, 15]
    assert windows.article.tolist() == [0, 0, 2]
    assert windows.length.tolist() == [5, 5, 5]


def test_shorter_contexts_on_demand(tmp_path: Path) -> None:
    windows = sequences(tmp_path, [3, 1, 2]).windows(1)
    assert windows.target.tolist() == [1, 2, 5]
    assert windows.length.tolist() == [1, 2, 1]


def test_a_context_is_the_chunks_before_the_target_nearest_last(tmp_path: Path) -> None:
    these = sequences(tmp_path, [4, 9], gap=2)
    windows = these.windows(2)
    context, mask = these.contexts(windows)
    for place in range(len(windows)):
        target, length = int(windows.target[place]), int(windows.length[place])
        assert mask[place].tolist() == [False] * (CONTEXT - length) + [True] * length
        np.testing.assert_array_equal(context[place, CONTEXT - length :], these.between(target - length, target))
        assert not context[place, : CONTEXT - length].any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, CONTEXT))
def test_no_window_crosses_an_article(tmp_path_factory: pytest.TempPathFactory, counts: list[int], least: int) -> None:
    these = sequences(tmp_path_factory.mktemp("v"), counts, gap=1)
    windows = these.windows(least)
    first = these.first[windows.article]
    assert (windows.target - windows.length >= first).all()
    assert (windows.target < first + these.count[windows.article]).all()
    assert len(windows) == sum(max(0, count - least) for count in counts)


def test_all_vectors_have_length_one(tmp_path: Path) -> None:
    these = sequences(tmp_path, [9])
    np.testing.assert_allclose(np.linalg.norm(these.unit(these.ids()), axis=1), 1, rtol=1e-6)


def test_a_split_without_windows_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="wiki: none of the 2 articles in the test split has 6 chunks"):
        needed(sequences(tmp_path, [5, 1]), Split.TEST, "wiki")


def test_no_articles_are_no_windows(tmp_path: Path) -> None:
    these = sequences(tmp_path, [])
    assert len(these.windows()) == 0
    assert len(these.ids()) == 0


# -- batches -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 30), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_holds_every_window_once(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], windows: int, run: int, epoch: int
) -> None:
    these = sequences(tmp_path_factory.mktemp("v"), counts)
    batches = Batches(these, windows=windows, run=run, short=0.5, seed=3)
    seen = []
    for plan in batches.epoch(epoch):
        for piece in plan:
            assert 1 <= piece.stop - piece.start <= run
            seen += [(piece.article, position) for position in range(piece.start, piece.stop)]
    assert sorted(seen) == [(article, at) for article, count in enumerate(counts) for at in range(1, count)]
    assert len(seen) == batches.total


def test_a_batch_points_at_the_right_vectors(tmp_path: Path) -> None:
    these = sequences(tmp_path, [20, 3, 11], gap=3)
    batches = Batches(these, windows=16, run=6, short=0.4, seed=1)
    met = 0
    for number, plan in enumerate(batches.epoch(0)):
        batch = batches.read(plan, 0, number)
        place = 0
        for piece in plan:
            for position in range(piece.start, piece.stop):
                target = int(these.first[piece.article]) + position
                length = int(batch.mask[place].sum())
                assert 1 <= length <= min(position, CONTEXT)
                assert batch.mask[place, CONTEXT - length :].all()
                np.testing.assert_array_equal(batch.bank[batch.target[place]], these.unit(np.array([target]))[0])
                context = batch.bank[batch.context[place][batch.mask[place]]]
                np.testing.assert_array_equal(context, these.between(target - length, target))
                place += 1
        assert place == len(batch.target)
        met += place
    assert met == batches.total


def test_the_same_seed_gives_the_same_batches_and_another_others(tmp_path: Path) -> None:
    these = sequences(tmp_path, [20, 13, 11])
    one, same, other = (Batches(these, windows=8, run=5, short=0.5, seed=seed) for seed in (1, 1, 2))
    assert one.epoch(4) == same.epoch(4)
    assert one.epoch(4) != other.epoch(4)
    assert one.epoch(4) != one.epoch(5)
    plan = one.epoch(4)[0]
    np.testing.assert_array_equal(one.read(plan, 4, 0).mask, same.read(plan, 4, 0).mask)


def test_without_short_contexts_only_the_beginnings_are_short(tmp_path: Path) -> None:
    these = sequences(tmp_path, [30])
    batches = Batches(these, windows=100, run=100, short=0.0, seed=0)
    lengths = batches.read(batches.epoch(0)[0], 0, 0).mask.sum(axis=1)
    assert sorted(lengths.tolist()) == [1, 2, 3, 4] + [5] * 25


def test_some_of_the_articles_are_the_same_articles(tmp_path: Path) -> None:
    these = sequences(tmp_path, [7, 8, 9])
    assert [row.page_id for row in these.only([0, 2]).articles] == [0, 2]
    assert these.only([2]).windows().target.tolist() == [20, 21, 22, 23]


# -- chunks of a batch by their ids ------------------------------------------------------------------------


def test_a_batch_knows_the_ids_of_its_chunks(tmp_path: Path) -> None:
    these = sequences(tmp_path, [20, 3, 11], gap=3)
    batches = Batches(these, windows=16, run=6, short=0.4, seed=1)
    batch = batches.read(batches.epoch(0)[0], 0, 0)
    np.testing.assert_array_equal(batch.bank, these.unit(batch.ids))


def test_a_chunk_that_two_runs_share_can_be_had_once(tmp_path: Path) -> None:
    these = sequences(tmp_path, [20, 9])
    batches = Batches(these, windows=100, run=4, short=0.4, seed=1)
    batch = batches.read(batches.epoch(0)[0], 0, 0)
    once = batch.once()
    assert len(batch.ids) > 29
    assert once.ids.tolist() == list(range(29))
    np.testing.assert_array_equal(once.bank, these.unit(once.ids))
    np.testing.assert_array_equal(once.ids[once.target], batch.ids[batch.target])
    np.testing.assert_array_equal(once.ids[once.context], batch.ids[batch.context])
    np.testing.assert_array_equal(once.mask, batch.mask)
    assert once.once() is once


def test_chunks_are_added_behind_a_batch_where_they_are_not_in_it(tmp_path: Path) -> None:
    these = sequences(tmp_path, [20, 9])
    batches = Batches(these, windows=4, run=4, short=0.0, seed=1)
    batch = batches.read(batches.epoch(0)[0], 0, 0)
    outside = sorted(set(range(29)) - set(batch.ids.tolist()))[:3]
    more = batch.with_chunks(np.array([[outside[2], outside[0]], [-1, int(batch.ids[0])]]), these.unit)
    assert more.ids.tolist() == [*batch.ids.tolist(), outside[0], outside[2]]
    np.testing.assert_array_equal(more.bank, these.unit(more.ids))
    assert batch.with_chunks(np.array([[-1]]), these.unit) is batch


@given(st.lists(st.integers(0, 30), min_size=1, unique=True), st.lists(st.integers(-1, 31), min_size=1))
def test_places_are_where_ids_are(among: list[int], ids: list[int]) -> None:
    found = places_of(np.array(ids), np.array(among)).tolist()
    assert found == [among.index(one) if one in among else -1 for one in ids]


def test_steps_go_through_epoch_after_epoch(tmp_path: Path) -> None:
    batches = Batches(sequences(tmp_path, [20, 13, 11]), windows=8, run=5, short=0.5, seed=1)
    steps = Steps(batches)
    assert steps.per_epoch == len(batches.epoch(0))
    for step in (0, steps.per_epoch - 1, steps.per_epoch, 3 * steps.per_epoch + 1, 1):
        batch, epoch, number = steps.at(step)
        plan = batches.epoch(step // steps.per_epoch)
        assert (epoch, number) == (step // steps.per_epoch, step % steps.per_epoch % len(plan))
        np.testing.assert_array_equal(batch.ids, batches.read(plan[number], epoch, number).ids)
