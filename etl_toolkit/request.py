"""Loose options, as Python and the command line take them, become a `LoadSpec`; what names a server becomes a DSN."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import parse_dsn

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError
from etl_toolkit.model import (
    ConflictAction,
    ExtraColumns,
    FileFormat,
    LoadSpec,
    OnConflict,
    ReadOptions,
    Strategy,
    StrategyName,
    WriteOptions,
)
from etl_toolkit.typed_options import make_options

T = TypeVar("T")
NOTHING_ASKED = LoadSpec(table="", key=())


def load_spec(
    table: str, key: str | Sequence[str], *, read: ReadOptions | None = None, write: WriteOptions | None = None,
    strategy: StrategyName | None = None, order_by: str | None = None, on_conflict: OnConflict | None = None,
    create_table: bool | None = None, max_rejects: int | None = None, atomic: bool | None = None, force: bool | None = None,
    undoable: bool | None = None,
    headers: Sequence[str] | None = None, delimiter: str | None = None, quote: str | None = None, encoding: str | None = None,
    extra_columns: ExtraColumns | None = None, date_style: str | None = None, timezone: str | None = None,
    format: FileFormat | None = None, skip: int | None = None,
) -> LoadSpec:  # fmt: skip
    """Make a LoadSpec of loose options, as `ingest` describes them. Raises UsageError for what is wrong with them."""
    return spec_of(locals())


def spec_of(arguments: Mapping[str, Any], base: LoadSpec = NOTHING_ASKED) -> LoadSpec:
    """Make a LoadSpec of the arguments of a public function, its `locals()`; what is None is as in `base`.

    `read` and `write` replace those of `base`, and an option of reading that is given by its own name overrides `read`.
    Other arguments are none of ours. Raises UsageError for what is wrong with an option.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    chosen = {item.name: given[item.name] for item in fields(LoadSpec) if item.name in given}
    if "key" in given or "pk_columns" in given or not base.key:
        key = key_columns(given.get("key"), given.get("pk_columns"))
        chosen["key"] = (key,) if isinstance(key, str) else tuple(key)
    if "on_conflict" in given:
        chosen["conflict_action"] = _choice(ConflictAction, given["on_conflict"], "conflict action")
    if "strategy" in given:
        chosen["strategy"] = _choice(Strategy, given["strategy"], "strategy")
    shortcuts = {item.name: given[item.name] for item in fields(ReadOptions) if item.name in given}
    if not shortcuts.get("headers", True):  # no names are none at all
        shortcuts["headers"] = None
    chosen["read"] = make_options(ReadOptions, shortcuts, _checked(ReadOptions, chosen.get("read", base.read)))
    chosen["write"] = _checked(WriteOptions, chosen.get("write", base.write))
    return replace(base, **chosen)


def default_spec(config: ParallelConfig, base: LoadSpec = NOTHING_ASKED) -> LoadSpec:
    """What `base` asks for, by the strategy that the configuration names."""
    return replace(base, strategy=Strategy(config.strategy))


def check_named(files: Any, spec: LoadSpec, *, needs_table: bool = True) -> None:
    """Raise UsageError where it is not said what is loaded, or into which table."""
    if files is None or (isinstance(files, list | tuple) and not files):  # a frame compares itself with anything
        raise UsageError("no files given; name at least one CSV or Parquet file, or a feed with --feed FILE")
    if needs_table and not spec.table:
        raise UsageError("no table given; name it with --table NAME, or a feed with --feed FILE")


def _checked(kind: type[T], options: T) -> T:
    """The same options, with lists made tuples. Raises UsageError for a value that no option of its name can have."""
    if not isinstance(options, kind):
        raise UsageError(f"{kind.__name__} is expected, not {type(options).__name__}")
    return make_options(kind, {item.name: getattr(options, item.name) for item in fields(options)})  # type: ignore[arg-type]


def key_columns(key: str | Sequence[str] | None, pk_columns: str | Sequence[str] | None) -> str | Sequence[str]:
    """The key, by whichever of its two names it is given. Raises UsageError where it is given by none or by both."""
    if (key is None) == (pk_columns is None):
        raise UsageError("name the key columns once, for example key=['id']; pk_columns is another name for the same")
    return key if key is not None else pk_columns or ()


def _choice(kind: Any, value: str, what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"unknown {what} '{value}'; choose {', '.join(kind)}") from None


def connection_string(dsn: Any) -> str:
    """Return a libpq connection string for a URL, keyword string, SQLAlchemy URL or Engine, or None (the embedded server).

    Raises UsageError for a URL that libpq cannot read as it is meant.
    """
    if dsn is None:
        from etl_toolkit import server

        return server.start().dsn
    if isinstance(dsn, str):
        return _libpq_url(dsn)
    url = getattr(dsn, "url", dsn)
    if hasattr(url, "render_as_string"):
        return str(url.set(drivername="postgresql").render_as_string(hide_password=False))
    why = "; a load opens connections of its own" if hasattr(dsn, "cursor") or hasattr(dsn, "connect") else ""
    raise UsageError(f"a DSN is a string or a SQLAlchemy URL or Engine, not {type(dsn).__name__}{why}")


# The driver that a URL of SQLAlchemy names, or the `jdbc:` of Java's, says nothing about the server.
_DRIVER = re.compile(r"^(jdbc:)?postgres(?:ql)?(\+\w+)?:(//)?", re.IGNORECASE)


def _libpq_url(dsn: str) -> str:
    match = _DRIVER.match(dsn)
    if match is None or not (match[1] or match[2] or match[3]):
        return dsn  # keywords
    if not match[3]:
        raise UsageError("the DSN has no '//' after the colon; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    rest = dsn[match.end() :]
    if match[1] or match[2]:  # asyncpg and JDBC call `sslmode` so
        rest = re.sub(
            r"(?<=[?&])ssl=(true|\w+(?:-\w+)?)",
            lambda ssl: f"sslmode={'require' if ssl[1] == 'true' else ssl[1]}",
            rest,
        )
    url = f"postgresql://{rest}"
    try:
        parse_dsn(url)
    except psycopg2.Error:
        if not (match[1] or match[2]):
            return url  # `check_dsn` says what is wrong with it
        raise UsageError(f"libpq does not know a setting of this URL; write postgresql://{_place(rest)}") from None
    return url


def _place(rest: str) -> str:
    """Host, port and database of a URL behind its `//`, where it is sure that no part of a password is among them."""
    before, _, settings = rest.partition("?")
    place = before.rpartition("@")[2]
    is_sure = "@" not in settings and re.fullmatch(r"[\w.-]*(:\d+)?(/[\w-]*)?", place)
    return f"USER:PASSWORD@{place if is_sure else 'HOST:PORT/DATABASE'}"
