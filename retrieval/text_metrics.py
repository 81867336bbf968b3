"""How much of one text is in another: BLEU, token F1, ROUGE-L, exact match. Everything is between 0 and 1.

It does not know where a text comes from, nor whether it is any good: a fluent text about something else scores low, and
one in the right words in the wrong order scores high by token F1.

All four compare texts in lower case and without accents, as an uncased encoder reads them. Only what stands in both is
counted: no synonyms, no stems.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

Counts = NDArray[np.int64]

_ORDERS = 4
_WORD = re.compile(r"[^\W_]+")
_BESIDE_PUNCTUATION = re.compile(r"\s*([^\w\s])\s*")


def folded(text: str) -> str:
    """In lower case and without accents."""
    apart = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in apart if unicodedata.category(letter) != "Mn")


def words(text: str) -> list[str]:
    """Runs of letters and digits of the folded text, in order; punctuation is none."""
    return _WORD.findall(folded(text))


def token_f1(text: str, truth: str) -> float:
    """The F1 of two bags of `words`: the harmonic mean of the share of the text's words that are in the truth and the
    share of the truth's that are in the text, a word counting as often as it stands in both; 1 where neither has any.

    SQuAD's measure of that name leaves out articles (a, an, the) as well; here they count.
    """
    mine, theirs = words(text), words(truth)
    if not mine and not theirs:
        return 1.0
    return 2 * (Counter(mine) & Counter(theirs)).total() / (len(mine) + len(theirs))


def rouge_l(text: str, truth: str) -> float:
    """ROUGE-L (Lin, 2004): the F1 of the longest common subsequence of the two lists of `words`, 1 where both are
    empty.

    On ASCII texts it is what the package rouge_score gives without its stemmer; that one drops all other letters, and
    takes two seconds to import.
    """
    mine, theirs = words(text), words(truth)
    if not mine and not theirs:
        return 1.0
    return 2 * _longest_common(mine, theirs) / (len(mine) + len(theirs))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest list of words that is in both in that order, gaps allowed."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, theirs in enumerate(other):
            row.append(before[place] + 1 if word == theirs else max(before[place + 1], row[place]))
    return row[-1]


def exact_match(text: str, truth: str) -> float:
    """1 where the folded texts are the same but for white space, of which one blank is as good as many and none beside
    punctuation as good as any; else 0."""
    return float(_squeezed(text) == _squeezed(truth))


def _squeezed(text: str) -> str:
    return _BESIDE_PUNCTUATION.sub(r"\1", " ".join(folded(text).split()))


def bleu_counts(texts: Sequence[str], truths: Sequence[str]) -> Counts:
    """What BLEU needs to know of each text, (n, 10): its length, the truth's, how many of its 1- to 4-grams are in the
    truth, how many it has. The rows of any texts summed are those texts' together."""
    told = np.zeros((len(texts), 2 + 2 * _ORDERS), dtype=np.int64)
    for row, text, truth in zip(told, texts, truths, strict=True):
        found = _scorer().sentence_score(folded(text), [folded(truth)])
        row[:] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    return told


def bleu(counts: Counts) -> float:
    """Corpus BLEU from summed `bleu_counts` (10,): a hundredth of what sacrebleu prints, and not a mean of sentences'
    BLEU, which is another figure. Where no text has four words the longest n-grams that there are have the say."""
    numbers = [int(one) for one in counts]
    found = _scorer().compute_bleu(
        correct=numbers[2 : 2 + _ORDERS],
        total=numbers[2 + _ORDERS :],
        sys_len=numbers[0],
        ref_len=numbers[1],
        smooth_method="exp",
        effective_order=True,
    )
    return min(1.0, float(found.score) / 100)  # of perfect texts it is 100 and a little


def bleu_signature() -> str:
    """How sacrebleu was asked, in its own words, so that the figure can be made elsewhere."""
    scorer = _scorer()
    scorer.sentence_score("a", ["a"])  # without which it does not know how many references there are
    return str(scorer.get_signature())


@cache
def _scorer() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=True, effective_order=True)
