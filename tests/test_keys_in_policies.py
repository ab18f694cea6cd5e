"""Keys of several providers at once, through every policy: none shows anywhere, nor reaches another's server.

Retries, hedges and fallbacks keep errors for longer and pass them on; hooks, spans and recordings see more than logs.
The servers are those of `test_keys_do_not_leak`, which send back what they received; the search is that one, and more.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import opentelemetry.metrics._internal as metrics_api
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry import trace

from slmclient import AsyncPhiClient, PhiClient, RetryPolicy
from slmclient.drivers.secret import Secret
from slmclient.errors import SLMError, StreamInterruptedError
from slmclient.policy.telemetry import _tracer
from slmclient.testing import recording
from test_keys_do_not_leak import (
    MANNERS,
    PROVIDERS,
    WAYS,
    Echo,
    Held,
    Records,
    errors_of,
    given_as,
    keys,
    records,
    where,
)
from test_observing import Recorded

__all__ = ["records"]  # a fixture


# --- more ways to send back what was received: in a head, and in an answer that is one


def values_in(received: str) -> str:
    """Return the values of the received headers, as one that a header can carry."""
    return " ".join(line.partition(": ")[2] for line in received.splitlines()[1:])


def in_headers(echo: Echo, connection: socket.socket, received: str) -> None:
    said = values_in(received)
    names = ("X-Request-Id", "X-RateLimit-Remaining-Requests", "X-RateLimit-Limit", "Location", "Server")
    fields = "".join(f"{name}: {said}\r\n" for name in names)
    connection.sendall(f"HTTP/1.1 429 X\r\nRetry-After: 0\r\n{fields}Content-Length: 2\r\n\r\n{{}}".encode())


def in_retry_after(echo: Echo, connection: socket.socket, received: str) -> None:
    said = values_in(received)
    head = f"HTTP/1.1 503 {said}\r\nRetry-After: {said}\r\nContent-Type: {said}\r\nContent-Length: {len(said)}\r\n"
    connection.sendall(f"{head}\r\n{said}".encode())


def in_status_line(echo: Echo, connection: socket.socket, received: str) -> None:
    connection.sendall(f"HTTP/1.1 {values_in(received)}\r\n\r\n".encode())


def in_an_answer(echo: Echo, connection: socket.socket, received: str) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": received}}
    whole = {"id": received, "model": received, "choices": [choice], "usage": {received: 1}}
    echo.answer(connection, 200, "application/json", json.dumps(whole))


def in_a_stream(echo: Echo, connection: socket.socket, received: str) -> None:
    frames = [{"id": received, "model": received, "choices": [{"index": 0, "delta": {"content": piece}}]}
              for piece in (received[:60], received[60:])]  # fmt: skip
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
    echo.answer(connection, 200, "text/event-stream", body + "data: [DONE]\n\n")


ANSWERS = [in_an_answer, in_a_stream]
MORE = [in_headers, in_retry_after, in_status_line, *ANSWERS]
QUICK = [manner for manner in MANNERS if manner is not Echo.silence]


@pytest.fixture(scope="module")
def echoes() -> Iterator[tuple[Echo, Echo]]:
    """Two servers: the provider's, and its fallback's."""
    pair = Echo(), Echo()
    yield pair
    for server in pair:
        server.patience.set()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


# --- what is looked at


def parts(root: object) -> Iterator[tuple[str, object]]:
    """Yield what hangs on an object of ours, by attributes and in collections, as far as it is ours; no `Secret`."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [(type(root).__name__, root)]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen or isinstance(value, (Secret, type)):
            continue
        seen.add(id(value))
        yield name, value
        if isinstance(value, dict):
            waiting += [(f"{name}[{key!r}]", each) for key, each in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += [(f"{name}[{place}]", each) for place, each in enumerate(value)]
        elif type(value).__module__.startswith("slmclient") or isinstance(value, BaseException):
            slots = [
                slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ()) if slot[:2] != "__"
            ]
            held = {**dict.fromkeys(slots), **getattr(value, "__dict__", {})}
            waiting += [(f"{name}.{attribute}", getattr(value, attribute, None)) for attribute in held]


def pickled(value: object) -> bytes:
    """Return what pickling gives; nothing where it is refused."""
    try:
        return pickle.dumps(value)
    except Exception as error:
        return str(error).encode()


@dataclass
class Seen:
    """One call and everything that saw it."""

    client: Any = None
    reply: Any = None
    error: BaseException | None = None
    events: list[Any] = field(default_factory=list)
    spans: str = ""
    cassette: str = ""

    def showing(self, held: Held, records: Records) -> list[str]:
        """Return every place that shows the key."""
        # The HTTP library logs, at DEBUG, the heads that it got: what the server wrote, not we.
        records.texts[:] = [text for text in records.texts if "receive_response_headers.complete" not in text]
        found = where(held, self.error, self.client, records)
        roots: list[tuple[str, object]] = [("client", self.client), ("events", self.events)]
        roots += [(type(error).__name__, error) for error in (errors_of(self.error) if self.error else [])]
        for name, root in roots:
            for place, value in parts(root):
                shown = f"{value!r} {value!s} {getattr(value, '__dict__', '')!r}"
                found += [f"{name}: {place}"] if held.is_in(shown) else []
            found += [f"pickle of {name}"] if held.value.encode() in pickled(root) else []
        found += ["a span or metric"] if held.is_in(self.spans) else []
        found += ["the cassette"] if held.is_in(self.cassette) else []
        return found


def test_the_search_finds_what_is_there(records: Records) -> None:
    """It must be able to fail: a key in each of the places is found there."""
    held = Held("~K'quoted\\-1234")
    for seen in (
        Seen(events=[held.value]),
        Seen(error=SLMError("m", request_id=held.value)),
        Seen(spans=json.dumps({"a": held.value})),
        Seen(cassette=json.dumps({"a": held.value})),
    ):
        assert seen.showing(held, records)
    noted = SLMError("m")
    noted.add_note(f"It was {held.value}")
    assert any("__notes__" in place for place in Seen(error=noted).showing(held, records))
    assert any("pickle" in place for place in Seen(events=[(1, held.value)]).showing(held, records))


# --- the calls


@dataclass(frozen=True)
class Plan:
    """What a call goes through."""

    key: Held
    other: Held
    way: str
    provider: str
    stream: bool
    hedged: bool
    retries: int


plans = st.builds(
    Plan,
    keys.map(Held),
    keys.map(Held),
    st.sampled_from(WAYS),
    st.sampled_from(sorted(PROVIDERS)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1),
).filter(lambda plan: plan.key.value != plan.other.value)


def arguments(plan: Plan, echoes: tuple[Echo, Echo], seen: Seen) -> dict[str, Any]:
    first, second = (f"http://127.0.0.1:{server.port}{PROVIDERS[plan.provider]}" for server in echoes)
    return {
        "provider": plan.provider,
        "base_url": first,
        "env_file": False,
        "retry": RetryPolicy(plan.retries, reserve=1e9),
        "fallbacks": [{"provider": plan.provider, "base_url": second, "api_key": plan.other.value}],
        "fallback_on": [SLMError],
        "hedge_after": 0.03 if plan.hedged else None,
        "on_event": seen.events.append,
        **given_as(plan.way, plan.key),
    }


def call(plan: Plan, echoes: tuple[Echo, Echo], seen: Seen) -> None:
    with PhiClient(**arguments(plan, echoes, seen)) as seen.client:
        try:
            if plan.stream:
                with seen.client.stream("Hi", model="m", timeout=0.8) as stream:
                    list(stream)
                seen.reply = stream.reply
            else:
                seen.reply = seen.client.chat("Hi", model="m", timeout=0.8)
        except SLMError as error:
            seen.error = error


async def acall(plan: Plan, echoes: tuple[Echo, Echo], seen: Seen) -> None:
    async with AsyncPhiClient(**arguments(plan, echoes, seen)) as seen.client:
        try:
            if plan.stream:
                async with seen.client.stream("Hi", model="m", timeout=0.8) as stream:
                    [_ async for _ in stream]
                seen.reply = stream.reply
            else:
                seen.reply = await seen.client.chat("Hi", model="m", timeout=0.8)
        except SLMError as error:
            seen.error = error


def watched_call(plan: Plan, echoes: tuple[Echo, Echo], asynchronous: bool, folder: Path) -> Seen:
    """Make a call that everything watches: a hook, spans, metrics and a recording."""
    seen, otel, cassette = Seen(), Recorded(), folder / "cassette.json"
    _tracer(otel.tracers)
    with pytest.MonkeyPatch.context() as patch, recording(cassette):
        patch.setattr(trace, "_TRACER_PROVIDER", otel.tracers)
        patch.setattr(metrics_api, "_METER_PROVIDER", otel.meters)
        if asynchronous:
            asyncio.run(acall(plan, echoes, seen))
        else:
            call(plan, echoes, seen)
    seen.spans, seen.cassette = otel.all_text(), cassette.read_text()
    assert seen.spans
    assert "calls" in seen.cassette
    return seen


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("manner", [*QUICK, *MORE], ids=lambda manner: manner.__name__)
def test_no_key_shows_through_any_policy(
    manner: Any,
    asynchronous: bool,
    echoes: tuple[Echo, Echo],
    records: Records,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("cassettes")

    @settings(max_examples=5, deadline=None, phases=[Phase.generate])  # smaller ones would show no more, and take long
    @given(plans, st.sampled_from([*QUICK, *MORE]))
    def check(plan: Plan, others: Any) -> None:
        records.texts.clear()
        for server, how in zip(echoes, (manner, others), strict=True):
            server.manner, server.received = how, ""
        seen = watched_call(plan, echoes, asynchronous, folder)
        for held in (plan.key, plan.other):
            assert seen.showing(held, records) == []
        for server, own, foreign in zip(echoes, (plan.key, plan.other), (plan.other, plan.key), strict=True):
            assert not foreign.is_in(server.received), "a key reached the server of another provider"
            assert own.is_in(server.received) or not server.received
        assert echoes[0].received
        if seen.error is not None and not isinstance(seen.error, StreamInterruptedError):
            assert echoes[1].received, "the fallback was not asked"

    check()
