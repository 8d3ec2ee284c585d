"""What goes to a host and what comes back: plain values that any executor can carry, and no secret among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from etl_toolkit import __version__
from etl_toolkit.config import ParallelConfig
from etl_toolkit.model import Batch, Counts, FileKeys, Layout, LoadSpec, Reject, SourceFile, TargetTable
from etl_toolkit.sources import Fetched


@dataclass(frozen=True)
class Job:
    """What all tasks of one load have in common.

    `exchange` is a directory that every host sees under this name, `sign` a file in it that the coordinator touches while it
    waits for the task. `threads` and `memory_bytes` are the share of a host that one task may use (0: as the host decides).
    """

    run_id: str
    spec: LoadSpec
    config: ParallelConfig
    target: TargetTable
    conventions: Mapping[str, str]
    exchange: str
    sign: str
    threads: int = 1
    memory_bytes: int = 0
    version: str = __version__


@dataclass(frozen=True)
class SortFile:
    """A file to be sorted, at its place in the load.

    `source` is what the host opens: a path, or an object of a store as it was listed. `name` is what the file is called in
    results and messages.
    """

    position: int
    source: str | Fetched
    name: str


@dataclass(frozen=True)
class SortFiles:
    """Look at some files and leave their rows in the exchange directory, one per key of each file, in key order.

    `samples` is the number of keys to return of each file; `layout` the layout of the records, None for that of the files
    themselves.
    """

    job: Job
    files: tuple[SortFile, ...]
    samples: int
    layout: Layout | None = None


@dataclass(frozen=True)
class SortedFile:
    """A file that was looked at."""

    file: SourceFile
    keys: FileKeys
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class SortedRun:
    """A sorted run in the exchange directory, of a file or of several small ones. `path` is empty if they have no keys.

    `record_bytes` is the room that its records take in memory. `samples` are some of its keys, as texts of their parts, and
    `key_types` DuckDB's types of these.
    """

    files: tuple[SortedFile, ...]
    layout: Layout
    samples: tuple[tuple[str, ...], ...]
    key_types: tuple[str, ...]
    path: str
    size_bytes: int
    record_bytes: int
    seconds: float

    @property
    def distinct_keys(self) -> int:
        """The keys of each file, added up: so many rows it has."""
        return sum(each.keys.distinct_keys for each in self.files)


@dataclass(frozen=True)
class SortedRuns:
    """What one task has found, and where its time went."""

    runs: tuple[SortedRun, ...]
    host: str
    phases: Mapping[str, float]


@dataclass(frozen=True)
class LoadRange:
    """Load one key range of all runs, or several of them, in one transaction.

    `runs` are the positions of the files of a run, -1 for one that is left out, and its path; `record_bytes` is the room for
    the records of all;
    `bounds` the condition on the key of each of the `batches`. `lost` and `rejects` are recorded with the first range of the
    load. A task that `holds` waits with COMMIT until the coordinator has seen every range loaded.
    """

    job: Job
    layout: Layout
    runs: tuple[tuple[tuple[int, ...], str], ...]
    batches: tuple[Batch, ...]
    bounds: tuple[str, ...]
    record_bytes: int
    target_is_empty: bool
    holds: bool
    lost: Mapping[int, Counts] = field(default_factory=dict)
    rejects: Mapping[int, tuple[Reject, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedRange:
    """What became of the rows of the ranges, per file position; all of it is committed."""

    counts: Mapping[int, Counts]
    rows_sent: int
    retries: int
    host: str
    seconds: float
    phases: Mapping[str, float]
