"""A store that speaks S3, and a web server: real servers on this machine."""

from __future__ import annotations

import http.client
import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[1] / "build/object-store/bin/moto_server"
KEY, SECRET = "CANARYKEY", "canary-secret"  # no real ones, but searched for in whatever is written


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment in which clients find a store with the bucket `drops`. Skips where `make test` has not installed it."""
    if not SERVER.exists():
        pytest.skip("the object store of the tests is not installed; `make test` does that")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port)], **outputs)  # type: ignore[call-overload]
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                made = http.client.HTTPConnection("127.0.0.1", port)
                made.request("PUT", "/drops")
                assert made.getresponse().status == 200
                break
            except OSError:
                assert process.poll() is None, "the object store does not start"
                assert time.monotonic() < deadline, "the object store does not answer"
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        }  # fmt: skip
    finally:
        process.kill()
        process.wait()


@contextmanager
def web_server(answer: Callable[[str, int], tuple[int, bytes]]) -> Iterator[str]:
    """The URL of a server that answers a path, asked for the nth time, with a status and a body."""
    asked: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path
            asked[path] = asked.get(path, 0) + 1
            status, body = answer(path, asked[path])
            self.send_response(status)
            self.send_header("ETag", f'"{hash(body)}"')
            self.send_header("Last-Modified", "Sat, 28 Nov 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
