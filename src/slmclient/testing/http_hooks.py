"""What a contract class over HTTP says of its driver besides, and calls on servers that go wrong."""

from __future__ import annotations

import json
import logging
import secrets
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slmclient.chat import Event, TextDelta
from slmclient.drivers.base import Driver
from slmclient.errors import RateLimitError, SLMError
from slmclient.reply import Reply, ReplyBuilder
from slmclient.testing.contract import DriverContract
from slmclient.testing.fault_server import FaultServer, Step, head
from slmclient.testing.mode import Mode


@dataclass
class Outcome:
    """What came of one call."""

    events: list[Event] = field(default_factory=list[Event])
    error: SLMError | None = None
    seconds: float = 0.0
    reply: Reply | None = None

    @property
    def text(self) -> str:
        """The text that came."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    def failure(self) -> SLMError:
        """Return the error, which there must be."""
        assert self.error is not None, f"there was no error but {self.events}"
        return self.error


class HttpHooks(DriverContract):
    """What a subclass says besides, and calls on a server that is made for them.

    The canned answers are those of the chat-completions wire; a driver of another wire overrides what makes them.
    """

    key_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})
    """The headers that carry the key, in lower case."""

    stream_type: ClassVar[str] = "text/event-stream"
    """The media type of a stream."""
    frame_429: ClassVar[type[SLMError]] = RateLimitError
    """What ``error_chunk(429, …)`` is: a frame that says no status is only some failure that may pass."""

    def make_driver_at(self, base_url: str, api_key: str | None) -> Driver:
        """Return a new driver that talks to ``base_url`` (scheme, host and port) and names a model."""
        pytest.fail(f"{type(self).__name__} has no make_driver_at()")

    def head(self) -> bytes:
        """Return the head of a stream."""
        return head(content_type=self.stream_type)

    def chunk(self, text: str) -> bytes:
        """Return a piece of a streamed answer; without text the kind that only says who speaks."""
        return self._frame({"role": "assistant", "content": text or None}, None)

    def last_chunk(self) -> bytes:
        """Return the piece that ends an answer."""
        return self._frame({}, "stop")

    def done(self) -> bytes:
        """Return what a stream ends with."""
        return b"data: [DONE]\n\n"

    def error_chunk(self, status: int, message: str) -> bytes:
        """Return an error inside a stream."""
        return f"data: {json.dumps({'error': {'code': status, 'message': message}})}\n\n".encode()

    def sign_of_life(self) -> bytes:
        """Return what a server may send to say that it is still there, and means nothing."""
        return b": still here\n\n"

    def broken_chunk(self) -> bytes:
        """Return a piece that cannot be parsed."""
        return b'data: {"choices": [{"delta": {"content\n\n'

    def whole_answer(self, text: str) -> Any:
        """Return the body of a whole answer."""
        message = {"role": "assistant", "content": text}
        return {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    def _frame(self, delta: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return f"data: {json.dumps({'id': 'x', 'model': 'm', 'choices': [choice]})}\n\n".encode()

    # --- for the promises

    def outcome(self, mode: Mode, server: FaultServer, key: str | None = None, **options: Any) -> Outcome:
        """Return what comes of one call."""

        async def scenario() -> Outcome:
            outcome = Outcome()
            driver = self.make_driver_at(server.url, key)
            request = self.request(driver, **options)
            builder = ReplyBuilder(request)
            began = time.monotonic()
            try:
                async for event in mode.events(driver, request):
                    outcome.events.append(event)
                    builder.add(event)
                outcome.reply = builder.reply()
            except SLMError as error:
                outcome.error = error
            finally:
                outcome.seconds = time.monotonic() - began
                await mode.close(driver)
            return outcome

        return mode.run(scenario, self.patience)

    def after(self, mode: Mode, *steps: Step, **options: Any) -> Outcome:
        """Return what comes of one call to a server that does these steps; it must have been asked once."""
        with FaultServer(*steps) as server:
            outcome = self.outcome(mode, server, **options)
        assert len(server.seen) == 1, f"the server saw {len(server.seen)} requests"
        return outcome


def new_key() -> str:
    """Return a key that nobody has."""
    return f"sk-{secrets.token_urlsafe(24)}"


def shown(error: BaseException) -> Iterator[str]:
    """Yield all that a person or a crash reporter might print of an error."""
    yield from (str(error), repr(error), repr(vars(error)), repr(error.args))
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    here = str(Path(__file__).parent)
    seen = 0
    while report is not None:
        # The frames of this package made up the key, and know it.
        report.stack = traceback.StackSummary.from_list([f for f in report.stack if not f.filename.startswith(here)])
        yield "".join(report.format(chain=False))
        report = report.__cause__ or report.__context__  # type: ignore[assignment]
        seen += 1
        assert seen < 20


class Heard(logging.Handler):
    """Hears everything that is logged, by any library."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Heard:
        root = logging.getLogger()
        self._before = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._before)
