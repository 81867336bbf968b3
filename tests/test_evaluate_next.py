"""Ranks, contrast and gap of predicted next chunks: by hand, against a slow reference, and against ir-measures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Success
from tiny_articles import article_rows, sequences_of, vectors_of, wandering
from tiny_models import SUM, write_model
from tiny_pipelines import BY_LAST, write_reranker, write_towers

from cli import main
from index.build import Choices, ingest
from retrieval import evaluate_next, models
from retrieval.baselines import Predicts, copy_last
from retrieval.evaluate_next import (
    DUPLICATE,
    ORACLE,
    RANDOM,
    TIE,
    Bank,
    Judged,
    Judgement,
    Outcome,
    View,
    Whole,
    at_most,
    drawn,
    judge,
    predictions,
    published,
    random_ranks,
)
from retrieval.metrics import chance_recall, recall_at, reciprocal_rank
from retrieval.runs import write_run
from retrieval.sequences import Bools, Floats, Ints, Sequences, Windows
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

EVERY = tuple(Bank)
ROOT = Path(__file__).parent.parent


def axes(*numbers: int, dim: int = 12) -> Floats:
    """Rows of length one along the axes of those numbers."""
    return np.eye(dim, dtype=np.float32)[list(numbers)]


def always(vector: Floats) -> Predicts:
    return lambda context, mask: np.tile(vector, (len(context), 1))


def told(outcome: Outcome, bank: Bank, view: View) -> Judgement:
    return next(one for one in outcome.judgements if (one.bank, one.view) == (bank, view))


def ranks_of(outcome: Outcome, name: str, view: View, bank: Bank = Bank.HELDOUT) -> list[float]:
    return told(outcome, bank, view).rows[name].ranks.tolist()


def whole_of(sequences: Sequences) -> Whole:
    return Whole(sequences._vectors, np.arange(len(sequences._vectors)))


# -- by hand ------------------------------------------------------------------------------------------------------


def test_the_own_context_outranks_the_target_when_seen_and_is_gone_when_new(tmp_path: Path) -> None:
    chunks = axes(0, 1, 2, 3, 4, 5)
    chunks[5] += 0.5 * chunks[4]  # the target is near the last chunk, everything else far from it
    sequences = sequences_of(tmp_path, [chunks, axes(6, 7, 8)])
    outcome = judge(sequences, sequences.windows(), {"copy-last": copy_last})
    assert ranks_of(outcome, "copy-last", View.SEEN) == [2]
    assert ranks_of(outcome, "copy-last", View.NEW) == [1]


def test_a_constant_prediction_earns_nothing_from_ties(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5), axes(6, 7, 8)])
    outcome = judge(
        sequences, sequences.windows(), {"far": always(axes(11)[0])}, banks=EVERY, whole=whole_of(sequences)
    )
    for bank, seen, new in ((Bank.HELDOUT, 9, 4), (Bank.FULL, 9, 4), (Bank.ARTICLE, 6, 1)):
        assert ranks_of(outcome, "far", View.SEEN, bank) == [seen]
        assert ranks_of(outcome, "far", View.NEW, bank) == [new]


def test_a_tied_duplicate_of_the_target_is_not_ahead_and_any_other_tie_is(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5), axes(5, 6, 5)])
    outcome = judge(sequences, sequences.windows(), {"far": always(axes(11)[0])})
    assert ranks_of(outcome, "far", View.SEEN) == [7]  # of nine: two are the target's text again
    assert ranks_of(outcome, "far", View.NEW) == [2]


def test_a_context_that_holds_the_targets_text_is_counted_once(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 5, 4, 5), axes(6, 7, 8)])
    outcome = judge(sequences, sequences.windows(), {"far": always(axes(11)[0])})
    assert ranks_of(outcome, "far", View.SEEN) == [8]
    assert ranks_of(outcome, "far", View.NEW) == [4]


def test_a_near_copy_that_scores_higher_is_ahead(tmp_path: Path) -> None:
    near = axes(5)[0] + 0.02 * axes(6)[0]  # cosine .9998: another text
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5), near[None]])
    outcome = judge(sequences, sequences.windows(), {"near": always(near), "far": always(axes(11)[0])})
    assert ranks_of(outcome, "near", View.NEW) == [2]
    assert ranks_of(outcome, "far", View.NEW) == [2]  # a tie with another text


def test_a_duplicate_that_scores_higher_by_more_than_a_tie_is_ahead(tmp_path: Path) -> None:
    twin = axes(5)[0] + 0.003 * axes(6)[0]  # cosine .9999955
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5), twin[None]])
    outcome = judge(sequences, sequences.windows(), {"aside": always(axes(6)[0]), "far": always(axes(11)[0])})
    assert ranks_of(outcome, "aside", View.NEW) == [2]
    assert ranks_of(outcome, "far", View.NEW) == [1]


@pytest.mark.parametrize("nothing", [np.zeros(12), np.full(12, np.nan), np.append(np.ones(11), np.inf)])
def test_a_prediction_that_is_no_direction_has_found_nothing(tmp_path: Path, nothing: Floats) -> None:
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5)])
    outcome = judge(sequences, sequences.windows(), {"none": always(nothing.astype(np.float32))}, banks=EVERY[::2])
    for judgement in outcome.judgements:
        row = judgement.rows["none"]
        assert row.ranks.tolist() == [np.inf]
        values = row.measures()
        assert {name: values[name].tolist() for name in ("R@50", "MRR@50", "cosine", "contrast")} == {
            "R@50": [0],
            "MRR@50": [0],
            "cosine": [0],
            "contrast": [0 if judgement.view is View.SEEN else 1],  # new: no wrong chunk is left to compare with
        }


def test_the_oracle_is_perfect_where_texts_come_twice(tmp_path: Path) -> None:
    article = wandering([9])[0]
    article[7] = article[2]
    sequences = sequences_of(tmp_path, [article, article.copy(), wandering([7], seed=1)[0]])
    outcome = judge(sequences, sequences.windows(1), {}, banks=EVERY, whole=whole_of(sequences))
    assert len(outcome.judgements) == 6
    for judgement in outcome.judgements:
        for measure, values in judgement.rows[ORACLE].measures().items():
            np.testing.assert_allclose(values, 0 if measure == "gap" else 1, atol=1e-6)
        assert (judgement.rows[ORACLE].ranks == 1).all()


def test_an_oracle_that_fails_means_that_the_test_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    article = wandering([9])[0]
    sequences = sequences_of(tmp_path, [article, article.copy()])
    monkeypatch.setattr(evaluate_next, "DUPLICATE", 2.0)  # equal texts are now told apart
    with pytest.raises(
        LookaheadError, match=r"heldout, seen: the oracle has R@1 0\.\d+, expected 1; the test is wrong"
    ):
        judge(sequences, sequences.windows(), {})


def test_contrast_is_the_share_of_the_nearest_wrong_chunks_that_are_farther(tmp_path: Path) -> None:
    target = axes(5)[0]
    wrong = [target + height * axes(6)[0] + 0.3 * axes(7 + place)[0] for place, height in enumerate((1, 0.8, 0.6))]
    sequences = sequences_of(tmp_path, [axes(0, 1, 2, 3, 4, 5), np.array([*wrong, target], dtype=np.float32)])
    # the wrong ones nearest to the target are those three and two of the context (seen) or none (new: only three left)
    toward = target + 0.65 * axes(6)[0]
    outcome = judge(sequences, sequences.windows(), {"between": always(toward), "exact": always(target)})
    new, seen = (told(outcome, Bank.HELDOUT, view).rows for view in (View.NEW, View.SEEN))
    scores = [float(toward @ one / np.linalg.norm(one)) for one in (*wrong, target)]
    farther = sum(score < scores[3] for score in scores[:3])
    assert farther == 0
    assert new["between"].contrast is not None
    assert new["between"].contrast.tolist() == [0]
    assert seen["between"].contrast is not None
    assert seen["between"].contrast.tolist() == [2 / 5]
    assert new["exact"].contrast is not None
    assert new["exact"].contrast.tolist() == [1]


def test_the_gap_compares_how_near_target_and_prediction_lie_to_real_chunks(tmp_path: Path) -> None:
    chunks = axes(0, 1, 2, 3, 4, 5)
    chunks[5] += chunks[4]  # cosine .707 with the last chunk
    sequences = sequences_of(tmp_path, [chunks, axes(7, 8, 9)])
    halfway = axes(7)[0] + axes(8)[0] + axes(9)[0] + axes(11)[0]  # cosine .5 with three chunks
    outcome = judge(sequences, sequences.windows(), {"half": always(halfway), "copy-last": copy_last})
    gaps = {view: told(outcome, Bank.HELDOUT, view).rows for view in View}
    assert gaps[View.SEEN]["half"].gap == pytest.approx([0.5**0.5 - 0.5], abs=1e-3)
    assert gaps[View.NEW]["half"].gap == pytest.approx([-0.5], abs=1e-3)  # without its context the target is alone
    assert gaps[View.SEEN]["copy-last"].gap == pytest.approx([0.5**0.5 - 1], abs=1e-3)
    assert gaps[View.NEW]["copy-last"].gap == pytest.approx([0], abs=1e-3)


# -- against a slow reference ---------------------------------------------------------------------------------------


def slow_rank(prediction: Floats, target: int, bank: Floats, left_out: set[int]) -> float:
    if not np.linalg.norm(prediction) > 0.5:
        return np.inf
    scores = (bank.astype(np.float64) @ prediction.astype(np.float64)).tolist()
    ahead = 0
    for place, score in enumerate(scores):
        if place == target or place in left_out:
            continue
        twin = float(bank[place].astype(np.float64) @ bank[target].astype(np.float64)) >= DUPLICATE
        ahead += score > scores[target] + TIE or (score >= scores[target] - TIE and not twin)
    return 1 + ahead


def mixed_up(context: Floats, mask: Bools) -> Floats:
    """A little of everything that can come: good, constant, zero and broken predictions, by what the context is."""
    guess = context[:, -1] + 0.3 * context[:, -2]
    kind = (np.abs(context[:, -1]).sum(axis=1) * 1000).astype(int) % 6
    guess[kind == 1] = context[kind == 1, -1]
    guess[kind == 2] = 0
    guess[kind == 3] = np.nan
    guess[kind == 4] = 1
    return guess


@pytest.mark.parametrize(("queries", "columns", "shortest"), [(1024, 4096, 5), (5, 7, 1), (3, 10, 2)])
def test_all_banks_agree_with_a_slow_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: int, columns: int, shortest: int
) -> None:
    monkeypatch.setattr(evaluate_next, "_QUERIES", queries)
    monkeypatch.setattr(evaluate_next, "_COLUMNS", columns)
    articles = wandering([9, 3, 14, 6, 1, 11], dim=8, seed=3)
    articles[2][4], articles[2][9], articles[5][7] = articles[0][6], articles[2][8], articles[0][6]  # texts again
    rows = np.concatenate([wandering([20], dim=8, seed=9)[0], *articles, wandering([13], dim=8, seed=8)[0]])
    rows[70] = rows[20 + 6]
    vectors = vectors_of(tmp_path, rows)
    sequences = Sequences(article_rows([len(one) for one in articles], first=20), vectors)
    windows = sequences.windows(shortest)
    dead = {0, 5, 17, 66, 76}
    whole = Whole(vectors, np.array([place for place in range(len(rows)) if place not in dead]))
    outcome = judge(
        sequences, windows, {"mixed": mixed_up}, banks=EVERY, whole=whole, full_queries=len(windows) - 2, seed=4
    )
    guesses = predictions(mixed_up, sequences, windows)
    banks: dict[Bank, list[Ints]] = {
        Bank.HELDOUT: [sequences.ids()] * len(windows),
        Bank.FULL: [whole.live] * len(windows),
        Bank.ARTICLE: [
            np.arange(sequences.first[one], sequences.first[one] + sequences.count[one]) for one in windows.article
        ],
    }
    asked = {bank: range(len(windows)) for bank in EVERY} | {Bank.FULL: drawn(len(windows), len(windows) - 2, 4)}
    for judgement in outcome.judgements:
        expected = []
        for query in asked[judgement.bank]:
            ids = banks[judgement.bank][query]
            target, length = int(windows.target[query]), int(windows.length[query])
            context = range(target - length, target) if judgement.view is View.NEW else range(0)
            left_out = {int(np.searchsorted(ids, one)) for one in context}
            place = int(np.searchsorted(ids, target))
            expected.append(slow_rank(guesses[query], place, sequences.unit(ids), left_out))
        assert judgement.rows["mixed"].ranks.tolist() == expected, (judgement.bank, judgement.view)
    assert np.isinf(ranks_of(outcome, "mixed", View.NEW)).any()


@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100))
def test_the_length_of_a_prediction_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, seed: int, factor: float
) -> None:
    sequences = sequences_of(tmp_path_factory.mktemp("s"), wandering([8, 7], seed=seed))
    found = judge(
        sequences,
        sequences.windows(),
        {"one": copy_last, "longer": lambda context, mask: np.float32(factor) * context[:, -1]},
    )
    for view in View:
        one, longer = (told(found, Bank.HELDOUT, view).rows[name] for name in ("one", "longer"))
        assert one.ranks.tolist() == longer.ranks.tolist()
        assert one.cosine == pytest.approx(longer.cosine, abs=1e-6)


@given(seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_a_rank_is_within_its_bank_and_leaving_the_context_out_never_worsens_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sequences = sequences_of(tmp_path_factory.mktemp("s"), wandering([8, 11, 6], seed=seed))
    found = judge(
        sequences,
        sequences.windows(2),
        {"noise": lambda context, mask: rng.normal(size=context[:, -1].shape).astype(np.float32)},
        banks=(Bank.HELDOUT, Bank.ARTICLE),
    )
    for name in ("noise", RANDOM):
        seen, new = (np.array(ranks_of(found, name, view)) for view in View)
        near = np.array(ranks_of(found, name, View.NEW, Bank.ARTICLE))
        assert ((new >= 1) & (new <= seen) & (seen <= 25) & (near <= new)).all()


# -- rows of the evaluator, draws -----------------------------------------------------------------------------------


def test_random_order_in_the_article_scores_what_chance_says() -> None:
    windows = Windows(np.full(20_000, 7), np.full(20_000, 5), np.zeros(20_000, dtype=np.int64))
    ranks = random_ranks(windows, np.array([25]), seed=1)
    for view, units in ((View.SEEN, 25), (View.NEW, 20)):
        assert (ranks[view].min(), ranks[view].max()) == (1, units)
        for k in (1, 5, 10):
            assert (ranks[view] <= k).mean() == pytest.approx(chance_recall(units, 1, k), abs=0.012)


def test_random_rows_have_no_cosine(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([8, 9]))
    row = told(judge(sequences, sequences.windows(), {}), Bank.HELDOUT, View.NEW).rows[RANDOM]
    assert row.cosine is row.contrast is row.gap is None
    assert "cosine" not in row.measures()


def test_measures_are_those_of_the_metrics_module() -> None:
    ranks = [1, 3, 4, 50, 51, None]
    found = Judged(np.array([np.inf if rank is None else rank for rank in ranks])).measures()
    for k in (1, 3, 5, 10, 20, 50):
        assert found[f"R@{k}"].tolist() == recall_at(ranks, k).tolist()
    assert found["Contain@50"].tolist() == found["R@50"].tolist()
    assert found["MRR@50"] == pytest.approx(reciprocal_rank(ranks, 50))


def test_contain_counts_the_ranks_before_a_reranker_came() -> None:
    found = Judged(np.array([1.0, 60.0, np.inf]), before=np.array([60.0, 50.0, 51.0])).measures()
    assert found["Contain@50"].tolist() == [0, 1, 0]
    assert found["R@50"].tolist() == [1, 0, 0]


def test_the_published_draw_takes_whole_articles_of_its_sizes(tmp_path: Path) -> None:
    counts = [5, 14, 15, 60, 61, 200, *([35] * 80)]
    sequences = Sequences(article_rows(counts), vectors_of(tmp_path, np.ones((sum(counts), 2), np.float32)))
    some, windows = published(sequences, "wiki", seed=3)
    assert len(windows) == 1600
    assert ((some.count >= 15) & (some.count <= 60)).all()
    assert 1600 <= int((some.count - 5).sum()) < 1600 + 60
    assert [row.page_id for row in some.articles] == [
        row.page_id for row in published(sequences, "wiki", seed=3)[0].articles
    ]
    assert [row.page_id for row in some.articles] != [
        row.page_id for row in published(sequences, "wiki", seed=4)[0].articles
    ]
    with pytest.raises(LookaheadError, match="needs articles of 15 to 60 chunks, and wiki has none"):
        published(sequences.only([0, 1, 4]), "wiki")


def test_fewer_windows_than_wanted_are_all_taken(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([8, 3, 9]))
    some, windows = at_most(sequences, 100)
    assert (len(some.articles), len(windows)) == (3, 7)
    assert drawn(3, 5, 0).tolist() == [0, 1, 2]


def test_rows_of_the_evaluator_cannot_be_taken_by_a_model(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([8]))
    with pytest.raises(ValueError, match="rows of the evaluator"):
        judge(sequences, sequences.windows(), {ORACLE: copy_last})
    with pytest.raises(ValueError, match="one or more windows"):
        judge(sequences, sequences.windows()[:0], {})
    with pytest.raises(ValueError, match=r"expected predictions of shape \(3, 24\), found \(3, 5, 24\)"):
        judge(sequences, sequences.windows(), {"wide": lambda context, mask: context})


def test_a_run_file_gives_other_programs_the_same_figures(tmp_path: Path) -> None:
    articles = wandering([40, 30, 30], dim=6, seed=2)
    articles[1][10] = articles[0][20]
    sequences = sequences_of(tmp_path / "vectors", articles)
    windows = sequences.windows()
    flat: Predicts = always(np.zeros(6, np.float32))
    outcome = judge(
        sequences, windows, {"copy-last": copy_last, "flat": flat, "mixed": mixed_up}, run_queries=len(windows)
    )
    assert set(outcome.runs) == {"copy-last", "flat", "mixed"}
    qrels = [ir_measures.Qrel(str(target), str(target), 1) for target in windows.target]
    for name, run in outcome.runs.items():
        write_run(tmp_path / "x.run", run, name)
        read = list(ir_measures.read_trec_run(str(tmp_path / "x.run")))
        theirs = ir_measures.calc_aggregate([Success @ 1, Success @ 5, Success @ 50, RR @ 50], qrels, read)
        ours = told(outcome, Bank.HELDOUT, View.NEW).rows[name].measures()
        for k in (1, 5, 50):
            assert ours[f"R@{k}"].mean() == pytest.approx(theirs[Success @ k], abs=1e-12)
        assert ours["MRR@50"].mean() == pytest.approx(theirs[RR @ 50], abs=1e-12)


def test_judging_loads_no_heavy_library() -> None:
    code = "import sys, commands.evaluate, retrieval.next_report, retrieval.data_checks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "retrieval.evaluate_next" in loaded.split()
    assert not {"torch", "matplotlib", "scipy", "openvino"} & set(loaded.split())


# -- the command ----------------------------------------------------------------------------------------------------


PLOTS = ("recall.png", "ranks.png")


@pytest.fixture(autouse=True)
def _not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the collection, where every report would be drawn: test_evaluations looks at that."""
    monkeypatch.setattr("retrieval.evaluations.keep", lambda *_: "")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections cut alike and one cut otherwise, with the hashing encoder."""
    home = tmp_path_factory.mktemp("home")
    for name, words, pages in (("wiki", 20, range(40)), ("other", 20, range(100, 140)), ("long", 40, range(40))):
        file = home / f"{name}.jsonl"
        rows = []
        for page in pages:
            text = " ".join(
                f"The {page} thing number {i // 3} stands beside item {i} of group {page % 7}." for i in range(24)
            )
            rows.append(json.dumps({"page_id": page, "title": f"Page {page}", "text": text}))
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
        choices = Choices(encoder="hashing", workers=1, quiet=True, words=words)
        ingest(Collection(home / "collections" / name), [open_source(file, "jsonl")], choices)
    return home


def run_cli(home: Path, *arguments: str) -> tuple[int, str, str]:
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["--home", str(home), "evaluate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_reports_both_views_and_writes_everything(
    home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, bytes] = {}

    def keep(collection: Collection, kind: str, command: str, write: Callable[[Path], object]) -> str:
        assert (collection.name, kind) == ("wiki", "next")
        folder = tmp_path_factory.mktemp("kept")
        write(folder)
        kept.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return ""

    monkeypatch.setattr("retrieval.evaluations.keep", keep)
    code, out, err = run_cli(home, "next", "-c", "wiki", "--out", str(tmp_path), "--quiet", "--ood", "other")
    assert code == 0, err
    assert "baselines only" in err
    assert out.count("bank heldout") == 3  # seen, new, and beside the other collection
    assert "out of domain: other, 40 articles" in out
    assert {path.name for path in tmp_path.iterdir()} >= {"report.json", "report.md", "copy-last.run", "qrels.txt"}
    assert kept == {name: (tmp_path / name).read_bytes() for name in ("report.json", "report.md", *PLOTS)}
    assert {path.suffix for path in tmp_path.iterdir() if path.stat().st_size > 5_000} >= {".png", ".json"}
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [table["view"] for table in report["tables"]] == ["seen", "new"]
    assert report["outside"][0]["collection"] == "other"


def test_the_command_prints_json_for_every_bank(home: Path) -> None:
    code, out, err = run_cli(
        home,
        "next",
        "-c",
        "wiki",
        "--json",
        *(part for bank in Bank for part in ("--bank", bank.value)),
        "--context",
        "2",
    )
    assert code == 0, err
    report = json.loads(out)
    assert [(table["bank"], table["view"]) for table in report["tables"]] == [
        (bank, view) for bank in ("heldout", "full", "article") for view in ("seen", "new")
    ]
    for table in report["tables"]:
        rows = {row["name"]: row["measures"] for row in table["rows"]}
        assert rows["oracle"]["MRR@50"]["mean"] == 1
        assert set(rows) > {"copy-last", "ridge", "random in article"}


def test_models_are_compared_with_the_best_baseline(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    write_model(tmp_path / "amn", SUM)  # the collection's own amn goes first
    write_model(tmp_path / "gru", SUM)
    own = home / "collections" / "wiki" / "models"
    write_model(own / "amn")
    try:
        code, out, err = run_cli(home, "next", "-c", "wiki", "--json")
        assert code == 0, err
        one_code, one, _ = run_cli(home, "next", "-c", "wiki", "--json", "--model", "gru", "--no-baselines")
    finally:
        shutil.rmtree(own)
    report = json.loads(out)
    assert report["models"] == ["amn", "gru"]
    for table in report["tables"]:
        rows = {row["name"]: row["measures"] for row in table["rows"]}
        for model, twin in (("amn", "copy-last"), ("gru", "context mean")):
            for measure in ("R@1", "R@50", "MRR@50"):
                assert rows[model][measure]["mean"] == pytest.approx(rows[twin][measure]["mean"])
            assert rows[model]["cosine"]["mean"] == pytest.approx(rows[twin]["cosine"]["mean"], abs=1e-4)
    assert len(report["tables"][1]["against"]) == 6
    assert {row["name"] for row in json.loads(one)["tables"][0]["rows"]} == {"gru", "random in article", "oracle"}
    assert one_code == 0


@pytest.fixture
def towered(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home with models of its own: towers and amn, each with a reranker over lists of six, and gru without one."""
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    shutil.copytree(home, tmp_path / "home")
    own = tmp_path / "home" / "collections" / "wiki" / "models"
    write_towers(own / "towers", trained={"valid": {"MRR": 0.4}})
    write_model(own / "amn")
    write_model(own / "gru", SUM)
    write_reranker(own / "rerankers" / "towers", own / "towers", BY_LAST, blend=0.5)
    write_reranker(own / "rerankers" / "amn", own / "amn", BY_LAST)
    return tmp_path / "home"


Told = dict[str, dict[str, dict[str, float]]]  # row → measure → mean, low, high


def rows_in(table: dict[str, list[dict[str, object]]]) -> Told:
    return {row["name"]: row["measures"] for row in table["rows"]}  # type: ignore[misc]


def test_a_model_with_a_reranker_gets_two_rows_in_every_bank(towered: Path, tmp_path: Path) -> None:
    out_folder, every = tmp_path / "out", [part for bank in Bank for part in ("--bank", bank.value)]
    code, out, err = run_cli(
        towered, "next", "-c", "wiki", "--json", "--out", str(out_folder), "--ood", "other", *every
    )
    assert code == 0, err
    report = json.loads(out)
    names = ["towers", "towers + reranker", "amn", "amn + reranker", "gru"]
    assert report["models"] == names
    assert report["asides"] == []
    for table in (*report["tables"], *report["outside"][0]["tables"]):
        rows = rows_in(table)
        assert list(rows)[:5] == names
        assert table["reranked"] == ["towers + reranker", "amn + reranker"]
        assert {one["model"] for one in table["against"]} == set(names)
        assert set(rows["towers"]) - set(rows["towers + reranker"]) == {"cosine"}
        # it scores by the last chunk, which is what amn predicts, so that it leaves amn's order as it is
        for measure in ("R@1", "R@5", "R@50", "Contain@50"):
            assert rows["amn + reranker"][measure] == pytest.approx(rows["amn"][measure], abs=0.02)
        assert rows["towers"]["cosine"]["mean"] < rows["copy-last"]["cosine"]["mean"] + 1e-3
    metrics = json.loads((towered / "collections/wiki/models/towers/metrics.json").read_text(encoding="utf-8"))
    for table in report["tables"]:
        if (table["bank"], table["view"]) == ("heldout", "new"):
            assert metrics["rows"]["towers + reranker"] == rows_in(table)["towers + reranker"]
    card = (towered / "collections/wiki/models/towers/card.md").read_text(encoding="utf-8")
    assert "| towers | " in card
    assert "| towers + reranker | " in card
    assert "- reranked, R@5 against " in card
    assert {"recall.png", "ranks.png", "report.md"} <= {path.name for path in out_folder.iterdir()}
    assert "| amn + reranker | " in (out_folder / "report.md").read_text(encoding="utf-8")


def test_without_rerankers_there_is_one_row_a_model_and_no_card(towered: Path) -> None:
    asked = ("next", "-c", "wiki", "--json", "--model", "towers")
    code, out, err = run_cli(towered, *asked, "--no-rerank")
    assert code == 0, err
    assert json.loads(out)["models"] == ["towers"]
    assert not (towered / "collections/wiki/models/towers/metrics.json").exists()
    code, out, err = run_cli(towered, *asked, "--rerank", "--assist", "4", "--variety", ".5", "--no-baselines")
    assert code == 0, err
    report = json.loads(out)
    rows = ["towers", "towers + reranker", "towers + reranker, assist 4", "towers + reranker, variety 0.5"]
    assert report["models"] == rows
    assert "towers's reranker orders the best 6 by prediction · passage + 0.5 × decayed mean · chunk" in report["notes"]
    assert any(note.startswith("a row with assist knows which article") for note in report["notes"])


def test_an_ablation_is_told_apart_with_the_models_and_the_rule(towered: Path) -> None:
    asked = ("next", "-c", "wiki", "--model", "towers", "--model", "gru", "--model", "amn", "--ablate")
    code, out, err = run_cli(towered, *asked, "--bank", "article", "--bank", "heldout", "--ood", "other", "--json")
    assert code == 0, err
    report = json.loads(out)
    (outside,) = report["outside"]
    for one in outside["tables"]:
        assert set(rows_in(one)) == set(rows_in(report["tables"][0]))
    asides = {(one["title"], one["bank"], one["view"]): one for one in report["asides"]}
    assert len(asides) == len(report["asides"])
    of_towers = asides["ablation of towers + reranker, each other row less that one", "heldout", "new"]
    assert [row["name"] for row in of_towers["rows"]] == [
        "towers + reranker",
        "towers",
        "towers + reranker, blend 0",
        "towers + reranker, assist 45",
        "towers + reranker, variety 0.7",
        "towers, assist 45",
        "towers, variety 0.7",
    ]
    assert {one["baseline"] for one in of_towers["against"]} == {"towers + reranker"}
    assert {one["measure"] for one in of_towers["against"]} == {"R@5", "Contain@50", "MRR@50"}
    of_amn = asides["ablation of amn + reranker, each other row less that one", "heldout", "seen"]
    assert "amn + reranker, blend 0" not in {row["name"] for row in of_amn["rows"]}
    several = asides["models, each other less towers", "article", "new"]
    assert [row["name"] for row in several["rows"]] == ["towers", "gru", "amn"]
    able = asides["models with their rerankers, each other less towers + reranker", "heldout", "new"]
    assert [row["name"] for row in able["rows"]] == ["towers + reranker", "amn + reranker"]
    rule = asides["a rule that sees positions, apart from all that see vectors alone", "heldout", "new"]
    assert rule["rows"][0]["measures"]["R@1"]["mean"] == 1
    assert rule["against"] == []
    for one in report["tables"]:
        assert set(rows_in(one)) & {"towers, assist 45", rule["rows"][0]["name"]} == set()
        full = rows_in(one)["towers + reranker"]
        if one["bank"] == "heldout":
            same = asides["ablation of towers + reranker, each other row less that one", "heldout", one["view"]]
            assert rows_in(same)["towers + reranker"] == full
    code, out, err = run_cli(towered, "next", "-c", "wiki", "--rules", "--no-baselines", "--model", "gru")
    assert code == 0, err
    assert "rule: the chunk after the last one" in out
    assert "ablation" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "gru", "--rerank"), "no reranker over model gru; run: lookahead train reranker --over gru"),
        (("--ablate", "--no-rerank"), "--ablate takes rerankers apart and --no-rerank leaves them out"),
        (("--ablate", "--bank", "full"), "add --bank heldout"),
        (("--model", "gru", "--ablate"), "--ablate needs a model with a reranker, or several models; run: lookahead"),
        (("--assist", "46"), "--assist is at most 45, not 46"),
    ],
)
def test_what_cannot_be_reranked_is_one_line(towered: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run_cli(towered, "next", "-c", "wiki", "--quiet", *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert said in line


def test_reranking_needs_a_model(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    code, out, err = run_cli(home, "next", "-c", "wiki", "--quiet", "--rerank")
    assert (code, out) == (2, "")
    assert "no model is for the encoder of wiki, so there is nothing to rerank" in err


@pytest.mark.parametrize("name", ["ridge", "oracle"])
def test_a_model_called_as_another_row_is_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    write_model(tmp_path / name)
    code, out, err = run_cli(home, "next", "-c", "wiki", "--quiet")
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"error: a model has the name of a baseline: {name}; rename its folder"]


def test_an_article_of_the_same_title_is_not_out_of_domain_whatever_its_page_id(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    text = " ".join(f"Sentence number {i} of this one stands alone." for i in range(24))
    rows = [{"page_id": 900 + page, "title": f"Page {page}", "text": text} for page in (7, 8, 77)]
    file = tmp_path / "renumbered.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    choices = Choices(encoder="hashing", workers=1, quiet=True, words=20)
    ingest(Collection(tmp_path / "home" / "collections" / "again"), [open_source(file, "jsonl")], choices)
    code, out, err = run_cli(tmp_path / "home", "next", "-c", "wiki", "--ood", "again", "--json")
    assert code == 0, err
    (report,) = json.loads(out)["outside"]
    assert report["articles"] == 1
    assert report["notes"] == ["again: 2 articles that wiki has too were left out"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ood", "long"), "wiki and long are chunked differently"),
        (("--ood", "wiki"), "wiki is the collection itself"),
        (("--model", "nope"), 'there is no model "nope"'),
        (("--protocol", "published"), "needs articles of 15 to 60 chunks"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(home: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run_cli(home, "next", "-c", "wiki", "--quiet", *arguments)
    assert (code, out) == (2, "")
    assert said in err.strip().splitlines()[-1]


def test_a_split_without_windows_is_one_line(tmp_path: Path) -> None:
    page = {"page_id": 1, "title": "Bridge", "text": "A bridge carries loads over a river. " * 30}
    (tmp_path / "pages.jsonl").write_text(json.dumps(page) + "\n", encoding="utf-8")
    choices = Choices(encoder="hashing", workers=1, quiet=True)
    ingest(Collection(tmp_path / "collections" / "one"), [open_source(tmp_path / "pages.jsonl", "jsonl")], choices)
    code, out, err = run_cli(tmp_path, "next", "-c", "one", "--quiet", "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert "so there is no window" in err
    assert not (tmp_path / "out").exists()
    code, out, err = run_cli(tmp_path, "data", "-c", "one", "--quiet")
    assert code == 2
    assert "a split is empty" in err
