"""Promises about what a driver says of itself and what an answer looks like."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import decimal
import locale
import re
import socket
import sys
import threading
import warnings
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from slmclient.chat import (
    FINISH_REASONS,
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
from slmclient.drivers.base import Driver, DriverInfo, Feature
from slmclient.messages import Message
from slmclient.reply import ReplyBuilder
from slmclient.testing.hooks import Hooks, promise
from slmclient.testing.mode import Mode

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_DELTAS = (TextDelta, ReasoningDelta, ToolCallDelta)
_TURNS = (
    Message.user("My name is Ada."),
    Message.assistant("Hello Ada."),
    Message.user("What is my name?"),
)
_MANY_SCRIPTS = "Blåbærsyltetøy, naïve café, 東京 and Москва, عربي, a family 👩‍👩‍👧 and a flag 🇳🇴: what is this?"


class AnswerPromises(Hooks):
    """What a driver says of itself, and what its answers look like."""

    def test_construction_opens_nothing(self) -> None:
        """Making a driver starts no thread and no process and opens no socket."""
        threads = set(threading.enumerate())
        with _watched() as seen:
            driver = self.make_driver()
        begun = set(threading.enumerate()) - threads
        driver.close()
        assert not seen, f"making a driver did this: {seen}"
        assert not begun, f"making a driver started {begun}"

    def test_info_is_complete(self) -> None:
        """Info has a legal name, a title, a docs page; its features, knobs and variables are such."""
        driver = self.make_driver()
        info = driver.info
        driver.close()
        assert isinstance(info, DriverInfo)
        assert _NAME.fullmatch(info.name), f"{info.name!r} is no name: small letters, digits, - and _"
        assert info.title.strip()
        assert info.docs.strip()
        assert info.state.strip()
        assert all(isinstance(feature, Feature) for feature in (*info.features, *driver.features))
        assert {*info.knobs, *driver.knobs} <= {*KNOBS, "reasoning"}
        for variable in (*info.key_variables, *info.url_variables):
            assert _VARIABLE.fullmatch(variable), f"{variable!r} is no name of an environment variable"
        assert not any("/" in host or ":" in host for host in info.vendor_hosts), "vendor_hosts are host names"
        assert info.default_base_url is None or info.default_base_url.startswith(("http://", "https://"))
        assert info.extra is None or _NAME.fullmatch(info.extra)
        assert info.hosted or not (info.key_variables or info.url_variables or info.default_base_url)

    def test_its_name_is_the_provider_it_was_made_for(self) -> None:
        """The driver's name is its config's provider; `repr` has it and no key."""
        driver = self.make_driver()
        try:
            assert driver.name == driver.config.provider
            assert driver.name in repr(driver)
            for shown in (repr(driver), str(driver), repr(vars(driver)), repr(driver.config)):
                assert self.key is None or self.key not in shown, "repr shows the key"
        finally:
            driver.close()

    @promise
    async def test_start_comes_first_and_once(self, mode: Mode, driver: Driver) -> None:
        """Start is the first event, and there is one; it names the driver and a model."""
        events = await mode.all(driver, self.request(driver))
        assert events, "there was no event"
        assert isinstance(events[0], Start), f"the first event was {events[0]}"
        assert sum(isinstance(event, Start) for event in events) == 1
        assert events[0].provider == driver.name
        assert events[0].model, "Start names no model"

    @promise
    async def test_deltas_are_never_empty_and_add_up_to_the_text(self, mode: Mode, driver: Driver) -> None:
        """Text comes in pieces, none of them empty; together they are the reply's text."""
        request = self.request(driver)
        events = await mode.all(driver, request)
        pieces = [event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta))]
        assert all(pieces), "a delta is empty"
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert text.strip(), "the answer has no text"
        assert _folded(request, events).text == text

    @promise
    async def test_there_is_one_finish_with_a_legal_reason(self, mode: Mode, driver: Driver) -> None:
        """Finish comes once, streamed and whole, and its reason is one of ours."""
        for stream in (True, False):
            events = await mode.all(driver, self.request(driver, stream=stream))
            ends = [event for event in events if isinstance(event, Finish)]
            assert len(ends) == 1, f"there are {len(ends)} Finish"
            assert ends[0].reason in FINISH_REASONS, f"{ends[0].reason!r} is no finish reason"

    @promise
    async def test_usage_comes_at_most_once_and_last(self, mode: Mode, driver: Driver) -> None:
        """At most one Usage, with no negative number; no delta comes after it."""
        for stream in (True, False):
            events = await mode.all(driver, self.request(driver, stream=stream))
            places = [place for place, event in enumerate(events) if isinstance(event, Usage)]
            assert len(places) <= 1, f"there are {len(places)} Usage"
            for place in places:
                usage = events[place]
                assert isinstance(usage, Usage)
                assert usage.input_tokens >= 0
                assert usage.output_tokens >= 0
                assert not any(isinstance(event, _DELTAS) for event in events[place:]), "a delta came after Usage"

    @promise
    async def test_after_finish_comes_nothing_but_usage_and_notes(self, mode: Mode, driver: Driver) -> None:
        """What follows Finish is no part of the answer."""
        events = await mode.all(driver, self.request(driver))
        end = next(place for place, event in enumerate(events) if isinstance(event, Finish))
        assert all(isinstance(event, (Usage, Note)) for event in events[end + 1 :]), f"after Finish: {events[end:]}"

    @promise
    async def test_streamed_and_whole_answers_are_equal(self, mode: Mode, driver: Driver) -> None:
        """The same call, streamed and whole, folds to the same reply."""
        streamed = await mode.reply(driver, self.request(driver, stream=True))
        whole = await mode.reply(driver, self.request(driver, stream=False))
        names = ["provider", "model", "finish_reason"]
        if self.deterministic:
            names += ["text", "reasoning", "tool_calls"]
            if not (streamed.usage.estimated or whole.usage.estimated):
                names.append("usage")
        for name in names:
            assert getattr(streamed, name) == getattr(whole, name), f"{name} differs"

    @promise
    async def test_a_system_message_is_taken(self, mode: Mode, driver: Driver) -> None:
        """A system message before the user's is taken."""
        reply = await mode.reply(driver, self.request(driver, system="Answer in one word."))
        assert reply.text.strip()

    @promise
    async def test_several_turns_are_taken(self, mode: Mode, driver: Driver) -> None:
        """A conversation of several turns is taken."""
        reply = await mode.reply(driver, self.request(driver, list(_TURNS)))
        assert reply.text.strip()

    @promise
    async def test_text_of_any_script_is_taken(self, mode: Mode, driver: Driver) -> None:
        """Prompts in any script, with emoji of several code points, are taken."""
        reply = await mode.reply(driver, self.request(driver, _MANY_SCRIPTS))
        assert reply.finish_reason in ("stop", "length")
        assert "\ufffd" not in reply.text[:-1], "the answer has broken characters"

    @promise
    async def test_max_tokens_cuts_the_answer(self, mode: Mode, driver: Driver) -> None:
        """An answer that reaches ``max_tokens`` ends there, with the finish reason ``length``."""
        if "max_tokens" not in driver.knobs:
            pytest.skip(f"{driver.name} has no max_tokens")
        reply = await mode.reply(driver, self.long_request(driver, max_tokens=4))
        assert reply.finish_reason == "length"
        assert reply.usage.estimated or reply.usage.output_tokens <= 4
        assert len(reply.text) < 100, "four tokens are not that long"

    @promise
    async def test_a_stop_string_ends_the_answer_and_is_not_shown(self, mode: Mode, driver: Driver) -> None:
        """The answer ends before a stop string, with the finish reason ``stop``."""
        if "stop" not in driver.knobs:
            pytest.skip(f"{driver.name} has no stop")
        answer = (await mode.reply(driver, self.request(driver))).text
        word = max(answer.split()[1:], key=len, default="")
        assert word, f"the hook prompt needs an answer of several words, not {answer!r}"
        reply = await mode.reply(driver, self.request(driver, stop=[word]))
        assert word not in reply.text
        if self.deterministic:
            assert reply.finish_reason == "stop"
            assert reply.text.strip() == answer[: answer.index(word)].strip()

    @promise
    async def test_the_request_is_not_changed(self, mode: Mode, driver: Driver) -> None:
        """The driver changes nothing in the request."""
        request = self.request(driver, system="Be brief.", extra={})
        before = _contents(request)
        await mode.all(driver, request)
        assert _contents(request) == before

    @promise
    async def test_the_callers_thread_state_is_untouched(self, mode: Mode, driver: Driver) -> None:
        """Between two events the caller finds its thread as it left it: context, task, locale, warnings, folder."""
        _STAMP.set("ours")
        with decimal.localcontext(prec=11):
            before = _state()
            async with aclosing(mode.events(driver, self.request(driver))) as events:
                async for event in events:
                    assert _state() == before, f"changed at {event}"
            assert _state() == before, "changed at the end"


def _folded(request: ChatRequest, events: list[Event]) -> Any:
    builder = ReplyBuilder(request)
    for event in events:
        builder.add(event)
    return builder.reply()


def _contents(request: ChatRequest) -> dict[str, Any]:
    names = [name for name in request.__dataclass_fields__ if name != "cancellation"]
    return {name: copy.deepcopy(getattr(request, name)) for name in names}


_STAMP: contextvars.ContextVar[str] = contextvars.ContextVar("stamp", default="")


def _state() -> dict[str, Any]:
    try:
        task: Any = asyncio.current_task()
    except RuntimeError:  # no loop is running
        task = None
    context = {variable.name: id(value) for variable, value in contextvars.copy_context().items()}
    return {
        "context variables": context,
        "asyncio task": task,
        "decimal precision": decimal.getcontext().prec,
        "locale": locale.setlocale(locale.LC_ALL),
        "socket timeout": socket.getdefaulttimeout(),
        "warning filters": list(warnings.filters),
        "working folder": Path.cwd(),
    }


class _Watch:
    """Notes what this thread opens. Audit hooks stay for ever, so there is one, and it is switched on and off."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.seen: list[str] = []
        self.hooked = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread == threading.get_ident() and event.startswith(("socket.", "subprocess.", "os.fork", "os.posix")):
            self.seen.append(event)

    def __enter__(self) -> list[str]:
        if not self.hooked:
            self.hooked = True
            sys.addaudithook(self.hook)
        self.seen = []
        self.thread = threading.get_ident()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.thread = None


_THE_WATCH = _Watch()


def _watched() -> _Watch:
    return _THE_WATCH
