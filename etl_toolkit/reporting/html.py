"""From an executed notebook to one HTML page: what the cells showed, without the cells."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

from etl_toolkit.reporting.markup import BARS_CSS
from etl_toolkit.reporting.palette import theme_css

TEMPLATES = Path(__file__).parent
NOTEBOOK_ONLY = "notebook-only"
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')
FOR_JUPYTER = re.compile(r'<style data-for="jupyter">.*?</style>', re.DOTALL)


@dataclass(frozen=True)
class Frame:
    """What stands around the content of a page. `failure` says how the notebook ended, when not well."""

    title: str
    subtitle: str
    footer: str
    failure: str = ""


def page(notebook: Any, frame: Frame) -> str:
    """Return the page of an executed notebook (nbformat 4); it makes no request to anywhere."""
    from nbconvert.exporters import TemplateExporter

    shown = [cell for cell in notebook.cells if NOTEBOOK_ONLY not in cell.metadata.get("tags", [])]
    exporter = TemplateExporter(
        template_name="page", extra_template_basedirs=[str(TEMPLATES)], template_file="index.html.j2"
    )
    exporter.register_filter("for_page", for_page)
    around = {name: escape(value) for name, value in vars(frame).items()}
    script = (TEMPLATES / "page" / "page.js").read_text(encoding="utf-8")
    resources = {
        "page": {
            **around, "theme": theme_css(), "bars": BARS_CSS, "contents": contents(shown),
            "script": script, "script_hash": script_hash(script),
        }
    }  # fmt: skip
    content = notebook.copy()
    content.cells = shown
    body, _ = exporter.from_notebook_node(content, resources)
    return str(body)


def script_hash(script: str) -> str:
    """Return the source expression with which a content security policy allows this script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def contents(cells: list[Any]) -> list[dict[str, str]]:
    """The headings that the cells show, in order."""
    markup = "".join(
        for_page(output.get("data", {}).get("text/html")) for cell in cells for output in cell.get("outputs", [])
    )
    return [{"anchor": found[1], "title": escape(unescape(found[2]))} for found in HEADING.finditer(markup)]


def for_page(markup: Any) -> str:
    """HTML of an output as the page takes it: without what only Jupyter needs."""
    text = "".join(markup) if isinstance(markup, list) else str(markup or "")
    return FOR_JUPYTER.sub("", text)
