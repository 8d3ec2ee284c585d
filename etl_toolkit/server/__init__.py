"""The embedded PostgreSQL: find the binaries, start a private server, stop it, say how to reach it.

A server lives in one directory, its home: the cluster, the log, the password and a lock file. Every function takes that
directory and none keeps state in memory, so a server outlives the process that started it, and any process of the same
account may stop it.
"""

from etl_toolkit.server.binaries import find_binaries
from etl_toolkit.server.dsn import resolve_dsn
from etl_toolkit.server.launch import start, status, stop
from etl_toolkit.server.running import EmbeddedServer
from etl_toolkit.server.settings import Profile
from etl_toolkit.server.temporary import sweep, temporary

__all__ = [
    "EmbeddedServer",
    "Profile",
    "find_binaries",
    "resolve_dsn",
    "start",
    "status",
    "stop",
    "sweep",
    "temporary",
]
