"""Content that is no file of its own: it is written to one of ours before it is looked at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.stopping import Stop


@dataclass(frozen=True, slots=True)  # there may be a hundred thousand
class Fetched:
    """What is named so, of about this size. `fetch` writes it below a path of ours, and returns the path with its suffix.

    Of a file of this length, it may write only what is read under these options.
    Where it `is_anywhere`, other hosts may be sent this: they can fetch it as well, and nothing in it is secret.
    """

    name: str
    size: int
    fetch: Callable[[Path, Stop, ReadOptions], Path]
    is_anywhere: bool = False


@contextmanager
def room_wanted(copy: Path) -> Iterator[None]:
    """Raise SourceError with the remedy where the working directory cannot take what is written."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(copy.parent).free
        raise SourceError(
            f"the working directory {copy.parent} cannot take a copy of the input: {error.strerror} ({free:,} bytes free); "
            "free space, or name another place with temp_directory"
        ) from None
