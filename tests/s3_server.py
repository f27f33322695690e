"""An S3 server on this machine, and a gate in front of it that stops an upload midway."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

START_SECONDS = 120
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-told",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "sweeps"
SERVER = """
import threading
from moto.s3.responses import S3Response
from moto.server import main

put, one_at_a_time = S3Response.put_object, threading.Lock()

def put_object(self):
    with one_at_a_time:
        return put(self)

S3Response.put_object = put_object
main()
"""
"""moto, which checks a condition (If-Match, If-None-Match) and writes in one step."""


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def uri(port: int, prefix: str, bucket: str = BUCKET) -> str:
    """The URI of a store behind a port on this machine."""
    return f"s3://{bucket}/{prefix}?endpoint_override=127.0.0.1:{port}&scheme=http"


@contextlib.contextmanager
def s3_server(folder: Path, **environment: str) -> Iterator[int]:
    """The port of a server with an empty bucket; it ends with the block."""
    port = free_port()
    with open(folder / "s3.txt", "wb") as output:
        command = [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + START_SECONDS
        while _status(port, "PUT", f"/{BUCKET}") != 200:
            assert server.poll() is None and time.monotonic() < deadline, (folder / "s3.txt").read_text()
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


def _status(port: int, method: str, path: str) -> int | None:
    """The status of the answer to a request; None if nobody listens yet."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request(method, path)
        except ConnectionRefusedError:
            return None
        return connection.getresponse().status


class Gate:
    """Passes on connections to a server until a request comes that matches `pattern`: `into` bytes of that one pass.

    It is then held, or, with `cut`, its connection ends, and so do all that come after; until `mend`.
    """

    def __init__(self, port: int, pattern: bytes, into: int, cut: bool = False) -> None:
        self.server, self.into, self.cut = port, into, cut
        self.pattern: re.Pattern[bytes] | None = re.compile(pattern)
        self.reached, self.mended = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._start(self._accept)

    def mend(self) -> None:
        """Pass everything on from now on."""
        self.pattern = None
        self.reached.clear()
        self.mended.set()

    def close(self) -> None:
        """End it with all its connections."""
        for open_ in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):  # one side may have ended it
                open_.shutdown(socket.SHUT_RDWR)
            open_.close()

    def _start(self, target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            if self.cut and self.reached.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.server))
            self.connections += [client, server]
            self._start(self._pass, client, server, self.pattern)
            self._start(self._pass, server, client, None)

    def _pass(self, source: socket.socket, sink: socket.socket, pattern: re.Pattern[bytes] | None) -> None:
        left = None
        with contextlib.suppress(OSError):  # either side may end a connection
            while data := source.recv(65536):
                if left is None and pattern and not self.reached.is_set() and pattern.search(data):
                    left = self.into
                if left is not None and len(data) >= left:
                    sink.sendall(data[:left])
                    self.reached.set()
                    if self.cut:
                        break
                    self.mended.wait()
                    data, left, pattern = data[left:], None, None
                elif left is not None:
                    left -= len(data)
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
