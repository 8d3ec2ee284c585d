"""Colours that colour-blind readers can tell apart, and SVG that follows the reader's light or dark theme.

Charts are drawn in placeholder colours; `to_svg` replaces them with CSS variables, whose values for light and dark are in
`THEME`. No series is distinguished by its colour alone: each has its own marker or dash, and is labelled in place.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name: (light, dark). Contrast with the page is at least 4.5 for text and 3 for lines.
THEME = {
    "ink": ("#1f2328", "#e6e8eb"),
    "soft": ("#57606a", "#a9b1ba"),
    "grid": ("#d7dce1", "#3a4149"),
    "paper": ("#ffffff", "#16191d"),
    "auto": ("#1f2328", "#f0f2f4"),
    "blue": ("#0067a8", "#56b4e9"),
    "vermilion": ("#b84a00", "#f08a4b"),
    "green": ("#007a57", "#2cc295"),
    "purple": ("#9c3f7c", "#e08fc0"),
    "gold": ("#866000", "#e6b422"),
    "violet": ("#5a4fb0", "#a79cf0"),
    "gray": ("#57606a", "#a9b1ba"),
}


def placeholder(name: str) -> str:
    """Return the colour to draw with that `to_svg` turns into the theme colour `name`."""
    return f"#fe00{list(THEME).index(name):02x}"


@dataclass(frozen=True)
class Look:
    """How a series is drawn: theme colour, marker, dash."""

    color: str
    marker: str
    dash: str = "-"

    @property
    def placeholder(self) -> str:
        return placeholder(self.color)


LOOKS = {
    "auto": Look("auto", "o"),
    "partitioned": Look("blue", "s"),
    "hybrid": Look("purple", "D"),
    "full_parallel": Look("green", "^"),
    "deterministic": Look("gold", "v"),
    "streaming": Look("vermilion", "P"),
    "staged_merge": Look("violet", "X", "--"),
    "naive_parallel": Look("vermilion", "x", "--"),
    "sequential": Look("gold", "v", "--"),
    "sorted_copy": Look("gray", "_", ":"),
}


def look(strategy: str) -> Look:
    """Return how `strategy` is drawn in every chart."""
    return LOOKS.get(strategy, Look("gray", "*", "-."))


@contextmanager
def style() -> Iterator[None]:
    """Draw in our style; matplotlib's settings are as before afterwards."""
    import matplotlib as mpl

    ink, soft, grid = placeholder("ink"), placeholder("soft"), placeholder("grid")
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "etl_toolkit", "font.family": "sans-serif", "font.size": 8.5,
        "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": ink,
        "axes.labelcolor": ink, "axes.edgecolor": soft, "axes.linewidth": 0.7, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": grid,
        "grid.linewidth": 0.6,
        "xtick.color": soft, "ytick.color": soft, "xtick.labelcolor": ink, "ytick.labelcolor": ink, "text.color": ink,
        "figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False, "lines.linewidth": 1.7,
        "lines.markersize": 4.5, "hatch.linewidth": 0.6, "figure.autolayout": False,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


def to_svg(figure: Figure, name: str, tips: Sequence[str] = ()) -> str:
    """Return a figure as SVG for an HTML page; `name` keeps its ids distinct from those of other figures.

    What was drawn with the gid `tip-N` shows `tips[N]` when the reader points at it.
    """
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<style type="text/css">\*\{[^<]*</style>', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{escape(name)}-", svg)
    svg = re.sub(r"font(-family)?: ([^;\"]*?)('[^;\"]*|sans-serif)", _font, svg)
    for number, words in enumerate(tips):
        svg = svg.replace(f'<g id="{name}-tip-{number}">', f'<g class="tip"><title>{escape(words)}</title>')
    for color in THEME:
        svg = svg.replace(placeholder(color), f"var(--chart-{color})")
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" style="stroke-linejoin: round" ', 1)
    return re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", svg)).strip()


def _font(found: re.Match[str]) -> str:
    size = found.group(2) or ""
    return f"font-family: inherit; {f'font-size: {size.strip()}' if size.strip() else ''}".strip("; ")


def theme_css() -> str:
    """CSS that gives the chart colours their values, as the reader's system is set to light or dark."""
    light, dark = _values()
    return f":root {{ {light} }} @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def jupyter_css() -> str:
    """Return the same for JupyterLab, which has a theme of its own."""
    light, dark = _values()
    return f':root {{ {light} }} body[data-jp-theme-light="false"] {{ {dark} }}'


def _values() -> list[str]:
    return ["; ".join(f"--chart-{name}: {pair[which]}" for name, pair in THEME.items()) for which in (0, 1)]


def standalone(svg: str, alt: str) -> str:
    """Return the drawing as a file of its own, with a title, a background and both themes inside."""
    opening, rest = svg.split(">", 1)
    opening = opening.replace(' aria-hidden="true" focusable="false"', ' role="img"')
    style_ = f"{theme_css()} svg {{ background: var(--chart-paper); font-family: system-ui, sans-serif }}"
    return f"{opening}><title>{escape(alt)}</title><style>{style_}</style>{rest}\n"
