"""A key is seen by the server that it is for, and by nobody else: not in a repr, an error, a log or a traceback.

The server here is as unkind as servers get: it sends back every header that it received.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slmclient
from slmclient import AsyncPhiClient, PhiClient
from slmclient.errors import ConfigurationError, SLMError
from slmclient.policy.wrapper import innermost

OURS = str(Path(slmclient.__file__).parent)
PROVIDERS = {"openai": "/v1", "github": "/inference", "azure": "/openai/v1", "nvidia": "/v1"}

# What a header can carry; with a beginning that no word, address or number has by chance.
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=62).map(lambda end: "~K" + end)
with_sockets = settings(max_examples=12, deadline=None)
without_sockets = settings(max_examples=25, deadline=None)


class Held:
    """Holds a key so that no frame of these tests shows it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Held"

    def is_in(self, text: str) -> bool:
        """Return whether the key stands in the text, as it is or escaped."""
        return any(form in text for form in (self.value, repr(self.value)[1:-1], json.dumps(self.value)[1:-1]))


# --- a server that sends back what it received


class Echo:
    """Answers every request in the manner at hand, with the received headers in it; counts the keys it saw."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.manner: Callable[[Echo, socket.socket, str], None] = Echo.whole_error
        self.received = ""
        self.patience = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece or piece[:1] == b"\x16":  # TLS's first byte: it came to the wrong port
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    return
                data += piece
            self.received = data.partition(b"\r\n\r\n")[0].decode()
            try:
                self.manner(self, connection, self.received)
            except OSError:
                pass

    def answer(self, connection: socket.socket, status: int, kind: str, body: str) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())

    def whole_error(self, connection: socket.socket, received: str) -> None:
        headers = dict(line.split(": ", 1) for line in received.splitlines()[1:])
        self.answer(connection, 401, "application/json", json.dumps({"error": {"message": received, "got": headers}}))

    def flat_error(self, connection: socket.socket, received: str) -> None:
        body = {"object": "error", "message": "No.", "type": received, "code": received, "detail": [received]}
        self.answer(connection, 400, "application/json", json.dumps(body))

    def error_in_200(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 200, "application/json", json.dumps({"error": json.dumps({"message": received})}))

    def html_error(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 502, "text/html", f"<html><pre>{html.escape(received)} {received}</pre></html>")

    def html_in_200(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 200, "text/html", f"<html><pre>{received}</pre></html>")

    def text_error(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 404, "text/plain", received)

    def redirect(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 307, "text/plain", received)

    def error_in_stream(self, connection: socket.socket, received: str) -> None:
        frame = json.dumps({"error": {"message": received, "code": received}})
        self.answer(connection, 200, "text/event-stream", f"data: {frame}\n\n")

    def error_after_text(self, connection: socket.socket, received: str) -> None:
        text = json.dumps({"choices": [{"delta": {"content": "Hello"}}]})
        frame = json.dumps({"object": "error", "message": received})
        self.answer(connection, 200, "text/event-stream", f"data: {text}\n\ndata: {frame}\n\n")

    def garbage_in_stream(self, connection: socket.socket, received: str) -> None:
        self.answer(connection, 200, "text/event-stream", f"data: {json.dumps(received)}\n\n")

    def no_answer(self, connection: socket.socket, received: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset

    def half_an_answer(self, connection: socket.socket, received: str) -> None:
        head = "HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n"
        connection.sendall((head + json.dumps({"error": received})).encode())

    def half_a_stream(self, connection: socket.socket, received: str) -> None:
        head = "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
        text = json.dumps({"choices": [{"delta": {"content": "Hello"}}]})
        connection.sendall(f"{head}data: {text}\n\n: {received.splitlines()[-1]}\n\n".encode())

    def no_http(self, connection: socket.socket, received: str) -> None:
        connection.sendall(b"HTTP/1.1 401 X\r\n" + b"\r\n".join(line.partition(b": ")[2] + b"!" for line in
                           received.encode().splitlines()[1:]) + b"\r\n\r\n")  # fmt: skip

    def no_status_line(self, connection: socket.socket, received: str) -> None:
        connection.sendall(received.encode().partition(b"\r\n")[2].replace(b"\r\n", b" ") + b"\r\n\r\n")

    def silence(self, connection: socket.socket, received: str) -> None:
        self.patience.wait(2)

    def wrong_length(self, connection: socket.socket, received: str) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + received.encode() + b"\r\n")


MANNERS: list[Callable[[Echo, socket.socket, str], None]] = [
    Echo.whole_error,
    Echo.flat_error,
    Echo.error_in_200,
    Echo.html_error,
    Echo.html_in_200,
    Echo.text_error,
    Echo.redirect,
    Echo.error_in_stream,
    Echo.error_after_text,
    Echo.garbage_in_stream,
    Echo.no_answer,
    Echo.half_an_answer,
    Echo.half_a_stream,
    Echo.no_http,
    Echo.no_status_line,
    Echo.silence,
    Echo.wrong_length,
]


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.patience.set()
    server.listener.shutdown(socket.SHUT_RDWR)  # closing alone leaves the thread in accept()
    server.listener.close()


# --- looking everywhere


class Records(logging.Handler):
    """Keeps every record of every logger, as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "httpcore2.http11" and "bytearray(" in str(record.msg):
            return  # the HTTP library quotes, at DEBUG, an answer that is no HTTP: what the server wrote, not we
        self.texts.append(f"{record.name}: {self.format(record)} {record.args!r} {record.exc_info!r}")


@pytest.fixture(scope="module")
def records() -> Iterator[Records]:
    """All loggers at DEBUG; without pytest's own handlers, which would keep everything for its report."""
    handler, root = Records(), logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def errors_of(error: BaseException) -> list[BaseException]:
    """Return the error and all that it came from, shown or not."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__]
    return found


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Yield those of an error's frames that are the library's."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(OURS):
            yield frame


def where(held: Held, error: BaseException | None, client: Any, records: Records) -> list[str]:
    """Return every place that shows the key."""
    places: dict[str, str] = {f"log record {number}": text for number, text in enumerate(records.texts)}
    kept = [("client", client)]
    if client is not None:
        kept += [("retry", client._driver), ("driver", innermost(client._driver)), ("config", client._driver.config)]
    for each in errors_of(error) if error is not None else []:
        name = type(each).__name__
        kept.append((name, each))
        report = traceback.TracebackException.from_exception(each, capture_locals=True)
        places[f"{name}'s traceback"] = "".join(report.format())
        for frame in frames_of(each):
            for local, value in frame.f_locals.items():
                kept.append(
                    (f"{name}, {frame.f_code.co_qualname if sys.version_info >= (3, 11) else ''}: {local}", value)
                )
    for name, value in kept:
        places[f"repr of {name}"] = repr(value)
        places[f"str of {name}"] = str(value)
        places[f"vars of {name}"] = repr(getattr(value, "__dict__", None))
    return sorted(place for place, text in places.items() if held.is_in(text))


def test_the_search_finds_what_is_there(records: Records) -> None:
    """It must be able to fail: a key in each of the places is found there."""
    held = Held("sk-'quoted\\-1234")

    def fail(cause: BaseException | None) -> None:
        local = held.value
        assert local
        raise SLMError("plain", body={"said": held.value}) from cause

    try:
        fail(ValueError(held.value))
    except SLMError as error:
        found = where(held, error, None, records)
    assert "vars of SLMError" in found
    assert "SLMError's traceback" in found
    assert "repr of ValueError" in found
    logging.getLogger("httpcore2.http11").debug("sent %r", held.value)
    assert any(place.startswith("log record") for place in where(held, None, None, records))
    records.texts.clear()


# --- keys given in the code


def given_as(way: str, held: Held) -> dict[str, Any]:
    """Return the arguments that carry the key."""
    return {
        "key": lambda: {"api_key": held.value},
        "function": lambda: {"api_key": lambda: held.value},
        "header": lambda: {"headers": {"X-Team": "team", "X-Key": held.value}},
        "bearer header": lambda: {"api_key": "another-key", "headers": {"Authorization": f"Bearer {held.value}"}},
    }[way]()


WAYS = ["key", "function", "header", "bearer header"]
calls = st.tuples(keys.map(Held), st.sampled_from(WAYS), st.sampled_from(sorted(PROVIDERS)), st.booleans())


def called(client: PhiClient, stream: bool) -> SLMError | None:
    try:
        if stream:
            with client.stream("Hi", model="m", timeout=0.5) as answer:
                for _ in answer:
                    pass
        else:
            client.chat("Hi", model="m", timeout=0.5)
    except SLMError as error:
        return error
    return None


async def acalled(client: AsyncPhiClient, stream: bool) -> SLMError | None:
    try:
        if stream:
            async with client.stream("Hi", model="m", timeout=0.5) as answer:
                async for _ in answer:
                    pass
        else:
            await client.chat("Hi", model="m", timeout=0.5)
    except SLMError as error:
        return error
    finally:
        await client.aclose()
    return None


def found_after(held: Held, stream: bool, asynchronous: bool, records: Records, **arguments: Any) -> list[str]:
    """Make a client and a call that fails; return where the key shows."""
    records.texts.clear()
    arguments |= {"env_file": False, "max_retries": 0}
    if asynchronous:
        aclient = AsyncPhiClient(**arguments)
        del arguments
        aerror = asyncio.run(acalled(aclient, stream))
        assert aerror is not None
        return where(held, aerror, aclient, records)
    with PhiClient(**arguments) as client:
        del arguments
        error = called(client, stream)
        assert error is not None
        return where(held, error, client, records)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.__name__)
def test_whatever_a_server_sends_back_the_key_shows_nowhere(
    manner: Any, asynchronous: bool, echo: Echo, records: Records
) -> None:
    echo.manner = manner

    @settings(with_sockets, max_examples=4 if manner is Echo.silence else 12)
    @given(calls)
    def check(call: tuple[Held, str, str, bool]) -> None:
        held, way, provider, stream = call
        address = f"http://127.0.0.1:{echo.port}{PROVIDERS[provider]}"
        found = found_after(
            held, stream, asynchronous, records, provider=provider, base_url=address, **given_as(way, held)
        )
        assert found == []
        end = time.monotonic() + 5  # a call that was given up may still be on its way
        while not held.is_in(echo.received) and time.monotonic() < end:
            time.sleep(0.005)
        assert held.is_in(echo.received), "the server itself did get the key"

    check()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_port_without_tls_or_without_a_server_gets_no_key_and_shows_none(
    asynchronous: bool, echo: Echo, records: Records
) -> None:
    taken = socket.socket()  # so that nobody else listens there
    taken.bind(("127.0.0.1", 0))
    nobody = taken.getsockname()[1]

    @with_sockets
    @given(calls, st.booleans())
    def check(call: tuple[Held, str, str, bool], tls: bool) -> None:
        held, way, provider, stream = call
        port = f"s://127.0.0.1:{echo.port}" if tls else f"://127.0.0.1:{nobody}"
        address = f"http{port}{PROVIDERS[provider]}"
        echo.received = ""
        found = found_after(
            held, stream, asynchronous, records, provider=provider, base_url=address, **given_as(way, held)
        )
        assert found == []
        assert not held.is_in(echo.received)

    with taken:
        check()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("manner", [Echo.whole_error, Echo.no_answer, Echo.no_http, Echo.html_error])
def test_the_password_in_a_proxys_url_shows_nowhere(
    manner: Any, asynchronous: bool, echo: Echo, records: Records
) -> None:
    echo.manner = manner
    letters = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789-_~", min_size=6, max_size=40)

    @with_sockets
    @given(letters.map(lambda end: Held("~K" + end)), st.booleans(), st.booleans())
    def check(held: Held, stream: bool, tunnel: bool) -> None:
        echo.received = ""
        found = found_after(
            held,
            stream,
            asynchronous,
            records,
            provider="openai",
            base_url=f"http{'s' if tunnel else ''}://model.invalid/v1",
            proxy=f"http://user:{held.value}@127.0.0.1:{echo.port}",
            insecure_http=True,
        )
        assert found == []
        assert "proxy-authorization: basic " in echo.received.lower()

    check()


@with_sockets
@given(keys.map(Held))
def test_a_function_that_fails_shows_nothing_of_what_it_held(records: Records, held: Held) -> None:
    def provider() -> str:
        token = held.value
        raise RuntimeError(f"the vault said no to {token}")

    address = "http://127.0.0.1:9/v1"
    for asynchronous in (False, True):
        assert found_after(held, False, asynchronous, records, base_url=address, api_key=provider) == []


# --- errors of the constructor

CONSTRUCTIONS: dict[str, Callable[[Held], dict[str, Any]]] = {
    "unknown option": lambda _: {"options": {"nope": 1}},
    "option of the wrong type": lambda _: {"provider": "azure", "base_url": "https://a.b",
                                           "options": {"deployment": 1}},
    "options that are none": lambda _: {"options": "x"},
    "no scheme": lambda _: {"base_url": "localhost:8000/v1"},
    "no host": lambda _: {"base_url": "http://"},
    "no URL": lambda _: {"base_url": "http://[::1"},
    "no port": lambda _: {"base_url": "http://localhost:none"},
    "another scheme": lambda _: {"base_url": "ftp://localhost"},
    "plain http to another machine": lambda _: {"base_url": "http://example.invalid/v1"},
    "unknown provider": lambda _: {"provider": "opnai"},
    "a model for a provider": lambda _: {"provider": "phi-4-mini"},
    "two models": lambda _: {"provider": "openai:a", "model": "b"},
    "no address": lambda _: {"provider": "azure"},
    "no env_file": lambda _: {"env_file": "/nowhere/.env"},
    "timeout": lambda _: {"timeout": "soon"},
    "deadline": lambda _: {"deadline": -1},
    "retries": lambda _: {"max_retries": -1},
    "unknown argument": lambda _: {"time_out": 5},
    "a misspelled api_key": lambda held: {"apikey": held.value},
    "misspelled headers": lambda held: {"header": {"X-Key": held.value}},
    "an empty key": lambda held: {"api_key": " ", "headers": {"X-Key": held.value}},
    "a key of bytes": lambda held: {"api_key": held.value.encode()},
    "a key with a line break": lambda held: {"api_key": f"{held.value}\nX: {held.value}"},
    "a key beyond ASCII": lambda held: {"api_key": f"{held.value}é"},
    "a header with a line break": lambda held: {"headers": {"X-Key": f"{held.value}\r\nX: 1"}},
    "a header after a bad one": lambda held: {"headers": {"X-Key": held.value, "X-Bad": "é"}},
    "a header that is no text": lambda held: {"headers": {"X-Key": held.value, "X-Bad": 5}},
    "headers that are no mapping": lambda held: {"headers": [f"X-Key: {held.value}"]},
    "a name that no header can have": lambda held: {"headers": {"X Key": held.value}},
    "a proxy that is no text": lambda held: {"proxy": [held.value]},
    "a proxy with a line break": lambda held: {"proxy": f"http://user:{held.value}\n@127.0.0.1"},
    "an empty proxy": lambda held: {"proxy": "", "headers": {"X-Key": held.value}},
    "a ready driver and a provider": lambda held: {"provider": "openai", "driver": object()},
}  # fmt: skip


@pytest.mark.parametrize("client_class", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize("wrong", CONSTRUCTIONS)
def test_an_error_of_the_constructor_shows_no_key(
    wrong: str, client_class: Any, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLM_PROVIDER", "SLM_BASE_URL", "SLM_MODEL", "SLM_API_KEY", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    @settings(without_sockets, max_examples=8)
    @given(keys.map(Held), st.booleans())
    def check(held: Held, beside: bool) -> None:
        records.texts.clear()
        arguments = {"provider": "openai", "env_file": False, **({"api_key": held.value} if beside else {})}
        arguments |= CONSTRUCTIONS[wrong](held)
        if wrong == "plain http to another machine":
            arguments |= {"api_key": held.value}
        try:
            client_class(**arguments)
        except ConfigurationError as error:
            del arguments
            found = where(held, error, None, records)
        else:
            raise AssertionError("it was taken")
        assert found == []

    check()


@pytest.mark.parametrize("address", ["https://user:{}@example.invalid/v1", "user:{}@example.invalid/v1", "{}@h:1"])
@without_sockets
@given(keys.filter(lambda key: not set(key) & set("/?#@[]:")))
def test_a_password_in_base_url_is_refused_without_repeating_it(address: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PhiClient("openai", base_url=address.format(key), env_file=False)
    assert key not in str(caught.value)


# --- keys in the environment

ENVIRONMENTS: dict[str, Callable[[Held], dict[str, str]]] = {
    "nothing wrong": lambda held: {"SLM_API_KEY": held.value, "SLM_BASE_URL": "http://127.0.0.1:9/v1"},
    "plain http": lambda held: {"SLM_API_KEY": held.value, "SLM_BASE_URL": "http://example.invalid/v1"},
    "no provider": lambda held: {"SLM_API_KEY": held.value, "SLM_PROVIDER": "opnai"},
    "no URL": lambda held: {"SLM_API_KEY": held.value, "SLM_BASE_URL": "localhost"},
    "no number": lambda held: {"SLM_API_KEY": held.value, "SLM_PROVIDER": "nvidia", "SLM_TIMEOUT": "x"},
    "no JSON": lambda held: {"SLM_API_KEY": held.value, "SLM_PROVIDER": "nvidia", "SLM_OPTIONS": "{"},
    "unknown option": lambda held: {"SLM_API_KEY": held.value, "SLM_PROVIDER": "nvidia", "SLM_OPTIONS": '{"a": 1}'},
    "no flag": lambda held: {"NVIDIA_API_KEY": held.value, "SLM_PROVIDER": "nvidia", "SLM_OFFLINE": "x"},
    "two models": lambda held: {"SLM_API_KEY": held.value, "SLM_PROVIDER": "nvidia", "SLM_MODEL": "azure:a"},
    "no key of the vendor's": lambda held: {"OPENAI_API_KEY": held.value, "SLM_PROVIDER": "nvidia"},
    "a bad key": lambda held: {"SLM_API_KEY": f"{held.value}é", "SLM_PROVIDER": "nvidia"},
    "a bad key of the vendor's": lambda held: {"NVIDIA_API_KEY": f"{held.value}é", "SLM_PROVIDER": "nvidia"},
    "a bad proxy": lambda held: {"HTTPS_PROXY": f"http://a:{held.value}\x7f@b", "SLM_PROVIDER": "nvidia",
                                 "NVIDIA_API_KEY": "k" * 20},
}  # fmt: skip


@pytest.mark.parametrize("wrong", ENVIRONMENTS)
def test_a_key_of_the_environment_shows_nowhere(wrong: str, records: Records) -> None:
    @settings(without_sockets, max_examples=8)
    @given(keys.filter(lambda key: not set(key) & set("/?#@[]")).map(Held))
    def check(held: Held) -> None:
        records.texts.clear()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENTS[wrong](held).items():
                patch.setenv(name, value)
            try:
                client = PhiClient(env_file=False, max_retries=0)
            except ConfigurationError as error:
                found = where(held, error, None, records)
            else:
                assert wrong == "nothing wrong"
                found = where(held, called(client, False), client, records)
        assert found == []

    check()


@settings(without_sockets, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys.filter(lambda key: not set(key) & set("'\"\\$`#=")).map(Held))
def test_a_key_and_an_address_from_different_places_show_nothing(tmp_path: Path, records: Records, held: Held) -> None:
    """The .env file must not decide where a key of the process goes, nor the error about that show it."""
    file = tmp_path / "env"
    for in_process, in_file in (("SLM_API_KEY", "SLM_BASE_URL=https://example.invalid/v1"),
                                ("NVIDIA_API_KEY", "NVIDIA_BASE_URL=https://integrate.api.nvidia.com/v1")):  # fmt: skip
        file.write_text(f"SLM_PROVIDER=nvidia\n{in_file}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(in_process, held.value)
            try:
                PhiClient(env_file=file)
            except ConfigurationError as error:
                found = where(held, error, None, records)
            else:
                raise AssertionError("it was taken")
        assert found == []
