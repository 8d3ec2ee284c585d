"""Beginning, describing and finishing a run directory; `records` says what is in one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from etl_toolkit.bench import analysis, journal, machine, monitor, recommend, records, workloads
from etl_toolkit.bench.records import Manifest
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.bench.writing import write_json, write_manifest
from etl_toolkit.errors import UsageError


def begin(path: Path, config: SweepConfig, command: Sequence[str]) -> Manifest:
    """Return the manifest of a new run directory, or of the interrupted one that is there.

    Raises:
        UsageError: what is there is no run directory, is finished, or was begun with other settings, code or machine.
    """
    here = machine.machine()
    if (path / "manifest.json").exists():
        manifest = records.load_manifest(path)
        if manifest.status == "finished":
            raise UsageError(f"{str(path)!r} holds a finished sweep; name another directory")
        if dict(manifest.config) != config.as_dict():
            raise UsageError(f"{str(path)!r} holds another sweep; name another directory, or its own configuration")
        if manifest.machine.get("fingerprint") != here["fingerprint"]:
            raise UsageError(
                f"{str(path)!r} was started on another machine; times from two machines cannot be combined"
            )
        if (manifest.git_commit, manifest.versions) != (machine.git_commit(), machine.versions()):
            raise UsageError(f"{str(path)!r} was started with different code or versions; name another directory")
        return replace(manifest, status="running", reason=None, finished_at=None)
    if path.exists() and any(path.iterdir()):
        raise UsageError(f"{str(path)!r} is not empty and not a run directory; name another")
    manifest = Manifest(
        run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{config.name}-{secrets.token_hex(4)}",
        command=machine.without_secrets(command),
        seed=config.seed,
        status="running",
        started_at=_now(),
        git_commit=machine.git_commit(),
        versions=machine.versions(),
        machine=here,
        config=config.as_dict(),
        rounds=config.rounds,
    )
    write_manifest(path, manifest)
    journal.place(path).mkdir(exist_ok=True)
    return manifest


def described(manifest: Manifest, prepared: workloads.Prepared, dsn: str) -> Manifest:
    """Return `manifest` with the server, the files and cases, and the cost of the monitor, which is measured here."""
    with closing(psycopg2.connect(dsn)) as connection:
        facts, settings = machine.server(connection)
    return replace(
        manifest,
        server=facts,
        pg_settings=settings,
        monitor=monitor.overhead(dsn),
        workloads={name: files.summary for name, files in prepared.files.items()},
        skipped=prepared.skipped,
        cases=tuple(case.name for case in prepared.cases),
    )


def finish(path: Path, manifest: Manifest) -> None:
    """Write what was measured, however the sweep ended; last of all the status."""
    manifest = replace(manifest, finished_at=_now())
    finished = manifest.status == "finished"
    done = journal.fold(path)
    write_json(path / "report.json", analysis.report(manifest, done))
    if finished:
        recommend.write_config(path / "recommended.toml", manifest, records.load(path).report)
    write_manifest(path, manifest)
    if finished:
        journal.remove(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
