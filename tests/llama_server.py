"""A real OpenAI-compatible server for tests: llama.cpp's own, in a process of its own; and a proxy that writes down.

Run as a script, it serves the model that its argument names (JSON) until standard input closes, and says its address.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

KEY = "test-key-of-the-llama-server"


class LlamaServer:
    """llama.cpp's OpenAI server on loopback, in a child process that ends with this one.

    Args:
        weights: The GGUF file.
        api_prefix: Put before every path, such as ``/inference``.
        api_key: What the server asks for; None for no key.
        alias: The model's name.
        n_parallel: Slots, each with its share of the context.
        n_ctx: Context of all slots together, in tokens.
    """

    def __init__(
        self,
        weights: Path,
        *,
        api_prefix: str = "",
        api_key: str | None = KEY,
        alias: str = "smollm2",
        n_parallel: int = 4,
        n_ctx: int = 8192,
    ) -> None:
        self.api_prefix, self.api_key, self.alias = api_prefix, api_key, alias
        wanted = {
            "model": str(weights),
            "api_prefix": api_prefix,
            "api_key": api_key,
            "alias": alias,
            "n_parallel": n_parallel,
            "n_ctx": n_ctx,
        }
        self._child = subprocess.Popen(
            [sys.executable, __file__, json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().strip()
        """Scheme, host and port; the prefix is not part of it."""
        assert self.url.startswith("http://127.0.0.1:"), "the llama.cpp server did not start"

    def get(self, path: str) -> Any:
        """Return what the server answers to a GET below its prefix, parsed."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            connection.request("GET", self.api_prefix + path, headers=headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def idle(self) -> bool:
        """Return whether no slot is at work."""
        return not any(slot["is_processing"] for slot in self.get("/slots"))

    def busy(self) -> bool:
        """Return whether some slot is at work."""
        return not self.idle()

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Recorded:
    """One request that passed a `RecordingProxy`."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class RecordingProxy:
    """Stands before a real server, passes everything on as it is, and writes the requests down."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._raw: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="recording-proxy", daemon=True).start()

    @property
    def requests(self) -> list[Recorded]:
        """The requests so far, those of one connection in order."""
        return [request for raw in self._raw for request in _requests(bytes(raw))]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=10)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                raw = bytearray()
                self._raw.append(raw)
                self._sockets += [near, far]
                for source, sink, copy in ((near, far, raw), (far, near, bytearray())):
                    threading.Thread(target=self._pass_on, args=(source, sink, copy), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                copy += piece
                sink.sendall(piece)
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with suppress(OSError):
                end.shutdown(how)

    def close(self) -> None:
        """Stop, and break off what is under way."""
        with suppress(OSError):  # closing alone leaves the thread in accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _requests(raw: bytes) -> Iterator[Recorded]:
    while b"\r\n\r\n" in raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        yield Recorded(method, path, headers, raw[:length])
        raw = raw[length:]


_DEFAULTS = LlamaServer.__init__.__kwdefaults__


@dataclass
class LlamaServers:
    """Servers by what they were asked for: each is started once."""

    weights: Path
    running: dict[tuple[tuple[str, Any], ...], LlamaServer] = field(default_factory=dict)

    def __call__(self, **parameters: Any) -> LlamaServer:
        """Return a server; see `LlamaServer` for the parameters."""
        wanted = tuple(sorted({**_DEFAULTS, **parameters}.items()))
        if wanted not in self.running:
            self.running[wanted] = LlamaServer(self.weights, **dict(wanted))
        return self.running[wanted]

    def close(self) -> None:
        """End them all."""
        for server in self.running.values():
            server.close()


def until(condition: Any, seconds: float = 5.0) -> bool:
    """Wait for a condition to become true; return whether it did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def serve(wanted: dict[str, Any]) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = wanted["model"]
    parameters.model_alias = {wanted["alias"]}
    parameters.api_prefix = wanted["api_prefix"]
    parameters.api_keys = [wanted["api_key"]] if wanted["api_key"] else []
    parameters.n_parallel, parameters.n_ctx = wanted["n_parallel"], wanted["n_ctx"]
    parameters.n_batch = parameters.n_ubatch = 256  # a prefill is left only between batches
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_ram_mib = 0
    parameters.endpoint_slots = True
    parameters.ui = parameters.warmup = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the parent is gone


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
