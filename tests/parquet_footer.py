"""The footer of a Parquet file taken apart and put together again, to write what no writer of today writes.

A struct of Thrift's compact protocol is a list of [number of the field, type, value]; a list is (type, values).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

INT, BINARY, STRUCT = 5, 8, 12
SCHEMA, ROW_GROUPS = 2, 4  # of FileMetaData
REPEATED, REQUIRED = 2, 0

Struct = list[list[Any]]


def read_footer(path: Path) -> tuple[bytes, Struct]:
    """Return what is before the footer, and the footer."""
    data = path.read_bytes()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:begin], _Decoder(data, begin).struct()


def write_footer(path: Path, body: bytes, footer: Struct) -> None:
    encoded = bytearray()
    _encode(encoded, STRUCT, footer)
    path.write_bytes(body + encoded + len(encoded).to_bytes(4, "little") + b"PAR1")


def make_set(path: Path, place: int) -> None:
    """Let the column at this place, which is a list, be a map without values: a set, which DuckDB cannot read."""
    body, footer = read_footer(path)
    elements = field(footer, SCHEMA)[2][1]
    elements[place] = [item for item in elements[place] if item[0] not in (6, 10)] + [[6, INT, 1]]  # MAP
    write_footer(path, body, footer)


def field(struct: Struct, number: int) -> list[Any]:
    return next(item for item in struct if item[0] == number)


def element(name: str, *, repetition: int = REQUIRED, children: int | None = None) -> Struct:
    """An element of a schema: a group, or a column of 32-bit integers."""
    kind = [] if children is not None else [[1, INT, 1]]
    more = [[5, INT, children]] if children is not None else []
    return [*kind, [3, INT, repetition], [4, BINARY, name.encode()], *more]


class _Decoder:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def struct(self) -> Struct:
        found: Struct = []
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.signed()
            found.append([number, head & 15, self.value(head & 15)])
        return found

    def value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind in (4, 5, 6):
            return self.signed()
        if kind == BINARY:
            size = self.unsigned()
            self.at += size
            return self.data[self.at - size : self.at]
        if kind == STRUCT:
            return self.struct()
        assert kind == 9, kind
        head = self.byte()
        size = head >> 4 if head >> 4 < 15 else self.unsigned()
        return head & 15, [self.value(head & 15) for _ in range(size)]

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self) -> int:
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)


def _encode(to: bytearray, kind: int, value: Any) -> None:
    if kind in (4, 5, 6):
        _unsigned(to, (value << 1) ^ (value >> 63))
    elif kind == BINARY:
        _unsigned(to, len(value))
        to += value
    elif kind == 9:
        to.append(0xF0 | value[0])
        _unsigned(to, len(value[1]))
        for item in value[1]:
            _encode(to, value[0], item)
    elif kind == STRUCT:
        for number, of_field, item in value:
            to.append((1 if item else 2) if of_field in (1, 2) else of_field)
            _unsigned(to, number << 1)
            _encode(to, of_field, item)
        to.append(0)


def _unsigned(to: bytearray, value: int) -> None:
    while value > 127:
        to.append(value & 127 | 128)
        value >>= 7
    to.append(value)
