"""The file × file matrix of shared keys, from the manifest's information about the files or from a given key overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from etl_toolkit.clusters import order_files
from etl_toolkit.model import KeyOverlap
from etl_toolkit.overlap import MAX_PAIRS
from etl_toolkit.reporting import draw
from etl_toolkit.reporting.pictures import Figure, Panel
from etl_toolkit.reporting.run_data import RunData
from etl_toolkit.tables import spell_count

LARGEST = 24  # files that are drawn as cells
READABLE = 12  # files whose cells have room for digits

Matrix = Sequence[Sequence[int]]


def overlap_figure(overlap: KeyOverlap) -> Figure | None:
    """Draw the shared keys of each two files of `overlap`; many files in an order in which those that share keys are close."""
    is_crowded = len(overlap.files) > LARGEST
    files = [overlap.file_at[position] for position in order_files(overlap)] if is_crowded else overlap.files
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
        f"more than one file; files fall into {spell_count(len(overlap.groups), 'group')}."
    )
    note = "Keys that two files share" + ("." if is_crowded else "; the diagonal shows the distinct keys of each file.")
    if overlap.shared_keys and (not overlap.pairs or len(overlap.pairs) >= MAX_PAIRS):
        note += f" There are too many pairs to list: the {len(overlap.pairs):,} that share most are drawn."
    if not files:
        return None
    if is_crowded:
        note += (
            f" All {len(files):,} files are drawn, those that share many keys next to each other, not in load order."
        )
        return Figure(finding, [_picture(matrix, "overlap-1", finding)], note)
    return Figure(finding, [_panel(matrix, names, "Keys shared by two files", "overlap-1")], note)


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
            draw.Cell(
                _short(keys) if count <= READABLE else " ",
                0.9 * keys / highest,
                f"files {y + 1} and {x + 1}: {keys:,} keys",
            )
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


def _picture(matrix: Matrix, name: str, finding: str) -> Panel:
    """A picture with a pixel or more for each two files, dark where they share most of the keys of the smaller one."""
    import numpy as np

    keys = np.array(matrix, dtype=np.float32)
    own = np.maximum(1, np.diagonal(keys))
    shares = keys / np.minimum(own[:, None], own[None, :])
    np.fill_diagonal(shares, 0)
    with draw.sheet(4.3, (0.4, 0.4, 0.1, 0.1)) as paper:
        paper.axes.grid(visible=False)
        shown = np.ma.masked_equal(shares, 0)
        image = paper.axes.imshow(shown, cmap="cividis_r", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        paper.figure.colorbar(image, ax=paper.axes, label="share of the smaller file's keys")
        paper.axes.set_xlabel("files, clustered")
        return paper.panel(name, f"Keys shared by each two of {len(matrix):,} files. {finding}")


def _short(keys: int) -> str:
    return f"{keys:,}" if keys < 100_000 else f"{keys / 1000:,.0f}k"
