"""The rows of a generation in a schema of a PostgreSQL database: psycopg through SQLAlchemy, and COPY for what is many.

It does not know what the tables are for, nor which generation a schema belongs to. Its session settings and its lock
need a connection that stays one: pgbouncer may stand between only where it pools sessions.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from store.places import Schema
from store.records import Gone, LookaheadError, Unreachable

try:
    import psycopg
except ImportError as error:
    raise LookaheadError("a PostgreSQL store needs psycopg; run: pip install 'lookahead[postgres]'") from error

T = TypeVar("T")

_SPOKEN = ("postgresql", "postgres", "postgresql+psycopg")
_SECRET = ("password", "sslpassword")
_told: dict[str, dict[str, str]] = {}  # kept URL → what this process was told in it and nobody is to write down
_CONNECTING = {  # seconds; those after the first are until a machine that vanished is taken for gone
    "connect_timeout": "5",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "4",
}
_POOL = 8  # connections of a reader; threads beyond wait for the milliseconds that a question takes
_PATIENCE = "1s"  # for a lock: the server needs a moment to notice that its holder was killed

_TEXT = sa.Text(collation="C")  # compared byte by byte, as DuckDB does, whatever the database's language
# Lower case is ours, and stands beside the text: a server's depends on its locale, and on how it was compiled
_LOWERED = {"articles": ("title",), "chunks": ("section",)}
_FIRST = 500  # characters of it: an index takes no more than 2,700 bytes
_INDEXES = (  # name, table, columns; the ids of a section are read in the index alone
    ("titles", "articles", "lowered_title"),
    ("sections", "chunks", "lowered_section, chunk_id"),
    ("keys", "chunks", "text_key"),
)
_REFUSALS = (
    ("password", "set PGPASSWORD or write it to ~/.pgpass"),
    ("does not exist", "make it, or give another --store"),
)
_NEAR = 200  # titles that are looked at more closely, from each of three places

_OWNER = re.compile(r"_([0-9a-f]{8})_\d{6,}_[0-9a-f]{6}$")


class Postgres:
    """One schema, opened for reading (any number of processes, in each any number of threads at once) or for writing
    (one thread of one process, which has the lock of the schema's owner)."""

    def __init__(self, schema: Schema, *, read_only: bool) -> None:
        self._schema = schema
        self._engine = _engine(schema)
        self._connection: sa.Connection | None = None  # a writer's only one: the lock goes with it
        if not read_only:
            with _in_words(schema):
                self._connection = self._engine.connect()
                self._driver = _driver(self._connection)
                # whatever the server's default: CURRENT must not name what a power cut may take
                self._driver.execute("SET synchronous_commit = on")

    @classmethod
    def reading(cls, schema: Schema) -> Self:
        opened = cls(schema, read_only=True)
        if not opened._is_made():
            opened.close()
            raise _gone(schema)
        return opened

    @classmethod
    def writing(cls, schema: Schema, tables: sa.MetaData, grown_from: Schema | None) -> Self:
        assert len(schema.name.encode()) < 64, "PostgreSQL would cut the name off"
        opened = cls(schema, read_only=False)
        try:
            opened._lock()
            if not opened._is_made():
                opened._make(tables, grown_from)
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        if self._connection is not None:
            if self._driver.closed:  # lost: there is nothing to be rolled back, and the error that told of it goes on
                self._connection.invalidate()
            self._connection.close()
        self._engine.dispose()

    def _is_made(self) -> bool:
        return self.rows(sa.text("SELECT to_regclass('tombstones')"))[0][0] is not None

    # -- reading ------------------------------------------------------------------------------------------

    def rows(self, query: sa.Executable) -> Sequence[Any]:
        return self._asked(lambda connection: connection.execute(query).all())

    def among(self, query: str, ids: list[int]) -> Sequence[Any]:
        statement = query.format(ids="= ANY(%s::bigint[])")
        return self._asked(lambda connection: connection.exec_driver_sql(statement, (ids,)).all())

    def _asked(self, ask: Callable[[sa.Connection], T]) -> T:
        """What was asked; a reader asks again where its connection turns out to be from before the server's start."""
        with _in_words(self._schema):
            if self._connection is not None:
                return ask(self._alive())
            try:
                with self._engine.connect() as connection:
                    return ask(connection)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            with self._engine.connect() as connection:
                return ask(connection)

    # -- writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._alive()
        with _in_words(self._schema, writing=True), self._driver.transaction():
            yield

    def change(self, statement: sa.Executable) -> None:
        self._alive().execute(statement)

    def insert(self, table: sa.Table, columns: Mapping[str, list[Any]]) -> None:
        wide = {
            name: [_without_nul(text) for text in values] if isinstance(table.c[name].type, sa.String) else values
            for name, values in columns.items()
        }
        wide |= {_lowered(name): [_lower(text) for text in wide[name]] for name in _LOWERED.get(table.name, ())}
        with self._driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({', '.join(wide)}) FROM STDIN") as copy:
            for row in zip(*wide.values(), strict=True):
                copy.write_row(row)

    def checkpoint(self) -> None:
        """Makes what only readers need and what is made faster at the end: indexes, statistics, and rows that the
        server need not look after again."""
        self._alive()
        with _in_words(self._schema, writing=True):
            for name, table, columns in _INDEXES:
                self._driver.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns})")
            self._driver.execute("VACUUM (FREEZE, ANALYZE) articles, chunks, tombstones")

    def _alive(self) -> sa.Connection:
        """The writer's connection. A lost one is not made again: another writer may have the lock by now."""
        assert self._connection is not None
        if self._driver.closed:
            raise _silent(self._schema, "the connection was lost")
        return self._connection

    def _lock(self) -> None:
        owner = _OWNER.search(self._schema.name)
        told = f"lookahead {owner[1] if owner else self._schema.name}"
        key = int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "little", signed=True)
        with _in_words(self._schema), self._driver.transaction():
            self._driver.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            self._driver.execute("SELECT pg_advisory_lock(%s)", (key,))  # until the connection ends

    def _make(self, tables: sa.MetaData, grown_from: Schema | None) -> None:
        """The tables, all or none, as a copy of another schema's where one is given."""
        where = _where(self._schema.url)
        if grown_from is not None and grown_from.url != self._schema.url:
            raise LookaheadError(f"{where} cannot grow from rows in {_where(grown_from.url)}")
        ((encoding,),) = self.rows(sa.text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise LookaheadError(
                f"{where} holds text in {encoding}; make one that holds all of it: createdb -E UTF8 -T template0 NAME"
            )
        with self.transaction():
            self.change(sa.schema.CreateSchema(self._schema.name, if_not_exists=True))
            for table in tables.sorted_tables:
                made = _made(table)
                self.change(sa.schema.CreateTable(made))
                if grown_from is not None:
                    names = made.columns.keys()
                    before = sa.table(table.name, *(sa.column(name) for name in names), schema=grown_from.name)
                    self.change(sa.insert(made).from_select(names, sa.select(before)))
                key = ", ".join(table.primary_key.columns.keys())
                self.change(sa.text(f"ALTER TABLE {table.name} ADD PRIMARY KEY ({key})"))

    # -- said in its own way ------------------------------------------------------------------------------

    def held(self, text: str) -> str:
        return _without_nul(text.encode("utf-8", "replace").decode())

    def lowered(self, text: sa.Column[str] | str) -> sa.ColumnElement[str]:
        if isinstance(text, str):
            return sa.literal(_lower(self.held(text)))
        return sa.column(_lowered(text.name), sa.String, _selectable=text.table)

    def nearest(self, column: sa.Column[str], text: str, most: int) -> list[str]:
        """Of those beside it in the alphabet and those that have its longest word, the most alike."""
        lowered, wanted = self.lowered(column), _lower(self.held(text[:200]))
        word = max(wanted.split(), key=len, default="")
        asked = sa.select(column, lowered).limit(_NEAR)
        near = [
            *self.rows(asked.where(lowered >= wanted).order_by(lowered)),
            *self.rows(asked.where(lowered < wanted).order_by(lowered.desc())),
            *self.rows(
                asked.where(sa.func.strpos(lowered, word) > 0).order_by(
                    sa.func.abs(sa.func.length(lowered) - len(wanted))
                )
            ),
        ]
        alike = difflib.SequenceMatcher(b=wanted, autojunk=False)

        def likeness(value: str) -> float:
            alike.set_seq1(value)
            return alike.ratio()

        ranked = sorted({value: likeness(low) for value, low in near}.items(), key=lambda pair: (-pair[1], pair[0]))
        return [value for value, _ in ranked[:most]]


# -- without opening one ---------------------------------------------------------------------------------------


def kept_url(url: str) -> str:
    """The one spelling of a URL, for keeping: without its password, which only this process goes on knowing."""
    try:
        parts = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parts = sa.URL.create("")
    if parts.drivername not in _SPOKEN:
        begins = url.partition("://")[0][:30] if "://" in url else "no scheme"
        raise LookaheadError(f'--store is "duckdb" or "postgresql+psycopg://USER@HOST/DATABASE", not one with {begins}')
    if not parts.database:
        raise LookaheadError(f"which database? --store postgresql+psycopg://USER@{parts.host or ''}/DATABASE")
    secrets = {name: str(parts.query[name]) for name in _SECRET if name in parts.query}
    if parts.password is not None:
        secrets["password"] = str(parts.password)
    plain = sa.URL.create(
        "postgresql", parts.username, None, parts.host, parts.port, parts.database, parts.query
    ).difference_update_query(_SECRET)
    kept = plain.render_as_string()
    if secrets:
        _told[kept] = secrets
    return kept


def drop(schema: Schema) -> None:
    """Removes a schema and all in it; one that is not there is no error, one that is being read is."""
    with _visiting(schema) as connection, _driver(connection).transaction():
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        connection.execute(sa.schema.DropSchema(schema.name, cascade=True, if_exists=True))


def schemas_of(url: str, owner: str) -> list[str]:
    """Names of the owner's schemas in that database, ascending."""
    names = sa.text("SELECT nspname FROM pg_namespace WHERE strpos(nspname, :mark) > 0 ORDER BY nspname")
    with _visiting(Schema(url, "public")) as connection:
        found = connection.scalars(names, {"mark": f"_{owner}_"})
        return [name for name in found if (told := _OWNER.search(name)) and told[1] == owner]


@contextlib.contextmanager
def _visiting(schema: Schema) -> Iterator[sa.Connection]:
    engine = _engine(schema)
    try:
        with _in_words(schema), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _engine(schema: Schema) -> sa.Engine:
    """Its connections see the schema's tables and no others."""
    parts = sa.make_url(schema.url)
    engine = sa.create_engine(
        parts.set(drivername="postgresql+psycopg", query={**_CONNECTING, **parts.query}),
        connect_args=_told.get(schema.url, {}),
        client_encoding="utf8",
        isolation_level="AUTOCOMMIT",  # no transaction is left open between questions, for locks to wait for
        use_native_hstore=False,
        pool_size=_POOL,
        max_overflow=0,
        pool_use_lifo=True,
        pool_reset_on_return=None,
    )

    @sa.event.listens_for(engine, "connect")
    def settle(driver: Any, _: object) -> None:
        # jit takes longer than what it is for, where an estimate is too high
        driver.execute(
            "SELECT set_config('search_path', quote_ident(%s), false), set_config('jit', 'off', false)", (schema.name,)
        )
        driver.commit()

    return engine


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    """Psycopg's own connection below SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


# -- errors ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _in_words(schema: Schema, *, writing: bool = False) -> Iterator[None]:
    """What a person can do something about as an error meant for one; our own mistakes stay what they are."""
    try:
        yield
    except (sa.exc.DBAPIError, psycopg.Error) as error:
        told = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        state = getattr(told, "sqlstate", None) or ""
        reason = (str(told).splitlines() or [""])[0].rpartition("failed: ")[2]
        where = _where(schema.url)
        if state in ("42P01", "3F000"):
            raise _gone(schema) from error
        if state == "55P03":
            raise LookaheadError(
                f"{schema.name} in {where} is in use by another process; wait for it to end"
            ) from error
        if state.startswith(("08", "57P", "533")) or (not state and isinstance(told, psycopg.OperationalError)):
            for word, advice in _REFUSALS:
                if word in reason:
                    raise LookaheadError(f"{where} refuses: {reason}; {advice}") from error
            raise _silent(schema, reason) from error
        if writing:
            raise LookaheadError(f"cannot write to {where}: {reason}") from error
        if state == "42501" or state.startswith(("25", "40", "53", "57")):  # what it may not, or cannot do just now
            raise Unreachable(f"{where} refuses: {reason}") from error
        if not state and isinstance(told, psycopg.ProgrammingError):  # an option that there is not
            raise LookaheadError(f"--store {schema.url} cannot be used: {reason}") from error
        raise
    except UnicodeEncodeError as error:  # the name of a file need not be UTF-8
        raise LookaheadError(f"cannot write to {_where(schema.url)}: {error}") from error


def _where(url: str) -> str:
    parts = sa.make_url(url)
    host = parts.host or parts.query.get("host") or "this machine"
    return f"PostgreSQL at {host}{f':{parts.port}' if parts.port else ''}, database {parts.database}"


def _silent(schema: Schema, reason: str) -> Unreachable:
    return Unreachable(f"{_where(schema.url)} does not answer: {reason}; start it and type the same command again")


def _gone(schema: Schema) -> Gone:
    return Gone(
        f"{schema.name} is gone from {_where(schema.url)}: a newer generation has taken its place (try again), "
        "or it was dropped there (restore the database, or lookahead drop and ingest again)"
    )


# -- tables and texts --------------------------------------------------------------------------------------------


def _made(table: sa.Table) -> sa.Table:
    """The table as it is here, but for its key, which is made when it is filled."""
    return sa.Table(
        table.name,
        sa.MetaData(),
        *(
            sa.Column(column.name, _TEXT if isinstance(column.type, sa.String) else column.type, nullable=False)
            for column in table.columns
        ),
        *(sa.Column(_lowered(name), _TEXT, nullable=False) for name in _LOWERED.get(table.name, ())),
    )


def _lowered(column: str) -> str:
    return f"lowered_{column}"


def _lower(text: str) -> str:
    """Letter by letter, as DuckDB does it: Python alone looks at what is beside a capital sigma."""
    return text.replace("Σ", "σ").replace("İ", "i").lower()[:_FIRST]


def _without_nul(text: str) -> str:
    """The one character that PostgreSQL cannot hold; our own sources take it out."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
