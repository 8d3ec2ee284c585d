"""How texts read: `code` and **bold** become HTML or stay Markdown; everything else in them is escaped."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files

from etl_toolkit.reporting.palette import jupyter_css
from etl_toolkit.tables import Table, table_html

BARS_CSS = (files("etl_toolkit.reporting") / "page" / "bars.css").read_text(encoding="utf-8")

# In JupyterLab the colours follow its own theme; the page takes this out.
FOR_JUPYTER = (
    f'<style data-for="jupyter">{jupyter_css()} .panels {{ display: flex; flex-wrap: wrap; gap: 1rem }} '
    f"figure {{ margin: 1rem 0 }} {BARS_CSS} "
    ".panel { flex: 0 1 25rem } .small .panel { flex-basis: 12rem } "
    ".panel svg { width: 100%; height: auto; overflow: visible }</style>"
)


def inline(text: str) -> str:
    """Return a text as HTML."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)


def safe(text: str) -> str:
    """Return a text as Markdown."""
    return text.replace("<", "&lt;").replace("$", r"\$") if "`" not in text else text


def element(tag: str, kind: str, content: str) -> str:
    """Return an element of a class, or of none."""
    return f'<{tag} class="{kind}">{content}</{tag}>' if kind else f"<{tag}>{content}</{tag}>"


def anchor(title: str) -> str:
    """Return the name a link to the section called `title` uses."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def scrolled(table: Table) -> str:
    """Return a table as HTML that scrolls on its own where it is too wide."""
    label = escape(table.caption)
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{label}">{table_html(table)}</div>'
