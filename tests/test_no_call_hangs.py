"""Every place where a call could hang, each made to hang: the caller has control back in time, and nothing is left.

What servers do once they were sent a request is in `test_misbehaving_servers`; here is what comes before, and beside.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from fault_table import left
from raw_server import TEXT, Peer, RawServer, serve
from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import ChatRequest
from slmclient.drivers import opening
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.steps import Steps, Work
from slmclient.errors import APITimeoutError, SLMError
from test_pump import CERTIFICATE, PRIVATE_KEY, serving, tunnel_to
from test_pump import Peer as TlsPeer

pytestmark = pytest.mark.filterwarnings("error")

LATEST = 1.5
"""Seconds after its end in which a call has given control back, on the slowest machine."""
HANGS = 20.0
"""Seconds that what hangs does so, if nothing ends it: a test that waits for it has failed."""
LIMITS: list[Any] = [{"timeout": 0.3}, {"deadline": 0.3}]

ways = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
limits = pytest.mark.parametrize("limit", LIMITS, ids=["timeout", "deadline"])
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a queue that is full, as Linux has it")


# --- calling


class Caller:
    """Makes one call of a client of its own, from a thread or in a loop of its own, and takes the time."""

    def __init__(self, asynchronous: bool, provider: str = "openai", **settings: Any) -> None:
        self.asynchronous, self.provider = asynchronous, provider
        self.settings: dict[str, Any] = {
            "timeout": 10.0,
            "deadline": 15.0,
            "max_retries": 0,
            "env_file": False,
            **settings,
        }

    def call(self, url: str, prompt: str = "Hi", cancelled_after: float | None = None, **options: Any) -> Any:
        """Return the reply or the error; fail if it came late."""
        began = time.monotonic()
        caught: list[Any] = []
        with suppress_into(caught):
            if self.asynchronous:
                caught.append(asyncio.run(self._acall(url, prompt, cancelled_after, options)))
            else:
                caught.append(self._call(url, prompt, cancelled_after, options))
        limit = min(self.settings["timeout"], self.settings["deadline"], cancelled_after or HANGS)
        assert time.monotonic() - began < limit + LATEST, "it hung"
        return caught[0]

    def _call(self, url: str, prompt: str, cancelled_after: float | None, options: dict[str, Any]) -> Any:
        with PhiClient(self.provider, "m", base_url=url, **self.settings) as client:
            with client.stream(prompt, **options) as stream, cancelling(stream.cancel, cancelled_after):
                list(stream)
            return stream.reply

    async def _acall(self, url: str, prompt: str, cancelled_after: float | None, options: dict[str, Any]) -> Any:
        async with AsyncPhiClient(self.provider, "m", base_url=url, **self.settings) as client:
            async with client.stream(prompt, **options) as stream:
                with cancelling(stream.cancel, cancelled_after):
                    [text async for text in stream]
            return stream.reply


@contextmanager
def suppress_into(caught: list[Any]) -> Generator[None]:
    try:
        yield
    except SLMError as error:
        caught.append(error)


@contextmanager
def cancelling(cancel: Callable[[], None], after: float | None) -> Generator[None]:
    timer = threading.Timer(after or 0.0, cancel)
    if after is not None:
        timer.start()
    yield
    if after is not None:
        timer.join()


def all_ends(asynchronous: bool, url: str, provider: str = "openai", **settings: Any) -> None:
    """Check what ends a call that hangs: each limit, and cancelling."""
    for limit in LIMITS:
        error = Caller(asynchronous, provider, **settings, **limit).call(url)
        assert isinstance(error, APITimeoutError), error
        assert f"{next(iter(limit))}=" in str(error) or "within 0.3 s" in str(error)
    assert Caller(asynchronous, provider, **settings).call(url, cancelled_after=0.2).finish_reason == "cancelled"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Generator[None]:
    """Threads that were left behind end with what they wait for."""
    yield
    end = time.monotonic() + 5.0
    while (names := [each.name for each in threading.enumerate() if each.name.startswith("slmclient")]) and (
        time.monotonic() < end
    ):
        time.sleep(0.01)
    assert not names
    gc.collect()  # what was not closed says so


# --- looking up names


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """A name server that answers nothing of hosts below ``example``: returns who was asked for."""
    genuine, over, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.endswith("example"):
            return genuine(host, *rest, **options)
        asked.append(name)
        over.wait(HANGS)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield asked
    over.set()


@ways
def test_looking_up_the_servers_name(asynchronous: bool, name_server: list[str]) -> None:
    all_ends(asynchronous, "https://model.example/v1")
    assert set(name_server) == {"model.example"}


@ways
def test_looking_up_the_proxys_name(asynchronous: bool, name_server: list[str]) -> None:
    all_ends(asynchronous, "https://model.invalid/v1", proxy="http://proxy.example:1")
    assert set(name_server) == {"proxy.example"}


@ways
@limits
def test_looking_up_the_name_of_a_pictures_server(asynchronous: bool, limit: Any, name_server: list[str]) -> None:
    with RawServer(serve) as server:
        options: dict[str, Any] = {"images": ["https://pictures.example/a.png"]}
        error = Caller(asynchronous, "ollama", **limit).call(server.url, **options)
    assert isinstance(error, APITimeoutError)
    assert name_server == ["pictures.example"]
    assert server.requests == []


def test_many_names_that_hang_hold_up_no_other_call(name_server: list[str]) -> None:
    """asyncio's own threads for look-ups are few."""

    async def main(url: str) -> None:
        settings: dict[str, Any] = {"env_file": False, "max_retries": 0, "timeout": 10.0}
        async with (
            AsyncPhiClient("openai", "m", base_url="https://model.example/v1", **settings) as hanging,
            AsyncPhiClient("openai", "m", base_url=url.replace("127.0.0.1", "localhost"), **settings) as client,
        ):
            tasks = [asyncio.create_task(hanging.chat("Hi")) for _ in range(40)]
            await asyncio.sleep(0.1)
            assert (await asyncio.wait_for(client.chat("Hi"), LATEST)).text == TEXT
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    with RawServer(serve) as server:
        asyncio.run(main(server.url))


@pytest.mark.parametrize("script", ["client.chat('Hi')", "asyncio.run(main())"])
def test_the_interpreter_ends_although_a_look_up_hangs(script: str) -> None:
    code = f"""
import asyncio, socket, time
from slmclient import AsyncPhiClient, PhiClient
socket.getaddrinfo = lambda *_, **__: time.sleep({HANGS})
settings = dict(base_url="https://model.example/v1", env_file=False, deadline=0.2)
client = PhiClient("openai", "m", **settings)
async def main():
    await AsyncPhiClient("openai", "m", **settings).chat("Hi")
try:
    {script}
except TimeoutError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS / 2, check=True)
    assert "by the deadline" in done.stdout


# --- connecting


@contextmanager
def unreachable(*hosts: str) -> Generator[int]:
    """The port at which the queues of these addresses are full: connecting to it takes for ever."""
    with socket.socket() as first:
        first.bind((hosts[0], 0))
        port: int = first.getsockname()[1]
        others = [socket.socket() for _ in hosts[1:]]
        for host, listener in zip(hosts[1:], others, strict=True):
            listener.bind((host, port))
        queue: list[socket.socket] = []
        for host, listener in zip(hosts, [first, *others], strict=True):
            listener.listen(0)
            for _ in range(4):
                queue.append(socket.socket())
                queue[-1].settimeout(0.05)
                with suppress(OSError):
                    queue[-1].connect((host, port))
        try:
            yield port
        finally:
            for each in [*queue, *others]:
                each.close()


def name(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Give ``model.example`` addresses."""
    genuine = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        hosts = addresses if host in ("model.example", b"model.example") else (host,)
        return [each for one in hosts for each in genuine(one, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@linux
@ways
def test_connecting_to_many_addresses_none_of_which_answers(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together take no longer than one."""
    hosts = [f"127.0.0.{number}" for number in range(2, 8)]
    name(monkeypatch, *hosts)
    with unreachable(*hosts) as port:
        all_ends(asynchronous, f"http://model.example:{port}/v1", insecure_http=True)


@linux
@ways
def test_connecting_where_the_first_address_does_not_answer(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "NEXT_ADDRESS", 0.2)
    with RawServer(serve) as server, socket.socket() as listener:
        listener.bind(("127.0.0.2", server.port))  # and does not listen: the third address refuses
        with unreachable_at("127.0.0.3", server.port):
            name(monkeypatch, "127.0.0.3", "127.0.0.2", "127.0.0.1")
            reply = Caller(asynchronous, insecure_http=True, timeout=2.0).call(f"http://model.example:{server.port}/v1")
    assert reply.text == TEXT


@contextmanager
def unreachable_at(host: str, port: int) -> Generator[None]:
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        queue = [socket.socket() for _ in range(4)]
        for each in queue:
            each.settimeout(0.05)
            with suppress(OSError):
                each.connect((host, port))
        try:
            yield
        finally:
            for each in queue:
                each.close()


@linux
@ways
def test_cancelling_while_connecting_takes_no_time(asynchronous: bool) -> None:
    with unreachable("127.0.0.1") as port:
        reply = Caller(asynchronous).call(f"http://127.0.0.1:{port}/v1", cancelled_after=0.2)
    assert reply.finish_reason == "cancelled"


# --- TLS, proxies


def drip(data: bytes, *before: bytes) -> Callable[[Peer], None]:
    """Return a script that hears something before each thing that it says, and then drips."""

    def script(peer: Peer) -> None:
        for each in before:
            peer.connection.recv(65536)
            peer.send(each)
        peer.repeat(data, pause=0.02)

    return script


def silent(before: bytes = b"") -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.connection.recv(65536)
        peer.send(before)
        peer.stall()

    return script


RECORD = b"\x16\x03\x03\x40\x00"  # a handshake record of 16 KB begins
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@ways
def test_a_tls_handshake_without_an_answer(asynchronous: bool) -> None:
    with RawServer(silent()) as server:
        all_ends(asynchronous, server.url.replace("http", "https"))


@ways
def test_a_tls_handshake_that_drips(asynchronous: bool) -> None:
    with RawServer(drip(b"\x00", RECORD)) as server:
        all_ends(asynchronous, server.url.replace("http", "https"))


@ways
def test_a_tls_handshake_has_what_connecting_left_of_the_time(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, asked = socket.getaddrinfo, list[Any]()

    def slowly(host: Any, *rest: Any, **options: Any) -> Any:
        if not asked:
            asked.append(host)
            time.sleep(0.5)
        return genuine(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with RawServer(silent()) as server:
        began = time.monotonic()
        error = Caller(asynchronous, deadline=1.5).call(server.url.replace("http", "https"))
        assert time.monotonic() - began < 1.5 + 0.5 - 0.1
    assert asked
    assert "by the deadline" in str(error)


@ways
@pytest.mark.parametrize(
    "script",
    [
        silent(),
        drip(b"X: y\r\n", b"HTTP/1.1 200 Connection established\r\n"),
        silent(before=CONNECTED),
        drip(b"\x00", CONNECTED, RECORD),
    ],
    ids=["silent", "drips", "silent behind it", "drips behind it"],
)
def test_a_proxy(asynchronous: bool, script: Callable[[Peer], None]) -> None:
    with RawServer(script) as proxy:
        error = Caller(asynchronous, proxy=proxy.url, deadline=0.4).call("https://model.invalid/v1")
        assert isinstance(error, APITimeoutError)
        assert left(proxy.port) == []


@ways
def test_a_head_that_drips_through_a_tunnel(asynchronous: bool, tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "bundle.pem", tmp_path / "key.pem")

    def serve_slowly(peer: TlsPeer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 X\r\nX: ")
        while not server.over.wait(0.02):
            peer.send(b"x")

    with serving(serve_slowly, context) as server, serving(tunnel_to(server)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        caller = Caller(asynchronous, verify=str(tmp_path / "bundle.pem"), proxy=address, deadline=0.5)
        assert "by the deadline" in str(caller.call("https://model.invalid/v1"))
        assert server.requests


# --- sending


@ways
@limits
def test_a_large_body_to_a_server_that_does_not_read(asynchronous: bool, limit: Any) -> None:
    with RawServer(Peer.stall_unread) as server:
        error = Caller(asynchronous, **limit).call(server.url, "x" * 30_000_000)
        assert isinstance(error, APITimeoutError)
        assert left(server.port) == []


@ways
def test_a_large_body_to_a_server_that_reads_on_and_on(asynchronous: bool) -> None:
    """It is never silent: only the deadline ends that."""

    def script(peer: Peer) -> None:
        while peer.connection.recv(32_768) and not peer.server.over.is_set():
            peer.server.over.wait(0.003)

    with RawServer(script) as server:
        error = Caller(asynchronous, timeout=5.0, deadline=0.5).call(server.url, "x" * 30_000_000)
    assert "by the deadline" in str(error)


# --- keys


@ways
def test_a_function_that_gives_no_key(asynchronous: bool) -> None:
    over = threading.Event()

    def hang() -> str:
        return str(over.wait(HANGS))

    async def ahang() -> str:
        await asyncio.sleep(HANGS)
        return ""

    with RawServer(serve) as server:
        for function in (hang, ahang) if asynchronous else (hang,):
            error = Caller(asynchronous, api_key=function, deadline=0.3).call(server.url)
            assert "by the deadline" in str(error)
            reply = Caller(asynchronous, api_key=function).call(server.url, cancelled_after=0.2)
            assert reply.finish_reason == "cancelled"
        assert server.requests == []
    over.set()


@ways
def test_another_call_that_waits_for_a_token(asynchronous: bool) -> None:
    """The second one waits for the first one's: it has a deadline of its own."""
    over = threading.Event()

    class Credential:
        def get_token(self, *_: str, **__: Any) -> AccessToken:
            over.wait(HANGS)
            return AccessToken("token", 2**33)

    with RawServer(serve) as server:
        client = (AsyncPhiClient if asynchronous else PhiClient)(
            "azure", "m", base_url=server.url, api_key=Credential(), max_retries=0, env_file=False
        )
        began = time.monotonic()
        if isinstance(client, AsyncPhiClient):
            asyncio.run(two_calls(client))
        else:
            first = threading.Thread(target=deadline_passes, args=(client, 0.8))
            first.start()
            time.sleep(0.1)
            deadline_passes(client, 0.3)
            assert time.monotonic() - began < 0.8
            first.join()
            client.close()
        assert time.monotonic() - began < 0.8 + LATEST
    over.set()


def deadline_passes(client: PhiClient, seconds: float) -> None:
    with pytest.raises(APITimeoutError):
        client.chat("Hi", deadline=seconds)


async def two_calls(client: AsyncPhiClient) -> None:
    async with client:
        first = asyncio.create_task(client.chat("Hi", deadline=0.8))
        await asyncio.sleep(0.1)
        with pytest.raises(APITimeoutError):
            await client.chat("Hi", deadline=0.3)
        assert not first.done()
        with pytest.raises(APITimeoutError):
            await first


# --- work, closing


class Working(OpenAIDriver):
    """Computes something that does not end, as a picture that is read from a drive which has gone."""

    over: threading.Event

    def flow(self, request: ChatRequest) -> Steps:
        yield Work(lambda: self.over.wait(HANGS))


@ways
def test_work_that_does_not_end(asynchronous: bool) -> None:
    driver = Working(DriverConfig("openai", "m", "http://127.0.0.1:1/v1"))
    driver.over = threading.Event()

    def call(request: ChatRequest) -> list[Any]:
        return list(driver.events(request))

    async def acall(request: ChatRequest) -> list[Any]:
        return [event async for event in driver.aevents(request)]

    def run(request: ChatRequest) -> list[Any]:
        return asyncio.run(acall(request)) if asynchronous else call(request)

    began = time.monotonic()
    with pytest.raises(APITimeoutError):
        run(ChatRequest((), deadline_at=began + 0.3))
    assert time.monotonic() - began < 0.3 + LATEST
    began, cancelled = time.monotonic(), ChatRequest(())
    with cancelling(cancelled.cancellation.cancel, 0.2):
        (event,) = run(cancelled)
    assert event.reason == "cancelled"
    assert time.monotonic() - began < 0.2 + LATEST
    driver.over.set()


@ways
def test_closing_a_client_while_a_call_waits(asynchronous: bool) -> None:
    with RawServer(Peer.stall_unread) as server:
        if asynchronous:
            asyncio.run(close_during_a_call(server))
            return
        client = PhiClient("openai", "m", base_url=server.url, env_file=False, max_retries=0)
        calling = threading.Thread(target=deadline_passes, args=(client, 3.0))
        calling.start()
        time.sleep(0.1)
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 1.5
        calling.join()
        assert left(server.port) == []


async def close_during_a_call(server: RawServer) -> None:
    client = AsyncPhiClient("openai", "m", base_url=server.url, env_file=False, max_retries=0)
    calling = asyncio.create_task(client.chat("Hi", deadline=3.0))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(client.aclose(), 1.5)
    with pytest.raises(APITimeoutError):
        await calling
    assert await asyncio.to_thread(left, server.port) == []
