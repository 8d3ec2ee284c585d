"""Loose options, as Python and the command line take them, become a `LoadSpec`; what names a server becomes a DSN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.errors import UsageError
from etl_toolkit.model import ConflictAction, LoadSpec, ReadOptions, Strategy


def load_spec(
    table: str, key: str | Sequence[str], *, headers: Sequence[str] | None = None, strategy: str = "auto",
    order_by: str | None = None, on_conflict: str = "update", **options: Any,
) -> LoadSpec:  # fmt: skip
    """Make a LoadSpec of loose options. Raises UsageError that names what it does not know."""
    read = {name: options.pop(name) for name in ("delimiter", "quote", "encoding", "extra_columns") if name in options}
    known = {"create_table", "max_rejects", "atomic", "force", "undoable"}
    if unknown := sorted(set(options) - known):
        raise UsageError(
            f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known | {'strategy', 'order_by'}))}"
        )
    return LoadSpec(
        table=table,
        key=(key,) if isinstance(key, str) else tuple(key),
        order_by=order_by,
        conflict_action=_choice(ConflictAction, on_conflict, "conflict action"),
        strategy=_choice(Strategy, strategy, "strategy"),
        read=ReadOptions(
            headers=tuple(headers) if headers else None, **{k: v for k, v in read.items() if v is not None}
        ),
        **options,
    )


def _choice(kind: Any, value: str, what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"unknown {what} '{value}'; choose {', '.join(kind)}") from None


def connection_string(dsn: Any) -> str:
    """Return a libpq connection string for a URL, keyword string, SQLAlchemy Engine, or None (the embedded server)."""
    if dsn is None:
        from etl_toolkit import server

        return server.start().dsn
    if isinstance(dsn, str):
        return dsn.replace("postgresql+psycopg2://", "postgresql://", 1)
    if hasattr(dsn, "url"):
        return str(dsn.url.set(drivername="postgresql").render_as_string(hide_password=False))
    raise UsageError(f"a DSN is a string or a SQLAlchemy Engine, not {type(dsn).__name__}")
