"""A model's card: what it is, what it was trained on and how, what it scores, and what it may be used for.

It writes down what it is told and measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.models import CARD, METRICS, ModelConfig
from store.generations import write_atomically

LICENCE = "Apache-2.0, as the program"


def write_card(folder: Path, name: str, config: ModelConfig) -> None:
    """card.md in Markdown, from the config and, where they are there, the test figures in metrics.json."""
    trained = config.trained
    data, recipe = trained.get("data", {}), trained.get("recipe", {})
    start = "a learned mixture of the context (anchored)" if config.anchored else "random weights (plain)"
    lines = [
        f"# {name}",
        "",
        f"Predicts the vector of the next chunk of an article from up to {config.context} chunks before it: "
        f"`{config.kind}`, {config.parameters:,} parameters, {config.dim} dimensions, starting from {start}.",
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
        "shown are the real chunks nearest to it. `weights.safetensors` holds the weights, `predictor.xml` and "
        "`predictor.bin` the same model for OpenVINO; `config.json` seals all three.",
        "",
    ]
    write_atomically(folder / CARD, "\n".join(lines).encode())


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
