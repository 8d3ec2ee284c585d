"""The rejected rows of a run, from the ledger: listed for people, or exported to be fixed and loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.loading import ledger
from etl_toolkit.model import RejectedRow
from etl_toolkit.sources import partition_of
from etl_toolkit.tables import Table, spell_count, to_text

_REJECTS = """
SELECT f.name, r.record, r.line, r.reason, r.sqlstate, r.raw, f.header
FROM etl_toolkit.rejects r JOIN etl_toolkit.files f ON f.run_id = r.run_id AND f.position = r.file
WHERE r.run_id = %s ORDER BY r.file, r.record
"""


def list_rejects(connection: Any, run_id: str) -> list[RejectedRow]:
    """Return the rejected rows of a run, in the order of its files."""
    return [row for row, _ in read_rejects(connection, run_id)]


def export_rejects(connection: Any, run_id: str, path: str | Path) -> int:
    """Write the rejected rows of a run to a CSV file, under the header of their file; return how many there were.

    The file is UTF-8, and can be fixed and loaded again as the original was. Rows of files with different headers go into a file
    each: `path`, then `path` with -2, -3, … before its suffix; those of files whose directories carry columns (`dt=…`) into
    the same directories beside it. Raises UsageError where a file is there already, so that rows being fixed are not lost.
    """
    by_place: dict[tuple[Path, str], list[str]] = {}
    for row, header in read_rejects(connection, run_id):
        by_place.setdefault((Path(path).parent / partition_of(row.file), header), []).append(row.raw)
    directories = [directory for directory, _ in by_place]
    paths = []
    for number, directory in enumerate(directories):
        before = directories[:number].count(directory)
        name = Path(path).name if not before else f"{Path(path).stem}-{before + 1}{Path(path).suffix}"
        paths.append(directory / name)
    for target in paths:
        if target.exists():
            raise UsageError(f"{target}: already exists; name another file, or remove it")
    for target, ((_, header), records) in zip(paths, by_place.items(), strict=True):
        try:
            if target.parent != Path(path).parent:
                target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8", newline="") as stream:
                stream.writelines(line + "\n" for line in (*([header] if header else []), *records))
        except OSError as error:
            raise SourceError(f"{target}: cannot be written: {error.strerror}") from None
    return sum(map(len, by_place.values()))


def rejects_text(rows: Sequence[RejectedRow]) -> str:
    """Render rejected rows for a terminal: a table per file, the raw text cut to what fits."""
    names = list(dict.fromkeys(row.file for row in rows))
    return to_text([_file_table(name, [row for row in rows if row.file == name]) for name in names])


def _file_table(name: str, rows: Sequence[RejectedRow]) -> Table:
    def beginning(raw: str) -> str:
        return raw if len(raw) <= 40 else raw[:39] + "…"

    place = "line" if all(row.line is not None for row in rows) else "record"
    cells = [
        (row.line if place == "line" else row.record + 1, row.sqlstate, row.reason, beginning(row.raw)) for row in rows
    ]
    return Table(f"{name}: {spell_count(len(rows), 'rejected row')}", (place, "SQLSTATE", "reason", "row"), cells)


def read_rejects(connection: Any, run_id: str) -> list[tuple[RejectedRow, str]]:
    """Return the rejected rows of a run, each with the line under which it can be loaded again."""
    with connection.cursor() as cursor:
        cursor.execute(_REJECTS, (run_id,))
        rows = ledger.read(cursor.fetchall(), ledger.encoding_of(connection))
        return [(RejectedRow(*row[:6]), row[6]) for row in rows]
