"""Parts of a report as HTML, for Jupyter and the page, and as Markdown, for a repository."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html import escape
from importlib.resources import files
from typing import Any

from etl_toolkit.reporting.content import (
    Bar,
    BarGroup,
    Bars,
    Bullets,
    Choices,
    Code,
    Details,
    Download,
    Figure,
    Heading,
    Lane,
    Lanes,
    Part,
    Section,
    Text,
    anchor,
)
from etl_toolkit.reporting.palette import jupyter_css
from etl_toolkit.tables import Table, table_html, table_markdown

BARS_CSS = (files("etl_toolkit.reporting") / "page" / "bars.css").read_text(encoding="utf-8")

# In JupyterLab the colours follow its own theme; the page takes this out.
FOR_JUPYTER = (
    f'<style data-for="jupyter">{jupyter_css()} .panels {{ display: flex; flex-wrap: wrap; gap: 1rem }} '
    f"figure {{ margin: 1rem 0 }} {BARS_CSS} "
    ".panel { flex: 0 1 25rem } .small .panel { flex-basis: 12rem } "
    ".panel svg { width: 100%; height: auto; overflow: visible }</style>"
)


def section_html(section: Section) -> str:
    """Render a section as HTML."""
    body = "".join(map(part_html, section.parts))
    name, title = section.anchor, escape(section.title)
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{body}</section>'


def section_markdown(section: Section) -> str:
    """Render a section as Markdown."""
    return "\n\n".join([f"## {section.title}", *map(part_markdown, section.parts)])


# --- HTML -------------------------------------------------------------------------------------------------------------


def part_html(part: Part) -> str:
    """Render one part as HTML."""
    render: dict[type, Callable[[Any], str]] = {
        Text: lambda item: f"<p{_class(item.kind)}>{_inline(item.text)}</p>",
        Bullets: lambda item: "<ul>" + "".join(f"<li>{_inline(text)}</li>" for text in item.items) + "</ul>",
        Heading: lambda item: f'<h3 id="{anchor(item.text)}">{escape(item.text)}</h3>',
        Code: _code_html,
        Figure: _figure_html,
        Bars: _bars_html,
        Lanes: lambda item: f'<div class="lanes">{"".join(map(_lane_html, item.lanes))}</div>',
        Choices: _choices_html,
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
    note = f'<p class="note">{_inline(figure.note)}</p>' if figure.note else ""
    caption = f"<figcaption><strong>{_inline(figure.finding)}</strong></figcaption>"
    return f'<figure>{caption}<div class="{f"panels {figure.kind}".strip()}">{panels}</div>{note}</figure>'


def _bars_html(bars: Bars) -> str:
    most = max((bar.high or bar.value for group in bars.groups for bar in group.bars), default=1.0) or 1.0
    groups = "".join(_group_html(group, most) for group in bars.groups)
    note = f'<p class="note">{_inline(bars.note)}</p>' if bars.note else ""
    caption = f"<figcaption><strong>{_inline(bars.finding)}</strong></figcaption>"
    return f'<figure class="bars">{caption}{groups}{note}</figure>'


def _group_html(group: BarGroup, most: float) -> str:
    kind = "times" if group.is_shown else "times pale"
    times = f' <strong class="{kind}">{escape(group.words)}</strong>' if group.words else ""
    items = "".join(_bar_html(bar, most) for bar in group.bars)
    return f'<div class="bar-group"><p>{escape(group.title)}{times}</p><ul>{items}</ul></div>'


def _bar_html(bar: Bar, most: float) -> str:
    whisker, tip = "", f"{bar.label}: {bar.words}"
    if bar.low is not None and bar.high is not None and bar.low < bar.high:
        whisker = f'<b style="left:{_share(bar.low, most)};width:{_share(bar.high - bar.low, most)}"></b>'
        tip += f", 95 % interval {bar.low:,.4g} to {bar.high:,.4g}"
    track = f'<span class="track" aria-hidden="true"><i style="width:{_share(bar.value, most)}"></i>{whisker}</span>'
    name, value = f'<span class="name">{escape(bar.label)}</span>', f'<span class="value">{escape(bar.words)}</span>'
    return f'<li{_class(bar.kind)} title="{escape(tip)}">{name}{track}{value}</li>'


def _share(value: float, most: float) -> str:
    return f"{100 * value / most:.1f}%"


def _lane_html(lane: Lane) -> str:
    sessions = list(dict.fromkeys(session for session, _, _ in lane.steps))
    steps = "".join(
        f'<li class="session-{sessions.index(session) % 4}"><span class="who">{escape(session)}</span>'
        f'<code>{escape(statement)}</code><span class="answer">{escape(answer)}</span></li>'
        for session, statement, answer in lane.steps
    )
    return f'<div class="lane"><h4>{escape(lane.title)}</h4><ol>{steps}</ol></div>'


def _choices_html(item: Choices) -> str:
    # A block of data is not run, so the page's policy has nothing to say about it.
    data = json.dumps({"kinds": item.kinds, "values": item.values, "facts": item.facts}, separators=(",", ":"))
    data = data.replace("<", "\\u003c")
    block = f'<script type="application/json">{data}</script>'
    return f'<div class="choices" data-kind="{item.kind}">{_scrolled(item.table)}{block}</div>'


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
        Bars: _bars_markdown,
        Lanes: lambda item: "\n\n".join(table_markdown(_lane_table(lane)) for lane in item.lanes),
        Choices: lambda item: table_markdown(item.table),
        Details: lambda item: "\n\n".join([f"**{item.summary}**", *map(part_markdown, item.parts)]),
        Download: lambda item: f"- `{item.name}`: {_safe(item.about)}",
        Table: table_markdown,
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


def _bars_markdown(bars: Bars) -> str:
    rows = [[group.title, bar.label, bar.words, group.words] for group in bars.groups for bar in group.bars]
    return "\n\n".join(filter(None, [table_markdown(Table(f"**{bars.finding}**", ("", "", "", ""), rows)), bars.note]))


def _lane_table(lane: Lane) -> Table:
    return Table(lane.title, ("session", "statement", "answer"), lane.steps)


def _alt(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")
