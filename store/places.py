"""Where the rows of a generation are: a DuckDB file of its own, or a schema of a PostgreSQL database.

It does not know how either is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATABASE = "chunks.duckdb"
STORE = "store"  # the manifest's fact of that name; absent where the rows are in the generation's own file


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables on a server. `url` has no password in it."""

    url: str
    name: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


Place = Path | Schema


def place_of(folder: Path, facts: Mapping[str, Any]) -> Place:
    """Of the generation in `folder`, whose manifest has these facts."""
    told = facts.get(STORE)
    return folder / DATABASE if told is None else Schema(**told)
