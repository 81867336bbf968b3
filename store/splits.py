"""Which split an article belongs to: a pure hash of its page id, so no article ever moves because others came or went.

It does not know how many articles there are; the shares are 80/10/10 in expectation.
"""

from __future__ import annotations

import hashlib

from store.records import Split


def split_of(page_id: int) -> Split:
    """The article's split; the same on every machine, in every collection, for ever."""
    raw = hashlib.blake2b(str(page_id).encode(), digest_size=8, person=b"lookahead").digest()
    tenth = int.from_bytes(raw, "big") % 10
    if tenth == 8:
        return Split.VALID
    if tenth == 9:
        return Split.TEST
    return Split.TRAIN
