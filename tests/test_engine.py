"""EngineDriver: one thread that works, callers that never wait for each other, and every way in which either leaves."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import ChatOptions, ChatRequest, Event, Finish, Start, TextDelta, Usage
from slmclient.drivers import engine
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import Engine, EngineDriver, Outlet, room
from slmclient.errors import (
    APITimeoutError,
    ConfigurationError,
    EngineError,
    MissingDependencyError,
    SLMError,
)
from slmclient.request import chat_request

SOON = 0.9  # seconds in which something that must happen at once has happened
BUSY = 1.6  # seconds of a step that nobody can interrupt


class Spelling(Engine):
    """A real engine, if a small one: spells the prompt, letter by letter; a digit is a step that takes BUSY seconds."""

    def __init__(self) -> None:
        self.loads = 0
        self.unloads = 0
        self.served: list[str] = []
        self.emitted = 0
        self.busy = 0
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.on_load: Callable[[Callable[[], bool]], None] = lambda wanted: None

    def load(self, wanted: Callable[[], bool]) -> None:
        self.threads.add(threading.get_ident())
        self.on_load(wanted)
        self.loads += 1

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        self.threads.add(threading.get_ident())
        self.served.append(request.messages[-1].text)
        self.busy += 1
        try:
            self.spell(request, emit)
        finally:
            self.busy -= 1

    def spell(self, request: ChatRequest, emit: Outlet) -> None:
        prompt = request.messages[-1].text
        emit(Start("speller", "abc"))
        self.gate.wait(10)
        for letter in prompt:
            if letter.isdigit():
                time.sleep(BUSY)
            self.emitted += 1
            if not emit(TextDelta(letter)):
                return
        emit(Finish("stop"))
        emit(Usage(input_tokens=len(prompt), output_tokens=len(prompt)))

    def unload(self) -> None:
        self.threads.add(threading.get_ident())
        self.unloads += 1


class EndlessSpelling(Spelling):
    """Never stops by itself."""

    def spell(self, request: ChatRequest, emit: Outlet) -> None:
        emit(Start("speller", "abc"))
        while emit(TextDelta("x")):
            self.emitted += 1


class FailingSpelling(Spelling):
    """Raises what it is told to."""

    error: BaseException | None = None

    def spell(self, request: ChatRequest, emit: Outlet) -> None:
        emit(Start("speller", "abc"))
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        emit(TextDelta("well"))
        emit(Finish("stop"))


class Speller(EngineDriver):
    info: ClassVar[DriverInfo] = DriverInfo(name="speller", title="Spells", docs="-", default_model="abc")
    kind: ClassVar[type[Spelling]] = Spelling

    def __init__(self, engine: Spelling | None = None, **options: Any) -> None:
        super().__init__(DriverConfig("speller", options=options))
        self.engine: Any = engine or self.kind()

    def make_engine(self) -> Engine:
        return self.engine  # type: ignore[no-any-return]

    def shared_by(self) -> Hashable | None:
        return id(self.engine)


class Endless(Speller):
    kind = EndlessSpelling


class Failing(Speller):
    kind = FailingSpelling


def request(prompt: str = "abc", **options: Any) -> ChatRequest:
    return chat_request(prompt, ChatOptions(**options), stream=True, model=None, timeout=30, deadline=30)


def events(driver: EngineDriver, asked: ChatRequest, asynchronous: bool) -> list[Event]:
    """Return all events of a call."""
    if not asynchronous:
        return list(driver.events(asked))

    async def main() -> list[Event]:
        return [event async for event in driver.aevents(asked)]

    return asyncio.run(main())


def text_of(found: list[Event]) -> str:
    return "".join(event.text for event in found if isinstance(event, TextDelta))


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
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
def later(seconds: float, action: Callable[[], Any]) -> Iterator[None]:
    timer = threading.Timer(seconds, action)
    timer.start()
    yield
    timer.join()


@pytest.fixture
def driver() -> Iterator[Speller]:
    made = Speller()
    yield made
    made.engine.gate.set()
    made.close()


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


# --- one thread, one call after another


@both
def test_all_of_the_engines_work_is_done_on_one_thread_of_its_own(driver: Speller, asynchronous: bool) -> None:
    for prompt in ("abc", "def"):
        assert text_of(events(driver, request(prompt), asynchronous)) == prompt
    driver.close()
    assert driver.engine.loads == 1
    assert driver.engine.unloads == 1
    assert len(driver.engine.threads) == 1
    assert threading.get_ident() not in driver.engine.threads


def test_making_a_driver_starts_no_thread_and_loads_nothing() -> None:
    before = threading.active_count()
    made = Speller()
    assert threading.active_count() == before
    assert made.engine.loads == 0
    made.close()
    assert made.engine.unloads == 0


def test_events_come_in_the_order_in_which_the_engine_gives_them(driver: Speller) -> None:
    assert list(driver.events(request("ab"))) == [
        Start("speller", "abc"),
        TextDelta("a"),
        TextDelta("b"),
        Finish("stop"),
        Usage(input_tokens=2, output_tokens=2),
    ]


def test_calls_are_served_in_the_order_in_which_they_came(driver: Speller) -> None:
    prompts = [f"call {chr(97 + number)}" for number in range(8)]
    driver.engine.gate.clear()

    async def main() -> list[str]:
        async with AsyncPhiClient(driver=driver) as client:
            calls = [asyncio.create_task(client.chat(prompt)) for prompt in prompts]
            assert await asyncio.to_thread(until, lambda: driver.engine.served)
            driver.engine.gate.set()
            return [(await call).text for call in calls]

    assert asyncio.run(main()) == prompts
    assert driver.engine.served == prompts


def test_threads_that_ask_at_once_each_get_their_own_answer(driver: Speller) -> None:
    client = PhiClient(driver=driver)
    prompts = [f"prompt {chr(97 + number)}" for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda prompt: client.chat(prompt).text, prompts)) == prompts
    assert sorted(driver.engine.served) == sorted(prompts)
    assert len(driver.engine.threads) == 1


def test_a_half_read_stream_holds_up_nobody(driver: Speller) -> None:
    client = PhiClient(driver=driver)
    long = "abcdefghij" * 200
    with client.stream(long) as stream:
        texts = iter(stream)
        first = next(texts)
        with at_once(5.0):
            assert client.chat("other").text == "other"
        assert first + "".join(texts) == long


def test_a_half_read_async_stream_holds_up_nobody(driver: Speller) -> None:
    async def main() -> None:
        client = AsyncPhiClient(driver=driver)
        long = "abcdefghij" * 200
        async with client.stream(long) as stream:
            texts = aiter(stream)
            first = await anext(texts)
            with at_once(5.0):
                assert (await client.chat("other")).text == "other"
            assert first + "".join([text async for text in texts]) == long

    asyncio.run(main())


# --- cancelling and leaving


@both
def test_a_call_is_cancelled_at_once_though_the_engine_is_busy(driver: Speller, asynchronous: bool) -> None:
    asked = request("a1b")
    with at_once(0.3 + SOON), later(0.3, asked.cancellation.cancel):
        found = events(driver, asked, asynchronous)
    assert found == [Start("speller", "abc"), TextDelta("a"), Finish("cancelled")]
    assert text_of(events(driver, request("next"), asynchronous)) == "next"  # when the engine is free again
    assert "b" not in driver.engine.served


@both
def test_a_call_that_is_cancelled_in_the_queue_is_never_generated(driver: Speller, asynchronous: bool) -> None:
    driver.engine.gate.clear()
    first = driver.events(request("first"))
    next(first)
    asked = request("second")
    with at_once(0.2 + SOON), later(0.2, asked.cancellation.cancel):
        assert events(driver, asked, asynchronous) == [Finish("cancelled")]
    driver.engine.gate.set()
    assert text_of(list(first)) == "first"
    assert text_of(events(driver, request("third"), asynchronous)) == "third"
    assert driver.engine.served == ["first", "third"]


@both
def test_a_call_that_is_cancelled_before_it_begins_is_never_generated(driver: Speller, asynchronous: bool) -> None:
    asked = request("abc")
    asked.cancellation.cancel()
    assert events(driver, asked, asynchronous) == [Finish("cancelled")]
    assert driver.engine.served == []


def test_cancelling_after_the_end_adds_no_second_end(driver: Speller) -> None:
    asked = request("abc")
    found = list(driver.events(asked))
    asked.cancellation.cancel()
    assert [event for event in found if isinstance(event, Finish)] == [Finish("stop")]


@both
def test_a_cancelled_call_ends_with_its_finish_however_the_threads_interleave(asynchronous: bool) -> None:
    driver = Endless()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(60):
            asked = request()
            with later(number / 20_000, asked.cancellation.cancel):
                found = events(driver, asked, asynchronous)
            assert [event for event in found if isinstance(event, Finish)] == [found[-1]] == [Finish("cancelled")]
    finally:
        sys.setswitchinterval(interval)
        driver.close()


@both
def test_the_engine_stops_soon_after_its_caller_left(asynchronous: bool) -> None:
    driver = Endless()
    if asynchronous:

        async def main() -> None:
            async with AsyncPhiClient(driver=driver).stream("x") as stream:
                async for _ in stream:
                    break

        asyncio.run(main())
    else:
        with PhiClient(driver=driver).stream("x") as stream:
            next(iter(stream))
    assert until(lambda: not driver.engine.busy)
    emitted = driver.engine.emitted
    time.sleep(0.1)
    assert driver.engine.emitted == emitted
    driver.close()


def test_a_cancelled_task_leaves_the_engine_to_the_next_call(driver: Speller) -> None:
    async def main() -> str:
        client = AsyncPhiClient(driver=driver)
        task = asyncio.create_task(client.chat("a1b"))
        assert await asyncio.to_thread(until, lambda: driver.engine.served)
        task.cancel()
        with at_once(), pytest.raises(asyncio.CancelledError):
            await task
        return (await client.chat("next")).text

    assert asyncio.run(main()) == "next"


# --- time


@both
def test_a_deadline_ends_a_call_while_the_model_is_still_loading(driver: Speller, asynchronous: bool) -> None:
    driver.engine.on_load = lambda wanted: time.sleep(BUSY)
    with at_once(0.3 + SOON), pytest.raises(APITimeoutError, match=r"loading .* by the deadline"):
        events(driver, request("late", deadline=0.3), asynchronous)
    assert text_of(events(driver, request("next"), asynchronous)) == "next"
    assert driver.engine.loads == 1, "what was loaded is used"
    assert driver.engine.served == ["next"], "and what nobody waits for is not generated"


def test_loading_that_looks_whether_it_is_wanted_ends_early_and_begins_anew(driver: Speller) -> None:
    def patient(wanted: Callable[[], bool]) -> None:
        while wanted():
            time.sleep(0.01)
        raise EngineError("given up")

    driver.engine.on_load = patient
    with pytest.raises(APITimeoutError):
        list(driver.events(request(deadline=0.2)))
    driver.engine.on_load = lambda wanted: None
    with at_once():
        assert text_of(list(driver.events(request("next")))) == "next"


@both
def test_a_deadline_ends_a_call_while_it_waits_in_the_queue(driver: Speller, asynchronous: bool) -> None:
    driver.engine.gate.clear()
    first = driver.events(request("first"))
    next(first)
    with at_once(0.3 + SOON), pytest.raises(APITimeoutError, match=r"earlier calls.* by the deadline"):
        events(driver, request("second", deadline=0.3), asynchronous)
    driver.engine.gate.set()
    assert text_of(list(first)) == "first"


@both
def test_a_deadline_ends_a_call_though_the_engine_is_busy(driver: Speller, asynchronous: bool) -> None:
    with at_once(0.3 + SOON), pytest.raises(APITimeoutError, match="not answered by the deadline"):
        events(driver, request("a1b", deadline=0.3), asynchronous)


@both
def test_a_deadline_ends_a_call_whose_engine_never_stops(asynchronous: bool) -> None:
    driver = Endless()
    with at_once(0.3 + SOON), pytest.raises(APITimeoutError, match="deadline"):
        events(driver, request("x", deadline=0.3), asynchronous)
    assert until(lambda: not driver.engine.busy)
    driver.close()


@both
def test_an_engine_that_falls_silent_ends_by_timeout(driver: Speller, asynchronous: bool) -> None:
    with at_once(0.3 + SOON), pytest.raises(APITimeoutError, match=r"silent for timeout=0\.3 s"):
        events(driver, request("a1b", timeout=0.3), asynchronous)


@both
def test_loading_and_queueing_do_not_count_against_the_timeout(driver: Speller, asynchronous: bool) -> None:
    driver.engine.on_load = lambda wanted: time.sleep(0.6)
    assert text_of(events(driver, request("abc", timeout=0.2), asynchronous)) == "abc"
    driver.engine.gate.clear()
    first = driver.events(request("first"))
    next(first)
    with later(0.6, driver.engine.gate.set):
        assert text_of(events(driver, request("second", timeout=0.2), asynchronous)) == "second"
    first.close()


# --- errors


def test_an_error_while_loading_is_raised_and_the_next_call_loads_again(driver: Speller) -> None:
    errors: list[Exception] = [MissingDependencyError("pip install it"), OSError("no such file")]

    def fail(wanted: Callable[[], bool]) -> None:
        if errors:
            raise errors.pop(0)

    driver.engine.on_load = fail
    with pytest.raises(MissingDependencyError, match="pip install it"):
        list(driver.events(request()))
    with pytest.raises(EngineError, match="speller failed: OSError: no such file"):
        list(driver.events(request()))
    assert text_of(list(driver.events(request("abc")))) == "abc"
    assert driver.engine.loads == 1


class Panic(BaseException):
    """What engines written in Rust raise when they panic."""


@both
@pytest.mark.parametrize(
    "error",
    [RuntimeError("it broke"), MemoryError(), KeyError("x"), StopIteration(), Panic("it broke"), SystemExit(3),
     KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_an_engine_raises_is_an_engine_error_and_the_next_call_works(
    error: BaseException, asynchronous: bool
) -> None:
    driver = Failing()
    driver.engine.error = error
    with at_once(5.0), pytest.raises(EngineError, match=f"speller failed: {type(error).__name__}") as caught:
        events(driver, request(deadline=4), asynchronous)
    assert caught.value.provider == "speller"
    assert not caught.value.retryable
    assert text_of(events(driver, request(deadline=4), asynchronous)) == "well"
    driver.close()


def test_an_error_of_ours_is_raised_as_it_is() -> None:
    driver = Failing()
    driver.engine.error = SLMError("as it is")
    with pytest.raises(SLMError, match=r"^as it is$"):
        list(driver.events(request()))
    driver.close()


@both
def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    """No engine may fill the memory of a program whose reader is slow."""
    monkeypatch.setattr(room, "MOST_EVENTS", 100)
    driver = Endless()
    with pytest.raises(EngineError, match="over 100 events"):
        events(driver, request(), asynchronous)
    assert driver.engine.emitted < 101
    driver.close()


# --- closing and forgetting


@both
def test_closing_ends_a_running_call_frees_the_model_and_refuses_later_calls(asynchronous: bool) -> None:
    driver = Endless()
    with at_once(0.2 + 3 * SOON), later(0.2, driver.close):
        found = events(driver, request(), asynchronous)
    assert found[-1] == Finish("cancelled")
    assert driver.engine.unloads == 1
    with pytest.raises(ConfigurationError, match="closed"):
        events(driver, request(), asynchronous)
    driver.close()
    assert driver.engine.unloads == 1


@both
def test_closing_ends_queued_calls(asynchronous: bool) -> None:
    driver = Speller()
    driver.engine.gate.clear()
    first = driver.events(request("first"))
    next(first)
    opening = later(0.5, driver.engine.gate.set)
    with at_once(5.0), later(0.3, driver.close), opening, pytest.raises(ConfigurationError, match="closed"):
        events(driver, request("second"), asynchronous)
    assert list(first)[-1] == Finish("cancelled")
    assert driver.engine.served == ["first"]


def test_closing_does_not_wait_for_ever_for_a_busy_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CLOSING", 0.2)
    driver = Speller()
    stream = driver.events(request("a1b"))
    next(stream)
    with at_once(0.2 + SOON):
        driver.close()
    assert list(stream)[-1] == Finish("cancelled")
    assert until(lambda: driver.engine.unloads == 1), "it is freed at the engine's next safe point"


def test_an_async_client_closes_without_blocking_its_loop(driver: Speller) -> None:
    async def main() -> int:
        client = AsyncPhiClient(driver=driver)
        task = asyncio.create_task(client.chat("a1b"))
        assert await asyncio.to_thread(until, lambda: driver.engine.served)
        ticks = 0
        closing = asyncio.create_task(driver.aclose())
        while not closing.done():
            await asyncio.sleep(0.02)
            ticks += 1
        assert (await task).finish_reason == "cancelled"
        return ticks

    assert asyncio.run(main()) > 10


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "slmclient-speller"]


@both
def test_a_forgotten_client_takes_its_thread_along(asynchronous: bool) -> None:
    assert until(lambda: not engine_threads())
    driver = Speller()
    assert text_of(events(driver, request("abc"), asynchronous)) == "abc"
    assert len(engine_threads()) == 1
    gone = weakref.ref(driver)
    del driver
    gc.collect()
    assert until(lambda: gone() is None)
    assert until(lambda: not engine_threads())


def test_a_client_that_is_forgotten_during_a_call_stops_its_engine() -> None:
    assert until(lambda: not engine_threads())
    driver = Endless()
    stream = driver.events(request())
    next(stream)
    gone = weakref.ref(driver)
    del stream, driver
    gc.collect()
    assert until(lambda: gone() is None)
    assert until(lambda: not engine_threads())


def test_a_loop_that_is_closed_meanwhile_harms_nobody(driver: Speller) -> None:
    loop = asyncio.new_event_loop()
    abandoned = driver.aevents(request("ab1cd"))
    assert loop.run_until_complete(anext(abandoned)) == Start("speller", "abc")
    loop.close()
    with at_once(BUSY + 3 * SOON):
        assert text_of(list(driver.events(request("next")))) == "next"
    assert len(engine_threads()) == 1
    del abandoned


def test_one_driver_serves_threads_and_loops_side_by_side(driver: Speller) -> None:
    with ThreadPoolExecutor(8) as pool:
        prompts = [f"prompt {chr(97 + number)}" for number in range(16)]
        calls = [
            pool.submit(events, driver, request(prompt), bool(number % 2)) for number, prompt in enumerate(prompts)
        ]
        assert [text_of(call.result()) for call in calls] == prompts


def test_an_interpreter_that_ends_during_a_call_ends_well() -> None:
    """Some engines crash when they are torn down at work."""
    script = """
import atexit, sys
atexit.register(lambda: print("unloads", driver.engine.unloads, flush=True))  # registered first, it runs last
sys.path.insert(0, sys.argv[1])
from test_engine import Endless, request
driver = Endless()
stream = driver.events(request())
next(stream), next(stream)
print("leaving", flush=True)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "leaving\nunloads 1\n", "")
