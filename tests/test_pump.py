"""The pumps and their connections, seen from the server's side: reuse, cancelling, deadlines, proxies, TLS, closing."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from slmclient import AsyncPhiClient, PhiClient
from slmclient.drivers import lines, steps, transport
from slmclient.drivers.wire import framing
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    ContextLengthExceededError,
    InternalServerError,
    ResponseFormatError,
    SLMError,
    StreamInterruptedError,
)
from slmclient.reply import Reply

SOON = 2.0  # seconds in which something that must happen at once has happened, on the slowest machine

# A throw-away certificate for localhost, model.invalid and 127.0.0.1, good until 2124, and its key. Nothing trusts it.
CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBvTCCAWKgAwIBAgIUJyhaieGrtSCT1rj7R7LowA+uV2EwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPc2xtY2xpZW50IHRlc3RzMCAXDTI0MDEwMTAwMDAwMFoYDzIx
MjQwMTAxMDAwMDAwWjAaMRgwFgYDVQQDDA9zbG1jbGllbnQgdGVzdHMwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAARdRT1/m0hh9r7PjUFtiMFB6zTWG0G8DkgjFC31
UPVXGfLmt6u7aTr75H3ym/jWPG7lxqlj7F4pFnMSf66PzSoso4GDMIGAMCkGA1Ud
EQQiMCCCCWxvY2FsaG9zdIINbW9kZWwuaW52YWxpZIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MA4GA1UdDwEB/wQEAwIChDATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNV
HQ4EFgQUjfZf5/N5pC8g0cgkpAHvq5mo1W4wCgYIKoZIzj0EAwIDSQAwRgIhAIta
f/qziBpPo6nA38SKcu/i+8LsgLPKlYa4fAXaBx8LAiEA4sHn9ZWrW3NLhfWZWYr4
rZjgSDPEvYWSYoi4ivhx94E=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzc7ZXWdY/lcatJyd
W9/tOcWyEm6daC+GhHTVvbn+BqWhRANCAARdRT1/m0hh9r7PjUFtiMFB6zTWG0G8
DkgjFC31UPVXGfLmt6u7aTr75H3ym/jWPG7lxqlj7F4pFnMSf66PzSos
-----END PRIVATE KEY-----
"""


# --- a server that notes what becomes of its connections


class Peer:
    """One connection, on the server's side."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.requests: list[str] = []
        """First lines and headers of what came."""
        self.bodies: list[Any] = []
        self.ended = threading.Event()
        """Set when the client has closed it."""
        self._buffer = b""

    def request(self) -> bool:
        """Wait for the next request; return False at the connection's end."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            self.ended.set()
            return False
        text = head.decode("latin-1")
        length = next((int(line[15:]) for line in text.lower().split("\r\n") if line[:15] == "content-length:"), 0)
        while len(self._buffer) < length and (piece := self._receive()):
            self._buffer += piece
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        self.bodies.append(json.loads(body) if body else None)
        self.requests.append(text)
        return True

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            piece = self._receive()
            if not piece:
                return None
            self._buffer += piece
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _receive(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except OSError:
            return b""

    def send(self, data: str | bytes) -> None:
        self.connection.sendall(data if isinstance(data, bytes) else data.encode())

    def wait_for_end(self, seconds: float = SOON) -> None:
        """Wait until the client closes the connection, unless it sends something."""
        self.connection.settimeout(seconds)
        try:
            if self.connection.recv(65536):
                return
        except TimeoutError:
            return
        except OSError:  # a reset is an end too
            pass
        self.ended.set()


class Server:
    """Serves every connection by one function, each on a thread of its own."""

    def __init__(self, serve: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        self.peers: list[Peer] = []
        self.over = threading.Event()
        """Set when the test is over."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            with suppress(OSError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self.peers.append(peer := Peer(connection))
                self._serve(peer)
            with suppress(OSError):
                connection.close()

    @property
    def requests(self) -> list[str]:
        return [request for peer in self.peers for request in peer.requests]

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):  # closing alone leaves the thread in accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(serve: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(serve, tls)
    try:
        yield server
    finally:
        server.close()


def whole(body: Any, status: int = 200, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content_Type": "application/json", "Content_Length": str(len(content)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + content


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


STREAM = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def piece(text: str | None) -> bytes:
    """Return one stream chunk; None is the end that the protocol says."""
    done = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    frame = done if text is None else f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"
    return framed(frame.encode())


def framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer(peer: Peer) -> None:
    """Answer every request with its own prompt, streamed or whole as it asks."""
    while peer.request():
        body = peer.bodies[-1]
        text = body["messages"][-1]["content"]
        if body.get("stream"):
            peer.send(STREAM + b"".join(piece(letter) for letter in text) + piece(None) + STREAM_END)
        else:
            peer.send(whole(said(text)))


def half(peer: Peer) -> None:
    """Begin to stream, and wait until the client goes away."""
    peer.request()
    peer.send(STREAM + piece("one") + piece("two"))
    peer.wait_for_end(10)


def silent(peer: Peer) -> None:
    """Take a request and say nothing."""
    peer.request()
    peer.wait_for_end(10)


# --- the two ways to call


class Way:
    """Calls a client from a thread, or from asyncio: each test is run both ways."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self._runner: asyncio.Runner | None = None

    def client(self, url: str, **options: Any) -> Client:
        settings = {"model": "m", "env_file": False, "max_retries": 0, **options}
        if not self.asynchronous:
            return Client(PhiClient("openai", base_url=url, **settings))
        self._runner = self._runner or asyncio.Runner()
        return AsyncClient(AsyncPhiClient("openai", base_url=url, **settings), self._runner)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


class Client:
    """A client whose methods wait."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def chat(self, prompt: str = "Hi", **options: Any) -> Reply:
        reply: Reply = self.inner.chat(prompt, **options)
        return reply

    def stream(self, prompt: str = "Hi", **options: Any) -> Stream:
        return Stream(self.inner.stream(prompt, **options))

    def close(self) -> None:
        self.inner.close()


class Stream:
    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._texts = iter(inner)

    def next(self) -> str | None:
        return next(self._texts, None)

    def rest(self) -> list[str]:
        return list(iter(self.next, None))

    def close(self) -> None:
        self.inner.close()


class AsyncClient(Client):
    def __init__(self, inner: AsyncPhiClient, runner: asyncio.Runner) -> None:
        super().__init__(inner)
        self.run = runner.run

    def chat(self, prompt: str = "Hi", **options: Any) -> Reply:
        return self.run(self.inner.chat(prompt, **options))

    def stream(self, prompt: str = "Hi", **options: Any) -> Stream:
        return AsyncStream(self.inner.stream(prompt, **options), self.run)

    def close(self) -> None:
        self.run(self.inner.aclose())


class AsyncStream(Stream):
    def __init__(self, inner: Any, run: Any) -> None:
        self.inner = inner
        self._run = run
        self._texts: Any = aiter(inner)

    def next(self) -> str | None:
        async def step() -> str | None:
            return await anext(self._texts, None)

        text: str | None = self._run(step())
        return text

    def close(self) -> None:
        self._run(self.inner.aclose())


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.close()


def until(condition: Callable[[], object], seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def at_once(seconds: float = SOON) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextmanager
def later(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, action)
    timer.start()
    yield
    timer.join()


# --- connections are kept and given back


def test_calls_one_after_another_share_a_connection(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        assert [client.chat("a").text, client.chat("b").text] == ["a", "b"]
        assert client.stream("cd").rest() == ["c", "d"]
        assert client.chat("e").text == "e"
        client.close()
        assert [len(peer.requests) for peer in server.peers] == [4]


def test_an_answer_with_an_error_gives_its_connection_back_too(way: Way) -> None:
    def serve(peer: Peer) -> None:
        while peer.request():
            peer.send(whole({"error": {"message": "busy"}}, 503))

    with serving(serve) as server:
        client = way.client(server.url)
        for _ in range(2):
            with pytest.raises(InternalServerError):
                client.chat()
        client.close()
        assert [len(peer.requests) for peer in server.peers] == [2]


def test_an_idle_connection_that_the_server_closed_is_replaced(way: Way) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(whole(said("once")))

    with serving(serve) as server:
        client = way.client(server.url)
        for _ in range(3):
            assert client.chat().text == "once"
            assert until(lambda: server.peers[-1].connection.fileno() == -1)
        assert [len(peer.requests) for peer in server.peers] == [1, 1, 1]
        client.close()


def test_a_short_body_goes_out_with_its_head(way: Way) -> None:
    """In one packet: what was written at once is there at the first read of the other side."""
    heard: list[bytes] = []

    def serve(peer: Peer) -> None:
        for number in range(2):
            heard.append(peer.connection.recv(65_536))
            peer.send(whole(said(str(number))))

    with serving(serve) as server:
        client = way.client(server.url)
        assert [client.chat("fox").text, client.chat("fox").text] == ["0", "1"]
        client.close()
    assert [b"fox" in piece and piece.startswith(b"POST") for piece in heard] == [True, True]


def test_a_connection_that_was_idle_for_long_is_not_trusted(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between may have forgotten it, and tell nobody."""
    monkeypatch.setattr(lines, "_KEPT_ALIVE", 0.1)
    with serving(answer) as server:
        client = way.client(server.url)
        for _ in range(2):
            client.chat()
            time.sleep(0.2)
        client.close()
        assert [len(peer.requests) for peer in server.peers] == [1, 1]


def test_a_connection_that_the_server_will_not_keep_is_closed_at_once(way: Way) -> None:
    """Whoever said ``Connection: close`` waits for the client's end of it."""

    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(whole(said("once"), Connection="close"))
        peer.wait_for_end(10)

    with serving(serve) as server:
        client = way.client(server.url)
        for number in range(2):
            assert client.chat().text == "once"
            assert server.peers[number].ended.wait(SOON)
        client.close()


def test_a_second_call_works_while_a_stream_is_half_read(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        stream = client.stream("abc")
        assert stream.next() == "a"
        assert client.chat("x").text == "x"
        other = client.stream("yz")
        assert other.next() == "y"
        assert stream.rest() == ["b", "c"]
        assert other.rest() == ["z"]
        client.close()


def test_idle_connections_are_closed_with_the_client(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        stream = client.stream("abc")
        stream.next()
        client.chat("x")
        stream.rest()
        assert len(server.peers) == 2
        client.close()
        assert until(lambda: all(peer.ended.is_set() for peer in server.peers))


def test_a_server_that_lingers_after_its_last_word_holds_up_nobody(way: Way) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM + piece("one") + piece(None))  # and no end of the body
        peer.wait_for_end(10)

    with serving(serve) as server, at_once():
        client = way.client(server.url)
        assert client.stream().rest() == ["one"]
        assert server.peers[0].ended.wait(SOON), "and its connection is not kept"
        client.close()


def test_many_threads_share_a_client() -> None:
    with serving(answer) as server, PhiClient("openai", "m", base_url=server.url, env_file=False) as client:
        prompts = [f"prompt {number}" for number in range(100)]
        with ThreadPoolExecutor(20) as pool:
            whole_texts = list(pool.map(lambda prompt: client.chat(prompt).text, prompts))
            streamed = list(pool.map(lambda prompt: "".join(client.stream(prompt)), prompts))
        assert whole_texts == streamed == prompts
        assert len(server.peers) <= 20 * 2


def test_many_tasks_share_a_client() -> None:
    async def streamed(client: AsyncPhiClient, prompt: str) -> str:
        async with client.stream(prompt) as stream:
            return "".join([text async for text in stream])

    async def main(url: str) -> None:
        prompts = [f"prompt {number}" for number in range(50)]
        async with AsyncPhiClient("openai", "m", base_url=url, env_file=False) as client:
            replies = await asyncio.gather(*(client.chat(prompt) for prompt in prompts))
            assert [reply.text for reply in replies] == prompts
            assert await asyncio.gather(*(streamed(client, prompt) for prompt in prompts)) == prompts

    with serving(answer) as server:
        asyncio.run(main(server.url))


def test_an_async_client_works_in_one_event_loop_after_another() -> None:
    with serving(answer) as server:
        client = AsyncPhiClient("openai", "m", base_url=server.url, env_file=False)
        for prompt in ("a", "b"):

            async def main(prompt: str = prompt) -> tuple[str, str]:
                return (await client.chat(prompt)).text, (await client.chat(prompt + prompt)).text

            assert asyncio.run(main()) == (prompt, prompt * 2)
        assert [len(peer.requests) for peer in server.peers] == [2, 2]
        asyncio.run(client.aclose())


def test_an_async_client_works_in_two_event_loops_at_once() -> None:
    with serving(answer) as server:
        client = AsyncPhiClient("openai", "m", base_url=server.url, env_file=False)
        with ThreadPoolExecutor(2) as pool:

            async def main(prompt: str) -> list[str]:
                return [(await client.chat(prompt)).text for _ in range(10)]

            texts = list(pool.map(lambda prompt: asyncio.run(main(prompt)), ["a", "b"]))
        assert texts == [["a"] * 10, ["b"] * 10]
        asyncio.run(client.aclose())


# --- closing


def test_two_clients_close_each_for_itself(way: Way) -> None:
    with serving(answer) as server:
        first, second = way.client(server.url), way.client(server.url)
        first.chat()
        second.chat()
        first.close()
        first.close()
        assert until(server.peers[0].ended.is_set)
        assert second.chat("still").text == "still"
        assert not server.peers[1].ended.is_set()
        second.close()
        assert until(server.peers[1].ended.is_set)


def test_a_call_after_close_is_refused(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        client.chat()
        client.close()
        with pytest.raises(ConfigurationError, match="closed"):
            client.chat()
        with pytest.raises(ConfigurationError, match="closed"):
            client.stream().rest()
        assert len(server.requests) == 1


def test_a_client_that_is_closed_during_an_answer_lets_it_end_and_keeps_nothing(way: Way) -> None:
    gate = threading.Event()

    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM + piece("one"))
        gate.wait(SOON)
        peer.send(piece("two") + piece(None) + STREAM_END)
        peer.wait_for_end()

    with serving(serve) as server:
        client = way.client(server.url)
        stream = client.stream()
        assert stream.next() == "one"
        client.close()
        gate.set()
        assert stream.rest() == ["two"]
        assert server.peers[0].ended.wait(SOON)


# --- leaving and cancelling


def test_a_stream_left_midway_closes_its_connection(way: Way) -> None:
    with serving(half) as server:
        client = way.client(server.url)
        stream = client.stream()
        assert stream.next() == "one"
        assert not server.peers[0].ended.is_set()
        stream.close()
        assert server.peers[0].ended.wait(1.0)
        assert stream.inner.reply.finish_reason == "cancelled"
        assert stream.inner.reply.text == "one"
        client.close()


def test_a_stream_that_was_not_begun_opens_nothing(way: Way) -> None:
    with serving(half) as server:
        client = way.client(server.url)
        client.stream().close()
        client.close()
        assert server.peers == []


def test_a_stream_is_cancelled_midway_from_another_thread(way: Way) -> None:
    with serving(half) as server:
        client = way.client(server.url)
        stream = client.stream()
        assert stream.next() == "one"
        with later(0.2, stream.inner.cancel), at_once():
            rest = stream.rest()
        assert rest in ([], ["two"])
        assert server.peers[0].ended.wait(1.0)
        assert stream.inner.reply.finish_reason == "cancelled"
        assert stream.inner.reply.text == "one" + "".join(rest)
        client.close()


def test_a_call_is_cancelled_while_the_server_is_silent(way: Way) -> None:
    with serving(silent) as server:
        client = way.client(server.url)
        stream = client.stream()
        with later(0.2, stream.inner.cancel), at_once():
            assert stream.rest() == []
        assert server.peers[0].ended.wait(1.0)
        assert stream.inner.reply.finish_reason == "cancelled"
        client.close()


def test_a_call_is_cancelled_during_the_tls_handshake(way: Way) -> None:
    def serve(peer: Peer) -> None:
        while peer.connection.recv(4096):  # the client's hello, and no answer to it
            pass

    with serving(serve) as server:
        client = way.client(f"https://127.0.0.1:{server.port}/v1")
        stream = client.stream()
        with later(0.2, stream.inner.cancel), at_once():
            assert stream.rest() == []
        assert stream.inner.reply.finish_reason == "cancelled"
        client.close()


@contextmanager
def unreachable() -> Iterator[str]:
    """The URL of a server whose queue is full: connecting to it takes for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queue = [socket.socket() for _ in range(8)]
        for each in queue:
            each.settimeout(0.05)
            with suppress(OSError):
                each.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        for each in queue:
            each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a queue that is full, as Linux has it")
def test_a_call_is_cancelled_while_connecting(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call that connects cannot be interrupted: it ends by its own short timeout."""
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT", 0.8)
    with unreachable() as url:
        client = way.client(url)
        stream = client.stream()
        with later(0.2, stream.inner.cancel), at_once(0.8 + SOON):
            assert stream.rest() == []
        assert stream.inner.reply.finish_reason == "cancelled"
        client.close()


def test_a_call_that_is_cancelled_before_it_begins_opens_nothing(way: Way) -> None:
    with serving(half) as server:
        client = way.client(server.url)
        stream = client.stream()
        stream.inner.cancel()
        assert stream.rest() == []
        assert stream.inner.reply.finish_reason == "cancelled"
        assert server.requests == []
        client.close()


def test_a_cancelled_calls_connection_is_not_used_again(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        stream = client.stream("abc")
        stream.next()
        stream.inner.cancel()
        stream.rest()
        assert client.chat("x").text == "x"
        assert [len(peer.requests) for peer in server.peers] == [1, 1]
        client.close()


def test_cancelling_after_the_end_changes_nothing(way: Way) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        stream = client.stream("abc")
        stream.rest()
        stream.inner.cancel()
        assert stream.inner.reply.finish_reason == "stop"
        assert client.chat("x").text == "x"
        client.close()


def test_a_cancelled_task_frees_its_connection() -> None:
    async def main(server: Server) -> None:
        async with AsyncPhiClient("openai", "m", base_url=server.url, env_file=False) as client:
            task = asyncio.create_task(client.chat("Hi"))
            assert await asyncio.to_thread(until, lambda: server.requests)
            task.cancel()
            with at_once(), pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.peers[0].ended.wait, 1.0)

    with serving(silent) as server:
        asyncio.run(main(server))


def test_a_generator_that_is_dropped_frees_its_connection() -> None:
    async def main(server: Server) -> None:
        async with AsyncPhiClient("openai", "m", base_url=server.url, env_file=False) as client:
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    break
            assert await asyncio.to_thread(server.peers[0].ended.wait, 1.0)

    with serving(half) as server:
        asyncio.run(main(server))
        with PhiClient("openai", "m", base_url=server.url, env_file=False) as client:
            for _ in client.stream("Hi"):
                break
            assert server.peers[1].ended.wait(1.0)


# --- timeout and deadline


def test_a_silent_server_ends_by_timeout(way: Way) -> None:
    with serving(silent) as server:
        client = way.client(server.url)
        with at_once(), pytest.raises(APITimeoutError, match=r"silent for timeout=0\.3 s"):
            client.chat(timeout=0.3, deadline=30)
        assert server.peers[0].ended.wait(1.0)
        client.close()


def test_a_server_that_is_silent_longer_than_the_deadline_ends_by_it(way: Way) -> None:
    with serving(silent) as server:
        client = way.client(server.url)
        with at_once(), pytest.raises(APITimeoutError, match="deadline="):
            client.chat(timeout=30, deadline=0.3)
        client.close()


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"", b"x"),
        (b"HTTP/1.1 200 X\r\nX: ", b"x"),
        (b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n", b" "),
        (b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n", b" "),
        (STREAM, framed(b": keep-alive\n\n")),
        (STREAM, framed(b'data: {"choices": []}\n\n')),
        (STREAM, piece("x")),
    ],
    ids=["status line", "headers", "body", "error body", "comments", "empty chunks", "text"],
)
def test_a_server_that_drips_is_never_silent_and_ends_by_the_deadline(way: Way, head: bytes, drop: bytes) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(head)
        for _ in range(200):
            peer.send(drop)
            time.sleep(0.05)

    with serving(serve) as server:
        client = way.client(server.url)
        with at_once(0.6 + SOON), pytest.raises(APITimeoutError, match="deadline="):
            client.stream(timeout=0.4, deadline=0.6).rest()
        client.close()


def test_a_stream_that_stops_ends_by_timeout_and_keeps_what_had_come(way: Way) -> None:
    with serving(half) as server:
        client = way.client(server.url)
        with at_once(), pytest.raises(StreamInterruptedError, match=r"timeout=0\.3 s") as caught:
            client.stream(timeout=0.3).rest()
        assert caught.value.partial is not None
        assert caught.value.partial.text == "onetwo"
        assert server.peers[0].ended.wait(1.0)
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a queue that is full, as Linux has it")
@pytest.mark.parametrize(("seconds", "match"), [({"deadline": 0.4}, "deadline="), ({"timeout": 0.4}, r"within 0\.4 s")])
def test_a_server_that_accepts_nobody_ends_by_the_shorter_limit(way: Way, seconds: Any, match: str) -> None:
    with unreachable() as url:
        client = way.client(url)
        with at_once(), pytest.raises(APITimeoutError, match=match):
            client.chat(**seconds)
        client.close()


def test_a_server_that_reads_slowly_ends_by_the_deadline(way: Way) -> None:
    def serve(peer: Peer) -> None:
        for _ in range(300):
            if not peer.connection.recv(16384):
                return
            time.sleep(0.02)

    with serving(serve) as server:
        client = way.client(server.url)
        with at_once(0.6 + SOON), pytest.raises(APITimeoutError, match="deadline="):
            client.chat("x" * 30_000_000, timeout=5, deadline=0.6)
        client.close()


# --- broken answers


def test_a_refused_connection_says_so(way: Way) -> None:
    with socket.socket() as taken:  # so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        client = way.client(f"http://127.0.0.1:{port}/v1")
        with pytest.raises(APIConnectionError, match=f"127.0.0.1:{port}.*Is the server running") as caught:
            client.chat()
    assert caught.value.retryable
    client.close()


def test_a_name_that_does_not_exist_says_so(way: Way) -> None:
    client = way.client("https://model.invalid/v1")
    with pytest.raises(APIConnectionError, match=r"model\.invalid"):
        client.chat()
    client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 X\r\n",
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        STREAM,
        STREAM + framed(b": hello\n\n"),
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    ids=["nothing", "half a head", "half a body", "no chunk", "no text", "another protocol", "TLS"],
)
def test_an_answer_that_breaks_off_before_any_text_may_be_tried_again(way: Way, sent: bytes) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(sent)

    with serving(serve) as server:
        client = way.client(server.url)
        with pytest.raises(APIConnectionError) as caught:
            client.stream().rest()
        assert caught.value.retryable
        assert "\n" not in str(caught.value)
        assert len(server.requests) == 1
        client.close()


@pytest.mark.parametrize("end", [b"", STREAM_END], ids=["cut", "ended"])
def test_an_answer_that_breaks_off_after_text_is_interrupted(way: Way, end: bytes) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM + piece("one") + end)

    with serving(serve) as server:
        client = way.client(server.url, max_retries=3)
        stream = client.stream()
        assert stream.next() == "one"
        with pytest.raises(StreamInterruptedError) as caught:
            stream.rest()
        assert not caught.value.retryable
        assert caught.value.partial is not None
        assert caught.value.partial.text == "one"
        assert len(server.requests) == 1
        client.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(way: Way, status: int) -> None:
    with serving(answer) as elsewhere:

        def serve(peer: Peer) -> None:
            peer.request()
            peer.send(whole(b"", status, Location=elsewhere.url + "/chat/completions"))

        with serving(serve) as server:
            client = way.client(server.url, api_key="k" * 20)
            with pytest.raises(ResponseFormatError, match="base_url"):
                client.chat()
            client.close()
        assert elsewhere.peers == []


def test_a_body_that_is_too_large_is_not_read_to_its_end(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_BODY", 100_000)
    sent: list[int] = []

    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(whole(b"", Content_Length=str(10**12)))
        with suppress(OSError):
            while True:
                peer.send(b" " * 10_000)
                sent.append(10_000)
        peer.ended.set()

    with serving(serve) as server, at_once(5.0):
        client = way.client(server.url)
        with pytest.raises(ResponseFormatError, match="100,000 bytes"):
            client.chat()
        assert server.peers[0].ended.wait(SOON)
        client.close()
    assert sum(sent) < 50_000_000  # what the systems' buffers take


def test_an_event_that_is_too_large_is_not_read_to_its_end(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME", 100_000)

    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM + framed(b"data: "))
        with suppress(OSError):
            while True:
                peer.send(framed(b"x" * 10_000))
        peer.ended.set()

    with serving(serve) as server, at_once(5.0):
        client = way.client(server.url)
        with pytest.raises(ResponseFormatError, match="100,000 bytes"):
            client.stream().rest()
        assert server.peers[0].ended.wait(SOON)
        client.close()


def test_a_compressed_error_is_read_although_none_was_asked_for(way: Way) -> None:
    body = gzip.compress(json.dumps({"error": {"code": "context_length_exceeded", "message": "Too long."}}).encode())

    def serve(peer: Peer) -> None:
        while peer.request():
            peer.send(whole(body, 400, Content_Encoding="gzip"))

    with serving(serve) as server:
        client = way.client(server.url)
        with pytest.raises(ContextLengthExceededError, match=r"Too long\."):
            client.chat()
        assert "accept-encoding: identity" in server.requests[0].lower()
        client.close()


def test_a_body_that_is_badly_compressed_is_a_bad_answer(way: Way) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(whole(b"no gzip at all", Content_Encoding="gzip"))

    with serving(serve) as server:
        client = way.client(server.url)
        with pytest.raises(ResponseFormatError, match="broken body"):
            client.chat()
        client.close()


# --- proxies


def refuse(peer: Peer) -> None:
    """A proxy that goes nowhere."""
    while peer.request():
        peer.send(whole({"error": {"message": "from the proxy"}}, 502))


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_traffic_is_not_seen_by_a_proxy_of_the_environment(
    way: Way, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(refuse) as proxy, serving(answer) as server:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        client = way.client(f"http://{host}:{server.port}/v1")
        assert client.chat("direct").text == "direct"
        client.close()
        given = way.client(f"http://{host}:{server.port}/v1", proxy=f"http://127.0.0.1:{proxy.port}")
        assert given.chat("direct").text == "direct"
        given.close()
        assert proxy.peers == []


@pytest.mark.parametrize("by", ["keyword", "environment"])
def test_other_traffic_goes_through_the_proxy(way: Way, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answer) as proxy:
        address = f"http://user:pass@127.0.0.1:{proxy.port}"
        options: dict[str, Any] = {"insecure_http": True}
        if by == "keyword":
            options["proxy"] = address
        else:
            monkeypatch.setenv("HTTP_PROXY", address)
        client = way.client("http://model.invalid/v1", **options)
        assert client.chat("through").text == "through"
        client.close()
        assert proxy.requests[0].startswith("POST http://model.invalid/v1/chat/completions HTTP/1.1")
        assert "proxy-authorization: basic dxnlcjpwyxnz" in proxy.requests[0].lower()


def once(then: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Return the service of a proxy that closes its first connection after an answer; what it does with the others."""
    begun: list[Peer] = []

    def serve(peer: Peer) -> None:
        begun.append(peer)
        if len(begun) > 1:
            then(peer)
        elif peer.request():
            peer.send(whole(said("once")))

    return serve


def test_a_deadline_holds_on_the_second_connection_to_a_proxy(way: Way) -> None:
    def drip(peer: Peer) -> None:
        peer.request()
        for byte in whole(said("slow")):
            peer.send(bytes([byte]))
            time.sleep(0.05)

    with serving(once(drip)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        client = way.client("http://model.invalid/v1", proxy=address, insecure_http=True)
        assert client.chat().text == "once"
        assert until(lambda: proxy.peers[0].connection.fileno() == -1)
        with at_once(), pytest.raises(APITimeoutError, match="deadline="):
            client.chat(deadline=0.4)
        client.close()
        assert len(proxy.peers) == 2


def test_a_call_on_the_second_connection_to_a_proxy_is_cancelled(way: Way) -> None:
    with serving(once(half)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        client = way.client("http://model.invalid/v1", proxy=address, insecure_http=True)
        assert client.chat().text == "once"
        assert until(lambda: proxy.peers[0].connection.fileno() == -1)
        stream = client.stream(timeout=8)
        assert stream.next() == "one"
        with later(0.2, stream.inner.cancel), at_once():
            stream.rest()
        assert proxy.peers[1].ended.wait(1.0)
        client.close()


def test_a_tunnel_is_asked_for_where_the_traffic_is_https(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        client = way.client("https://model.invalid/v1", api_key="k" * 20)
        with pytest.raises(APIConnectionError, match="502"):
            client.chat()
        client.close()
        assert proxy.requests[0].startswith("CONNECT model.invalid:443 HTTP/1.1")
        assert "k" * 20 not in proxy.requests[0]


def test_hosts_that_no_proxy_names_go_directly(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "model.invalid")
        client = way.client("https://model.invalid/v1")
        with pytest.raises(APIConnectionError):
            client.chat()
        client.close()
        assert proxy.peers == []


# --- TLS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate, as a bundle that trusts it."""
    file = tmp_path_factory.mktemp("tls") / "bundle.pem"
    file.write_text(CERTIFICATE)
    return file


@pytest.fixture(scope="module")
def tls(bundle: Path) -> ssl.SSLContext:
    key = bundle.with_name("key.pem")
    key.write_text(PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, key)
    return context


def test_a_bundle_of_ones_own_is_trusted_and_nothing_else_is(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(answer, tls) as server:
        trusting = way.client(server.url, verify=str(bundle))
        assert trusting.chat("a").text == "a"
        trusting.close()
        unchecked = way.client(server.url, verify=False)
        assert unchecked.chat("b").text == "b"
        unchecked.close()
        context = ssl.create_default_context(cafile=str(bundle))
        ready = way.client(server.url, verify=context)
        assert ready.chat("c").text == "c"
        ready.close()
        strict = way.client(server.url)
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            strict.chat("d")
        strict.close()
        assert len(server.requests) == 3


def test_a_bundle_that_the_environment_names_is_trusted(
    way: Way, tls: ssl.SSLContext, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with serving(answer, tls) as server:
        client = way.client(server.url)
        assert client.chat("a").text == "a"
        client.close()


def test_a_long_body_goes_out_over_tls(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(answer, tls) as server:
        client = way.client(server.url, verify=str(bundle), timeout=5)
        for prompt in ("x" * 300_000, "y" * 3_000_000, "z"):
            assert client.chat(prompt).text == prompt
        client.close()
        assert [len(peer.requests) for peer in server.peers] == [3]


def test_a_server_that_resets_a_long_body_is_noticed_at_once(
    way: Way, tls: ssl.SSLContext, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes on writing to a connection that is lost is warned of by asyncio, for each piece."""

    def serve(peer: Peer) -> None:
        peer.connection.recv(1000)
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(serve, tls) as server:
        client = way.client(server.url, verify=str(bundle))
        with pytest.raises(APIConnectionError):
            client.chat("x" * 5_000_000)
        client.close()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_call_over_tls_is_cancelled_midway(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(half, tls) as server:
        client = way.client(server.url, verify=str(bundle))
        stream = client.stream()
        assert stream.next() == "one"
        with later(0.2, stream.inner.cancel), at_once():
            stream.rest()
        assert server.peers[0].ended.wait(1.0)
        client.close()


def tunnel_to(server: Server) -> Callable[[Peer], None]:
    """Return the service of a proxy that opens tunnels, all to one server."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(peer: Peer) -> None:
        peer.request()
        with socket.create_connection(("127.0.0.1", server.port)) as far:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(far, peer.connection), daemon=True)
            back.start()
            pump(peer.connection, far)
            peer.ended.set()
            back.join()

    return serve


def test_answers_come_through_a_tunnel(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(answer, tls) as server, serving(tunnel_to(server)) as proxy:
        client = way.client(
            "https://model.invalid/v1", verify=str(bundle), proxy=f"http://127.0.0.1:{proxy.port}", api_key="k" * 20
        )
        assert client.chat("a").text == "a"
        assert client.stream("bc").rest() == ["b", "c"]
        client.close()
        assert [len(peer.requests) for peer in server.peers] == [2]
        assert "k" * 20 in server.requests[0]
        assert "k" * 20 not in proxy.requests[0]


def test_a_call_through_a_tunnel_is_cancelled_midway(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(half, tls) as server, serving(tunnel_to(server)) as proxy:
        client = way.client("https://model.invalid/v1", verify=str(bundle), proxy=f"http://127.0.0.1:{proxy.port}")
        stream = client.stream(timeout=8)
        assert stream.next() == "one"
        with later(0.2, stream.inner.cancel), at_once():
            stream.rest()
        assert stream.inner.reply.finish_reason == "cancelled"
        assert proxy.peers[0].ended.wait(1.0)
        client.close()


def test_a_deadline_holds_through_a_tunnel(way: Way, tls: ssl.SSLContext, bundle: Path) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM)
        for _ in range(100):
            peer.send(framed(b": keep-alive\n\n"))
            time.sleep(0.05)

    with serving(serve, tls) as server, serving(tunnel_to(server)) as proxy:
        client = way.client("https://model.invalid/v1", verify=str(bundle), proxy=f"http://127.0.0.1:{proxy.port}")
        with at_once(0.6 + SOON), pytest.raises(APITimeoutError, match="deadline="):
            client.stream(timeout=0.4, deadline=0.6).rest()
        client.close()


# --- nothing but our own errors


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("https://model.invalid/v1", {"verify": "/nowhere/bundle.pem"}, ConfigurationError),
        ("https://model.invalid/v1", {"proxy": "no proxy at all"}, ConfigurationError),
        ("https://model.invalid/v1", {"proxy": "ftp://127.0.0.1:1"}, ConfigurationError),
        ("https://model.invalid/v1", {"proxy": "http://127.0.0.1:99999"}, SLMError),
        ("https://model.invalid/v1", {"proxy": "http://[::1"}, ConfigurationError),
        ("https://model.invalid/v1", {"proxy": ""}, ConfigurationError),
        ("http://exa mple.invalid/v1", {}, SLMError),
        ("http://bad_host_.\u200b.invalid/v1", {}, SLMError),
        (f"http://{'a' * 70}.invalid/v1", {}, SLMError),
        (f"http://127.0.0.1:1/{'a' * 70_000}", {}, SLMError),
        ("http://127.0.0.1:1/v1/ü/\x00", {}, SLMError),
        ("http://127.0.0.1:1/v1", {"headers": {"Bad Name": "x"}}, ConfigurationError),
        ("http://127.0.0.1:1/v1", {"headers": {"": "x"}}, ConfigurationError),
        ("http://127.0.0.1:1/v1", {"headers": {"X": ""}}, ConfigurationError),
        ("http://127.0.0.1:1/v1", {"headers": ["X: x"]}, ConfigurationError),
    ],
)
def test_a_setting_that_cannot_work_is_an_error_of_ours(
    way: Way, url: str, options: dict[str, Any], kind: type[SLMError]
) -> None:
    with pytest.raises(kind) as caught:
        way.client(url, **options).chat()
    assert not isinstance(caught.value, StreamInterruptedError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["999.1.1.1", "010.0.0.1"])
def test_an_address_that_is_none_is_looked_up_nowhere(way: Way, host: str) -> None:
    """What is octal to some, and a name to others, is a way around checks."""
    client = way.client(f"http://{host}/v1", insecure_http=True)
    with pytest.raises(ConfigurationError, match="no URL that can be called"):
        client.chat()
    client.close()


def test_a_file_that_is_no_certificate_bundle_is_refused(way: Way, tmp_path: Path) -> None:
    file = tmp_path / "bundle.pem"
    file.write_text("no certificate")
    for bundle in (file, tmp_path):
        with pytest.raises(ConfigurationError, match="verify"):
            way.client("https://127.0.0.1:1/v1", verify=str(bundle)).chat()


def test_a_socks_proxy_needs_a_package_and_says_so(way: Way) -> None:
    try:
        import socksio  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("socksio is installed")
    with pytest.raises(ConfigurationError, match="pip install socksio"):
        way.client("https://model.invalid/v1", proxy="socks5://127.0.0.1:1").chat()


@pytest.mark.parametrize(
    "options",
    [
        {"extra": {"x": object()}},
        {"extra": {"x": "\ud800"}},
        {"stop": "\ud800"},
        {"model": "\ud800"},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {1, 2}, "f": print}}},
        {"tools": [{"type": "function", "function": {"name": "f", "default": object()}}]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_written_as_json_is_a_bad_request(way: Way, options: dict[str, Any]) -> None:
    with serving(answer) as server:
        client = way.client(server.url)
        with pytest.raises(BadRequestError):
            client.chat(**options)
        assert client.chat("x").text == "x"
        client.close()


def test_an_error_leaves_without_the_frames_and_errors_below(way: Way) -> None:
    """They hold requests and bodies."""
    client = way.client("http://127.0.0.1:1/v1")
    with pytest.raises(APIConnectionError) as caught:
        client.chat()
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    files = {entry.path.name for entry in caught.traceback}
    assert "transport.py" not in files
    client.close()
