"""Pages → articles: plain text in sections, or the reason why a page is none.

It does not know where pages come from, nor what becomes of an article.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

from store import layouts
from store.records import Article, Section
from store.sources.pages import Layout, Page, Skipped
from store.tidy import one_line
from store.workers import Failure, Pool, Ticket

FEWEST_WORDS = 10

# Pages that are read ahead of the one whose turn it is, for each worker: one slow page must not idle the others.
_AHEAD = 8

# {{disambiguation}}, {{disambig|geo}}, {{Airport disambiguation}}, {{hndis}} … but not {{disambiguation needed}},
# which stands behind a link, nor the hatnote {{other uses|X (disambiguation)}}.
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:)?(?!redirect|other|about|for\b)(?:"
    r"[\w -]{0,40}\bdisambig\w*(?:[ _]cleanup)?|disamb|dab|mathdab|(?:hn|geo|math|number|school|road|hospital)dis"
    r"|begriffsklärung|homonymie|desambiguaci[oó]n|desambiguação|disambigua|doorverwijspagina|ujednoznacznienie"
    r"|многозначность|неоднозначность|曖昧さ回避|aimai|消歧义|消歧義|förgrening"
    r")\s*(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)
_MAY_REFER = re.compile(r"\b(?:may|can|could|might)\b(?: \w+){0,2} (?:refer|stand)(?:s|ed)?\b[^.]{0,60}:$")
_LONGEST_ITEM = 50  # words of a line in a list of meanings


def articles(
    items: Iterable[Page | Skipped], *, workers: int, seconds: float = 20, megabytes: int = 400
) -> Iterator[tuple[Page, Article] | Skipped]:
    """The article of every page in the order of the pages, and every `Skipped` in its place.

    Wikitext is cleaned in up to `workers` processes, started when its first page comes; a page that takes longer
    than `seconds`, or more than `megabytes`, costs itself only. Other layouts are cleaned as they come. Closing the
    iterator ends the processes.
    """
    with Pool(clean, workers=workers, seconds=seconds, megabytes=megabytes) as pool:
        waiting: deque[tuple[Page, Ticket[Article | Skipped]] | Skipped] = deque()
        for item in items:
            if isinstance(item, Skipped):
                waiting.append(item)
            elif item.layout is Layout.WIKITEXT:
                waiting.append((item, pool.submit(item)))
            else:
                waiting.append((item, Ticket(clean(item))))
            while waiting and (len(waiting) > _AHEAD * workers or _is_done(waiting[0])):
                yield _result(pool, waiting.popleft())
        while waiting:
            yield _result(pool, waiting.popleft())


def _is_done(item: tuple[Page, Ticket[Article | Skipped]] | Skipped) -> bool:
    return isinstance(item, Skipped) or item[1].result is not None


def _result(
    pool: Pool[Page, Article | Skipped], item: tuple[Page, Ticket[Article | Skipped]] | Skipped
) -> tuple[Page, Article] | Skipped:
    if isinstance(item, Skipped):
        return item
    page, ticket = item
    result = pool.wait(ticket)
    if isinstance(result, Failure):
        return Skipped(page.page_id, page.title, result.reason, True, result.detail)
    return (page, result) if isinstance(result, Article) else result


def clean(page: Page) -> Article | Skipped:
    """The page as an article, or why it is none: a disambiguation page, or fewer than ten words."""
    title = one_line(page.title)
    if title.lower().endswith("(disambiguation)"):
        return Skipped(page.page_id, title, "disambiguation", False)
    if page.layout is Layout.WIKITEXT and _DISAMBIGUATION.search(page.body):
        return Skipped(page.page_id, title, "disambiguation", False)
    sections = _sections(page, title)
    if _only_refers(sections):
        return Skipped(page.page_id, title, "disambiguation", False)
    article = Article(page.page_id, title, sections)
    if article.words < FEWEST_WORDS:
        return Skipped(page.page_id, title, "empty", False, f"{article.words} words")
    return article


def _only_refers(sections: tuple[Section, ...]) -> bool:
    """Whether the text begins "X may refer to:" and goes on in short lines, not in paragraphs."""
    first, *rest = [line for section in sections for line in section.text.split("\n")] or [""]
    return bool(_MAY_REFER.search(first)) and all(len(line.split()) <= _LONGEST_ITEM for line in [first, *rest])


def _sections(page: Page, title: str) -> tuple[Section, ...]:
    match page.layout:
        case Layout.WIKITEXT:
            # Imported here: only workers need the parser.
            from store.wikitext import sections_of

            return sections_of(page.body)
        case Layout.EXTRACTED:
            return layouts.extracted(title, page.body)
        case Layout.SECTIONS:
            return layouts.sections(page.body)
        case Layout.MARKDOWN:
            return layouts.markdown(title, page.body)
        case Layout.PLAIN:
            return layouts.plain(page.body)
