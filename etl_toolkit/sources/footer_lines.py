"""A CSV file without the lines at its end that are none of its data."""

from __future__ import annotations

from etl_toolkit.errors import SourceError
from etl_toolkit.sources.structure import ByteStream

LONGEST_FOOTER_BYTES = 64 << 20


class WithoutFooter:
    """A stream without its last `count` lines. Blank lines count; a line break at the very end begins no other line."""

    is_direct = False

    def __init__(self, stream: ByteStream, count: int) -> None:
        self._stream = stream
        self._count = count
        self._held = b""
        self._break = b""

    def read(self, size: int, /) -> bytes:
        """The next bytes of which it is sure that they are not in the footer; empty at the end."""
        while block := self._stream.read(size):
            self._held += block
            self._break = self._break or (b"\n" if b"\n" in self._held else b"\r" if b"\r" in self._held[:-1] else b"")
            if self._break and (found := self._take(self._count + 1)):
                return found
            if len(self._held) > LONGEST_FOOTER_BYTES:
                raise SourceError(
                    f"the last {self._count} lines take more than {LONGEST_FOOTER_BYTES:,} bytes; is footer right?"
                )
        found = self._take(self._count) if self._break else b""
        self._held = b""
        return found

    def _take(self, lines: int) -> bytes:
        """What is held, but for this many lines at its end."""
        end = len(self._held.removesuffix(self._break))
        for _ in range(lines):
            end = self._held.rfind(self._break, 0, end)
            if end < 0:
                return b""
        found, self._held = self._held[: end + 1], self._held[end + 1 :]
        return found
