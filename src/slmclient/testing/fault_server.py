"""FaultServer: a server on loopback that answers as it is told, wrongly above all, and notes what it saw."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that a server saw."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Silence:
    """A step: send nothing for so many seconds, or until the client hangs up."""

    seconds: float = 30.0


class Cut:
    """A step: break the connection off, so that the client sees a reset and no end."""


class Stale:
    """A step: keep the connection as if for another request, and close it when that comes, unanswered."""


Step = bytes | Silence | Cut | Stale | Callable[[Seen], bytes]
"""Bytes to send, as they are, head and all; or what else to do."""


def head(status: int = 200, content_type: str = "text/event-stream", **headers: str) -> bytes:
    """Return the head of an answer that ends when the connection does; ``_`` in a header's name stands for ``-``."""
    fields = {"Content-Type": content_type, "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} By-Script\r\n{lines}\r\n".encode("latin-1")


def whole(status: int, body: Any, content_type: str = "application/json", **headers: str) -> bytes:
    """Return a whole answer; what is neither str nor bytes goes as JSON."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return head(status, content_type, Content_Length=str(len(content)), **headers) + content


class FaultServer:
    """Answers every request by the same steps, each on a connection of its own.

    Args:
        steps: What to do for a request, in order; then the connection is closed.

    Example:
        >>> from slmclient.testing import FaultServer
        >>> from slmclient.testing.fault_server import whole
        >>> with FaultServer(whole(503, {"error": "busy"})) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.seen: list[Seen] = []
        """The requests that came."""
        self.gone = threading.Event()
        """Set when a client hangs up while it should wait."""
        self.over = threading.Event()
        """Set when the server is closed: silence ends then."""
        self._server = _Listener(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        """Scheme, host and port."""
        serve = threading.Thread(target=self._server.serve_forever, args=(0.005,), name="fault-server", daemon=True)
        serve.start()

    def close(self) -> None:
        """Stop serving."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FaultServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are what it is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> FaultServer:
        return cast(_Listener, self.server).owner

    def answer(self) -> None:
        owner = self.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        owner.seen.append(seen)
        self.close_connection = True
        for step in owner.steps:
            if isinstance(step, Cut):
                self._cut()
                return
            if isinstance(step, Stale):
                select.select([self.connection], [], [], 30.0)
                self.connection.recv(65536)
                return
            if isinstance(step, Silence):
                if self._hung_up(step.seconds):
                    owner.gone.set()
                    return
            else:
                try:
                    self.wfile.write(step if isinstance(step, bytes) else step(seen))
                except OSError:  # it hung up before there was anything to wait for
                    owner.gone.set()
                    return

    do_GET = do_POST = do_CONNECT = answer

    def _hung_up(self, seconds: float) -> bool:
        """Wait; return whether the client hung up meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.owner.over.is_set():
            readable, _, _ = select.select([self.connection], [], [], min(0.02, seconds))
            if readable:
                try:
                    if not self.connection.recv(1, socket.MSG_PEEK):
                        return True
                except OSError:
                    return True
                self.owner.over.wait(0.02)
        return False

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=self.connection.detach()).close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
