"""The file × file matrix of shared keys, from the manifest's information about the files or from a given key overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from etl_toolkit.model import KeyOverlap
from etl_toolkit.reporting import draw
from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.run_data import RunData

LARGEST = 24

Matrix = Sequence[Sequence[int]]


def overlap_figure(overlap: KeyOverlap) -> Figure | None:
    """Draw the shared keys of each two files of `overlap`; of many files, the first ones."""
    files = overlap.files[:LARGEST]
    matrix = [
        [
            file.distinct_keys if file is other else overlap.pairs.get(_pair(file.position, other.position), 0)
            for other in files
        ]
        for file in files
    ]
    names = [PurePath(file.name).name for file in files]
    finding = (
        f"{overlap.shared_keys:,} of {overlap.distinct_keys:,} distinct keys ({overlap.overlap_ratio:.0%}) appear in "
        f"more than one file; files fall into {len(overlap.groups)} group{'s' if len(overlap.groups) != 1 else ''}."
    )
    more = f" The first {LARGEST} of {len(overlap.files)} files are shown." if len(overlap.files) > LARGEST else ""
    note = f"Keys that two files share; the diagonal shows the distinct keys of each file.{more}"
    return Figure(finding, [_panel(matrix, names, "Keys shared by two files", "overlap-1")], note) if files else None


def overlap_map(data: RunData) -> Figure | None:
    """Draw the matrices of the workloads that the middle cases loaded."""
    panels: list[Panel] = []
    words = []
    for overlap in data.values("overlap", data.at()):
        summary = _workload(data, data.at(overlap=overlap)[0]["setting"])
        matrix = _matrix(summary) if summary else None
        if summary and matrix and summary.get("shared_keys") and len(panels) < 4:
            names = [PurePath(name).name for name in summary["file_names"]]
            title = f"Keys shared by two files, {overlap:.0%} overlap"
            panels.append(_panel(matrix, names, title, f"files-{len(panels) + 1}"))
            shared, distinct = summary["shared_keys"], summary["distinct_keys"]
            words.append(f"at {overlap:.0%} overlap {shared:,} of {distinct:,} distinct keys appear in several files")
    if not panels:
        return None
    finding = "; ".join(words) + "."
    return Figure(
        finding[:1].upper() + finding[1:],
        panels,
        "Keys that two files share; the diagonal shows the distinct keys of each file.",
    )


def _pair(left: int, right: int) -> tuple[int, int]:
    return min(left, right), max(left, right)


def _workload(data: RunData, setting: str) -> Mapping[str, Any] | None:
    for name, summary in data.record.manifest.workloads.items():
        if setting.startswith(f"{name}-"):
            found: Mapping[str, Any] = summary
            return found
    return None


def _matrix(summary: Mapping[str, Any]) -> Matrix | None:
    """The shared keys of each two files: counted, for one's own files; known beforehand, for generated ones."""
    count = len(summary["file_names"])
    if count > LARGEST:
        return None
    if "pairs" in summary:
        shared = {(left, right): keys for left, right, keys in summary["pairs"]}
        distinct = summary["distinct_keys_per_file"]
        return [[distinct[i] if i == j else shared.get(_pair(i, j), 0) for j in range(count)] for i in range(count)]
    if "duplicates_within" not in summary:
        return None
    distinct = max(1, summary["rows"] - round(summary["rows"] * summary["duplicates_within"]))
    step = distinct - round(distinct * summary["overlap"])
    return [[max(0, distinct - abs(i - j) * step) for j in range(count)] for i in range(count)]


def _panel(matrix: Matrix, names: Sequence[str], title: str, name: str) -> Panel:
    count, highest = len(names), max(max(row) for row in matrix) or 1
    cells = {
        f"{label[-16:]} {y + 1}": [
            draw.Cell(_short(keys), 0.9 * keys / highest, f"files {y + 1} and {x + 1}: {keys:,} keys")
            if keys
            else draw.Cell("·")
            for x, keys in enumerate(matrix[y])
        ]
        for y, label in enumerate(names)
    }
    shares = [
        f"files {i + 1} and {j + 1} share {matrix[i][j]:,} keys"
        for i in range(count)
        for j in range(i + 1, count)
        if matrix[i][j]
    ]
    return draw.matrix(
        name, cells, [str(number + 1) for number in range(count)], title=title, row_inches=max(0.13, min(0.62, 3.1 / count)),
        text_size=8.0 if count <= 8 else 5.0, alt=f"{title}: {'; '.join(shares[:12]) or 'no two files share a key'}.",
    )  # fmt: skip


def _short(keys: int) -> str:
    return f"{keys:,}" if keys < 100_000 else f"{keys / 1000:,.0f}k"
