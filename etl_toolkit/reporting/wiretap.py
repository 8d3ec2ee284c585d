"""Listen between a load and its server: every statement as it goes over the wire, and a COMMIT reply that gets lost.

psycopg2 speaks the simple query protocol, so each statement travels as one readable message. The tap sits on loopback
and passes everything on; it cannot listen to an encrypted connection, so it asks for a plain one.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

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


@dataclass
class WireTap:
    """A tap in front of the server of `dsn`. `loses_reply_to` is called with session and statement."""

    dsn: str
    loses_reply_to: Callable[[str, str], bool] = lambda _session, _statement: False
    heard: list[Heard] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __enter__(self) -> WireTap:
        with closing(psycopg2.connect(self.dsn)) as connection:
            self._server = (connection.info.host, connection.info.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True, name="wiretap").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    @property
    def tapped_dsn(self) -> str:
        """The DSN that leads through the tap."""
        port = self._listener.getsockname()[1]
        return str(make_dsn(self.dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable"))

    def refusal(self) -> str | None:
        """Say why no session can go through the tap; None when one can."""
        try:
            psycopg2.connect(self.tapped_dsn).close()
        except psycopg2.OperationalError:
            return "the server accepts no unencrypted connection from here, so the SQL could not be recorded"
        return None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True, name="wiretap").start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server, suppress(OSError):
            line = _Line(self, client, server)
            answers = threading.Thread(target=line.pass_answers, daemon=True, name="wiretap")
            answers.start()
            line.pass_questions()
            answers.join()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if host.startswith("/"):
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(str(Path(host) / f".s.PGSQL.{port}"))
            return plain
        return socket.create_connection((host, port))

    def hear(self, session: str, statement: str) -> Heard:
        said = Heard(session, statement)
        with self._lock:
            self.heard.append(said)
        return said


@dataclass
class _Line:
    """One connection through the tap."""

    tap: WireTap
    client: socket.socket
    server: socket.socket
    is_dead: threading.Event = field(default_factory=threading.Event)

    def pass_questions(self) -> None:
        """Pass on what the client sends, message by message."""
        try:
            head = self._exactly(STARTUP_BYTES)
            rest = self._exactly(struct.unpack("!I", head[:4])[0] - STARTUP_BYTES)
            self.server.sendall(head + rest)
            session = _application_name(rest)
            said: Heard | None = None
            begin = ""  # heard with what follows it, which may give the session another name
            while True:
                kind, length = self._exactly(1), self._exactly(4)
                body = self._exactly(struct.unpack("!I", length)[0] - 4)
                if kind == b"Q":
                    statement = body.rstrip(b"\0").decode("utf-8", "replace")
                    session = renamed[1] if (renamed := _RENAMED.match(statement)) else session
                    if self.tap.loses_reply_to(session, statement):
                        self.is_dead.set()
                    if statement.startswith("BEGIN"):
                        begin = statement
                    else:
                        if begin:
                            self.tap.hear(session, begin)
                        said, begin = self.tap.hear(session, statement), ""
                elif kind == b"d" and said is not None:
                    said.copy_bytes += len(body)
                self.server.sendall(kind + length + body)
        except (OSError, EOFError):
            if not self.is_dead.is_set():
                _hang_up(self.server)

    def pass_answers(self) -> None:
        """Pass on what the server answers; once the line is dead, swallow the answer and hang up on both."""
        with suppress(OSError):
            while block := self.server.recv(BLOCK_BYTES):
                if self.is_dead.is_set():
                    break
                self.client.sendall(block)
        _hang_up(self.client)
        _hang_up(self.server)

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.client.recv(min(count, BLOCK_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


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
