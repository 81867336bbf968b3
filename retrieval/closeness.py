"""How near to each other a question's words stand in a passage: the third part of a hybrid score.

It knows words as lists of stems and how rare each is, and neither indexes nor texts. BM25 counts words wherever they
stand in a chunk; an answer has them in one sentence (term proximity: Rasolofo and Savoy, 2003, among others).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SPAN = 20  # words, about a sentence; measured: README, "Choices that were measured"


def closeness(rarity: Mapping[str, float], words: Sequence[str], span: int = SPAN) -> float:
    """The largest share of a question's words, each counted by its rarity, within `span` words in a row: 0 to 1.

    `rarity` holds the question's different words; `words` is the passage, in order, spelled the same way.
    """
    total = sum(rarity.values())
    if total <= 0:
        return 0.0
    places = [(place, word) for place, word in enumerate(words) if word in rarity]
    inside = dict.fromkeys(rarity, 0)
    best = held = 0.0
    left = 0
    for place, word in places:
        inside[word] += 1
        if inside[word] == 1:
            held += rarity[word]
        while place - places[left][0] >= span:
            gone = places[left][1]
            inside[gone] -= 1
            if not inside[gone]:
                held -= rarity[gone]
            left += 1
        if held > best:
            best = held
    return best / total
