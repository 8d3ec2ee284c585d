"""Standard input and named pipes, which can be read once: written to a file of ours first."""

from __future__ import annotations

import os
import select
from functools import partial
from pathlib import Path

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.fetched import Fetched, room_wanted
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.structure import BLOCK_BYTES
from etl_toolkit.stopping import Stop

STDIN = "-"
_STEP_MILLISECONDS = 200
# What a name would say of the content, by its first bytes.
_BEGINNINGS = (
    (b"\x1f\x8b", ".csv.gz"), (b"\x28\xb5\x2f\xfd", ".csv.zst"), (b"BZh", ".csv.bz2"), (b"\xfd7zXZ\x00", ".csv.xz"),
    (b"PAR1", ".parquet"), (b"ARROW1\x00\x00", ".arrow"), (b"", ".csv"),
)  # fmt: skip


def piped(name: str) -> Fetched:
    """What comes through a pipe: `-` for standard input, or the path of a named one."""
    return Fetched(name, 0, partial(_spool, name))


def _spool(name: str, below: Path, stop: Stop, _options: ReadOptions) -> Path:
    """Write what comes through the pipe to a file, until its other end is closed.

    Of a writer that fails a pipe tells nothing: what it wrote is loaded, and a last line that is cut short is malformed.
    """
    source = os.dup(0) if name == STDIN else os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    head = b""
    try:
        if os.isatty(source):
            raise UsageError("standard input (-) is a terminal; pipe a file into it, or redirect one")
        with below.open("xb") as output:
            while data := _read(source, stop):
                head = head if len(head) >= 8 else head + data[:8]
                with room_wanted(below):
                    output.write(data)
    except OSError as error:
        raise SourceError(f"{escape_name(name)}: cannot be read: {error.strerror or error}") from None
    finally:
        os.close(source)
    suffix = next(suffix for magic, suffix in _BEGINNINGS if head.startswith(magic))
    return below.rename(below.with_name(below.name + suffix))


def _read(source: int, stop: Stop) -> bytes:
    """The next bytes; a writer that is slow, or not there yet, is waited for."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while not poll.poll(_STEP_MILLISECONDS):
        stop.check()
    stop.check()
    return os.read(source, BLOCK_BYTES)
