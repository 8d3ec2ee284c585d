"""The workbench in JupyterLab: from a directory of files to rows in a table, step by step, and why they are what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError
from etl_toolkit.model import ReadOptions

if TYPE_CHECKING:
    from etl_toolkit.lab.view import Workbench


def workbench(
    place: str | Path = ".", dsn: Any = None, *, read: ReadOptions | None = None, config: ParallelConfig | None = None
) -> Workbench:
    """Show a workbench for the files of a directory, or of a glob, in JupyterLab.

    Choose files, a table and a key; see which files share keys and what a load would do; load; fix the cells of rejected
    rows and load these again; ask where a row of the table comes from. Fixed rows are written to `fixed/` beside the files.
    `dsn`, `read` and `config` are as for `ingest`. Raises UsageError where there is no file.

        etl_toolkit.workbench("drops/", dsn="postgresql://etl@db/shop")
    """
    try:
        from etl_toolkit.lab.view import Workbench
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the workbench needs {error.name}; install it with: pip install 'etl-toolkit[notebooks]'"
        ) from None
    return Workbench(place, dsn, read or ReadOptions(), config or ParallelConfig())
