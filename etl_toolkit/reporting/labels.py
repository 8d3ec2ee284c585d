"""Labels beside the lines they name, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.reporting.palette import stand_in


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move `places` apart until neighbours are at least `gap` away, within `low` to `high`, in the same order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [min(max(places[index], low), high) for index in order]
    for _ in range(200):
        steady = True
        for lower in range(len(moved) - 1):
            lack = gap - (moved[lower + 1] - moved[lower])
            if lack > 1e-9:
                moved[lower] -= lack / 2
                moved[lower + 1] += lack / 2
                steady = False
        if moved and moved[0] < low:
            moved[0] = low
        if moved and moved[-1] > high:
            moved[-1] = high
        if steady:
            break
    result = [0.0] * len(places)
    for place, index in zip(moved, order, strict=True):
        result[index] = place
    return result


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line, given as (x, y, name, colour), to the right of the axes, level with its end.

    The name of a line that ends earlier is placed beside its end.
    """
    last = max((end[0] for end in ends), default=0.0)
    for x, y, name, color in ends:
        if x < last:
            axes.annotate(name, xy=(x, y), xytext=(6, 5), textcoords="offset points", color=color)
    ends = [end for end in ends if end[0] == last]
    bottom, top = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight() * 72
    gap = 10.5 * (top - bottom) / height
    right = axes.get_xlim()[1]
    margin = 0.05 * (right - axes.get_xlim()[0])
    for (x, y, name, color), at in zip(ends, spread([end[1] for end in ends], gap, bottom, top), strict=True):
        axes.annotate(
            name, xy=(x, y), xytext=(right + margin, at), va="center", ha="left", color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": stand_in("soft"), "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip
