"""A running answer: iterate over its text, look at its events, cancel it from any thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slmclient.chat import ChatRequest, Event, Finish, Note, TextDelta
from slmclient.errors import BadRequestError, SLMError, StreamInterruptedError
from slmclient.reply import Reply, ReplyBuilder

if TYPE_CHECKING:
    from slmclient.drivers.base import Driver
    from slmclient.output import Output, Partials


class _Folding:
    """What both streams share: folding events, the reply, cancelling."""

    def __init__(
        self, driver: Driver, request: ChatRequest, notes: Sequence[Note], output: Output | None = None
    ) -> None:
        self._driver = driver
        self._request = request
        self._output = output
        self._parsed: Any = None
        self._builder = ReplyBuilder(request, driver.name, driver.default_model)
        for note in notes:
            self._builder.add(note)
        self._over = False
        self._broken = False

    @property
    def reply(self) -> Reply:
        """The reply, once the stream has ended: the same value that `chat` returns.

        After `cancel`, or after leaving the ``with`` block early, it is what had come, with finish reason
        ``cancelled``; after an error, the same with ``error``.

        Raises:
            SLMError: The stream is still running, or was not started.
        """
        if not self._over:
            raise SLMError("The reply is there when the stream has ended: read it to its end, or cancel() it.")
        reply = self._builder.reply(unfinished="error" if self._broken else "cancelled")
        return reply if self._parsed is None else reply.model_copy(update={"parsed": self._parsed})

    def cancel(self) -> None:
        """Stop the answer, from any thread: the connection or the engine is freed, and iteration ends."""
        self._request.cancellation.cancel()

    def _ends_here(self, event: Event) -> bool:
        """Fold an event; return whether the stream ends without it, because it was cancelled."""
        self._builder.add(event)  # also of one that was cancelled: it may have been held back until then
        return self._request.cancellation.cancelled and not isinstance(event, (Finish, Note))

    def _partials(self) -> Partials:
        if self._output is None:
            raise BadRequestError("partial() needs to know what is to come: stream(…, response_format=…).")
        from slmclient.output import Partials

        return Partials(self._output, self._request.prefill or "")

    def _unfit(self) -> SLMError | None:
        """Parse what ``response_format`` asked for; return the error where an answer that came whole does not fit."""
        if self._output is None or not self._builder.finished:
            return None
        reply = self._builder.reply()
        if reply.finish_reason == "cancelled" or reply.tool_calls:
            return None
        from slmclient.answer.structured import read, unfit

        self._parsed, problem = read(self._request, self._output, reply)
        return None if problem is None else unfit([reply], [problem])

    def _failed(self, error: SLMError) -> SLMError | None:
        """Return the error to raise, or None where the call was cancelled."""
        if self._request.cancellation.cancelled:
            return None
        self._broken = True
        self._builder.attempts = error.attempts
        if isinstance(error, StreamInterruptedError) and error.partial is None:
            error.partial = self._builder.reply()
        return error


class ReplyStream(_Folding):
    """A running answer: ``with client.stream(…) as stream: for text in stream: …``.

    Iterating gives the text piece by piece; `events` gives everything, typed. Use one of the two, once. It owns a
    connection or the engine's turn until it ends or its ``with`` block is left.
    """

    def __init__(
        self, driver: Driver, request: ChatRequest, notes: Sequence[Note], output: Output | None = None
    ) -> None:
        super().__init__(driver, request, notes, output)
        self._events: Generator[Event, None, None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        for event in self.events():
            if isinstance(event, TextDelta):
                yield event.text

    def partial(self) -> Iterator[Any]:
        """Yield the value that ``response_format`` asked for as far as it has come, each time there is more of it.

        Dicts and lists, as JSON has them, which nobody has checked yet; of a string there may be half. The checked
        value is in ``reply.parsed`` at the end. Errors as for `events`.
        """
        partials = self._partials()
        for text in self:
            yield from partials.feed(text)
        yield from partials.end()

    def events(self) -> Iterator[Event]:
        """Yield the events, Start to Finish and Usage.

        Raises:
            StreamInterruptedError: The answer broke off; its ``partial`` holds what had come.
            StructuredOutputError: It came whole, and does not fit ``response_format``: a stream never asks again.
            SLMError: As `chat`.
        """
        if self._over:
            return
        if self._events is None:
            self._events = self._driver.events(self._request)
        failure: SLMError | None = None
        try:
            for event in self._events:
                if self._ends_here(event):
                    break
                yield event
        except SLMError as error:
            failure = self._failed(error)
        self.close()
        failure = failure or self._unfit()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the stream and free its connection or engine, from any thread; the partial reply stays at hand."""
        self._over = True
        if self._events is None:
            return
        try:
            self._events.close()
        except ValueError:  # another thread waits in it: that one is woken up, and ends it
            self.cancel()


class AsyncReplyStream(_Folding):
    """A running answer: ``async with client.stream(…) as stream: async for text in stream: …``; see `ReplyStream`."""

    def __init__(
        self, driver: Driver, request: ChatRequest, notes: Sequence[Note], output: Output | None = None
    ) -> None:
        super().__init__(driver, request, notes, output)
        self._events: AsyncGenerator[Event, None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if isinstance(event, TextDelta):
                yield event.text

    async def partial(self) -> AsyncIterator[Any]:
        """Yield the value that ``response_format`` asked for as far as it has come; see `ReplyStream.partial`."""
        partials = self._partials()
        async for text in self:
            for value in partials.feed(text):
                yield value
        for value in partials.end():
            yield value

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events, Start to Finish and Usage; errors as for `ReplyStream.events`."""
        if self._over:
            return
        if self._events is None:
            self._events = self._driver.aevents(self._request)
        failure: SLMError | None = None
        try:
            async for event in self._events:
                if self._ends_here(event):
                    break
                yield event
        except SLMError as error:
            failure = self._failed(error)
        await self.aclose()
        failure = failure or self._unfit()
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """End the stream and free its connection or engine; the partial reply stays at hand."""
        self._over = True
        if getattr(self._events, "ag_running", False):  # another task waits in it: that one is woken up, and ends it
            self.cancel()
        elif self._events is not None:
            await self._events.aclose()
