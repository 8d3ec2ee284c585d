"""The bytes of the record store: memory or, beyond the limit, a file of the workspace that is mapped."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Any, BinaryIO

import numpy as np

MAPPED_BYTES = 32 << 20  # of a file, that may count as our memory before it is unmapped
UNMAPPABLE = "the file system of the working directory cannot map files into memory"


class Space:
    """Room for `size` bytes, as an array of them: it costs nothing until it is used.

    Of `file`, which is empty, about MAPPED_BYTES count as our memory at a time.
    """

    def __init__(self, size: int, file: BinaryIO | None) -> None:
        self.is_file = file is not None
        self._file = file
        self._map = _map_file(file, size) if file else _map_memory(size)
        self._touched = 0  # bytes of the file that were looked at since all of it was unmapped
        self.bytes: Any = np.frombuffer(self._map, dtype=np.uint8)

    def allocate(self, begin: int, end: int) -> None:
        """Take the disk space before it is written to: the system ends a process that it has no page for."""
        if self._file is None or end == begin or not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file.fileno(), begin, end - begin)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                raise

    def note_touched(self, size: int) -> None:
        """Unmap the file from time to time."""
        self._touched += size
        if self.is_file and self._touched > MAPPED_BYTES:
            self.unmap()

    def unmap(self) -> None:
        """Let what was looked at of the file no longer count as our memory; it stays in the system's cache while it can."""
        self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _map_memory(size: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)  # Windows


def _map_file(file: BinaryIO, size: int) -> mmap.mmap:
    file.truncate(size)
    try:
        return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise OSError(f"{UNMAPPABLE} ({error.strerror}); name another place with temp_directory") from None
