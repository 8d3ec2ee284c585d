"""The settings of a load, their defaults, their bounds, and the two presets."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from etl_toolkit.config.cost_model import CostModel
from etl_toolkit.errors import ConfigError
from etl_toolkit.model import Strategy

_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text"),
    "CostModel | None": ((CostModel, type(None)), "a table, [load.cost]"),
}
_AT_LEAST_ONE = ("chunk_size", "sub_batch_size", "retry_attempts", "max_line_bytes")
COMMITS = ("auto", "together", "per_range")
_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ParallelConfig:
    """Settings of a load.

    concurrency: workers, each with one database connection; 0 means the cores of this machine, at most 8, and one for
        a load of at most 10,000 rows and 1 MB.
    strategy: the strategy of a load that does not name one.
    chunk_size: rows that `streaming` stages before it merges them into the table.
    sub_batch_size: rows sent at a time in the search for rows that the server refuses.
    conflict_detection: look for shared keys before loading. Off saves the key scan; `auto` then cannot prove files
        disjoint, so it loads them in order (`deterministic_processing`) or merges staged files by key partition.
    deterministic_processing: without conflict detection, load in file order, so that a reader midway sees a prefix of
        the sequential load. Off allows the staged partitions: the same outcome, shown all at the end.
    performance_monitoring: sample CPU and memory during the load and report them in the result.
    memory_alert_ratio: share of the memory limit (cgroup or machine) above which a load raises an alert.
    memory_limit_bytes: memory for DuckDB and the records beside it; beyond that, they go to `temp_directory`; 0: a quarter of
        the memory limit.
    temp_directory: where DuckDB spills and compressed input is unpacked; not set means the system's.
    time_limit_seconds: after how long a load is stopped, as if you had interrupted it (0: no limit).
    sla_seconds: how long a load should take at most; `doctor` checks the last run. 0: not checked.
    retry_attempts: how often a batch is tried when a transient database error stops it; 1 means no second try.
    retry_budget_seconds: how long after the first failure no further try begins, and how long to wait for a server that went away.
    lock_wait_seconds: how long to wait for another run on the same table, which may have ended without its server having
        noticed (0: do not wait).
    lock_timeout_seconds: how long a statement may wait for a lock of another session (0: forever).
    statement_timeout_seconds: how long one statement may run on the server (0: no limit).
    idle_in_transaction_timeout_seconds: after how long the server ends an idle session in a transaction (0: never).
    connect_timeout_seconds: how long opening a connection may take; libpq's minimum is 2.
    network_timeout_seconds: how long the network may be silent before a connection is given up, by the client and by the
        server; while rows are sent, `lock_timeout_seconds` longer (0: as the two systems are set).
    server_work_memory_bytes: `work_mem` of the sessions: what a sort or a hash join may hold, per worker.
    max_line_bytes: the longest record of a CSV file; a longer one is taken to be a fault in the quoting.
    cost: what the phases of a load cost on this machine, for the seconds that a plan predicts; a sweep measures it
        (`recommended.toml`).
    executor: the processes or hosts that load: `processes:4`, or the address of a Dask scheduler, `dask://HOST:PORT`; not set: this
        process alone.
    exchange: a directory that all hosts can read and write, for the sorted rows between them; not set: `temp_directory`, where
        the hosts are processes of this machine.
    commit: when key ranges that hosts load are committed: `together`, `per_range`, or `auto`: together where the server has
        a connection for every worker.
    """

    concurrency: int = 0
    strategy: str = "auto"
    chunk_size: int = 100_000
    sub_batch_size: int = 10_000
    conflict_detection: bool = True
    deterministic_processing: bool = True
    performance_monitoring: bool = False
    memory_alert_ratio: float = 0.8
    memory_limit_bytes: int = 0
    temp_directory: str | None = None
    time_limit_seconds: float = 0.0
    sla_seconds: float = 0.0
    retry_attempts: int = 5
    retry_budget_seconds: float = 60.0
    lock_wait_seconds: float = 10.0
    lock_timeout_seconds: float = 60.0
    statement_timeout_seconds: float = 0.0
    idle_in_transaction_timeout_seconds: float = 0.0
    connect_timeout_seconds: float = 10.0
    network_timeout_seconds: float = 30.0
    server_work_memory_bytes: int = 64 * 1024 * 1024
    max_line_bytes: int = 64 * 1024 * 1024
    cost: CostModel | None = None
    executor: str | None = None
    exchange: str | None = None
    commit: str = "auto"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kinds, words = _KINDS[str(item.type)]
            if not isinstance(value, kinds) or (isinstance(value, bool) and item.type != "bool"):
                raise ConfigError(f"{item.name} must be {words}, not {value!r}")
            # `not >=` refuses NaN as well; infinity cannot be passed to the server.
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ConfigError(f"{item.name} must be 0 or more, not {value}")
        if self.strategy not in tuple(Strategy):
            raise ConfigError(f"unknown strategy {self.strategy!r}; choose {', '.join(Strategy)}")
        if self.commit not in COMMITS:
            raise ConfigError(f"unknown commit {self.commit!r}; choose {', '.join(COMMITS)}")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.memory_alert_ratio <= 1:
            raise ConfigError(f"memory_alert_ratio must be above 0 and at most 1, not {self.memory_alert_ratio}")

    @classmethod
    def production(cls) -> ParallelConfig:
        """Eight workers and every safety on: for a scheduled load into a shared table."""
        return cls(concurrency=8, performance_monitoring=True)

    @classmethod
    def development(cls) -> ParallelConfig:
        """Two workers, small chunks, no conflict detection: for experiments. The result is still right."""
        return cls(
            concurrency=2,
            chunk_size=10_000,
            sub_batch_size=1_000,
            conflict_detection=False,
            deterministic_processing=False,
            performance_monitoring=False,
        )

    @classmethod
    def preset(cls, name: str | None, *, origin: str = "configuration") -> ParallelConfig:
        """Return the preset `name`, or the defaults for None. Raises ConfigError on any other name."""
        if name == "production":
            return cls.production()
        if name == "development":
            return cls.development()
        if name is not None:
            raise ConfigError(f"{origin}: unknown preset {name!r}; choose production or development")
        return cls()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> ParallelConfig:
        """Build from a mapping; a `preset` key names the preset to start from. Raises ConfigError on unknown names."""
        given = dict(values)
        start = cls.preset(given.pop("preset", None), origin=origin)
        check_names(given, origin)
        try:
            return replace(start, **{name: with_unit(name, value) for name, value in given.items()})
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> ParallelConfig:
        """Read the `[load]` table of a TOML file."""
        return cls.from_mapping(read_section(path), origin=str(path))

    @property
    def workers(self) -> int:
        """The number of workers that `concurrency` comes to on this machine."""
        return self.concurrency or min(8, available_cores())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def setting_names() -> list[str]:
    """The names of all settings, in the order in which they are described."""
    return [item.name for item in fields(ParallelConfig)]


def check_names(given: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError where a name is no setting."""
    if unknown := sorted(set(given) - set(setting_names())):
        known = ", ".join(["preset", *setting_names()])
        raise ConfigError(f"{origin}: unknown setting {', '.join(unknown)}; known are {known}")


def with_unit(name: str, value: Any) -> Any:
    """Read `2GB` for the settings that count bytes, in powers of 1024 as in postgresql.conf, and the table of `cost`."""
    if name == "cost" and isinstance(value, Mapping):
        return CostModel.from_mapping(value)
    if not isinstance(value, str) or not name.endswith("_bytes"):
        return value
    number, unit = value.strip()[:-2].strip(), value.strip()[-2:].lower()
    if unit in _UNITS and number.isdecimal():
        return int(number) * _UNITS[unit]
    raise ConfigError(f"{name} must be a number of bytes, or one with kB, MB, GB or TB, not {value!r}")


def read_section(path: str | Path) -> dict[str, Any]:
    """Return the `[load]` table of a TOML file. A file without one is refused: it is rather a spelling mistake."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    section = document.get("load")
    if not isinstance(section, dict):
        found = f"it has {', '.join(f'[{name}]' for name in document)}" if document else "it is empty"
        raise ConfigError(f"{path}: has no table [load] with the settings of a load; {found}")
    return section
