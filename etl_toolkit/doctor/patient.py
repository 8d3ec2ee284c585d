"""What the checks look at: a server, and the settings of the loads to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etl_toolkit.config import ParallelConfig
from etl_toolkit.loading.session import Sessions


@dataclass(frozen=True)
class Patient:
    """One server under examination. `connection` is autocommit; a check that writes opens its own."""

    connection: Any
    sessions: Sessions
    max_rejects: int = 0
    proves_backup: bool = True
    backup_limit_bytes: int = 1 << 30

    @property
    def config(self) -> ParallelConfig:
        return self.sessions.config

    @property
    def version(self) -> int:
        """As PostgreSQL numbers it: 180006 is 18.6."""
        return int(self.connection.server_version)

    def row(self, statement: Any, *values: Any) -> tuple[Any, ...]:
        """The first row of a query's answer; queries here always have one."""
        return self.rows(statement, *values)[0]

    def rows(self, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def setting(self, name: str) -> str:
        """A server setting in its base unit, as text, as a new session of this role has it."""
        return str(self.row("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = %s", name)[0])


def size(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
