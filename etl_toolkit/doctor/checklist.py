"""The checklist: every check in order, each shielded, so that one that breaks does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg2

from etl_toolkit.config import ParallelConfig
from etl_toolkit.doctor import backup, capacity, history, server
from etl_toolkit.doctor.hosts import check_hosts, check_sources
from etl_toolkit.doctor.patient import Patient
from etl_toolkit.doctor.report import DoctorReport, Finding, Status, passed, unproven, verdict
from etl_toolkit.doctor.table import check_couplings, check_fill_factor, check_privileges, check_sequences
from etl_toolkit.errors import EtlError, LedgerError, PoolerError, driver_failure
from etl_toolkit.hosts import lend_dsn, open_hosts
from etl_toolkit.loading.dsn import place
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import TargetTable
from etl_toolkit.target import read_target

Checks = Iterable[tuple[str, Callable[[], Iterable[Finding]]]]


def run_checks(
    dsn: str,
    table: str | None = None,
    key: Sequence[str] = (),
    config: ParallelConfig | None = None,
    *,
    max_rejects: int = 0,
    proves_backup: bool = True,
    backup_limit_bytes: int = 1 << 30,
    executor: Any = None,
    sources: Sequence[str] = (),
) -> DoctorReport:
    """Check a server and, where named, a table against the configuration; return all findings.

    The table and the server are left as they were. With a table, its backup is rehearsed in a scratch database unless
    `proves_backup` is off or it takes more than `backup_limit_bytes`. The hosts of an `executor` (see `ingest`) are checked
    one by one. `sources` are paths, globs and URLs that a load would read: they are listed here and on each host, and the beginning
    of the first file is read. Raises nothing for what it finds: a server that does not answer is a finding, too.
    """
    config = config or ParallelConfig()
    where = place(dsn)
    of_hosts = list(check_sources(sources))
    executor = config.executor if executor is None else executor
    if executor is not None:
        try:
            with lend_dsn("doctor", dsn), open_hosts(executor, dsn, config) as hosts:
                config = replace(config, concurrency=hosts.slots)
                of_hosts += check_hosts(hosts, Sessions(dsn, config, "doctor"), sources)
        except EtlError as error:
            advice = "see `etl-toolkit ingest --help` for --executor"
            of_hosts.append(verdict("hosts", str(error), fails=True, advice=advice))
    sessions = Sessions(dsn, config, "doctor")
    try:
        with sessions.session("doctor") as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:  # the doctor must not wait for a standby that is gone
                cursor.execute("SET synchronous_commit = local")
            patient = Patient(connection, sessions, max_rejects, proves_backup, backup_limit_bytes)
            findings = [passed("connection", f"answers at {where}"), *of_hosts, *_run(_of_server(patient))]
            if table is None:
                findings.append(unproven("table", "none named", "name one with --table and --key to have it checked"))
            else:
                findings += _table_findings(patient, table, key)
    except PoolerError as error:
        findings = [verdict("pooler", "one in transaction mode", fails=True, advice=str(error))]
    except EtlError as error:
        findings = [verdict("connection", str(error), fails=True, advice="fix the DSN, or start the server")]
    return DoctorReport(where, tuple(findings), table)


def _of_server(patient: Patient) -> Checks:
    checks: list[Callable[[Patient], Iterable[Finding]]] = [
        server.check_version, server.check_writes, server.check_encryption, server.check_pooler, server.check_extras,
        capacity.check_connections, capacity.check_memory, capacity.check_disk,
        server.check_durability, server.check_collations, server.check_wal,
        history.check_error_handling, history.check_ledger,
    ]  # fmt: skip
    return [_named(check, patient) for check in checks]


def _table_findings(patient: Patient, name: str, key: Sequence[str]) -> list[Finding]:
    try:
        target = read_target(patient.connection, name, key)
    except EtlError as error:
        return [verdict("table", str(error), fails=True, advice="name a table with a unique index on the key columns")]
    except psycopg2.Error as error:
        advice = "the role may not read the table: grant what `etl-toolkit db grants ROLE --table TABLE` prints"
        return [verdict("table", driver_failure(error).message, fails=True, advice=advice)]
    checks: list[Callable[[Patient, TargetTable], Iterable[Finding]]] = [
        check_couplings, check_privileges, check_sequences, check_fill_factor,
        history.check_conflict_detection, history.check_memory_of_loads, history.check_baseline, backup.check_backup,
    ]  # fmt: skip
    found = passed("table", f"{target.qualified_name}, key ({', '.join(key)}) by index {target.arbiter.index}")
    return [found, *_run([_named(check, patient, target) for check in checks])]


def _named(check: Callable[..., Iterable[Finding]], *arguments: Any) -> tuple[str, Callable[[], Iterable[Finding]]]:
    return check.__name__.removeprefix("check_").replace("_", " "), lambda: check(*arguments)


def _run(checks: Checks) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except psycopg2.errors.InsufficientPrivilege as error:
            findings.append(unproven(name, driver_failure(error).message, "run doctor as a role that may read this"))
        except psycopg2.Error as error:
            findings.append(Finding(name, Status.FAIL, driver_failure(error).message, "the check itself failed"))
        except LedgerError:  # of another version, which `check_ledger` fails
            findings.append(unproven(name, "the ledger cannot be read by this release", "see the check `ledger`"))
        except EtlError as error:
            findings.append(Finding(name, Status.FAIL, str(error), "the check itself failed"))
    return findings
