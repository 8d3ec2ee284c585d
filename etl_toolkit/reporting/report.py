"""`render`: a run directory → the analysis page, as HTML and as Markdown. Opens no database."""

from __future__ import annotations

import os
import re
import shutil
from html import escape, unescape
from pathlib import Path
from typing import Any

from etl_toolkit.bench.records import load_manifest
from etl_toolkit.reporting import html, notebooks
from etl_toolkit.reporting.findings import PAGE_NOTEBOOK
from etl_toolkit.reporting.palette import standalone

NOTEBOOK = PAGE_NOTEBOOK
TITLE = "Parallel upserts into PostgreSQL"
PANEL = re.compile(
    r'<div class="panel" role="img" aria-label="([^"]*)" data-name="([^"]*)">(<svg.*?</svg>)</div>', re.DOTALL
)


def render(run_dir: Path, out: Path) -> Path:
    """Run the analysis notebook over a run directory and write the page to `out`, its Markdown twin beside it.

    The executed notebook stays in the run directory, and the manifest says how it went; a notebook that fails still
    gives a page, which says so.

    Raises:
        UsageError: not a run directory.
    """
    load_manifest(run_dir)
    executed = run_dir / "executed" / f"{NOTEBOOK}.ipynb"
    done = notebooks.run(NOTEBOOK, {"run_directory": os.path.relpath(run_dir)}, executed)
    notebooks.record_status(run_dir, done)
    manifest = load_manifest(run_dir)
    frame = html.Frame(
        title=TITLE,
        subtitle=f"Run {manifest.run_id}, {manifest.started_at[:10]}, {manifest.machine.get('processor', 'unknown machine')}, "
        f"PostgreSQL {manifest.server.get('version', '–')}",
        footer=f"etl-toolkit {manifest.versions.get('etl-toolkit', '')}, notebook {done.status} in {done.wall_seconds:.0f} s.",
        failure=done.error,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if done.notebook is None:
        out.write_text(f"<!DOCTYPE html><title>{TITLE}</title><p>{escape(done.error)}</p>", encoding="utf-8")
        return out
    out.write_text(html.page(done.notebook, frame), encoding="utf-8")
    _write_markdown(done.notebook, frame, out.with_suffix(".md"))
    return out


def failure(run_dir: Path) -> str:
    """Say how the notebook behind the last page of a run directory failed; empty when it did not."""
    entry = load_manifest(run_dir).notebooks.get(NOTEBOOK, {})
    return str(entry.get("error", "")) if entry.get("status") == "failed" else ""


def _write_markdown(notebook: Any, frame: html.Frame, out: Path) -> None:
    """Write what the cells showed as Markdown, and each drawing as an SVG file beside it."""
    figures = out.with_name(f"{out.stem}_files")
    shutil.rmtree(figures, ignore_errors=True)
    texts = [f"# {frame.title}", frame.subtitle]
    if frame.failure:
        texts.append(f"**The notebook behind this page did not finish.** {frame.failure}")
    for cell in notebook.cells:
        if html.NOTEBOOK_ONLY in cell.metadata.get("tags", []):
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                texts.append(_joined(data["text/markdown"]).replace("(FIGURES/", f"({figures.name}/"))
            for alt, name, svg in PANEL.findall(_joined(data.get("text/html", ""))):
                figures.mkdir(parents=True, exist_ok=True)
                (figures / f"{name}.svg").write_text(standalone(svg, unescape(alt)), encoding="utf-8")
    out.write_text("\n\n".join(texts).rstrip() + "\n", encoding="utf-8")


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)
