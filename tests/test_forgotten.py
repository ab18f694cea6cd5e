"""Calls and clients that the garbage collector ends. It comes by anywhere: in the midst of another call's locked
section, or on a thread that somebody waits for who has the lock. So nothing that it ends may wait for a lock."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from raw_server import RawServer, serve
from slmclient import PhiClient
from slmclient.chat import ChatRequest, TextDelta
from slmclient.drivers.engine import EngineDriver
from slmclient.drivers.opening import within
from slmclient.drivers.sdk_lines import KeptConnections
from slmclient.errors import EngineError
from slmclient.policy.budget import RetryBudget
from slmclient.policy.wrapper import innermost
from test_room import Calls, Clerk, ClerkDriver, request, until, waiting


def ends(work: Callable[[], object], seconds: float = 10.0) -> bool:
    """Return whether work on another thread comes to its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def text(driver: EngineDriver) -> str:
    return "".join(event.text for event in driver.events(request("Hi")) if isinstance(event, TextDelta))


@pytest.fixture
def clerk() -> Clerk:
    made = Clerk(slots=2)
    made.gate.set()
    return made


def test_a_client_that_is_forgotten_waits_for_no_lock(clerk: Clerk) -> None:
    kept, forgotten = ClerkDriver(clerk), [ClerkDriver(clerk)]
    assert text(kept) == text(forgotten[0]) == "Hi"
    room = kept._room
    assert room is not None
    assert len(room._members) == 2
    with room._changed:
        assert ends(forgotten.clear)
    assert until(lambda: len(room._members) == 1), "it is let go, as soon as the lock is free"
    assert text(kept) == "Hi"
    kept.close()


def test_a_client_that_was_closed_is_let_go_only_once(clerk: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ClerkDriver(clerk)
    assert text(driver) == "Hi"
    driver.close()
    begun: list[Any] = []
    monkeypatch.setattr("_thread.start_new_thread", lambda *work: begun.append(work))
    del driver
    gc.collect()
    assert begun == []


def test_no_lock_is_held_while_an_engines_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    clerk, calls = Clerk(slots=3), Calls()
    busy, closing, latest = (ClerkDriver(clerk) for _ in range(3))
    calls.begin(busy, "one")
    calls.begin(closing, "two")
    assert until(lambda: len(clerk.served) == 2)
    start, ended = threading.Thread.start, []

    def start_late(thread: threading.Thread) -> None:
        if thread.name.startswith("slmclient"):  # as where it collects first, and somebody's __del__ closes a client
            ended.append(ends(closing.close))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    calls.begin(latest, "three")
    clerk.gate.set()
    calls.end()
    assert ended == [True]
    assert sorted(calls.texts) == ["one", "three"]
    for driver in (busy, latest):
        driver.close()


def test_a_call_that_gets_no_thread_says_so_and_the_next_one_works(
    clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = ClerkDriver(clerk)
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name.startswith("slmclient"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", none_left)
        with pytest.raises(EngineError, match=r"clerk got no thread .*can't start new thread"):
            text(driver)
    assert waiting(driver) == 0
    assert text(driver) == "Hi"
    driver.close()


def test_a_call_that_is_forgotten_gives_its_connection_back_from_anywhere() -> None:
    with RawServer(serve) as server:
        client = PhiClient("openai", "m", base_url=server.url, env_file=False)
        driver: Any = innermost(client._driver)
        pump = driver._pumps.sync()
        calls = [driver.events(replace(request("Hi"), stream=False))]
        next(calls[0])  # the body is read to its end, the events are not
        assert pump._idle == []

        def collect_in_the_midst_of_another_call() -> None:
            with driver._pumps._lock, pump._lock:
                calls.clear()
                gc.collect()

        assert ends(collect_in_the_midst_of_another_call)
        assert len(pump._idle) == 1
        assert client.chat("Hi").text == "hello there"
        client.close()


@pytest.mark.parametrize(
    ("counter", "give_back"),
    [(RetryBudget(1), RetryBudget.give_back), (KeptConnections(), KeptConnections.give)],
    ids=["a retry", "an SDK's connection"],
)
def test_what_a_forgotten_call_gives_back_waits_for_nobody(counter: Any, give_back: Callable[[Any], None]) -> None:
    def collect_in_the_midst_of_another_call() -> None:
        with counter._lock:
            give_back(counter)

    assert ends(collect_in_the_midst_of_another_call)


# --- a signal's handler interrupts, too


def sleeping(call: ChatRequest) -> None:
    call.cancellation.sleep(30)


def waiting_for_work(call: ChatRequest) -> None:
    with suppress(TimeoutError):
        within(lambda: call.cancellation.sleep(30), call)


class Interrupted(threading.Thread):
    """Makes a call that is cancelled at a line of its own work, of the standard library's part in it included.

    Args:
        work: What ends when the call is cancelled.
        line: At which one of the lines that it runs.
    """

    def __init__(self, work: Callable[[ChatRequest], None], line: int) -> None:
        super().__init__(daemon=True)
        self.call = request("Hi")
        self.lines = line
        self._work = work

    def run(self) -> None:
        sys.settrace(self._trace)
        self._work(self.call)
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_name in ("cancel", "_trace"):  # the handler itself
            return None
        if event == "line":
            self.lines -= 1
            if self.lines == 0:
                self.call.cancellation.cancel()
        return self._trace


@pytest.mark.parametrize("work", [sleeping, waiting_for_work])
def test_a_signals_handler_may_cancel_at_any_line(work: Callable[[ChatRequest], None]) -> None:
    for line in range(1, 1000):
        thread = Interrupted(work, line)
        thread.start()
        thread.join(0.1)
        thread.call.cancellation.cancel()  # where it has fewer lines, and waits
        thread.join(10)
        assert not thread.is_alive(), f"it hangs where it is cancelled at line {line}"
        if thread.lines > 0:
            break
    assert line > 10
