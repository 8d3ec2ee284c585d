"""What a report draws: figures of SVG panels, bars, and the lanes of a race; as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from etl_toolkit.reporting.markup import FOR_JUPYTER, element, inline
from etl_toolkit.tables import Table, table_markdown


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure: SVG markup, and the sentence that says what it shows."""

    name: str
    svg: str
    alt: str


class Picture:
    """What has a `finding`, which says what is to be seen, and a `note` on how it was drawn."""

    finding: str
    note: str

    def _repr_html_(self) -> str:
        return FOR_JUPYTER + self.html()

    def html(self) -> str:
        raise NotImplementedError

    def _framed(self, content: str, kind: str = "") -> str:
        note = f'<p class="note">{inline(self.note)}</p>' if self.note else ""
        caption = f"<figcaption><strong>{inline(self.finding)}</strong></figcaption>"
        return element("figure", kind, caption + content + note)


@dataclass(frozen=True)
class Figure(Picture):
    """A chart. `kind` `small` puts several panels in a row."""

    finding: str
    panels: Sequence[Panel]
    note: str = ""
    kind: str = ""

    def html(self) -> str:
        panels = "".join(
            f'<div class="panel" role="img" aria-label="{escape(panel.alt)}" data-name="{panel.name}">{panel.svg}</div>'
            for panel in self.panels
        )
        return self._framed(element("div", f"panels {self.kind}".strip(), panels))

    def markdown(self) -> str:
        """Name a file `FIGURES/<panel>.svg` for each panel, which the caller writes."""
        alts = [panel.alt.replace("[", "(").replace("]", ")") for panel in self.panels]
        images = [f"![{alt}](FIGURES/{panel.name}.svg)" for alt, panel in zip(alts, self.panels, strict=True)]
        return "\n\n".join(filter(None, [f"**{self.finding}**", "\n".join(images), self.note]))


@dataclass(frozen=True)
class Bar:
    """A value with its interval, drawn and in `words`; `kind` `ours` stands out, `bad` warns."""

    label: str
    value: float
    words: str
    low: float | None = None
    high: float | None = None
    kind: str = ""

    def html(self, most: float) -> str:
        """Return the bar on a scale that ends at `most`."""
        whisker, tip = "", f"{self.label}: {self.words}"
        if self.low is not None and self.high is not None and self.low < self.high:
            left, width = _share(self.low, most), _share(self.high - self.low, most)
            whisker = f'<b style="left:{left};width:{width}"></b>'
            tip += f", 95% interval {self.low:,.4g} to {self.high:,.4g}"
        parts = [
            f'<span class="name">{escape(self.label)}</span>',
            f'<span class="track" aria-hidden="true"><i style="width:{_share(self.value, most)}"></i>{whisker}</span>',
            f'<span class="value">{escape(self.words)}</span>',
        ]
        kind = f' class="{self.kind}"' if self.kind else ""
        return f'<li{kind} title="{escape(tip)}">{"".join(parts)}</li>'


def _share(value: float, most: float) -> str:
    return f"{100 * value / most:.1f}%"


def speed_bar(label: str, rows_per_second: Mapping[str, float], kind: str = "") -> Bar:
    """Return a bar of thousand rows per second."""
    median, low, high = (rows_per_second[part] / 1000 for part in ("median", "low", "high"))
    return Bar(label, median, f"{median:,.0f} k", low, high, kind)


@dataclass(frozen=True)
class BarGroup:
    """Bars under a title; `words` such as `1.8 ×` are set large, and pale unless the runs show that."""

    title: str
    bars: Sequence[Bar]
    words: str = ""
    is_shown: bool = True

    def html(self, most: float) -> str:
        times = " " + element("strong", "times" if self.is_shown else "times pale", escape(self.words))
        items = "".join(bar.html(most) for bar in self.bars)
        title = f"<p>{escape(self.title)}{times if self.words else ''}</p>"
        return element("div", "bar-group", f"{title}<ul>{items}</ul>")


@dataclass(frozen=True)
class Bars(Picture):
    """Groups of bars on one scale."""

    finding: str
    groups: Sequence[BarGroup]
    note: str = ""

    def html(self) -> str:
        most = max((bar.high or bar.value for group in self.groups for bar in group.bars), default=1.0) or 1.0
        return self._framed("".join(group.html(most) for group in self.groups), "bars")

    def markdown(self) -> str:
        rows = [[group.title, bar.label, bar.words, group.words] for group in self.groups for bar in group.bars]
        table = table_markdown(Table(f"**{self.finding}**", ("", "", "", ""), rows))
        return "\n\n".join(filter(None, [table, self.note]))


@dataclass(frozen=True)
class Lane:
    """What the sessions of one side said, in order: (session, statement, answer)."""

    title: str
    steps: Sequence[tuple[str, str, str]]

    def html(self) -> str:
        sessions = list(dict.fromkeys(session for session, _, _ in self.steps))
        steps = "".join(
            f'<li class="session-{sessions.index(session) % 4}"><span class="who">{escape(session)}</span>'
            f'<code>{escape(statement)}</code><span class="answer">{escape(answer)}</span></li>'
            for session, statement, answer in self.steps
        )
        return element("div", "lane", f"<h4>{escape(self.title)}</h4><ol>{steps}</ol>")


@dataclass(frozen=True)
class Lanes:
    """Two sides of a race beside each other; the page lets the reader step through both."""

    lanes: Sequence[Lane]

    def html(self) -> str:
        return element("div", "lanes", "".join(lane.html() for lane in self.lanes))

    def markdown(self) -> str:
        head = ("session", "statement", "answer")
        return "\n\n".join(table_markdown(Table(lane.title, head, lane.steps)) for lane in self.lanes)
