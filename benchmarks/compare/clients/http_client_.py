"""A floor: the standard library's HTTP client on one connection, and one parse of what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

REQUIRES: list[str] = []
VERSION_OF = None
IMPORT = "import http.client, json"
FLOOR = True

BODY = {"model": "phi-4-mini", "max_tokens": 64, "temperature": 0}
HEADERS = {"Authorization": "Bearer sk-none", "Content-Type": "application/json"}


def sync_chat(base_url: str) -> tuple[Callable[[list[Any]], str], Callable[[], None]]:
    import json

    post, close = _poster(base_url)

    def ask(messages: list[Any]) -> str:
        return json.loads(post({**BODY, "messages": messages}).read())["choices"][0]["message"]["content"]

    return ask, close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[list[Any]], Iterator[str]], Callable[[], None]]:
    import json

    post, close = _poster(base_url)

    def ask(messages: list[Any]) -> Iterator[str]:
        response, rest = post({**BODY, "messages": messages, "stream": True}), b""
        while data := response.read1(65536):
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event == b"data: [DONE]":
                    continue
                choices = json.loads(event[6:])["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    yield text

    return ask, close


def sync_stream(base_url: str) -> tuple[Callable[[list[Any]], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def image_message(data: bytes) -> Any:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}


def _poster(base_url: str) -> tuple[Callable[[dict[str, Any]], Any], Callable[[], None]]:
    import json
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    parts = urlsplit(base_url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    path = f"{parts.path}/chat/completions"

    def post(body: dict[str, Any]) -> Any:
        connection.request("POST", path, json.dumps(body).encode(), HEADERS)
        return connection.getresponse()

    return post, connection.close
