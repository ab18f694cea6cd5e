"""Streams: text while it is written, every event on request, and an end that frees what they hold, however it comes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from slmclient import AsyncPhiClient, PhiClient, Usage
from slmclient.chat import Event, Finish, Note, ReasoningDelta, Start, TextDelta, ToolCallDelta
from slmclient.errors import APIConnectionError, RateLimitError, SLMError, StreamInterruptedError
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Cut, Silence, head
from test_client import FACES, Face, Watched, both

SOON = 3.0  # seconds; what ends at once takes far less, what does not takes 30


def frame(text: str) -> bytes:
    """Return a stream chunk as an OpenAI-compatible server sends it."""
    chunk = {"id": "x", "model": "served", "choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


async def reading(pieces: AsyncGenerator[str, None], seen: list[str]) -> AsyncGenerator[str, None]:
    """Note what comes, also if there is no end to it."""
    async for piece in pieces:
        seen.append(piece)
        yield piece


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

# --- reading


@both
async def test_iterating_gives_the_text_piece_by_piece(face: Face) -> None:
    client = face.client([TextDelta("To"), ReasoningDelta("hm"), TextDelta("ky"), TextDelta("o.")])
    async with face.opened(client.stream("?")) as stream:
        assert [piece async for piece in face.each(stream)] == ["To", "ky", "o."]
    assert (stream.reply.text, stream.reply.reasoning) == ("Tokyo.", "hm")


@both
async def test_events_gives_everything_in_order(face: Face) -> None:
    script = [
        Start("scripted", "m", "id-1"),
        ReasoningDelta("hm"),
        TextDelta("a"),
        ToolCallDelta(0, "call_1", "f", "{}"),
        Finish("tool_calls"),
        Usage(input_tokens=1, output_tokens=2),
    ]
    async with face.opened(face.client(script).stream("?")) as stream:
        events = [event async for event in face.each(stream.events())]
    assert [event for event in events if not isinstance(event, Note)] == script
    assert isinstance(events[0], Start)
    assert [event.kind for event in events if isinstance(event, Note)] == ["attempt"]
    assert stream.reply.finish_reason == "tool_calls"


@both
async def test_pieces_come_while_the_server_still_writes(face: Face) -> None:
    """The first piece is here before the server has written the second."""
    read = threading.Event()

    def once_read(_: Any) -> bytes:
        assert read.wait(10), "the first piece was never read"
        return frame("second") + END

    with FaultServer(head(), frame("first"), once_read) as server:
        pieces = []
        async with face.opened(face.kind("openai", "m", base_url=server.url).stream("?")) as stream:
            async for piece in face.each(stream):
                pieces.append(piece)
                read.set()
    assert pieces == ["first", "second"]


@both
async def test_nothing_is_asked_before_it_is_read(face: Face) -> None:
    driver = ScriptedDriver("a")
    stream = face.kind(driver=driver).stream("?")
    assert driver.requests == []
    async with face.opened(stream):
        assert driver.requests == []
        await face.text(stream)
    assert len(driver.requests) == 1


@both
async def test_a_stream_works_without_a_with_block(face: Face) -> None:
    stream = face.client("To kyo.").stream("?")
    assert await face.text(stream) == "To kyo."
    assert stream.reply.text == "To kyo."


@both
async def test_reading_again_gives_nothing_more(face: Face) -> None:
    driver = ScriptedDriver("a", "b")
    async with face.opened(face.kind(driver=driver).stream("?")) as stream:
        assert await face.text(stream) == "a"
        assert await face.text(stream) == ""
        assert [event async for event in face.each(stream.events())] == []
    assert len(driver.requests) == 1


@both
async def test_reading_can_pause_and_go_on(face: Face) -> None:
    async with face.opened(face.client("one two three").stream("?")) as stream:
        async with aclosing(face.each(stream)) as pieces:
            first = await anext(pieces)
        assert first == "one"
        assert await face.text(stream) == " two three"
    assert stream.reply.text == "one two three"
    assert stream.reply.finish_reason == "stop"


# --- the reply


@both
async def test_the_reply_is_not_there_before_the_end(face: Face) -> None:
    async with face.opened(face.client("one two").stream("?")) as stream:
        with pytest.raises(SLMError, match="when the stream has ended"):
            _ = stream.reply
        async with aclosing(face.each(stream)) as pieces:
            await anext(pieces)
            with pytest.raises(SLMError, match="when the stream has ended"):
                _ = stream.reply
    assert stream.reply.text == "one"


@both
async def test_the_reply_is_there_at_the_end_inside_the_block(face: Face) -> None:
    async with face.opened(face.client("a").stream("?")) as stream:
        await face.text(stream)
        assert stream.reply.text == "a"
        assert stream.reply.finish_reason == "stop"


# --- ending early


@both
async def test_leaving_early_keeps_what_had_come(face: Face) -> None:
    driver = Watched()
    async with face.opened(face.kind(driver=driver).stream("?")) as stream:
        async with aclosing(face.each(stream)) as pieces:
            assert [await anext(pieces), await anext(pieces)] == ["word ", "word "]
        assert driver.running == 1
    assert driver.running == 0, "the driver still works"
    assert (stream.reply.text, stream.reply.finish_reason) == ("word word ", "cancelled")
    assert stream.reply.usage.estimated


@both
async def test_leaving_at_once_asks_nothing(face: Face) -> None:
    driver = ScriptedDriver("a")
    async with face.opened(face.kind(driver=driver).stream("?", model="m")) as stream:
        pass
    assert driver.requests == []
    assert (stream.reply.text, stream.reply.finish_reason) == ("", "cancelled")
    assert (stream.reply.provider, stream.reply.model) == ("scripted", "m")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@both
async def test_an_exception_in_the_block_ends_the_stream(face: Face, error: type[BaseException]) -> None:
    driver = Watched()
    stream = await face.broken_off(face.kind(driver=driver).stream("?"), error)
    assert driver.running == 0
    assert stream.reply.finish_reason == "cancelled"


@both
async def test_leaving_early_hangs_up(face: Face) -> None:
    with FaultServer(head(), frame("first"), Silence(30)) as server:
        stream = face.kind("openai", "m", base_url=server.url).stream("?")
        async with face.opened(stream), aclosing(face.each(stream)) as pieces:
            assert await anext(pieces) == "first"
        assert server.gone.wait(SOON), "the connection is still open"
    assert (stream.reply.text, stream.reply.model) == ("first", "served")


@both
async def test_close_ends_it_too(face: Face) -> None:
    driver = Watched()
    stream = face.kind(driver=driver).stream("?")
    async with aclosing(face.each(stream)) as pieces:
        await anext(pieces)
    await face.close(stream)
    assert driver.running == 0
    assert stream.reply.finish_reason == "cancelled"
    await face.close(stream)
    assert await face.text(stream) == ""


def test_a_keyboard_interrupt_while_the_driver_works_closes_it() -> None:
    driver = Watched()
    stream = PhiClient(driver=driver).stream("?")
    seen: list[str] = []

    def read() -> None:
        with stream:
            for text in stream:
                seen.append(text)
                if len(seen) == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert driver.running == 0
    assert stream.reply.text == "word word word "


def test_a_cancelled_task_closes_the_stream() -> None:
    with FaultServer(head(), frame("first"), Silence(30)) as server:

        async def scenario() -> tuple[str, str]:
            client = AsyncPhiClient("openai", "m", base_url=server.url)
            began = asyncio.Event()
            stream = client.stream("?")

            async def read() -> None:
                async with stream:
                    async for _ in stream:
                        began.set()

            task = asyncio.create_task(read())
            await asyncio.wait_for(began.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return stream.reply.text, stream.reply.finish_reason

        assert asyncio.run(scenario()) == ("first", "cancelled")
        assert server.gone.wait(SOON), "the connection is still open"


# --- cancel


@both
async def test_cancel_from_another_thread_ends_a_running_answer(face: Face) -> None:
    driver = ScriptedDriver(["word "] * 10_000, delay=0.01)
    stream = face.kind(driver=driver).stream("?")
    began, text = 0.0, ""
    async with face.opened(stream):
        async for piece in face.each(stream):
            text += piece
            if text == "word word ":
                began = time.monotonic()
                threading.Timer(0.1, stream.cancel).start()
        assert time.monotonic() - began < SOON
    assert text.startswith("word word")
    assert (stream.reply.text, stream.reply.finish_reason) == (text, "cancelled")


@both
async def test_cancel_from_another_thread_frees_a_silent_servers_connection(face: Face) -> None:
    """The reader waits for a server that says nothing: only another thread can end that."""
    with FaultServer(head(), frame("first"), Silence(30)) as server:
        async with face.opened(face.kind("openai", "m", base_url=server.url).stream("?")) as stream:
            pieces: list[str] = []
            async for piece in face.each(stream):
                pieces.append(piece)
                began = time.monotonic()
                threading.Timer(0.2, stream.cancel).start()
            assert pieces == ["first"]
            assert time.monotonic() - began < SOON
        assert server.gone.wait(SOON), "the connection is still open"
    assert (stream.reply.text, stream.reply.finish_reason) == ("first", "cancelled")


@both
async def test_cancel_between_two_pieces_gives_no_more_text(face: Face) -> None:
    driver = Watched()
    pieces = []
    async with face.opened(face.kind(driver=driver).stream("?")) as stream:
        async for piece in face.each(stream):
            pieces.append(piece)
            if len(pieces) == 2:
                stream.cancel()
                stream.cancel()  # twice is fine
    assert pieces == ["word ", "word "]
    assert driver.running == 0
    assert (stream.reply.text, stream.reply.finish_reason) == ("word word ", "cancelled")


@both
async def test_cancel_before_reading_gives_an_empty_reply(face: Face) -> None:
    async with face.opened(face.client("one two").stream("?")) as stream:
        stream.cancel()
        assert await face.text(stream) == ""
    assert (stream.reply.text, stream.reply.finish_reason) == ("", "cancelled")


@both
async def test_cancel_after_the_end_changes_nothing(face: Face) -> None:
    async with face.opened(face.client("a").stream("?")) as stream:
        await face.text(stream)
        before = stream.reply.finish_reason
        stream.cancel()
    assert before == stream.reply.finish_reason == "stop"


@both
async def test_an_error_because_of_cancelling_is_none(face: Face) -> None:
    """What breaks because the caller broke it is no news to the caller."""

    def script(request: Any) -> Any:
        yield TextDelta("a")
        request.cancellation.cancel()
        yield APIConnectionError("the socket was shut")

    async with face.opened(face.client(script).stream("?")) as stream:
        assert await face.text(stream) in ("a", "")
    assert stream.reply.finish_reason == "cancelled"


@both
async def test_one_stream_ends_and_others_go_on(face: Face) -> None:
    client = face.client("one two three", "four five six")
    async with face.opened(client.stream("?")) as first, face.opened(client.stream("?")) as second:
        async with aclosing(face.each(first)) as pieces:
            await anext(pieces)
        async with aclosing(face.each(second)) as pieces:
            await anext(pieces)
        first.cancel()
        assert await face.text(first) == ""
        assert await face.text(second) == " five six"
    assert [first.reply.finish_reason, second.reply.finish_reason] == ["cancelled", "stop"]


@both
async def test_a_call_while_a_stream_is_half_read(face: Face) -> None:
    client = face.client("one two three", "in between")
    async with face.opened(client.stream("?")) as stream:
        async with aclosing(face.each(stream)) as pieces:
            await anext(pieces)
        assert (await face.done(client.chat("?"))).text == "in between"
        assert await face.text(stream) == " two three"


# --- breaking off


@both
async def test_an_interrupted_stream_carries_what_had_come(face: Face) -> None:
    script = [Start("scripted", "m"), TextDelta("The capital "), TextDelta("is"), StreamInterruptedError("cut")]
    pieces: list[str] = []
    async with face.opened(face.client(script).stream("?")) as stream:
        with pytest.raises(StreamInterruptedError) as caught:
            _ = [piece async for piece in reading(face.each(stream), pieces)]
    assert caught.value.partial is not None
    assert caught.value.partial.text == "".join(pieces) == "The capital is"
    assert caught.value.partial.finish_reason == "error"
    assert (stream.reply.text, stream.reply.finish_reason) == ("The capital is", "error")


@both
async def test_chat_says_what_had_come_too(face: Face) -> None:
    script = [TextDelta("The capital"), StreamInterruptedError("cut")]
    with pytest.raises(StreamInterruptedError) as caught:
        await face.done(face.client(script).chat("?"))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "The capital"


@pytest.mark.parametrize("way", ["reset", "early end", "error frame"])
@both
async def test_a_server_that_breaks_off_interrupts_the_stream(face: Face, way: str) -> None:
    steps: dict[str, Any] = {
        "reset": [Silence(0.1), Cut()],
        "early end": [],
        "error frame": [b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'],
    }
    with FaultServer(head(), frame("The capital"), *steps[way]) as server:
        client = face.kind("openai", "m", base_url=server.url)
        with pytest.raises(StreamInterruptedError) as caught:
            async with face.opened(client.stream("?")) as stream:
                await face.text(stream)
        assert len(server.seen) == 1, "text was given out: nothing is asked again"
    assert caught.value.partial is not None
    assert (caught.value.partial.text, caught.value.partial.provider) == ("The capital", "openai")
    assert [attempt.error for attempt in caught.value.attempts] == ["StreamInterruptedError"]
    assert caught.value.partial.attempts == caught.value.attempts == stream.reply.attempts


@both
async def test_an_error_before_any_text_is_itself(face: Face) -> None:
    client = face.client(RateLimitError("busy"), max_retries=0)
    with pytest.raises(RateLimitError):
        async with face.opened(client.stream("?")) as stream:
            await face.text(stream)
    assert stream.reply.text == ""
    assert stream.reply.finish_reason == "error"


def test_all_events_of_a_stream_are_known() -> None:
    """A new event needs a place in `test_events_gives_everything_in_order`."""
    assert set(Event.__args__) == {Start, TextDelta, ReasoningDelta, ToolCallDelta, Usage, Finish, Note}
    assert len(FACES) == 2
