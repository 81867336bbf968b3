"""The articles of another collection that a report may set beside its own: chunked alike, and none that both have.

It does not know what is asked of them, nor by whom.
"""

from __future__ import annotations

from index.encoder import refuse_other_space
from retrieval.search import Searcher
from retrieval.sequences import Sequences
from store.records import LookaheadError

QUERIES = 20_000  # of another collection at most, every split of which is asked


def outside_articles(searcher: Searcher, name: str, other: Searcher, called: str) -> tuple[Sequences, tuple[str, ...]]:
    """The articles of `other` (named `called`) that the collection `name` has not, and a note of how many it has.

    The same title is the same article, whatever its page id: another source numbers its pages anew, and a model may
    have been trained on any article of `name`. Raises where the two cannot be compared or nothing is left.
    """
    _refuse_unlike(searcher, name, other, called)
    known = {row.title for row in searcher.store.articles()}
    there = other.store.articles()
    rows = [row for row in there if row.title not in known]
    if not rows:
        raise LookaheadError(f"every article of {called} is in {name} too; --ood names another")
    both = len(there) - len(rows)
    note = (f"{called}: {both:,} articles that {name} has too were left out",) if both else ()
    return Sequences(rows, other.vectors), note


def _refuse_unlike(one: Searcher, name: str, other: Searcher, called: str) -> None:
    """Raises where two collections cannot be compared: another encoder, or chunks cut by other rules."""
    if name == called:
        raise LookaheadError(f"{called} is the collection itself; --ood names another")
    refuse_other_space(one.fingerprint, other.fingerprint, what=f"--ood {called}: collection {name}")
    rules, theirs = (searcher.generation.manifest.facts["chunking"] for searcher in (one, other))
    if rules != theirs:
        raise LookaheadError(
            f"{name} and {called} are chunked differently, and figures would not compare: {_listed(rules)} against "
            f"{_listed(theirs)}; ingest one again with the rules of the other"
        )


def _listed(rules: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(rules.items()))
