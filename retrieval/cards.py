"""A model's card: what it is, what it was trained on and how, what it scores, and what it may be used for.

It writes down what it is told and measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.evaluate_next import ORACLE, Bank, View
from retrieval.models import CARD, METRICS, ModelConfig
from retrieval.next_report import MRR, RERANKED_MEASURES, NextReport, reranked
from store.generations import write_atomically

_TOLD = ("R@1", "R@5", "R@20", MRR, "cosine")
LICENCE = "Apache-2.0, as the program"


def write_card(folder: Path, name: str, config: ModelConfig) -> None:
    """card.md in Markdown, from the config and, where they are there, the test figures in metrics.json."""
    trained = config.trained
    data, recipe = trained.get("data", {}), trained.get("recipe", {})
    start = "a learned mixture of the context (anchored)" if config.anchored else "random weights (plain)"
    tower = f" Candidates go through a P tower (`{config.tower['kind']}`) first." if config.tower else ""
    graphs = "`predictor.xml` and `predictor.bin`" + (", `tower.xml` and `tower.bin`" if config.tower else "")
    lines = [
        f"# {name}",
        "",
        f"Predicts the vector of the next chunk of an article from up to {config.context} chunks before it: "
        f"`{config.kind}`, {config.parameters:,} parameters, {config.dim} dimensions, starting from {start}.{tower}",
        "",
        "| | |",
        "|---|---|",
        f"| vectors | {config.encoder} |",
        f"| chunks | {_listed(config.chunking)} |",
        f"| data | collection `{data.get('collection', '?')}`, training articles only: "
        f"{data.get('train_articles', 0):,} articles, {data.get('train_windows', 0):,} windows |",
        f"| command | `{trained.get('command', '?')}` |",
        f"| seed | {recipe.get('seed', '?')} |",
        f"| recipe | {_listed(recipe)} |",
        f"| training | {trained.get('steps', '?')} steps in {trained.get('seconds', '?')} s, best at step "
        f"{trained.get('best_step', '?')}; {trained.get('ended', '?')} |",
        f"| licence | {LICENCE} |",
        "",
        "## Figures",
        "",
        f"On {data.get('valid_windows', 0):,} windows of validation articles (the own context masked; these chose the "
        "best step, so they flatter):",
        "",
        *_figures({name: trained.get("valid", {}), "copy-last": trained.get("copy_last", {})}),
    ]
    metrics = folder / METRICS
    if metrics.is_file():
        test = json.loads(metrics.read_text(encoding="utf-8"))
        lines += ["", *test["lines"], "", f"Made by `{test['command']}`."]
    lines += [
        "",
        "## Use",
        "",
        "For the vectors named above and chunks cut by those rules. A prediction is a direction, not a text; what is "
        f"shown are the real chunks nearest to it. `weights.safetensors` holds the weights, {graphs} the same model "
        "for OpenVINO; `config.json` seals them all.",
        "",
    ]
    write_atomically(folder / CARD, "\n".join(lines).encode())


def write_metrics(folder: Path, name: str, config: ModelConfig, report: NextReport) -> None:
    """metrics.json and the card anew: what a report says of the model on held-out articles, its context left out, and
    of the model with its reranker where the report has that row."""
    for table in report.tables:
        if (table.bank, table.view) == (Bank.HELDOUT, View.NEW):
            break
    else:
        return
    own = (name, reranked(name))
    against = [one for one in table.against if one.model in own]
    shown = {*own, ORACLE, *(one.baseline for one in against)}
    rows = {
        row.name: {key: asdict(row.measures[key]) for key in RERANKED_MEASURES if key in row.measures}
        for row in table.rows
    }
    lines = [
        f"On {table.queries:,} windows of {table.articles:,} {report.split} articles of `{report.collection}`, among "
        f"their {table.chunks:,.0f} chunks, the own context left out (95 % intervals, bootstrap by article):",
        "",
        "| | " + " | ".join(_TOLD) + " |",
        "|---" * (len(_TOLD) + 1) + "|",
        *(
            f"| {row} | " + " | ".join(_cell(rows[row].get(key)) for key in _TOLD) + " |"
            for row in rows
            if row in shown
        ),
        "",
        *(
            f"- {'' if one.model == name else 'reranked, '}{one.measure} against {one.baseline}: "
            f"{one.estimate.mean:+.3f} ({one.estimate.low:+.3f} to {one.estimate.high:+.3f}): {one.verdict}"
            for one in against
        ),
    ]
    raw = {"command": report.command, "seed": report.seed, "lines": lines, "rows": rows}
    write_atomically(folder / METRICS, json.dumps(raw, indent=1, ensure_ascii=False).encode())
    write_card(folder, name, config)


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['mean']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


def _figures(rows: dict[str, dict[str, float]]) -> list[str]:
    names = ["R@1", "R@5", "R@20", "MRR", "cosine"]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, figures in rows.items():
        lines.append(
            f"| {row} | " + " | ".join(f"{figures[name]:.3f}" if name in figures else "–" for name in names) + " |"
        )
    return lines


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items()) or "not told"
