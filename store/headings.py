"""Headings told from sentences, and the headings of sections that only list sources or links.

It does not know any markup; it is handed single lines of plain text.
"""

from __future__ import annotations

import re

# "Cultural references" and "Energy sources" are not among them, nor are an author's "Works" or "Publications".
_APPARATUS = re.compile(
    r"(?:see also|notes?|notelist|endnotes|footnotes|citations|navigation|gallery|(?:works|literature) cited|related links"
    r"|(?:(?:additional|annotated|ancient|cited|etymological|explanatory|external|further|general|historical|inline|modern"
    r"|online|other|partial|primary|print|recommended|reference|secondary|select|selected|specific|suggested|web) )*"
    r"(?:references?|sources|reading|readings|links|bibliograph(?:y|ies)|literature|footnotes|citations|notes)"
    r"|cited in footnotes)"
)

# Words that hardly stand in a heading without making it a sentence: finite verbs, of which English has few forms.
_VERBS = frozenset(
    ["is", "are", "was", "were", "am", "be", "been", "has", "have", "had", "does", "did", "do", "can", "could", "will", "would", "shall", "should", "might", "must", "cannot", "isn't", "aren't", "wasn't", "weren't", "hasn't", "haven't", "hadn't", "doesn't", "didn't", "don't", "can't", "couldn't", "won't", "wouldn't", "became", "becomes", "become", "began", "begins", "came", "comes", "gave", "gives", "went", "goes", "got", "gets", "made", "makes", "took", "takes", "said", "says", "wrote", "writes", "grew", "grows", "knew", "knows", "led", "leads", "left", "lies", "lay", "met", "ran", "runs", "saw", "sees", "sent", "sold", "spent", "stood", "stands", "told", "thought", "won", "held", "holds", "kept", "keeps", "found", "finds", "brought", "brings", "built", "died", "born", "lived", "remains", "remained", "contains", "contained", "includes", "include", "included", "consists", "consisted", "appears", "appeared", "refers", "referred", "provides", "provided", "requires", "required", "allows", "allowed", "shows", "showed", "shown", "uses", "means", "meant", "seems", "seemed"]
)
# Words that begin a sentence, not a heading, where more than three words follow.
_OPENERS = frozenset(["he", "she", "it", "they", "we", "i", "you", "there", "this", "these", "those", "however", "although", "when", "while", "if", "since", "after", "before"])
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|\([^()]*\)')
_STOP_INSIDE = re.compile(r"[^\s.A-Z]{3,}[.!?]\s+[A-Z]")


def is_apparatus(heading: str) -> bool:
    """Whether a section of this name lists sources or links: References, See also, External links, …"""
    parts = re.split(r" and | & |, ", heading.strip(" .:").lower())
    return all(_APPARATUS.fullmatch(part) for part in parts)


def has_verb(line: str) -> bool:
    """Whether one of the commonest finite verbs stands in the line."""
    return any(word in _VERBS for word in _WORD.findall(line))


def reads_like_prose(line: str) -> bool:
    """Whether the line is a sentence or more, not an entry of a list of sources."""
    return len(line.split()) >= 12 and line.rstrip("\"'”’)")[-1:] in (".", "!", "?") and has_verb(line)
