"""A connection pooler small enough to read: it does to a session what PgBouncer does.

It answers for the server at connect time, with a process number of its own, and gives a client a server for a
transaction (`per_session=False`) or for the whole session. It knows the simple query protocol only, and the servers
behind it must let it in without a password.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Pooler:
    def __init__(self, port: int, *, per_session: bool) -> None:
        self.server_port = port
        self.per_session = per_session
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.idle: list[socket.socket] = []  # the last one used is taken first
        self.lock = threading.Lock()
        self.opened: list[socket.socket] = []
        self.clients: list[threading.Thread] = []

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self.listener.accept()
                self.clients.append(threading.Thread(target=self._client, args=(client,), daemon=True))
                self.clients[-1].start()

    def _client(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            (length,) = struct.unpack("!I", _exactly(client, 4))
            startup = _exactly(client, length - 4)
            held, greeting = self._open(startup)
            client.sendall(greeting)
            if not self.per_session:
                self._give_back(held)
                held = None
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    break
                if held is None:
                    held = self._take(startup)
                held.sendall(message)
                if self._answer(held, client) == b"I" and not self.per_session:
                    self._give_back(held)
                    held = None

    def _open(self, startup: bytes) -> tuple[socket.socket, bytes]:
        server = socket.create_connection(("127.0.0.1", self.server_port))
        self.opened.append(server)
        server.sendall(struct.pack("!I", len(startup) + 4) + startup)
        greeting = b""
        while True:
            kind, message = _message(server)
            if kind == b"K":
                message = message[:5] + struct.pack("!I", 4242) + message[9:]
            greeting += message
            if kind in (b"Z", b"E"):
                return server, greeting

    def _take(self, startup: bytes) -> socket.socket:
        with self.lock:
            if self.idle:
                return self.idle.pop()
        return self._open(startup)[0]

    def _give_back(self, server: socket.socket) -> None:
        with self.lock:
            self.idle.append(server)

    def _answer(self, server: socket.socket, client: socket.socket) -> bytes:
        """Pass the answer on; return whether it leaves a transaction open (`T`, `E`) or not (`I`)."""
        while True:
            kind, message = _message(server)
            client.sendall(message)
            if kind == b"Z":
                return message[5:6]


@contextmanager
def pooler(port: int, *, per_session: bool) -> Iterator[int]:
    """Run a pooler in front of the server at `port`; yields its own port."""
    made = Pooler(port, per_session=per_session)
    accepting = threading.Thread(target=made.serve, daemon=True)
    accepting.start()
    try:
        yield made.listener.getsockname()[1]
    finally:
        made.listener.shutdown(socket.SHUT_RDWR)
        made.listener.close()
        for thread in (accepting, *made.clients):
            thread.join()
        for server in made.opened:
            server.close()


def _message(stream: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(stream, 5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + _exactly(stream, length - 4)


def _exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
