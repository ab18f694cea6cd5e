"""ScriptedDriver for users' tests, and what the contract suite stands on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import closing
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from llama_server import KEY, LlamaServers, RecordingProxy, until
from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import KNOBS, Finish, Start, TextDelta, ToolCallDelta, Usage
from slmclient.drivers.base import Feature
from slmclient.errors import (
    APITimeoutError,
    ConfigurationError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from slmclient.request import chat_request
from slmclient.testing import FaultServer, HttpDriverContract, ScriptedDriver
from slmclient.testing.fault_server import Cut, Silence, whole
from slmclient.testing.mode import MODES, Mode

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def asked(**options: Any) -> Any:
    deadline = options.pop("deadline", 60)
    return chat_request("Hello?", options, stream=True, model=None, timeout=60, deadline=deadline)  # type: ignore[arg-type]


# ScriptedDriver


def test_a_text_is_streamed_word_by_word() -> None:
    driver = ScriptedDriver("The  fox\nis red. ")
    with PhiClient(driver=driver).stream("Which colour has the fox?") as stream:
        assert list(stream) == ["The", "  fox", "\nis", " red.", " "]
    assert stream.reply.text == "The  fox\nis red. "
    assert (stream.reply.provider, stream.reply.model, stream.reply.finish_reason) == ("scripted", "script", "stop")


@pytest.mark.parametrize("text", ["", " ", "\n\n", "a", " a", "é 👩‍👩‍👧\u2003b"])
def test_no_text_is_lost(text: str) -> None:
    assert PhiClient(driver=ScriptedDriver(text)).chat("Hello?").text == text


def test_scripts_are_played_in_order_and_requests_kept() -> None:
    driver = ScriptedDriver("One.", "Two.")
    client = PhiClient(driver=driver)
    assert [client.chat("First?").text, client.chat("Second?", temperature=0.5).text] == ["One.", "Two."]
    assert [request.messages[-1].text for request in driver.requests] == ["First?", "Second?"]
    assert driver.requests[1].sampling == {"temperature": 0.5}


def test_a_conversation_is_seen_whole() -> None:
    driver = ScriptedDriver("Hello Ada.", "Ada.")
    talk = PhiClient(driver=driver).conversation(system="Be kind.")
    talk.send("I am Ada.")
    talk.send("Who am I?")
    assert [message.role for message in driver.requests[1].messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("error", [RateLimitError, RateLimitError("busy", retry_after=0.01)])
def test_an_error_is_raised_and_retried_like_any_other(error: Any) -> None:
    reply = PhiClient(driver=ScriptedDriver(error, "Hello.")).chat("Hello?")
    assert reply.text == "Hello."
    assert [attempt.error for attempt in reply.attempts] == ["RateLimitError", None]


def test_an_error_among_events_is_raised_where_it_stands() -> None:
    driver = ScriptedDriver([TextDelta("Half an "), TextDelta("answer"), StreamInterruptedError("The line broke.")])
    with PhiClient(driver=driver).stream("Hello?") as stream, pytest.raises(StreamInterruptedError) as caught:
        list(stream)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half an answer"


def test_a_function_answers_from_the_request() -> None:
    driver = ScriptedDriver(lambda request: f"You said {request.messages[-1].text}", lambda _: RateLimitError("busy"))
    client = PhiClient(driver=driver, max_retries=0)
    assert client.chat("Hello?").text == "You said Hello?"
    with pytest.raises(RateLimitError, match="busy"):
        client.chat("Hello?")


def test_start_and_finish_are_added_only_where_they_are_missing() -> None:
    usage = Usage(input_tokens=1, output_tokens=2)
    given = [Start("other", "own", "id-1"), TextDelta("Hi"), Finish("length"), usage]
    driver = ScriptedDriver(given, [], [ToolCallDelta(0, "c1", "weather", '{"city": "Oslo"}')])
    assert list(driver.events(asked())) == given
    assert list(driver.events(asked(model="m"))) == [Start("scripted", "m"), Finish("stop")]
    reply = PhiClient(driver=ScriptedDriver([ToolCallDelta(0, "c1", "weather", '{"city": "Oslo"}')])).chat("Hello?")
    assert (reply.finish_reason, reply.tool_calls[0].arguments) == ("tool_calls", {"city": "Oslo"})


@every_mode
def test_when_the_scripts_have_run_out_it_says_so(mode: Mode) -> None:
    async def scenario() -> None:
        driver = ScriptedDriver("One.")
        await mode.all(driver, asked())
        with pytest.raises(ConfigurationError, match="no script for call 2: it was given 1"):
            await mode.all(driver, asked())

    mode.run(scenario)


@pytest.mark.parametrize("script", [7, None, b"bytes", {"text": "Hi"}, [TextDelta("Hi"), 7], lambda _: 7, ValueError])
def test_what_is_no_script_is_refused(script: Any) -> None:
    with pytest.raises(ConfigurationError, match="A script is a str"):
        list(ScriptedDriver(script).events(asked()))


def test_it_takes_what_it_is_told_to_take() -> None:
    client = PhiClient(driver=ScriptedDriver("Hi", name="small", features=[Feature.TOOLS], knobs=KNOBS[:1]))
    with pytest.raises(UnsupportedFeatureError, match="small takes no images"):
        client.chat("Hello?", images=["data:image/png;base64,AA=="])
    with pytest.warns(UserWarning, match="small has no top_p"):
        assert client.chat("Hello?", temperature=0, top_p=0.5).dropped == ("top_p",)


@every_mode
def test_cancelling_and_the_deadline_cut_a_delay_short(mode: Mode) -> None:
    async def scenario() -> None:
        driver = ScriptedDriver("Hello", "Hello", delay=30)
        request = asked()
        threading.Timer(0.05, request.cancellation.cancel).start()
        assert await mode.all(driver, request) == [Finish("cancelled")]
        with pytest.raises(APITimeoutError, match="deadline"):
            await mode.all(driver, asked(deadline=0.05))

    mode.run(scenario, 10)


def test_tasks_take_turns() -> None:
    order: list[str] = []
    note = order.append

    async def read(client: AsyncPhiClient, name: str) -> None:
        async with client.stream(name) as stream:
            async for _ in stream:
                note(name)

    async def both() -> None:
        client = AsyncPhiClient(driver=ScriptedDriver("a a a", "b b b", delay=0.01))
        await asyncio.gather(read(client, "a"), read(client, "b"))

    asyncio.run(both())
    assert sorted(order) == ["a"] * 3 + ["b"] * 3
    assert order != sorted(order)


def test_its_users_need_no_pytest() -> None:
    statement = (
        "import sys, slmclient.testing as t; t.ScriptedDriver('Hi'); t.FaultServer; "
        "assert 'pytest' not in sys.modules; t.DriverContract; assert 'pytest' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", statement], check=True)


def test_the_package_names_what_it_has() -> None:
    import slmclient.testing as testing

    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = testing.Nothing  # type: ignore[attr-defined]


# The contract


def promises() -> dict[str, Any]:
    return {name: getattr(HttpDriverContract, name) for name in dir(HttpDriverContract) if name.startswith("test_")}


def test_every_promise_is_stated() -> None:
    assert len(promises()) > 50
    assert [name for name, test in promises().items() if not (test.__doc__ or "").strip()] == []


@every_mode
def test_a_scenario_that_hangs_fails_and_shows_where(mode: Mode) -> None:
    never = threading.Event()

    async def hanging_scenario() -> None:
        never.wait(5)

    with pytest.raises(AssertionError, match=r"(?s)still not over after 0.2 s.*hanging_scenario"):
        mode.run(hanging_scenario, 0.2)
    never.set()


@every_mode
def test_scenarios_run_together(mode: Mode) -> None:
    """Each waits for all the others: one after the other they would never end."""
    arrived: list[int] = []

    async def one() -> int:
        arrived.append(1)
        assert await mode.until(lambda: len(arrived) >= 3, 5)
        return 1

    async def failing() -> int:
        raise RateLimitError("busy")

    async def scenario() -> None:
        assert await mode.together(one, one, one) == [1, 1, 1]
        with pytest.raises(RateLimitError):
            await mode.together(one, failing)

    mode.run(scenario)


# FaultServer


def test_a_fault_server_answers_as_told_and_notes_what_it_saw() -> None:
    with FaultServer(whole(503, {"error": "busy"}, Retry_After="7")) as server:
        with pytest.raises(HTTPError) as caught:
            urlopen(f"{server.url}/v1/models?x=1", data=b"body", timeout=5)
        assert (caught.value.code, caught.value.headers["Retry-After"]) == (503, "7")
        assert caught.value.read() == b'{"error": "busy"}'
        caught.value.close()
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/models?x=1", b"body")
    assert seen.headers["host"] == server.url.removeprefix("http://")


def connected(server: FaultServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def test_a_cut_is_a_reset() -> None:
    with FaultServer(b"HTTP/1.1 200 OK\r\n", Silence(0.05), Cut()) as server, closing(connected(server)) as connection:
        assert connection.recv(100) == b"HTTP/1.1 200 OK\r\n"
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_it_notices_that_a_client_hangs_up() -> None:
    with FaultServer(Silence()) as server:
        connection = connected(server)
        assert not server.gone.wait(0.2)
        connection.close()
        assert server.gone.wait(1)


def test_closing_it_ends_a_silence() -> None:
    server = FaultServer(Silence())
    with closing(connected(server)) as connection:
        assert until(lambda: bool(server.seen))
        server.close()
        assert connection.recv(1) == b""


# The tests' own llama.cpp server


def test_a_proxy_records_what_a_real_server_was_asked(llama_server: LlamaServers) -> None:
    server = llama_server(api_prefix="/inference")
    assert llama_server(api_prefix="/inference", n_parallel=4) is server
    with RecordingProxy(server.url) as proxy:
        client = PhiClient("openai", "any", base_url=f"{proxy.url}/inference", api_key=KEY)
        with client:
            for stream in (False, True):
                text = (
                    "".join(client.stream("What is the capital of Japan?", temperature=0, max_tokens=12))
                    if stream
                    else client.chat("What is the capital of Japan?", temperature=0, max_tokens=12).text
                )
                assert text == "The capital of Japan is Tokyo."
        assert until(server.idle)
        recorded = proxy.requests
    assert [request.path for request in recorded] == ["/inference/chat/completions"] * 2
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in recorded)
    assert [request.json.get("stream") for request in recorded] == [None, True]


def test_it_asks_for_its_key(llama_server: LlamaServers) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{llama_server().url}/v1/slots", timeout=5)
    assert caught.value.code == 401
    caught.value.close()
