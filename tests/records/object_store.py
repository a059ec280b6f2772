# SPDX-License-Identifier: Apache-2.0
"""moto's S3 behind a proxy that counts requests and bytes, and fails when it is told to."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("expired token", "denied", "slow down", "cut body", "no answer", "replaced")
ERRORS = {
    "expired token": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
}


@dataclass
class ObjectStore:
    """What the proxy saw, and what it does next."""

    url: str = ""
    read_seconds: float = 60
    backend: tuple[str, int] = ("", 0)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and bytes of the answer's body, of each request for an object."""
    fault: str = ""
    after: int = 0
    """Reads of objects that are answered before the fault."""
    times: int = 0
    """Reads that fail then."""
    on_fault: Callable[[str], None] = lambda _: None
    lock: Any = field(default_factory=threading.Lock)

    def heal(self) -> None:
        self.fault = ""

    def break_down(self, fault: str, after: int, times: int) -> None:
        self.fault, self.after, self.times = fault, after, times

    def next_fault(self, method: str, is_object: bool) -> str:
        if method != "GET" or not is_object or not self.fault:
            return ""
        with self.lock:
            self.after -= 1
            if self.after >= 0 or self.times <= 0:
                return ""
            self.times -= 1
        return self.fault

    def put(self, path: str, content: bytes) -> None:
        """Write an object past the proxy."""
        connection = http.client.HTTPConnection(*self.backend, timeout=30)
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/s3/x"}
        connection.request("PUT", path, content, signed)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        connection.close()

    def downloaded(self) -> int:
        return sum(size for method, _, size in self.requests if method == "GET")


def _handler(store: ObjectStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = self.path.partition("?")[0]
            is_object = path.count("/") > 1
            fault = store.next_fault(self.command, is_object)
            if fault == "replaced":
                store.on_fault(path)
                fault = ""
            if fault == "no answer":
                time.sleep(2 * store.read_seconds)
                self.close_connection = True
                return
            if fault in ERRORS:
                status, code, message = ERRORS[fault]
                text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                headers, content = [("Content-Type", "application/xml")], text
            else:
                connection = http.client.HTTPConnection(*store.backend, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
                headers = answer.getheaders()
                connection.close()
            cut = fault == "cut body"
            if is_object:
                with store.lock:
                    store.requests.append((self.command, path, len(content)))
            self.send_response(status)
            announced = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length":
                    announced = value
                elif name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", announced)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: object) -> None:
        """Clients that go away are what the tests make them do."""


@contextmanager
def object_store(
    environment: Callable[[str, str], None], read_seconds: float = 60
) -> Iterator[ObjectStore]:
    """Serve an empty bucket called ``bucket``.

    Args:
        environment: Sets a variable for this process, as pytest's ``monkeypatch.setenv`` does.
        read_seconds: How long clients wait for an answer. A fault of no answer is twice that.
    """
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    store = ObjectStore(read_seconds=read_seconds, backend=server.get_host_and_port())
    proxy = _Server(("127.0.0.1", 0), _handler(store))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ENDPOINT_URL_S3": store.url,
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        environment(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    before = (s3fs.S3FileSystem.read_timeout, s3fs.S3FileSystem.retries)
    s3fs.S3FileSystem.read_timeout, s3fs.S3FileSystem.retries = read_seconds, 1
    try:
        reset = http.client.HTTPConnection(*store.backend, timeout=30)
        reset.request("POST", "/moto-api/reset")  # the process may have had another such server
        assert reset.getresponse().status == 200
        reset.close()
        store.put("/bucket", b"")
        yield store
    finally:
        s3fs.S3FileSystem.read_timeout, s3fs.S3FileSystem.retries = before
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def fault_runs() -> int:
    """How many runs with faults a test makes: ``FAULT_RUNS``, or a few."""
    return int(os.environ.get("FAULT_RUNS", "3"))
