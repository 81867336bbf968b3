"""What of the metadata store only PostgreSQL can do wrong: passwords, locks, servers gone away, texts it cannot hold.

That it answers as DuckDB does is in test_database.py.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

psycopg = pytest.importorskip("psycopg", reason="needs psycopg: pip install 'lookahead[postgres]'")

from postgres_server import KEEPER, PostgresServer, missing, running_postgres  # noqa: E402
from test_database import entry, texts  # noqa: E402

from store import database  # noqa: E402
from store.database import Filter, Store, drop, kept_url, schemas_of  # noqa: E402
from store.places import Schema  # noqa: E402
from store.postgres import Postgres, _lower, _told  # noqa: E402
from store.records import LookaheadError, Unreachable  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture
def schema(postgres: PostgresServer) -> Schema:
    """One that is not there yet, of an owner of its own."""
    return Schema(kept_url(postgres.url()), f"wiki_{secrets.token_hex(4)}_000001_abcdef")


@pytest.fixture
def written(schema: Schema) -> Schema:
    with Store.create_or_resume(schema) as store:
        store.add([entry(1, "Suez Canal", ("Lead", "dug"), ("History", "opened")), entry(2, "Straße", "paved")])
        store.checkpoint()
    return schema


@pytest.fixture(scope="module")
def _mortal() -> Iterator[PostgresServer]:
    if why := missing():
        pytest.skip(why)
    with running_postgres() as server:
        yield server


@pytest.fixture
def mortal(_mortal: PostgresServer) -> Iterator[PostgresServer]:
    """A server that tests may stop; it runs when the test begins."""
    yield _mortal
    _mortal.start()


def owner_of(schema: Schema) -> str:
    return schema.name.split("_")[1]


def raw(schema: Schema, question: str) -> list[tuple[object, ...]]:
    with psycopg.connect(schema.url, autocommit=True) as connection:
        cursor = connection.execute(question)
        return list(cursor.fetchall()) if cursor.description else []


# -- URLs and passwords ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_a_url_is_kept_as_one(scheme: str) -> None:
    assert kept_url(f"{scheme}://me@host:5433/wiki?sslmode=require") == "postgresql://me@host:5433/wiki?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:s%40crt@host/wiki",
        "postgres://me@host/wiki?password=s%40crt",
        "postgresql://me:s%40crt@host/wiki?a=b",
    ],
)
def test_a_password_is_not_kept_but_known_to_this_process(url: str) -> None:
    kept = kept_url(url)
    assert "crt" not in kept
    assert kept_url(kept) == kept
    assert _told.pop(kept) == {"password": "s@crt"}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/wiki",
        "postgresql+psycopg2://host/wiki",
        "sqlite:///a",
        "wiki",
        "",
        "x://[",
        "postgres://h:port/d",
    ],
)
def test_another_database_is_refused_in_a_line_that_names_what_is_spoken(url: str) -> None:
    with pytest.raises(LookaheadError, match=r'--store is "duckdb" or "postgresql') as caught:
        kept_url(url)
    assert "secret" not in str(caught.value)


def test_a_url_must_name_the_database() -> None:
    with pytest.raises(LookaheadError, match=r"which database\? --store postgresql\+psycopg://USER@host/DATABASE"):
        kept_url("postgresql://me@host")


def test_without_psycopg_the_line_says_what_to_install() -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from store.database import *
for url in ("postgresql://h/d",) * 2:
    try:
        kept_url(url)
    except LookaheadError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "a PostgreSQL store needs psycopg; run: pip install 'lookahead[postgres]'\n" * 2


def test_the_embedded_store_loads_nothing_of_postgresql(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from store.database import Store
Store.create_or_resume(Path(sys.argv[1]) / "chunks.duckdb").close()
assert not {"psycopg", "store.postgres"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_a_password_comes_from_the_url_or_from_the_environment(
    postgres: PostgresServer, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(schema, f"CREATE ROLE {KEEPER} LOGIN SUPERUSER PASSWORD 'open sesame'")
    url = kept_url(postgres.url(user=KEEPER))
    with pytest.raises(
        LookaheadError, match=r"refuses: .*password.*; set PGPASSWORD or write it to ~/\.pgpass"
    ) as caught:
        Store.create_or_resume(Schema(url, schema.name))
    assert not isinstance(caught.value, Unreachable)
    kept_url(postgres.url(user=f"{KEEPER}:open%20sesame"))
    with Store.create_or_resume(Schema(url, schema.name)) as store:
        store.add([entry(1, "A", "a")])
    del _told[url]
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(LookaheadError, match=r"refuses: .*password") as caught:
        Store.open(Schema(url, schema.name))
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", "open sesame")
    with Store.open(Schema(url, schema.name)) as store:
        assert texts(store, [0]) == ["a"]


# -- servers that are not there, or go away --------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:1", "?host=/nowhere"])
def test_a_server_that_is_not_there_is_one_line(host: str) -> None:
    url = kept_url(f"postgresql://me:secret@{host if host[0] != '?' else ''}/wiki{host if host[0] == '?' else ''}")
    with pytest.raises(Unreachable, match=r"PostgreSQL at .*, database wiki does not answer: .*; start it") as caught:
        Store.open(Schema(url, "wiki"))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert host.strip("?").removeprefix("host=") in str(caught.value)
    del _told[url]


def test_a_database_that_is_not_there_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(LookaheadError, match=r'refuses: .*database "wikki" does not exist; make it') as caught:
        schemas_of(kept_url(postgres.url("wikki")), "abcdef01")
    assert not isinstance(caught.value, Unreachable)


def test_a_reader_goes_on_when_its_server_was_started_again(mortal: PostgresServer) -> None:
    schema = Schema(kept_url(mortal.url()), "wiki_aaaaaaaa_000001_abcdef")
    with Store.create_or_resume(schema) as store:
        store.add([entry(1, "A", "a", "b", "c")])
    with Store.open(schema) as store:
        assert texts(store, [0]) == ["a"]
        mortal.stop()
        for _ in range(2):
            with pytest.raises(Unreachable, match="does not answer") as caught:
                store.article_titled("A")
            assert "\n" not in str(caught.value)
        assert texts(store, [0]) == ["a"]  # at hand
        with pytest.raises(Unreachable):
            texts(store, [1])
        mortal.start()
        assert texts(store, [2, 1]) == ["c", "b"]
        mortal.stop()
        mortal.start()
        assert store.article_titled("A").page_id == 1  # nobody asked in between: the old connection is found dead


def test_a_writer_that_lost_its_server_says_so_and_is_resumed(mortal: PostgresServer) -> None:
    schema = Schema(kept_url(mortal.url()), "wiki_bbbbbbbb_000001_abcdef")
    with Store.create_or_resume(schema) as store:
        store.add([entry(1, "A", "a")])
        mortal.stop()
        with pytest.raises(Unreachable, match="does not answer"):
            store.add([entry(2, "B", "b")])
        mortal.start()
        for again in (lambda: store.add([entry(2, "B", "b")]), store.counts, store.checkpoint):
            with pytest.raises(Unreachable, match="the connection was lost"):  # and with it the lock
                again()
    with Store.create_or_resume(schema) as store:
        assert store.counts().articles == 1
        store.add([entry(2, "B", "b")])
        assert texts(store, [0, 1]) == ["a", "b"]
    mortal.stop()


def test_a_connection_that_the_server_ends_is_made_again_by_a_reader_alone(written: Schema) -> None:
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND client_port = -1"
    with Store.open(written) as store, Store.create_or_resume(written) as writer:
        raw(written, ended)
        assert texts(store, [0]) == ["dug"]
        with pytest.raises(Unreachable, match="does not answer: terminating connection"):
            writer.counts()


def test_a_server_that_stops_in_a_transaction_leaves_the_store_as_it_was(mortal: PostgresServer) -> None:
    schema = Schema(kept_url(mortal.url()), "wiki_cccccccc_000001_abcdef")
    with Store.create_or_resume(schema) as store:

        def halfway() -> None:
            with store._dialect.transaction():
                store._dialect.insert(database.tombstones, {"chunk_id": [5]})
                mortal.stop()
                store._dialect.insert(database.tombstones, {"chunk_id": [6]})

        with pytest.raises(Unreachable):
            halfway()
        mortal.start()
    with Store.open(schema) as store:
        assert store.dead_ids().tolist() == []
    mortal.stop()


# -- one writer ------------------------------------------------------------------------------------------


def test_a_second_writer_of_the_same_collection_is_refused(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.postgres._PATIENCE", "50ms")
    later = Schema(schema.url, schema.name.replace("000001", "000002"))
    other = Schema(schema.url, f"wiki_{secrets.token_hex(4)}_000001_abcdef")
    with Store.create_or_resume(schema):
        for taken in (schema, later):
            with pytest.raises(LookaheadError, match="in use by another process; wait for it to end"):
                Store.create_or_resume(taken)
        Store.create_or_resume(other).close()
        Store.open(schema).close()
    assert schemas_of(schema.url, owner_of(schema)) == [schema.name]
    Store.create_or_resume(later).close()


def test_a_killed_writer_makes_way_for_the_next(schema: Schema) -> None:
    code = f"""
import os
from store.database import Store
from store.places import Schema
store = Store.create_or_resume({schema!r})
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    Store.create_or_resume(schema).close()


# -- generations that come and go ------------------------------------------------------------------------


def test_an_owners_schemas_are_listed_and_dropped(written: Schema) -> None:
    later = Schema(written.url, written.name.replace("000001", "000002"))
    Store.create_or_resume(later, grown_from=written).close()
    assert schemas_of(written.url, owner_of(written)) == [written.name, later.name]
    drop(written)
    drop(written)
    assert schemas_of(written.url, owner_of(written)) == [later.name]
    with Store.open(later) as store:
        assert texts(store, range(3)) == ["dug", "opened", "paved"]


def test_a_generation_that_was_dropped_is_gone_in_a_line_that_says_to_try_again(written: Schema) -> None:
    with Store.open(written) as store:
        assert texts(store, [0]) == ["dug"]
        drop(written)  # nobody is reading at this moment
        for ask in (lambda: texts(store, [1]), lambda: store.articles(), store.faults):
            with pytest.raises(LookaheadError, match=r"is gone from PostgreSQL at .* \(try again\)"):
                ask()
    with pytest.raises(LookaheadError, match=r"is gone from PostgreSQL at .* \(try again\)"):
        Store.open(written)


def test_a_generation_that_is_being_read_is_not_dropped(written: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.postgres._PATIENCE", "50ms")
    with psycopg.connect(written.url) as reader:
        reader.execute(f"SELECT * FROM {written.name}.chunks")
        with pytest.raises(LookaheadError, match="in use by another process"):
            drop(written)
    drop(written)


def test_growing_is_all_or_nothing(written: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    later = Schema(written.url, written.name.replace("000001", "000002"))
    change = Postgres.change

    def fails_at_last(self: Postgres, statement: sa.Executable) -> None:
        if "tombstones" in str(statement) and "PRIMARY KEY" in str(statement):
            raise KeyboardInterrupt
        change(self, statement)

    with monkeypatch.context() as patch:
        patch.setattr(Postgres, "change", fails_at_last)
        with pytest.raises(KeyboardInterrupt):
            Store.create_or_resume(later, grown_from=written)
    assert schemas_of(written.url, owner_of(written)) == [written.name]
    with Store.create_or_resume(later, grown_from=written) as store:
        assert texts(store, range(3)) == ["dug", "opened", "paved"]


def test_rows_do_not_grow_from_another_database(schema: Schema) -> None:
    with pytest.raises(LookaheadError, match=r"database postgres cannot grow from rows in .*database elsewhere"):
        Store.create_or_resume(schema, grown_from=Schema("postgresql://h/elsewhere", "wiki"))


def test_a_database_that_does_not_hold_all_of_unicode_is_refused(postgres: PostgresServer, schema: Schema) -> None:
    raw(schema, "CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(LookaheadError, match="database narrow holds text in LATIN1; make one"):
        Store.create_or_resume(Schema(kept_url(postgres.url("narrow")), schema.name))


def test_the_tables_are_those_of_the_house_with_keys_and_lower_case_beside_them(written: Schema) -> None:
    question = f"""SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)
    FROM information_schema.columns WHERE table_schema = '{written.name}' GROUP BY 1 ORDER BY 1"""
    assert raw(written, question) == [
        (
            "articles",
            "page_id bigint, title text, split text, source text, digest text, first_chunk bigint, "
            "chunk_count integer, lowered_title text",
        ),
        (
            "chunks",
            "chunk_id bigint, page_id bigint, position integer, section text, text text, text_key text, "
            "lowered_section text",
        ),
        ("tombstones", "chunk_id bigint"),
    ]
    compared = f"SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = '{written.name}'"
    assert set(raw(written, compared)) == {("C",), (None,)}  # by their bytes, whatever the database's language
    indexes = raw(written, f"SELECT indexname FROM pg_indexes WHERE schemaname = '{written.name}' ORDER BY 1")
    assert [name for (name,) in indexes] == [
        *("articles_pkey", "chunks_pkey", "keys", "sections", "titles", "tombstones_pkey")
    ]


def test_a_reader_leaves_no_transaction_open(written: Schema) -> None:
    with Store.open(written) as store, Store.create_or_resume(written) as writer:
        store.articles()
        writer.articles()
        states = raw(
            written, "SELECT state FROM pg_stat_activity WHERE query LIKE '%first_chunk%' AND pid <> pg_backend_pid()"
        )
    assert set(states) == {("idle",)}


# -- texts -----------------------------------------------------------------------------------------------


def test_lower_case_is_duckdbs_for_every_letter(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    with Store.create_or_resume(tmp_path / "chunks.duckdb") as store:
        ((lowered,),) = store._rows(sa.select(store._dialect.lowered("".join(letters))))
    assert lowered == "".join(_lower(letter) for letter in letters)
    assert (_lower("ΣΑΣ ΟΣ"), _lower("İİ")) == ("σασ οσ", "ii")  # whatever is beside them


def test_the_one_character_that_cannot_be_held_is_replaced(schema: Schema) -> None:
    with Store.create_or_resume(schema) as store:
        store.add([entry(1, "a\0b", ("c\0d", "e\0f"))])
        (found,) = store.chunks([0])
        assert (found.title, found.chunk.section, found.chunk.text) == ("a\ufffdb", "c\ufffdd", "e\ufffdf")
        assert store.article_titled("A\0B").page_id == 1
        assert store.ids_where(Filter(sections=("C\0D",))).tolist() == [0]
        assert [row.page_id for row in store.titles("A\0", 3)] == [1]
        with pytest.raises(LookaheadError, match="no article is titled"):
            store.article_titled("\0")


def test_titles_and_sections_may_be_longer_than_an_index_takes(schema: Schema) -> None:
    long = "".join(chr(0x4E00 + secrets.randbelow(20_000)) for _ in range(9000))
    with Store.create_or_resume(schema) as store:
        store.add([entry(1, long, (long, "a")), entry(2, long + "!", (long + "!", "b"))])
        store.checkpoint()
        assert store.article_titled(long + "!").page_id == 2
        assert store.article(1).title == long
        assert store.chunks([0])[0].chunk.section == long


def test_more_ids_than_a_statement_takes_parameters_are_asked_for_at_once(schema: Schema) -> None:
    many = range(70_000)
    with Store.create_or_resume(schema) as store:
        store.add([entry(page, str(page), "") for page in range(3)])
        assert store.ids_where(Filter(page_ids=(2, 0))).tolist() == [0, 2]
        keys = [store.chunks([0])[0].text_key, *map(str, many)]
        assert store.ids_of_texts(keys).tolist() == [0, 1, 2]
        with pytest.raises(LookaheadError, match="no chunk has the id 3"):
            store.chunks(many)
        assert store.remove(many) == 3


def test_the_nearest_titles_are_neighbours_or_share_a_word(schema: Schema) -> None:
    with Store.create_or_resume(schema) as store:
        store.add([entry(page, f"{'Bridge' if page % 2 else 'Tower'} {page}") for page in range(500)])
        store.add([entry(600, "Suez Canal"), entry(601, "Zürich"), entry(602, "Bridge of Sighs")])
        for asked, nearest in [
            ("Zuez Canal", "Suez Canal"),
            ("zurich", "Zürich"),
            ("bridge of sigh", "Bridge of Sighs"),
        ]:
            with pytest.raises(LookaheadError, match=f'no article is titled "{asked}"; the nearest are "{nearest}"'):
                store.article_titled(asked)


def test_titles_come_in_the_order_of_their_bytes_whatever_the_language(schema: Schema) -> None:
    with Store.create_or_resume(schema) as store:
        store.add([entry(page, title) for page, title in enumerate(["an ä", "an Z", "an a", "an É", "Ann", "Can"])])
        assert [row.title for row in store.titles("AN", 6)] == ["Ann", "an a", "an Z", "an ä", "an É", "Can"]


def test_what_is_asked_for_is_no_part_of_the_statement(schema: Schema) -> None:
    with Store.create_or_resume(Schema(schema.url, f'"; %s {schema.name}')) as store:
        store.add([entry(1, "100% '); DROP TABLE chunks; --", ("%(a)s", "{ids}"))])
        assert store.article_titled("100% '); drop table chunks; --").page_id == 1
        assert store.ids_where(Filter(sections=("%(A)s",))).tolist() == [0]
        store.checkpoint()
        assert texts(store, [0]) == ["{ids}"]
    drop(Schema(schema.url, f'"; %s {schema.name}'))
