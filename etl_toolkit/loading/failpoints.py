"""Named points of a load, at which a test may make something happen: kill the process, cut a connection, wait.

Nothing is installed outside the tests, and nothing here reads the environment: a point then costs a look at an empty
mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

POINTS = (
    "scanned",  # files read, plan made, nothing written
    "begun",  # the run is recorded in the ledger
    "compared",  # a part of the table is read out, to be compared with the files
    "claimed",  # a batch is claimed in its open transaction
    "copying",  # a block goes to COPY
    "copied",  # the rows of a file or a key range are staged, or in the table
    "staged",  # a file is staged for all workers, and committed
    "merged",  # staged rows are merged into the table
    "completed",  # the batch is complete in its open transaction: the next thing is COMMIT
    "committed",  # a batch is committed; others may not be
    "dropping",  # shared staging tables are about to be dropped
    "finishing",  # every batch is committed, the run not yet closed
)

_actions: dict[str, Callable[[], None]] = {}


def reach(point: str) -> None:
    """Do what a test has installed for `point`: nothing, outside of tests."""
    if _actions and (action := _actions.get(point)):
        action()


@contextmanager
def installed(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Install actions for the length of the block. They are called from the workers' threads, every time."""
    if unknown := sorted(set(actions) - set(POINTS)):
        raise ValueError(f"unknown failpoint {', '.join(unknown)}; known are {', '.join(POINTS)}")
    _actions.update(actions)
    try:
        yield
    finally:
        _actions.clear()
