"""A TCP proxy in front of PostgreSQL that cuts a worker's connection around its COMMIT, or goes black."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Moment = Literal["before it is sent", "before it is answered"]
# What the COMMIT of a batch comes after: the ledger's own commits are left alone.
LAST_STATEMENT = b"UPDATE etl_toolkit.batches SET counts"
TERMINATE = b"X\0\0\0\4"  # the last message of a client
SETTINGS = b"'tcp_user_timeout'"  # once it has answered these, the server looks after a session


class Proxy:
    """Passes everything on, but cuts the first `cuts` connections that commit a batch, at the given moment.

    One that `lingers` does not tell the server that a client has gone, until it is closed itself.
    """

    def __init__(self, host: str, port: int, moment: Moment, cuts: int, *, lingers: bool = False) -> None:
        self.server = (host, port)
        self.moment = moment
        self.cuts = cuts
        self.lingers = lingers
        self.over = threading.Event()
        self.cut = 0
        self.passing: list[socket.socket] = []
        self.new: dict[socket.socket, bool] = {}  # clients without their settings, and whether they have asked for them
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.lock = threading.Lock()

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.server)
                with self.lock:
                    self.passing += [client, server]
                    self.new[client] = False
                is_cut = threading.Event()
                for task in (self._forth, self._back):
                    threading.Thread(target=task, args=(client, server, is_cut), daemon=True).start()

    def go_black(self) -> None:
        """Let whatever is sent on the connections there are vanish: no answer, no acknowledgement, no reset.

        One that is just being opened has its settings first: a server that has not been told to look for its client keeps it.
        """
        there: list[socket.socket] | None = None
        while there is None:
            with self.lock:
                there = None if self.new else list(self.passing)
            time.sleep(0.01)
        for item in there:
            with suppress(OSError):  # closed before
                _drop_all(item)

    def reset(self) -> None:
        """Let both ends know of the connections there are: they are closed with a reset."""
        for item in self.passing:
            with suppress(OSError):
                item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                item.shutdown(socket.SHUT_RD)
                item.close()

    def _forth(self, client: socket.socket, server: socket.socket, is_cut: threading.Event) -> None:
        seen = b""
        with suppress(OSError):
            while data := client.recv(1 << 16):
                seen = (seen + data)[-4096:]
                if SETTINGS in seen and client in self.new:
                    self.new[client] = True
                if b"COMMIT\0" in data and LAST_STATEMENT in seen and self._take():
                    if self.moment == "before it is answered":
                        is_cut.set()
                        server.sendall(data)
                        return  # the other direction sees the answer, and keeps it
                    break
                if self.lingers and data == TERMINATE:
                    self.over.wait()
                server.sendall(data)
        self.new.pop(client, None)
        _close(client, server)

    def _back(self, client: socket.socket, server: socket.socket, is_cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if is_cut.is_set() and b"COMMIT\0" in data:
                    break
                if self.new.get(client):
                    self.new.pop(client, None)
                client.sendall(data)
        self.new.pop(client, None)
        _close(client, server)

    def _take(self) -> bool:
        with self.lock:
            if self.cut == self.cuts:
                return False
            self.cut += 1
            return True


def _drop_all(item: socket.socket) -> None:
    """A packet filter that takes no packet, so that the kernel does not even acknowledge one (Linux)."""
    take_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    so_attach_filter = 26
    program = struct.pack("HL", 1, ctypes.addressof(take_nothing))
    item.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


def _close(*sockets: socket.socket) -> None:
    for item in sockets:
        with suppress(OSError):
            item.shutdown(socket.SHUT_RDWR)
        item.close()


@contextmanager
def proxied(host: str, port: int, moment: Moment, *, cuts: int = 1, lingers: bool = False) -> Iterator[Proxy]:
    proxy = Proxy(host, port, moment, cuts, lingers=lingers)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.listener.close()
