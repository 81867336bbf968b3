"""Collections of a few sentences, made with the hashing encoder, for what serves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from index.build import Choices, ingest
from store.generations import Collection
from store.sources import open_source

CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)

Sections = list[tuple[str, str]]

# one sentence of ten words or more is one chunk
PAGES: dict[int, tuple[str, Sections]] = {
    1: ("Tea", [("", "Green tea is poured slowly into a cup of thin china.")]),
    2: ("Coffee", [("", "Black coffee is poured quickly into a cup of thick clay.")]),
    3: ("Bridge", [("", "A stone bridge carries the old road over our small river."),
                   ("Building", "The masons built every arch of it upon a wooden frame."),
                   ("Building", "No toll is asked of those who cross it on foot."),
                   ("Later", "A flood took two arches of it in a winter night.")]),
    4: ("River", [("", "The small river rises in the hills and feeds a lake."),
                  ("Building", "No bridge was built over it until the railway had come.")]),
    5: ("Stone bridges", [("", "The <b>bridge</b> of 🌉 stone is older than any bridge of iron.")]),
}  # fmt: skip


def publish(
    home: Path, name: str, pages: dict[int, tuple[str, Sections]], *, delete_missing: bool = False
) -> Collection:
    """A collection with these pages, or another generation of it, with these pages anew."""
    home.mkdir(parents=True, exist_ok=True)
    source = home / f"{name}.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for page, (title, sections) in pages.items():
            row = {"page_id": page, "title": title, "sections": [{"heading": h, "text": t} for h, t in sections]}
            file.write(json.dumps(row) + "\n")
    collection = Collection(home / "collections" / name)
    ingest(collection, [open_source(source, "jsonl")], replace(CHOICES, delete_missing=delete_missing))
    return collection
