"""The sequential oracle: what loading the files one after the other leaves, in plain SQL and none of the package's code.

Each file is one `INSERT … SELECT DISTINCT ON … ON CONFLICT` in a READ COMMITTED transaction of its own, so the last of
its duplicates wins (the first one for `ignore`) and a later file meets what an earlier one left. What wins is written in the
order of the file: where a second unique index couples rows, another order may collide on the way.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2.sql import SQL, Composable, Identifier

Format = Literal["csv", "quoted", "parquet", "frame", "arrow"]
Row = tuple[str | None, ...]

# Under these settings a row's text says all there is to say about it.
PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "search_path": "public",
}


@dataclass(frozen=True)
class Rows:
    """The content of one file: texts, None for NULL."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


# --- writing it down ---------------------------------------------------------------------------------------------------


def csv_text(content: Rows, *, delimiter: str = ",", quote_all: bool = False) -> str:
    """The content as CSV (RFC 4180, LF): an empty text is quoted, NULL is nothing."""

    def field(text: str | None) -> str:
        if text is None:
            return ""
        if quote_all or text == "" or any(character in text for character in (delimiter, '"', "\n", "\r")):
            return '"' + text.replace('"', '""') + '"'
        return text

    return "".join(delimiter.join(map(field, line)) + "\n" for line in (content.columns, *content.rows))


def arrow_table(content: Rows, *, integers: Sequence[str] = ()) -> pa.Table:
    """The content as an Arrow table of strings, with int64 for the columns named in `integers`."""
    arrays = []
    for number, name in enumerate(content.columns):
        texts = [row[number] for row in content.rows]
        if name in integers:
            arrays.append(pa.array([None if text is None else int(text) for text in texts], pa.int64()))
        else:
            arrays.append(pa.array(texts, pa.string()))
    return pa.table(arrays, names=list(content.columns))


def write(content: Rows, directory: Path, name: str, form: Format, *, integers: Sequence[str] = ()) -> Any:
    """Write the content down in one of the forms that can be loaded; return what to hand to the loader."""
    path = directory / f"{name}.{'parquet' if form == 'parquet' else 'csv'}"
    match form:
        case "csv" | "quoted":
            path.write_bytes(csv_text(content, quote_all=form == "quoted").encode())
            return path
        case "parquet":
            pq.write_table(arrow_table(content, integers=integers), path)
            return path
        case "arrow":
            return arrow_table(content, integers=integers)
        case "frame":
            frame = pd.DataFrame([list(row) for row in content.rows], columns=list(content.columns), dtype="str")
            for column in integers:
                if column in frame.columns:
                    frame[column] = pd.to_numeric(frame[column]).astype("Int64")
            return frame


# --- loading it one after the other --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """A table and the rules of the load. `key` are key parts as SQL, default the quoted key columns."""

    table: str  # as SQL: qualified and quoted where needed
    key_columns: tuple[str, ...]
    action: Literal["update", "ignore", "newer"] = "update"
    order_by: str | None = None
    key: tuple[str, ...] = ()
    predicate: str | None = None
    overriding: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: PINNED)  # under which texts are read

    def load(self, connection: Any, files: Sequence[Rows]) -> None:
        """Load the files in order.

        With `order_by` and `update`, the files first compete in an empty copy of the table, by `newer`; what is left
        there is loaded as one file, whatever the table holds.
        """
        with connection.cursor() as cursor:
            for name, value in self.settings.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            if self.order_by and self.action == "update" and files:
                self._load_winners(connection, cursor, files)
                return
            for content in files:
                cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                self._load_file(cursor, content)
                cursor.execute("COMMIT")

    def load_rejecting(self, connection: Any, files: Sequence[Rows]) -> set[tuple[int, int]]:
        """Load the files in order, row by row, without those that are refused; return these as (file, record).

        A row that an empty table of this kind would refuse is bad by itself. Of the others, the one that counts for each key
        of a file is written in the order of the file; where any is refused, the file starts again without it.
        """
        refused: set[tuple[int, int]] = set()
        with connection.cursor() as cursor:
            for name, value in self.settings.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            for number, content in enumerate(files):
                cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                cursor.execute(f"CREATE TEMP TABLE arena (LIKE {self.table} INCLUDING ALL) ON COMMIT DROP")
                alone = replace(self, table="arena", action="update", order_by=None)
                described = self._stage(cursor)
                left = [
                    place for place, row in enumerate(content.rows)
                    if alone._is_taken(cursor, Rows(content.columns, (row,)), described, keep=False)
                ]  # fmt: skip
                while True:
                    cursor.execute("SAVEPOINT file")
                    bad = {
                        place for place in self._counting(content, left)
                        if not self._is_taken(cursor, Rows(content.columns, (content.rows[place],)), described, keep=True)
                    }  # fmt: skip
                    if not bad:
                        break
                    cursor.execute("ROLLBACK TO SAVEPOINT file")
                    left = [place for place in left if place not in bad]
                refused |= {(number, place) for place in set(range(len(content.rows))) - set(left)}
                cursor.execute("COMMIT")
        return refused

    def _counting(self, content: Rows, places: Sequence[int]) -> list[int]:
        """The places of the rows that count, one for each key."""
        at = [content.columns.index(name) for name in self.key_columns]
        keys = [tuple(content.rows[place][number] for number in at) for place in places]
        of_key = dict(zip(keys, places, strict=True))
        if self.action == "ignore":
            of_key = dict(zip(reversed(keys), reversed(places), strict=True))
        return sorted(of_key.values())

    def _is_taken(self, cursor: Any, content: Rows, described: Sequence[tuple[str, str, str]], *, keep: bool) -> bool:
        cursor.execute("SAVEPOINT row")
        try:
            self._merge(cursor, content, described)
            cursor.execute("DELETE FROM etl_oracle")
        except psycopg2.Error:
            cursor.execute("ROLLBACK TO SAVEPOINT row")
            return False
        if not keep:
            cursor.execute("ROLLBACK TO SAVEPOINT row")
        return True

    def _load_winners(self, connection: Any, cursor: Any, files: Sequence[Rows]) -> None:
        cursor.execute(f"CREATE TEMP TABLE arena (LIKE {self.table} INCLUDING ALL)")
        replace(self, table="arena", action="newer").load(connection, files)
        columns = files[0].columns
        texts = SQL(", ").join(SQL("{}::text").format(Identifier(name)) for name in columns)
        cursor.execute(SQL("SET extra_float_digits = 1; SELECT {} FROM arena").format(texts))
        winners = Rows(columns, tuple(cursor.fetchall()))
        cursor.execute("DROP TABLE arena")
        replace(self, order_by=None).load(connection, [winners])

    def _load_file(self, cursor: Any, content: Rows) -> None:
        self._merge(cursor, content, self._stage(cursor))

    def _stage(self, cursor: Any) -> list[tuple[str, str, str]]:
        """A new table for what COPY reads; return the columns of ours, and whether they are generated or an identity."""
        cursor.execute(
            "SELECT attname, attgenerated::text, attidentity::text FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (self.table,),
        )
        described: list[tuple[str, str, str]] = cursor.fetchall()
        cursor.execute(
            f"CREATE TEMP TABLE etl_oracle (LIKE {self.table} INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DROP"
        )
        for name, _, identity in described:
            if identity:
                cursor.execute(SQL("ALTER TABLE etl_oracle ALTER {} DROP NOT NULL").format(Identifier(name)))
        return described

    def _merge(self, cursor: Any, content: Rows, described: Sequence[tuple[str, str, str]]) -> None:
        """Stage the texts as COPY reads them, and merge them. COPY appends to a new table, so `ctid` is the order of rows."""
        writable = {name for name, generated, _ in described if not generated}
        always = {name for name, _, identity in described if identity == "a"}
        places = [number for number, name in enumerate(content.columns) if name in writable]
        own = [content.columns[number] for number in places]
        names = SQL(", ").join(map(Identifier, own))
        data = copy_text([[row[number] for number in places] for row in content.rows])
        cursor.copy_expert(SQL("COPY etl_oracle ({}) FROM STDIN").format(names).as_string(cursor), io.StringIO(data))
        key = SQL(", ").join(map(SQL, self.key)) if self.key else SQL(", ").join(map(Identifier, self.key_columns))
        place = SQL("ctid") if self.action == "ignore" else SQL("ctid DESC")
        if self.order_by and self.action != "ignore":
            place = SQL("{} DESC NULLS LAST, {}").format(Identifier(self.order_by), place)
        changed = [name for name in own if name not in self.key_columns and name not in always]
        resolution: Composable = SQL("DO NOTHING")
        if changed and self.action != "ignore":
            resolution = SQL("DO UPDATE SET {}").format(
                SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(name)) for name in changed)
            )
        if changed and self.action == "newer":
            assert self.order_by is not None
            column = Identifier(self.order_by)
            resolution += SQL(
                " WHERE coalesce(excluded.{0} >= present.{0}, present.{0} IS NULL)"  # NULL is lowest, a tie is ours
            ).format(column)
        arbiter = SQL("({})").format(key) + SQL(f" WHERE {self.predicate}" if self.predicate else "")
        cursor.execute(
            SQL(
                "INSERT INTO {table} AS present ({names}){overriding} "
                "SELECT {names} FROM (SELECT DISTINCT ON ({key}) ctid, * FROM etl_oracle ORDER BY {key}, {place}) AS last "
                "ORDER BY ctid ON CONFLICT {arbiter} {resolution}"
            ).format(
                table=SQL(self.table), names=names, key=key, place=place, arbiter=arbiter, resolution=resolution,
                overriding=SQL(" OVERRIDING SYSTEM VALUE" if self.overriding or always & set(own) else ""),
            )
        )  # fmt: skip


# --- options of writing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """The options of writing, replayed on a table: every row is applied by itself, in the order of the files and of their rows.

    With `order_by` one row counts for each key of the load: the greatest, of equal ones the last.
    """

    table: str
    key: str | tuple[str, ...]  # a column, or the parts of the index, as SQL
    action: Literal["update", "ignore", "newer"] = "update"
    order_by: str | None = None
    key_columns: tuple[str, ...] = ()  # those of the parts
    nulls_are_equal: bool = False
    file_names: tuple[str, ...] = ()  # what `$file` is; the number of the file if not given
    mark: str | None = None  # the column that marks tombstones
    marks: tuple[str, ...] = ("D",)
    soft: str | None = None
    update: tuple[str, ...] | None = None
    insert_only: tuple[str, ...] = ()
    keeps_nulls: bool = False
    rows: Literal["all", "update", "insert"] = "all"
    set: Mapping[str, str] = field(default_factory=dict)  # `$file` is the number of the file
    cleared: str | None = None  # the column that marks missing keys
    missing: Literal["delete", "soft"] | None = None
    scope: str = "true"
    _facts: dict[str, Any] = field(default_factory=dict, compare=False)  # of the table, found out once for each load

    def load(self, connection: Any, files: Sequence[Rows]) -> None:
        """Load the files, whose values are texts."""
        with connection.cursor() as cursor:
            self._stage(cursor)
            for number, content in enumerate(self._winners(cursor, files) if self.order_by else files):
                before, inserted = self._images(cursor), set()
                for values in content.rows:
                    inserted.add(self._apply(cursor, dict(zip(content.columns, values, strict=True))))
                for key, image in self._images(cursor).items():
                    if before.get(key) != image or key in inserted:
                        self._mark(cursor, key, number)
            if self.missing and any(content.rows for content in files):
                self._remove(cursor, files)
            cursor.execute("DROP TABLE etl_row")

    def _stage(self, cursor: Any) -> None:
        """A table for one row at a time, in the types of the table: values and keys are what the server makes of them."""
        cursor.execute(
            f"DROP TABLE IF EXISTS pg_temp.etl_row; CREATE TEMP TABLE etl_row AS SELECT * FROM {self.table} WITH NO DATA"
        )
        cursor.execute(
            "SELECT attname, atttypid = 'boolean'::regtype, attgenerated = '' FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (self.table,),
        )
        columns = cursor.fetchall()
        self._facts["columns"] = [name for name, _, is_ours in columns if is_ours]
        self._facts["booleans"] = {name for name, is_boolean, _ in columns if is_boolean}

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.key if isinstance(self.key, tuple) else (self.key,)

    def _keys(self, source: str, more: str = "") -> str:
        """The rows of a table by their keys: k0, …"""
        parts = ", ".join(f"{part} AS k{number}" for number, part in enumerate(self._parts))
        return f"(SELECT {parts}{more} FROM {source})"

    def _same(self, left: str, right: str) -> str:
        """Whether two keys are the same to the index."""
        test = "{0}.k{2} IS NOT DISTINCT FROM {1}.k{2}" if self.nulls_are_equal else "{0}.k{2} = {1}.k{2}"
        return " AND ".join(test.format(left, right, number) for number in range(len(self._parts)))

    def _mark(self, cursor: Any, key: str, number: int) -> None:
        """Set the columns that go with every change of a row."""
        for name, text in self.set.items():
            value = (self.file_names[number] if self.file_names else str(number)) if text == "$file" else text
            # Composed in: a `%` in a name would be a parameter.
            texts = [cursor.mogrify("%s", (item,)).decode() for item in (value, key)]
            cursor.execute(
                f"UPDATE {self.table} SET {name} = {texts[0]} WHERE ROW({', '.join(self._parts)})::text = {texts[1]}"
            )

    def _remove(self, cursor: Any, files: Sequence[Rows]) -> None:
        """Delete the keys that are in no file, or mark their rows."""
        cursor.execute("DELETE FROM etl_row")
        for content in files:
            for values in content.rows:
                self._copy(cursor, dict(zip(content.columns, values, strict=True)), self.key_columns or self._parts)
        unmarked = f"{self.cleared} IS NULL" if self.cleared else "true"
        mark = "'-infinity'"
        if self.cleared in self._facts["booleans"]:
            unmarked, mark = f"{self.cleared} IS NOT TRUE", "true"
        known = "true" if self.nulls_are_equal else " AND ".join(f"{part} IS NOT NULL" for part in self._parts)
        # No file is the one that changed the row last.
        marks = [
            f"{name} = " + cursor.mogrify("%s", (text,)).decode() for name, text in self.set.items() if text != "$file"
        ]
        sets = ", ".join([f"{self.cleared} = {mark}", *marks])
        done = f"UPDATE {self.table} SET {sets}" if self.cleared else f"DELETE FROM {self.table}"
        gone = self._keys(f"{self.table} WHERE ({self.scope}) AND {unmarked} AND {known}", ", tableoid AS t, ctid AS c")
        cursor.execute(
            f"{done} WHERE (tableoid, ctid) IN (SELECT t, c FROM {gone} a WHERE NOT EXISTS "
            f"(SELECT FROM {self._keys('etl_row')} b WHERE {self._same('a', 'b')}))"
        )

    def _copy(self, cursor: Any, row: Mapping[str, str | None], names: Sequence[str]) -> None:
        """Add a row to those that are staged, with these of its columns."""
        listed = SQL(", ").join(map(Identifier, names)).as_string(cursor)
        cursor.copy_expert(
            f"COPY etl_row ({listed}) FROM STDIN", io.StringIO(copy_text([[row[name] for name in names]]))
        )

    def load_rejecting(self, connection: Any, files: Sequence[Rows], ddl: str) -> set[tuple[int, int]]:
        """Load the files without the rows that are refused; return these as (file, record).

        A row that an empty table, made by `ddl`, would refuse as one to insert is bad by itself. What the others of a key leave
        is written at once, in the order of the last of them (the first one where rows that are there are not updated). If it is
        refused, the row is refused up to which they first leave something that is; the file starts again without it.
        """
        refused: set[tuple[int, int]] = set()
        keeps_first = self.rows == "insert" or self.action == "ignore"
        is_composed = bool(self.keeps_nulls or self.update is not None or self.insert_only or self.mark)
        with connection.cursor() as cursor:
            for number, content in enumerate(files):
                cursor.execute(f"BEGIN; CREATE TEMP TABLE shadow (LIKE {self.table} INCLUDING DEFAULTS) ON COMMIT DROP")
                self._stage(cursor)
                cursor.execute(ddl.replace("@", "pg_temp.arena"))
                rows = [dict(zip(content.columns, values, strict=True)) for values in content.rows]
                bad = {
                    place for place, row in enumerate(rows)
                    if not self._is_gone(row) and not self._is_written(cursor, "pg_temp.arena", [row], keep=False)
                }  # fmt: skip
                left = [place for place in range(len(rows)) if place not in bad]
                while True:
                    cursor.execute("SAVEPOINT file")
                    of_key: dict[str | None, list[int]] = {}
                    for place in left:
                        of_key.setdefault(rows[place][self.key], []).append(place)
                    bad = set()
                    if not is_composed:
                        of_key = {key: places[:1] if keeps_first else places[-1:] for key, places in of_key.items()}
                    for places in sorted(of_key.values(), key=lambda places: places[0 if keeps_first else -1]):
                        if self._is_written(cursor, self.table, [rows[place] for place in places], keep=True):
                            continue
                        parts = [[rows[at] for at in places[:end]] for end in range(1, len(places))]
                        taken = [self._is_written(cursor, self.table, part, keep=False) for part in parts]
                        bad.add(places[[*taken, False].index(False)])
                    if not bad:
                        break
                    cursor.execute("ROLLBACK TO SAVEPOINT file")
                    left = [place for place in left if place not in bad]
                refused |= {(number, place) for place in set(range(len(rows))) - set(left)}
                cursor.execute("COMMIT")
        return refused

    def _is_written(self, cursor: Any, table: str, rows: Sequence[dict[str, str | None]], *, keep: bool) -> bool:
        """Apply rows of one key to a copy of the row that is there, and write what they leave. Says whether the table takes it."""
        key = rows[0][self.key]
        there, copy = f"{table} t WHERE {self.key} = %s", replace(self, table="shadow")
        cursor.execute(f"DELETE FROM shadow; INSERT INTO shadow SELECT t.* FROM {there}", (key,))
        is_reset, found = False, bool(cursor.rowcount)
        for row in rows:
            copy._apply(cursor, row)
            cursor.execute("SELECT FROM shadow")
            is_reset |= found and not cursor.rowcount
        is_left = bool(cursor.rowcount)
        names = [name for name in [*rows[0], *self.set] if name != self.mark]
        cursor.execute("SAVEPOINT row")
        try:
            if is_reset:
                cursor.execute(f"DELETE FROM {there}", (key,))
            if is_left and (is_reset or not found):
                cursor.execute(f"UPDATE shadow SET {', '.join(f'{n} = {v!r}' for n, v in self.set.items()) or 'k = k'}")
                cursor.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(names)} FROM shadow")
            elif is_left:
                changes = ", ".join(
                    [f"{n} = s.{n}" for n in rows[0] if n != self.mark] + [f"{n} = {v!r}" for n, v in self.set.items()]
                )
                cursor.execute(
                    f"UPDATE {table} t SET {changes} FROM shadow s WHERE t.{self.key} = s.{self.key} AND t IS DISTINCT FROM s"
                )
        except psycopg2.Error:
            cursor.execute("ROLLBACK TO SAVEPOINT row")
            return False
        if not keep:
            cursor.execute("ROLLBACK TO SAVEPOINT row")
        return True

    def _is_gone(self, row: Mapping[str, str | None]) -> bool:
        return self.mark is not None and row[self.mark] in self.marks

    def _images(self, cursor: Any) -> dict[str, str]:
        """The rows by their key, but for the columns that go with every change. Nothing where there are none of these."""
        if not self.set:
            return {}
        names = [name for name in self._facts["columns"] if name not in self.set]
        texts = ", ".join(SQL("t.{}").format(Identifier(name)).as_string(cursor) for name in names)
        cursor.execute(f"SELECT ROW({', '.join(self._parts)})::text, ROW({texts})::text FROM {self.table} t")
        return dict(cursor.fetchall())

    def _winners(self, cursor: Any, files: Sequence[Rows]) -> list[Rows]:
        """Per file, the rows that count over all files."""
        cursor.execute("CREATE TEMP TABLE etl_all AS SELECT *, 0 AS etl_file, 0 AS etl_at FROM etl_row WITH NO DATA")
        for number, content in enumerate(files):
            for place, values in enumerate(content.rows):
                row = dict(zip(content.columns, values, strict=True))
                cursor.execute("DELETE FROM etl_row")
                self._copy(cursor, row, [name for name in self._read(row) if name in self._facts["columns"]])
                cursor.execute("INSERT INTO etl_all SELECT *, %s, %s FROM etl_row", (number, place))
        key = ", ".join(self._parts)
        cursor.execute(
            f"SELECT DISTINCT ON ({key}) etl_file, etl_at FROM etl_all "
            f"ORDER BY {key}, {self._quoted(self.order_by)} DESC NULLS LAST, etl_file DESC, etl_at DESC"
        )
        kept = set(cursor.fetchall())
        cursor.execute("DROP TABLE etl_all")
        return [
            Rows(content.columns, tuple(row for place, row in enumerate(content.rows) if (number, place) in kept))
            for number, content in enumerate(files)
        ]

    @staticmethod
    def _quoted(name: str | None) -> str:
        return '"' + str(name).replace('"', '""') + '"'

    def _read(self, row: Mapping[str, str | None]) -> list[str]:
        """The columns of a row that are read: of a tombstone only the key, and what orders it."""
        if not self._is_gone(row):
            return list(row)
        return [name for name in row if name in (self.key_columns or self._parts) or name == self.order_by]

    def _apply(self, cursor: Any, row: Mapping[str, str | None]) -> str | None:
        """Apply one row; return its key as a text if it was inserted."""
        names = [name for name in self._read(row) if name in self._facts["columns"]]
        cursor.execute("DELETE FROM etl_row")
        self._copy(cursor, row, names)
        cursor.execute(
            f"SELECT t, c FROM {self._keys(self.table, ', tableoid AS t, ctid AS c')} a, {self._keys('etl_row')} b "
            f"WHERE {self._same('a', 'b')}"
        )
        found = cursor.fetchone()
        there = f"WHERE t.tableoid = {found[0]} AND t.ctid = '{found[1]}'" if found else ""
        order = self._quoted(self.order_by)
        if found and self.action == "newer":
            newer = f"coalesce((SELECT {order} FROM etl_row) >= t.{order}, t.{order} IS NULL)"
            cursor.execute(f"SELECT {newer} FROM {self.table} t {there}")
            if not cursor.fetchone()[0]:
                return None
        if self._is_gone(row):
            if found:
                self._delete(cursor, there, order)
            return None
        columns = SQL(", ").join(map(Identifier, names)).as_string(cursor)
        cleared = self.soft or self.cleared
        empty = "false" if cleared in self._facts["booleans"] else "NULL"
        if not found:
            if self.rows == "update":
                return None
            more = (f", {cleared}", f", {empty}") if empty == "false" else ("", "")
            cursor.execute(f"INSERT INTO {self.table} ({columns}{more[0]}) SELECT {columns}{more[1]} FROM etl_row")
            if not self.set:
                return None
            cursor.execute(f"SELECT ROW({', '.join(self._parts)})::text FROM etl_row")
            return str(cursor.fetchone()[0])
        if self.rows == "insert" or self.action == "ignore":
            return None
        changed = [
            self._quoted(name) for name in names
            if name not in (self.key_columns or self._parts)
            and (self.update is None or name in self.update) and name not in self.insert_only
            and not (self.keeps_nulls and row[name] is None)
        ]  # fmt: skip
        sets = [f"{name} = (SELECT {name} FROM etl_row)" for name in changed]
        sets += [f"{cleared} = {empty}"] if cleared else []
        if sets:
            cursor.execute(f"UPDATE {self.table} t SET {', '.join(sets)} {there}")
        return None

    def _delete(self, cursor: Any, there: str, order: str) -> None:
        if not self.soft:
            cursor.execute(f"DELETE FROM {self.table} t {there}")
            return
        # When a row was deleted is no part of the promise: the tests set it to the beginning of time.
        is_boolean = self.soft in self._facts["booleans"]
        sets = f"{self.soft} = " + ("true" if is_boolean else "'-infinity'")
        sets += f", {order} = (SELECT {order} FROM etl_row)" if self.order_by else ""
        unmarked = f"{self.soft} IS NOT TRUE" if is_boolean else f"{self.soft} IS NULL"
        cursor.execute(f"UPDATE {self.table} t SET {sets} {there} AND {unmarked}")


def copy_text(rows: Sequence[Sequence[str | None]]) -> str:
    """The rows in COPY's text format."""
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    return "".join("\t".join("\\N" if text is None else text.translate(escapes) for text in row) + "\n" for row in rows)


# --- comparing ---------------------------------------------------------------------------------------------------------


def differing_rows(connection: Any, a: str, b: str, columns: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Rows of one table that the other lacks, by their text and as often as they lack: ("only in a", row), …

    `columns` compares these alone: generated sequence values and `now()` defaults are no part of the promise.
    """
    names = SQL(", ").join(map(Identifier, columns)) if columns is not None else SQL("*")
    texts = {name: SQL("SELECT x::text FROM (SELECT {} FROM {}) AS x").format(names, SQL(name)) for name in (a, b)}
    found: list[tuple[str, str]] = []
    with connection.cursor() as cursor:
        for name, value in PINNED.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        for left, right, label in ((a, b, "only in a"), (b, a, "only in b")):
            cursor.execute(SQL("{} EXCEPT ALL {} ORDER BY 1").format(texts[left], texts[right]))
            found += [(label, row[0]) for row in cursor.fetchall()]
    return found


def same_rows(connection: Any, a: str, b: str, columns: Sequence[str] | None = None) -> bool:
    """Whether two tables hold the same rows, told by their text, each as often."""
    return not differing_rows(connection, a, b, columns)
