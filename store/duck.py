"""The rows of a generation in a DuckDB file of its own: opened, asked and filled the way that DuckDB is fast at.

It does not know what the tables are for, nor which of the files is published.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import duckdb_engine
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from store.records import LookaheadError

_ATTACHED = "published"
_BY_INDEX = 250  # ids up to which the index finds each (20 µs); for more, and in DuckDB for 50, the table is read


class Duck:
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

    @classmethod
    def reading(cls, path: Path) -> Self:
        return cls._connect(path, read_only=True)

    @classmethod
    def writing(cls, path: Path, tables: sa.MetaData, grown_from: Path | None) -> Self:
        if grown_from is not None and not path.exists():
            shutil.copyfile(grown_from, path.with_suffix(".copy"))
            os.replace(path.with_suffix(".copy"), path)
        duck = cls._connect(path, read_only=False)
        made = duck.rows(sa.text("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'chunks'"))
        if made[0][0] == 0:
            tables.create_all(duck._connection, checkfirst=False)
        duck._connection.commit()
        return duck

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

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._connection.close()
        self._engine.dispose()
        self._database.close()

    # -- reading ------------------------------------------------------------------------------------------

    def rows(self, query: sa.Executable) -> Sequence[Any]:
        """All of them: DuckDB takes no further work beside a result that was not read to its end."""
        with self.connection() as connection:
            return connection.execute(query).all()

    def among(self, query: str, ids: list[int]) -> Sequence[Any]:
        """By the driver itself, which takes the ids as one value: SQLAlchemy writes each into a statement that is
        planned anew, and takes 30 ms for 640 ids instead of 10."""
        with self.connection() as connection:
            statement = query.format(ids="IN (SELECT unnest(?::BIGINT[]))")
            found: list[Any] = _driver(connection).execute(statement, [ids]).fetchall()
        return found

    @contextlib.contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """One that is nobody else's meanwhile: a reader has as many as threads have read at once."""
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

    # -- writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.rollback()  # ends the transaction that reading opened
        with self._in_words(), self._connection.begin():
            yield

    def change(self, statement: sa.Executable) -> None:
        self._connection.execute(statement)

    def insert(self, table: sa.Table, columns: Mapping[str, list[Any]]) -> None:
        # SQLAlchemy's executemany takes 90 times as long: the driver reads numpy columns without copying
        arrays: dict[str, NDArray[Any]] = {
            name: np.asarray(values, dtype=object if isinstance(table.c[name].type, sa.String) else np.int64)
            for name, values in columns.items()
        }
        incoming = sa.table("incoming", *(sa.column(name) for name in columns))
        driver = _driver(self._connection)
        driver.register("incoming", arrays)
        self.change(sa.insert(table).from_select(list(columns), sa.select(incoming)))
        driver.unregister("incoming")  # not after an error: in an aborted transaction this would hide it

    def checkpoint(self) -> None:
        """Folds the log into the file, so that the file alone is everything."""
        with self._in_words():
            self._connection.exec_driver_sql("CHECKPOINT")
            self._connection.commit()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """A write that DuckDB could not do (the disk is full) as an error meant for a person."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).splitlines()[0]
            raise LookaheadError(f"cannot write {self._engine.url.database}: {reason}") from error

    # -- said in its own way ------------------------------------------------------------------------------

    def held(self, text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    def lowered(self, text: sa.Column[str] | str) -> sa.ColumnElement[str]:
        """In the database's lower case: Python's has other letters for a capital sigma and a dotted I."""
        return sa.func.lower(sa.literal(self.held(text)) if isinstance(text, str) else text)

    def nearest(self, column: sa.Column[str], text: str, most: int) -> list[str]:
        nearness = sa.func.jaro_winkler_similarity(self.lowered(column), self.lowered(text[:200]))
        return [value for (value,) in self.rows(sa.select(column).order_by(nearness.desc()).limit(most))]


def _driver(connection: sa.Connection) -> Any:
    """DuckDB's own connection below SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return driver
