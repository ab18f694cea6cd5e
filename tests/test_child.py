"""The option process: an engine in a child process keeps the contract, and a child that dies is replaced."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from slmclient import PhiClient
from slmclient.chat import ChatOptions, ChatRequest, Event, Finish, Start, TextDelta, Usage
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import Engine, EngineDriver, Outlet
from slmclient.drivers.engine.child import _packed, serve
from slmclient.errors import APITimeoutError, BadRequestError, EngineError
from slmclient.request import chat_request


class Parrot(Engine):
    """Says the prompt's words; some of them are orders."""

    def __init__(self) -> None:
        self.loads = 0

    def load(self, wanted: Callable[[], bool]) -> None:
        self.loads += 1
        print("what an engine prints harms nothing")  # noqa: T201

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        emit(Start("parrot", "parrot"))
        for word in request.messages[-1].text.split():
            if word == "die":
                os._exit(3)
            if word == "fail":
                raise BadRequestError("no such word", provider="parrot", model="parrot")
            if word == "crash":
                raise ZeroDivisionError("by zero")
            if word == "hang":
                time.sleep(60)
            if word == "process":
                word = str(os.getpid())
            while word == "endless" and emit(TextDelta("x")):
                pass
            if not emit(TextDelta(word)):
                return
        emit(Finish("stop"))
        emit(Usage(input_tokens=1, output_tokens=self.loads))

    def unload(self) -> None:
        pass


class ParrotDriver(EngineDriver):
    info: ClassVar[DriverInfo] = DriverInfo(name="parrot", title="Parrot", docs="-", default_model="parrot")

    def make_engine(self) -> Engine:
        return Parrot()


@pytest.fixture
def driver() -> Iterator[ParrotDriver]:
    made = ParrotDriver(DriverConfig("parrot", options={"process": True}))
    yield made
    made.close()


def request(prompt: str, **options: Any) -> ChatRequest:
    return chat_request(prompt, ChatOptions(**options), stream=True, model=None, timeout=30, deadline=30)


def events(driver: ParrotDriver, prompt: str, **options: Any) -> list[Event]:
    return list(driver.events(request(prompt, **options)))


def text(driver: ParrotDriver, prompt: str) -> str:
    return "".join(event.text for event in events(driver, prompt) if isinstance(event, TextDelta))


def test_the_engine_works_in_another_process_which_stays(driver: ParrotDriver) -> None:
    first, second = text(driver, "process"), text(driver, "process")
    assert first == second
    assert int(first) != os.getpid()
    assert int(first) in [child.pid for child in psutil.Process().children(recursive=True)]
    driver.close()
    assert not psutil.pid_exists(int(first))


def test_all_events_come_over_as_they_are(driver: ParrotDriver) -> None:
    assert events(driver, "a b") == [
        Start("parrot", "parrot"),
        TextDelta("a"),
        TextDelta("b"),
        Finish("stop"),
        Usage(input_tokens=1, output_tokens=1),
    ]
    assert PhiClient(driver=driver).chat("a b").text == "ab"


def test_errors_come_over_with_all_that_they_say(driver: ParrotDriver) -> None:
    with pytest.raises(BadRequestError, match="no such word") as caught:
        events(driver, "fail")
    assert (caught.value.provider, caught.value.model) == ("parrot", "parrot")
    with pytest.raises(EngineError, match="ZeroDivisionError: by zero"):
        events(driver, "crash")
    assert text(driver, "next") == "next"


def test_a_process_that_dies_is_an_error_and_the_next_call_has_a_new_one(driver: ParrotDriver) -> None:
    first = text(driver, "process")
    with pytest.raises(EngineError, match=r"exit code 3.*The next call starts a new one"):
        events(driver, "die")
    assert text(driver, "process") != first


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_was_killed_between_two_calls_is_replaced(driver: ParrotDriver) -> None:
    first = text(driver, "process")
    os.kill(int(first), signal.SIGKILL)
    time.sleep(0.2)
    assert text(driver, "process") != first


def test_cancelling_ends_the_answer_and_leaves_the_process(driver: ParrotDriver) -> None:
    first = text(driver, "process")
    asked = request("endless")
    threading.Timer(0.3, asked.cancellation.cancel).start()
    assert list(driver.events(asked))[-1] == Finish("cancelled")
    assert text(driver, "process") == first


def test_a_process_that_does_not_stop_is_ended(driver: ParrotDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmclient.drivers.engine.child._STOPPING", 0.3)
    first = text(driver, "process")
    with pytest.raises(APITimeoutError):
        events(driver, "hang", deadline=0.5)
    assert text(driver, "process") != first
    assert not psutil.pid_exists(int(first))


def test_a_client_that_goes_takes_its_process_along(driver: ParrotDriver) -> None:
    pid = int(text(driver, "process"))
    stream = driver.events(request("endless"))
    next(stream)
    driver.close()
    assert not psutil.pid_exists(pid)
    stream.close()


def test_a_process_that_falls_silent_ends_by_timeout(driver: ParrotDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmclient.drivers.engine.child._STOPPING", 0.3)
    first = text(driver, "process")
    with pytest.raises(APITimeoutError, match="silent"):
        events(driver, "hang", timeout=0.3)
    assert text(driver, "process") != first


def test_a_model_that_cannot_be_loaded_leaves_no_process_behind() -> None:
    class Unloadable(ParrotDriver):
        def make_engine(self) -> Engine:
            return Refusing()

    driver = Unloadable(DriverConfig("parrot", options={"process": True}))
    before = psutil.Process().children()
    with pytest.raises(BadRequestError, match="no such model"):
        text(driver, "a")
    assert psutil.Process().children() == before
    driver.close()


class Refusing(Parrot):
    def load(self, wanted: Callable[[], bool]) -> None:
        raise BadRequestError("no such model")


class Unreadable(Parrot):
    """Is pickled well, and cannot be made again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_an_engine_that_the_process_cannot_make_again_is_an_error_at_once() -> None:
    class Strange(ParrotDriver):
        def make_engine(self) -> Engine:
            return Unreadable()

    driver = Strange(DriverConfig("parrot", options={"process": True}))
    with pytest.raises(EngineError, match=r"cannot read what it was sent.*no number"):
        text(driver, "a")
    driver.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_control_and_c_is_for_the_parent(driver: ParrotDriver) -> None:
    first = text(driver, "process")
    os.kill(int(first), signal.SIGINT)
    time.sleep(0.3)
    assert text(driver, "process") == first


def test_a_process_that_cannot_start_is_an_error_at_once(driver: ParrotDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("slmclient.drivers.engine.child._START", "raise SystemExit(4)")
        with pytest.raises(EngineError, match="exit code 4"):
            text(driver, "a")
    assert text(driver, "a") == "a"


def test_a_process_that_never_calls_holds_up_the_next_call_no_longer(
    driver: ParrotDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("slmclient.drivers.engine.child._START", "import time; time.sleep(60)")
        with pytest.raises(APITimeoutError):
            events(driver, "a", deadline=0.5)
    assert text(driver, "a") == "a"


def test_what_is_no_text_in_the_path_of_modules_harms_nothing(
    driver: ParrotDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("somewhere")])
    assert text(driver, "a") == "a"


class Slow(Parrot):
    def load(self, wanted: Callable[[], bool]) -> None:
        time.sleep(0.5)


def test_a_stop_that_comes_before_its_call_began_is_not_forgotten() -> None:
    """All three messages are there before the engine has loaded."""
    ours, theirs = Pipe()
    for message in (("load", Slow()), ("generate", _packed(request("endless"))), ("stop",)):
        ours.send(message)
    child = threading.Thread(target=serve, args=(theirs,), daemon=True)
    child.start()
    assert ours.recv() == ("done",)
    said = [ours.recv()[0] for _ in range(4)]
    assert said[-1] == "done", said
    ours.close()
    child.join(5)
    assert not child.is_alive()
