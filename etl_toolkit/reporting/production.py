"""The sections for production use: settings, checklist, environment, how to reproduce, the data."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from typing import Any

from etl_toolkit.bench.records import Sample
from etl_toolkit.config.templates import TEMPLATES, template
from etl_toolkit.reporting.content import Bullets, Code, Details, Download, Part, Section, Text, written_table
from etl_toolkit.reporting.run_data import RunData
from etl_toolkit.tables import Table

LARGEST_DOWNLOAD_BYTES = 700_000


def settings(_: RunData) -> Section:
    """Configuration templates to start from."""
    parts: list[Part] = [
        Text("Settings change how a load runs, never what ends up in the table. Start from one of these files:")
    ]
    parts += [Details(f"{name}.toml", [Code(template(name).strip(), "toml", f"`{name}.toml`")]) for name in TEMPLATES]
    return Section("Production settings", parts)


def checklist(data: RunData) -> Section:
    """What to look at before the first scheduled load."""
    parts: list[Part] = [written_table("checklist")]
    most = max((sample.wal_bytes or 0 for sample in data.record.samples), default=0)
    if most:
        parts.append(Text(f"The largest load of this sweep wrote {most / 1e6:,.0f} MB of WAL."))
    return Section("Production checklist", parts)


def environment(data: RunData) -> Section:
    """Machine, versions, server and its settings."""
    manifest = data.record.manifest
    machine = [
        (name.removesuffix("_bytes").replace("_", " "), _spell_value(name, value))
        for name, value in manifest.machine.items()
    ]
    machine += [("PostgreSQL", str(manifest.server.get("version", "–")))]
    versions = list(manifest.versions.items())
    changed = list(manifest.pg_settings.items())
    parts: list[Part] = [Table("Machine and server", ("what", "value"), machine)]
    parts.append(Table("Versions", ("package", "version"), versions))
    if changed:
        parts.append(
            Details("Server settings that are not the default", [Table("pg_settings", ("name", "value"), changed)])
        )
    return Section("Environment", parts)


def _spell_value(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:,.1f} GiB" if name.endswith("_bytes") else str(value)


def reproduce(data: RunData) -> Section:
    """The commands that make this page again."""
    manifest = data.record.manifest
    commit = (manifest.git_commit or "").removesuffix("-dirty")
    lines = [f"git checkout {commit}"] if commit else []
    lines += [manifest.command or "etl-toolkit bench", "etl-toolkit report"]
    facts = [
        f"Run `{manifest.run_id}`, started {manifest.started_at}, {manifest.status}; seed {manifest.seed}, "
        f"{manifest.rounds} rounds after one warm-up, each with all cases in a random order",
        "Every run used a copy of the same database and a separate process, and its table was compared with the "
        "sequential load by row hash",
    ]
    if manifest.git_commit and manifest.git_commit.endswith("-dirty"):
        facts.append("The working tree had uncommitted changes")
    return Section("How to reproduce", [Code("\n".join(lines), "sh", "Commands"), Bullets(facts)])


def downloads(data: RunData) -> Section:
    """The data, inside the page."""
    directory = data.record.directory
    files = [
        Download("samples.csv", "text/csv", _samples_csv(data), "every run, warm-ups and failures included"),
        Download(
            "report.json", "application/json", json.dumps(data.record.report, indent=1).encode(), "metrics and verdicts"
        ),
    ]
    for name, mime, about in (
        ("manifest.json", "application/json", "how it was measured"),
        ("timeline.parquet", "application/vnd.apache.parquet", "CPU, memory, I/O, WAL over time"),
        ("recommended.toml", "application/toml", "settings"),
        ("demonstrations.json", "application/json", "races and SQL"),
    ):
        if (directory / name).exists():
            files.append(Download(name, mime, (directory / name).read_bytes(), about))
    carried = [item for item in files if len(item.content) <= LARGEST_DOWNLOAD_BYTES]
    left_out = [item.name for item in files if item not in carried]
    parts: list[Part] = [Text("Everything is included in this page; nothing is downloaded."), *carried]
    if left_out:
        parts.append(Text(f"Too large for the page, see the run directory: {', '.join(left_out)}."))
    return Section("Data", parts)


def _samples_csv(data: RunData) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [item.name for item in fields(Sample)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(sample) for sample in data.record.samples)
    return buffer.getvalue().encode()
