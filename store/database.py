"""The metadata store: articles and chunks through SQLAlchemy Core. The only place where ids are minted.

It does not know what a vector is, nor which of its generations is published. What databases do each in its own way is
in `duck.py` and `postgres.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from store.duck import Duck
from store.generations import Generation
from store.kept import Kept
from store.places import Place, Schema, place_of
from store.records import Article, Chunk, LookaheadError, Piece, Split, digest
from store.splits import split_of

_tables = sa.MetaData()

# A page id has one row here: its present text. Retired texts leave only their tombstoned chunks behind.
articles = sa.Table(
    "articles",
    _tables,
    sa.Column("page_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("split", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("first_chunk", sa.BigInteger, nullable=False),
    sa.Column("chunk_count", sa.Integer, nullable=False),
)
chunks = sa.Table(
    "chunks",
    _tables,
    sa.Column("chunk_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("page_id", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("section", sa.String, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("text_key", sa.String, nullable=False),  # equal for texts that differ only in case and spacing
)
tombstones = sa.Table(
    "tombstones",
    _tables,
    sa.Column("chunk_id", sa.BigInteger, primary_key=True, autoincrement=False),
)

# Apart, because a join reads all articles for the few that are wanted. {ids} is said by the dialect
_FOUND = "SELECT chunk_id, page_id, position, section, text, text_key FROM chunks WHERE chunk_id {ids}"
_TITLES = "SELECT page_id, title FROM articles WHERE page_id {ids}"
_KEPT = 16_384  # chunks, and titles, that a reader keeps at hand: about 1 KB each
_FEW = 50  # values that are faster written into a statement than handed over as one list

_NONE: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ArticleRow:
    """What the database knows of an article; its chunks are `first_chunk … first_chunk + chunk_count - 1`."""

    page_id: int
    title: str
    split: Split
    source: str
    digest: str
    first_chunk: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An article ready to be written: cut, with the digest of the page it was read from."""

    article: Article
    pieces: Sequence[Piece]
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk with what a result line needs beside it."""

    chunk: Chunk
    title: str
    text_key: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a store; `chunks` counts tombstoned rows too, `live` does not."""

    articles: int
    chunks: int
    live: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which chunks may answer. Empty fields do not restrict; several values of one field are alternatives."""

    titles: tuple[str, ...] = ()
    page_ids: tuple[int, ...] = ()
    sections: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.titles or self.page_ids or self.sections or self.splits)


class Dialect(Protocol):
    """One place's rows, opened for reading by any number of threads at once or for writing by one: what databases do
    each in its own way. A server that does not answer raises Unreachable."""

    def rows(self, query: sa.Executable) -> Sequence[Any]: ...

    def among(self, query: str, ids: list[int]) -> Sequence[Any]:
        """The rows of many ids at once, in any order, by a query with {ids} in the place of "IN (…)"."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing of what is changed and inserted inside; what could not be written raises LookaheadError."""
        ...

    def change(self, statement: sa.Executable) -> None: ...

    def insert(self, table: sa.Table, columns: Mapping[str, list[Any]]) -> None:
        """Many rows, by name of column."""
        ...

    def checkpoint(self) -> None:
        """After the last change: whatever makes reading fast, and what was written last for ever."""
        ...

    def close(self) -> None: ...

    def held(self, text: str) -> str:
        """The text as the database can hold it: a terminal may hand over bytes that are no text."""
        ...

    def lowered(self, text: sa.Column[str] | str) -> sa.ColumnElement[str]:
        """A title, a section or a text to be compared with one, in a lower case in which letters stand for themselves,
        whatever is beside them."""
        ...

    def nearest(self, column: sa.Column[str], text: str, most: int) -> list[str]:
        """The values that one who typed this may have meant, the likeliest first."""
        ...


class Store:
    """The rows of one generation, opened for reading (any number of processes, in each any number of threads at once)
    or for writing (one thread of one process)."""

    def __init__(self, dialect: Dialect, *, read_only: bool) -> None:
        self._dialect = dialect
        self._rows = dialect.rows
        self._read_only = read_only
        # what a writer has read may change
        self._kept: Kept[int, Found] = Kept(_KEPT if read_only else 0)
        self._titles: Kept[int, str] = Kept(_KEPT if read_only else 0)

    @classmethod
    def open(cls, place: Place) -> Self:
        """Opens what is there, read-only."""
        return cls(_reading(place), read_only=True)

    @classmethod
    def at(cls, generation: Generation) -> Self:
        """Opens a published generation's rows, read-only."""
        return cls.open(place_of(generation.path, generation.manifest.facts))

    @classmethod
    def create_or_resume(cls, place: Place, grown_from: Place | None = None) -> Self:
        """Opens a place for writing; what was committed is still there. Where there is nothing yet it begins empty,
        or as a copy of another place of the same kind."""
        return cls(_writing(place, grown_from), read_only=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """For when nobody is reading any more."""
        self._dialect.close()

    # -- reading ------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        total = self._scalar(sa.select(sa.func.count()).select_from(chunks))
        dead = self._scalar(sa.select(sa.func.count()).select_from(tombstones))
        return Counts(self._scalar(sa.select(sa.func.count()).select_from(articles)), total, total - dead)

    def chunks(self, ids: Sequence[int]) -> list[Found]:
        """The chunks in the order asked, tombstoned ones too; an id that does not exist raises."""
        wanted = [int(one) for one in ids]
        found = self._kept.of(wanted, self._found)
        missing = [one for one in wanted if one not in found]
        if missing:
            raise LookaheadError(f"no chunk has the id {min(missing)}; run: lookahead verify")
        return [found[one] for one in wanted]

    def _found(self, ids: list[int]) -> dict[int, Found]:
        """The title of a tombstoned chunk is its page's present one, or nothing when the page is gone."""
        rows = self._dialect.among(_FOUND, [one for one in ids if abs(one) < 1 << 63])
        titles = self._titles.of([row[1] for row in rows], self._titles_of)
        return {row[0]: Found(Chunk(*row[:5]), titles.get(row[1], ""), row[5]) for row in rows}

    def _titles_of(self, pages: list[int]) -> dict[int, str]:
        return dict(self._dialect.among(_TITLES, pages))

    def texts(self, first: int, stop: int) -> list[tuple[str, str, str]]:
        """(title, section, text) of the rows `first … stop - 1`, in order, tombstoned ones too."""
        query = (
            sa.select(sa.func.coalesce(articles.c.title, ""), chunks.c.section, chunks.c.text)
            .select_from(chunks)
            .outerjoin(articles, articles.c.page_id == chunks.c.page_id)
            .where(chunks.c.chunk_id >= first, chunks.c.chunk_id < stop)
            .order_by(chunks.c.chunk_id)
        )
        return [(title, section, text) for title, section, text in self._rows(query)]

    def article(self, page_id: int) -> ArticleRow:
        query = sa.select(articles).where(articles.c.page_id == page_id)
        rows = self._rows(query) if abs(page_id) < 1 << 63 else []
        if not rows:
            raise LookaheadError(f"no article has the page id {page_id}")
        return _article_row(rows[0])

    def article_titled(self, title: str) -> ArticleRow:
        """The article of that title; of several that differ only in case, the one spelled so or else the first."""
        return self._articles_titled(title)[0]

    def titles(self, beginning: str, limit: int) -> list[ArticleRow]:
        """Articles whose title begins so, in any case, then those whose title has it elsewhere; short titles first."""
        title, wanted = self._dialect.lowered(articles.c.title), self._dialect.lowered(beginning.strip())
        query = (
            sa.select(articles)
            .where(sa.func.strpos(title, wanted) > 0)
            .order_by(sa.func.starts_with(title, wanted).desc(), sa.func.length(title), title, articles.c.page_id)
            .limit(limit)
        )
        return [_article_row(row) for row in self._rows(query)]

    def articles(self, split: Split | None = None) -> list[ArticleRow]:
        """All articles in the order of their chunks."""
        query = sa.select(articles).order_by(articles.c.first_chunk)
        if split is not None:
            query = query.where(articles.c.split == split.value)
        return [_article_row(row) for row in self._rows(query)]

    def entry(self, row: ArticleRow) -> Entry:
        """An article as it was written, to be written elsewhere."""
        texts = self.texts(row.first_chunk, row.first_chunk + row.chunk_count)
        pieces = [Piece(section, text) for _, section, text in texts]
        return Entry(Article(row.page_id, row.title, ()), pieces, row.source, row.digest)

    def dead_ids(self) -> NDArray[np.int64]:
        """Ids of tombstoned chunks, ascending."""
        return self._ids(sa.select(tombstones.c.chunk_id).order_by(tombstones.c.chunk_id))

    def ids_where(self, wanted: Filter) -> NDArray[np.int64]:
        """Ids of the live chunks that pass, ascending. An unknown title or page id raises; sections match by name."""
        pages = [one for one in wanted.page_ids if abs(one) < 1 << 63]
        known = set(self._ids(sa.select(articles.c.page_id).where(_is_among(articles.c.page_id, pages))).tolist())
        for page_id in wanted.page_ids:
            if page_id not in known:
                self.article(page_id)
        query = sa.select(articles.c.first_chunk, articles.c.chunk_count).order_by(articles.c.first_chunk)
        if wanted.page_ids:
            query = query.where(_is_among(articles.c.page_id, wanted.page_ids))
        if wanted.titles:
            titled = {row.page_id for title in wanted.titles for row in self._articles_titled(title)}
            query = query.where(_is_among(articles.c.page_id, titled))
        if wanted.splits:
            query = query.where(articles.c.split.in_([split.value for split in wanted.splits]))
        passing = _ids_in(self._rows(query))
        if wanted.sections:
            section = self._dialect.lowered(chunks.c.section)
            named = section.in_([self._dialect.lowered(name) for name in wanted.sections])
            passing = np.intersect1d(passing, self._ids(sa.select(chunks.c.chunk_id).where(named)), assume_unique=True)
        return passing

    def ids_of_texts(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """Ids of the chunks with one of these text keys, ascending, tombstoned ones too."""
        return self._ids(
            sa.select(chunks.c.chunk_id).where(_is_among(chunks.c.text_key, keys)).order_by(chunks.c.chunk_id)
        )

    def pages_and_keys(self) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
        """(page id, text key) of every row, in the order of their ids, tombstoned ones too."""
        query = sa.select(chunks.c.page_id, chunks.c.text_key).order_by(chunks.c.chunk_id)
        rows = self._rows(query)
        return np.array([row[0] for row in rows], dtype=np.int64), np.array([row[1] for row in rows], dtype="S32")

    def article_keys(self) -> dict[int, tuple[str, str]]:
        """page id → (source, digest) of every article."""
        query = sa.select(articles.c.page_id, articles.c.source, articles.c.digest)
        return {page_id: (source, key) for page_id, source, key in self._rows(query)}

    def faults(self) -> list[str]:
        """Everything that contradicts the rules of this file, in words; an empty list when it is sound."""
        found = []
        ids = chunks.c.chunk_id
        rows = self._scalar(sa.select(sa.func.count()).select_from(chunks))
        lowest = self._scalar(sa.select(sa.func.coalesce(sa.func.min(ids), 0)))
        highest = self._scalar(sa.select(sa.func.coalesce(sa.func.max(ids), -1)))
        if rows and (lowest, highest) != (0, rows - 1):
            found.append(f"{rows} chunks, but ids from {lowest} to {highest}")
        owned = self._scalar(sa.select(sa.func.coalesce(sa.func.sum(articles.c.chunk_count), 0)))
        dead = self._scalar(sa.select(sa.func.count()).select_from(tombstones))
        if owned + dead != rows:
            found.append(f"{owned} chunks of articles and {dead} tombstones, but {rows} chunks")
        placed = (
            sa.select(chunks.c.page_id, sa.func.count().label("chunks"))
            .join(articles, articles.c.page_id == chunks.c.page_id)
            .where(
                chunks.c.chunk_id - articles.c.first_chunk == chunks.c.position,
                chunks.c.position < articles.c.chunk_count,
            )
            .group_by(chunks.c.page_id)
            .subquery()
        )
        strangers = self._scalar(
            sa.select(sa.func.count())
            .select_from(articles)
            .outerjoin(placed, placed.c.page_id == articles.c.page_id)
            .where(sa.func.coalesce(placed.c.chunks, 0) != articles.c.chunk_count)
        )
        if strangers:
            found.append(f"{strangers} articles whose chunks are not one contiguous run")
        astray = self._scalar(
            sa.select(sa.func.count())
            .select_from(tombstones)
            .outerjoin(chunks, chunks.c.chunk_id == tombstones.c.chunk_id)
            .outerjoin(articles, articles.c.page_id == chunks.c.page_id)
            .where(
                chunks.c.chunk_id.is_(None)
                | sa.and_(
                    chunks.c.chunk_id >= articles.c.first_chunk,
                    chunks.c.chunk_id < articles.c.first_chunk + articles.c.chunk_count,
                )
            )
        )
        if astray:
            found.append(f"{astray} tombstones of live chunks or of none")
        return found

    # -- writing ------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[Entry]) -> None:
        """Appends articles with fresh ids, in one transaction; a page id already there is replaced, its old chunks
        tombstoned. Within one call the last entry of a page id wins."""
        latest = {entry.article.page_id: entry for entry in entries}
        assert not self._read_only, "this store was opened read-only"
        with self._dialect.transaction():
            self._retire(latest)
            first = self._scalar(sa.select(sa.func.count()).select_from(chunks))
            article_rows: dict[str, list[Any]] = {column.name: [] for column in articles.columns}
            chunk_rows: dict[str, list[Any]] = {column.name: [] for column in chunks.columns}
            for entry in latest.values():
                page = entry.article.page_id
                values = (
                    page,
                    entry.article.title,
                    split_of(page).value,
                    entry.source,
                    entry.digest,
                    first,
                    len(entry.pieces),
                )
                _append(article_rows, values)
                for position, piece in enumerate(entry.pieces):
                    key = text_key(piece.text)
                    _append(chunk_rows, (first + position, page, position, piece.section, piece.text, key))
                first += len(entry.pieces)
            self._dialect.insert(articles, article_rows)
            self._dialect.insert(chunks, chunk_rows)

    def remove(self, page_ids: Iterable[int]) -> int:
        """Takes articles out and tombstones their chunks; says how many were there."""
        assert not self._read_only, "this store was opened read-only"
        with self._dialect.transaction():
            return self._retire(page_ids)

    def checkpoint(self) -> None:
        """After the last change: all is where it stays (in DuckDB, in the file alone), and ready to be read."""
        self._dialect.checkpoint()

    # -- below ---------------------------------------------------------------------------------------------

    def _retire(self, page_ids: Iterable[int]) -> int:
        going = _is_among(articles.c.page_id, page_ids)
        runs = self._rows(sa.select(articles.c.first_chunk, articles.c.chunk_count).where(going))
        if runs:
            self._dialect.insert(tombstones, {"chunk_id": _ids_in(runs).tolist()})
            self._dialect.change(sa.delete(articles).where(going))
        return len(runs)

    def _scalar(self, query: sa.Select[Any] | sa.TextClause) -> int:
        ((value,),) = self._rows(query)
        return int(value)

    def _ids(self, query: sa.Select[Any]) -> NDArray[np.int64]:
        return np.fromiter((row[0] for row in self._rows(query)), dtype=np.int64)

    def _articles_titled(self, title: str) -> list[ArticleRow]:
        """Those spelled so, or else those that differ only in case; none at all raises."""
        wanted = self._dialect.held(title).strip()
        query = sa.select(articles).where(self._dialect.lowered(articles.c.title) == self._dialect.lowered(wanted))
        rows = [_article_row(row) for row in self._rows(query.order_by(articles.c.first_chunk))]
        if not rows:
            raise LookaheadError(self._no_such_title(title))
        return [row for row in rows if row.title == wanted] or rows

    def _no_such_title(self, title: str) -> str:
        near = self._dialect.nearest(articles.c.title, title.strip(), 3)
        offers = ", ".join(f'"{name}"' for name in near)
        return f'no article is titled "{self._dialect.held(title)[:80]}"' + (
            f"; the nearest are {offers}" if offers else ""
        )


def text_key(text: str) -> str:
    """Equal for texts that differ only in case and spacing."""
    return digest(" ".join(text.lower().split()))


def kept_url(url: str) -> str:
    """The one spelling of a database's URL, without its password, which this process alone goes on knowing."""
    from store import postgres  # here: it needs an extra that the default does without

    return postgres.kept_url(url)


def drop(schema: Schema) -> None:
    """Removes a generation's rows from a server; rows that are gone already are no error, rows being read are."""
    from store import postgres

    postgres.drop(schema)


def schemas_of(url: str, owner: str) -> list[str]:
    """Names of all that a collection has in that database, by the collection's mark."""
    from store import postgres

    return postgres.schemas_of(url, owner)


def _reading(place: Place) -> Dialect:
    if isinstance(place, Path):
        return Duck.reading(place)
    from store.postgres import Postgres

    return Postgres.reading(place)


def _writing(place: Place, grown_from: Place | None) -> Dialect:
    if isinstance(place, Path):
        if isinstance(grown_from, Schema):
            raise _other_kind(place, grown_from)
        return Duck.writing(place, _tables, grown_from)
    if isinstance(grown_from, Path):
        raise _other_kind(place, grown_from)
    from store.postgres import Postgres

    return Postgres.writing(place, _tables, grown_from)


def _other_kind(place: Place, grown_from: Place) -> LookaheadError:
    shown = [f"{one.name} in {one.url}" if isinstance(one, Schema) else str(one) for one in (place, grown_from)]
    return LookaheadError(f"{shown[0]} cannot grow from {shown[1]}; to move the rows run: lookahead compact --store")


def _is_among(column: sa.Column[Any], values: Iterable[Any]) -> sa.ColumnElement[bool]:
    """Many values go as one list: each by itself would be planned, and PostgreSQL takes no more than 65,535."""
    listed = list(values)
    if len(listed) <= _FEW:
        return column.in_(listed)
    as_list = sa.ARRAY(column.type)
    return column.in_(sa.select(sa.func.unnest(sa.cast(sa.literal(listed, as_list), as_list))))


def _ids_in(runs: Iterable[Any]) -> NDArray[np.int64]:
    """The chunk ids of articles, by (first chunk, count): an article's are one run, and none need be looked at."""
    return np.concatenate([_NONE, *(np.arange(first, first + count) for first, count in runs)])


def _append(columns: dict[str, list[Any]], values: Sequence[Any]) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _article_row(row: sa.Row[Any]) -> ArticleRow:
    fields = row._mapping
    return ArticleRow(**{**fields, "split": Split(fields["split"])})
