"""An engine in a process of its own: the option ``process``. The same contract, and nothing of it blocks this process.

The engine object goes over before it has loaded anything; requests follow it and events come back, pickled, over a
local connection that both sides have proved a random key on. A child that dies, or does not stop, is replaced at the
next call.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from slmclient.chat import Cancellation, ChatRequest, Event
from slmclient.drivers.engine.room import Engine, Outlet
from slmclient.errors import APITimeoutError, EngineError, SLMError

# Control and C goes to all processes of a terminal: this one ends when its parent closes the line, and not before.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from slmclient.drivers.engine.child import main; main()"
)
_LOOK = 0.05  # seconds between two looks at whether the call is still wanted
_STARTING = 30.0  # seconds that a child may take to say hello
_STOPPING = 10.0  # seconds that a child may take to its next safe point; then it is ended
_SIGN = 0.5  # seconds between two signs of life
_LAST = ("done", "error", "failed")  # what the child says last of a call


class ChildEngine(Engine):
    """Runs an engine in a child process.

    Args:
        engine: Not loaded yet; it has to be picklable as it is.
        name: The provider's name, for errors.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._child: subprocess.Popen[bytes] | None = None
        self._line: Connection[Any, Any] | None = None

    def load(self, wanted: Callable[[], bool]) -> None:
        """Start the process and load the model there; given up, the process is ended at once."""
        self._end()
        self._start(wanted)
        try:
            self._send("load", self._engine)
            while (said := self._heard()) is None or said[0] == "alive":
                if not wanted():
                    raise self._given_up()
            self._check(said)
        except BaseException:  # a process without a model is of no use to anybody
            self._end()
            raise

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Have the child generate, and pass its events on."""
        self._have("generate", request, emit)

    def count(self, request: ChatRequest, emit: Outlet) -> None:
        """Have the child count the tokens of a prompt."""
        self._have("count", request, emit)

    def _have(self, what: str, request: ChatRequest, emit: Outlet) -> None:
        """Have the child do something, and pass its events on."""
        if self._child is None or self._child.poll() is not None:
            self.load(lambda: emit.wanted)
        self._send(what, _packed(request))
        heard = time.monotonic()
        while True:
            said = self._heard()
            if said is not None:
                heard = time.monotonic()
                if said[0] in _LAST:
                    self._check(said)
                    return
            # Looking is a sign of life, and so it must not be one that this process gives for a silent child.
            if time.monotonic() - heard > request.timeout:
                self._stop()
                raise APITimeoutError(
                    f"{self._name} was silent for timeout={request.timeout:g} s. Raise timeout= or shorten the prompt.",
                    provider=self._name,
                )
            if not (emit(said[1]) if said is not None and said[0] == "event" else emit.wanted):
                self._stop()
                return

    def _stop(self) -> None:
        """Have the child leave its answer; one that does not is ended."""
        self._send("stop")
        end = time.monotonic() + _STOPPING
        while (said := self._heard()) is None or said[0] not in _LAST:
            if time.monotonic() > end:
                self._end()
                return

    def unload(self) -> None:
        """End the process."""
        self._end()

    def _start(self, wanted: Callable[[], bool]) -> None:
        key = secrets.token_bytes(32)
        with Listener(authkey=key) as listener:
            command = [sys.executable, "-c", _START.format(path=[place for place in sys.path if type(place) is str])]
            come = threading.Event()
            try:
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                assert self._child.stdin is not None
                with self._child.stdin as stdin:
                    stdin.write(f"{key.hex()}\n{listener.address!s}\n".encode())
                arguments = (self._child, listener.address, come, wanted)
                threading.Thread(target=_knock_if_in_vain, args=arguments, daemon=True).start()
                self._line = listener.accept()
            except Exception:
                raise self._died() if wanted() else self._given_up() from None
            finally:
                come.set()

    def _send(self, *message: Any) -> None:
        try:
            assert self._line is not None
            self._line.send(message)
        except (OSError, ValueError):
            raise self._died() from None

    def _heard(self) -> tuple[Any, ...] | None:
        """Return the child's next message; None if there is none for a moment."""
        try:
            assert self._line is not None
            return self._line.recv() if self._line.poll(_LOOK) else None
        except (EOFError, OSError):
            raise self._died() from None

    def _check(self, said: tuple[Any, ...]) -> None:
        if said[0] == "error":
            raise said[1]
        if said[0] == "failed":
            raise EngineError(f"{self._name} failed: {said[1]}", provider=self._name)

    def _given_up(self) -> EngineError:
        self._end()
        return EngineError("Loading the model was given up.", provider=self._name)

    def _died(self) -> EngineError:
        child = self._child
        code = None
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(1.0)
        self._end()
        how = "did not start" if code is None else f"ended (exit code {code}), perhaps for want of memory"
        return EngineError(
            f"The process of {self._name} {how}. The next call starts a new one.",
            provider=self._name,
        )

    def _end(self) -> None:
        child, self._child = self._child, None
        line, self._line = self._line, None
        if line is not None:
            line.close()  # the child ends when it sees that
        if child is not None:
            child.terminate()
            try:
                child.wait(2.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _knock_if_in_vain(
    child: subprocess.Popen[bytes], address: Any, come: threading.Event, wanted: Callable[[], bool]
) -> None:
    """End the wait for a child that will not call: closing a listener wakes up nobody, but a call without key does."""
    end = time.monotonic() + _STARTING
    while not come.wait(_LOOK):
        if child.poll() is not None or time.monotonic() > end or not wanted():
            with contextlib.suppress(OSError):
                Client(address).close()
            return


def _packed(request: ChatRequest) -> dict[str, Any]:
    """Return what of a request goes over: no locks, and the deadline as the seconds that are left."""
    packed = {field.name: getattr(request, field.name) for field in fields(request)}
    del packed["cancellation"]
    packed["deadline_at"] = request.remaining()
    return packed


# --- in the child


class _Outbox:
    """The outlet in the child."""

    def __init__(self, line: Connection[Any, Any], stopped: threading.Event) -> None:
        self._line = line
        self._stopped = stopped
        self._signed = time.monotonic()

    def __call__(self, event: Event) -> bool:
        self._line.send(("event", event))
        return not self._stopped.is_set()

    @property
    def wanted(self) -> bool:
        if time.monotonic() - self._signed > _SIGN:
            self._signed = time.monotonic()
            self._line.send(("alive",))
        return not self._stopped.is_set()

    def is_wanted(self) -> bool:
        """`wanted`, as a function."""
        return self.wanted


def main() -> None:
    """Serve the parent until it closes the line."""
    key, address = sys.stdin.readline().strip(), sys.stdin.readline().strip()
    serve(Client(address, authkey=bytes.fromhex(key)))


def serve(line: Connection[Any, Any]) -> None:
    """Do what comes over the line, until it is closed."""
    inbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    stopped = threading.Event()
    threading.Thread(target=_listen, args=(line, inbox, stopped), daemon=True).start()
    engine: Engine | None = None
    while (message := inbox.get()) is not None:
        out = _Outbox(line, stopped)
        said: tuple[Any, ...] = ("done",)
        try:
            if message[0] == "unreadable":
                said = ("failed", message[1])
            elif message[0] == "load":
                engine = message[1]
                assert engine is not None
                engine.load(out.is_wanted)
            elif engine is not None:
                packed = message[1]
                deadline = time.monotonic() + packed.pop("deadline_at")
                request = replace(ChatRequest(**packed), deadline_at=deadline, cancellation=Cancellation())
                (engine.count if message[0] == "count" else engine.generate)(request, out)
        except SLMError as error:
            said = ("error", error)
        except Exception as error:
            said = ("failed", f"{type(error).__name__}: {error}")
        try:
            line.send(said)
        except OSError:
            return
        except Exception as error:  # an error that cannot be pickled
            line.send(("failed", f"{said[-1]} ({type(error).__name__}: {error})"))


def _listen(
    line: Connection[Any, Any], inbox: queue.SimpleQueue[tuple[Any, ...] | None], stopped: threading.Event
) -> None:
    while True:
        try:
            message = line.recv()
        except (EOFError, OSError):
            inbox.put(None)
            stopped.set()
            return
        except Exception as error:  # such as a class that this process does not find, because it is the program's own
            message = ("unreadable", f"its process cannot read what it was sent ({type(error).__name__}: {error})")
        if message[0] == "stop":
            stopped.set()
        else:
            stopped.clear()  # here, for a stop may follow before the call begins
            inbox.put(message)
