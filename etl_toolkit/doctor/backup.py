"""Backup and rollback, tested on a copy.

The table is dumped, restored into a scratch database and compared; there a load is stopped midway and another one
undone, and the table compared again.
Everything that writes happens in the scratch database, which is dropped at the end. The original is read in one
snapshot, so that it may change meanwhile.
"""

from __future__ import annotations

import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn
from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit.doctor.patient import Patient, size
from etl_toolkit.doctor.programs import Programs, find_programs, write_services
from etl_toolkit.doctor.rehearsal import ADVICE, Fingerprint, UnprovenError, fingerprint, load_findings
from etl_toolkit.doctor.report import Finding, unproven, verdict
from etl_toolkit.errors import driver_failure
from etl_toolkit.loading.grants import quoted
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import TargetTable
from etl_toolkit.workspace import working_directory

_CHECKS = ("backup", "rollback", "undo")


def check_backup(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """Findings `backup`, `rollback` and `undo`; unproven, with the reason, where no rehearsal can be held."""
    missing = list(_CHECKS)
    try:
        for finding in _rehearse(patient, target):
            missing.remove(finding.check)
            yield finding
    except (UnprovenError, OSError, subprocess.TimeoutExpired) as reason:
        for check in missing:
            yield unproven(check, str(reason), ADVICE)


def _rehearse(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    if not patient.proves_backup:
        raise UnprovenError("not asked for")
    (taken,) = patient.row("SELECT pg_catalog.pg_total_relation_size(%s)", target.oid)
    if taken > patient.backup_limit_bytes:
        raise UnprovenError(f"the table takes {size(taken)}, more than the {size(patient.backup_limit_bytes)} tested")
    parent = Path(patient.config.temp_directory or tempfile.gettempdir())
    with working_directory(parent) as directory, _scratch_database(patient) as scratch:
        programs = find_programs(patient.version, directory / "services")
        if programs is None:
            raise UnprovenError(f"no pg_dump of version {patient.version // 10000} or newer is installed here")
        (database,) = patient.row("SELECT pg_catalog.current_database()")
        write_services(programs.service_file, patient.connection, [database, scratch])
        # What is thrown away need not be safe, nor wait for a standby that may never come.
        options = f"{patient.connection.info.options or ''} -c synchronous_commit=local".strip()
        dsn = make_dsn(patient.sessions.dsn, dbname=scratch, options=options)
        sessions = Sessions(dsn, patient.config, "doctor")
        yield _backup_finding(patient, target, programs, sessions, directory)
        yield from load_findings(target, sessions, directory)


@contextmanager
def _scratch_database(patient: Patient) -> Iterator[str]:
    """An empty database like ours, dropped at the end."""
    name = f"etl_doctor_{secrets.token_hex(4)}"
    encoding, collate, ctype = patient.row(
        "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()"
    )
    create = SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}")
    try:
        with patient.connection.cursor() as cursor:
            cursor.execute(create.format(Identifier(name), Literal(encoding), Literal(collate), Literal(ctype)))
    except psycopg2.Error as error:
        raise UnprovenError(f"no scratch database can be created: {driver_failure(error).message}") from None
    try:
        yield name
    finally:
        with patient.connection.cursor() as cursor:
            cursor.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def _backup_finding(
    patient: Patient, target: TargetTable, programs: Programs, scratch: Sessions, directory: Path
) -> Finding:
    original = _dump(patient, target, programs, directory)
    for name, sections in (("schema", ("pre-data",)), ("table", ("pre-data", "data", "post-data"))):
        if (directory / name).exists():
            # What the table does not need may fail to restore (an extension, say); the comparison decides.
            chosen = ["--no-owner", "--no-privileges", *(f"--section={section}" for section in sections)]
            programs.run("pg_restore", *chosen, "--dbname=service=etl1", str(directory / name))
    try:
        with scratch.session("compare", is_printing=True) as connection:
            restored = fingerprint(connection, target)
    except psycopg2.Error as error:
        words = f"the table cannot be restored from its dump: {driver_failure(error).message}"
        return verdict("backup", words, fails=True, advice=ADVICE)
    words = f"{original[0]:,} rows dumped, {restored[0]:,} restored into a scratch database"
    same = original == restored
    return verdict("backup", f"{words}, {'equal' if same else 'NOT equal'}", fails=not same, advice=ADVICE)


def _dump(patient: Patient, target: TargetTable, programs: Programs, directory: Path) -> Fingerprint:
    """Dump the table with its rows, and of everything else the definitions it may need; return its fingerprint."""
    with patient.sessions.session("snapshot", is_printing=True) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_catalog.pg_export_snapshot()")
        snapshot = f"--snapshot={cursor.fetchone()[0]}"
        state = fingerprint(connection, target)
        common = ("--format=custom", "--no-owner", "--no-privileges", snapshot)
        option = "table"
        if target.is_partitioned:
            if programs.major < 16:
                raise UnprovenError("a pg_dump before version 16 cannot dump a table with its partitions")
            option = "table-and-children"
        pattern = f"--{option}={quoted(target.schema)}.{quoted(target.name)}"
        done = programs.run("pg_dump", *common, pattern, f"--file={directory / 'table'}", "service=etl0")
        if done.returncode:
            raise UnprovenError(f"pg_dump failed: {_last_line(done.stderr)}")
        done = programs.run("pg_dump", *common, "--section=pre-data", f"--file={directory / 'schema'}", "service=etl0")
        if done.returncode:  # a role that may read this table may not be allowed to read all
            (directory / "schema").unlink(missing_ok=True)
    return state


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
