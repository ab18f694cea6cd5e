"""A loopback server that speaks Ollama's API in front of a real llama.cpp server: answers are a real model's.

It is no Ollama. It says what ollama/ollama's `api/types.go` and `server/routes.go` (August 2026) and measurements of
0.33 say that one says; the official client for Python is its judge (`tests/test_ollama_driver.py`).
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast
from urllib.parse import urlsplit

from llama_server import LlamaServer

CREATED = "2026-11-23T12:00:00.000000Z"
LIBRARY = ("smollm2:135m", "phi3.5:latest", "phi4-mini:latest")
"""What can be pulled; it all answers by the same weights."""
LAYERS = (("sha256:aa", 1000), ("sha256:bb", 250))
MODEL_CONTEXT = 8192
_OPTIONS = {"num_predict": "max_tokens"}
_KNOWN = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "num_predict"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
    "ignore_eos",  # Ollama has no such thing: it makes long answers for tests
)


class OllamaServer:
    """Speaks Ollama's API on loopback.

    Args:
        behind: The server that answers.
        models: Names, with tags, of the models that are there, the last pulled first.
        api_key: What it asks for; None for no key.
    """

    def __init__(
        self, behind: LlamaServer, *, models: tuple[str, ...] = ("smollm2:latest",), api_key: str | None = None
    ) -> None:
        self.behind, self.models, self.api_key = behind, list(models), api_key
        self.loaded: dict[str, int] = {}
        """What is in memory: name to context."""
        self.bodies: list[tuple[str, Any]] = []
        """Paths and bodies of the requests that came."""
        self._server = _Listener(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="ollama-server", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: OllamaServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        self.status, self.error = status, error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> OllamaServer:
        return cast(_Listener, self.server).owner

    def do_GET(self) -> None:
        routes: dict[str, Any] = {
            "/api/version": lambda: {"version": "0.33.3"},
            "/api/tags": lambda: {"models": [self.listed(name) for name in self.owner.models]},
            "/api/ps": lambda: {
                "models": [{**self.listed(name), "size_vram": 0, "expires_at": CREATED, "context_length": context}
                           for name, context in self.owner.loaded.items()]
            },
        }  # fmt: skip
        self.answer(lambda: self.send_json(200, routes[self.path]()) if self.path in routes else self.nothing_there())

    def do_POST(self) -> None:
        routes = {"/api/chat": self.chat, "/api/show": self.show, "/api/pull": self.pull}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def routed() -> None:
            if self.path not in routes:
                self.nothing_there()
                return
            body = json.loads(content)
            self.owner.bodies.append((self.path, body))
            routes[self.path](body)

        self.answer(routed)

    def answer(self, work: Any) -> None:
        try:
            if self.owner.api_key and self.headers.get("Authorization") != f"Bearer {self.owner.api_key}":
                raise _Refused(401, "unauthorized")
            work()
        except _Refused as refused:
            self.send_json(refused.status, {"error": refused.error})
        except OSError:  # who asked has hung up
            self.close_connection = True

    # --- models

    def found(self, name: str) -> str:
        full = name if ":" in name else f"{name}:latest"
        if full not in self.owner.models:
            raise _Refused(404, f"model '{name}' not found")
        return full

    def listed(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"}
        common = {"name": name, "model": name, "size": 98362432, "digest": "0" * 64, "details": details}
        return {**common, "modified_at": CREATED, "capabilities": ["completion", "tools"]}

    def show(self, body: Any) -> None:
        self.found(body["model"])
        info = {"general.architecture": "llama", "llama.context_length": MODEL_CONTEXT}
        shown = {"details": {"family": "llama"}, "model_info": info, "capabilities": ["completion", "tools"]}
        self.send_json(200, {**shown, "modified_at": CREATED, "template": "{{ .Prompt }}"})

    def pull(self, body: Any) -> None:
        self.begin_lines()
        self.send_line({"status": "pulling manifest"})
        name = body["model"] if ":" in body["model"] else f"{body['model']}:latest"
        if name not in LIBRARY:
            self.send_line({"error": "pull model manifest: file does not exist"})
            self.end_lines()
            return
        for digest, total in LAYERS:
            for completed in (0, total // 2, total):
                counted = {"completed": completed} if completed else {}  # Go leaves out what is zero
                self.send_line({"status": f"pulling {digest[7:]}", "digest": digest, "total": total, **counted})
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            self.send_line({"status": status})
        self.end_lines()
        if name not in self.owner.models:
            self.owner.models.insert(0, name)

    # --- chat

    def chat(self, body: Any) -> None:
        name = self.found(body["model"])
        if body.get("think"):
            raise _Refused(400, f'"{body["model"]}" does not support thinking')
        context = int((body.get("options") or {}).get("num_ctx") or 4096)
        self.owner.loaded = {name: context}
        if not body.get("messages"):
            self.send_json(200, self.frame(body, done_reason="load"))
            return
        asked = translated(body)
        tokens = self.tokens(asked["messages"])
        if tokens > context and body.get("truncate") is False:
            said = f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
            inner = {"code": 400, "message": said, "type": "exceed_context_size_error", "n_prompt_tokens": tokens}
            raise _Refused(400, json.dumps({"error": {**inner, "n_ctx": context}}))
        with self.behind(asked) as chunks:
            if body.get("stream", True):
                self.begin_lines()
                for chunk in chunks:
                    self.send_line(self.frame(body, **chunk))
                self.end_lines()
            else:
                pieces = list(chunks)
                text = "".join(piece["content"] for piece in pieces)
                self.send_json(200, self.frame(body, **{**pieces[-1], "content": text}))

    def frame(self, body: Any, content: str = "", done_reason: str = "", **counts: int) -> dict[str, Any]:
        told = {"model": body["model"], "created_at": CREATED, "message": {"role": "assistant", "content": content}}
        end = {"done_reason": done_reason, "total_duration": 1, "load_duration": 1, **counts} if done_reason else {}
        return {**told, "done": bool(done_reason), **end}

    def tokens(self, messages: Any) -> int:
        prompt = self.ask("/apply-template", {"messages": messages})["prompt"]
        return len(self.ask("/tokenize", {"content": prompt, "add_special": True})["tokens"])

    def ask(self, path: str, body: Any) -> Any:
        connection, response = self.post(path, body)
        try:
            return json.loads(response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        server = self.owner.behind
        parts = urlsplit(server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.api_key}"}
        connection.request("POST", server.api_prefix + path, json.dumps(body), headers)
        return connection, connection.getresponse()

    def behind(self, asked: Any) -> _Chunks:
        return _Chunks(self, asked)

    # --- HTTP

    def nothing_there(self) -> None:
        self.send_whole(404, b"404 page not found", "text/plain")

    def send_json(self, status: int, body: Any) -> None:
        self.send_whole(status, json.dumps(body).encode(), "application/json; charset=utf-8")

    def send_whole(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def begin_lines(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_line(self, line: Any) -> None:
        content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def end_lines(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Chunks:
    """The answer of the server behind, in pieces; a client that hangs up ends it there too, wherever it is."""

    def __init__(self, handler: _Handler, asked: Any) -> None:
        self._handler, self._asked = handler, asked
        self._over = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Iterator[dict[str, Any]]:
        parts = urlsplit(self._handler.owner.behind.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._connection.connect()
        threading.Thread(target=self._watch, args=(self._connection.sock,), daemon=True).start()
        return self._read()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._connection is not None:
            self._connection.close()

    def _watch(self, far: socket.socket) -> None:
        """Shut the connection to the server behind when the client hangs up."""
        near = self._handler.connection
        with suppress(OSError, ValueError):  # one of them is closed: it is over
            while not self._over.is_set():
                if select.select([near], [], [], 0.02)[0] and not near.recv(1, socket.MSG_PEEK):
                    far.shutdown(socket.SHUT_RDWR)
                    return

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self._connection is not None
        server = self._handler.owner.behind
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.api_key}"}
        try:
            self._connection.request(
                "POST", f"{server.api_prefix}/v1/chat/completions", json.dumps(self._asked), headers
            )
            response = self._connection.getresponse()
            if response.status != 200:
                raise _Refused(500, response.read().decode())
            yield from _pieces(response)
        except http.client.HTTPException as error:
            raise OSError("the connection was shut") from error


def _pieces(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the pieces of text, and at the end the reason and the counts."""
    reason, usage = "stop", {"prompt_tokens": 0, "completion_tokens": 0}
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            reason = choice.get("finish_reason") or reason
            if text := choice["delta"].get("content"):
                yield {"content": text}
    counts = {"prompt_eval_count": usage["prompt_tokens"], "eval_count": usage["completion_tokens"]}
    yield {"content": "", "done_reason": "length" if reason == "length" else "stop", **counts}


def translated(body: Any) -> dict[str, Any]:
    """Return a body of `/api/chat` as the chat-completions wire has it."""
    options = {"temperature": 0.8, **(body.get("options") or {})}
    asked: dict[str, Any] = {
        "messages": [_message(message) for message in body["messages"]],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{_OPTIONS.get(name, name): value for name, value in options.items() if name in _KNOWN},
    }
    shape = body.get("format")
    if shape == "json":
        asked["response_format"] = {"type": "json_object"}
    elif shape:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
    if body.get("tools"):
        asked["tools"] = body["tools"]
    return asked


def _message(message: Any) -> dict[str, Any]:
    shaped = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("images"):
        pictures = [f"data:image/png;base64,{image}" for image in message["images"]]
        parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        shaped["content"] = [{"type": "text", "text": shaped["content"]}, *parts]
    if message.get("tool_calls"):
        shaped["tool_calls"] = [
            {"id": call.get("id") or str(number), "type": "function",
             "function": {"name": call["function"]["name"], "arguments": json.dumps(call["function"]["arguments"])}}
            for number, call in enumerate(message["tool_calls"])
        ]  # fmt: skip
    return shaped
