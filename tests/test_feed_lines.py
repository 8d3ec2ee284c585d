"""Which lines of a file are its records, and how they are spelled: comments, footers, headers, other delimiters and escapes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl_toolkit import ParallelConfig
from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import ReadOptions, Reject, SourceFile
from etl_toolkit.sources import locate, resolve, text_relation
from etl_toolkit.sources.footer_lines import WithoutFooter
from etl_toolkit.sources.records import OWN_DELIMITER, Record, Scanner, Shape
from etl_toolkit.sources.structure import pieces
from etl_toolkit.workspace import Workspace, open_workspace

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = Shape(b",", b'"', ("a", "b"), 1 << 20)
SHAPES = {
    "comment": replace(PLAIN, comment=b"#"),
    "until": replace(PLAIN, until=re.compile("END|(?i:total)")),
    "pad": replace(PLAIN, ragged="pad"),
    "cut": replace(PLAIN, ragged="cut"),
    "trim": replace(PLAIN, trim=True),
    "escape": replace(PLAIN, escape=b"\\"),
    "several": Shape(b"||", b'"', ("a", "b"), 1 << 20, comment=b"#"),
    "not ASCII": Shape("§".encode(), b"", ("a", "b"), 1 << 20, escape=b"\\"),
    "blank": Shape(b"\\s+", b'"', ("a", "b"), 1 << 20, is_blank=True),
    "all": Shape(b"|~|", b"'", ("a", "b"), 60, b"\\", comment=b"--", until=re.compile("END"), ragged="fit", trim=True),
}


class Drops(io.BytesIO):
    """A stream that gives its bytes in small portions, whatever it is asked for."""

    def __init__(self, data: bytes, portion: int) -> None:
        super().__init__(data)
        self.portion = portion

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.portion)


TOKENS = [
    b'"', b"'", b",", b",", b"|", b"||", b"|~|", "§".encode(), b"\\", b"\n", b"\n", b"\r\n", b"\r", b" ", b"\t", b"a", b"x1", b"#", b"\n#",
    b"--", b"\n--", b"\nEND", b"END", b"total\n", b'","', b'"\n"', OWN_DELIMITER, b"\xe9", b"\0",
]  # fmt: skip


@MANY
@given(
    data=st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join), name=st.sampled_from(sorted(SHAPES)),
    portion=st.sampled_from([1, 3, 64, 1 << 20]),
)  # fmt: skip
@example(data=b'a,b\n"x\n#y",1\n# no, "record\n2,3', name="comment", portion=1)
@example(data=b'"x\nEND",1\n2,3\nEND\n4,5\n', name="until", portion=3)
@example(data=b'a, "x\ny" \n"1" ,2\n', name="trim", portion=1)
@example(data=b"a\\\nb,2\n1,\\", name="escape", portion=1)
@example(data=b"a|||b\n|||\n", name="several", portion=1)
def test_blocks_found_clean_hold_what_the_scanner_finds(data: bytes, name: str, portion: int) -> None:
    shape = SHAPES[name]
    expected = [(1 + r.lines_before, r.raw, r.data, r.fault) for r in Scanner(shape).scan(data, at_end=True).records]
    found: list[tuple[int, bytes, bytes, Any]] = []
    for piece in pieces(Drops(data, portion), shape, window=portion):
        records: tuple[Record, ...] = piece.records or ()
        if piece.records is None:
            records = tuple(Scanner(shape).scan(piece.source, at_end=True).records)
            assert piece.data == b"".join(record.data + b"\n" for record in records) or _alike(
                piece.data, records, shape
            )
            assert not any(record.fault for record in records)
        assert (piece.first_record, piece.count) == (len(found), len(records))
        found += [(piece.first_line + r.lines_before, r.raw, r.data, r.fault) for r in records]
    assert found == expected


def _alike(data: bytes, records: tuple[Record, ...], shape: Shape) -> bool:
    """Whether the bytes are the records, but for quotes that say nothing."""
    own = Scanner(shape.canonical)
    return [own._values(record.raw) for record in own.scan(data, at_end=True).records] == [
        own._values(record.data) for record in records
    ]


# --- written in one way and another, read alike ------------------------------------------------------------------------------

VALUES = st.lists(st.sampled_from([*"ab1,;|~§\\\"'# \t\n\r-é", "||", "END"]), max_size=6).map("".join)


@MANY
@given(
    rows=st.lists(st.tuples(VALUES, VALUES), max_size=6), delimiter=st.sampled_from(["||", "|~|", "§", ",", ";;;"]),
    quote=st.sampled_from(['"', "'"]), escape=st.sampled_from(["\\", None]), notes=st.lists(st.sampled_from(["# a", "#", "#,\""]), max_size=3),
)  # fmt: skip
def test_what_is_written_with_other_signs_is_read_as_it_was(
    rows: list[tuple[str, str]], delimiter: str, quote: str, escape: str | None, notes: list[str]
) -> None:
    shape = Shape(delimiter.encode(), quote.encode(), ("a", "b"), 1 << 20, (escape or "").encode(), comment=b"#")

    def field(value: str) -> str:
        if escape:
            value = value.replace(escape, escape * 2).replace(quote, escape + quote)
        return quote + (value if escape else value.replace(quote, quote * 2)) + quote

    lines = [delimiter.join(map(field, row)) for row in rows]
    for number, note in enumerate(notes):
        lines.insert(min(number * 2, len(lines)), note)
    data = "".join(line + "\n" for line in lines).encode()
    canonical = Scanner(shape.canonical)
    found = [
        tuple(value.decode() for value, _ in canonical._values(record.raw))
        for piece in pieces(io.BytesIO(data), shape)
        for record in canonical.scan(
            piece.data or b"".join(r.data + b"\n" for r in piece.records or ()), at_end=True
        ).records
    ]
    assert found == rows


@MANY
@given(
    lines=st.lists(st.sampled_from(["a", "", "bc"]), max_size=6), end=st.sampled_from(["\n", "\r\n", "\r"]), is_closed=st.booleans(),
    count=st.integers(1, 4), portion=st.sampled_from([1, 2, 100]),
)  # fmt: skip
def test_a_footer_is_the_last_lines_whatever_the_portions(
    lines: list[str], end: str, is_closed: bool, count: int, portion: int
) -> None:
    data = end.join(lines) + (end if is_closed and lines else "")
    stream = WithoutFooter(Drops(data.encode(), portion), count)
    left = b"".join(iter(lambda: stream.read(100), b"")).decode()
    all_lines = data.removesuffix(end).split(end) if data else []
    assert left == "".join(line + end for line in all_lines[:-count])


# --- files ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, options: dict[str, Any]) -> Iterator[tuple[Workspace, SourceFile]]:
    with open_workspace(ParallelConfig(), threads=1) as workspace:
        yield workspace, resolve([path], ReadOptions(**options), workspace, max_rejects=9).files[0]


def read(path: Path, **options: Any) -> tuple[tuple[str, ...], list[tuple[Any, ...]], list[tuple[int | None, str]]]:
    """The columns of a file, its rows, and its malformed records: line and text. Every record is where it is said to be."""
    with opened(path, options) as (workspace, file):
        relation, texts = text_relation([file], file.columns)
        rows = workspace.query(f"SELECT {', '.join(texts)} FROM {relation}")
        assert file.records == len(rows)
        everything = [Reject(0, number, None, "", "", "") for number in range(len(rows) + len(file.malformed))]
        located = locate(file, everything, workspace, max_line_bytes=1 << 20)
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
        assert all(lines[(reject.line or 0) - 1].startswith(reject.raw.splitlines()[0].rstrip()) for reject in located)
        return file.columns, rows, [(reject.line, reject.raw) for reject in file.malformed]


AB, ONE = ("a", "b"), [("1", "x")]


@pytest.mark.parametrize(("text", "options", "columns", "rows", "malformed"), [
    ("# note\na,b\n# 1,2\n1,x\n#\n", {"comment": "#"}, AB, ONE, []),
    ('a,b\n1,"x\n# no comment"\n', {"comment": "#"}, AB, [("1", "x\n# no comment")], []),
    ("a,b\n1,x\n2 rows\nbye\n", {"footer": 2}, AB, ONE, []),
    ("a,b\n1,x\nTOTAL 1\n2,y\n", {"until": "TOTAL"}, AB, ONE, []),
    ('a,b\n1,"x\nTOTAL"\n2\n(2 rows)\n', {"until": r"\(\d+ rows?\)$"}, AB, [("1", "x\nTOTAL")], [(4, "2")]),
    ("title\n\n# c\na,b\n1,x\nEND\n", {"skip": 1, "comment": "#", "footer": 1}, AB, ONE, []),
    ("1,x\n", {"header": 0, "headers": AB}, AB, ONE, []),
    ("a,b\n1,x\n", {"header": False, "headers": AB}, AB, [("a", "b"), *ONE], []),
    ("Id,Name\n1,x\n", {"header": True, "headers": AB}, AB, ONE, []),
    ('Amount,,x\nEUR,USD,\n1,2,3\n', {"header": 2}, ("Amount EUR", "USD", "x"), [("1", "2", "3")], []),
    ("a,b\n", {}, AB, [], []),
    ("sep=;\na;b\n1;x\n", {}, AB, ONE, []),
    ('"sep=\t"\r\na\tb\r\n1\tx\r\n', {}, AB, ONE, []),
    ("a,b\n1\n1,x,y\n1,x\n", {"ragged": "pad"}, AB, [("1", None), *ONE], [(3, "1,x,y")]),
    ('a,b\n1\n1,"x",y\n1,x,\n', {"ragged": "cut"}, AB, [*ONE, *ONE], [(2, "1")]),
    ('a,b\n1\n1,"x,y",z\n', {"ragged": "fit"}, AB, [("1", None), ("1", "x,y")], []),
    ("a||b\n1||x\n2||\"y||z\"\n3\n", {"delimiter": "||"}, AB, [*ONE, ("2", "y||z")], [(4, "3")]),
    ("a§b\n1§x\n2§y,z\x1e\n", {"delimiter": "§"}, AB, [*ONE, ("2", "y,z\x1e")], []),
    ("  a   b\n1 \t x  \n\n 2 \"y z\"\n3\n", {"delimiter": r"\s+"}, AB, [*ONE, ("2", "y z")], [(5, "3")]),
    ("a b\n1 x\n1  x\n", {"delimiter": " "}, AB, ONE, [(3, "1  x")]),
    ('a,b\n1,"x\\"y\\\\"\n\\N,\\,\n2,y\\\nz\n', {"escape": "\\"}, AB, [("1", 'x"y\\'), (None, ","), ("2", "y\nz")], []),
    ("a;b\n1;x\\;\n2\n", {"escape": "\\"}, AB, [("1", "x;")], [(3, "2")]),
    ("a,b\n1,'x,''y'\n2,\"\n", {"quote": "'"}, AB, [("1", "x,'y"), ("2", '"')], []),
    ('a,b\n1 , "x, y" \n"2", " z "\n', {"trim": True}, AB, [("1", "x, y"), ("2", "z")], []),
    ('a,b\n1,"x,y"\n2,"""\n3"\n4,"-"\n5,-\n', {"null": ("x,y", '"', "-")}, AB,
     [("1", "x,y"), ("2", '"\n3'), ("4", "-"), ("5", None)], []),
    ('a,b\n1,"x,y"\n2,""\n3,"-"\n', {"null": ("x,y", "-"), "quoted_empty": "null"}, AB, [("1", None), ("2", None), ("3", None)], []),
    ("a,b\n1 ,\tx \u00a0\n", {"trim": True}, AB, ONE, []),
    ("\ufeffa,b\n# c\n1,x\n", {"comment": "#"}, AB, ONE, []),
    ("\ufeffsep=|\na|b\n1|x\n", {}, AB, ONE, []),
    ("a|b|\n1|x|\n", {"names": "snake", "columns": ["a", "b"]}, ("a", "b", "\0002_column_3"), [("1", "x", None)], []),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_records_of_a_file_and_their_lines(
    text: str,
    options: dict[str, Any],
    columns: tuple[str, ...],
    rows: list[Any],
    malformed: list[Any],
    end: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((text if "\r" in text else text.replace("\n", end)).encode())
    found = read(path, **options)
    in_lines = [tuple(value and value.replace("\r\n", "\n") for value in row) for row in found[1]]
    assert (found[0], in_lines, found[2]) == (columns, rows, malformed)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"until": "("}, UsageError, "until is no regular expression"),
    ({"header": 0}, UsageError, "name the columns with headers"),
    ({"header": 3}, SourceError, "has fewer lines than its header"),
    ({"header": 1, "headers": ("x",)}, SourceError, "the header has 2 columns, and headers names 1"),
    ({"comment": ""}, UsageError, "comment must be"),
    ({"ragged": "drop"}, UsageError, "unknown choice for ragged"),
    ({"escape": ","} | {"delimiter": ","}, UsageError, "the escape must be"),
    ({"format": "pgtext", "comment": "#"}, UsageError, "not for COPY's text format"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n")
    with pytest.raises(error, match=message), opened(path, options):
        pass
