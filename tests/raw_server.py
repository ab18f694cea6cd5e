"""A server on loopback that sends bytes and nothing else: no HTTP library keeps it from doing it wrongly.

Each connection has a thread, which runs the server's script with a `Peer`. Whatever the script does not end, the
client or the end of the test does.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

TEXT = "hello there"
"""What a good answer says."""

Script = Callable[["Peer"], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer, in the pieces at which it can be broken."""

    head: bytes
    pieces: tuple[bytes, ...]
    """The body: in JSON one half after the other; of a stream, the first frame has no text yet, and the two before the
    last have it."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def whole(self) -> bytes:
        return self.head + self.body


class Peer:
    """One connection, on the server's side."""

    def __init__(self, server: RawServer, connection: socket.socket) -> None:
        self.server, self.connection = server, connection
        self._buffer = b""
        self.streaming = False
        """Whether the last request asked for a stream."""

    def request(self) -> bool:
        """Read the next request; return False at the connection's end."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return False
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
        while len(self._buffer) < length and (piece := self._receive()):
            self._buffer += piece
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        self.streaming = bool(json.loads(body).get("stream"))
        self.server.requests.append(head)
        return True

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not (piece := self._receive()):
                return None
            self._buffer += piece
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _receive(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except OSError:
            return b""

    @property
    def answer(self) -> Answer:
        """The good answer to the last request."""
        return streamed(TEXT) if self.streaming else whole(TEXT)

    def send(self, *pieces: bytes) -> None:
        """Send bytes; end the script where the client has gone."""
        for piece in pieces:
            self.connection.sendall(piece)

    def drip(self, data: bytes, pause: float, step: int = 1) -> None:
        """Send bytes one by one."""
        for start in range(0, len(data), step):
            self.send(data[start : start + step])
            self.server.over.wait(pause)

    def repeat(self, piece: bytes, most: int = 2**40, pause: float = 0.0) -> None:
        """Send the same again and again, until the client hangs up."""
        for _ in range(most):
            if self.server.over.is_set():
                return
            self.send(piece)
            if pause:
                self.server.over.wait(pause)

    def stall(self) -> None:
        """Do nothing more until the client hangs up."""
        while not self.server.over.is_set():
            if select.select([self.connection], [], [], 0.05)[0] and not self._receive():
                return

    def stall_unread(self) -> None:
        """Do nothing, and do not read either, until the test is over."""
        self.server.over.wait()

    def reset(self) -> None:
        """Break the connection off: the client sees a reset, and no end."""
        time.sleep(0.02)  # a reset overtakes what was sent before it
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class RawServer:
    """Runs a script for each connection.

    Args:
        script: What it does with one; may be changed later.
        listening: False refuses connections until `listen`.
    """

    def __init__(self, script: Script, *, listening: bool = True) -> None:
        self.script = script
        self.requests: list[bytes] = []
        """The heads of the requests that came whole."""
        self.over = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._threads: list[threading.Thread] = []
        self.listening = False
        if listening:
            self.listen()

    def listen(self) -> None:
        """Accept connections from now on."""
        self.listening = True
        self._listener.listen(64)
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="raw-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._start(self._one, connection)

    def _one(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, suppress(OSError):
            self.script(Peer(self, connection))
        self._open.discard(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with suppress(OSError):  # closing alone leaves the thread in accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)


# --- what good answers consist of


def head(status: str = "200 OK", kind: str = "application/json", length: int | None = None, *lines: str) -> bytes:
    """Return a head: chunked where no length is given."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", size, *lines, "", ""]).encode()


def body_of(text: str) -> bytes:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()


def whole(text: str) -> Answer:
    """Return a whole answer."""
    body = body_of(text)
    return Answer(head(length=len(body)), (body[:40], body[40:]))


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """Return one event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


def chunk(data: bytes) -> bytes:
    """Return a chunk of chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frames(texts: Iterable[str]) -> list[bytes]:
    """Return the events of a stream, its end included."""
    middle = [frame({"content": text}) for text in texts]
    return [frame({"role": "assistant"}), *middle, frame({}, "stop") + b"data: [DONE]\n\n"]


SSE = head(kind="text/event-stream")


def streamed(text: str) -> Answer:
    """Return a streamed answer, its text in two pieces."""
    first, *events = (chunk(event) for event in frames([text[:5], text[5:]]))
    return Answer(SSE, (first, *events[:-1], events[-1] + b"0\r\n\r\n"))


def serve(peer: Peer) -> None:
    """Answer every request as it should be."""
    while peer.request():
        peer.send(peer.answer.whole)
