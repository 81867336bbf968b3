"""A Milvus server, or a milvus-lite file served from within this process: the only file that imports pymilvus.

It does not know what the collections hold, beyond that each row has a `chunk_id`. All its errors are one line.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import logging.config
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from index.dense import Hit
from index.engines import Floats, Ints
from store.records import Gone, LookaheadError, Unreachable

MOST = 16_384  # rows that a server gives, and takes an offset for, in one answer
TOKEN = "LOOKAHEAD_MILVUS_TOKEN"
_PORT = 19530
_CONNECTING = 5.0  # seconds
_ANSWERING = 60.0
_WORKING = 600.0  # to write to the disk what it was sent
_GIVEN = 262_144  # hits of one answer to several questions
_ASKED = 16_000_000  # bytes of vectors in one request; 64 MB is the most
_NOT_FOUND, _NOT_LOADED, _NOT_CONNECTED = 100, 101, 2  # Milvus's codes

T = TypeVar("T")

_servers: dict[str, Server] = {}
_opening = threading.Lock()


def server_of(spec: str) -> Server:
    """The one of that spec in this process; it is connected to when it is first asked something."""
    with _opening:
        if spec not in _servers:
            _servers[spec] = Server(spec)
        return _servers[spec]


def whole_spec(spec: str) -> str:
    """With an absolute path or with a port; what names neither a file nor a server is refused."""
    server = re.fullmatch(r"milvus://([\w.-]+|\[[\da-fA-F:]+\])(?::(\d{1,5}))?(?:/(\w*))?", spec)
    if server:
        host, port, database = server.groups()
        if int(port or _PORT) > 65_535:
            raise LookaheadError(f"--index {spec}: a port is a number up to 65535, and Milvus's is {_PORT}")
        return f"milvus://{host}:{port or _PORT}" + (f"/{database}" if database else "")
    if spec.startswith("milvus://"):
        token = f"; a password goes into {TOKEN}" if "@" in spec else ""
        raise LookaheadError(f"--index milvus://HOST:PORT/DATABASE is how a server is named{token}")
    path = Path(spec.removeprefix("milvus:")).expanduser()
    if path.suffix != ".db":
        raise LookaheadError(f"milvus-lite keeps its data in a folder whose name ends in .db, not in {path}")
    return f"milvus:{path.absolute()}"


def between(start: int, stop: int) -> str:
    """The condition that a chunk is one of `start … stop - 1`."""
    return f"chunk_id >= {start} and chunk_id < {stop}"


class Server:
    """Any number of threads may ask at once. One that was away is connected to anew by the next who asks."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._file = None if spec.startswith("milvus://") else Path(spec.removeprefix("milvus:"))
        self._client: Any = None
        self._connecting = threading.Lock()

    def close(self) -> None:
        """For when nobody is asking any more; a file can be opened by another process then."""
        with self._connecting:
            if self._client is not None:
                self._client.close()
                self._client = None
                if self._file is not None:
                    from milvus_lite.server_manager import server_manager_instance

                    server_manager_instance.release_server(str(self._file))

    # -- collections ---------------------------------------------------------------------------------------

    def collections(self) -> list[str]:
        return list(self._call(lambda client: client.list_collections(timeout=_ANSWERING)))

    def create(self, name: str, description: str, dim: int) -> None:
        """A collection of chunks with a vector and a sparse one, `words`, and the fields that filters ask for."""

        def made(client: Any) -> None:
            from pymilvus import DataType

            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
            schema.add_field("chunk_id", DataType.INT64, is_primary=True)
            schema.add_field("page_id", DataType.INT64)
            schema.add_field("split", DataType.VARCHAR, max_length=16)
            schema.add_field("section_key", DataType.INT64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
            # a reader must find the whole of what a writer has just published
            client.create_collection(name, schema=schema, consistency_level="Strong", timeout=_ANSWERING)

        self._call(made)

    def put(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A row whose chunk id is there already is replaced."""
        self._call(lambda client: client.upsert(name, list(rows), timeout=_ANSWERING))

    def index(self, name: str, field: str, kind: str, metric: str, parameters: Mapping[str, int]) -> None:
        """Makes the index of a field where there is none, and waits for it."""

        def made(client: Any) -> None:
            if field not in [
                client.describe_index(name, one, timeout=_ANSWERING)["field_name"]
                for one in client.list_indexes(name, timeout=_ANSWERING)
            ]:
                asked = client.prepare_index_params()
                asked.add_index(field, index_type=kind, index_name=field, metric_type=metric, params=dict(parameters))
                # not in step: pymilvus's own way to wait takes half a second
                client.create_index(name, asked, sync=False, timeout=_ANSWERING)
            waited = 0.02
            while True:
                told = client.describe_index(name, field, timeout=_ANSWERING)
                if told["state"] == "Failed":
                    raise LookaheadError(f"{self.spec} could not index {field} of {name}; its log says why")
                if told["state"] == "Finished" and not told.get("pending_index_rows"):
                    return
                time.sleep(waited)
                waited = min(2 * waited, 5.0)

        self._call(made)

    def flush(self, name: str) -> None:
        self._call(lambda client: client.flush(name, timeout=_WORKING))

    def load(self, name: str) -> None:
        """Makes a collection ready to be asked; one that is gone raises."""

        def loaded(client: Any) -> None:
            client.load_collection(name, timeout=_ANSWERING, _async=True)  # or it would wait for ever
            waited = 0.02
            while (state := client.get_load_state(name, timeout=_ANSWERING)["state"].name) != "Loaded":
                if state != "Loading":
                    raise LookaheadError(f"{self.spec} could not load {name}; its log says why")
                time.sleep(waited)
                waited = min(2 * waited, 5.0)

        self._call(loaded)

    def drop(self, name: str) -> None:
        """With the aliases that stand for it, which a server would hold on to it by."""

        def dropped(client: Any) -> None:
            for alias in client.list_aliases(name, timeout=_ANSWERING)["aliases"]:
                client.drop_alias(alias, timeout=_ANSWERING)
            client.drop_collection(name, timeout=_ANSWERING)

        self._call(dropped)

    def meant_by(self, alias: str) -> str | None:
        """The collection that an alias stands for, or that has the name itself; None where there is neither."""

        def told(client: Any) -> str | None:
            if alias in client.list_aliases(timeout=_ANSWERING)["aliases"]:
                return str(client.describe_alias(alias, timeout=_ANSWERING)["collection_name"])
            return alias if client.has_collection(alias, timeout=_ANSWERING) else None

        return self._call(told)

    def point(self, alias: str, name: str) -> None:
        """From now on the alias stands for that collection."""

        def pointed(client: Any) -> None:
            known = alias in client.list_aliases(timeout=_ANSWERING)["aliases"]
            (client.alter_alias if known else client.create_alias)(name, alias, timeout=_ANSWERING)

        self._call(pointed)

    # -- rows ----------------------------------------------------------------------------------------------

    def count(self, name: str) -> int:
        told = self._call(lambda client: client.query(name, output_fields=["count(*)"], timeout=_ANSWERING), name)
        return int(told[0]["count(*)"])

    def ids(self, name: str, stop: int) -> Ints:
        """The chunk ids below `stop` that are there, ascending."""
        held: list[int] = []
        for start in range(0, stop, MOST):
            asked = between(start, start + MOST)
            rows = self._call(
                lambda client, asked=asked: client.query(  # type: ignore[misc]
                    name, asked, output_fields=["chunk_id"], limit=MOST, timeout=_ANSWERING
                ),
                name,
            )
            held += [row["chunk_id"] for row in rows]
        return np.unique(np.array(held, dtype=np.int64))

    def sparse(self, name: str, field: str, condition: str) -> dict[int, dict[int, float]]:
        """A sparse field of the chunks that pass, by their ids."""
        asked = {"output_fields": ["chunk_id", field], "limit": MOST, "timeout": _ANSWERING}
        rows = self._call(lambda client: client.query(name, condition, **asked), name)
        return {row["chunk_id"]: row[field] for row in rows}

    def search(
        self,
        name: str,
        field: str,
        questions: Floats | Sequence[Mapping[int, float]],
        k: int,
        condition: str,
        parameters: Mapping[str, Any],
    ) -> list[list[Hit]]:
        """The best `k` (at most MOST) for each question, by the server's own score, best first."""
        size = questions.shape[1] * 4 if isinstance(questions, np.ndarray) else 1000
        step = max(1, min(_GIVEN // k, _ASKED // size))
        found: list[list[Hit]] = []
        for start in range(0, len(questions), step):
            some = list(questions[start : start + step])
            rows = self._call(
                lambda client, some=some: client.search(  # type: ignore[misc]
                    name,
                    some,
                    filter=condition,
                    limit=k,
                    anns_field=field,
                    output_fields=["chunk_id"],  # milvus-lite sends all fields where none is named
                    search_params=dict(parameters),
                    timeout=_ANSWERING,
                ),
                name,
            )
            found += [[Hit(int(hit["chunk_id"]), float(hit["distance"])) for hit in row] for row in rows]
        return found

    # -- below ---------------------------------------------------------------------------------------------

    def _call(self, action: Callable[[Any], T], name: str | None = None) -> T:
        """What the action gives. Where it asks a collection that is not loaded (any more), `name`, that is mended."""
        client = self._connected()
        import grpc
        from pymilvus import MilvusException

        try:
            try:
                return action(client)
            except MilvusException as error:
                if name is None or error.code != _NOT_LOADED:
                    raise
                client.load_collection(name, timeout=_ANSWERING)
                return action(client)
        except (MilvusException, grpc.RpcError) as error:
            raise self._in_words(error) from error

    def _connected(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connection()
            return self._client

    def _connection(self) -> Any:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it tells the screen comes back as an error as well
        try:
            import grpc

            with _without_its_logging():
                import pymilvus

            if self._file is not None:
                import milvus_lite  # noqa: F401
        except ImportError as error:
            raise LookaheadError(
                f"--index {self.spec} needs {error.name or 'pymilvus'}; run: pip install 'lookahead[milvus]'"
            ) from error
        for name in ("pymilvus", "milvus_lite"):  # what they log, with a trace, comes back as an error as well
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            if self._file is not None:
                return pymilvus.MilvusClient(self._served(self._file), timeout=_CONNECTING)
            address, _, database = self.spec.removeprefix("milvus://").partition("/")
            return pymilvus.MilvusClient(
                f"http://{address}",
                db_name=database,
                token=os.environ.get(TOKEN, ""),
                timeout=_CONNECTING,
                # or a new channel waits as long as the old one would before it looks whether the server is back
                grpc_options={"grpc.use_local_subchannel_pool": 1},
            )
        except (pymilvus.MilvusException, grpc.RpcError) as error:
            raise self._in_words(error) from error

    def _served(self, path: Path) -> str:
        """The address of the server, within this process, of a milvus-lite file."""
        from milvus_lite import DataDirLockedError, MilvusLite, MilvusLiteError
        from milvus_lite.server_manager import server_manager_instance

        if not path.parent.is_dir():
            raise LookaheadError(f"there is no folder {path.parent} for {path.name}")
        address = server_manager_instance.start_and_get_uri(str(path))
        if address is not None:
            return str(address)
        try:  # it has logged why, and told nobody
            MilvusLite(str(path)).close()
        except DataDirLockedError as error:
            raise Unreachable(
                f"{path} is open in another process, and milvus-lite lets one in at a time; close that, or run "
                f"milvus-lite server --host 127.0.0.1 --data-dir {path} and use milvus://127.0.0.1:{_PORT}"
            ) from error
        except (MilvusLiteError, OSError) as error:
            raise LookaheadError(f"cannot open {path}: {_first_line(str(error))}") from error
        raise LookaheadError(f"cannot open {path}; type the same command again")

    def _in_words(self, error: Any) -> LookaheadError:
        import grpc

        code = error.code() if callable(error.code) else error.code
        away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        if code == _NOT_CONNECTED or code in away:
            return Unreachable(f"{self.spec} does not answer; start it and type the same command again")
        reason = _first_line(error.details() if isinstance(error, grpc.RpcError) else error.message)
        if code == _NOT_FOUND:
            return Gone(
                f"{self.spec} has not what the manifest says ({reason}); run: lookahead compact, which makes it again"
            )
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return LookaheadError(f"{self.spec} refuses: {reason}; set {TOKEN} to a token or to user:password")
        return LookaheadError(f"{self.spec} answers: {reason}")


@contextlib.contextmanager
def _without_its_logging() -> Iterator[None]:
    """pymilvus configures logging as it is imported, and Python then closes all handlers there are: an access log's."""
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure


def _first_line(text: str | None) -> str:
    return next(iter((text or "").splitlines()), "an error without words")[:300]


@atexit.register
def close_all() -> None:
    """Connections and files of this process; whoever asks next opens them again."""
    with _opening:
        for server in _servers.values():
            with contextlib.suppress(LookaheadError):
                server.close()
