"""What an evaluation of decoding says: measures with intervals by article, and what every figure is held against.

It does not know how a text was found or scored (`evaluate_decode`), nor does it print: it gives text and JSON.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from index.encoder import Fingerprint
from retrieval.evaluate_decode import (
    AGAINST_OTHER,
    ASKED,
    BEFORE,
    CHANCE,
    COPIED,
    MEAN,
    NEAREST_CHUNK,
    NEAREST_SPAN,
    NEXT,
    ORACLE,
    PREDICTED,
    Outcome,
    Scored,
    decode_row,
)
from retrieval.evaluate_next import drawn
from retrieval.metrics import LEVEL, RESAMPLES, Resampled
from retrieval.next_report import Against
from retrieval.reports import Estimate, Row, number
from retrieval.text_metrics import Counts, bleu, bleu_signature

BLEU = "BLEU"
TEXT = (BLEU, "F1", "ROUGE-L", "exact")
SPAN_MEASURES = (ASKED, *TEXT)
NEXT_MEASURES = (NEXT, ASKED, BEFORE, *TEXT)
MEANS = {
    ASKED: "cosine of the text's own vector to the vector asked for",
    NEXT: "cosine of the text's own vector to the vector of the true next chunk",
    BEFORE: "cosine of the vector asked for, before any word, to the vector of the true next chunk",
    BLEU: "sacrebleu's corpus BLEU divided by 100",
    "F1": "token F1: the words that text and true span share, whatever their order",
    "ROUGE-L": "the longest sequence of words in both, gaps allowed, as an F1",
    "exact": "the share of texts that are the true span",
}
SPAN_DECODE = "decode of the true span"  # an example's first text
FEW = 20  # articles, below which a bootstrap interval by article is too narrow
_WIDTH = 100
_CELL = 9


@dataclass(frozen=True, slots=True)
class Told:
    """A text of an example: its cosine to the vector asked for and to that of the true next chunk, and its F1."""

    row: str
    text: str
    asked: float
    next: float
    f1: float


@dataclass(frozen=True, slots=True)
class Example:
    """A window in full: the chunk before, the true next one and its leading span, and what was made of the vectors,
    those of the true span first. `nearest_title` is whose chunk the nearest one is."""

    title: str
    place: int
    chunks: int
    before: str
    chunk: str
    span: str
    told: tuple[Told, ...]
    nearest_title: str
    nearest_is_true: bool


@dataclass(frozen=True, slots=True)
class DecodeTable:
    """Rows, and how much higher one scores than another on the same windows."""

    rows: tuple[Row, ...]
    against: tuple[Against, ...]


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """An evaluation with all that is needed to repeat it. `bank` of the `among` leading spans of the train split were
    looked through for the nearest; `found` of the windows have the true next chunk for their nearest real chunk."""

    collection: str
    split: str
    encoder: Fingerprint
    inverter: str
    longest: int
    steps: int
    beam: int
    model: str
    windows: int
    articles: int
    bank: int
    among: int
    found: int
    bleu: str
    notes: tuple[str, ...]
    command: str
    seed: int
    resamples: int
    level: float
    spans: DecodeTable
    predictions: DecodeTable
    examples: tuple[Example, ...]
    every: tuple[Example, ...]  # window

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        titles: Sequence[str],
        *,
        collection: str,
        split: str,
        encoder: Fingerprint,
        inverter: str,
        longest: int,
        steps: int,
        beam: int,
        model: str,
        examples: int,
        notes: Sequence[str],
        command: str,
        seed: int,
        resamples: int = RESAMPLES,
    ) -> DecodeReport:
        """A report of what was judged, with up to `examples` windows in full, drawn with the seed. `titles` are those
        of the articles that the nearest real chunks are in."""
        asked = outcome.asked
        resampled = Resampled.of(asked.windows.article, seed=seed, resamples=resamples)
        row, spans, told = outcome.decoded, outcome.spans, outcome.predictions
        firsts = dict.fromkeys(one for one in (row, decode_row(0)) if one in spans)
        few = len(resampled.sizes)
        said = [f"{few} articles are few: below {FEW} the intervals are too narrow"] if few < FEW else []
        return cls(
            collection,
            split,
            encoder,
            inverter,
            longest,
            steps,
            beam,
            model,
            len(asked),
            few,
            outcome.bank,
            outcome.among,
            int((outcome.nearest == asked.windows.target).sum()),
            bleu_signature(),
            (*said, *notes),
            command,
            seed,
            resamples,
            LEVEL,
            DecodeTable(
                tuple(_row(name, scored, resampled) for name, scored in spans.items()),
                (
                    *(
                        _against(spans, one, NEAREST_SPAN, measure, resampled)
                        for one in firsts
                        for measure in (ASKED, "F1")
                    ),
                    *(_against(spans, row, AGAINST_OTHER, measure, resampled) for measure in (ASKED, "F1")),
                    *(_against(spans, AGAINST_OTHER, CHANCE, measure, resampled) for measure in (ASKED, "F1")),
                ),
            ),
            DecodeTable(
                tuple(_row(name, scored, resampled) for name, scored in told.items()),
                tuple(
                    _against(told, PREDICTED, other, measure, resampled)
                    for other in (COPIED, MEAN, NEAREST_CHUNK)
                    for measure in (NEXT, "F1")
                ),
            ),
            tuple(_example(outcome, titles, place) for place in drawn(len(asked), examples, seed).tolist()),
            tuple(_example(outcome, titles, place) for place in range(len(asked))),
        )

    def as_json(self, *, every: bool = False) -> dict[str, Any]:
        """Everything, in types that JSON has; each comparison with its verdict. The texts of `every` window only where
        they are asked for."""
        raw = asdict(self)
        if not every:
            del raw["every"]
        for name, table in (("spans", self.spans), ("predictions", self.predictions)):
            raw[name]["against"] = [{**asdict(one), "verdict": one.verdict} for one in table.against]
        return {**raw, "caveats": list(self.caveats()), "measures": dict(MEANS), "end_to_end": self.end_to_end()}

    def caveats(self) -> tuple[str, ...]:
        """What nobody should read these texts without."""
        return (
            f"texts are spans of at most {self.longest} tokens and chunks are longer: the decode of a chunk's vector "
            "is a gist of its beginning at best",
            "a text can be fluent and wrong: what it says is not evidence of what comes next",
        )

    def measure(self, table: DecodeTable, row: str, name: str) -> Estimate:
        return next(one for one in table.rows if one.name == row).measures[name]

    def end_to_end(self) -> str:
        """The check that earlier work printed: how near the prediction is, and how near to it its decode."""
        before = self.measure(self.predictions, PREDICTED, BEFORE)
        asked = self.measure(self.predictions, PREDICTED, ASKED)
        return f"end to end: prediction cosine {ends(before)}, decode cosine {ends(asked)}"

    def head(self) -> str:
        return (
            f"decode, {self.collection}, {self.split} split: {self.windows:,} windows of {self.articles:,} articles; "
            f"inverter {self.inverter}, {_steps(self.steps)}, beam {self.beam}; predictions of model {self.model}"
        )

    def span_title(self) -> str:
        return "spans: the beginning of the true next chunk, embedded on its own and decoded"

    def next_title(self) -> str:
        return "predictions: vectors of whole chunks decoded, against the true next chunk"

    def table(self) -> str:
        """Aligned text for a terminal of 100 columns: each mean with half its interval below."""
        lines = _wrapped([self.head(), *self.caveats()])
        for title, measures, table in (
            (self.span_title(), SPAN_MEASURES, self.spans),
            (self.next_title(), NEXT_MEASURES, self.predictions),
        ):
            lines += ["", title, _line("", measures)]
            for row in table.rows:
                cells = [row.measures[name] for name in measures]
                lines.append(_line(shown(row), [number(cell.mean) for cell in cells]))
                if not row.check:
                    lines.append(_line("", [f"±{number((cell.high - cell.low) / 2)}" for cell in cells]))
            lines += _wrapped([verdict(one) for one in table.against])
        return "\n".join([*lines, "", *_wrapped([self.end_to_end(), *self.foot()]), f"command: {self.command}"])

    def markdown(self) -> list[str]:
        """Both tables with their comparisons, for a card or a README."""
        lines = [f"{self.head()} (95 % intervals, bootstrap by article; seed {self.seed})."]
        for title, measures, table in (
            (self.span_title(), SPAN_MEASURES, self.spans),
            (self.next_title(), (NEXT, ASKED, "F1"), self.predictions),
        ):
            lines += ["", f"| {title} | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
            for row in table.rows:
                cells = [
                    number(row.measures[name].mean) if row.check else ends(row.measures[name]) for name in measures
                ]
                lines.append(f"| {shown(row)} | " + " | ".join(cells) + " |")
            lines += ["", *(f"- {verdict(one)}" for one in table.against)]
        return [
            *lines,
            "",
            f"{self.end_to_end()}. " + ". ".join(one[0].upper() + one[1:] for one in self.caveats()) + ".",
        ]

    def foot(self) -> tuple[str, ...]:
        """What the rows and columns are, and how the figures were made."""
        looked = f"all {self.bank:,}" if self.bank == self.among else f"{self.bank:,} drawn of the {self.among:,}"
        return (
            f"±: half the {100 * self.level:.0f} % interval; {self.resamples:,} bootstrap resamples of whole articles, "
            f"seed {self.seed}",
            *(f"{name}: {words}" for name, words in MEANS.items()),
            "texts are compared in lower case and without accents; BLEU, F1, ROUGE-L and exact are against the true "
            f"next chunk's leading span; sacrebleu {self.bleu}",
            f"{NEAREST_SPAN}: of {looked} leading spans of the train split the one nearest to the vector, an answer "
            "that needs no inverter",
            f"{AGAINST_OTHER}: the same decodes against the true span of another article; {CHANCE}: that span against "
            "this one. Both are what chance gives; a decode that is no better says nothing of its vector",
            f"{ORACLE} (check) tests the test: it was told the answers",
            f"{NEAREST_CHUNK}: the leading span of the chunk nearest to the prediction, the context left out; in "
            f"{self.found:,} of {self.windows:,} windows it is the true next chunk itself",
            *self.notes,
        )


def verdict(one: Against) -> str:
    """A comparison in a line."""
    cell = one.estimate
    return f"{one.model} − {one.baseline}: {one.measure} {ends(cell, signed=True)} {one.verdict}"


def ends(cell: Estimate, *, signed: bool = False) -> str:
    """A mean with both ends of its interval."""
    low, high = (number(end, signed=signed) for end in (cell.low, cell.high))
    return f"{number(cell.mean, signed=signed)} ({low} to {high})"


def shown(row: Row) -> str:
    return row.name + (" (check)" if row.check else "")


def bleu_estimate(counts: Counts, resampled: Resampled) -> Estimate:
    """Corpus BLEU and its interval: articles are drawn with all their counts, and BLEU is computed of each draw."""
    sums = np.zeros((len(resampled.sizes), counts.shape[1]), dtype=np.int64)
    np.add.at(sums, resampled.number, counts)
    found = [bleu(one) for one in np.rint(resampled.drawn @ sums).astype(np.int64)]
    low, high = np.quantile(found, [(1 - resampled.level) / 2, (1 + resampled.level) / 2])
    return Estimate(bleu(counts.sum(axis=0)), float(low), float(high))


def _row(name: str, scored: Scored, resampled: Resampled) -> Row:
    measures = {measure: Estimate(*resampled.mean(values)) for measure, values in scored.measures().items()}
    return Row(name, name == ORACLE, {**measures, BLEU: bleu_estimate(scored.counts, resampled)})


def _against(rows: Mapping[str, Scored], name: str, other: str, measure: str, resampled: Resampled) -> Against:
    higher = rows[name].measures()[measure] - rows[other].measures()[measure]
    return Against(name, measure, other, Estimate(*resampled.mean(higher)))


def _example(outcome: Outcome, titles: Sequence[str], place: int) -> Example:
    asked, span = outcome.asked, outcome.spans[outcome.decoded]
    told = [
        Told(
            SPAN_DECODE,
            span.texts[place],
            float(span.cosines[ASKED][place]),
            float(outcome.span_next[place]),
            float(span.f1[place]),
        )
    ]
    told += [
        Told(
            name,
            scored.texts[place],
            float(scored.cosines[ASKED][place]),
            float(scored.cosines[NEXT][place]),
            float(scored.f1[place]),
        )
        for name, scored in outcome.predictions.items()
    ]
    return Example(
        asked.titles[place],
        int(asked.places[place]),
        int(asked.counts[place]),
        asked.before[place],
        asked.chunk[place],
        asked.span[place],
        tuple(told),
        titles[place],
        bool(outcome.nearest[place] == asked.windows.target[place]),
    )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]


def _line(name: str, cells: Sequence[str]) -> str:
    return (name.ljust(_WIDTH - len(NEXT_MEASURES) * _CELL) + "".join(cell.rjust(_CELL) for cell in cells)).rstrip()
