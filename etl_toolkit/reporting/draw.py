"""The kinds of drawings: lines with their intervals, and matrices.

Each takes plain numbers and returns a `Panel`: SVG that follows the reader's theme, with the values under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from etl_toolkit.reporting.palette import Look, placeholder, style, to_svg
from etl_toolkit.reporting.pictures import Panel

WIDTH_INCHES = 4.3
LINE_HEIGHT_POINTS = 10.5


@dataclass(frozen=True)
class Line:
    """A series: `points` are (x, median, low, high), NaN where the line breaks off; `dots` are single values."""

    name: str
    look: Look
    points: Sequence[tuple[float, float, float, float]]
    dots: Sequence[tuple[float, float]] = ()
    drawstyle: str = "default"
    label: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix: `depth` 0 is light, 1 dark; without one it is empty, hatched when it has no text either."""

    text: str = ""
    depth: float | None = None
    tip: str = ""


@dataclass
class Sheet:
    """A drawing in the making."""

    figure: Any
    axes: Any
    tips: list[str] = field(default_factory=list)

    def point(self, x: float, y: float, words: str, **looks: Any) -> None:
        """Draw a marker that shows `words` under the pointer."""
        self.axes.plot([x], [y], linestyle="", gid=f"tip-{len(self.tips)}", **looks)
        self.tips.append(words)

    def panel(self, name: str, alt: str) -> Panel:
        """Return what was drawn."""
        return Panel(name, to_svg(self.figure, name, self.tips), alt)


@contextmanager
def sheet(height: float, place: Sequence[float], *, width: float = WIDTH_INCHES) -> Iterator[Sheet]:
    """Open a drawing in our style; `place` is left, bottom, right and top of the axes, in inches from those edges."""
    from matplotlib.figure import Figure as Drawing

    left, bottom, right, top = place
    with style():
        drawing = Drawing(figsize=(width, height))
        inside = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        yield Sheet(drawing, drawing.add_axes(inside))


def lines(
    name: str, series: Sequence[Line], *, title: str, x_label: str, alt: str, ticks: Sequence[float] = (),
    top: float | None = None, right: float | None = None, size: tuple[float, float] = (WIDTH_INCHES, 3.2), unit: str = "",
    level: float | None = None, diagonal: Mapping[float, float] | None = None,
) -> Panel:  # fmt: skip
    """Draw series over a common axis, each named at its end; `level` and `diagonal` are dotted lines to compare with."""
    width, height = size
    is_small = width < WIDTH_INCHES
    place = (0.36, 0.36, 0.55, 0.24) if is_small else (0.5, 0.44, 1.25, 0.3)
    with sheet(height, place, width=width) as paper:
        axes = paper.axes
        if diagonal:
            axes.plot(list(diagonal), list(diagonal.values()), color=placeholder("soft"), linestyle=":", linewidth=1.2)
        if level is not None:
            axes.axhline(level, color=placeholder("soft"), linestyle=":", linewidth=1)
        ends = []
        for line in series:
            _draw_line(paper, line, unit, is_small=is_small)
            known = [point for point in line.points if not math.isnan(point[1])]
            if known:
                ends.append((known[-1][0], known[-1][1], line.label or line.name, line.look.placeholder))
        highest = max([end for line in series for point in line.points for end in point[1:] if not math.isnan(end)])
        axes.set_ylim(0, top or highest * 1.08)
        if ticks:
            margin = 0.03 * (ticks[-1] - ticks[0])
            axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
            axes.set_xticks(list(ticks))
        else:
            axes.set_xlim(0, right)
        axes.set_xlabel(x_label, labelpad=1 if is_small else 4)
        axes.set_title(title, pad=4, fontsize=8.5)
        _name_ends(axes, [(x, min(y, axes.get_ylim()[1]), label, color) for x, y, label, color in ends])
        return paper.panel(name, alt)


def _draw_line(paper: Sheet, line: Line, unit: str, *, is_small: bool) -> None:
    axes, color = paper.axes, line.look.placeholder
    x, middle, low, high = zip(*line.points, strict=True)
    if low != high:
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(x, middle, color=color, linestyle=line.look.dash, drawstyle=line.drawstyle)
    for place, value in line.dots:
        axes.plot([place], [value], linestyle="", marker=".", markersize=3, color=color, alpha=0.55)
    for place, value, least, most in line.points:
        if not math.isnan(value):
            ends = f" ({least:,.4g}–{most:,.4g})" if least < most else ""
            looks = {"marker": "o", "alpha": 0.0} if is_small else {"marker": line.look.marker}
            paper.point(place, value, f"{line.name}: {value:,.4g}{ends} {unit} at {place:,.4g}", color=color, **looks)


def _name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line to the right of the axes, level with its end; of one that ends earlier, beside it."""
    last = max((end[0] for end in ends), default=0.0)
    for x, y, name, color in ends:
        if x < last:
            above = 5 if y < axes.get_ylim()[1] else -10
            axes.annotate(name, xy=(x, y), xytext=(6, above), textcoords="offset points", color=color)
    ends = [end for end in ends if end[0] == last]
    bottom, top = axes.get_ylim()
    gap = LINE_HEIGHT_POINTS * (top - bottom) / (axes.get_position().height * axes.figure.get_figheight() * 72)
    right = axes.get_xlim()[1]
    margin = 0.05 * (right - axes.get_xlim()[0])
    for (x, y, name, color), at in zip(ends, spread([end[1] for end in ends], gap, bottom, top), strict=True):
        axes.annotate(
            name, xy=(x, y), xytext=(right + margin, at), va="center", ha="left", color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": placeholder("soft"), "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move `places` apart, as little as possible, to be `gap` or more away from each other, within `low` to `high`."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    if not places:
        return []
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.asarray(places, float)[order] - steps).x
    result = np.empty(len(places))
    result[order] = np.clip(moved, low, max(low, high - steps[-1])) + steps
    return [float(place) for place in result]


def matrix(
    name: str, cells: Mapping[str, Sequence[Cell]], columns: Sequence[str], *, title: str, alt: str,
    row_inches: float = 0.27, legend: tuple[str, str] | None = None, text_size: float = 8.5,
) -> Panel:  # fmt: skip
    """Draw a matrix, a row for each entry of `cells`; `legend` says what light and dark cells are."""
    is_crowded = len(columns) > 5
    if is_crowded:
        columns = [label.replace(" ", "\n") for label in columns]
    height, below = 0.62 + row_inches * len(cells) + 0.36 * bool(legend), 0.36 if legend else 0.05
    with sheet(height, (1.2, below, 0.06, 0.57)) as paper:
        axes = paper.axes
        axes.grid(visible=False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), columns, fontsize=6.5 if is_crowded else None)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for y, row in enumerate(cells.values()):
            for x, cell in enumerate(row):
                _draw_cell(paper, x, y, cell, text_size)
        paper.figure.text(0.02, 1 - 0.2 / height, title, weight="bold", fontsize=9)
        if legend:
            _draw_legend(paper.figure, height, legend)
        return paper.panel(name, alt)


def _draw_cell(paper: Sheet, x: int, y: int, cell: Cell, size: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    looks: dict[str, Any] = {
        "facecolor": "none",
        "edgecolor": placeholder("grid"),
        "hatch": "" if cell.text else "////",
    }
    ink = placeholder("vermilion")
    if cell.depth is not None:
        red, green, blue, _ = colormaps["cividis_r"](cell.depth)
        ink = "#ffffff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5 else "#101010"
        looks = {"facecolor": (red, green, blue), "edgecolor": "none"}
    box = Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, gid=f"tip-{len(paper.tips)}" if cell.tip else None, **looks)
    paper.axes.add_patch(box)
    if cell.tip:
        paper.tips.append(cell.tip)
    plain = size if cell.depth is not None else min(size, 7.5)
    paper.axes.text(x, y, cell.text, ha="center", va="center", color=ink, fontsize=plain)


def _draw_legend(drawing: Any, height: float, words: tuple[str, str]) -> None:
    axes = drawing.add_axes((0.44, 0.1 / height, 0.24, 0.13 / height))
    axes.set_axis_off()
    axes.imshow([[step / 40 for step in range(41)]], cmap="cividis_r", aspect="auto")
    drawing.text(0.43, 0.165 / height, words[0], ha="right", va="center", fontsize=7.5)
    drawing.text(0.69, 0.165 / height, words[1], ha="left", va="center", fontsize=7.5)
