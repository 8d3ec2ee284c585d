"""What to sweep over: axes, rounds and limits, with a quick and a full preset, from TOML too."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from etl_toolkit.bench.contenders import CONTENDERS, find
from etl_toolkit.bench.records import TableState
from etl_toolkit.bench.shapes import SHAPES
from etl_toolkit.errors import ConfigError, UsageError

ALL_STRATEGIES = tuple(name for name, contender in CONTENDERS.items() if contender.kind != "peer")
STATES = ("empty", "half", "tenth", "rewritten", "unchanged")


@dataclass(frozen=True)
class SweepConfig:
    """What to sweep over. Of each axis the first value is the middle of the slices.

    `rows` counts the rows of one file. `strategies` are measured at every overlap and, unless `state_strategies` names
    others, in every table state, with each of `shapes` (see `bench.shapes`); `side_strategies` on the other axes, with half of
    the keys shared where that is among `overlaps`. `twin` names the strategy of the A/A case. `own_files`
    replaces the generated files; `own_table` (in the database of the DSN, never written to) gives
    the definition of their table, and without it one is inferred, with the primary key `own_key`.
    `order` says what is finished first: `rounds` goes round by round over all cases, so that what slows the machine for a
    while slows them all; `settings` finishes one setting before the next, so that a sweep out of time has fewer settings
    and not fewer runs of each. `time_limit_seconds` ends a sweep early rather than late, never below three runs a case.
    `executors` are those of `ingest`, or `dask:N` for a cluster of N workers that the sweep starts; they load `partitioned`.
    `curve_readings` are those of memory and CPU in a run that each strategy makes for them at the end; 0: no such run.
    """

    name: str = "full"
    strategies: tuple[str, ...] = ALL_STRATEGIES
    side_strategies: tuple[str, ...] = ("partitioned", "hybrid", "streaming", "staged_merge")
    state_strategies: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("csv", "parquet", "mixed")
    files: tuple[int, ...] = (4,)
    rows: tuple[int, ...] = (250_000, 50_000)
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    table_states: tuple[TableState, ...] = ("empty", "half", "rewritten", "unchanged")
    workers: tuple[int, ...] = (2, 1, 4)
    keys: tuple[str, ...] = ("bigint", "text_timestamp")
    shapes: tuple[str, ...] = ("base",)
    batch_rows: tuple[int, ...] = (10_000, 25_000)
    executors: tuple[str, ...] = ("processes:2", "dask:2")
    twin: str | None = "partitioned"
    rounds: int = 5
    warm_up: bool = True
    order: Literal["rounds", "settings"] = "rounds"
    seed: int = 0
    curve_readings: int = 100
    time_limit_seconds: float = 1_800.0
    own_files: tuple[str, ...] = ()
    own_table: str | None = None
    own_key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in {
            *self.strategies,
            *self.side_strategies,
            *self.state_strategies,
            *([self.twin] if self.twin else []),
        }:
            find(name)
        if unknown := sorted(set(self.table_states) - set(STATES)):
            raise UsageError(f"unknown table state {', '.join(unknown)}; choose from {', '.join(STATES)}")
        if odd := sorted({*self.shapes} - {*SHAPES}):
            raise UsageError(f"unknown shape {', '.join(odd)}; choose from {', '.join(SHAPES)}")
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; at least 1 is needed, at least 5 for a meaningful verdict")
        axes = ("strategies", "formats", "files", "rows", "overlaps", "table_states", "workers", "keys", "shapes")
        if empty := [name for name in axes if not getattr(self, name)]:
            raise UsageError(f"{', '.join(empty)} must not be empty")

    @classmethod
    def preset(cls, name: str, *, origin: str = "bench") -> SweepConfig:
        """Return one of `PRESETS`. Raises ConfigError on any other name."""
        if name not in PRESETS:
            raise ConfigError(f"{origin}: unknown preset {name!r}; choose {', '.join(PRESETS)}")
        return cls(name=name, **PRESETS[name])

    @classmethod
    def quick(cls) -> SweepConfig:
        """Within 2 minutes on 2 cores: 1,000,000 rows in three settings, what `auto` does against what people write."""
        return cls.preset("quick")

    @classmethod
    def from_toml(cls, path: str | Path) -> SweepConfig:
        """Read the `[bench]` table of a TOML file; its `preset` says what to start from (`full`)."""
        try:
            section = dict(tomllib.loads(Path(path).read_text(encoding="utf-8")).get("bench", {}))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        start = cls.preset(section.pop("preset", "full"), origin=str(path))
        return cls.from_mapping(section, start=start, origin=str(path))

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], *, start: SweepConfig | None = None, origin: str = "configuration"
    ) -> SweepConfig:
        """Build from a mapping such as a manifest holds; lists become tuples, and so does one value of an axis.

        The A/A case is left out where its strategy is not measured. Unknown names are an error.
        """
        begin = start or cls()
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"{origin}: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        given = dict(values)
        for name, value in given.items():
            if isinstance(getattr(begin, name), tuple):
                given[name] = tuple(value) if isinstance(value, list | tuple) else (value,)
        if "strategies" in given and begin.twin not in given["strategies"]:
            given.setdefault("twin", None)
        return replace(begin, **given)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a manifest keeps it and JSON gives it back: lists for tuples, own files by name alone."""
        values = asdict(self) | {"own_files": [Path(name).name for name in self.own_files]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# What to start from: the whole sweep, a quick look, our strategies against other people's loaders, and tables and files as
# people have them.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "quick": {
        "strategies": ("auto", "staged_merge", "naive_parallel"), "side_strategies": (),
        "state_strategies": ("auto", "staged_merge"), "formats": ("csv",), "rows": (250_000,), "overlaps": (0.5, 0.0),
        "table_states": ("empty", "unchanged"), "workers": (2,), "keys": ("bigint",), "batch_rows": (), "twin": None,
        "rounds": 3, "warm_up": False, "order": "settings", "time_limit_seconds": 100.0,
    },
    "peers": {
        # Of those that take ten times as long as the others, one has to be asked for.
        "strategies": tuple(name for name, contender in CONTENDERS.items() if not contender.is_slow),
        "side_strategies": (), "formats": ("csv",), "rows": (500_000,), "overlaps": (0.0, 0.5, 1.0),
        "table_states": ("empty", "rewritten", "unchanged"), "workers": (2,), "keys": ("bigint",), "twin": None,
        "rounds": 5, "time_limit_seconds": 24 * 3600.0,
    },
    "shapes": {
        "strategies": ("auto", "staged_merge", "sequential"), "side_strategies": (), "formats": ("csv",),
        "rows": (100_000,), "overlaps": (0.5,), "table_states": ("empty", "half"), "workers": (2,), "keys": ("bigint",),
        "shapes": tuple(SHAPES), "twin": None, "rounds": 3, "warm_up": False, "order": "settings",
        "time_limit_seconds": 24 * 3600.0,
    },
}  # fmt: skip
