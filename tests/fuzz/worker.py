"""The client of a case: a process under the environment that was drawn, which does what it is asked through pipes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.fuzz.case import Case
from tests.fuzz.environments import CLIENTS

TIMEOUT_SECONDS = 120


class ClientDiedError(Exception):
    """The process ended, or was ended because it did not answer."""


@dataclass
class Client:
    """A process that loads, under one environment; started when it is first asked, and again after it died."""

    environment: str
    _process: Any = field(default=None, repr=False)
    _directory: Any = field(default=None, repr=False)

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Have something done; return the answer. Raises ClientDiedError."""
        if self._process is None:
            self._directory = tempfile.TemporaryDirectory(prefix="etl_fuzz_cwd_")
            self._process = _start(self.environment, Path(self._directory.name))
        process = self._process
        timer = threading.Timer(TIMEOUT_SECONDS, process.kill)
        timer.start()
        try:
            pickle.dump({"verb": verb, **request}, process.stdin)
            process.stdin.flush()
            answer: dict[str, Any] = pickle.load(process.stdout)  # noqa: S301 - from our own child
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            hung = not timer.is_alive()
            self.close()
            raise ClientDiedError(f"no answer within {TIMEOUT_SECONDS} s" if hung else "the process died") from None
        finally:
            timer.cancel()
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self._directory.cleanup()


def _start(environment: str, directory: Path) -> subprocess.Popen[bytes]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG", "TZ", "ETL_"))
    }
    root = str(Path(__file__).parents[2])
    # A current directory with names in it that SQL of ours might take for tables or files.
    for name in ("rows", "rows.csv", "incoming.parquet", "record", "frame_0"):
        (directory / name).write_text("id,v\n1,wrong\n")
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker"], cwd=directory, env={**inherited, **CLIENTS[environment], "PYTHONPATH": root},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


# --- the process -------------------------------------------------------------------------------------------------------


def _inputs(case: Case, directory: str) -> list[Any]:
    from tests.fuzz.writing import frame_of

    return [
        str(Path(directory) / content.path) if content.form in ("csv", "parquet") else frame_of(content)
        for content in case.contents
    ]


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    from etl_toolkit import ParallelConfig
    from etl_toolkit.workspace import Workspace

    config = ParallelConfig(**{"lock_wait_seconds": 30.0, **request["case"].config})
    with ExitStack() as stack:
        if config.memory_limit_bytes:  # as if the records did not fit into it
            stack.enter_context(patch.object(Workspace, "reserve", lambda *_: None))
        return _outcome(request, config)


def _outcome(request: Mapping[str, Any], config: Any) -> dict[str, Any]:
    from etl_toolkit import ConflictAwareProcessor, ingest
    from etl_toolkit.loading import failpoints
    from etl_toolkit.model import ReadOptions, WriteOptions
    from etl_toolkit.typed_options import make_options
    from tests.fault_worker import kill_me, nth

    case: Case = request["case"]
    processor = ConflictAwareProcessor(request["dsn"], config=config, concurrency=case.options["concurrency"])
    try:
        match request["verb"]:
            case "load":
                options = {name: value for name, value in case.options.items() if value is not None}
                options["read"] = ReadOptions(**case.feed.options)
                options["write"] = make_options(WriteOptions, case.writing.options)
                actions = (
                    {case.fault.point: nth(case.fault.number, kill_me)} if case.fault and request["is_fatal"] else {}
                )
                with failpoints.installed(actions):
                    result = ingest(
                        _inputs(case, request["directory"]),
                        case.table.sql,
                        case.table.key,
                        request["dsn"],
                        config=config,
                        **options,
                    )
            case "resume":
                result = processor.resume(request["run_id"])
            case _:
                return {"undone": str(processor.undo(request["run_id"]))}
    except Exception as error:  # whatever it is, it is the outcome
        import traceback

        return {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc(limit=-4)}
    return {"result": result.as_dict(), "is_true": bool(result)}


def main() -> None:
    """Answer one request after the other until the pipe is closed."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    if options := os.environ.get("PANDAS"):
        import pandas as pd

        for name, _, value in (option.partition("=") for option in options.split(";")):
            pd.set_option(name, int(value) if value.isdigit() else value)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
        except EOFError:
            return
        pickle.dump(_answer(request), answers)
        answers.flush()


if __name__ == "__main__":
    main()
