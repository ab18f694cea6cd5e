"""Each promise can fail: a small driver that breaks it, and its test, which notices."""

from __future__ import annotations

import contextvars
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from slmclient.chat import ChatRequest, Event, Finish, Start, TextDelta, Usage
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo, Feature
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.secret import Secret
from slmclient.errors import APITimeoutError, ConfigurationError
from slmclient.policy.retry import RetryDriver
from slmclient.testing import DriverContract, HttpDriverContract
from slmclient.testing.mode import MODES

GOOD = frozenset({Feature.PREFILL, Feature.IMAGES, Feature.AUDIO})


class Good(Driver):
    """Keeps every promise, in few lines; those below break one each."""

    info = DriverInfo(name="good", title="Good", docs="testing.md", features=GOOD)
    closed = False

    def words(self, request: ChatRequest) -> list[str]:
        if "story" in request.messages[-1].text:
            return ["fox "] * 100_000
        return ["The ", "capital ", "of ", "Japan ", "is ", "Tokyo."][len((request.prefill or "").split()) :]

    def answer(self, request: ChatRequest) -> Iterator[Event]:
        words = self.words(request)
        limit = request.sampling.get("max_tokens", len(words))
        yield Start(self.name, "good-1")
        for written, word in enumerate(words):
            if written == limit or word.strip() in request.sampling.get("stop", ()):
                break
            yield TextDelta(word)
        yield Finish("length" if len(words) > limit else "stop")

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        if self.closed:
            raise ConfigurationError("closed")
        for event in self.answer(request):
            request.cancellation.sleep(0.001)
            if self.cancelled(request):
                yield Finish("cancelled")
                return
            if self.late(request):
                raise APITimeoutError("late")
            yield event

    def cancelled(self, request: ChatRequest) -> bool:
        return request.cancellation.cancelled

    def late(self, request: ChatRequest) -> bool:
        return request.remaining() <= 0

    def close(self) -> None:
        self.closed = True


class OpensASocket(Good):
    def __init__(self) -> None:
        super().__init__()
        socket.socket().close()


class StartsAThread(Good):
    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=threading.Event().wait, args=(2,), daemon=True).start()


class HasABadName(Good):
    info = DriverInfo(name="Bad Name", title="Bad", docs="testing.md")


class ShowsItsKey(Good):
    def __repr__(self) -> str:
        return f"<{self.name} key-123>"


class StartsTwice(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        yield Start(self.name, "good-1")
        yield from super().answer(request)


class SendsEmptyText(Good):
    def words(self, request: ChatRequest) -> list[str]:
        return ["", *super().words(request)]


class NeverFinishes(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        return (event for event in super().answer(request) if not isinstance(event, Finish))


class CountsTwice(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        yield from super().answer(request)
        yield from (Usage(input_tokens=1, output_tokens=1), Usage(input_tokens=1, output_tokens=1))


class TalksOn(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        yield from super().answer(request)
        yield TextDelta("And another thing.")


class StreamsSomethingElse(Good):
    def words(self, request: ChatRequest) -> list[str]:
        return ["Psst. ", *super().words(request)] if request.stream else super().words(request)


class ShowsTheStopString(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        for event in super().answer(request):
            if isinstance(event, Finish) and "stop" in request.sampling:
                yield TextDelta(request.sampling["stop"][0])
            yield event


class NeverCuts(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        yield Start(self.name, "good-1")
        yield from (TextDelta("fox "), TextDelta("fox "), TextDelta("fox "), TextDelta("fox "), TextDelta("fox "))
        yield Finish("stop")


class ChangesTheRequest(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        request.extra["seen"] = True  # type: ignore[index]
        return super().answer(request)


MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark")


class LeavesAMark(Good):
    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        for event in super().events(request):
            MARK.set("was here")
            yield event

    async def aevents(self, request: ChatRequest) -> Any:
        for event in super().events(request):
            MARK.set("was here")
            yield event


class IgnoresCancelling(Good):
    def cancelled(self, request: ChatRequest) -> bool:
        return False


class IgnoresTheDeadline(Good):
    def late(self, request: ChatRequest) -> bool:
        return False


class HoldsALock(Good):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def answer(self, request: ChatRequest) -> Iterator[Event]:
        self.lock.acquire(timeout=4)  # longer than the contract's patience; not for ever, or pytest could not end
        yield from super().answer(request)
        self.lock.release()


class GoesOnAfterClosing(Good):
    busy: set[int] = set()

    def answer(self, request: ChatRequest) -> Iterator[Event]:
        self.busy.add(1)
        yield from super().answer(request)
        self.busy.clear()


class AnswersWhenClosed(Good):
    def close(self) -> None:
        pass


class LeavesAThread(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        threading.Thread(target=threading.Event().wait, args=(3,), daemon=True).start()
        return super().answer(request)


class RaisesWhatItLikes(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        if request.model == "unknown":
            raise KeyError(request.model)
        return super().answer(request)


class RepeatsThePrefill(Good):
    def words(self, request: ChatRequest) -> list[str]:
        return [request.prefill or "", *super().words(request)]


class IsBlind(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        if any(message.images for message in request.messages):
            raise ConfigurationError("no pictures, whatever my info says")
        return super().answer(request)


class IsDeaf(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        if any(message.audio for message in request.messages):
            raise ConfigurationError("no sound, whatever my info says")
        return super().answer(request)


class Refuses(Good):
    def answer(self, request: ChatRequest) -> Iterator[Event]:
        if "top_k" in request.sampling:
            raise ConfigurationError("no top_k, whatever my info says")
        return super().answer(request)


BROKEN: list[tuple[str, type[Good]]] = [
    ("its_name_is_the_provider_it_was_made_for", ShowsItsKey),
    ("start_comes_first_and_once", StartsTwice),
    ("deltas_are_never_empty_and_add_up_to_the_text", SendsEmptyText),
    ("there_is_one_finish_with_a_legal_reason", NeverFinishes),
    ("usage_comes_at_most_once_and_last", CountsTwice),
    ("after_finish_comes_nothing_but_usage_and_notes", TalksOn),
    ("streamed_and_whole_answers_are_equal", StreamsSomethingElse),
    ("a_stop_string_ends_the_answer_and_is_not_shown", ShowsTheStopString),
    ("max_tokens_cuts_the_answer", NeverCuts),
    ("the_request_is_not_changed", ChangesTheRequest),
    ("the_callers_thread_state_is_untouched", LeavesAMark),
    ("cancelled_before_it_begins", IgnoresCancelling),
    ("cancelling_from_another_thread_ends_the_answer", IgnoresCancelling),
    ("after_cancelling_it_answers_again", IgnoresCancelling),
    ("a_deadline_that_has_passed", IgnoresTheDeadline),
    ("a_deadline_that_passes_during_the_answer", IgnoresTheDeadline),
    ("a_second_call_works_while_a_stream_is_half_read", HoldsALock),
    ("closing_early_frees", GoesOnAfterClosing),
    ("closing_is_final", AnswersWhenClosed),
    ("no_thread_is_left", LeavesAThread),
    ("prefill_is_continued_and_not_repeated", RepeatsThePrefill),
    ("images_are_taken", IsBlind),
    ("sound_is_taken", IsDeaf),
    ("knobs_that_it_has_are_taken", Refuses),
    ("only_our_errors_leave", RaisesWhatItLikes),
    ("construction_opens_nothing", OpensASocket),
    ("construction_opens_nothing", StartsAThread),
    ("info_is_complete", HasABadName),
]
WITHOUT_MODE = {"its_name_is_the_provider_it_was_made_for", "construction_opens_nothing", "info_is_complete"}


class Contract(DriverContract):
    """The contract on a driver of the class `subject`."""

    subject: type[Good] = Good
    key = "key-123"
    soon = 0.3
    patience = 3.0
    unknown_model = "unknown"

    def make_driver(self) -> Driver:
        return self.subject()

    def at_rest(self) -> bool:
        return not GoesOnAfterClosing.busy


def held(promise: str, subject: type[Good], mode: str) -> None:
    """Hold a driver class to one promise."""
    GoesOnAfterClosing.busy.clear()
    contract = Contract()
    contract.subject = subject
    test = getattr(contract, f"test_{promise}")
    test() if promise in WITHOUT_MODE else test(MODES[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("promise", "subject"), BROKEN)
def test_a_broken_promise_is_noticed(promise: str, subject: type[Good], mode: str) -> None:
    with pytest.raises((AssertionError, KeyError, ConfigurationError, pytest.fail.Exception)):
        held(promise, subject, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("promise", sorted({promise for promise, _ in BROKEN} - {"only_our_errors_leave"}))
def test_a_kept_promise_is_not(promise: str, mode: str) -> None:
    """The driver that the broken ones are made from passes: what fails above is what they break."""
    held(promise, Good, mode)


# Over HTTP


class TriesAgain(OpenAIDriver):
    """Has its own idea of retrying."""

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        inner = OpenAIDriver(self.config)
        with suppress(Exception):
            yield from inner.events(request)
            return
        yield from super().events(request)

    async def aevents(self, request: ChatRequest) -> Any:
        async for event in RetryDriver(OpenAIDriver(self.config), 1).aevents(request):
            yield event


class TellsTheKey(OpenAIDriver):
    """Sends its key in the address as well."""

    def url(self, path: str) -> str:
        key = self.config.api_key.open() if self.config.api_key else ""
        return f"{super().url(path)}?key={key}"


class HttpContract(HttpDriverContract):
    subject: type[OpenAIDriver] = OpenAIDriver

    def make_driver_at(self, base_url: str, api_key: str | None) -> Driver:
        secret = Secret(api_key) if api_key else None
        return self.subject(DriverConfig("openai", "m", base_url=base_url, api_key=secret))


@pytest.mark.parametrize("mode", MODES)
def test_a_driver_that_retries_is_noticed(mode: str) -> None:
    contract = HttpContract()
    contract.test_an_error_page_is_not_quoted(MODES[mode])
    contract.subject = TriesAgain
    with pytest.raises(AssertionError, match="the server saw 2 requests"):
        contract.test_an_error_page_is_not_quoted(MODES[mode])


@pytest.mark.parametrize("mode", MODES)
def test_a_key_in_the_address_is_noticed(mode: str) -> None:
    contract = HttpContract()
    contract.test_the_key_goes_only_into_its_header(MODES[mode])
    contract.subject = TellsTheKey
    with pytest.raises(AssertionError):
        contract.test_the_key_goes_only_into_its_header(MODES[mode])
