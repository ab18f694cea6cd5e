"""Servers that misbehave byte by byte: every call ends, in time, with a reply or an error of ours, and breaks nothing.

The scenarios are in `fault_table`; what stands here besides is what their outcomes do not show.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fault_table
from fault_table import BOMB, FAULTS, FORMAT, KEY, LOGIN, Fault, compressed, endless, every, run, says
from raw_server import TEXT, Peer, RawServer, chunk, frame, head, serve
from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import ChatRequest, TextDelta
from slmclient.drivers import steps
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.pumps import Pumps
from slmclient.drivers.steps import HttpRequest, Steps, read_body
from slmclient.errors import InternalServerError, ResponseFormatError, SLMError, StreamInterruptedError
from slmclient.messages import Message

pytestmark = pytest.mark.filterwarnings("error")  # what is not closed, or never awaited

PAGE = Path(__file__).parents[1] / "docs" / "errors-and-retries.md"
LATEST = 3.0
"""Seconds after its deadline in which a call has ended, on the slowest machine."""

ways = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
kinds = pytest.mark.parametrize("streaming", [False, True], ids=["chat", "stream"])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
@kinds
@ways
def test_a_server_that(fault: Fault, asynchronous: bool, streaming: bool) -> None:
    outcome = run(fault, asynchronous=asynchronous, streaming=streaming)
    said, requests = fault.expected(streaming)
    assert (outcome.said, outcome.requests) == (said, requests)
    assert outcome.tries == (fault.tries or requests)
    longest = fault.settings.get("deadline", outcome.tries * fault.settings.get("timeout", 1.0))
    assert outcome.seconds < min(longest, 5.0) + LATEST


def test_every_scenario_has_a_name_of_its_own() -> None:
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


def test_the_table_in_the_docs_says_what_is_tested() -> None:
    """All but the seconds, which are those of some machine."""
    found = re.search(r"<!-- faults -->\n(.*?)<!-- /faults -->", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    rows = [line.rsplit("|", 2)[0] for line in found[1].splitlines() if line.startswith("| ")][2:]
    assert rows == [fault_table.row(fault, *fault_table.cells(fault), "").rsplit("|", 2)[0] for fault in FAULTS]


# --- bounds


class Asked:
    """One call to a server, on a client of its own."""

    def __init__(self, asynchronous: bool, streaming: bool, **settings: Any) -> None:
        self.asynchronous, self.streaming = asynchronous, streaming
        self.settings: dict[str, Any] = {
            "max_retries": 0,
            "env_file": False,
            "timeout": 5.0,
            "deadline": 10.0,
            **settings,
        }

    def fails(self, server: RawServer) -> SLMError:
        with pytest.raises(SLMError) as caught:
            asyncio.run(self._acall(server.url)) if self.asynchronous else self._call(server.url)
        return caught.value

    def _call(self, url: str) -> None:
        with PhiClient("openai", "m", base_url=url, api_key=KEY, **self.settings) as client:
            if self.streaming:
                with client.stream("Hi") as stream:
                    list(stream)
            else:
                client.chat("Hi")

    async def _acall(self, url: str) -> None:
        async with AsyncPhiClient("openai", "m", base_url=url, api_key=KEY, **self.settings) as client:
            if self.streaming:
                async with client.stream("Hi") as stream:
                    [text async for text in stream]
            else:
                await client.chat("Hi")


@kinds
@ways
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (compressed(BOMB, "gzip"), ResponseFormatError),
        (
            every(lambda peer: peer.send(head("500 X", "text/plain", len(BOMB), "Content-Encoding: gzip"), BOMB)),
            InternalServerError,
        ),
        (every(endless(b"x" * 2**20)), ResponseFormatError),
        (every(endless(b"data: " + b"x" * 2**20, of_stream=True)), ResponseFormatError),
    ],
    ids=["bomb", "bomb as error", "body", "line"],
)
def test_what_is_too_large_is_never_held_whole(
    script: Callable[[Peer], None], error: type[SLMError], asynchronous: bool, streaming: bool
) -> None:
    with RawServer(script) as server:
        tracemalloc.start()
        try:
            failure = Asked(asynchronous, streaming).fails(server)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert type(failure) is error
    assert most < 3 * steps.MAX_BODY


@kinds
@ways
def test_of_an_error_only_the_beginning_is_read(asynchronous: bool, streaming: bool) -> None:
    sent: list[int] = []

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head("500 X", "text/plain"))
        while not peer.server.over.is_set():
            peer.send(chunk(b"x" * 100_000))
            sent.append(100_000)

    with RawServer(script) as server:
        failure = Asked(asynchronous, streaming).fails(server)
    assert isinstance(failure, InternalServerError)
    assert len(str(failure.body)) <= steps.MAX_ERROR_BODY
    assert sum(sent) < steps.MAX_ERROR_BODY + 20_000_000  # what the systems' buffers take


@ways
@pytest.mark.parametrize(
    ("piece", "error"), [(b": on\n\n", ResponseFormatError), (frame({"content": "x"}), StreamInterruptedError)]
)
def test_a_stream_has_an_end(
    asynchronous: bool, piece: bytes, error: type[SLMError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MAX_STREAM", 1_000_000)
    with RawServer(every(endless(piece * 100, of_stream=True))) as server:
        failure = Asked(asynchronous, streaming=True).fails(server)
    assert type(failure) is error
    assert "a stream of over 1,000,000 bytes" in str(failure)


# --- where requests go, and where not


@kinds
@ways
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(asynchronous: bool, streaming: bool, status: int) -> None:
    seen: list[bytes] = []

    def note(peer: Peer) -> None:
        seen.append(peer.connection.recv(65536))

    with RawServer(note) as elsewhere:
        target = f"Location: http://localhost:{elsewhere.port}/v1/chat/completions"
        with RawServer(says(LOGIN, f"{status} X", "text/html", target)) as server:
            assert type(Asked(asynchronous, streaming).fails(server)).__name__ == FORMAT
            assert len(server.requests) == 1
            assert KEY.encode() in server.requests[0]
    assert seen == []


def test_what_nobody_asked_for_is_not_taken_for_the_next_answer() -> None:
    """It comes in one piece with the answer, or while the connection is idle."""
    other = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    def at_once(peer: Peer) -> None:
        while peer.request():
            peer.send(peer.answer.whole + other)

    def later(peer: Peer) -> None:
        while peer.request():
            peer.send(peer.answer.whole)
            peer.send(other)

    for script in (at_once, later):
        with RawServer(script) as server, PhiClient("openai", "m", base_url=server.url, env_file=False) as client:
            for _ in range(3):
                assert client.chat("Hi").text == TEXT
                time.sleep(0.02)
                assert "".join(client.stream("Hi")) == TEXT
                time.sleep(0.02)


@ways
def test_a_request_is_sent_again_only_where_nothing_came_back(asynchronous: bool) -> None:
    """On a kept connection: half an answer shows that the server had read the request."""

    def script(peer: Peer) -> None:
        if peer.request() and len(peer.server.requests) == 1:
            peer.send(peer.answer.whole)
            peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nX")

    fault = Fault("", script, fault_table.CONNECTION, warm=True, settings={"max_retries": 0})
    outcome = run(fault, asynchronous=asynchronous, streaming=False)
    assert (outcome.said, outcome.requests) == (fault_table.CONNECTION, 1)


def test_many_first_calls_at_once_share_their_connections() -> None:
    """Of two pumps one would stay open."""
    for _ in range(20):
        with RawServer(serve) as server:
            client = PhiClient("openai", "m", base_url=server.url, env_file=False)
            gate = threading.Barrier(8)

            def call(client: PhiClient = client, gate: threading.Barrier = gate) -> None:
                gate.wait()
                client.chat("Hi")

            threads = [threading.Thread(target=call) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client.close()
            assert fault_table.left(server.port) == []


def test_a_loop_that_ends_closes_its_connections() -> None:
    """Also where nobody closes the client: it may be used in the next loop. And none is held for ever."""
    with RawServer(serve) as server:
        client = AsyncPhiClient("openai", "m", base_url=server.url, env_file=False)
        loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

        async def main() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            assert [reply.text for reply in await asyncio.gather(*(client.chat("Hi") for _ in range(3)))] == [TEXT] * 3

        for _ in range(3):
            asyncio.run(main())
            assert fault_table.left(server.port) == []
        gc.collect()
        assert [loop() is None for loop in loops[:-1]] == [True, True]
        asyncio.run(client.aclose())


def test_a_call_that_begins_as_the_client_closes_keeps_no_connection() -> None:
    with RawServer(serve) as server:
        driver = OpenAIDriver(DriverConfig("openai", "m", server.url))
        pumps = Pumps("openai", driver.route)
        pumps.close()
        request = ChatRequest((Message(role="user", content="Hi"),))
        assert list(pumps.sync().run(driver.flow(request), request))
        assert fault_table.left(server.port) == []


def test_a_signed_address_is_forgotten_with_its_connection() -> None:
    """A traceback shows the locals of its frames."""

    def flow(first: str, second: str) -> Steps:
        yield HttpRequest("POST", f"{first}/signed-address", content=b"{}")
        yield from read_body()
        yield HttpRequest("POST", second, content=b"{}")
        yield from read_body()
        yield [TextDelta("x")]

    with RawServer(serve) as one, RawServer(serve) as other:
        driver = OpenAIDriver(DriverConfig("openai", "m", other.url))
        running = Pumps("openai", driver.route, keep=False).sync().run(flow(one.url, other.url), ChatRequest(()))
        next(running)
        held = [getattr(value, "url", "") for value in inspect.getgeneratorlocals(running).values()]
        running.close()
        assert b"signed-address" in one.requests[0]
    assert other.url in held
    assert not [url for url in held if "signed" in url]
