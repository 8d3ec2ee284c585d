"""Checks of the server: version, durability, collations, WAL, poolers, encryption."""

from __future__ import annotations

from collections.abc import Iterator

from etl_toolkit.doctor.patient import Patient, size
from etl_toolkit.doctor.report import Finding, passed, unproven, verdict
from etl_toolkit.errors import TargetError
from etl_toolkit.loading.dsn import plain_text_host
from etl_toolkit.loading.pooler import is_pooled
from etl_toolkit.loading.writable import check_writable

OLDEST_VERSION = 140000
SMALL_WAL_BYTES = 1 << 30

_FEATURES = ((150000, "NULLS NOT DISTINCT"), (170000, r"COPY takes a line `\.`"), (180000, "data checksums by default"))

# A collation without a version (C, POSIX, builtin) cannot change; "default" stands for the database's own.
_STALE_COLLATIONS = """
SELECT c.collname || ' (' || c.collversion || ', now '
       || coalesce(pg_catalog.pg_collation_actual_version(c.oid), 'none') || ')'
FROM pg_catalog.pg_collation c
WHERE c.collversion IS NOT NULL AND c.collversion <> coalesce(pg_catalog.pg_collation_actual_version(c.oid), '')
  AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
              WHERE a.attcollation = c.oid AND a.attnum > 0 AND a.attrelid >= 16384)
"""
_STALE_DATABASE = """
SELECT 'the database''s own (' || datcollversion || ', now '
       || coalesce(pg_catalog.pg_database_collation_actual_version(oid), 'none') || ')'
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datcollversion IS NOT NULL
  AND datcollversion <> coalesce(pg_catalog.pg_database_collation_actual_version(oid), '')
"""


def check_version(patient: Patient) -> Iterator[Finding]:
    """The oldest release we support, and what a newer one brings."""
    features = [name for since, name in _FEATURES if patient.version >= since]
    words = f"PostgreSQL {patient.row('SHOW server_version')[0]}" + (f"; {', '.join(features)}" if features else "")
    advice = "upgrade to PostgreSQL 14 or newer"
    yield verdict("server version", words, fails=patient.version < OLDEST_VERSION, advice=advice)


def check_writes(patient: Patient) -> Iterator[Finding]:
    """Whether a load may write here at all: not on a standby, nor where role or database say so."""
    try:
        check_writable(patient.connection)
    except TargetError as error:
        yield verdict("writes", "refused", fails=True, advice=str(error))
    else:
        yield passed("writes", "the server accepts writes")


def check_durability(patient: Patient) -> Iterator[Finding]:
    """What a crash may destroy or take back."""
    for name, what in (("fsync", "a crash of the machine"), ("full_page_writes", "a torn page after a crash")):
        value = patient.setting(name)
        advice = f"{what} can destroy the whole cluster: ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()"
        yield verdict(name, value, fails=value != "on", advice=advice)
    value = patient.setting("synchronous_commit")
    advice = (
        "a crash may take back loads that were reported done; data and ledger stay in step, so run them again, "
        "or ALTER ROLE … SET synchronous_commit = on"
    )
    yield verdict("synchronous_commit", value, warns=value == "off", advice=advice)


def check_collations(patient: Patient) -> Iterator[Finding]:
    """Whether the operating system sorts text as it did when the indexes were built."""
    stale = [row[0] for row in patient.rows(_STALE_COLLATIONS)]
    if patient.version >= 150000:
        stale += [row[0] for row in patient.rows(_STALE_DATABASE)]
    advice = (
        "indexes on text may be in an order the server no longer uses, so equal keys may be missed: REINDEX them, "
        "then ALTER DATABASE … REFRESH COLLATION VERSION (ALTER COLLATION … REFRESH VERSION)"
    )
    words = f"created with another version: {', '.join(stale)}" if stale else "unchanged since the indexes were built"
    yield verdict("collation version", words, fails=bool(stale), advice=advice)


def check_wal(patient: Patient) -> Iterator[Finding]:
    """Settings that throttle a load, and readers of the WAL that would stop it."""
    largest = int(patient.setting("max_wal_size")) * (1 << 20)
    advice = "bulk loads will force checkpoints and write every page in full again and again: raise max_wal_size to 4GB"
    yield verdict("max_wal_size", size(largest), warns=largest < SMALL_WAL_BYTES, advice=advice)
    yield from _check_replication(patient)


def _check_replication(patient: Patient) -> Iterator[Finding]:
    idle = [row[0] for row in patient.rows("SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE NOT active")]
    limit = int(patient.setting("max_slot_wal_keep_size"))
    faults = [f"slot {name} is inactive, and keeps all WAL" for name in idle] if limit < 0 else []
    names = patient.setting("synchronous_standby_names")
    if names and patient.setting("synchronous_commit") not in ("off", "local"):
        (connected,) = patient.row(
            "SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
        )
        if not connected:
            faults.append(f"no standby of synchronous_standby_names ('{names}') is connected: COMMIT waits forever")
    failed, last_failed, last_done = patient.row(
        "SELECT failed_count, last_failed_time, last_archived_time FROM pg_catalog.pg_stat_archiver"
    )
    if patient.setting("archive_mode") != "off" and failed and (last_done is None or last_failed > last_done):
        faults.append("archiving WAL fails, so WAL piles up")
    advice = "fix this before a large load: it writes as much WAL as data, and a full disk stops the server"
    words = "; ".join(faults) or f"{len(idle)} idle slots, no missing synchronous standby, no failing archiver"
    yield verdict("replication", words, fails=bool(faults), advice=advice)


def check_pooler(patient: Patient) -> Iterator[Finding]:
    """A pooler answers for the server at connect time; in transaction mode, connecting has already failed."""
    with patient.sessions.session("pooler") as connection:
        pooled = is_pooled(connection)
    if pooled:
        advice = "this works if it pools by session; in transaction mode, loads are refused"
        yield verdict("pooler", "there is a pooler between the client and the server", warns=True, advice=advice)
    else:
        yield passed("pooler", "none: the session talks to the server it connected to")


def check_encryption(patient: Patient) -> Iterator[Finding]:
    """Whether rows and password proofs can be read on the network."""
    info = patient.connection.info
    host = plain_text_host(patient.connection)
    if host is not None:
        advice = "put sslmode=verify-full (and sslrootcert) into the DSN: anyone on the network path can read every row"
        yield verdict("encryption", f"the connection to {host} is not encrypted", fails=True, advice=advice)
    elif info.ssl_in_use:
        mode = info.dsn_parameters.get("sslmode", "prefer")
        words = f"{info.ssl_attribute('protocol')}, {info.ssl_attribute('cipher')}, sslmode {mode}"
        advice = "the server's name is not verified: use sslmode=verify-full"
        yield verdict("encryption", words, warns=mode != "verify-full", advice=advice)
    else:
        yield passed("encryption", "not needed: the connection does not leave this machine")


def check_extras(patient: Patient) -> Iterator[Finding]:
    """Whether a waiting load can say who blocks it."""
    row = patient.row(
        "SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), "
        "(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
    )
    sees, is_super = row
    if is_super:
        advice = (
            "loads need no superuser: `etl-toolkit db grants ROLE --table TABLE` prints the grants that a role needs"
        )
        yield verdict("role", "superuser", warns=True, advice=advice)
    elif sees:
        yield passed("role", "not a superuser; sees the activity of other sessions")
    else:
        advice = (
            "GRANT pg_read_all_stats to the role, so that a waiting load can report how long its blocker has been idle"
        )
        yield unproven("role", "not a superuser; sees only the name and the user of other sessions", advice)
