"""Listen between a load and its server: every statement as it goes over the wire, and a COMMIT reply that gets lost.

psycopg2 speaks the simple query protocol, so each statement travels as one readable message. The tap sits on loopback
and passes everything on; it cannot listen to an encrypted connection, so it asks for a plain one.
"""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn

STARTUP_BYTES = 8
BLOCK_BYTES = 1 << 16
LONGEST_STATEMENT = 2_000

IS_WORKER = re.compile(r"(worker|partition|file) \d")  # the role of a session that writes rows
_RUN = re.compile(r"\d{8}T\d{6}-[0-9a-z]+")
_RENAMED = re.compile(r"SET application_name TO '([^']*)'")  # a session that goes from one worker to the next


@dataclass
class Heard:
    """One statement: which session said it, and the bytes of COPY data that followed it."""

    session: str
    statement: str
    copy_bytes: int = 0


class WireTap(socketserver.ThreadingTCPServer):
    """A tap in front of the server of `dsn`, for the length of a block. `loses_reply_to` is asked with session and statement."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, dsn: str, loses_reply_to: Callable[[str, str], bool] = lambda _session, _statement: False
    ) -> None:
        with closing(psycopg2.connect(dsn)) as connection:
            self.place = (connection.info.host, connection.info.port)
        super().__init__(("127.0.0.1", 0), _Line)
        self.dsn, self.loses_reply_to = dsn, loses_reply_to
        self.heard: list[Heard] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True, name="wiretap").start()

    def __exit__(self, *outcome: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def tapped_dsn(self) -> str:
        """The DSN that leads through the tap."""
        port = self.server_address[1]
        return str(make_dsn(self.dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable"))

    def refusal(self) -> str | None:
        """Say why no session can go through the tap; None when one can."""
        try:
            psycopg2.connect(self.tapped_dsn).close()
        except psycopg2.OperationalError:
            return "the server accepts no unencrypted connection from here, so the SQL could not be recorded"
        return None

    def hear(self, session: str, statement: str) -> Heard:
        said = Heard(session, statement)
        self.heard.append(said)
        return said


class _Line(socketserver.StreamRequestHandler):
    """One connection through the tap."""

    server: WireTap

    def handle(self) -> None:
        """Pass on what the client sends, message by message, and in another thread what the server answers."""
        self.is_dead = threading.Event()
        with self._connect() as upstream:
            answers = threading.Thread(target=self._pass_answers, args=(upstream,), daemon=True, name="wiretap")
            answers.start()
            with suppress(OSError, struct.error):  # the latter: the client hung up within a message
                self._pass_questions(upstream)
            if not self.is_dead.is_set():
                _hang_up(upstream)
            answers.join()

    def _connect(self) -> socket.socket:
        host, port = self.server.place
        if host.startswith("/"):
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(str(Path(host) / f".s.PGSQL.{port}"))
            return plain
        return socket.create_connection((host, port))

    def _pass_questions(self, upstream: socket.socket) -> None:
        head = self.rfile.read(STARTUP_BYTES)
        rest = self.rfile.read(struct.unpack("!I", head[:4])[0] - STARTUP_BYTES)
        upstream.sendall(head + rest)
        session = _application_name(rest)
        said: Heard | None = None
        begin = ""  # heard with what follows it, which may give the session another name
        while True:
            head = self.rfile.read(5)
            kind, length = struct.unpack("!cI", head)
            body = self.rfile.read(length - 4)
            if kind == b"Q":
                statement = body.rstrip(b"\0").decode("utf-8", "replace")
                session = renamed[1] if (renamed := _RENAMED.match(statement)) else session
                if self.server.loses_reply_to(session, statement):
                    self.is_dead.set()
                if statement.startswith("BEGIN"):
                    begin = statement
                else:
                    if begin:
                        self.server.hear(session, begin)
                    said, begin = self.server.hear(session, statement), ""
            elif kind == b"d" and said is not None:
                said.copy_bytes += len(body)
            upstream.sendall(head + body)

    def _pass_answers(self, upstream: socket.socket) -> None:
        """Pass on what the server answers; once the line is dead, swallow the answer and hang up on both."""
        with suppress(OSError):
            while block := upstream.recv(BLOCK_BYTES):
                if self.is_dead.is_set():
                    break
                self.connection.sendall(block)
        _hang_up(self.connection)
        _hang_up(upstream)


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _application_name(startup: bytes) -> str:
    words = startup.split(b"\0")
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name == b"application_name":
            return value.decode("utf-8", "replace")
    return ""


def make_readable(heard: Sequence[Heard], run_id: str, place: Path) -> list[Heard]:
    """Return what is worth reading of a load's statements, without its number and the directory of its files."""
    return _select([_readable(said, run_id, place) for said in heard if said.session.startswith("etl_toolkit")])


def _readable(said: Heard, run_id: str, place: Path) -> Heard:
    """Name the session by its role, and cut what is long."""
    role = _RUN.sub("", said.session.replace("etl_toolkit", "")).strip()
    statement = re.sub(r"\s+", " ", said.statement).replace(run_id, "<run>").replace(f"{place}/", "").strip()
    if len(statement) > LONGEST_STATEMENT:
        statement = statement[:LONGEST_STATEMENT] + " …"
    return Heard(role or "session", statement, said.copy_bytes)


def _select(heard: Sequence[Heard]) -> list[Heard]:
    """Leave out looking things up in the catalog and the session settings."""
    dull = re.compile(r"SELECT pg_catalog\.set_config|SET |SHOW |.*\bpg_(stat|blocking|backend|get|is)_", re.DOTALL)
    quiet = {"catalog", "watch", "monitor", "forecast"}
    kept: list[Heard] = []
    for said in heard:
        if said.session in quiet or dull.match(said.statement):
            continue
        before = next((other for other in reversed(kept) if other.session == said.session), None)
        if said.statement == "COMMIT" and before is not None and before.statement.startswith("BEGIN"):
            kept.remove(before)  # a transaction in which only settings were made
            continue
        kept.append(said)
    return kept
