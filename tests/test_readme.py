"""The README's commands do what they say, in the order in which a reader types them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The arguments of every `python cli.py` line in a block marked `sh`."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python cli.py ")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


def test_every_command_of_the_readme_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = {}
    for arguments in commands():
        given = [str(ROOT / word) if word.startswith("data/") else word for word in arguments]
        result = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), *given], catch_exceptions=False)
        assert result.exit_code == 0, (arguments, result.output)
        said[" ".join(arguments[:2])] = result.output
    assert "44 articles (44 added)" in said["ingest"]
    assert "Zuse's Z3" in said["search who built the first programmable computer"]
    assert "Tardigrade" in said["search creature that survives being frozen and dried out"]
    assert "every byte is as it was published" in said["verify -c"]
    assert "hybrid" in said["evaluate search"]
    assert len((tmp_path / "sample.jsonl").read_text(encoding="utf-8").splitlines()) > 400


def test_the_tree_in_the_readme_names_every_module() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :]
    for folder in ("retrieval", "index", "store"):
        for module in (ROOT / folder).glob("*.py"):
            if module.stem not in ("__init__",):
                assert re.search(rf"\b{module.stem}\b", tree), f"{folder}/{module.name} is not in the README's tree"
