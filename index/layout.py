"""Names of the files of a generation beside its database, and which of them can be made again from the others."""

from __future__ import annotations

VECTORS, DENSE, LEXICAL, ENCODER = "vectors", "dense.faiss", "lexical", "encoder"
NAME = "name"  # by what the generation's parts on servers are known, where it has any


def is_derived(file: str) -> bool:
    """Whether a file can be made again from the chunks and their vectors."""
    return file in (DENSE, "index") or file.startswith(LEXICAL + "/")  # the second stands for what is on a server
