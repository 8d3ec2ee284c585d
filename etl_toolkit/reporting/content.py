"""What a report is made of, and how it reads: as HTML in Jupyter and on the page, as Markdown in a repository.

Texts may hold `code` and **bold**; everything else in them is escaped.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from etl_toolkit.tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind` `alert` is one that must not be missed, `lead` the one that is read first."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Something to copy or to read letter by letter."""

    text: str
    language: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure: SVG markup, and the sentence that says what it shows."""

    name: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Figure:
    """A chart: `finding` says what it shows, `note` how it was drawn. `kind` `small` puts several panels in a row."""

    finding: str
    panels: Sequence[Panel]
    note: str = ""
    kind: str = ""

    def _repr_html_(self) -> str:
        from etl_toolkit.reporting.rendering import FOR_JUPYTER, part_html

        return FOR_JUPYTER + part_html(self)


@dataclass(frozen=True)
class Bar:
    """A value with its interval, drawn and in `words`; `kind` `ours` stands out."""

    label: str
    value: float
    words: str
    low: float | None = None
    high: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class BarGroup:
    """Bars under a title; `words` such as `1.8 ×` are set large, and pale unless the runs show that."""

    title: str
    bars: Sequence[Bar]
    words: str = ""
    is_shown: bool = True


@dataclass(frozen=True)
class Bars:
    """Groups of bars on one scale."""

    finding: str
    groups: Sequence[BarGroup]
    note: str = ""

    def _repr_html_(self) -> str:
        from etl_toolkit.reporting.rendering import FOR_JUPYTER, part_html

        return FOR_JUPYTER + part_html(self)


@dataclass(frozen=True)
class Lane:
    """What the sessions of one side said, in order: (session, statement, answer)."""

    title: str
    steps: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Lanes:
    """Two sides of a race beside each other; the page lets the reader step through both."""

    lanes: Sequence[Lane]


@dataclass(frozen=True)
class Choices:
    """A table that the page can sort, filter and draw.

    `kinds` say what each column is: `of` one to choose by, `less` or `more` a number of which less or more is better,
    nothing a text. `values` are the numbers behind the cells: one, or (median, low, high). `facts` are for the page.
    """

    table: Table
    kinds: Sequence[str]
    values: Sequence[Sequence[float | Sequence[float] | None]]
    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Details:
    """Parts for readers who want the details."""

    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Download:
    """A file that the page carries in itself."""

    name: str
    mime: str
    content: bytes
    about: str


@dataclass(frozen=True)
class Heading:
    """A heading inside of a section."""

    text: str


Part = Text | Bullets | Code | Figure | Bars | Lanes | Choices | Details | Download | Heading | Table


@dataclass(frozen=True)
class Section:
    """A titled part of the report; shows itself in Jupyter."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        return anchor(self.title)

    def _repr_html_(self) -> str:
        from etl_toolkit.reporting.rendering import FOR_JUPYTER, section_html

        has_figures = any(isinstance(part, Figure | Bars) for part in self.parts)
        return (FOR_JUPYTER if has_figures else "") + section_html(self)

    def _repr_markdown_(self) -> str:
        from etl_toolkit.reporting.rendering import section_markdown

        return section_markdown(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        plain = f"{self.title} ({len(self.parts)} parts)"
        return {"text/html": self._repr_html_(), "text/markdown": self._repr_markdown_(), "text/plain": plain}


def anchor(title: str) -> str:
    """Return the name a link to the section called `title` uses."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def written_table(name: str) -> Table:
    """Return a table of `texts.toml`: what is said, not measured."""
    text = (files("etl_toolkit.reporting") / "texts.toml").read_text(encoding="utf-8")
    entry = tomllib.loads(text)[name]
    return Table(entry["caption"], entry["head"], entry["rows"])
