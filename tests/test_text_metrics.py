"""Measures of texts: by hand, by their bounds, and against the packages that have them too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from retrieval.text_metrics import bleu, bleu_counts, bleu_signature, exact_match, folded, rouge_l, token_f1, words

TEXTS = st.lists(st.sampled_from(["the", "a", "Bridge", "river", "1861", ",", "of", "é"]), max_size=12).map(" ".join)


def one(text: str, truth: str) -> float:
    return bleu(bleu_counts([text], [truth]).sum(axis=0))


def test_words_are_runs_of_letters_and_digits_without_case_and_accents() -> None:
    assert words("The Café's 2nd_toll: 3.5 £ — naïve") == ["the", "cafe", "s", "2nd", "toll", "3", "5", "naive"]
    assert words("Москва́ 北京, …") == ["москва", "北京"]
    assert folded("İstanbul ÉCOLE") == "istanbul ecole"


def test_token_f1_is_that_of_two_bags_of_words() -> None:
    assert token_f1("the cat sat", "The cat, sat down.") == pytest.approx(2 * 3 / (3 + 4))
    assert token_f1("sat cat the", "the cat sat") == 1.0
    assert token_f1("the the the", "the cat") == pytest.approx(2 * 1 / (3 + 2))  # once there, once counted
    assert token_f1("dog", "cat") == 0.0


def test_rouge_l_minds_the_order_and_allows_gaps() -> None:
    assert rouge_l("d c b a", "a b c d") == pytest.approx(1 / 4)
    assert rouge_l("a x c y e", "a b c d e") == pytest.approx(3 / 5)
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(3 / 4)  # the paper's example
    assert rouge_l("a b", "a b c d") == pytest.approx(2 * 2 / 6)


def test_an_empty_text_is_right_only_where_the_truth_is_empty() -> None:
    assert (token_f1("", ""), rouge_l("", "…"), exact_match(" ", "")) == (1, 1, 1)
    assert (token_f1("", "cat"), rouge_l("", "cat"), exact_match("", "cat"), one("", "cat")) == (0, 0, 0, 0)
    assert (token_f1("cat", ""), rouge_l("cat", "")) == (0, 0)


@pytest.mark.parametrize(
    ("text", "truth", "same"),
    [
        ("the   café", "The cafe", 1),
        ("u. s. navy ( 1861 )", "U.S. Navy (1861)", 1),
        ("3 . 5 m", "3.5 m", 1),
        ("35 m", "3.5 m", 0),
        ("the cafe.", "the cafe", 0),
        ("thecafe", "the cafe", 0),
        ("cafe the", "the cafe", 0),
    ],
)
def test_a_match_is_exact_but_for_what_an_uncased_encoder_cannot_see(text: str, truth: str, same: int) -> None:
    assert exact_match(text, truth) == exact_match(truth, text) == same


def test_bleu_is_the_geometric_mean_of_four_precisions() -> None:
    found = bleu_counts(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert found.tolist() == [[6, 6, 5, 3, 2, 1, 6, 5, 4, 3]]
    assert bleu(found[0]) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


def test_bleu_punishes_a_text_that_is_too_short_and_not_one_in_capitals() -> None:
    assert one("one two three four", "One Two Three Four five six seven eight") == pytest.approx(math.exp(1 - 8 / 4))
    assert one("UN ÉTÉ À LA MER", "un ete a la mer") == pytest.approx(1.0)
    assert one("un ete a la mer", "UN ÉTÉ À LA MER") == pytest.approx(1.0)


def test_bleu_of_texts_that_have_no_four_words_is_told_by_those_they_have() -> None:
    assert one("Paris", "paris") == pytest.approx(1.0)
    assert one("Paris", "london") == 0.0


def test_bleu_of_a_corpus_is_sacrebleus_and_not_a_mean_of_sentences() -> None:
    rng = np.random.default_rng(0)
    vocabulary = ["The", "old", "bridge", "over", "the", "river", "was", "opened", "in", "1861", ",", "and", "."]
    truths = [" ".join(rng.choice(vocabulary, 14)) for _ in range(40)]
    texts = [" ".join([*truth.split()[: rng.integers(15)], *rng.choice(vocabulary, 2)]) for truth in truths]
    counts = bleu_counts(texts, truths)
    theirs = BLEU(lowercase=True).corpus_score(texts, [truths]).score / 100
    assert bleu(counts.sum(axis=0)) == pytest.approx(theirs, abs=1e-12)
    assert abs(np.mean([bleu(row) for row in counts]) - theirs) > 0.01
    some = [3, 3, 17]  # a resample is a corpus too
    again = BLEU(lowercase=True).corpus_score([texts[i] for i in some], [[truths[i] for i in some]]).score / 100
    assert bleu(counts[some].sum(axis=0)) == pytest.approx(again, abs=1e-12)


def test_the_signature_says_how_sacrebleu_was_asked() -> None:
    assert "case:lc" in bleu_signature()
    assert "tok:13a" in bleu_signature()


@given(TEXTS, TEXTS)
def test_measures_are_between_0_and_1_and_the_truth_itself_is_perfect(text: str, truth: str) -> None:
    for measure in (token_f1, rouge_l, exact_match, one):
        assert 0 <= measure(text, truth) <= 1 + 1e-9
    assert token_f1(text, text) == rouge_l(text, text) == exact_match(text, text) == 1
    assert token_f1(text, truth) == token_f1(truth, text)
    assert rouge_l(text, truth) == pytest.approx(rouge_l(truth, text))
    assert rouge_l(text, truth) <= token_f1(text, truth) + 1e-9  # a common sequence is a common bag
    assert exact_match(text, truth) <= token_f1(text, truth)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rouge_l_is_that_of_the_package_on_ascii_texts() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs, rng = RougeScorer(["rougeL"]), np.random.default_rng(1)
    vocabulary = ["The", "U.S.", "well-known", "bridge", "over", "the", "3.5", "(1861)", "and", "it's"]
    for _ in range(300):
        text, truth = (" ".join(rng.choice(vocabulary, rng.integers(1, 15))) for _ in range(2))
        assert rouge_l(text, truth) == pytest.approx(theirs.score(truth, text)["rougeL"].fmeasure)
