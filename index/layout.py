"""Names of the files of a generation, and which of them can be made again from the others."""

from __future__ import annotations

DATABASE, VECTORS, DENSE, LEXICAL, ENCODER = "chunks.duckdb", "vectors", "dense.faiss", "lexical", "encoder"


def is_derived(file: str) -> bool:
    """Whether a file can be made again from the chunks and their vectors."""
    return file == DENSE or file.startswith(LEXICAL + "/")
