"""Flows of several requests through the real pumps: to two hosts, with waits between, on connections that are kept."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.secret import Secret
from slmclient.drivers.steps import HttpRequest, Steps, Wait, read_body
from slmclient.errors import APIConnectionError, APITimeoutError, ConfigurationError, SLMError
from slmclient.messages import Message
from slmclient.testing.mode import MODES, Mode
from test_pump import CERTIFICATE, PRIVATE_KEY, Peer, Server, answer, said, serving, whole

KEY = "the-key-of-the-test-0123456789"
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Mode:
    return MODES[request.param]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "bundle.pem").write_text(CERTIFICATE)
    (folder / "key.pem").write_text(PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "bundle.pem", folder / "key.pem")
    return context


@pytest.fixture(scope="module")
def bundle(tls: ssl.SSLContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trust") / "bundle.pem"
    file.write_text(CERTIFICATE)
    return file


class AsksTwice(OpenAIDriver):
    """Gets a ticket at one host, and its answer at another."""

    first: ClassVar[str] = ""

    def flow(self, request: ChatRequest) -> Steps:
        yield HttpRequest("GET", self.first, timeout=5)
        yield from read_body()
        yield from self.exchange(request, "m", self.encode(request, "m"))


def ticket(peer: Peer) -> None:
    while peer.request():
        peer.send(whole({"ticket": 1}))


def request(text: str = "Hi", **options: Any) -> ChatRequest:
    fields = {"timeout": 5.0, "deadline_at": time.monotonic() + 20, **options}
    return ChatRequest((Message.user(text),), stream=False, **fields)


def called(mode: Mode, driver: HttpDriver, *requests: ChatRequest) -> list[str]:
    """Return the texts of several calls, one after the other."""

    async def scenario() -> list[str]:
        try:
            return [(await mode.reply(driver, each)).text for each in requests]
        finally:
            await mode.close(driver)

    return mode.run(scenario, 60)


def two_hosts(first: str, second: str, **config: Any) -> AsksTwice:
    made = AsksTwice(DriverConfig("openai", "m", base_url=second, **{"api_key": Secret(KEY), **config}))
    vars(made)["first"] = f"{first}/ticket"
    return made


# --- two hosts


def test_a_flow_may_ask_two_hosts_and_keeps_a_connection_to_each(mode: Mode) -> None:
    with serving(ticket) as first, serving(answer) as second:
        driver = two_hosts(first.url, second.url)
        assert called(mode, driver, request("a"), request("b"), request("c")) == ["a", "b", "c"]
        assert [len(server.peers) for server in (first, second)] == [1, 1]
        assert [len(server.requests) for server in (first, second)] == [3, 3]


def test_the_second_host_is_trusted_no_more_than_the_first(mode: Mode, tls: ssl.SSLContext) -> None:
    """A plain first host must not switch off the check of the second one's certificate, which gets the key."""
    with serving(ticket) as first, serving(answer, tls) as second:
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            called(mode, two_hosts(first.url, second.url), request())
        assert second.requests == []


def test_a_second_host_that_is_trusted_answers(mode: Mode, tls: ssl.SSLContext, bundle: Path) -> None:
    with serving(ticket) as first, serving(answer, tls) as second:
        assert called(mode, two_hosts(first.url, second.url, verify=str(bundle)), request("a")) == ["a"]


@pytest.mark.parametrize("beside", [{}, {"api_key": None, "headers": {"X-Team": Secret(KEY)}}], ids=["key", "header"])
def test_no_flow_takes_a_secret_over_plain_http_to_a_host_that_nobody_named(mode: Mode, beside: dict[str, Any]) -> None:
    with serving(answer) as second:
        driver = two_hosts("http://elsewhere.invalid", second.url, **beside)
        with pytest.raises(ConfigurationError, match=r"must not go over plain http to elsewhere\.invalid"):
            called(mode, driver, request())
        assert second.requests == []


# --- a connection that is in use is no old one


@pytest.mark.skipif(sys.platform != "linux", reason="needs an answer and its end in one packet, as Linux can hold them")
def test_a_server_that_hangs_up_with_its_answer_is_asked_the_next_on_a_new_connection(mode: Mode) -> None:
    """Its end comes in one packet with the answer; the flow asks again before the event loop has heard of it."""

    def serve(peer: Peer) -> None:
        peer.request()
        corked = peer.connection
        corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        peer.send(whole({"ticket": 1} if peer.bodies[-1] is None else said("a")))
        corked.shutdown(socket.SHUT_WR)
        corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        peer.wait_for_end()

    with serving(serve) as server:
        assert called(mode, two_hosts(server.url, server.url), request()) == ["a"]
        assert len(server.peers) == 2


def test_a_post_is_not_sent_twice_within_one_call(mode: Mode) -> None:
    """The server drops the connection while it handles the second request of a flow: that is an error, not stale."""

    def serve(peer: Peer) -> None:
        while peer.request():
            if peer.requests[-1].startswith("GET"):
                peer.send(whole({"release": "1.8.0"}))
            elif server_drops and peer.bodies[-1].get("nvext"):
                return
            else:
                peer.send(whole(said("warm")))

    server_drops = True
    with serving(serve) as server:
        driver = NvidiaDriver(DriverConfig("nvidia", "m", base_url=server.url))
        with pytest.raises(APIConnectionError):
            called(mode, driver, request(), request(response_format=FORMAT))
        posts = [first for first in server.requests if first.startswith("POST")]
        assert len(posts) == 2, "the warm call, and one that was dropped"


# --- polls


def polled(left: int, then: bytes) -> Callable[[Peer], None]:
    """Return the service of a gateway that is ready after so many polls, on connections that it keeps."""

    def serve(peer: Peer) -> None:
        nonlocal left
        while peer.request():
            left -= 1
            peer.send(whole(b"", 202, NVCF_REQID="t-1") if left >= 0 else then)

    return serve


def nim(server: Server) -> NvidiaDriver:
    return NvidiaDriver(DriverConfig("nvidia", "m", base_url=server.url, api_key=Secret(KEY)))


def test_polls_use_the_connection_of_the_call(mode: Mode) -> None:
    with serving(polled(2, whole(said("ready")))) as server:
        assert called(mode, nim(server), request()) == ["ready"]
        assert len(server.peers) == 1
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_poll_that_fails_for_the_moment_is_repeated_and_the_job_is_not(mode: Mode, status: int) -> None:
    failed = whole({"detail": "x"}, status, NVCF_REQID="of-this-poll")
    answers = [whole(b"", 202, NVCF_REQID="t-1"), failed, whole(b"", 202), whole(said("done"))]

    def serve(peer: Peer) -> None:
        while peer.request():
            peer.send(answers.pop(0))

    with serving(serve) as server:
        assert called(mode, nim(server), request()) == ["done"]
        assert [line.split(" ")[0] for line in server.requests] == ["POST", "GET", "GET", "GET"]
        assert all("/v1/status/t-1 " in line for line in server.requests[1:]), "the last ticket counts"


def test_a_poll_that_goes_on_failing_is_an_error_in_the_end(mode: Mode) -> None:
    def serve(peer: Peer) -> None:
        while peer.request():
            first = peer.requests[-1].startswith("POST")
            peer.send(whole(b"", 202, NVCF_REQID="t-1") if first else whole({"detail": "busy"}, 503))

    with serving(serve) as server:
        with pytest.raises(SLMError, match="busy"):
            called(mode, nim(server), request())
        assert 3 <= len(server.requests) <= 7


class Waits(OpenAIDriver):
    """Waits first, and asks then."""

    seconds: ClassVar[float] = 30.0

    def flow(self, request: ChatRequest) -> Steps:
        yield Wait(self.seconds)
        yield from super().flow(request)


class WaitsABit(Waits):
    seconds = 0.05


def test_a_flow_may_begin_with_a_wait(mode: Mode) -> None:
    with serving(answer) as server:
        made = WaitsABit(DriverConfig("openai", "m", base_url=server.url))
        assert called(mode, made, request("a")) == ["a"]


def test_a_wait_ends_at_the_deadline(mode: Mode) -> None:
    began = time.monotonic()
    with pytest.raises(APITimeoutError, match="deadline"):
        called(
            mode, Waits(DriverConfig("openai", "m", base_url="http://127.0.0.1:9")), request(deadline_at=began + 0.4)
        )
    assert 0.35 < time.monotonic() - began < 1.0


def test_a_wait_ends_when_the_call_is_cancelled(mode: Mode) -> None:
    asked = request()
    driver = Waits(DriverConfig("openai", "m", base_url="http://127.0.0.1:9"))
    threading.Timer(0.2, asked.cancellation.cancel).start()
    began = time.monotonic()

    async def scenario() -> str:
        return str((await mode.reply(driver, asked)).finish_reason)

    assert mode.run(scenario, 20) == "cancelled"
    assert time.monotonic() - began < 1.0


# --- a token provider that hangs


@pytest.fixture(params=["function", "async function", "credential", "async credential"])
def hanging(request: pytest.FixtureRequest) -> Iterator[Any]:
    over = threading.Event()

    class Hangs:
        def get_token(self, *_: str, **__: Any) -> Any:
            over.wait(10)

    class AsyncHangs:
        async def get_token(self, *_: str, **__: Any) -> Any:
            await asyncio.sleep(10)

    async def sleeper() -> str:
        await asyncio.sleep(10)
        return "never"

    kinds: dict[str, Any] = {
        "function": lambda: (over.wait(10) and "late-token") or "never",
        "async function": sleeper,
        "credential": Hangs(),
        "async credential": AsyncHangs(),
    }
    yield kinds[request.param]
    over.set()


@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_token_that_does_not_come_holds_up_nobody(mode: Mode, hanging: Any, end: str) -> None:
    secret = Secret(hanging)
    secret = secret.for_scope("https://ai.azure.com/.default") if secret.needs_scope else secret
    is_async = "async" in type(hanging).__name__.lower() or getattr(hanging, "__name__", "") == "sleeper"
    if mode is MODES["sync"] and is_async:
        return  # a ConfigurationError, which has a test of its own
    driver = OpenAIDriver(DriverConfig("openai", "m", base_url="http://127.0.0.1:9", api_key=secret))
    began = time.monotonic()
    asked = request(deadline_at=began + (0.4 if end == "deadline" else 15))
    if end == "cancel":
        threading.Timer(0.3, asked.cancellation.cancel).start()

    async def scenario() -> str:
        try:
            return str((await mode.reply(driver, asked)).finish_reason)
        except APITimeoutError as error:
            return str(error)

    outcome = mode.run(scenario, 20)
    assert outcome == "cancelled" if end == "cancel" else "deadline" in outcome
    assert time.monotonic() - began < 1.2
