"""The templates whose words a reader needs, and what each says: `{{convert|5|km}}` → "5 km".

It does not know any other template: those are dropped with all they hold. The names are those of English Wikipedia;
a wiki in another language loses these words, never more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a template says, given its positional arguments and its named ones, all as plain text.
Says = Callable[[Sequence[str], dict[str, str]], str]


def keeps(name: str) -> bool:
    """Whether the template's words belong to the text."""
    return _says(name) is not None


def said(name: str, values: Sequence[str], named: dict[str, str]) -> str:
    """The words of a template that `keeps(name)`."""
    says = _says(name)
    return says(values, named) if says else ""


def _says(name: str) -> Says | None:
    key = " ".join(name.replace("_", " ").lower().split())
    if key.startswith("lang-"):
        return _first
    return _number_in(key) if key.startswith("formatnum:") else _TEMPLATES.get(key)


def _at(values: Sequence[str], index: int) -> str:
    return values[index].strip() if index < len(values) else ""


def _first(values: Sequence[str], named: dict[str, str]) -> str:
    return _at(values, 0) or named.get("1", "")


def _second(values: Sequence[str], named: dict[str, str]) -> str:
    return _at(values, 1) or named.get("2", "") or _at(values, 0)


def _last(values: Sequence[str], named: dict[str, str]) -> str:
    return values[-1].strip() if values else ""


def _all(values: Sequence[str], named: dict[str, str]) -> str:
    return "".join(value.strip() for value in values)


def _constant(text: str) -> Says:
    return lambda values, named: text


def _number_in(key: str) -> Says:
    return _constant(key.partition(":")[2].strip())


def _around(before: str, after: str = "") -> Says:
    return lambda values, named: f"{before}{_at(values, 0)}{after}" if _at(values, 0) else ""


_UNITS = {
    "sqmi": "sq mi",
    "sqft": "sq ft",
    "sqkm": "km2",
    "cuft": "cu ft",
    "cumi": "cu mi",
    "C": "°C",
    "F": "°F",
}
_MULTIPLES = {"e3": "thousand", "e6": "million", "e9": "billion"}
_SMALLER_UNITS = {"ft": ("in",), "yd": ("ft",), "mi": ("yd", "chain"), "lb": ("oz",), "st": ("lb",)}
_BETWEEN = {
    "to": "to",
    "-": "–",
    "–": "–",
    "and": "and",
    "or": "or",
    "by": "by",
    "x": "×",
    "×": "×",
    "+/-": "±",
}


def _convert(values: Sequence[str], named: dict[str, str]) -> str:
    """`{{convert|6|to|10|e6acre|km2}}` → "6 to 10 million acre": the amount as its author gave it, not converted."""
    words = [_at(values, 0)]
    rest = list(values[1:])
    while len(rest) >= 2 and rest[0].strip() in _BETWEEN:
        words += [_BETWEEN[rest[0].strip()], rest[1].strip()]
        rest = rest[2:]
    unit = rest[0].strip() if rest else ""
    multiple = _MULTIPLES.get(unit[:2], "")
    if multiple:
        words.append(multiple)
        unit = unit[2:]
    words.append(_UNITS.get(unit, unit))
    # {{convert|6|ft|2|in}}: a second amount with its unit, not a number of digits to round to.
    if len(rest) >= 3 and rest[2].strip() in _SMALLER_UNITS.get(unit, ()):
        words += [rest[1].strip(), rest[2].strip()]
    return " ".join(word for word in words if word)


def _as_of(values: Sequence[str], named: dict[str, str]) -> str:
    start = "as of" if named.get("lc", "").strip() in ("y", "yes", "1") else "As of"
    if named.get("since", "").strip() in ("y", "yes"):
        start = "since" if start == "as of" else "Since"
    if alternative := named.get("alt", "").strip():
        return alternative
    year, month, day = (_at(values, index) for index in range(3))
    if month.isdigit() and 1 <= int(month) <= 12:
        month = _MONTHS[int(month) - 1]
    return " ".join(word for word in (start, day, month, year) if word)


_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def _fraction(values: Sequence[str], named: dict[str, str]) -> str:
    parts = [value.strip() for value in values]
    if len(parts) == 1:
        return f"1/{parts[0]}"
    return f"{parts[0]} {parts[1]}/{parts[2]}" if len(parts) == 3 else "/".join(parts[:2])


def _value(values: Sequence[str], named: dict[str, str]) -> str:
    power = f"×10^{named['e'].strip()}" if named.get("e") else ""
    unit = named.get("u", named.get("ul", "")).strip()
    return f"{named.get('p', '')}{_at(values, 0)}{power}{named.get('s', '')}{' ' + unit if unit else ''}"


def _japanese(values: Sequence[str], named: dict[str, str]) -> str:
    """`{{nihongo|'''Aikido'''|合気道|Aikidō}}` → "Aikido (合気道, Aikidō)"."""
    inside = ", ".join(value.strip() for value in values[1:4] if value.strip())
    return f"{_at(values, 0)} ({inside})" if inside else _at(values, 0)


def _quoted(values: Sequence[str], named: dict[str, str]) -> str:
    text = named.get("text") or named.get("quote") or named.get("1") or _at(values, 0)
    return f"\n\n{text.strip()}\n\n"


def _ship(values: Sequence[str], named: dict[str, str]) -> str:
    return " ".join(word for word in (_at(values, 0), _at(values, 1)) if word)


def _old_style(values: Sequence[str], named: dict[str, str]) -> str:
    return " ".join(word for word in (_at(values, 0), f"[O.S. {_at(values, 2)}]", _at(values, 1)) if word)


def _named(names: str, says: Says) -> dict[str, Says]:
    """One way of speaking for several names, which are given with | between them; capitals do not count."""
    return dict.fromkeys(names.lower().split("|"), says)


_TEMPLATES: dict[str, Says] = {
    # Only the looks of the words, or their language, are the template's business.
    **_named("nowrap|nobr|nobreak|small|smaller|big|large|larger|midsize|sc|smallcaps|sm|em|strong|resize", _first),
    **_named("abbr|tooltip|unicode|math|mvar|var|underline|not a typo|as written|proper name", _first),
    **_named("flag|flagcountry|flagu|ill|interlanguage link|columns-list|plainlist|citation needed span", _first),
    **_named("lang|script|font|fontcolor|rtl-lang|color|colored link|langr|sort", _second),
    **_named("transl|transliteration|translit", _last),
    **_named("chem|chem2|mono|code|kbd", _all),
    **_named("quote|blockquote|cquote|quotation|bquote|rquote", _quoted),
    # Amounts, dates, signs.
    **_named("convert|cvt", _convert),
    **_named("frac|fraction|sfrac", _fraction),
    **_named("val", _value),
    **_named("as of", _as_of),
    **_named("circa|c.|ca.", lambda values, named: f"c. {_at(values, 0)}".strip()),
    **_named("fl.|floruit", _around("fl. ")),
    **_named("e", _around("×10^")),
    **_named("sup", _around("^")),
    **_named("sub", _first),
    **_named("angbr|angle bracket|vr", _around("⟨", "⟩")),
    **_named("US$|USD", _around("US$")),
    **_named("A$|AUD", _around("A$")),
    **_named("GBP|£|pound sterling", _around("£")),
    **_named("€|EUR|euro", _around("€")),
    **_named("₹|INR|indian rupee", _around("₹")),
    **_named("oldStyleDate|old style date", _old_style),
    **_named("railGauge|track gauge", _first),
    **_named("music", _first),
    # Names that are written as templates.
    **_named("nihongo|nihongo2|nihongo3", _japanese),
    **_named("ship", _ship),
    **{name.lower(): _around(f"{name} ") for name in ("HMS", "USS", "SS", "RMS", "HMAS", "HMCS", "MS", "MV")},
    # Signs that would be in the way of the markup.
    **_named("snd|spaced ndash|spnd|sndash|spaced en dash", _constant(" – ")),
    **_named("ndash|endash|en dash", _constant("–")),
    **_named("mdash|mdashb|em dash", _constant("—")),
    **_named("nbsp|spaces|thinsp|hair space|space|sp|zwsp|wbr", _constant(" ")),
    **_named("'s", _constant("'s")),
    **_named("'|apostrophe", _constant("'")),
    **_named("' \"|'\"", _constant("'\"")),
    **_named("\" '|\"'", _constant("\"'")),
    **_named('-"', _constant('"')),
    **_named("dot|·|middot|•|bullet", _constant(" · ")),
    **_named("=", _constant("=")),
    **_named("times", _constant("×")),
}
_TEMPLATES["!"] = _constant("|")
