"""Races and the SQL of each strategy, executed against a server once and recorded in the run directory.

    record(run directory, dsn)  ──►  demonstrations.json  ──►  load(run directory), which opens no database

`demonstrations.json`: {version, made_at, server_version, skipped, races: [Race], strategies: [{strategy, reasons, files, result,
statements: [Heard]}]}.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit.bench.databases import ScratchDatabases, server_of
from etl_toolkit.bench.records import STRATEGIES
from etl_toolkit.bench.writing import write_json
from etl_toolkit.errors import EtlError
from etl_toolkit.model import Strategy
from etl_toolkit.reporting import trials
from etl_toolkit.reporting.races import RACES, reproduce
from etl_toolkit.reporting.stage import stage
from etl_toolkit.reporting.trials import write_csv
from etl_toolkit.reporting.wiretap import WireTap, make_readable

VERSION = 1
NAME = "demonstrations.json"


def record(directory: Path | str, dsn: str | None = None) -> Path:
    """Make every race happen, load with every strategy, and write what was seen into the run directory.

    `dsn` names a server where the role may create databases; None starts a temporary one. Takes about half a minute.
    A race that cannot be made here is left out, and the record says why.

    Raises:
        UsageError: the role may not create databases.
    """
    path = Path(directory) / NAME
    with server_of(dsn, profile="fast") as place, tempfile.TemporaryDirectory(prefix="etl_toolkit-races-") as files:
        with closing(psycopg2.connect(place)) as connection:
            version = connection.info.parameter_status("server_version")
        races, strategies = [], []
        skipped: dict[str, str] = {}
        with closing(ScratchDatabases(place, f"etl_race_{secrets.token_hex(4)}_")) as databases:
            for name in RACES:
                with _or_skipped(name, skipped), stage(databases.new()) as own:
                    races.append(asdict(reproduce(name, own, Path(files))))
            for strategy in STRATEGIES[1:]:
                with _or_skipped(strategy.value, skipped):
                    strategies.append(_strategy(strategy, databases.new(), Path(files)))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"version": VERSION, "made_at": now, "server_version": version, "skipped": skipped}
    write_json(path, {**made, "races": races, "strategies": strategies})
    return path


@contextmanager
def _or_skipped(name: str, skipped: dict[str, str]) -> Iterator[None]:
    """Note why something cannot be shown here, and go on."""
    try:
        yield
    except (EtlError, psycopg2.Error, TimeoutError) as error:
        skipped[name] = (str(error).strip() or "no answer").splitlines()[0]


def load(directory: Path | str) -> Mapping[str, Any] | None:
    """Read what was recorded; None where nothing was, or by another version."""
    path = Path(directory) / NAME
    if not path.exists():
        return None
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("version") == VERSION else None


def _strategy(strategy: Strategy, dsn: str, place: Path) -> dict[str, Any]:
    """Load two files with two workers, and write down what went over the wire."""
    shared = strategy is not Strategy.FULL_PARALLEL
    first = [(key, "file 1") for key in range(1, 801)]
    second = [(key, "file 2") for key in range(401 if shared else 1001, 1201 if shared else 1601)]
    files = [write_csv(place / "one.csv", first), write_csv(place / "two.csv", second)]
    with stage(dsn) as own, WireTap(dsn) as tap:
        own.ask(f"{trials.CREATE}; INSERT INTO race SELECT id, 'before' FROM generate_series(1, 200) AS id")
        if refusal := tap.refusal():
            raise trials.NotShownError(refusal)
        tap.heard.clear()
        result = trials.load(strategy, files, tap.tapped_dsn)
    return {
        "strategy": strategy.value,
        "reasons": list(result.reasons),
        "files": f"800 and {len(second)} rows, {400 if shared else 0} keys shared, 200 of them in the table already",
        "result": asdict(result.counts),
        "statements": [asdict(said) for said in make_readable(tap.heard, result.run_id, place)],
    }
