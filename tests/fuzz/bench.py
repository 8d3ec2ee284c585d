"""The database of a case: the table, the oracle's, one to try rows in, and one that stays as the table was."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn
from psycopg2.sql import SQL, Identifier, Literal

from tests.fuzz.case import Case, Content, Table
from tests.fuzz.types import CREATED_ELSEWHERE
from tests.oracle import Oracle, Replay, Row, Rows, copy_text, differing_rows
from tests.spellings import CREATED


@dataclass
class Bench:
    """A database of its own for a case, with the table, the oracle's, and one to try rows in."""

    case: Case
    dsn: str
    connection: Any  # reads texts as the database says
    directory: Path
    tables: dict[str, Table]

    def execute(self, statement: Any) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def differences(self, left: str, right: str) -> list[tuple[str, str]]:
        """Rows that one table has and the other has not; of what sequences make nothing is promised."""
        carried = (
            set.intersection(*(set(content.columns) for content in self.case.contents)) if right != "initial" else set()
        )
        columns = [
            column.name for column in self.case.table.columns if "IDENTITY" not in column.more or column.name in carried
        ]
        with closing(psycopg2.connect(self.dsn, client_encoding="UTF8")) as reader:
            reader.autocommit = True
            return differing_rows(reader, self.tables[left].sql, self.tables[right].sql, columns)

    def replay(self, table: str) -> Replay:
        """The oracle of a case with options of writing."""
        target, options, write = self.tables[table], self.case.options, self.case.writing.options
        missing, delete = write.get("missing"), write.get("delete", {})
        cleared = missing["soft"] if isinstance(missing, dict) else None
        return Replay(
            target.sql, target.arbiter, options["on_conflict"], options["order_by"], key_columns=target.key,
            nulls_are_equal="NULLS NOT DISTINCT" in " ".join(target.more), mark=self.case.writing.mark or None,
            file_names=tuple(str(self.directory / content.path) for content in self.case.contents),
            soft=delete.get("soft"), update=write.get("update"), insert_only=write.get("insert_only", ()),
            keeps_nulls="nulls" in write, rows=write.get("rows", "all"), set=write.get("set", {}),
            cleared=cleared, missing="soft" if cleared else missing, scope=write.get("scope", "true"),
        )  # fmt: skip

    def oracle(self, table: str) -> Oracle:
        target = self.tables[table]
        options = self.case.options
        return Oracle(
            target.sql,
            target.key,
            options["on_conflict"],
            options["order_by"],
            key=target.arbiter,
            predicate=target.predicate,
            settings={},
        )

    def expected(self, content: Content) -> Rows:
        """What the content says, as texts. An instant becomes the local time of the server's zone where there is no other.

        A mapping in a cell of pandas becomes JSON as Python spells it, one of Arrow as DuckDB does.
        """
        rows, declared = content.expected, {column.name: column.type for column in self.case.table.columns}
        declared[self.case.writing.mark] = "text"
        has_mappings = content.form == "pandas" and content.flavour != "pyarrow"
        for place, (name, kind) in enumerate(zip(content.columns, content.kinds, strict=True)):
            if kind.startswith("timestamp[") and "," in kind and declared[name] in ("timestamp", "date"):
                read = SQL("SELECT {}::timestamptz::{}::text")
                local = {
                    row[place]: self.execute(read.format(Literal(row[place]), SQL(declared[name])))[0][0] for row in rows.rows
                }  # fmt: skip
            elif kind == "struct" and has_mappings and declared[name] == "json":
                texts = {row[place] for row in rows.rows}
                local = {text: text and json.dumps(json.loads(text), ensure_ascii=False) for text in texts}
            else:
                continue
            rows = Rows(rows.columns, tuple((*row[:place], local[row[place]], *row[place + 1 :]) for row in rows.rows))
        return rows

    def refusals(self, content: Rows) -> dict[int, str]:
        """The places of the rows that the table would not take, and why."""
        if self._takes_all(content):
            return {}
        return {at: reason for at in range(len(content.rows)) if (reason := self.refusal(content, at))}

    def _takes_all(self, content: Rows) -> bool:
        """Whether that can be seen of all rows at once: where nothing but columns and constraints may refuse one."""
        target = self.tables["probe"]
        if (
            target.tail
            or target.statements
            or target.predicate
            or any(len(row) != len(content.columns) for row in content.rows)
        ):
            return False
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                cursor.execute(f"CREATE TEMP TABLE everything (LIKE {target.sql} INCLUDING ALL EXCLUDING INDEXES)")
                self._copy(cursor, SQL("everything"), content.columns, content.rows)
                cursor.execute(
                    f"SELECT FROM everything WHERE {' OR '.join(f'{part} IS NOT DISTINCT FROM NULL' for part in target.arbiter)} LIMIT 1"
                )
                return cursor.fetchone() is None
            except psycopg2.Error:
                return False
            finally:
                cursor.execute("ROLLBACK")

    def _copy(self, cursor: Any, table: Any, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """COPY rows into a table, without the columns that the server makes."""
        made = {
            column.name for column in self.case.table.columns if "STORED" in column.more or "VIRTUAL" in column.more
        } | {self.case.writing.mark}
        places = [at for at, name in enumerate(columns) if name not in made]
        names = SQL(", ").join(Identifier(columns[at]) for at in places)
        statement = SQL("COPY {} ({}) FROM STDIN").format(table, names).as_string(cursor)
        cursor.copy_expert(statement, io.StringIO(copy_text([[row[at] for at in places] for row in rows])))

    def refusal(self, content: Rows, place: int) -> str | None:
        """Why the table would not take this row, whatever else is in it."""
        row, target = content.rows[place], self.tables["probe"]
        if len(row) != len(content.columns):
            return "fields"
        if self.case.writing.mark in content.columns and row[content.columns.index(self.case.writing.mark)] == "D":
            # Of a tombstone only the key is read, and what orders it.
            target = self.tables["dead"]
            read = [
                at for at, name in enumerate(content.columns) if name in (*target.key, self.case.options["order_by"])
            ]
            content = Rows(tuple(content.columns[at] for at in read), ())
            row = tuple(row[at] for at in read)
        conditions = [
            f"({part}) IS NOT DISTINCT FROM NULL"
            for part in target.arbiter
            if "NULLS NOT DISTINCT" not in " ".join(self.case.table.more)
        ]
        conditions += [f"({target.predicate}) IS NOT TRUE"] if target.predicate else []
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                self._copy(cursor, SQL(target.sql), content.columns, [row])
                if conditions:
                    cursor.execute(f"SELECT 1 FROM {target.sql} WHERE {' OR '.join(conditions)}")
                    return "key" if cursor.fetchone() else None
            except psycopg2.Error as error:
                return str(error.pgcode)
            finally:
                cursor.execute("ROLLBACK")
        return None

    def refused_writes(self, content: Rows, left: Sequence[int]) -> set[int]:
        """The places among `left` that are refused when a file is written: the row that counts for each key, in order.

        Refused rows are left out and the file is judged again, until nothing is refused.
        """
        refused: set[int] = set()
        oracle = replace(self.oracle("expected"), order_by=None)
        with self.connection.cursor() as cursor:
            while True:
                bad = set()
                cursor.execute("BEGIN")
                for place in self._counting(cursor, content, [at for at in left if at not in refused]):
                    cursor.execute("SAVEPOINT row")
                    try:
                        oracle._load_file(cursor, Rows(content.columns, (content.rows[place],)))
                        cursor.execute("DROP TABLE etl_oracle")
                    except psycopg2.Error:
                        cursor.execute("ROLLBACK TO SAVEPOINT row")
                        bad.add(place)
                cursor.execute("ROLLBACK")
                if not bad:
                    return refused
                refused |= bad

    def _counting(self, cursor: Any, content: Rows, left: Sequence[int]) -> list[int]:
        """The places of the rows that count, one for each key as the index compares it."""
        target = self.tables["probe"]
        cursor.execute(
            f"CREATE TEMP TABLE counted ON COMMIT DROP AS SELECT 0 AS etl_at, * FROM {target.sql} WITH NO DATA"
        )
        rows = [(str(at), *content.rows[at]) for at in left]
        self._copy(cursor, SQL("counted"), ("etl_at", *content.columns), rows)
        order = "etl_at" if self.case.options["on_conflict"] == "ignore" else "etl_at DESC"
        key = ", ".join(target.arbiter)
        cursor.execute(f"SELECT DISTINCT ON ({key}) etl_at FROM counted ORDER BY {key}, {order}")
        return sorted(row[0] for row in cursor.fetchall())


@contextmanager
def made(case: Case, server: str, admin: Any) -> Iterator[Bench]:
    """Make the database of a case, and drop it afterwards."""
    name = "etl_fuzz"
    with admin.cursor() as cursor:
        cursor.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
        cursor.execute(
            SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE {} STRATEGY file_copy").format(
                Identifier(name), Literal(case.encoding), Literal("C.UTF-8" if case.encoding == "UTF8" else "C")
            )
        )
        for setting, value in case.settings:
            who = "DATABASE {0}" if case.seed % 2 else "ROLE CURRENT_USER IN DATABASE {0}"
            # search_path is a list of names, and nothing else here is one.
            text = SQL(value) if setting == "search_path" else Literal(value)
            cursor.execute(SQL(f"ALTER {who} SET {{1}} = {{2}}").format(Identifier(name), Identifier(setting), text))
    dsn = make_dsn(server, dbname=name)
    connection = psycopg2.connect(dsn, client_encoding="UTF8")
    connection.autocommit = True
    schemas = {"loaded": case.table.schema, "expected": "expected", "probe": "probe", "initial": "initial"}
    tables = {role: replace(case.table, schema=schema) for role, schema in schemas.items()}
    try:
        with tempfile.TemporaryDirectory(prefix="etl_fuzz_") as directory, connection.cursor() as cursor:
            cursor.execute(
                "SET search_path = public; SET statement_timeout = 0; SET idle_session_timeout = 0; SET lock_timeout = 0"
            )
            for setting, option in (("DateStyle", "date_style"), ("TimeZone", "timezone")):
                if value := case.options.get(option):
                    cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
            cursor.execute("CREATE EXTENSION citext; " + CREATED + CREATED_ELSEWHERE)
            # A row is tried without triggers: what they refuse is refused when it is written.
            tables["probe"] = replace(
                tables["probe"], statements=tuple(s for s in case.table.statements if "TRIGGER" not in s)
            )
            bare = tuple(replace(column, more="") for column in case.table.columns)
            tables["dead"] = replace(case.table, schema="dead", columns=bare, more=(), tail="", statements=())
            if case.writing.options.get("rows") == "update" and "nulls" in case.writing.options:
                tables["probe"] = replace(tables["probe"], columns=tuple(
                    replace(column, more=column.more.replace("NOT NULL", "")) for column in tables["probe"].columns
                ))  # fmt: skip
            for table in tables.values():
                cursor.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(table.schema)))
                cursor.execute(table.ddl)
            yield Bench(case, dsn, connection, Path(directory), tables)
    finally:
        connection.close()
