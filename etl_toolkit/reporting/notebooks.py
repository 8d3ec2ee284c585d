"""Run a notebook headless with papermill, and always say how that went.

papermill only warns on a misspelt parameter, and a killed kernel leaves a notebook that looks complete. So parameters are
checked before, everything is caught, and the outcome is written into the notebook, and into a run directory's manifest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from etl_toolkit.bench.records import load_manifest
from etl_toolkit.bench.writing import write_manifest
from etl_toolkit.errors import UsageError

PLACES = (Path(__file__).parents[1] / "notebooks", Path(__file__).parents[2] / "notebooks")
TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
}
CELL_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class NotebookRun:
    """How a notebook ran. `notebook` holds what it had shown by then, failed or not; None when there is nothing."""

    name: str
    path: Path
    status: Literal["finished", "failed"]
    wall_seconds: float
    error: str = ""
    notebook: Any = None

    def __bool__(self) -> bool:
        return self.status == "finished"


def find(name: str) -> Path:
    """Return the path of one of our notebooks by its name, `04_parallel_upsert_analysis` or `04`."""
    paths = sorted(path for place in PLACES for path in place.glob("*.ipynb"))
    for path in paths:
        if name in (path.stem, path.stem.split("_")[0]):
            return path
    raise UsageError(f"there is no notebook {name!r}; choose {', '.join(path.stem for path in paths)}")


def run(name: str, parameters: Mapping[str, Any], out: Path, *, cwd: Path | None = None) -> NotebookRun:
    """Execute a notebook and write it with its outputs to `out`; a notebook that fails is an outcome, no exception.

    Raises:
        UsageError: no such notebook, or a parameter that it does not have or that has the wrong type.
    """
    if find_spec("papermill") is None:
        raise UsageError("running notebooks requires papermill; pip install 'etl-toolkit[notebooks]'")
    path = find(name)
    check_parameters(path, parameters)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    began = time.perf_counter()
    error = ""
    try:
        _execute(path, parameters, out, cwd=cwd or Path.cwd())
    except Exception as failure:  # whatever goes wrong in a kernel is the outcome of the run
        error = _in_words(failure)
    except BaseException:
        _seal(out, "failed", "interrupted")
        raise
    status: Literal["finished", "failed"] = "failed" if error else "finished"
    notebook = _seal(out, status, error)
    return NotebookRun(path.stem, out, status, time.perf_counter() - began, error, notebook)


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raise UsageError for a name that the notebook does not have, or a value of another type than it declares."""
    known = declared(path)
    for name, value in parameters.items():
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{path.stem} has no parameter {name!r}; {hint}it has {', '.join(known)}")
        kinds = TYPES.get(known[name].split("[")[0])
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise UsageError(f"{path.stem}: parameter {name} is {known[name]}, not {value!r}")


def declared(path: Path) -> dict[str, str]:
    """Return the parameters of a notebook with the types it declares."""
    from papermill import inspect_notebook

    return {name: str(entry["inferred_type_name"]) for name, entry in inspect_notebook(str(path)).items()}


def record_status(directory: Path, done: NotebookRun) -> None:
    """Write into the manifest of a run directory how a notebook over it went."""
    manifest = load_manifest(directory)
    entry = {"status": done.status, "error": done.error, "wall_seconds": round(done.wall_seconds, 3)}
    write_manifest(directory, replace(manifest, notebooks={**manifest.notebooks, done.name: entry}))


def _execute(path: Path, parameters: Mapping[str, Any], out: Path, *, cwd: Path) -> None:
    from jupyter_client.manager import AsyncKernelManager
    from papermill import execute_notebook
    from traitlets import Unicode

    with TemporaryDirectory(prefix="etl_toolkit-kernel-") as sockets:

        class LocalKernelManager(AsyncKernelManager):  # type: ignore[misc,no-any-unimported,unused-ignore]
            """Talks to its kernel through files, not ports: nobody else on the machine can connect.

            By default it would use the same names in every process and put them into the current directory.
            """

            transport = Unicode("ipc")
            ip = Unicode(str(Path(sockets, "socket")))

        execute_notebook(
            str(path),
            str(out),
            parameters=dict(parameters),
            cwd=str(cwd),
            progress_bar=False,
            execution_timeout=CELL_TIMEOUT_SECONDS,
            autosave_cell_every=0,
            kernel_manager_class=LocalKernelManager,
        )


def _seal(out: Path, status: str, error: str) -> Any:
    """Write the outcome into the notebook's metadata; return the notebook, None where none was written."""
    import nbformat

    if not out.exists():
        return None
    notebook = nbformat.read(out, as_version=4)
    notebook.metadata["etl_toolkit"] = {"status": status, "error": error}
    for name in ("input_path", "output_path"):  # where it lay on this machine is nobody's business
        if name in notebook.metadata.get("papermill", {}):
            notebook.metadata["papermill"][name] = Path(notebook.metadata["papermill"][name]).name
    nbformat.write(notebook, out)
    return notebook


def _in_words(failure: Exception) -> str:
    """One line: where, what."""
    name, value = getattr(failure, "ename", None), getattr(failure, "evalue", None)
    if name:
        return f"cell {getattr(failure, 'exec_count', '?')}: {name}: {value}".splitlines()[0]
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
