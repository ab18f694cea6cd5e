"""What happens to a call, told as it happens: to the logs, and to whoever watches the call.

A policy says `tell(CallEvent(…))` and knows nothing of who listens. `ObservingDriver` lends its ear, by a context
variable, while the driver below it works: so what a policy tells reaches the call that it belongs to, also from a task
or a thread that a policy starts for it (a thread needs `contextvars.copy_context().run` for that).
"""

from __future__ import annotations

import logging
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, Protocol

from slmclient import clock
from slmclient.chat import Attempt, FinishReason, Usage
from slmclient.reply import Timing

CallEventKind = Literal[
    "started", "queued", "attempt_failed", "attempt_answered", "fallback", "hedge", "finished", "failed"
]


@dataclass(frozen=True, slots=True, repr=False)
class CallEvent:
    """One thing that happened to a call. It never holds what was asked or answered, nor a key."""

    kind: CallEventKind
    provider: str
    """Whom it is about: who is asked, or was."""
    model: str | None = None
    """As it was asked for; of ``finished``, the id that answered."""
    call: int = 0
    """Which call of this process it belongs to; 0 where no client watches it."""
    date: datetime = field(default_factory=clock.date)
    """When it happened, in UTC."""
    messages: int | None = None
    """Of ``started``: how many messages the prompt has."""
    pictures: int | None = None
    """Of ``started``: how many pictures the prompt has."""
    attempt: Attempt | None = None
    """Of ``attempt_failed`` and ``attempt_answered``: the try. Its ``reason`` is left out: servers quote prompts."""
    wait: float | None = None
    """Seconds that pass next: of ``attempt_failed``, before the next try (None: none follows); of ``queued``, for the
    rate limit; of ``hedge``, those that have passed without an answer."""
    then: str | None = None
    """Of ``fallback``: who is asked next; None where nobody is left."""
    error: str | None = None
    """Of ``fallback`` and ``failed``: the name of the error."""
    status_code: int | None = None
    """Of ``failed``: the HTTP status, when a server answered."""
    finish_reason: FinishReason | None = None
    """Of ``finished``; ``cancelled`` also where a stream was closed or forgotten before its end."""
    usage: Usage | None = None
    """Of ``finished``: the tokens; None where the provider counted none."""
    timing: Timing | None = None
    """Of ``finished`` and ``failed``: how long it took."""
    attempts: tuple[Attempt, ...] = ()
    """Of ``finished`` and ``failed``: every try, without its ``reason``."""

    def facts(self) -> dict[str, Any]:
        """Return the fields that say something, by name."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {name: value for name, value in values.items() if value not in (None, ())}

    def __repr__(self) -> str:
        return f"CallEvent({', '.join(f'{name}={value!r}' for name, value in self.facts().items())})"


_FIELDS = tuple(field.name for field in fields(CallEvent))


class Ear(Protocol):
    """Who watches one call."""

    call: int

    def hear(self, event: CallEvent) -> None:
        """Take what was told, on whichever thread."""
        ...


_ear: ContextVar[Ear | None] = ContextVar("slmclient_ear", default=None)


def lend(ear: Ear) -> Token[Ear | None]:
    """Let an ear hear what is told from here on, in this context, until `take_back`."""
    return _ear.set(ear)


def take_back(token: Token[Ear | None]) -> None:
    """End what `lend` began."""
    _ear.reset(token)


def tell(event: CallEvent) -> None:
    """Log what happened to the call at hand, and let those hear of it who watch the call.

    Args:
        event: What happened; its number of the call is filled in.
    """
    if event.attempt is not None:
        event = replace(event, attempt=without_reason(event.attempt))
    ear = _ear.get()
    if ear is not None:
        event = replace(event, call=ear.call)
    log(event)
    if ear is not None:
        ear.hear(event)


def without_reason(attempt: Attempt) -> Attempt:
    """Return the try without what its error said."""
    return attempt.model_copy(update={"reason": ""}) if attempt.reason else attempt


# --- logs: names, levels and words. Records hold no content and no error texts: servers quote prompts in those.

_ROOT = logging.getLogger("slmclient")
_ROOT.addHandler(logging.NullHandler())  # a library says nothing unless the program asks for it
_RETIRED = ("RetiredError", "ProviderRetiredError", "ModelRetiredError")
_warned: set[tuple[str, str | None]] = set()
_LOGGERS = {
    "started": logging.getLogger("slmclient.call"),
    "attempt_failed": logging.getLogger("slmclient.retry"),
    "attempt_answered": logging.getLogger("slmclient.retry"),
    "fallback": logging.getLogger("slmclient.fallback"),
    "hedge": logging.getLogger("slmclient.hedge"),
    "finished": logging.getLogger("slmclient.call"),
    "failed": logging.getLogger("slmclient.call"),
}


def is_heard(kind: CallEventKind) -> bool:
    """Return whether anybody would hear of that, here and now: most calls are watched by nobody."""
    return _ear.get() is not None or _LOGGERS[kind].isEnabledFor(logging.DEBUG)


def calls_are_logged() -> bool:
    """Return whether the beginning and the end of calls are logged."""
    return _LOGGERS["started"].isEnabledFor(logging.DEBUG)


def log(event: CallEvent) -> None:
    """Log an event, if anybody reads its logger at its level."""
    logger = _LOGGERS.get(event.kind)  # none for "queued": the rate limit logs its waits itself, and says which limit
    level = _level(event)
    if logger is not None and logger.isEnabledFor(level):
        extra = {f"slm_{name}": value for name, value in event.facts().items()}
        words, details = _words(event)
        call, who = f"call {event.call}: " if event.call else "", " ".join(filter(None, (event.provider, event.model)))
        logger.log(level, f"%s%s {words}", call, who, *details, extra=extra)


def _level(event: CallEvent) -> int:
    if event.error in _RETIRED and event.kind == "fallback":
        gone = event.provider, event.model
        if gone not in _warned:  # once: it is so for each call from now on
            _warned.add(gone)
            return logging.WARNING
    if event.kind == "fallback":
        return logging.INFO
    return logging.DEBUG if event.wait is None else logging.INFO


def _words(event: CallEvent) -> tuple[str, tuple[object, ...]]:
    """Return the template of what happened, and what goes into it."""
    total = event.timing.total if event.timing else 0.0
    tries = len(event.attempts)
    match event.kind:
        case "started":
            return "is asked: %d messages, %d pictures", (event.messages, event.pictures)
        case "attempt_failed":
            after = "not tried again" if event.wait is None else f"tried again in {event.wait:.1f} s"
            return "failed (%s), %s", (_problem(event), after)
        case "attempt_answered":
            return "answers after %.2f s", (event.attempt.seconds if event.attempt else 0.0,)
        case "fallback":
            return "could not answer (%s); %s is asked", (event.error, event.then or "nobody else")
        case "hedge":
            return "is asked as well: no answer for %.1f s", (event.wait,)
        case "finished":
            read, written = (event.usage.input_tokens, event.usage.output_tokens) if event.usage else ("?", "?")
            details = (event.finish_reason, read, written, total, tries)
            return "is done: %s, %s tokens read, %s written, %.2f s, %d tries", details
        case _:  # failed; nothing else is logged here
            return "gave no answer: %s, %.2f s, %d tries", (_problem(event), total, tries)


def _problem(event: CallEvent) -> str:
    """Return the name of the error, and the HTTP status."""
    attempt = event.attempt
    error, status = (attempt.error, attempt.status_code) if attempt else (event.error, event.status_code)
    return f"{error}, HTTP {status}" if status else str(error)
