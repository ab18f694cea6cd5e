"""A loopback server with canned answers: what a client costs shall not drown in what a server costs.

    python compare/server.py [--cpu N]

It prints its port, and answers until its stdin ends. The first part of a path names the answer; whether it is streamed
says the body. Bodies are skimmed, never parsed; answers are bytes made once. `GET /stats` tells what it has seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from functools import cache

WORDS = "The capital of Japan is Tokyo, a city on Honshu, and has been that since the year 1868, they say."
"""The answer of `short`."""
BLOCK = 20  # chunks in one piece of a body
PACE = 0.001  # seconds between the chunks of an `alone` stream: each comes by itself, as a model's do
KEPT = 4096  # bytes: as much of each end of a body as is looked at

_ID = {"id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "created": 1764000000, "model": "phi-4-mini"}
_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 23,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_STREAM = re.compile(rb'"stream": ?true')


def words(number: int) -> list[str]:
    """Return what the chunks of a stream say."""
    return [f" word{index % 10}" for index in range(number)]


@cache
def plain(ollama: bool) -> bytes:
    """Return a whole response that is not streamed."""
    if ollama:
        body = json.dumps({**_ollama(WORDS), "done": True, "done_reason": "stop", **_OLLAMA_USAGE})
    else:
        message = {"role": "assistant", "content": WORDS, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        more = {"usage": _USAGE, "service_tier": "default", "system_fingerprint": "fp_06737a9306"}
        body = json.dumps({**_ID, "object": "chat.completion", "choices": [choice], **more})
    return whole(200, body.encode())


def whole(status: int, body: bytes) -> bytes:
    """Return a response with a body of that length."""
    head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\nContent-Type: application/json\r\n"
    return f"{head}x-request-id: req_b9mbs8cj\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


_OLLAMA_USAGE = {
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 19,
    "prompt_eval_duration": 342546000,
    "eval_count": 23,
    "eval_duration": 4535599000,
}


def _ollama(content: str) -> dict[str, object]:
    message = {"role": "assistant", "content": content}
    return {"model": "phi-4-mini", "created_at": "2025-11-24T16:00:00.123456789Z", "message": message}


def _event(choices: list[dict[str, object]], usage: object = None) -> bytes:
    more = {"system_fingerprint": "fp_06737a9306", "choices": choices, "usage": usage}
    event = {**_ID, "object": "chat.completion.chunk", **more}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


@cache
def frames(number: int, ollama: bool) -> list[bytes]:
    """Return what a stream of so many words consists of: events, or lines of NDJSON."""
    if ollama:
        last = {**_ollama(""), "done": True, "done_reason": "stop", **_OLLAMA_USAGE}
        lines = [*({**_ollama(word), "done": False} for word in words(number)), last]
        return [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]
    said = [_delta({"content": word}) for word in words(number)]
    end = [_delta({}, "stop"), _event([], _USAGE), b"data: [DONE]\n\n"]
    return [_delta({"role": "assistant", "content": ""}), *said, *end]


def piece(data: bytes) -> bytes:
    """Return data as one piece of a body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def stream_head(ollama: bool) -> bytes:
    kind = "application/x-ndjson" if ollama else "text/event-stream; charset=utf-8"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nx-request-id: req_b9mbs8cj\r\n"
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()


@cache
def streamed(number: int, ollama: bool) -> bytes:
    """Return a whole streamed response, some chunks in each piece."""
    every = frames(number, ollama)
    blocks = [piece(b"".join(every[start : start + BLOCK])) for start in range(0, len(every), BLOCK)]
    return b"".join([stream_head(ollama), *blocks, piece(b"")])


class Stats:
    """What the server has seen."""

    connections = 0
    requests = 0
    sent = 0
    """Bytes of bodies that clients sent."""


class Connection(asyncio.Protocol):
    """One client's connection: a request at a time."""

    def __init__(self) -> None:
        self.head = b""  # of the request, with its end, once that is there
        self.held = bytearray()
        self.path = b""
        self.left = 0  # bytes of the body that have not come; -1: it comes in pieces
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        Stats.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        held = self.held
        held += data
        if not self.path:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(held[: end + 2])
            del held[: end + 4]
            self.path = head.split(b" ", 2)[1]
            length = _LENGTH.search(head)
            self.left = int(length[1]) if length else -1 if _CHUNKED.search(head) else 0
            self.left -= len(held) if self.left > 0 else 0
            Stats.sent += len(held)
        else:
            self.left -= len(data) if self.left > 0 else 0
            Stats.sent += len(data)
        if self.left > 0:
            if len(held) > 16 * KEPT:  # pictures: both ends are enough
                del held[KEPT:-KEPT]
            return
        if self.left < 0 and not held.endswith(b"0\r\n\r\n"):
            return
        self.answer()

    def answer(self) -> None:
        path, streams = self.path.partition(b"?")[0], _STREAM.search(self.held)
        self.held.clear()
        self.path = b""
        if path == b"/stats":
            seen = {"connections": Stats.connections, "requests": Stats.requests, "sent": Stats.sent}
            self.transport.write(whole(200, json.dumps({**seen, "cpu": _cpu()}).encode()))
            return
        Stats.requests += 1
        ollama = path.endswith(b"/api/chat")
        if not ollama and not path.endswith(b"/chat/completions"):
            self.transport.write(whole(404, b'{"error": {"message": "nothing is here", "code": "not_found"}}'))
        elif not streams:
            self.transport.write(plain(ollama))
        else:
            self.stream(path.split(b"/", 2)[1].decode(), ollama)

    def stream(self, name: str, ollama: bool) -> None:
        if name == "slow":
            first = b"".join(frames(1, ollama)[:1] if ollama else frames(1, ollama)[:2])
            self.transport.write(stream_head(ollama) + piece(first))
        elif name.startswith("alone"):
            task = asyncio.get_running_loop().create_task(self.paced(int(name[5:]), ollama))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.transport.write(streamed(int(name[1:]), ollama))

    async def paced(self, number: int, ollama: bool) -> None:
        every = frames(number, ollama)
        self.transport.write(stream_head(ollama) + piece(every[0]) + piece(every[1]))  # the first says nothing yet
        for frame in every[2:-1]:
            await asyncio.sleep(PACE)
            self.transport.write(piece(frame))
        self.transport.write(piece(every[-1]) + piece(b""))


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until the benchmark goes
    server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cpu"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[2])})
    asyncio.run(serve())
