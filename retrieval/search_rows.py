"""Passages as rows for JSON, and why there are fewer of them than were asked for: one wording for command and service.

It does not search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.search import Passage


def as_dict(place: int, passage: Passage) -> dict[str, object]:
    """A passage for JSON."""
    chunk, parts = passage.chunk, passage.parts
    return {
        "rank": place,
        "score": round(passage.score, 6),
        "chunk_id": chunk.chunk_id,
        "page_id": chunk.page_id,
        "position": chunk.position,
        "title": passage.title,
        "section": chunk.section,
        "text": chunk.text,
        "dense": None if parts.dense is None else round(parts.dense, 6),
        "dense_rank": parts.dense_rank,
        "lexical": None if parts.lexical is None else round(parts.lexical, 6),
        "lexical_rank": parts.lexical_rank,
        "closeness": None if parts.closeness is None else round(parts.closeness, 6),
    }


def why_fewer(found: int, mode: str, filtered: bool) -> str:
    """Why no more than `found` passages came back."""
    if filtered:
        return f"{found or 'no'} passages pass the filter" + (" and hold the words" if mode == "lexical" else "")
    if mode == "lexical":
        return f"{found or 'no'} passages hold any of the words; mode hybrid also finds them by meaning"
    return f"the collection has {found} different passages: these are all"
