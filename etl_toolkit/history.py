"""After the load, from Python: past runs, rejected rows, where a row comes from, the production checklist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.config import ParallelConfig
from etl_toolkit.doctor import run_checks
from etl_toolkit.doctor.report import DoctorReport
from etl_toolkit.errors import UnknownTableError
from etl_toolkit.explain import Explanation, explain
from etl_toolkit.loading import ledger
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import RejectedRow, TakenFile
from etl_toolkit.rejected import list_rejects
from etl_toolkit.request import connection_string
from etl_toolkit.target import find_table


def runs(dsn: Any = None, *, table: str | None = None, limit: int = 20) -> list[PastRun]:
    """Return past runs, the latest first; of one table (`schema.name`) if it is named. `dsn` is as for `ingest`."""
    return _sessions(dsn).ask("runs", lambda connection: ledger.past_runs(connection, target=table, limit=limit))


def rejects(run_id: str, dsn: Any = None) -> list[RejectedRow]:
    """Return the rejected rows of a run with file, line, reason and text. Raises LedgerError for an unknown run."""

    def ask(connection: Any) -> list[RejectedRow]:
        ledger.find_run(connection, run_id)
        return list_rejects(connection, run_id)

    return _sessions(dsn).ask("rejects", ask)


def files(table: str, dsn: Any = None) -> list[TakenFile]:
    """Return the files whose content a table has taken, the latest first: those that `loaded = "skip"` leaves out."""
    return _sessions(dsn).ask("files", lambda connection: ledger.taken_files(connection, _oid(connection, table)))


def forget(table: str, names: str | Sequence[str], dsn: Any = None) -> list[TakenFile]:
    """Take files out of those that a table has taken, by name or content hash, and return them; rows stay as they are.

    Raises UnknownFileError, and changes nothing, where a name is none of them.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    return _sessions(dsn).ask(
        "forget", lambda connection: ledger.forget_files(connection, _oid(connection, table), chosen)
    )


def explain_row(table: str, key: Mapping[str, Any], dsn: Any = None) -> Explanation:
    """Explain where a row comes from: which file and row won, by which rule, and against which others.

    `key` maps the columns of the key to their values, `{"id": 42}`. Raises TargetError, UsageError.
    """
    return explain(connection_string(dsn), table, {name: str(value) for name, value in key.items()})


def check_production(
    dsn: Any = None, table: str | None = None, key: str | Sequence[str] = (), *,
    config: ParallelConfig | None = None, max_rejects: int = 0, proves_backup: bool = True, sources: Sequence[str] = (),
) -> DoctorReport:  # fmt: skip
    """Run the production checklist, as `etl-toolkit doctor` does; the server and the table are left unchanged.

    `sources` are paths, globs and URLs that a load would read: here, and on each host of `config.executor`.
    """
    columns = [key] if isinstance(key, str) else list(key)
    return run_checks(
        connection_string(dsn), table, columns, config or ParallelConfig(),
        max_rejects=max_rejects, proves_backup=proves_backup, sources=sources,
    )  # fmt: skip


def _oid(connection: Any, table: str) -> int:
    with connection.cursor() as cursor:
        found = find_table(cursor, table)
    if found is None:
        raise UnknownTableError(f"table {table} does not exist")
    return found


def _sessions(dsn: Any) -> Sessions:
    return Sessions(connection_string(dsn), ParallelConfig(), "history")
