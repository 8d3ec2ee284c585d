"""Checks of what a load may take up: connections, memory, disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etl_toolkit.doctor.patient import Patient, size
from etl_toolkit.doctor.report import Finding, unproven, verdict
from etl_toolkit.memory import memory_state
from etl_toolkit.observe.processes import postmaster_pid
from etl_toolkit.workspace import memory_budget_bytes

SPARE_CONNECTIONS = 5
LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_RATIO = 0.05

# A plain role cannot see the type of other users' sessions; the server's own processes have no user. Sessions of the
# doctor that other checks have just closed may be seen for another moment.
_IN_USE = """
SELECT count(*), count(*) FILTER (WHERE usename = current_user),
       count(*) FILTER (WHERE datname = pg_catalog.current_database())
FROM pg_catalog.pg_stat_activity
WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
  AND (pid = pg_catalog.pg_backend_pid() OR NOT pg_catalog.starts_with(coalesce(application_name, ''), 'etl_toolkit doctor '))
"""


def check_connections(patient: Patient) -> Iterator[Finding]:
    """Slots left for this role in this database: the smallest of the server's, the role's and the database's."""
    in_use, by_role, in_database = patient.row(_IN_USE)
    reserved = int(patient.setting("superuser_reserved_connections"))
    if patient.version >= 160000:
        reserved += int(patient.setting("reserved_connections"))
    largest = int(patient.setting("max_connections"))
    role_limit, database_limit = patient.row(
        "SELECT (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user), "
        "(SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    )
    free = {f"max_connections {largest}, {reserved} reserved, {in_use} in use": largest - reserved - in_use}
    if role_limit >= 0:
        free[f"the role's limit {role_limit}, {by_role} in use"] = role_limit - by_role
    if database_limit >= 0:
        free[f"the database's limit {database_limit}, {in_database} in use"] = database_limit - in_database
    why, left = min(free.items(), key=lambda item: item[1])
    left += 1  # the doctor's own, which a load will not find in use
    needed = patient.config.workers + SPARE_CONNECTIONS
    words = f"{left} free ({why}), {needed} needed: {patient.config.workers} workers and {SPARE_CONNECTIONS} to spare"
    advice = "raise the limit, close idle sessions, or lower concurrency (--jobs)"
    yield verdict("connections", words, fails=left < needed, advice=advice)


def check_memory(patient: Patient) -> Iterator[Finding]:
    """What is in use now, and what a load may add at most."""
    state, config = memory_state(), patient.config
    used = f"{size(state.used_bytes)} of {size(state.limit_bytes)} in use ({state.ratio:.0%}, limit of {state.of})"
    advice = "free memory before loading, or give the load a machine or cgroup of its own"
    yield verdict("memory", used, fails=state.ratio > config.memory_alert_ratio, advice=advice)
    budget = memory_budget_bytes(config)
    parts = [f"{size(budget)} for DuckDB"]
    if postmaster_pid(patient.connection) is not None:
        workers = config.workers * config.server_work_memory_bytes
        buffers = int(patient.setting("shared_buffers")) * int(patient.setting("block_size"))
        parts += [f"{size(buffers)} shared_buffers", f"{size(workers)} for the sorts of {config.workers} workers"]
        budget += workers + buffers
    most = config.memory_alert_ratio * state.limit_bytes
    advice = "lower memory_limit_bytes, server_work_memory_bytes or concurrency: together they may exceed the alert threshold"
    words = f"at most {size(budget)} ({', '.join(parts)}) against an alert at {size(most)}"
    yield verdict("memory plan", words, warns=budget > most, advice=advice)


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Room to spill on the client, and room for rows and WAL on the server where that can be known."""
    place = Path(patient.config.temp_directory or tempfile.gettempdir())
    yield _disk_finding("disk of the client", place, "set temp_directory to a larger disk: large loads spill there")
    directory = None
    if postmaster_pid(patient.connection) is not None:
        directory = patient.rows("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'")
    if not directory:
        where = "the server is on another machine, or this role may not see where its files are"
        yield unproven(
            "disk of the server", where, "monitor it there: a load writes its data about twice, rows and WAL"
        )
        return
    yield _disk_finding("disk of the server", Path(directory[0][0]), "free disk space: a full disk stops the server")


def _disk_finding(check: str, place: Path, advice: str) -> Finding:
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return verdict(check, f"{place}: {error.strerror}", fails=True, advice=advice)
    words = f"{size(usage.free)} of {size(usage.total)} free at {place}"
    is_low = usage.free < LEAST_FREE_BYTES or usage.free < LEAST_FREE_RATIO * usage.total
    return verdict(check, words, fails=is_low, advice=advice)
