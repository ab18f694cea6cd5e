"""Observing: the outermost driver, which lets logs, OpenTelemetry and a program's own hook see what calls do."""

from __future__ import annotations

import inspect
import itertools
import logging
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from slmclient.chat import Attempt, ChatRequest, Event, Note, answers
from slmclient.drivers.base import Driver
from slmclient.drivers.secret import Secret
from slmclient.errors import ConfigurationError, SLMError
from slmclient.policy import hearing
from slmclient.policy.hearing import CallEvent, CallEventKind
from slmclient.policy.wrapper import Wrapper
from slmclient.reply import Reply, ReplyBuilder

if TYPE_CHECKING:
    from slmclient.policy.telemetry import CallSpan

OnEvent = Callable[[CallEvent], object]
"""What a program may hand in to hear of its calls."""

_log = logging.getLogger("slmclient.observing")
_numbers = itertools.count(1)


class ObservingDriver(Wrapper):
    """Shows what calls do: in the logs, as OpenTelemetry spans and metrics, and to a hook. It changes no event.

    A call that nobody watches goes straight to the inner driver.

    Args:
        inner: The driver.
        on_event: Called with a `CallEvent` whenever something happens to a call, on the thread that makes the call.
        capture_content: Whether spans hold the messages, the answer and the tools.

    Raises:
        ConfigurationError: ``on_event`` is no function, or a coroutine function.
    """

    def __init__(self, inner: Driver, on_event: OnEvent | None = None, *, capture_content: bool = False) -> None:
        super().__init__(inner)
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(f"on_event is a function, not {type(on_event).__name__}.")
        if inspect.iscoroutinefunction(on_event) or inspect.iscoroutinefunction(getattr(on_event, "__call__", None)):  # noqa: B004
            raise ConfigurationError("on_event is a plain function: it is called, not awaited. Take out its async.")
        self._on_event = on_event
        self._content = capture_content
        self._complained = False
        self._secrets = tuple(_secrets(inner, set()))

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events."""
        watch = self._watch(request)
        return self.inner.events(request) if watch is None else self._events(request, watch)

    def _events(self, request: ChatRequest, watch: _Watch) -> Generator[Event, None, None]:
        watch.begin()
        events: Generator[Event, None, None] | None = None
        try:
            while True:
                with watch:
                    if events is None:
                        events = self.inner.events(request)
                    event = next(events, None)
                if event is None:
                    return
                watch.add(event)
                yield event
        except BaseException as error:
            watch.broken = error
            raise
        finally:
            try:
                with watch:
                    if events is not None:
                        events.close()
            finally:
                watch.end()

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        watch = self._watch(request)
        return self.inner.aevents(request) if watch is None else self._aevents(request, watch)

    async def _aevents(self, request: ChatRequest, watch: _Watch) -> AsyncGenerator[Event, None]:
        watch.begin()
        events: AsyncGenerator[Event, None] | None = None
        try:
            while True:
                with watch:
                    if events is None:
                        events = self.inner.aevents(request)
                    event = await anext(events, None)
                if event is None:
                    return
                watch.add(event)
                yield event
        except BaseException as error:
            watch.broken = error
            raise
        finally:
            try:
                with watch:
                    if events is not None:
                        await events.aclose()
            finally:
                watch.end()

    def _watch(self, request: ChatRequest) -> _Watch | None:
        """Return what watches a call; None where nobody does."""
        spanned = self._spanned(request)
        if spanned is None and self._on_event is None and not hearing.calls_are_logged():
            return None
        return _Watch(self, request, spanned, self._on_event)

    def _spanned(self, request: ChatRequest) -> Callable[[], CallSpan] | None:
        """Return what begins the call's span, where the program traces or measures.

        A program that does has imported OpenTelemetry, to configure it. So what is not imported is not wanted, and is
        not imported here: that would cost every program 30 ms on a machine that happens to have it.
        """
        if "opentelemetry.trace" not in sys.modules and "opentelemetry.metrics" not in sys.modules:
            return None
        from slmclient.policy.telemetry import call_span

        return call_span(self, request, content=self._content)

    def redact(self, text: str | None) -> str | None:
        """Return what a server sent without the keys of all drivers: a server may send back what it got."""
        for secret in self._secrets:
            text = secret.redact(text)
        return text

    def safely(self, call: Callable[..., Any], *given: Any) -> Any:
        """Return what a call into foreign code gives; None where it fails, which is logged once."""
        try:
            return call(*given)
        except Exception:
            if not self._complained:
                self._complained = True
                _log.exception("What watches the calls has failed; further failures are not logged.")
            return None


class _Watch:
    """Watches one call. Entered while the inner driver works, so that nothing is left behind between events."""

    def __init__(
        self,
        driver: ObservingDriver,
        request: ChatRequest,
        spanned: Callable[[], CallSpan] | None,
        on_event: OnEvent | None,
    ) -> None:
        self.call = next(_numbers)
        self.broken: BaseException | None = None
        self._driver, self._request = driver, request
        self._builder = ReplyBuilder(request, driver.name, driver.default_model)
        self._spanned, self._on_event = spanned, on_event
        self._span: CallSpan | None = None
        self._tokens: tuple[Any, Any] = (None, None)
        self._thread = 0
        self._late: deque[CallEvent] = deque()
        self._noted: list[Attempt] = []
        self._told: list[Attempt] = []
        self._over = False

    def begin(self) -> None:
        if self._spanned is not None:
            self._span = self._driver.safely(self._spanned)
        messages = self._request.messages
        self._tell(
            CallEvent(
                "started",
                self._driver.name,
                self._request.model or self._driver.default_model,
                messages=len(messages),
                pictures=sum(len(message.images) for message in messages),
            )
        )

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._tokens = hearing.lend(self), self._span.attach() if self._span is not None else None

    def __exit__(self, *_: object) -> None:
        ear, attached = self._tokens
        if self._span is not None:
            self._span.detach(attached)
        hearing.take_back(ear)
        while self._late:
            self._pass_on(self._late.popleft())

    def add(self, event: Event) -> None:
        """Take the next event of the answer."""
        self._builder.add(event)
        if type(event) is Note:
            if isinstance(event.detail, Attempt):
                self._noted.append(event.detail)
        elif self._noted and answers(event):
            self._catch_up(self._noted)
            self._noted = []

    def _catch_up(self, attempts: Iterable[Attempt]) -> None:
        """Tell of tries of which nobody told when they happened: those of a policy that only notes them."""
        told = [(attempt.provider, attempt.model, attempt.began) for attempt in self._told]  # how it ended may change
        for attempt in map(hearing.without_reason, attempts):
            which = (attempt.provider, attempt.model, attempt.began)
            if which in told:
                told.remove(which)
            else:
                kind: CallEventKind = "attempt_answered" if attempt.error is None else "attempt_failed"
                self._tell(CallEvent(kind, attempt.provider, attempt.model, attempt=attempt))

    def _tell(self, event: CallEvent) -> None:
        token = hearing.lend(self)
        self._thread = threading.get_ident()
        try:
            hearing.tell(event)
        finally:
            hearing.take_back(token)

    def hear(self, event: CallEvent) -> None:
        """Pass on what a policy tells. What comes from another thread waits for the call's own."""
        if self._over:
            return
        if event.attempt is not None:
            self._told.append(event.attempt)
        self._late.append(event)
        if threading.get_ident() == self._thread:
            while self._late:
                self._pass_on(self._late.popleft())

    def _pass_on(self, event: CallEvent) -> None:
        if self._span is not None:
            self._driver.safely(self._span.add, event)
        if self._on_event is not None:
            self._driver.safely(self._on_event, event)

    def end(self) -> None:
        """Tell how the call ended."""
        error = None if self._builder.finished else self.broken
        self.broken = None  # or it and its traceback would hold each other
        self._catch_up(error.attempts if isinstance(error, SLMError) else self._noted)
        reply = self._builder.reply(unfinished="cancelled")
        event = self._ended(reply, error)
        self._tell(event)
        self._over = True
        if self._span is not None:
            self._driver.safely(self._span.end, event, reply, self._driver.redact)

    def _ended(self, reply: Reply, error: BaseException | None) -> CallEvent:
        attempts = reply.attempts
        if isinstance(error, SLMError):
            attempts = error.attempts or attempts
        event = CallEvent(
            "finished",
            reply.provider,
            self._driver.redact(reply.model or None),
            usage=None if reply.usage.estimated else reply.usage,
            timing=reply.timing,
            attempts=tuple(map(hearing.without_reason, attempts)),
        )
        if error is None or _is_cancelling(error):
            return replace(event, finish_reason=reply.finish_reason)
        status = error.status_code if isinstance(error, SLMError) else None
        return replace(event, kind="failed", error=type(error).__name__, status_code=status)


def _secrets(driver: Driver, seen: set[int]) -> Iterator[Secret]:
    """Yield the secrets of a driver and of those that it holds, however it holds them."""
    if id(driver) in seen:
        return
    seen.add(id(driver))
    config = driver.config
    yield from (secret for secret in (config.api_key, *config.headers.values()) if secret is not None)
    for held in vars(driver).values():
        for one in cast("tuple[object, ...]", held) if isinstance(held, tuple) else (held,):
            if isinstance(one, Driver):
                yield from _secrets(one, seen)


def _is_cancelling(error: BaseException) -> bool:
    """Return whether it is how a stream is closed, or a task cancelled: no failure."""
    return isinstance(error, GeneratorExit) or type(error).__name__ == "CancelledError"  # asyncio is not loaded for it
