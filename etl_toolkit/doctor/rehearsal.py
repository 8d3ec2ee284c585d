"""A load rehearsed in a scratch database: once stopped midway, once undone, the table compared after each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit.doctor.report import Finding, verdict
from etl_toolkit.errors import EtlError, StoppedError
from etl_toolkit.loading.grants import quoted
from etl_toolkit.loading.key_parts import table
from etl_toolkit.loading.run import Event
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import TargetTable
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.request import load_spec
from etl_toolkit.stopping import Stop

REHEARSAL_ROWS = 1_000
ADVICE = "until this passes, it is not known whether the table can be restored; test your own backup"

Fingerprint = tuple[int, str]  # rows, sum of the hashes of the rows' text


class UnprovenError(Exception):
    """The rehearsal cannot be held here; the message says why."""


def fingerprint(connection: Any, target: TargetTable) -> Fingerprint:
    """Return what tells one state of the table from another."""
    with connection.cursor() as cursor:
        cursor.execute(
            SQL(
                "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended(etl_row::text, 0)), 0)::text FROM {} etl_row"
            ).format(table(target))
        )
        rows, hashes = cursor.fetchone()
    return int(rows), str(hashes)


def load_findings(target: TargetTable, scratch: Sessions, directory: Path) -> Iterator[Finding]:
    """Take rows out of the restored table and load them again from two files: once stopped midway, once undone."""
    files = [directory / "rehearsal-1.csv", directory / "rehearsal-2.csv"]
    try:
        with scratch.session("rehearsal") as connection, connection.cursor() as cursor:
            rows = _take_out(cursor, target, files)
            before = fingerprint(connection, target)
            connection.commit()
        if rows < len(files):
            raise UnprovenError(f"the table holds {rows} rows, too few to rehearse a load with")
        yield _stopped_load(target, scratch, files, before)
        yield _undone_load(target, scratch, files, before)
    except (psycopg2.Error, EtlError) as error:
        raise UnprovenError(f"no load can be rehearsed in the scratch database: {str(error).splitlines()[0]}") from None


def _take_out(cursor: Any, target: TargetTable, files: Sequence[Path]) -> int:
    columns = SQL(", ").join(Identifier(column.name) for column in target.columns if not column.is_generated)
    cursor.execute(
        SQL(
            "CREATE TEMP TABLE etl_sample AS SELECT {}, ctid AS etl_place, tableoid AS etl_table FROM {} LIMIT {}"
        ).format(columns, table(target), Literal(REHEARSAL_ROWS))
    )
    share = SQL("SELECT {}, row_number() OVER () % {} AS etl_file FROM etl_sample")
    for number, file in enumerate(files):
        rows = SQL("COPY (SELECT {} FROM ({}) AS s WHERE etl_file = {}) TO STDOUT (FORMAT csv, HEADER)").format(
            columns, share.format(columns, Literal(len(files))), Literal(number)
        )
        with file.open("wb") as stream:
            cursor.copy_expert(rows, stream)
    cursor.execute(
        SQL("DELETE FROM {} t USING etl_sample s WHERE t.ctid = s.etl_place AND t.tableoid = s.etl_table").format(
            table(target)
        )
    )
    return int(cursor.rowcount)


def _stopped_load(target: TargetTable, scratch: Sessions, files: Sequence[Path], before: Fingerprint) -> Finding:
    """Both files go into one transaction; it is stopped while the second one is read, so the first is written by then."""
    stop = Stop()
    blocks = []

    def stop_at_second_file(event: Event) -> None:
        if event.name == "bytes" and event.facts["rows"]:
            blocks.append(event)
            if len(blocks) == len(files):
                stop.set()

    processor = ConflictAwareProcessor(scratch.dsn, config=scratch.config, on_event=stop_at_second_file)
    name = f"{quoted(target.schema)}.{quoted(target.name)}"
    try:
        processor.load(files, load_spec(name, target.key, strategy="deterministic", atomic=True), stop)
        stopped = "was NOT stopped"
    except StoppedError:
        stopped = "stopped midway"
    same = _now(target, scratch) == before
    words = f"a load {stopped} in the scratch database left the table {'as it was' if same else 'CHANGED'}"
    return verdict("rollback", words, fails=not same, advice=ADVICE)


def _undone_load(target: TargetTable, scratch: Sessions, files: Sequence[Path], before: Fingerprint) -> Finding:
    processor = ConflictAwareProcessor(scratch.dsn, config=scratch.config)
    name = f"{quoted(target.schema)}.{quoted(target.name)}"
    result = processor.load(files, load_spec(name, target.key, undoable=True))
    done = processor.undo(result.run_id)
    same = _now(target, scratch) == before
    words = f"a load of {done.deleted + done.restored:,} rows was undone in the scratch database"
    return verdict("undo", f"{words}, table {'as before' if same else 'CHANGED'}", fails=not same, advice=ADVICE)


def _now(target: TargetTable, scratch: Sessions) -> Fingerprint:
    with scratch.session("compare", is_printing=True) as connection:
        return fingerprint(connection, target)
