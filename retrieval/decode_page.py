"""A report of decoding as one page that opens anywhere: no script, nothing fetched, light or dark as the reader has it.

It does not know how anything was measured; it puts a `DecodeReport` in words and tables. All texts are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from retrieval.decode_report import (
    BLEU,
    MEANS,
    NEXT_MEASURES,
    SPAN_DECODE,
    SPAN_MEASURES,
    DecodeReport,
    DecodeTable,
    Example,
    Told,
    ends,
    shown,
)
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
    PREDICTED,
    TRUE,
)
from retrieval.next_report import Against
from retrieval.reports import number

_HEADS = {
    ASKED: "cosine to the vector asked for",
    NEXT: "cosine to the true next chunk",
    BEFORE: "cosine to the true next chunk, before decoding",
    BLEU: "BLEU",
    "F1": "words shared (F1)",
    "ROUGE-L": "ROUGE-L",
    "exact": "exact",
}
_ROWS = {
    SPAN_DECODE: "what the inverter makes of the vector of the marked words alone",
    TRUE: "what it makes of the vector of the whole true chunk",
    PREDICTED: "what it makes of the predicted vector",
    COPIED: "what it makes of the vector of the chunk before: no prediction at all",
    MEAN: "what it makes of the average of all training chunks: always the same words",
    NEAREST_CHUNK: "no decode: the beginning of a real chunk, the one nearest to the prediction",
}
_BEFORE = 60  # words shown of the chunk before

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d1f23; --soft: #5d626b; --line: #dcdcd6;
  --panel: #f3f3ee; --mark: #fbe9a9; --accent: #1f5f8b; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e6e2; --soft: #a2a7af; --line: #363a40;
  --panel: #1f2226; --mark: #5b4a12; --accent: #8cc2e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0; }
p, li { max-width: 46rem; }
.soft, small, figcaption { color: var(--soft); }
.warn { border-left: 4px solid var(--accent); background: var(--panel); padding: .7rem 1rem; margin: 1.2rem 0;
  max-width: 46rem; }
.warn p { margin: .2rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { font-size: .82rem; font-weight: 600; color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; }
thead th.n { white-space: normal; min-width: 6.2rem; }
td.n small { display: block; }
tr.mine { background: var(--panel); }
article { border: 1px solid var(--line); border-radius: 8px; padding: 1.1rem 1.2rem; margin: 1.4rem 0; }
article > p { max-width: none; overflow-wrap: anywhere; }
article table td, article table th { overflow-wrap: anywhere; }
article th small { display: block; font-weight: 400; }
article tbody th { width: 15rem; }
mark { background: var(--mark); color: inherit; padding: 0 .1em; }
.label { display: block; font-size: .82rem; font-weight: 600; color: var(--soft); }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0 0 0 1.2rem; max-width: 46rem; }
code { overflow-wrap: anywhere; }
@media (max-width: 40rem) { article tr { display: grid; grid-template-columns: 1fr 1fr 1fr; }
  article thead { display: none; } article tbody th, article td.t { grid-column: 1 / -1; width: auto; border: 0;
  padding-bottom: 0; } article td.n { text-align: left; } article td.n::before { content: attr(data-label) " ";
  display: block; font-size: .75rem; color: var(--soft); } }
"""


def page(report: DecodeReport) -> str:
    """The whole document."""
    title = f"Decoding vectors of {report.collection}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(report.head())}</p>',
        '<div class="warn">',
        *(f"<p>{escape(_sentence(one))}</p>" for one in report.caveats()),
        "</div>",
        *_introduction(report),
        "<h2>In short</h2><ul>",
        *(f"<li>{one}</li>" for one in _short(report)),
        "</ul>",
        *_tables(report),
        *_legend(report),
        *_examples(report),
        "<h2>How these figures were made</h2><ul>",
        *(f"<li>{escape(_sentence(one))}</li>" for one in report.foot()),
        "</ul>",
        f"<p>Vectors are from {escape(str(report.encoder))}.</p>",
        f"<p>Made by <code>{escape(report.command)}</code></p>",
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _introduction(report: DecodeReport) -> list[str]:
    return [
        "<p>Articles are cut into chunks, and each chunk is stored as a vector: a list of numbers that says what it is "
        "about. An <em>inverter</em> goes the other way: given a vector it writes words whose own vector is near it. A "
        "<em>predictor</em> guesses, from up to five chunks, the vector of the chunk that follows.</p>",
        "<p>Two questions are asked here. How well does the inverter give back words when the vector is exactly right? "
        "And what do its words say when the vector is a guess? All articles here are of the "
        f"{escape(report.split)} split, which nothing that this program trains is shown; the notes at the end say what "
        "was trained elsewhere.</p>",
    ]


def _short(report: DecodeReport) -> list[str]:
    """What was found, in sentences."""
    best = report.spans.against[0].model
    measured = {
        row: tuple(_mean(report, report.spans, row, name) for name in (ASKED, "F1"))
        for row in (best, NEAREST_SPAN, AGAINST_OTHER, CHANCE)
    }
    before, asked = (_mean(report, report.predictions, PREDICTED, name) for name in (BEFORE, ASKED))
    figure, beside = (
        next(one for one in report.predictions.against if (one.baseline, one.measure) == (other, NEXT))
        for other in (COPIED, NEAREST_CHUNK)
    )
    told = [
        f"Given the exact vector of a span, the inverter's words have a vector with cosine {measured[best][0]} to it "
        f"and share {measured[best][1]} of their words with it (1 is all). Without any inverter, the nearest of "
        f"{report.bank:,} training spans reaches {measured[NEAREST_SPAN][0]} and {measured[NEAREST_SPAN][1]}: "
        f"the decode is {_judged(report.spans, best, NEAREST_SPAN, ASKED)} in cosine and "
        f"{_judged(report.spans, best, NEAREST_SPAN, 'F1')} in words.",
        f"Held against a random other text, the same decodes reach {measured[AGAINST_OTHER][0]} and "
        f"{measured[AGAINST_OTHER][1]}; two unrelated texts reach {measured[CHANCE][0]} and {measured[CHANCE][1]}.",
        f"A prediction has cosine {before} to the true next chunk, and its decode cosine {asked} to the prediction.",
        "Is the decode of a prediction nearer to the true next chunk than the decode of simply copying the last chunk? "
        f"{_answer(figure)}: the difference in cosine is {ends(figure.estimate, signed=True)}, where an interval that "
        "holds 0 would mean that it cannot be told.",
        "And nearer than the beginning of the real chunk that lies nearest to the prediction, which needs no inverter? "
        f"{_answer(beside)}: {ends(beside.estimate, signed=True)}. In {report.found:,} of {report.windows:,} windows "
        "that chunk is the true next one itself.",
    ]
    return [escape(one) for one in told]


def _answer(one: Against) -> str:
    return {"above": "Yes", "below": "No, it is farther from it"}.get(one.verdict, "It cannot be told")


def _judged(table: DecodeTable, row: str, other: str, measure: str) -> str:
    found = next(one for one in table.against if (one.model, one.baseline, one.measure) == (row, other, measure))
    return {"above": "clearly above it", "below": "clearly below it"}.get(found.verdict, "not clearly different")


def _mean(report: DecodeReport, table: DecodeTable, row: str, measure: str) -> str:
    return number(report.measure(table, row, measure).mean)


def _tables(report: DecodeReport) -> list[str]:
    return [
        "<h2>What the inverter is worth: exact vectors</h2>",
        f"<p>The true next chunk's first words (at most {report.longest} tokens) are embedded on their own, and that "
        "vector is decoded. Every figure is a mean over all windows, with its "
        f"{100 * report.level:.0f} % interval below it.</p>",
        *_table(report.spans, SPAN_MEASURES, report.spans.against[0].model),
        "<h2>What a gist of a prediction is worth</h2>",
        "<p>Here whole vectors are decoded: the true next chunk's, the predicted one, the last chunk's (copy-last), "
        "the average of all. Words are compared with the true next chunk's first words.</p>",
        *_table(report.predictions, NEXT_MEASURES, PREDICTED),
    ]


def _table(table: DecodeTable, measures: Sequence[str], mine: str) -> list[str]:
    heads = "".join(f'<th class="n" scope="col">{escape(_HEADS[name])}</th>' for name in measures)
    lines = [f'<div class="wide"><table><thead><tr><th scope="col"></th>{heads}</tr></thead><tbody>']
    for row in table.rows:
        cells = []
        for name in measures:
            cell = row.measures[name]
            interval = "" if row.check else f"<small>{number(cell.low)} to {number(cell.high)}</small>"
            cells.append(f'<td class="n">{number(cell.mean)}{interval}</td>')
        kind = ' class="mine"' if row.name == mine else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(shown(row))}</th>{"".join(cells)}</tr>')
    lines += ["</tbody></table></div>", "<p>Differences on the same windows, with their intervals:</p><ul>"]
    for one in table.against:
        said = f"{one.model} − {one.baseline}, {_HEADS[one.measure]}: {ends(one.estimate, signed=True)}, {one.verdict}"
        lines.append(f"<li>{escape(said)}</li>")
    return [*lines, "</ul>"]


def _legend(report: DecodeReport) -> list[str]:
    lines = ["<h2>What the columns mean</h2><dl>"]
    lines += [f"<dt>{escape(_HEADS[name])}</dt><dd>{escape(_sentence(words))}</dd>" for name, words in MEANS.items()]
    return [
        *lines,
        "</dl>",
        "<p>A cosine of 1 is the same direction, and 0 has nothing in common; two unrelated texts are in the row "
        f"“{CHANCE}”. An <em>interval</em> is where the mean would probably lie with other articles; “above” and "
        "“below” are said only where the interval of a difference is clear of 0. A row marked (check) was told the "
        "answer, and tests the test.</p>",
    ]


def _examples(report: DecodeReport) -> list[str]:
    many = len(report.examples)
    return [
        f"<h2>{many} example{'' if many == 1 else 's'}</h2>",
        f"<p>Drawn at random with seed {report.seed} from the {report.windows:,} windows, not chosen. Of the true next "
        "chunk the marked words are its leading span, which all texts are compared with. Read the two cosines before "
        "the words: a text with a low one is wrong, however well it reads.</p>",
        *(_example(place, one) for place, one in enumerate(report.examples, 1)),
    ]


def _example(place: int, one: Example) -> str:
    nearest = "the true next chunk itself" if one.nearest_is_true else f"from “{one.nearest_title}”"
    rows = "\n".join(_told(told, nearest if told.row == NEAREST_CHUNK else "") for told in one.told)
    heads = "".join(
        f'<th class="n" scope="col">{escape(name)}</th>' for name in (_HEADS[ASKED], _HEADS[NEXT], _HEADS["F1"])
    )
    return (
        f"<article><h3>{place}. {escape(one.title)}, chunk {one.place} of {one.chunks}</h3>\n"
        f'<p class="soft" dir="auto"><span class="label">the chunk before</span>{escape(shortened(one.before))}</p>\n'
        f'<p dir="auto"><span class="label">the true next chunk</span>{_marked(one.chunk, one.span)}</p>\n'
        f'<div class="wide"><table><thead><tr><th scope="col"></th><th scope="col">text</th>{heads}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div></article>"
    )


def _told(told: Told, said: str) -> str:
    about = f"{_ROWS[told.row]}; {said}" if said else _ROWS[told.row]
    cells = "".join(
        f'<td class="n" data-label="{escape(_HEADS[name])}">{number(value)}</td>'
        for name, value in ((ASKED, told.asked), (NEXT, told.next), ("F1", told.f1))
    )
    kind = ' class="mine"' if told.row == PREDICTED else ""
    return (
        f'<tr{kind}><th scope="row">{escape(told.row)}<small>{escape(about)}</small></th>'
        f'<td class="t" dir="auto">{escape(told.text) or "<em>nothing</em>"}</td>{cells}</tr>'
    )


def _marked(chunk: str, span: str) -> str:
    """The chunk with its beginning marked, or the span before it where it is none."""
    if span and chunk.startswith(span):
        return f"<mark>{escape(span)}</mark>{escape(chunk[len(span) :])}"
    return f"<mark>{escape(span)}</mark> {escape(chunk)}"


def shortened(text: str, most: int = _BEFORE) -> str:
    """The first two thirds and the last third of so many words, with … for what is left out between."""
    words = text.split()
    if len(words) <= most:
        return text
    last = most // 3
    return " ".join([*words[: most - last], "…", *words[len(words) - last :]])


def _sentence(said: str) -> str:
    """With a capital letter and a full stop."""
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "?", ":")) else ".")
