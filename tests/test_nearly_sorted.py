"""The lines of a file on their way into COPY, nearly in key order: none is lost, whatever they are like."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_toolkit.loading import records
from etl_toolkit.loading.records import KeyField, NearlySorted


@pytest.fixture(scope="module", autouse=True)
def small_runs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "RUN_BYTES", 100)
        patch.setattr(records, "LINES_AT_ONCE", 3)
        yield


def read(data: bytes, *key: KeyField) -> list[bytes]:
    lines = NearlySorted(io.BytesIO(data), delimiter=b",", key=key)
    found = b"".join(iter(lines.read, b""))
    assert lines.sent == found.count(b"\n")
    return found.splitlines(keepends=True)


FIELD = st.text(st.characters(codec="utf-8", exclude_characters=',"\r\n\0'), max_size=150)


@given(rows=st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=40), is_ended=st.booleans(), data=st.data())
def test_every_line_comes_once(rows: list[tuple[str, ...]], is_ended: bool, data: Any) -> None:
    lines = [",".join(row).encode() + b"\n" for row in rows]
    file = b"".join(lines) if is_ended else b"".join(lines)[:-1]
    key = data.draw(st.lists(st.builds(KeyField, st.integers(0, 2), st.booleans()), min_size=1, max_size=3))
    assert sorted(read(file, *key)) == sorted(lines)


@pytest.mark.parametrize(
    ("fields", "is_integer"),
    [
        ([str(7**number) for number in range(12)], True),
        ([f"device-{number:08}" for number in range(12)], False),
        ([f"2026-11-{number:02} 10:00:00+00" for number in range(1, 13)], False),
    ],
    ids=["integers", "texts that begin alike", "timestamps"],
)
@pytest.mark.parametrize("number", [0, 1])
def test_lines_of_a_run_are_in_the_order_of_their_keys(
    monkeypatch: pytest.MonkeyPatch, fields: list[str], is_integer: bool, number: int
) -> None:
    monkeypatch.setattr(records, "RUN_BYTES", 10_000)
    lines = [(f"{field},x\n" if number == 0 else f"x,{field}\n").encode() for field in fields]
    shuffled = [lines[(5 * at) % 12] for at in range(12)]
    assert shuffled != lines
    assert read(b"".join(shuffled), KeyField(number, is_integer)) == lines


def test_the_parts_of_a_key_count_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RUN_BYTES", 10_000)
    lines = [f"{tenant},{order}\n".encode() for tenant in ("a", "b") for order in (2, 10, 100)]
    assert read(b"".join(reversed(lines)), KeyField(0, is_integer=False), KeyField(1, is_integer=True)) == lines
