"""What of a collection is kept elsewhere: the mark its parts on servers are known by, and which servers those are.

It does not talk to any of them. The file is written before the first part is made, so that nothing is ever forgotten.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from store.generations import write_atomically
from store.records import LookaheadError

_FILE = "remotes.json"


@dataclass(frozen=True, slots=True)
class Remotes:
    """`owner` is eight hex digits that no other collection has, `folder` the number that the file system gives the
    collection's. `indexes` and `stores` are all that may have a part."""

    owner: str
    folder: int
    indexes: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()


def remotes_of(folder: Path) -> Remotes | None:
    """Of the collection in `folder`; None where all of it is there, and in a copy: the parts are the original's, and
    only they may be swept by it."""
    try:
        raw = json.loads((folder / _FILE).read_bytes())
        told = Remotes(raw["owner"], raw["folder"], tuple(raw["indexes"]), tuple(raw["stores"]))
        return told if told.folder == folder.stat().st_ino else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LookaheadError(
            f"{folder / _FILE} is unreadable; restore it from a copy: the parts kept on servers are known by its owner"
        ) from error


def owner_of(folder: Path) -> str:
    """By what its parts are known; empty where it has none."""
    remotes = remotes_of(folder)
    return "" if remotes is None else remotes.owner


def remember(folder: Path, *, index: str | None = None, store: str | None = None) -> Remotes:
    """Notes that a part will be there; what was noted before stays."""
    held = remotes_of(folder) or Remotes(secrets.token_hex(4), folder.stat().st_ino)
    wanted = replace(
        held,
        indexes=tuple(dict.fromkeys([*held.indexes, *([index] if index else [])])),
        stores=tuple(dict.fromkeys([*held.stores, *([store] if store else [])])),
    )
    if wanted != remotes_of(folder):
        write_atomically(folder / _FILE, json.dumps(asdict(wanted), indent=1).encode())
    return wanted


def strike_out(folder: Path, places: Collection[str]) -> None:
    """Forgets servers that have no part any more; what will have one again is noted again."""
    held = remotes_of(folder)
    if held is None:
        return
    left = replace(
        held,
        indexes=tuple(one for one in held.indexes if one not in places),
        stores=tuple(one for one in held.stores if one not in places),
    )
    if left != held:
        write_atomically(folder / _FILE, json.dumps(asdict(left), indent=1).encode())


def remote_name(title: str, owner: str, number: int, token: str) -> str:
    """Of one generation's part on a server: letters, digits and underscores, at most 63 of them, never used again."""
    plain = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:30]
    usable = plain[:1].isalpha() and not f"{plain}_".startswith("pg_")  # which PostgreSQL keeps for itself
    return f"{plain if usable else 'c' + plain}_{owner}_{number:06d}_{token}"
