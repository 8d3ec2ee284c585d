"""The clients and servers that a load may find itself on."""

from __future__ import annotations

from random import Random

# What a client's environment may say. None of it may change a stored value. `PANDAS` are pandas options.
CLIENTS: dict[str, dict[str, str]] = {
    "plain": {},
    "tokyo": {"TZ": "Asia/Tokyo", "PGTZ": "America/New_York", "PGDATESTYLE": "German, DMY", "LC_ALL": "C"},
    "new york": {
        "TZ": "America/New_York", "PGCLIENTENCODING": "LATIN1", "LANG": "tr_TR.UTF-8",
        "PGOPTIONS": "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c extra_float_digits=-5 -c intervalstyle=iso_8601 "
        "-c bytea_output=escape -c standard_conforming_strings=off -c default_transaction_isolation=serializable",
        "PANDAS": "mode.string_storage=python;display.width=20",
    },
    "chatham": {
        "TZ": "Pacific/Chatham", "LC_ALL": "POSIX", "PGCLIENTENCODING": "SQL_ASCII", "PGGEQO": "off",
        "PANDAS": "display.precision=2;mode.string_storage=pyarrow",
    },
}  # fmt: skip

ENCODINGS = ("UTF8",) * 6 + ("LATIN1", "WIN1252", "EUC_JP")

# What a database or role may say; texts are read under it, as \copy's are.
SETTINGS: dict[str, tuple[str, ...]] = {
    "DateStyle": ("ISO, DMY", "ISO, MDY", "ISO, YMD", "SQL, DMY", "German, DMY", "Postgres, MDY"),
    "TimeZone": ("UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "Asia/Kolkata"),
    "IntervalStyle": ("postgres", "sql_standard", "iso_8601"),
    "extra_float_digits": ("-3", "0", "3"), "bytea_output": ("escape",), "client_encoding": ("LATIN1", "SQL_ASCII"),
    "statement_timeout": ("20s",), "lock_timeout": ("10s",), "idle_in_transaction_session_timeout": ("20s",), "idle_session_timeout": ("20s",),
    "search_path": ("pg_catalog", "nowhere", "pg_temp"), "default_transaction_isolation": ("serializable", "repeatable read"),
    "synchronous_commit": ("off",), "enable_hashjoin": ("off",), "enable_sort": ("off",), "array_nulls": ("off",), "lc_numeric": ("C",),
    "transform_null_equals": ("on",), "quote_all_identifiers": ("on",), "default_transaction_deferrable": ("on",), "max_parallel_workers_per_gather": ("0",),
    "row_security": ("off",), "session_replication_role": ("origin",), "xmloption": ("document",), "plan_cache_mode": ("force_generic_plan",),
}  # fmt: skip


def draw_settings(random: Random) -> tuple[tuple[str, str], ...]:
    """No setting for most cases, a few for the others; those that values are read by more often."""
    if random.random() < 0.5:
        return ()
    names = {
        *random.sample(list(SETTINGS)[:3], k=random.randint(0, 3)),
        *random.sample(list(SETTINGS), k=random.randint(0, 3)),
    }
    return tuple((name, random.choice(SETTINGS[name])) for name in sorted(names))
