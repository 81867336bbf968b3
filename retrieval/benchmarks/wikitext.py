"""How near our text of a dump comes to WikiExtractor's text of the same pages: word-level F1 by page id.

It does not know which of the two is right where they differ, nor that lists are left out by WikiExtractor and kept
by us: precision shows that, recall shows what we lose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from store.cleaning import articles
from store.records import LookaheadError
from store.sources import Page, Skipped, open_source, read_pages

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class PageScore:
    """One page's agreement, over bags of lower-cased words: the share of ours in the reference, and the reverse."""

    page_id: int
    title: str
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class WikitextReport:
    """The comparison of a dump with a reference. `read` counts the articles of the dump, `failed` its lost pages.

    `scores` holds the pages that are in both, the worst first; `skipped` counts redirects and the like by reason.
    """

    read: int
    failed: int
    skipped: dict[str, int]
    scores: tuple[PageScore, ...]

    @property
    def compared(self) -> int:
        return len(self.scores)

    @property
    def median_f1(self) -> float:
        return median(score.f1 for score in self.scores)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median and third quartile of the F1 over pages."""
        return _quartiles([score.f1 for score in self.scores])


def compare_with_extractor(dump: Path, reference: Path, *, workers: int = 2) -> WikitextReport:
    """Compares our text of a MediaWiki dump with the WikiExtractor output of the same page ids."""
    ours: dict[int, tuple[str, Counter[str]]] = {}
    skipped: Counter[str] = Counter()
    failed = 0
    for item in articles(read_pages(open_source(dump, "mediawiki")), workers=workers):
        if isinstance(item, Skipped):
            skipped[item.reason] += 1
            failed += item.failed
            continue
        article = item[1]
        # Headings are words of the page on both sides: WikiExtractor's stand among its lines.
        parts = [article.title, *(f"{section.heading}\n{section.text}" for section in article.sections)]
        ours[article.page_id] = (article.title, _bag("\n".join(parts)))
    scores = []
    for page in read_pages(open_source(reference, "wikiextractor")):
        if isinstance(page, Page) and page.page_id in ours:
            title, bag = ours[page.page_id]
            scores.append(_score(page.page_id, title, bag, _bag(page.body)))
    if not scores:
        raise LookaheadError(f"{dump} and {reference} have no page id in common: nothing to compare")
    return WikitextReport(len(ours), failed, dict(skipped), tuple(sorted(scores, key=lambda score: score.f1)))


def as_text(report: WikitextReport, worst: int = 10) -> str:
    """The report as a table for a terminal, ending with the pages that agree least."""
    measures = {
        "F1": [score.f1 for score in report.scores],
        "precision": [score.precision for score in report.scores],
        "recall": [score.recall for score in report.scores],
    }
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(report.skipped.items())) or "none"
    rows = [
        f"{report.read} articles read, {report.failed} failed; left out: {left_out}",
        f"{report.compared} compared with WikiExtractor's text of the same page id, bags of lower-cased words",
        "",
        f"{'':<10} {'quartile':>8} {'median':>8} {'quartile':>8}",
    ]
    for name, values in measures.items():
        rows.append(f"{name:<10} " + " ".join(f"{value:8.3f}" for value in _quartiles(values)))
    rows += ["", f"{'F1':>6} {'prec.':>6} {'recall':>6}  the pages that agree least"]
    for score in report.scores[:worst]:
        rows.append(f"{score.f1:6.3f} {score.precision:6.3f} {score.recall:6.3f}  {score.title} ({score.page_id})")
    return "\n".join(rows)


def _bag(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _score(page_id: int, title: str, ours: Counter[str], theirs: Counter[str]) -> PageScore:
    shared = (ours & theirs).total()
    precision = shared / ours.total() if ours else 0.0
    recall = shared / theirs.total() if theirs else 0.0
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return PageScore(page_id, title, f1, precision, recall)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return (values[0], values[0], values[0])
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return (first, middle, third)
