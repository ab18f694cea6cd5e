"""The engine room: who shares a model, whose turn it is, how many may wait, and when the model goes."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slmclient import AsyncPhiClient, Message, PhiClient
from slmclient.chat import ChatOptions, ChatRequest, Finish, Start, TextDelta
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.engine import Engine, EngineDriver, Outlet
from slmclient.errors import APITimeoutError, ConfigurationError, RateLimitError, UnsupportedFeatureError
from slmclient.request import chat_request


class Clerk(Engine):
    """Writes down whom it serves, and serves nobody before the gate opens."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.gate = threading.Event()
        self.served: list[str] = []
        self.at_once = self.most_at_once = 0
        self.loads = self.unloads = 0
        self._lock = threading.Lock()

    def load(self, wanted: Callable[[], bool]) -> None:
        time.sleep(0.05)
        self.loads += 1

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        prompt = request.messages[-1].text
        with self._lock:
            self.served.append(prompt)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        emit(Start("clerk", "clerk"))
        while not self.gate.wait(0.01) and emit.wanted:
            pass
        time.sleep(0.01)
        emit(TextDelta(prompt))
        emit(Finish("stop"))
        with self._lock:
            self.at_once -= 1

    def unload(self) -> None:
        self.unloads += 1


class ClerkDriver(EngineDriver):
    info: ClassVar[DriverInfo] = DriverInfo(
        name="clerk",
        title="Clerk",
        docs="-",
        default_model="clerk",
        features=frozenset({Feature.PREFILL, Feature.RESPONSE_FORMAT}),
    )
    made: ClassVar[int] = 0

    def __init__(self, clerk: Clerk, key: Hashable | None = "same", **options: Any) -> None:
        super().__init__(DriverConfig("clerk", options=options))
        self.clerk, self.key = clerk, key

    def make_engine(self) -> Engine:
        return self.clerk

    def shared_by(self) -> Hashable | None:
        return (id(self.clerk), self.key) if self.key else None


@pytest.fixture
def clerk() -> Iterator[Clerk]:
    made = Clerk()
    yield made
    made.gate.set()


def request(prompt: str, **options: Any) -> ChatRequest:
    return chat_request(prompt, ChatOptions(**options), stream=True, model=None, timeout=30, deadline=30)


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Calls:
    """Calls that wait, each on a thread."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.texts: list[str] = []
        self.errors: list[BaseException] = []

    def begin(self, driver: EngineDriver, prompt: str) -> None:
        """Put a call into the queue, behind those that are there."""
        events = driver.events(request(prompt))

        def work() -> None:
            try:
                self.texts += [event.text for event in events if isinstance(event, TextDelta)]
            except BaseException as error:
                self.errors.append(error)

        before = waiting(driver)
        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()
        assert until(lambda: waiting(driver) > before)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def waiting(driver: EngineDriver) -> int:
    """Return how many calls are in the room, queued or served."""
    room = driver._room
    return 0 if room is None else len(room._running) + sum(map(len, room._waiting.values()))


def test_clients_of_the_same_model_share_one_that_is_loaded_once(clerk: Clerk) -> None:
    clerk.gate.set()
    first, second, other = ClerkDriver(clerk), ClerkDriver(clerk), ClerkDriver(clerk, key="another")
    assert PhiClient(driver=first).chat("a").text == "a"
    assert PhiClient(driver=second).chat("b").text == "b"
    assert clerk.loads == 1
    assert PhiClient(driver=other).chat("c").text == "c"
    assert clerk.loads == 2, "what is not the same model is not shared"
    first.close()
    assert clerk.unloads == 0, "the second client still needs it"
    assert PhiClient(driver=second).chat("d").text == "d"
    second.close()
    assert until(lambda: clerk.unloads == 1)
    assert PhiClient(driver=ClerkDriver(clerk)).chat("e").text == "e"
    assert clerk.loads == 3, "after the last client has gone, the next one loads it anew"
    other.close()


def test_a_client_that_closes_ends_its_own_calls_and_nobody_elses(clerk: Clerk) -> None:
    one, two = ClerkDriver(clerk), ClerkDriver(clerk)
    calls, others = Calls(), Calls()
    calls.begin(one, "one, served")
    assert until(lambda: clerk.served)
    others.begin(two, "two, queued")
    calls.begin(one, "one, queued")
    one.close()
    calls.end()
    assert [type(error) for error in calls.errors] == [ConfigurationError]
    clerk.gate.set()
    others.end()
    assert others.texts == ["two, queued"]
    assert clerk.served == ["one, served", "two, queued"]
    two.close()


def test_clients_take_turns_so_that_a_busy_one_starves_nobody(clerk: Clerk) -> None:
    busy, modest, third = (ClerkDriver(clerk) for _ in range(3))
    calls = Calls()
    calls.begin(busy, "busy 0")
    assert until(lambda: clerk.served)
    for number in range(1, 4):
        calls.begin(busy, f"busy {number}")
    calls.begin(modest, "modest 0")
    calls.begin(modest, "modest 1")
    calls.begin(third, "third")
    clerk.gate.set()
    calls.end()
    assert clerk.served == ["busy 0", "busy 1", "modest 0", "third", "busy 2", "modest 1", "busy 3"]
    for driver in (busy, modest, third):
        driver.close()


def test_more_calls_than_may_wait_are_refused_at_once_and_can_be_tried_again(clerk: Clerk) -> None:
    driver = ClerkDriver(clerk, max_waiting=2)
    calls = Calls()
    calls.begin(driver, "served")
    assert until(lambda: clerk.served)
    calls.begin(driver, "first")
    calls.begin(driver, "second")
    with pytest.raises(RateLimitError, match=r"2 calls wait for this model already.*max_waiting") as caught:
        list(driver.events(request("third")))
    assert caught.value.retryable
    clerk.gate.set()
    calls.end()
    assert sorted(calls.texts) == ["first", "second", "served"]
    assert [event.text for event in driver.events(request("third")) if isinstance(event, TextDelta)] == ["third"]
    driver.close()


@pytest.mark.parametrize("value", [0, -1])
def test_a_queue_has_room_for_one_at_least(clerk: Clerk, value: int) -> None:
    with pytest.raises(ConfigurationError, match="max_waiting is at least 1"):
        ClerkDriver(clerk, max_waiting=value)


def test_an_engine_with_several_slots_serves_so_many_at_once_and_loads_once() -> None:
    clerk = Clerk(slots=3)
    driver = ClerkDriver(clerk)
    calls = Calls()
    for number in range(5):
        calls.begin(driver, str(number))
    assert until(lambda: clerk.at_once == 3)
    clerk.gate.set()
    calls.end()
    assert sorted(calls.texts) == list("01234")
    assert (clerk.most_at_once, clerk.loads) == (3, 1)
    driver.close()
    assert until(lambda: clerk.unloads == 1)


def test_one_slot_means_one_at_a_time(clerk: Clerk) -> None:
    clerk.gate.set()
    clients = [PhiClient(driver=ClerkDriver(clerk)) for _ in range(3)]
    threads = [threading.Thread(target=client.chat, args=("x",)) for client in clients for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(clerk.served), clerk.most_at_once) == (15, 1)


def test_warming_up_loads_the_model_before_it_is_needed(clerk: Clerk) -> None:
    clerk.gate.set()
    client = PhiClient(driver=ClerkDriver(clerk))
    assert clerk.loads == 0
    client.warm_up()
    assert clerk.loads == 1
    client.chat("x")
    assert clerk.loads == 1


def test_warming_up_leaves_the_loop_free(clerk: Clerk) -> None:
    clerk.gate.set()

    async def main() -> int:
        warming = asyncio.create_task(AsyncPhiClient(driver=ClerkDriver(clerk)).warm_up())
        ticks = 0
        while not warming.done():
            await asyncio.sleep(0.005)
            ticks += 1
        await warming
        return ticks

    assert asyncio.run(main()) > 2
    assert clerk.loads == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_warming_up_ends_with_the_clients_deadline(clerk: Clerk, mode: str) -> None:
    """Its gate is shut: the answer would take for ever."""

    async def awarmed() -> None:
        await AsyncPhiClient(driver=ClerkDriver(clerk), deadline=0.1).warm_up()

    def warmed() -> None:
        PhiClient(driver=ClerkDriver(clerk), deadline=0.1).warm_up()

    with pytest.raises(APITimeoutError, match="deadline"):
        warmed() if mode == "sync" else asyncio.run(awarmed())
    clerk.gate.set()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_json_that_somebody_else_began_is_refused_before_anything_is_loaded(clerk: Clerk, mode: str) -> None:
    """Engines begin what is bound to a schema at its first character: begun twice, it would be no JSON.

    A client that is not strict says the schema in the prompt then.
    """
    begun = [Message.user("Which city?"), Message.assistant('{"city": "')]
    json = {"type": "json_object"}

    async def aasked() -> None:
        await AsyncPhiClient(driver=ClerkDriver(clerk), strict=True).chat(begun, response_format=json)

    def asked() -> None:
        PhiClient(driver=ClerkDriver(clerk), strict=True).chat(begun, response_format=json)

    with pytest.raises(UnsupportedFeatureError, match="leave out response_format"):
        asked() if mode == "sync" else asyncio.run(aasked())
    assert clerk.loads == 0


def test_a_frozen_program_starts_no_copy_of_itself(clerk: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)  # as PyInstaller and its kin say it
    with pytest.raises(ConfigurationError, match="process needs a Python"):
        ClerkDriver(clerk, process=True)
    ClerkDriver(clerk, process=False).close()


def test_a_closed_client_warms_up_nothing(clerk: Clerk) -> None:
    client = PhiClient(driver=ClerkDriver(clerk))
    client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        client.warm_up()
    assert clerk.loads == 0


def test_an_engine_that_shows_signs_of_life_is_not_silent() -> None:
    """A long prompt takes long; what counts is that it goes on."""
    clerk = Clerk()
    driver = ClerkDriver(clerk)
    threading.Timer(0.8, clerk.gate.set).start()
    assert any(isinstance(event, Finish) for event in driver.events(request("slow", timeout=0.3)))
    driver.close()


class Collecting(queue.SimpleQueue[Any]):
    """An inbox that has Python collect garbage when a text comes in, as any allocation may."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, TextDelta):
            gc.collect()
        super().put(item)


def test_a_client_that_is_collected_on_the_engines_thread_holds_up_nothing(
    clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten() -> threading.Thread:
        driver = ClerkDriver(clerk)
        monkeypatch.setattr("slmclient.drivers.engine.queue.SimpleQueue", Collecting)
        stream = driver.events(request("half-read"))
        next(stream)
        driver.cycle = (driver, stream)  # type: ignore[attr-defined]  # only the collector ends them
        assert driver._room is not None
        return next(iter(driver._room._threads))

    gc.collect()
    gc.disable()
    try:
        thread = forgotten()
        clerk.gate.set()
        thread.join(5)
        assert not thread.is_alive()
    finally:
        gc.enable()


_FORKED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_room import Clerk, ClerkDriver, request
from slmclient.errors import ConfigurationError
from slmclient.chat import TextDelta

def text(driver, prompt):
    return "".join(e.text for e in driver.events(request(prompt, deadline=5)) if isinstance(e, TextDelta))

clerk = Clerk()
clerk.gate.set()
driver = ClerkDriver(clerk)
print(text(driver, "before"), flush=True)
if os.fork() == 0:
    try:
        text(driver, "old")
    except ConfigurationError as error:
        print(error)
    new = ClerkDriver(clerk)
    print(text(new, "new"), flush=True)
    driver.close()
    os._exit(0)
os.wait()
print(text(driver, "after"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_needs_a_client_of_its_own_and_is_told_so() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKED, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    before, told, new, after = run.stdout.splitlines()
    assert (before, new, after) == ("before", "new", "after")
    assert "forked" in told
