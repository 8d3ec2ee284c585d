"""`etl-toolkit` and `python -m etl_toolkit`: the command line, which Ctrl-C ends with one line and 130 at any moment.

Python itself would show a traceback, and die of the signal, where Ctrl-C meets the import of a library or the end of the
process: nothing has begun there or everything has ended, so the process leaves at once.
"""

from __future__ import annotations

import atexit
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` is not imported: until the handler is there, Ctrl-C shows a traceback
    from typing import Any, NoReturn


def main() -> NoReturn:
    """Run the command line; see `etl_toolkit.cli`."""
    signal.signal(signal.SIGINT, _leave)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # last of all, after threads were waited for
    from etl_toolkit.cli import main as run_command

    try:
        run_command()
    except KeyboardInterrupt:  # while the command line said how it had ended
        _leave()
    finally:
        signal.signal(signal.SIGINT, _leave)
        # CPython dies of SIGINT at its end if KeyboardInterrupt has ever left an `exec` of a text, as `dataclass` uses it,
        # even if it was caught since. The next `exec` of a text makes it forget that.
        exec("")  # noqa: S102


def _leave(*_: Any) -> NoReturn:
    os.write(2, b"etl-toolkit: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
