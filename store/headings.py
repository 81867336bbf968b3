"""Headings told from sentences, and the headings of sections that only list sources or links.

It does not know any markup, nor the verbs of other languages than English; it is handed single lines of plain text.
"""

from __future__ import annotations

import re

# "Cultural references" and "Energy sources" are not among them, nor are an author's "Works" or "Publications".
_APPARATUS = re.compile(
    r"(?:see also|notes?|notelist|endnotes|navigation|gallery|(?:works|literature) cited|related links"
    r"|(?:(?:additional|annotated|ancient|cited|etymological|explanatory|external|further|general|historical|inline"
    r"|modern|online|other|partial|primary|print|recommended|reference|secondary|select|selected|specific|suggested"
    r"|web) )*(?:references?|sources|reading|readings|links|bibliograph(?:y|ies)|literature|footnotes|citations|notes)"
    r"|cited in footnotes)"
)

# Words that hardly stand in a heading without making it a sentence: finite verbs, of which English has few forms.
_VERB = re.compile(
    r"(?<![\w'’-])(?:is|are|was|were|am|be|been|has|have|had|does|did|do|can|could|would|shall|should|might|must|cannot"
    r"|(?:is|are|was|were|has|have|had|does|did|do|ca|could|wo|would)n['’]t"
    r"|became|becomes|become|began|begins|came|comes|gave|gives|went|goes|got|gets|made|makes|took|takes|said|says"
    r"|wrote|writes|grew|grows|knew|knows|led|met|ran|saw|sees|sold|spent|stood|stands|told|won|held|kept|keeps"
    r"|brought|died|remained|remains|contains?|contained|consists?|consisted|appears?|appeared|refers?|referred"
    r"|provides?|provided|requires?|allows?|allowed|seems?|seemed|describes?|lists|operates?|exists?|occurs?"
    r"|encompasses|includes?|falls|follows|lives?|flows|moves|contributes?|belongs?|represents?|employs|releases)"
    r"(?![\w-])"
)
# Words that begin a sentence, hardly ever a heading.
_OPENER = re.compile(r"(?:He|She|It|They|We|You|I|There|This|These|Those|However|Although|Instead),? ")
_ASIDE = re.compile(r'"[^"]*"|“[^”]*”|\([^()]*\)')
_STOP_INSIDE = re.compile(r"[^\W\d_]{3,}[.!?]\s+[^\W\d_]")
_DATED = re.compile(r"(?:In|On|By|Since|During)\s+(?:\w+\s+)?(?:\d{1,2},\s+)?\d{3,4}s?,")
_FUTURE = re.compile(r"\b(?:will|may)\s+(?:not\s+|also\s+)?[a-z]{2,}\b")  # "Free will" is a heading
# "joined the League" but not "Works based on", "Words borrowed from"; among nine words and more, those as well.
_PAST = re.compile(r"(?<=\s)[a-z]{2,}ed\b(?! by\b| in\b| on\b| to\b| from\b| with\b| as\b)")
_ANY_PAST = re.compile(r"(?<=\s)[a-z]{2,}ed\b")

LONGEST = 90  # characters of a heading, and
MOST = 12  # words


def is_heading(line: str) -> bool:
    """Whether a line that WikiExtractor wrote is a heading: short, ends in ".", and is no sentence.

    A sentence is told by a common verb, or by a regular past tense where there are more than five words; neither
    counts inside quotation marks or brackets ("I Am Legend" is a title). What cannot be told is a heading, for of
    such lines most are. Measured against the wikitext of 106 pages: 1,581 of 1,585 headings are found; of the
    lines taken for headings about one in two hundred is a sentence, nearly all of more than five words.
    """
    core = line[:-1]
    if not line.endswith(".") or not 1 < len(line) <= LONGEST:
        return False
    if not core[-1].isalnum() and core[-1] not in ")\"'”’!?%°+#*.":
        return False
    if core.endswith(".") and not re.search(r"\b[A-Z]\.$", core):  # "Export to the U.S..", not "And so on..."
        return False
    if not _begins_like_one(core.lstrip("\"'“‘(¿¡")):
        return False
    words = core.split()
    bare = _ASIDE.sub(" ", core)
    if len(words) > MOST or _STOP_INSIDE.search(bare) or _DATED.match(bare):
        return False
    if core[-1] in "?!":  # no sentence ends in "?."
        return True
    if len(words) > 2 and _OPENER.match(core):
        return False
    if has_verb(bare) or _FUTURE.search(bare):
        return False
    return len(words) <= 5 or not (_PAST if len(words) <= 8 else _ANY_PAST).search(bare)


def _begins_like_one(core: str) -> bool:
    """A capital, a digit, a letter of a script without capitals, or a name like iPhone, p–n junction, e-mail."""
    first, second = core[:1], core[1:2]
    if first.isdigit() or (first.isalpha() and not first.islower()):
        return True
    return first.islower() and (second.isupper() or second in ("-", "–"))


def is_apparatus(heading: str) -> bool:
    """Whether a section of this name lists sources or links: References, See also, External links, …"""
    parts = re.split(r" and | & |, ", heading.strip(" .:").lower())
    return all(_APPARATUS.fullmatch(part) for part in parts)


def has_verb(line: str) -> bool:
    """Whether one of the commonest finite verbs stands in the line."""
    return _VERB.search(line) is not None


def reads_like_prose(line: str) -> bool:
    """Whether the line is a sentence or more, not an entry of a list of sources."""
    return len(line.split()) >= 12 and line.rstrip("\"'”’)")[-1:] in (".", "!", "?") and has_verb(line)
