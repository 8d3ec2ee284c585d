"""What a report is made of, and how it reads: as HTML in Jupyter and on the page, as Markdown in a repository.

Texts may hold `code` and **bold**; everything else in them is escaped.
"""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from etl_toolkit.reporting.palette import jupyter_css
from etl_toolkit.tables import Table, cell_text, table_html

# In JupyterLab the colours follow its own theme; the page takes this out.
FOR_JUPYTER = (
    f'<style data-for="jupyter">{jupyter_css()} .panels {{ display: flex; flex-wrap: wrap; gap: 1rem }} '
    "figure { margin: 1rem 0 } .panel { flex: 0 1 25rem } .small .panel { flex-basis: 12rem } "
    ".panel svg { width: 100%; height: auto; overflow: visible }</style>"
)


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
    """A chart: `finding` says what it shows, `note` how it was drawn. Small panels stand several in a row."""

    finding: str
    panels: Sequence[Panel]
    note: str = ""
    is_small: bool = False

    def _repr_html_(self) -> str:
        return FOR_JUPYTER + _figure_html(self)


@dataclass(frozen=True)
class Details:
    """Parts that are there for whoever wants them."""

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


Part = Text | Bullets | Code | Figure | Details | Download | Heading | Table


@dataclass(frozen=True)
class Section:
    """A titled part of the report; shows itself in Jupyter."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        return anchor(self.title)

    def _repr_html_(self) -> str:
        body = "".join(map(part_html, self.parts))
        return (
            f'<section aria-labelledby="{self.anchor}"><h2 id="{self.anchor}">{escape(self.title)}</h2>{body}</section>'
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join([f"## {self.title}", *map(part_markdown, self.parts)])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        has_figures = any(isinstance(part, Figure) for part in self.parts)
        return {
            "text/html": (FOR_JUPYTER if has_figures else "") + self._repr_html_(),
            "text/markdown": self._repr_markdown_(),
            "text/plain": f"{self.title} ({len(self.parts)} parts)",
        }


def anchor(title: str) -> str:
    """Return the name a link to the section called `title` uses."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def written_table(name: str) -> Table:
    """Return a table of `texts.toml`: what is said, not measured."""
    text = (files("etl_toolkit.reporting") / "texts.toml").read_text(encoding="utf-8")
    entry = tomllib.loads(text)[name]
    return Table(entry["caption"], entry["head"], entry["rows"])


# --- HTML -------------------------------------------------------------------------------------------------------------


def part_html(part: Part) -> str:
    """Render one part as HTML."""
    render: dict[type, Callable[[Any], str]] = {
        Text: lambda item: f"<p{_class(item.kind)}>{_inline(item.text)}</p>",
        Bullets: lambda item: "<ul>" + "".join(f"<li>{_inline(text)}</li>" for text in item.items) + "</ul>",
        Heading: lambda item: f'<h3 id="{anchor(item.text)}">{escape(item.text)}</h3>',
        Code: _code_html,
        Figure: _figure_html,
        Details: lambda item: (
            f"<details><summary>{_inline(item.summary)}</summary>{''.join(map(part_html, item.parts))}</details>"
        ),
        Download: _download_html,
        Table: _scrolled,
    }
    return render[type(part)](part)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _inline(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)


def _code_html(code: Code) -> str:
    caption = f"<p class='caption'>{_inline(code.caption)}</p>" if code.caption else ""
    label = escape(code.caption.replace("`", "") or code.language or "code")
    return f'{caption}<pre tabindex="0" role="group" aria-label="{label}"><code>{escape(code.text)}</code></pre>'


def _figure_html(figure: Figure) -> str:
    panels = "".join(
        f'<div class="panel" role="img" aria-label="{escape(panel.alt)}" data-name="{panel.name}">{panel.svg}</div>'
        for panel in figure.panels
    )
    note = f'<br><span class="note">{_inline(figure.note)}</span>' if figure.note else ""
    kind = "panels small" if figure.is_small else "panels"
    caption = f"<figcaption><strong>{_inline(figure.finding)}</strong>{note}</figcaption>"
    return f'<figure>{caption}<div class="{kind}">{panels}</div></figure>'


def _download_html(item: Download) -> str:
    data = base64.b64encode(item.content).decode()
    size = f"{len(item.content) / 1000:,.0f} kB" if len(item.content) >= 1000 else f"{len(item.content)} bytes"
    return (
        f'<p class="download"><a download="{escape(item.name)}" href="data:{item.mime};base64,{data}">'
        f"{escape(item.name)}</a> ({size}): {_inline(item.about)}</p>"
    )


def _scrolled(table: Table) -> str:
    label = escape(table.caption)
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{label}">{table_html(table)}</div>'


# --- Markdown ---------------------------------------------------------------------------------------------------------


def part_markdown(part: Part) -> str:
    """Render one part as Markdown. Figures name a file `FIGURES/<panel>.svg`, which the caller writes."""
    render: dict[type, Callable[[Any], str]] = {
        Text: lambda item: f"**{item.text}**" if item.kind == "lead" and "**" not in item.text else _safe(item.text),
        Bullets: lambda item: "\n".join(f"- {_safe(text)}" for text in item.items),
        Heading: lambda item: f"### {item.text}",
        Code: lambda item: (f"{item.caption}\n\n" if item.caption else "") + _fenced(item),
        Figure: _figure_markdown,
        Details: lambda item: "\n\n".join([f"**{item.summary}**", *map(part_markdown, item.parts)]),
        Download: lambda item: f"- `{item.name}`: {_safe(item.about)}",
        Table: _table_markdown,
    }
    return render[type(part)](part)


def _safe(text: str) -> str:
    return text.replace("<", "&lt;").replace("$", r"\$") if "`" not in text else text


def _fenced(code: Code) -> str:
    fence = "`" * (max((len(run) for run in re.findall(r"`+", code.text)), default=2) + 1)
    return f"{fence if len(fence) > 3 else '```'}{code.language}\n{code.text}\n{fence if len(fence) > 3 else '```'}"


def _figure_markdown(figure: Figure) -> str:
    images = "\n".join(f"![{_alt(panel.alt)}](FIGURES/{panel.name}.svg)" for panel in figure.panels)
    return "\n\n".join(filter(None, [f"**{figure.finding}**", images, figure.note]))


def _alt(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")


def _table_markdown(table: Table) -> str:
    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |"

    lines = [row(name or " " for name in table.head), "|" + " --- |" * len(table.head)]
    lines += [row(cell_text(cell) for cell in cells) for cells in table.rows]
    return f"{table.caption}\n\n" + "\n".join(lines)
