"""What a driver does for each token of an engine, counted: what grows with an answer grows in step with it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slmclient.chat import ChatOptions, ChatRequest, Event, Start, TextDelta
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import Engine, EngineDriver, Outlet
from slmclient.drivers.engine.answering import Answer, Detokenizer, remembering
from slmclient.drivers.engine.inbox import AsyncInbox
from slmclient.drivers.llamacpp import LlamaCppDriver, LlamaCppEngine
from slmclient.request import chat_request


def request(**options: Any) -> ChatRequest:
    return chat_request("Hi", ChatOptions(**options), stream=True, model=None, timeout=30, deadline=30)


class Decoding:
    """A tokenizer of letters that writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, ids: Sequence[int]) -> str:
        self.asked.append(tuple(ids))
        return "".join(chr(97 + token) for token in ids)


@pytest.mark.parametrize("count", [100, 2000])
def test_a_token_is_decoded_once_more_with_the_one_before_it_and_no_more(count: int) -> None:
    decode = Decoding()
    words = Detokenizer(remembering(decode))
    text = "".join(words.add(number % 20) for number in range(count))
    assert text == "".join(chr(97 + number % 20) for number in range(count))
    single = [ids for ids in decode.asked if len(ids) == 1]
    assert len(single) == len(set(single)) == 20, "each is decoded by itself once, whatever comes again"
    assert len(decode.asked) <= count + 20
    assert max(map(len, decode.asked)) == 2


class Fast(Engine):
    """Writes so many tokens, as fast as it can."""

    count = 500

    def __init__(self) -> None:
        self.full = threading.Event()

    def load(self, wanted: Callable[[], bool]) -> None:
        pass

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        emit(Start("fast", "fast"))
        answer = Answer(emit, limit=self.count, words=Detokenizer(lambda ids: "x" * len(ids)))
        while answer.token(7):
            pass
        answer.end(1)
        self.full.set()

    def unload(self) -> None:
        pass


class FastDriver(EngineDriver):
    info: ClassVar[DriverInfo] = DriverInfo(name="fast", title="Fast", docs="-", default_model="fast")

    def make_engine(self) -> Fast:
        return Fast()


def test_what_came_while_the_loop_was_busy_wakes_it_once() -> None:
    """Not once a token: each would be a call through the loop's socket."""
    driver = FastDriver(DriverConfig("fast"))

    async def main() -> tuple[int, list[Event]]:
        loop = asyncio.get_running_loop()
        woken = Counter[str]()
        own = loop.call_soon_threadsafe

        def counted(callback: Any, *arguments: Any, **more: Any) -> asyncio.Handle:
            woken["up"] += 1
            return own(callback, *arguments, **more)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        stream = driver.aevents(request())
        found = [await anext(stream)]
        room = driver._room
        assert room is not None
        assert isinstance(room.engine, Fast)
        room.engine.full.wait(10)  # the loop is busy until the engine has written everything
        before = woken["up"]
        tasks = len(asyncio.all_tasks(loop))
        async for event in stream:
            found.append(event)
            assert len(asyncio.all_tasks(loop)) == tasks, "no task is made for a token"
        assert woken["up"] - before <= 1
        return woken["up"], found

    calls, found = asyncio.run(main())
    driver.close()
    assert sum(isinstance(event, TextDelta) for event in found) == Fast.count
    assert calls <= 5


def test_an_inbox_gives_everything_in_order_and_says_when_nothing_came() -> None:
    async def main() -> None:
        inbox = AsyncInbox(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            await inbox.get(lambda: 0.0)
        thread = threading.Thread(target=lambda: [inbox.put(number) for number in range(1000)])
        thread.start()
        assert [await inbox.get(lambda: 10.0) for _ in range(1000)] == list(range(1000))
        thread.join()
        waiting = asyncio.create_task(inbox.get(lambda: 10.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        inbox.put("later")
        assert await inbox.get(lambda: 10.0) == "later"

    asyncio.run(main())


def test_a_wake_up_for_what_was_taken_already_ends_no_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        inbox = AsyncInbox(loop)
        inbox.put("first")  # has the loop called, at its next turn
        assert await inbox.get(lambda: 10.0) == "first"
        loop.call_later(0.05, inbox.put, "second")
        assert await inbox.get(lambda: 10.0) == "second"

    asyncio.run(main())


def test_what_comes_for_a_loop_that_is_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    inbox = AsyncInbox(loop)
    loop.close()
    inbox.put("too late")
    inbox.put("too late")


# --- llama.cpp's frames


@pytest.mark.parametrize(("stop", "told"), [({}, False), ({"stop": ["x"]}, True)])
def test_a_frame_has_timings_only_where_it_may_have_to_be_the_last(
    weights: Path, stop: dict[str, Any], told: bool
) -> None:
    driver = LlamaCppDriver(DriverConfig("llamacpp", str(weights), options={"n_ctx": 256}))
    frames: list[Any] = []
    own = LlamaCppEngine._send

    def written_down(self: Any, request: Any, shown: Any, receive: Callable[[Any], bool]) -> None:
        def taken(frame: Any) -> bool:
            frames.append(frame)
            return receive(frame)

        own(self, request, shown, taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaCppEngine, "_send", written_down)
        asked = request(temperature=0, max_tokens=4, **stop)
        list(driver.events(asked))
    driver.close()
    texts = [frame for frame in frames if frame["choices"] and frame["choices"][0]["text"]]
    assert texts
    assert [("timings" in frame) for frame in texts] == [told] * len(texts)
    assert "timings" in frames[-1]


@pytest.mark.parametrize("kinds", [["CPU"], ["CPU", "GPU"], ["IGPU", "CPU"]])
def test_a_model_is_fitted_to_a_graphics_processor_only_where_there_is_one(kinds: list[str], weights: Path) -> None:
    """Fitting opens the model twice."""
    import xllamacpp

    class Engine:
        CommonParams = xllamacpp.CommonParams

        @staticmethod
        def get_device_info() -> list[dict[str, Any]]:
            prefix = "GGML_BACKEND_DEVICE_TYPE_"
            return [{"type": xllamacpp.ggml_backend_dev_type[prefix + kind]} for kind in kinds]

    driver = LlamaCppDriver(DriverConfig("llamacpp", str(weights)))
    engine: Any = driver.make_engine()
    assert engine._parameters(Engine, weights).fit_params == (len(kinds) > 1)
