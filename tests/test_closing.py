"""How programs end while a call runs: by Ctrl-C, by an error, or because they have nothing more to do.

Each is a program of its own (`closing_programs/call.py`). What is asserted is what its user sees: it ends soon, with
the right exit code, and its screen shows nothing but what belongs there.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from places import PLACES, SOON, SPEAKING, Place, a_plain_driver, wait_until, waiting_for_a_key

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT"),
]
PROGRAM = Path(__file__).parent / "closing_programs" / "call.py"
TELLING = tuple(each for each in PLACES if each not in (waiting_for_a_key, a_plain_driver))  # no JSON says them
LATEST = 3 * SOON
"""Seconds in which a program has ended, on the slowest machine."""
_NOISE = re.compile(
    r"Exception ignored|never awaited|was destroyed|never retrieved|Warning|Fatal|unhandled|threading\.excepthook|"
    r"Exception in thread|slmclient\.errors"
)
At = Callable[[], Any]
anywhere = pytest.mark.parametrize("at", TELLING, ids=[place.__name__ for place in TELLING])


class Program:
    """A program that makes a call."""

    def __init__(self, place: Place, ending: str, prompt: str = "Hi") -> None:
        self.place = place
        self.lines: list[str] = []
        settings = {name: value for name, value in place.settings.items() if name != "on_event"}
        listens = "on_event" in place.settings
        asked = {"settings": settings, "options": place.options, "ending": ending, "listens": listens, "prompt": prompt}
        # Warnings of what was not closed are on, which Python hides otherwise; of a loop that was closed under a call
        # they are true.
        warnings = "ignore::ResourceWarning" if ending == "loop closed" else "always::ResourceWarning"
        command = [sys.executable, "-W", warnings, str(PROGRAM), json.dumps(asked)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        place.pid = self._process.pid
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._listen), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            kind, _, said = line.strip().partition(" ")
            if kind == "text":
                self.place.texts.append(said)
            elif kind == "event":
                self.place.told.append(cast(Any, SimpleNamespace(kind=said)))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.append(self._process.stderr.read())

    def arrive(self) -> None:
        """Wait until the call is where it should be."""
        assert wait_until(lambda: self.place.is_there(self.place), 4 * LATEST), (self.lines, self._errors)
        time.sleep(0.1)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def go_on(self) -> None:
        """Let the main thread end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ended(self, began: float, seconds: float = LATEST) -> tuple[int, str]:
        """Return exit code and stderr."""
        code = self._process.wait(max(0.1, began + seconds - time.monotonic()))
        for reader in self._readers:
            reader.join(SOON)
        errors = "".join(self._errors)
        assert not _NOISE.search(errors), errors
        return code, errors

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(SOON)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with pipe:
                    pass


@contextmanager
def program(place: Place, ending: str, prompt: str = "Hi") -> Generator[Program]:
    running = Program(place, ending, prompt)
    try:
        yield running
    finally:
        running.close()


def check_interrupted(running: Program, began: float, *, loading: bool = False) -> None:
    code, errors = running.ended(began)
    # An engine's package that is still being imported as the program ends may run `exec`, and Python then forgets why
    # it ends.
    assert code == -signal.SIGINT or (loading and code == 1), errors
    assert errors.startswith("Traceback"), errors
    assert errors.rstrip().splitlines()[-1] == "KeyboardInterrupt", errors


# --- a server's answer


@anywhere
@pytest.mark.parametrize("ending", ["sync", "with", "async"])
def test_control_and_c(at: At, ending: str) -> None:
    with at() as place, program(place, ending) as running:
        running.arrive()
        began = time.monotonic()
        running.interrupt()
        check_interrupted(running, began)


@anywhere
@pytest.mark.parametrize("ending", ["daemon", "daemon loop"])
def test_the_interpreter_ends_while_a_daemon_thread_calls(at: At, ending: str) -> None:
    with at() as place, program(place, ending) as running:
        running.arrive()
        began = time.monotonic()
        running.go_on()
        assert running.ended(began) == (0, "")


@pytest.mark.parametrize("at", SPEAKING, ids=[place.__name__ for place in SPEAKING])
@pytest.mark.parametrize("ending", ["half read", "left by a task", "loop closed"])
def test_the_interpreter_ends_with_a_stream_half_read(at: At, ending: str) -> None:
    with at() as place, program(place, ending) as running:
        running.arrive()
        assert running.ended(time.monotonic()) == (0, "")


@pytest.mark.parametrize("at", SPEAKING, ids=[place.__name__ for place in SPEAKING])
def test_a_program_that_fails_shows_its_own_error_and_no_other(at: At) -> None:
    with at() as place, program(place, "error") as running:
        running.arrive()
        code, errors = running.ended(time.monotonic())
    assert code == 1
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("ZeroDivisionError")


# --- an engine in the process

LONG = "word " * 1500
ENGINE = {"max_tokens": 500, "temperature": 0}


def _engine(weights: Path) -> dict[str, Any]:
    return {"provider": "llamacpp", "model": str(weights), "env_file": False, "options": {"n_ctx": 4096}}


@pytest.mark.parametrize("ending", ["sync", "with", "async"])
@pytest.mark.parametrize("stage", ["loading", "reading the prompt", "writing"])
def test_control_and_c_while_an_engine_works(weights: Path, stage: str, ending: str) -> None:
    place = engine_at(stage, weights)
    with program(place, ending, LONG if stage == "reading the prompt" else "Tell me a story.") as running:
        running.arrive()
        began = time.monotonic()
        running.interrupt()
        check_interrupted(running, began, loading=stage == "loading")


@pytest.mark.parametrize("ending", ["daemon", "daemon loop"])
@pytest.mark.parametrize("stage", ["loading", "reading the prompt", "writing"])
def test_the_interpreter_ends_while_an_engine_works(weights: Path, stage: str, ending: str) -> None:
    place = engine_at(stage, weights)
    with program(place, ending, LONG if stage == "reading the prompt" else "Tell me a story.") as running:
        running.arrive()
        began = time.monotonic()
        running.go_on()
        assert running.ended(began) == (0, "")


@pytest.mark.parametrize("ending", ["half read", "left by a task", "loop closed"])
def test_the_interpreter_ends_with_an_engines_stream_half_read(weights: Path, ending: str) -> None:
    with program(engine_at("writing", weights), ending, "Tell me a story.") as running:
        running.arrive()
        assert running.ended(time.monotonic()) == (0, "")


def test_a_loop_on_a_thread_goes_on_to_its_end_after_the_main_thread(weights: Path) -> None:
    """The interpreter waits for that thread; asyncio's own helper threads take no work any more by then."""
    place = engine_at("writing", weights)
    place.options = {"max_tokens": 3}
    with program(place, "worker loop", "Hi") as running:
        running.arrive()
        assert running.ended(time.monotonic()) == (0, "")
        assert len(place.texts) > 1


def engine_at(stage: str, weights: Path) -> Place:
    """Return the place; how far a model has loaded or read cannot be seen from outside: a while after the beginning."""
    place = Place(_engine(weights), options=dict(ENGINE))
    if stage == "writing":
        place.is_there = lambda place: bool(place.texts)
    else:
        place.settings["on_event"] = None
        place.is_there = lambda place: _told_since(place, 0.02 if stage == "loading" else 1.0)
    return place


def _told_since(place: Place, seconds: float) -> bool:
    if not place.told:
        return False
    time.sleep(seconds)
    return True
