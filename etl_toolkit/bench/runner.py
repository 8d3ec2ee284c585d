"""The process that makes one run: `python -m etl_toolkit.bench.runner`, driven by `measure` through its pipes.

A fresh process per run, so that no run profits from the caches of another or pays for its memory. It imports, says
`ready`, reads one JSON request, prepares, says `ready` again, waits for `go`, loads, and writes what it measured as one
JSON line. Connections are opened inside the clock; imports and the preparation of the floor are not.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg2

from etl_toolkit.bench import contenders
from etl_toolkit.errors import EtlError, driver_failure


def main() -> None:
    """Make one run, as the module says."""
    # Loaders print. Our words go through a copy of stdout, theirs to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)
        _import_ours()
        _say(pipe, {"ready": True})
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        place = (request["dsn"], request["table"], request["workers"])
        files = request["files"]
        settings = {name: request[name] for name in ("batch_rows", "executor")}
        try:
            with contenders.configured(request["contender"], request["dsn"], **settings) as contender:
                if contender.prepare is not None:
                    files = contender.prepare(files, *place)
                _say(pipe, {"ready": True})
                if sys.stdin.readline().strip() != "go":
                    return
                _say(pipe, timed(contender, files, *place))
        except Exception as error:  # whatever a loader raises is the outcome of its run
            traceback.print_exc()
            text = reason(error).replace(f"{Path(request['files'][0]).parent}/", "")
            _say(pipe, {"error": text})


def timed(contender: contenders.Contender, files: list[str], dsn: str, table: str, workers: int) -> dict[str, Any]:
    """Load, and return fields of a sample: seconds of wall and CPU time, children included, and what the contender says."""
    before = _cpu_seconds()
    began = time.perf_counter()
    facts = contender.load(files, dsn, table, workers) or {}
    wall_seconds = time.perf_counter() - began
    user, system = (after - earlier for after, earlier in zip(_cpu_seconds(), before, strict=True))
    spent = {"client_cpu_user_seconds": user, "client_cpu_system_seconds": system}
    return {"wall_seconds": wall_seconds, **spent, **facts}


def reason(error: BaseException) -> str:
    """Say in one line why a run failed, without data of the rows: the record may be published."""
    if isinstance(error, psycopg2.Error):
        failure = driver_failure(error)
        return f"{failure.message} (SQLSTATE {failure.sqlstate})"
    if isinstance(error, EtlError):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__module__}.{type(error).__name__}"


def _import_ours() -> None:
    # Where this fails, our strategies fail in their turn and with the reason; the others need not suffer for it.
    with suppress(ImportError, AttributeError):
        from etl_toolkit import ParallelConfig, ingest  # noqa: F401


def _cpu_seconds() -> tuple[float, float]:
    """Of this process and all below it; of those that have ended where the system says so."""
    user = system = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended meanwhile
            times = process.cpu_times()
            user += times.user + getattr(times, "children_user", 0.0)
            system += times.system + getattr(times, "children_system", 0.0)
    return user, system


def _say(pipe: IO[str], message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
