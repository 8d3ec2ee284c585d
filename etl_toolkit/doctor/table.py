"""Checks of the target table: its key, what couples its rows, sequences, fill factor, and the role's privileges."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2

from etl_toolkit.doctor.patient import Patient
from etl_toolkit.doctor.report import Finding, passed, unproven, verdict
from etl_toolkit.errors import driver_failure
from etl_toolkit.loading import ledger
from etl_toolkit.loading.merge import Upsert
from etl_toolkit.loading.staging_tables import create_staging, staging_table
from etl_toolkit.loading.upsert import merge
from etl_toolkit.model import Batch, Counts, Layout, Reject, TargetTable

SEQUENCE_WARNS_RATIO, SEQUENCE_FAILS_RATIO = 0.8, 0.95
FEW_UPDATES = 1_000
HOT_RATIO = 0.5

_SEQUENCES = """
SELECT a.attname, s.schemaname || '.' || s.sequencename, s.last_value,
       least(s.max_value, CASE t.typname WHEN 'int2' THEN 32767 WHEN 'int4' THEN 2147483647 ELSE s.max_value END),
       pg_catalog.has_sequence_privilege(d.objid, 'USAGE'), a.attidentity <> ''
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class q ON q.oid = d.objid AND q.relkind = 'S'
JOIN pg_catalog.pg_namespace n ON n.oid = q.relnamespace
JOIN pg_catalog.pg_sequences s ON s.schemaname = n.nspname AND s.sequencename = q.relname
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE d.refobjid = %s AND d.deptype IN ('a', 'i') AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
ORDER BY a.attnum
"""

_UPDATES = """
SELECT coalesce(s.n_tup_ins, 0), coalesce(s.n_tup_upd, 0), coalesce(s.n_tup_hot_upd, 0),
       coalesce((SELECT option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions)
                 WHERE option_name = 'fillfactor'), 100)
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = %s
"""


def check_couplings(_: Patient, target: TargetTable) -> Iterator[Finding]:
    """Triggers, further unique indexes, references to itself: what makes files depend on each other beyond the key."""
    refusing = target.forced("refuse")
    words = "; ".join(f"{hazard.kind}: {hazard.detail} (forces: {hazard.forces})" for hazard in target.hazards)
    advice = (
        "ON CONFLICT cannot be used here: load into a plain table"
        if refusing
        else "loads are correct but slower: in file order (sequential), through staging tables (staged), or with keys compared "
        "on the server (server)"
    )
    none = "no trigger, no further unique index, no reference to itself"
    yield verdict("couplings", words or none, fails=bool(refusing), warns=bool(words), advice=advice)


def check_sequences(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """How much of their range the sequences of the table have used."""
    rows = patient.rows(_SEQUENCES, target.oid)
    if not rows:
        yield passed("sequences", "the table has none")
    for column, name, last, largest, usable, is_identity in rows:
        if last is None and not usable:
            grant = f"GRANT USAGE ON SEQUENCE {name} TO the role" + (", or load the column" if is_identity else "")
            yield unproven("sequences", f"{column}: {name} cannot be read by this role", grant)
            continue
        used = (last or 0) / largest
        words = f"{column}: {name} is at {last or 0:,} of {largest:,} ({used:.0%})"
        advice = "change the column and the sequence to bigint before it runs out: inserts will fail with SQLSTATE 2200H or 22003"
        fails, warns = used >= SEQUENCE_FAILS_RATIO, used >= SEQUENCE_WARNS_RATIO
        yield verdict("sequences", words, fails=fails, warns=warns, advice=advice)


def check_fill_factor(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """Whether updates find room on the page of the old row; otherwise each of them also writes every index."""
    inserted, updated, hot, factor = patient.row(_UPDATES, target.oid)
    is_heavy = updated > max(FEW_UPDATES, inserted)
    ratio = hot / updated if updated else 1.0
    words = f"{factor}; {inserted:,} inserts, {updated:,} updates, {ratio:.0%} of them without touching an index"
    advice = f"ALTER TABLE {target.qualified_name} SET (fillfactor = 90), then run VACUUM FULL or reload the table at a quiet time"
    yield verdict("fill factor", words, warns=is_heavy and factor >= 100 and ratio < HOT_RATIO, advice=advice)


def check_privileges(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """Do what a load does, with no row, and roll it back: the server itself says what is missing."""
    columns = tuple(column.name for column in target.columns if not column.is_generated)
    layout = Layout(columns)
    batch = Batch(0, (0,))
    ledger.check_version(patient.connection)
    step = "the ledger"
    with patient.sessions.session("privileges") as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT pg_catalog.to_regclass('etl_toolkit.before_images') IS NOT NULL")
            if not cursor.fetchone()[0]:
                step = "creating the ledger"
                cursor.execute(ledger.DEFINITION)
            step = "writing to the ledger"
            run_id = "doctor"
            cursor.execute(
                "INSERT INTO etl_toolkit.runs (run_id, target, target_oid, status, strategy, spec, plan) "
                "VALUES (%s, %s, %s, 'running', 'auto', '{}', '{}')",
                (run_id, target.qualified_name, target.oid),
            )
            ledger.claim(cursor, run_id, batch)
            ledger.record_rejects(cursor, run_id, [Reject(0, 0, 1, "doctor", "00000", "")])
            step = "a temporary table"
            cursor.execute(create_staging(target, layout))
            step = f"writing to {target.qualified_name}"
            merge(cursor, Upsert(target, layout, undoable=True), staging_table())
            step = "writing to the ledger"
            ledger.complete(cursor, run_id, batch, {0: Counts()})
        except psycopg2.Error as error:
            words = f"{step}: {driver_failure(error).message}"
            advice = "grant what `etl-toolkit db grants ROLE --table TABLE` prints"
            yield verdict("privileges", words, fails=True, advice=advice)
        else:
            words, refusal = "a load without rows succeeded and was rolled back", ledger.staging_refusal(connection)
            advice = "until then files whose keys only the server can compare load one after the other"
            words = f"{words}; but {refusal}" if refusal else words
            yield verdict("privileges", words, warns=bool(refusal), advice=advice)
        finally:
            connection.rollback()
