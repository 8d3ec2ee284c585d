"""A load on several processes or machines: two functions that run anywhere, and the coordinator that calls them.

coordinator: table, ledger, lock, bounds        no row passes through it
 ├─ sort_files  × files    look at a file, or several small ones, ask the server about doubtful rows, leave a sorted run in
 │                         the exchange directory (reply: facts, rejects, a sample of its keys)
 └─ load_range  × ranges   read one key range of all runs, collapse, write, commit
                           (reply: counts)

Both take and return frozen dataclasses of plain values. What a host brings itself, its connection string above all, is never
in them.
"""

from etl_toolkit.hosts.checking import CheckHost, HostState, check_host
from etl_toolkit.hosts.executors import Hosts, open_hosts
from etl_toolkit.hosts.here import lend_dsn
from etl_toolkit.hosts.loading import load_range
from etl_toolkit.hosts.preparing import exchange_parent, prepare_on_hosts
from etl_toolkit.hosts.sorting import sort_files
from etl_toolkit.hosts.tasks import Job, LoadedRange, LoadRange, SortedFile, SortedRun, SortedRuns, SortFile, SortFiles

__all__ = [
    "CheckHost",
    "HostState",
    "Hosts",
    "Job",
    "LoadRange",
    "LoadedRange",
    "SortFile",
    "SortFiles",
    "SortedFile",
    "SortedRun",
    "SortedRuns",
    "check_host",
    "exchange_parent",
    "lend_dsn",
    "load_range",
    "open_hosts",
    "prepare_on_hosts",
    "sort_files",
]
