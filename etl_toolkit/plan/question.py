"""What a plan is made from, and what follows from it at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from etl_toolkit.columns import common_layout
from etl_toolkit.config import CostModel
from etl_toolkit.model import Batch, ConflictAction, Hazard, KeyOverlap, Layout, LoadSpec, SourceFile, TargetTable
from etl_toolkit.write_rules import may_compose, rows_meet


@dataclass(frozen=True)
class Question:
    """Everything that a plan is made from. `overlap` is None if conflict detection is off or not possible."""

    spec: LoadSpec
    target: TargetTable
    files: tuple[SourceFile, ...]
    overlap: KeyOverlap | None
    workers: int
    cores: int
    are_workers_given: bool = True  # else as many as there are cores
    deterministic_processing: bool = True
    lanes: tuple[tuple[Batch, ...], ...] | None = None  # of a run that is resumed
    staging_refusal: str = ""  # why the role may not make staging tables that workers share
    cost: CostModel | None = None  # of this machine, where it was measured

    @cached_property
    def layout(self) -> Layout | None:
        """The layout that all files have, or None where they carry different columns."""
        return common_layout(self.files, self.target)

    @cached_property
    def sequential(self) -> tuple[Hazard, ...]:
        """What of the table couples rows of different keys in these files, so that they are loaded in order."""
        carried = {name for file in self.files for name in file.carried}
        hazards = self.target.forced("sequential")
        return tuple(hazard for hazard in hazards if not hazard.columns or carried & set(hazard.columns))

    @property
    def server_reason(self) -> str:
        """Why only the server may compare keys; empty where the client may."""
        if hazards := self.target.forced("server"):
            return f"only the server can compare these keys ({hazards[0].detail})"
        if self.overlap is None:
            return "conflict detection is off"
        if unproven := self.overlap.unproven:
            return f"{unproven} keys or order values are spelled in a way that only the server can compare"
        return ""

    @property
    def key_path(self) -> Literal["client", "server"]:
        """Who compares keys."""
        return "server" if self.server_reason else "client"

    @property
    def rows_meet(self) -> bool:
        """Whether rows that lose leave values behind, and there are any."""
        return rows_meet(self.spec) and (self.overlap is None or self.overlap.has_losers)

    @property
    def may_compose(self) -> bool:
        """Whether the client may put rows of one key together: nothing but the rows themselves decides what that leaves."""
        return may_compose(self.spec) and not self.target.hazards

    @property
    def competes_across_files(self) -> bool:
        """Whether rows of all files compete by the order column before one of them meets the table.

        With `newer`, file by file leaves the same, unless an option of writing lets rows that lose leave something behind.
        """
        spec = self.spec
        return spec.order_by is not None and (spec.conflict_action is ConflictAction.UPDATE or not spec.write.is_plain)
