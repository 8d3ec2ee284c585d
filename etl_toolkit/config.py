"""`ParallelConfig`: how a load is run. Nothing in it changes what a load leaves in the table, only how it gets there."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from etl_toolkit.errors import ConfigError

ENVIRONMENT_PREFIX = "ETL_"


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ParallelConfig:
    """Settings of a load.

    concurrency: workers, each with one database connection; 0 means the cores of this machine, at most 8.
    chunk_size: rows that `streaming` stages before it merges them into the table.
    sub_batch_size: rows handed to COPY at a time, and the step in which a faulty file is searched for its bad rows.
    conflict_detection: look for shared keys before loading. Off saves the key scan; `auto` then cannot prove files
        disjoint, so it loads them in order (`deterministic_processing`) or merges staged files by key partition.
    deterministic_processing: without conflict detection, load in file order, so that a reader midway sees a prefix of
        the sequential load. Off allows the staged partitions, whose outcome is the same but which show it all at the end.
    performance_monitoring: sample CPU and memory during the load and report them in the result.
    memory_limit_bytes: what DuckDB may hold before it spills to `temp_directory`; 0 means a quarter of the memory limit.
    retry_attempts, retry_budget_seconds: bounds on repeating a batch after a transient database error.
    lock_wait_seconds: how long to wait for another run on the same table (0: do not wait).
    """

    concurrency: int = 0
    chunk_size: int = 100_000
    sub_batch_size: int = 10_000
    conflict_detection: bool = True
    deterministic_processing: bool = True
    performance_monitoring: bool = False
    memory_limit_bytes: int = 0
    temp_directory: str | None = None
    retry_attempts: int = 5
    retry_budget_seconds: float = 60.0
    lock_wait_seconds: float = 0.0
    lock_timeout_seconds: float = 60.0
    statement_timeout_seconds: float = 0.0
    idle_in_transaction_timeout_seconds: float = 0.0
    connect_timeout_seconds: float = 10.0
    max_line_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind = {"int": int, "float": (int, float), "bool": bool, "str | None": (str, type(None))}[str(item.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and item.type != "bool"):
                raise ConfigError(f"{item.name} must be {item.type}, not {value!r}")
            if isinstance(value, int | float) and value < 0:
                raise ConfigError(f"{item.name} must not be negative, but is {value}")
        for name in ("chunk_size", "sub_batch_size", "retry_attempts", "max_line_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")

    @classmethod
    def production(cls) -> ParallelConfig:
        """Eight workers and every safety on: for a scheduled load into a shared table."""
        return cls(concurrency=8, performance_monitoring=True)

    @classmethod
    def development(cls) -> ParallelConfig:
        """Two workers, small chunks, no conflict detection: for trying things out. Still never wrong."""
        return cls(
            concurrency=2,
            chunk_size=10_000,
            sub_batch_size=1_000,
            conflict_detection=False,
            deterministic_processing=False,
            performance_monitoring=False,
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> ParallelConfig:
        """Build from a mapping; a `preset` key names the presets to start from. Raises ConfigError on unknown names."""
        given = dict(values)
        preset = given.pop("preset", None)
        presets = {None: cls, "production": cls.production, "development": cls.development}
        if preset not in presets:
            raise ConfigError(f"{origin}: unknown preset {preset!r}; choose production or development")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ConfigError(f"{origin}: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        try:
            return replace(presets[preset](), **given)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> ParallelConfig:
        """Read the `[load]` table of a TOML file."""
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        section = document.get("load", {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: [load] must be a table of settings")
        return cls.from_mapping(section, origin=str(path))

    @property
    def workers(self) -> int:
        """The number of workers that `concurrency` comes to on this machine."""
        return self.concurrency or min(8, available_cores())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
