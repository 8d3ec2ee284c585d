"""Which files share keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class FileKeys:
    """Keys of one file. `unproven` rows carry a key whose equality the client cannot tell; NULL keys are apart.

    `rejected` are the rows among `rows` that were refused when they were looked at.
    """

    position: int
    name: str
    rows: int
    distinct_keys: int
    null_keys: int = 0
    unproven: int = 0
    rejected: int = 0

    @property
    def duplicates(self) -> int:
        """Rows that lose to a later row of the same file."""
        return self.rows - self.null_keys - self.unproven - self.rejected - self.distinct_keys


@dataclass(frozen=True)
class Intersection:
    """The number of keys that appear in exactly these files (positions) and no others."""

    files: tuple[int, ...]
    keys: int


@dataclass(frozen=True)
class KeyOverlap:
    """Which files share primary keys.

    `intersections` are exact (every key is counted in one of them), largest first, at most 1,000 of them. `pairs` maps two
    positions to the keys they share, for the 5,000 pairs that share most (all of 100 files); it is empty where there are
    too many to be counted, as where thousands of files share their keys. `groups` are the connected components: files of
    different groups share no key. `existing_keys` is the number of keys in the target table already, None where it was
    not looked up; `existing_is_estimate` says that it was scaled up from a sample.
    """

    files: tuple[FileKeys, ...]
    distinct_keys: int
    shared_keys: int
    intersections: tuple[Intersection, ...]
    pairs: Mapping[tuple[int, int], int]
    groups: tuple[tuple[int, ...], ...]
    existing_keys: int | None = None
    existing_is_estimate: bool = False
    key: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @cached_property
    def file_at(self) -> Mapping[int, FileKeys]:
        """The files by their position."""
        return {file.position: file for file in self.files}

    def rows_of(self, positions: Iterable[int]) -> int:
        return sum(self.file_at[position].rows for position in positions)

    def is_first(self, position: int) -> bool:
        """Whether a file shares no key with one before it: it is the first of its group."""
        return position in self._first

    @cached_property
    def _first(self) -> frozenset[int]:
        return frozenset(min(group) for group in self.groups)

    @property
    def overlap_ratio(self) -> float:
        """Share of the distinct keys that appear in more than one file, 0 to 1."""
        return self.shared_keys / self.distinct_keys if self.distinct_keys else 0.0

    @property
    def has_duplicates(self) -> bool:
        return any(file.duplicates for file in self.files)

    @property
    def has_losers(self) -> bool:
        """Whether any row loses to another one with its key."""
        return self.has_duplicates or self.shared_keys > 0

    @property
    def unproven(self) -> int:
        return sum(file.unproven for file in self.files)

    def __repr__(self) -> str:
        from etl_toolkit.display import cut_to_screen

        return cut_to_screen(str(self))

    def __str__(self) -> str:
        from etl_toolkit.display import overlap_text

        return overlap_text(self)

    def _repr_html_(self) -> str:
        from etl_toolkit.display import overlap_html

        return overlap_html(self)
