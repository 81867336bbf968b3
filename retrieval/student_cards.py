"""A student's card: what it is, whose space it learned, on what and how, how near it came, and what it may be used for.

It writes down what `student.json` and the folder say, measures nothing and imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from index.encoder import INT8, Fingerprint
from index.static import UNLIMITED
from index.students import Status, Student
from index.twin import read_twin
from retrieval.models import CARD, METRICS
from store.generations import write_atomically

BUNDLED_MODEL = "all-MiniLM-L6-v2"
LICENCE = "Apache-2.0, as the program and the bundled encoder"
_ROWS = {
    "cosine": "cosine to the teacher, all texts",
    "chunk cosine": "… chunks",
    "passage cosine": "… passages of two to four chunks",
    "sentence cosine": "… single sentences",
    "query cosine": "… titles, alone and with a heading",
    "fit": "share of the variance among the teacher's cosines that the student's explain",
    "STS": "STSBenchmark, Spearman (test; dev)",
}


def write_student_card(folder: Path, name: str, student: Student) -> None:
    """card.md in Markdown, from the verdict and what is told of the making; also from the twin in eight bits and the
    figures in metrics.json, where they are there."""
    made, teacher = student.made, Fingerprint.from_json(student.teacher)
    recipe = dict(made.get("recipe", {}))
    kind = str(recipe.get("student", "?"))
    recipe.pop("epochs" if recipe.get("steps") else "steps", None)  # the one that did not count
    reads = int(made.get("reads", teacher.max_tokens))
    length = "texts of any length" if reads >= UNLIMITED else f"the first {reads:,} tokens of a text"
    lines = [
        f"# {name}",
        "",
        f"A small encoder distilled from `{teacher.model}`: {_described(kind)}, {made.get('parameters', 0):,} "
        f"parameters, {teacher.dim} dimensions; it reads {length}.",
        "",
        "| | |",
        "|---|---|",
        f"| status | **{student.status.value}**: {'; '.join(student.reasons) or 'near enough to its teacher'} |",
        f"| teacher | {teacher} |",
        f"| data | collection `{made.get('collection', '?')}`, training articles only: {made.get('articles', 0):,} "
        f"articles; {_counted(made.get('texts', {}))} |",
        f"| not learned from | validation and test articles{_held_out(made.get('held_out', []))} |",
        f"| command | `{made.get('command', '?')}` |",
        f"| seed | {recipe.get('seed', '?')} |",
        f"| recipe | {', '.join(f'{key} {_plain(value)}' for key, value in recipe.items()) or 'not told'} |",
        f"| training | {made.get('steps', 0):,} steps on {made.get('device', '?')} in {made.get('seconds', 0):,.0f} s, "
        f"best at step {made.get('best_step', 0):,}; {made.get('ended', '?')} |",
        f"| licence | {_licence(teacher.model)} |",
        "",
        "## Figures",
        "",
        "On texts of test articles, which nobody learned from or looked at, and of validation articles, which chose "
        "the best step, so they flatter:",
        "",
        "| | test | validation |",
        "|---|---|---|",
        *_figures(student.figures, made.get("valid", {})),
        "",
        *_judged(student),
        *_twin(folder),
    ]
    metrics = folder / METRICS
    if metrics.is_file():
        told = json.loads(metrics.read_text(encoding="utf-8"))
        lines += [*told["lines"], "", f"Made by `{told['command']}`.", ""]
    write_atomically(folder / CARD, "\n".join([*lines, *_use(folder, name, student)]).encode())


def _described(kind: str) -> str:
    way, _, size = kind.partition(":")
    if way == "layers":
        return f"{size} of its layers, chosen evenly and trained on"
    if way == "narrow":
        layers, _, share = size.partition("x")
        return f"{layers} new layers of {share} times its width, and a Linear to its dimensions"
    return "no layers, the mean of a text's tokens in a table of trained vectors"


def _counted(texts: dict[str, int]) -> str:
    plural = {"query": "queries"}
    return ", ".join(f"{count:,} {plural.get(kind, f'{kind}s')}" for kind, count in texts.items()) or "not told"


def _held_out(names: list[str]) -> str:
    return f"; articles that the questions of {', '.join(f'`{name}`' for name in names)} are about" if names else ""


def _licence(teacher: str) -> str:
    if teacher == BUNDLED_MODEL:
        return LICENCE
    return f"that of `{teacher}`, which it was made of; what this program adds is Apache-2.0"


def _figures(test: dict[str, float], valid: dict[str, float]) -> list[str]:
    return [
        f"| {label} | " + " | ".join(f"{of[key]:.3f}" if key in of else "–" for of in (test, valid)) + " |"
        for key, label in _ROWS.items()
        if key in test or key in valid
    ]


def _judged(student: Student) -> list[str]:
    if "teacher STS" not in student.figures:
        return ["It was judged by its nearness to its teacher alone: no STS sets were at hand (`--sts`).", ""]
    return [
        f"The teacher has {student.figures['teacher STS']:.3f} on the same test pairs. For intervals and other "
        "languages: `lookahead evaluate sts`.",
        "",
    ]


def _twin(folder: Path) -> list[str]:
    if not (folder / INT8).is_dir():
        return []
    measured = read_twin(folder / INT8).measured
    sts = ""
    if measured.sts_before is not None and measured.sts_after is not None:
        sts = f", STSBenchmark {measured.sts_after:.3f} after {measured.sts_before:.3f}"
    return [
        f"Its twin in eight bits (`{INT8}/`): {measured.bytes_after / 1e6:.1f} MB after "
        f"{measured.bytes_before / 1e6:.1f} MB in single precision, mean cosine {measured.cosine_mean:.4f}{sts}.",
        "",
    ]


def _use(folder: Path, name: str, student: Student) -> list[str]:
    failed = student.status is Status.FAILED
    language = str(student.made.get("language", "en"))
    language = "English" if language == "en" else f"texts in `{language}`"
    opens = ", or `SentenceTransformer(folder)`"
    if not (folder / "modules.json").is_file():
        opens = f"; only the twin is here, for OpenVINO (`{INT8}/model.xml`): the command above makes the whole"
    return [
        "## Use",
        "",
        *(["Not for use: see its status. `ingest` refuses it unless told `--force-encoder`.", ""] if failed else []),
        f"`lookahead ingest … --encoder {name}`{opens}. For {language} only: it learned from nothing else, and what "
        "its teacher knew of other languages is likely lost. Its vectors lie near its teacher's but are a space of "
        "their own: a collection is embedded, asked and predicted by one of the two, never by both.",
        "",
    ]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " + ".join(f"{weight:g} {name}" for name, weight in value.items())
    if isinstance(value, list):
        return "/".join(map(str, value)) or "the teacher's"
    return "as usual" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
