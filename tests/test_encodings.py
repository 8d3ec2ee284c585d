"""Databases in other encodings than UTF-8, and clients that a role or the environment tells to use another one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from etl_toolkit import ConflictAwareProcessor, ingest
from etl_toolkit.errors import EtlError, RejectLimitError
from etl_toolkit.explain import explain
from etl_toolkit.loading import failpoints, ledger
from etl_toolkit.loading.ledger.spelling import CODECS, read, spell
from etl_toolkit.model import Column, Strategy
from etl_toolkit.rejected import export_rejects, list_rejects

ENCODINGS = ("LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII", "UTF8")
# Of each, a text that the database has characters for, and one that it has not.
TEXTS = {"LATIN1": ("größe", "5 €"), "WIN1252": ("5 €", "日本"), "EUC_JP": ("日本", "größe €"), "SQL_ASCII": ("日本", None), "UTF8": ("日本€", None)}  # fmt: skip


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoded(dsn: str, _admin: Connection, encoding: str) -> Iterator[tuple[str, Connection]]:
    """DSN of a database in that encoding, and a connection that speaks UTF-8 with it."""
    name = f"etl_test_{uuid.uuid4().hex[:12]}"
    with _admin.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
    created = make_dsn(dsn, dbname=name)
    connection = psycopg2.connect(created, client_encoding="UTF8")
    connection.autocommit = True
    yield created, connection
    connection.close()
    with _admin.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def contents(connection: Connection, table: str = "t") -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY 1, 2").format(sql.Identifier(table)))
        return cursor.fetchall()


class TestTheDatabases:
    def test_names_and_values_arrive_by_every_strategy(
        self, encoded: tuple[str, Connection], encoding: str, tmp_path: Path
    ) -> None:
        database, connection = encoded
        has, _ = TEXTS[encoding]
        path = tmp_path / f"{has}.csv"
        path.write_text(f"id,{has}\n1,{has}\n2,x\n", encoding="utf-8")
        other = tmp_path / "文書€ß.csv"  # no database but one in UTF-8 has all of these
        other.write_text(f"id,{has}\n2,{has}'s\n3,\\\n", encoding="utf-8")
        for strategy in Strategy:
            if strategy is Strategy.FULL_PARALLEL:
                continue  # the files share a key
            with connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, {} text)").format(
                        sql.Identifier(has)
                    )
                )
            result = ingest([path, other], "t", "id", database, strategy=strategy)
            assert contents(connection) == [(1, has), (2, f"{has}'s"), (3, "\\")], strategy
        past = ledger.find_run(connection, result.run_id)
        assert [name for _, name, _ in past.files] == [str(path), str(other)]
        assert explain(database, "t", {"id": "2"}).notes == ()

    def test_a_text_beyond_the_encoding_is_a_reject_with_file_and_line(
        self, encoded: tuple[str, Connection], encoding: str, tmp_path: Path
    ) -> None:
        database, connection = encoded
        has, lacks = TEXTS[encoding]
        if lacks is None:
            pytest.skip("this one takes any text")
        lines = [f'1,"{has}"', f'2,"{lacks}', f"it's \\ {lacks}\"", "3,y", f"x,{lacks}", "x,y"]
        path = tmp_path / f"{lacks}.csv"
        path.write_text(
            f"id,v,{lacks}\n"
            + "".join(f"{line},\n" if '"' not in line or line[-1] == '"' else f"{line}\n" for line in lines)
        )
        for strategy in (Strategy.PARTITIONED, Strategy.DETERMINISTIC, Strategy.STREAMING):
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v text)")
            with pytest.raises(RejectLimitError, match=r"\.csv, line .*22P05"):
                ingest(path, "t", "id", database, strategy=strategy, extra_columns="ignore")
            result = ingest(path, "t", "id", database, strategy=strategy, max_rejects=3, extra_columns="ignore")
            assert contents(connection) == [(1, has), (3, "y")], strategy
            found = list_rejects(connection, result.run_id)
            assert [(row.line, row.sqlstate) for row in found] == [(3, "22P05"), (6, "22P05"), (7, "22P02")], strategy
            assert {row.file for row in found} == {str(path)}
        out = tmp_path / "out.csv"
        export_rejects(connection, result.run_id, out)
        assert out.read_text() == f'id,v,{lacks}\n2,"{lacks}\nit\'s \\ {lacks}",\nx,{lacks},\nx,y,\n'
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM etl_toolkit.runs WHERE status = 'running'")
            assert cursor.fetchone() == (0,)

    def test_a_loser_beyond_the_encoding_is_a_reject(
        self, encoded: tuple[str, Connection], encoding: str, tmp_path: Path
    ) -> None:
        """It is never sent: whether the server would take it must not be taken for granted."""
        database, connection = encoded
        has, lacks = TEXTS[encoding]
        if lacks is None:
            pytest.skip("this one takes any text")
        for number, text in enumerate((lacks, has, "x")):
            (tmp_path / f"{number}.csv").write_text(f'id,v\n1,{text}\n2,"{text}"\n')
        for strategy in (Strategy.PARTITIONED, Strategy.DETERMINISTIC):
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v text)")
            counts = ingest(f"{tmp_path}/*.csv", "t", "id", database, strategy=strategy, max_rejects=2).counts
            assert (counts.rejected, counts.inserted + counts.updated + counts.superseded_later_file) == (2, 4), (
                strategy
            )

    @pytest.mark.parametrize("encoding", ["EUC_JP"], indirect=True)
    def test_keys_are_compared_in_the_encoding_of_the_database(
        self, encoded: tuple[str, Connection], tmp_path: Path
    ) -> None:
        """EUC_JP has one character for both of these bars, which are two to this machine."""
        database, connection = encoded
        with connection.cursor() as cursor:
            cursor.execute("SELECT '¦' = '￤'")
            assert cursor.fetchone() == (True,)
            cursor.execute("CREATE TABLE t (k text PRIMARY KEY, v int)")
        for number, text in enumerate("¦￤"):
            (tmp_path / f"{number}.csv").write_text(f"k,v\n{text},{number}\na{number},0\n")
        result = ingest(f"{tmp_path}/*.csv", "t", "k", database)
        assert (len(contents(connection)), result.counts.superseded_later_file) == (3, 1)

    @pytest.mark.parametrize("encoding", ["EUC_JP"], indirect=True)
    def test_keys_would_meet_if_they_were_compared_as_unicode(
        self, encoded: tuple[str, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("etl_toolkit.target.columns.Column", lambda **facts: Column(**{**facts, "is_utf8": True}))
        with pytest.raises((EtlError, AssertionError)):
            self.test_keys_are_compared_in_the_encoding_of_the_database(encoded, tmp_path)

    def test_a_run_is_resumed_whose_files_the_encoding_cannot_name(
        self, encoded: tuple[str, Connection], encoding: str, tmp_path: Path
    ) -> None:
        database, connection = encoded
        path = tmp_path / "文書€ß's.csv"
        path.write_text("id,v\n1,a\n")
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")

        def stop() -> None:
            raise KeyboardInterrupt

        with failpoints.installed({"begun": stop}), pytest.raises(KeyboardInterrupt):
            ingest(path, "t", "id", database)
        with connection.cursor() as cursor:
            cursor.execute("SELECT run_id FROM etl_toolkit.runs")
            assert ConflictAwareProcessor(database).resume(cursor.fetchone()[0])
        assert contents(connection) == [(1, "a")]


class TestTheClients:
    @pytest.mark.parametrize("whose", ["ROLE CURRENT_USER IN DATABASE {}", "DATABASE {}"])
    def test_encoding_is_ours_whatever_the_role_or_the_database_sets(
        self, database: str, connection: Connection, tmp_path: Path, whose: str
    ) -> None:
        name = connection.info.dbname
        with connection.cursor() as cursor:
            cursor.execute(
                f"ALTER {whose.format(name)} SET client_encoding = 'LATIN1'; CREATE TABLE t (id int PRIMARY KEY, größe text)"
            )
        path = tmp_path / "é.csv"
        path.write_text("id,größe\n1,日本 €\n")
        result = ingest(path, "t", "id", database)
        assert contents(connection) == [(1, "日本 €")]
        assert [name for _, name, _ in ledger.find_run(connection, result.run_id).files] == [str(path)]


class TestTheLedger:
    @pytest.mark.parametrize("text", ["größe", "5 €", "日本", "it's", "a\\b €", "U&'x'", "€'", "\\+0€", "𝄞", ""])
    @pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "UTF8", "SQL_ASCII"])
    def test_gives_back_every_text(self, text: str, encoding: str) -> None:
        kept = spell({"a": [text, (text, 1)]}, encoding)
        assert read(kept, encoding) == ({"a": [text, [text, 1]]} if encoding != "UTF8" else {"a": [text, (text, 1)]})

    @pytest.mark.parametrize("encoding", ["LATIN1"])
    def test_spells_texts_as_sql_does(self, connection: Connection, encoding: str) -> None:
        for text in ("5 €, it's \\ 𝄞", "日本"):
            with connection.cursor() as cursor:
                cursor.execute("SELECT " + spell(text, encoding))
                assert cursor.fetchone() == (text,)

    @pytest.mark.parametrize("encoding", CODECS)
    def test_trusts_in_no_codec_that_knows_more_than_the_server(self, connection: Connection, encoding: str) -> None:
        known: Callable[[str], bool] = lambda character: character.encode(CODECS[encoding], "ignore") != b""  # noqa: E731
        characters = [chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x10000)) if known(chr(code))]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_catalog.convert_to(c, %s)) FROM unnest(%s::text[]) AS c", (encoding, characters)
            )
            assert cursor.fetchone() == (len(characters),)
