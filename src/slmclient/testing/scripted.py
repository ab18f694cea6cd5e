"""ScriptedDriver: a driver that answers by script, for tests of programs that use slmclient."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

from slmclient.chat import (
    KNOBS,
    ChatRequest,
    Event,
    Finish,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo, Feature
from slmclient.errors import APITimeoutError, ConfigurationError, SLMError

Script = str | SLMError | type[SLMError] | Iterable[Any] | Callable[[ChatRequest], Any]
"""What one call plays: a text, an error, events with errors among them, or a function that returns one of these."""

_EVENTS = (Start, TextDelta, ReasoningDelta, ToolCallDelta, Usage, Finish, Note)
_WORDS = re.compile(r"\s*\S+|\s+$")


class ScriptedDriver(Driver):
    """Answers by script: the first call plays the first script, the second call the second, and so on.

    A script is

    - a str: the answer's text, streamed word by word;
    - an `SLMError`, as instance or class: it is raised;
    - a list of events, with errors among them if you like: an error is raised where it stands;
    - a function that takes the request and returns one of these.

    Start and Finish are added where a script leaves them out. Like every driver it ends at the request's deadline, and
    with ``Finish("cancelled")`` when the request is cancelled.

    Args:
        scripts: One for each call.
        name: The provider name to go by.
        features: What it takes besides text; all of it, by default.
        knobs: The sampling options it takes; all of them, by default. It ignores their values.
        model: The model that replies name where the request names none.
        delay: Seconds before each event.

    Example:
        >>> from slmclient import PhiClient
        >>> from slmclient.testing import ScriptedDriver
        >>> driver = ScriptedDriver("The fox is red.")
        >>> PhiClient(driver=driver).chat("Which colour has the fox?").text
        'The fox is red.'
        >>> driver.requests[0].messages[0].text
        'Which colour has the fox?'
    """

    info: ClassVar[DriverInfo] = DriverInfo(
        name="scripted",
        title="Answers by script",
        docs="testing.md",
        features=frozenset(Feature),
        default_model="script",
        state="for tests",
    )

    def __init__(
        self,
        *scripts: Script,
        name: str = "scripted",
        features: Iterable[Feature] = frozenset(Feature),
        knobs: Iterable[str] = KNOBS,
        model: str = "script",
        delay: float = 0.0,
    ) -> None:
        super().__init__(DriverConfig(provider=name, model=model))
        for script in scripts:
            _check(script)
        self.requests: list[ChatRequest] = []
        """Every request that came, in order."""
        self.delay = delay
        self._scripts = scripts
        self._features = frozenset(features)
        self._knobs = frozenset(knobs)
        self._closed = False
        self._lock = threading.Lock()

    @property
    def features(self) -> frozenset[Feature]:
        """What it takes besides text."""
        return self._features

    @property
    def knobs(self) -> frozenset[str]:
        """The sampling options that it takes."""
        return self._knobs

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the next script's events."""
        script = self._next(request)
        finished = False
        if self._cancelled(request):
            yield Finish("cancelled")
            return
        for event in self._complete(script, request):
            request.cancellation.sleep(self._pause(request))
            if not finished and self._cancelled(request):
                yield Finish("cancelled")
                return
            finished = finished or isinstance(event, Finish)
            yield event

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the next script's events, for asyncio."""
        script = self._next(request)
        finished = False
        if self._cancelled(request):
            yield Finish("cancelled")
            return
        for event in self._complete(script, request):
            if self.delay:
                await request.cancellation.async_sleep(self._pause(request))
            if not finished and self._cancelled(request):
                yield Finish("cancelled")
                return
            finished = finished or isinstance(event, Finish)
            yield event

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True

    def _next(self, request: ChatRequest) -> Script:
        with self._lock:
            if self._closed:
                raise ConfigurationError("This driver is closed. Make a new one.", provider=self.name)
            self.requests.append(request)
            number = len(self.requests)
        if number > len(self._scripts):
            raise ConfigurationError(
                f"ScriptedDriver has no script for call {number}: it was given {len(self._scripts)}.",
                provider=self.name,
            )
        return self._scripts[number - 1]

    def _pause(self, request: ChatRequest) -> float:
        return max(0.0, min(self.delay, request.remaining()))

    def _cancelled(self, request: ChatRequest) -> bool:
        if request.cancellation.cancelled:
            return True
        if request.remaining() <= 0:
            raise APITimeoutError(f"{self.name} had not answered by the deadline. Raise deadline=.", provider=self.name)
        return False

    def _complete(self, script: Script, request: ChatRequest) -> Iterator[Event]:
        """Yield a script's events, with Start and Finish where it has none."""
        started = finished = has_calls = False
        for event in _events(script, request):
            if not started and not isinstance(event, Start):
                yield Start(self.name, request.model or self.default_model or "")
            started = True
            finished = finished or isinstance(event, Finish)
            has_calls = has_calls or isinstance(event, ToolCallDelta)
            yield event
        if not started:
            yield Start(self.name, request.model or self.default_model or "")
        if not finished:
            yield Finish("tool_calls" if has_calls else "stop")


def _events(script: Any, request: ChatRequest) -> Iterator[Event]:
    """Yield what a script holds; raise its errors."""
    _check(script)
    if isinstance(script, SLMError):
        raise script
    if isinstance(script, type):
        raise script(f"{script.__name__} by script.")
    if callable(script):
        yield from _events(script(request), request)
    elif isinstance(script, str):
        yield from (TextDelta(word) for word in _WORDS.findall(script))
    elif isinstance(script, _EVENTS):
        yield script
    else:
        for item in script:
            yield from _events(item, request)


def _check(script: Any) -> None:
    if isinstance(script, type):
        fits = issubclass(script, SLMError)
    else:
        fits = isinstance(script, (str, SLMError, *_EVENTS, Iterable)) or callable(script)
    if not fits or isinstance(script, (bytes, Mapping)):
        kind = script if isinstance(script, type) else type(cast(object, script))
        raise ConfigurationError(
            "A script is a str, an SLMError, a list of events, or a function that returns one of these, "
            f"not {kind.__name__}."
        )
