"""The metadata store: articles and chunks in DuckDB through SQLAlchemy Core. The only place where ids are minted.

It does not know what a vector is, nor which of its files is published.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import duckdb_engine
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from store.kept import Kept
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

# For the driver itself, which takes the ids as one value: SQLAlchemy writes each into a statement that is planned anew,
# and takes 30 ms for 640 ids instead of 10. Apart, because a join reads all articles for the few that are wanted.
_FOUND = """
    SELECT chunk_id, page_id, position, section, text, text_key FROM chunks
    WHERE chunk_id IN (SELECT unnest(?::BIGINT[]))
"""
_TITLES = "SELECT page_id, title FROM articles WHERE page_id IN (SELECT unnest(?::BIGINT[]))"
_ATTACHED = "published"
_KEPT = 16_384  # chunks, and titles, that a reader keeps at hand: about 1 KB each
_BY_INDEX = 250  # ids up to which the index finds each (20 µs); for more, and in DuckDB for 50, the table is read


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


class Store:
    """One `chunks.duckdb`, opened for reading (any number of processes, in each any number of threads at once) or for
    writing (one thread of one process)."""

    def __init__(self, database: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool) -> None:
        self._database = database
        self._read_only = read_only
        # connections are made of the open one, and not by its path: the file may have lost its name by then
        self._engine = sa.create_engine(f"duckdb:///{path}", creator=self._cursor, poolclass=sa.pool.NullPool)
        self._connection = self._engine.connect()  # a writer's only one
        self._idle: deque[sa.Connection] = deque()
        self._connecting = threading.Lock()
        # what a writer has read may change
        self._kept: Kept[int, Found] = Kept(_KEPT if read_only else 0)
        self._titles: Kept[int, str] = Kept(_KEPT if read_only else 0)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens an existing file read-only."""
        return cls._connect(path, read_only=True)

    @classmethod
    def create_or_resume(cls, path: Path) -> Self:
        """Opens a file for writing and makes its tables where there are none; what was committed is still there."""
        store = cls._connect(path, read_only=False)
        _tables.create_all(store._connection, checkfirst=False) if store._is_new() else None
        store._connection.commit()
        return store

    @classmethod
    def _connect(cls, path: Path, *, read_only: bool) -> Self:
        config: dict[str, Any] = {"memory_limit": "400MB", "threads": 2}
        if read_only:  # a second thread makes the look-up of a few rows slower
            config |= {"threads": 1, "dynamic_or_filter_threshold": _BY_INDEX}
        try:
            # DuckDB takes a second opening of a path for the first, as long as that is open, though another file may
            # have the name by then, such as a generation published after a roll back. What is attached is opened anew
            database = duckdb.connect(":memory:" if read_only else str(path), config=config)
            if read_only:
                quoted = str(path).replace("'", "''")
                database.execute(f"ATTACH '{quoted}' AS {_ATTACHED} (READ_ONLY)")
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise LookaheadError(f"cannot open {path}: {reason}; run: lookahead verify") from error
        return cls(database, path, read_only=read_only)

    def _cursor(self) -> duckdb_engine.ConnectionWrapper:
        cursor = self._database.cursor()
        if self._read_only:
            cursor.execute(f"USE {_ATTACHED}")
        return duckdb_engine.ConnectionWrapper(cursor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """For when nobody is reading any more."""
        while self._idle:
            self._idle.pop().close()
        self._connection.close()
        self._engine.dispose()
        self._database.close()

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
        rows = self._among(_FOUND, [one for one in ids if abs(one) < 1 << 63])
        titles = self._titles.of([row[1] for row in rows], lambda pages: dict(self._among(_TITLES, pages)))
        return {row[0]: Found(Chunk(*row[:5]), titles.get(row[1], ""), row[5]) for row in rows}

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
        title, wanted = sa.func.lower(articles.c.title), _lower(beginning.strip())
        query = (
            sa.select(articles)
            .where(sa.func.contains(title, wanted))
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
        for page_id in wanted.page_ids:
            self.article(page_id)
        query = sa.select(articles.c.first_chunk, articles.c.chunk_count).order_by(articles.c.first_chunk)
        if wanted.page_ids:
            query = query.where(articles.c.page_id.in_(wanted.page_ids))
        if wanted.titles:
            titled = {row.page_id for title in wanted.titles for row in self._articles_titled(title)}
            query = query.where(articles.c.page_id.in_(titled))
        if wanted.splits:
            query = query.where(articles.c.split.in_([split.value for split in wanted.splits]))
        runs = self._rows(query)  # an article's live chunks are one run: no chunk need be looked at
        passing = np.concatenate([_NONE, *(np.arange(first, first + count) for first, count in runs)])
        if wanted.sections:
            named = sa.func.lower(chunks.c.section).in_([_lower(name) for name in wanted.sections])
            passing = np.intersect1d(passing, self._ids(sa.select(chunks.c.chunk_id).where(named)), assume_unique=True)
        return passing

    def ids_of_texts(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """Ids of the chunks with one of these text keys, ascending, tombstoned ones too."""
        return self._ids(sa.select(chunks.c.chunk_id).where(chunks.c.text_key.in_(keys)).order_by(chunks.c.chunk_id))

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
        strangers = self._scalar(
            sa.select(sa.func.count())
            .select_from(articles)
            .where(
                sa.select(sa.func.count())
                .where(
                    chunks.c.page_id == articles.c.page_id,
                    chunks.c.chunk_id - articles.c.first_chunk == chunks.c.position,
                    chunks.c.position < articles.c.chunk_count,
                )
                .scalar_subquery()
                != articles.c.chunk_count
            )
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
        with self._transaction():
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
            self._bulk_insert(articles, article_rows)
            self._bulk_insert(chunks, chunk_rows)

    def remove(self, page_ids: Iterable[int]) -> int:
        """Takes articles out and tombstones their chunks; says how many were there."""
        with self._transaction():
            return self._retire(page_ids)

    def checkpoint(self) -> None:
        """Folds the log into the file, so that the file alone is everything."""
        with self._in_words():
            self._connection.exec_driver_sql("CHECKPOINT")
            self._connection.commit()

    # -- below ---------------------------------------------------------------------------------------------

    def _retire(self, page_ids: Iterable[int]) -> int:
        pages = np.fromiter(page_ids, dtype=np.int64)
        asked = sa.table("asked", sa.column("page_id"))
        with self._registered("asked", {"page_id": pages}):
            going = sa.select(asked.c.page_id)
            before = self._scalar(sa.select(sa.func.count()).where(articles.c.page_id.in_(going)))
            if before:
                live = (
                    sa.select(chunks.c.chunk_id)
                    .join(articles, articles.c.page_id == chunks.c.page_id)
                    .where(
                        articles.c.page_id.in_(going),
                        chunks.c.chunk_id >= articles.c.first_chunk,
                        chunks.c.chunk_id < articles.c.first_chunk + articles.c.chunk_count,
                    )
                )
                self._connection.execute(sa.insert(tombstones).from_select(["chunk_id"], live))
                self._connection.execute(sa.delete(articles).where(articles.c.page_id.in_(going)))
        return before

    def _bulk_insert(self, table: sa.Table, columns: dict[str, list[Any]]) -> None:
        # SQLAlchemy's executemany takes 90 times as long: the driver reads numpy columns without copying
        arrays = {
            name: np.asarray(values, dtype=object if isinstance(table.c[name].type, sa.String) else np.int64)
            for name, values in columns.items()
        }
        incoming = sa.table("incoming", *(sa.column(name) for name in columns))
        with self._registered("incoming", arrays):
            self._connection.execute(sa.insert(table).from_select(list(columns), sa.select(incoming)))

    @contextlib.contextmanager
    def _registered(self, name: str, columns: Mapping[str, NDArray[Any]]) -> Iterator[None]:
        driver = _driver(self._connection)
        driver.register(name, dict(columns))
        yield
        driver.unregister(name)  # not after an error: in an aborted transaction this would hide it

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        assert not self._read_only, "this store was opened read-only"
        self._connection.rollback()  # ends the transaction that reading opened
        with self._in_words(), self._connection.begin():
            yield

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """A write that DuckDB could not do (the disk is full) as an error meant for a person."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).splitlines()[0]
            raise LookaheadError(f"cannot write {self._engine.url.database}: {reason}") from error

    def _is_new(self) -> bool:
        names = sa.text("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'chunks'")
        return self._scalar(names) == 0

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection that is nobody else's meanwhile: a reader has as many as threads have read at once."""
        if not self._read_only:
            yield self._connection
            return
        try:
            connection = self._idle.pop()
        except IndexError:
            with self._connecting:
                connection = self._engine.connect()
        try:
            yield connection
        except BaseException:
            connection.close()  # its transaction is of no more use
            raise
        self._idle.append(connection)

    def _rows(self, query: sa.Select[Any] | sa.TextClause) -> Sequence[Any]:
        """All of them: DuckDB takes no further work beside a result that was not read to its end."""
        with self._reading() as connection:
            return connection.execute(query).all()

    def _among(self, statement: str, ids: list[int]) -> list[Any]:
        """The rows of those ids, by the driver alone."""
        with self._reading() as connection:
            found: list[Any] = _driver(connection).execute(statement, [ids]).fetchall()
        return found

    def _scalar(self, query: sa.Select[Any] | sa.TextClause) -> int:
        ((value,),) = self._rows(query)
        return int(value)

    def _ids(self, query: sa.Select[Any]) -> NDArray[np.int64]:
        return np.fromiter((row[0] for row in self._rows(query)), dtype=np.int64)

    def _articles_titled(self, title: str) -> list[ArticleRow]:
        """Those spelled so, or else those that differ only in case; none at all raises."""
        wanted = _utf8(title).strip()
        query = sa.select(articles).where(sa.func.lower(articles.c.title) == _lower(wanted))
        rows = [_article_row(row) for row in self._rows(query.order_by(articles.c.first_chunk))]
        if not rows:
            raise LookaheadError(self._no_such_title(title))
        return [row for row in rows if row.title == wanted] or rows

    def _no_such_title(self, title: str) -> str:
        nearness = sa.func.jaro_winkler_similarity(sa.func.lower(articles.c.title), _lower(title.strip()[:200]))
        near = self._rows(sa.select(articles.c.title).order_by(nearness.desc()).limit(3))
        offers = ", ".join(f'"{name}"' for (name,) in near)
        return f'no article is titled "{_utf8(title)[:80]}"' + (f"; the nearest are {offers}" if offers else "")


def text_key(text: str) -> str:
    """Equal for texts that differ only in case and spacing."""
    return digest(" ".join(text.lower().split()))


def _utf8(text: str) -> str:
    """The text as the database can hold it: a terminal may hand over bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def _lower(text: str) -> sa.Function[Any]:
    """In the database's lower case: Python's has other letters for a capital sigma and a dotted I."""
    return sa.func.lower(sa.literal(_utf8(text)))


def _driver(connection: sa.Connection) -> Any:
    """DuckDB's own connection below SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return driver


def _append(columns: dict[str, list[Any]], values: Sequence[Any]) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _article_row(row: sa.Row[Any]) -> ArticleRow:
    fields = row._mapping
    return ArticleRow(**{**fields, "split": Split(fields["split"])})
