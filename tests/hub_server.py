"""A hub on loopback for the real `huggingface_hub` client: HF_ENDPOINT points to it.

It speaks what the client needs of Hugging Face's HTTP API: a model's files with their sizes and hashes, and the files
themselves. Large ones (LFS) are elsewhere: the hub answers with a redirect to "localhost", another origin than its own
"127.0.0.1", as the real one does to its content network. What goes wrong is set by the test.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1 << 16


@dataclass
class File:
    """One file, in memory or on disk."""

    content: bytes | Path
    lfs: bool

    @cached_property
    def data(self) -> bytes:
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content

    @cached_property
    def hash(self) -> str:
        """SHA-256 of LFS files, Git's own id of others."""
        data = self.data
        return (
            hashlib.sha256(data).hexdigest() if self.lfs else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        )


@dataclass
class Repo:
    """One model repository, and how it behaves."""

    files: dict[str, File]
    commit: str
    gated: int = 0
    """The status that asking for its files gets: 401 or 403."""


@dataclass
class Seen:
    """One request."""

    method: str
    host: str
    path: str
    token: str | None
    range: str | None


@dataclass
class Faults:
    """What goes wrong with large files."""

    cut_after: int | None = None
    """The next answer breaks off after so many bytes; only once."""
    wrong: str = ""
    """The path of a file of which one byte is another than it should be."""
    no_ranges: bool = False
    """Parts of files are not given: the whole is, with 200."""
    hold: threading.Event | None = None
    """After the first piece, the answer waits for this."""
    status: int = 0
    """Every request gets this."""


@dataclass
class HubServer:
    """The hub."""

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.faults.hold is not None:
            self.faults.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: dict[str, bytes | Path], **behaviour: Any) -> Repo:
        """Make a repository of files; what is on disk, or is no text of a few words, is an LFS file."""
        listed = {path: File(content, _is_large(path, content)) for path, content in files.items()}
        commit = hashlib.sha1("".join([name, *(file.hash for file in listed.values())]).encode()).hexdigest()
        self.repos[name] = Repo(listed, commit, **behaviour)
        return self.repos[name]

    def fetched(self) -> list[str]:
        """Return the paths and hashes that were asked for with GET, without the API's."""
        return [each.path for each in self.seen if each.method == "GET" and not each.path.startswith("/api/")]


def _is_large(path: str, content: bytes | Path) -> bool:
    return isinstance(content, Path) or path.endswith((".gguf", ".safetensors", ".onnx", ".data", ".bin", ".pt"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that leaves in the middle is part of the tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        host, parts = self.headers["Host"].partition(":")[0], urlsplit(self.path)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        hub.seen.append(Seen(self.command, host, parts.path, token, self.headers["Range"]))
        if hub.faults.status:
            self._error(hub.faults.status, "")
        elif parts.path.startswith("/content/"):
            self._content(parts.path.removeprefix("/content/"))
        elif parts.path.startswith("/api/models/"):
            self._info(parts.path.removeprefix("/api/models/"), parse_qs(parts.query))
        else:
            self._resolve(unquote(parts.path))

    def _info(self, path: str, query: dict[str, list[str]]) -> None:
        name, _, revision = path.partition("/revision/")
        repo = self._repo(name, revision or "main")
        if repo is None:
            return
        listed = [_sibling(path, file, "blobs" in query) for path, file in repo.files.items()]
        body = {"id": name, "modelId": name, "sha": repo.commit, "private": False, "siblings": listed, "tags": []}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, inside = rest.partition("/")
        repo = self._repo(name, revision)
        if repo is None:
            return
        file = repo.files.get(inside)
        if repo.gated:
            self._error(repo.gated, "GatedRepo")
        elif file is None:
            self._error(404, "EntryNotFound")
        elif file.lfs:
            headers = {
                "Location": f"http://localhost:{self.server_hub.port}/content/{file.hash}",
                "X-Linked-Etag": f'"{file.hash}"',
                "X-Linked-Size": str(len(file.data)),
                "X-Repo-Commit": repo.commit,
            }
            self._send(302, b"", headers)
        else:
            self._send(200, file.data, {"ETag": f'"{file.hash}"', "X-Repo-Commit": repo.commit})

    def _repo(self, name: str, revision: str) -> Repo | None:
        repo = self.server_hub.repos.get(name)
        if repo is None:  # the real hub does not tell what is private from what is not there
            self._error(401, "RepoNotFound")
        elif revision not in ("main", repo.commit):
            self._error(404, "RevisionNotFound")
            return None
        return repo

    def _content(self, digest: str) -> None:
        hub = self.server_hub
        files = [(path, file) for repo in hub.repos.values() for path, file in repo.files.items()]
        data = next(file.data for _, file in files if file.hash == digest)
        if any(path == hub.faults.wrong and file.hash == digest for path, file in files):
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not hub.faults.no_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self._write(data[start:])

    def _write(self, data: bytes) -> None:
        faults = self.server_hub.faults
        end, faults.cut_after = faults.cut_after, None
        try:
            for at in range(0, len(data), PIECE):
                if end is not None and at + PIECE > end:
                    self.wfile.write(data[at:end])
                    self.close_connection = True
                    return
                self.wfile.write(data[at : at + PIECE])
                if faults.hold is not None:
                    faults.hold.wait(30)
        except ConnectionError:  # the client left
            self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        if status == 401 and not code:
            headers["X-Error-Message"] = "Invalid credentials in Authorization header"
        self._send(status, b'{"error": "no"}', headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(path: str, file: File, details: bool) -> dict[str, Any]:
    if not details:
        return {"rfilename": path}
    size = len(file.data)
    if not file.lfs:
        return {"rfilename": path, "size": size, "blobId": file.hash}
    pointer = hashlib.sha1(file.hash.encode()).hexdigest()
    return {
        "rfilename": path,
        "size": size,
        "blobId": pointer,
        "lfs": {"sha256": file.hash, "size": size, "pointerSize": 134},
    }
