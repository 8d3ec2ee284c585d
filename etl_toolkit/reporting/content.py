"""What a report is made of, and how it reads: as HTML in Jupyter and on the page, as Markdown in a repository.

Texts may hold `code` and **bold**; everything else in them is escaped.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from etl_toolkit.reporting.markup import FOR_JUPYTER, anchor, element, inline, safe, scrolled
from etl_toolkit.reporting.pictures import Bars, Figure, Lanes, Picture
from etl_toolkit.tables import Table, table_markdown


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind` `alert` is one that must not be missed, `lead` the one that is read first."""

    text: str
    kind: str = ""

    def html(self) -> str:
        return element("p", self.kind, inline(self.text))

    def markdown(self) -> str:
        return f"**{self.text}**" if self.kind == "lead" and "**" not in self.text else safe(self.text)


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{inline(text)}</li>" for text in self.items) + "</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {safe(text)}" for text in self.items)


@dataclass(frozen=True)
class Code:
    """Something to copy or to read letter by letter."""

    text: str
    language: str = ""
    caption: str = ""

    def html(self) -> str:
        caption = f"<p class='caption'>{inline(self.caption)}</p>" if self.caption else ""
        label = escape(self.caption.replace("`", "") or self.language or "code")
        return f'{caption}<pre tabindex="0" role="group" aria-label="{label}"><code>{escape(self.text)}</code></pre>'

    def markdown(self) -> str:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", self.text)), default=0))
        code = f"{fence}{self.language}\n{self.text}\n{fence}"
        return f"{self.caption}\n\n{code}" if self.caption else code


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

    def html(self) -> str:
        # A block of data is not run, so the page's policy has nothing to say about it.
        data = json.dumps({"kinds": self.kinds, "values": self.values, "facts": self.facts}, separators=(",", ":"))
        data = data.replace("<", "\\u003c")
        block = f'<script type="application/json">{data}</script>'
        return f'<div class="choices" data-kind="{self.kind}">{scrolled(self.table)}{block}</div>'

    def markdown(self) -> str:
        return table_markdown(self.table)


@dataclass(frozen=True)
class Details:
    """Parts for readers who want the details."""

    summary: str
    parts: Sequence[Part]

    def html(self) -> str:
        return f"<details><summary>{inline(self.summary)}</summary>{''.join(map(part_html, self.parts))}</details>"

    def markdown(self) -> str:
        return "\n\n".join([f"**{self.summary}**", *map(part_markdown, self.parts)])


@dataclass(frozen=True)
class Download:
    """A file that the page carries in itself."""

    name: str
    mime: str
    content: bytes
    about: str

    def html(self) -> str:
        data = base64.b64encode(self.content).decode()
        size = f"{len(self.content) / 1000:,.0f} kB" if len(self.content) >= 1000 else f"{len(self.content)} bytes"
        return (
            f'<p class="download"><a download="{escape(self.name)}" href="data:{self.mime};base64,{data}">'
            f"{escape(self.name)}</a> ({size}): {inline(self.about)}</p>"
        )

    def markdown(self) -> str:
        return f"- `{self.name}`: {safe(self.about)}"


@dataclass(frozen=True)
class Heading:
    """A heading inside of a section."""

    text: str

    def html(self) -> str:
        return f'<h3 id="{anchor(self.text)}">{escape(self.text)}</h3>'

    def markdown(self) -> str:
        return f"### {self.text}"


Part = Text | Bullets | Code | Figure | Bars | Lanes | Choices | Details | Download | Heading | Table


def part_html(part: Part) -> str:
    """Return a part as HTML."""
    return scrolled(part) if isinstance(part, Table) else part.html()


def part_markdown(part: Part) -> str:
    """Return a part as Markdown."""
    return table_markdown(part) if isinstance(part, Table) else part.markdown()


@dataclass(frozen=True)
class Section:
    """A titled part of the report; shows itself in Jupyter."""

    title: str
    parts: Sequence[Part]

    def _repr_html_(self) -> str:
        style = FOR_JUPYTER if any(isinstance(part, Picture) for part in self.parts) else ""
        body, name = "".join(map(part_html, self.parts)), anchor(self.title)
        heading = f'<h2 id="{name}">{escape(self.title)}</h2>'
        return f'{style}<section aria-labelledby="{name}">{heading}{body}</section>'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        markdown = "\n\n".join([f"## {self.title}", *map(part_markdown, self.parts)])
        plain = f"{self.title} ({len(self.parts)} parts)"
        return {"text/html": self._repr_html_(), "text/markdown": markdown, "text/plain": plain}


def read_texts() -> dict[str, Any]:
    """Return `texts.toml`: what is said, not measured."""
    return tomllib.loads((files("etl_toolkit.reporting") / "texts.toml").read_text(encoding="utf-8"))


def written_table(name: str) -> Table:
    """Return a table of `texts.toml`."""
    entry = read_texts()[name]
    return Table(entry["caption"], entry["head"], entry["rows"])
