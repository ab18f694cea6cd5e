"""HttpDriverContract: what drivers over HTTP promise besides, shown on a server that does everything wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from slmclient import errors
from slmclient.chat import Finish, TextDelta
from slmclient.testing.fault_server import Cut, FaultServer, Seen, Silence, Stale, Step, whole
from slmclient.testing.http_hooks import Heard, HttpHooks, new_key, shown
from slmclient.testing.mode import AsyncMode, Mode

STATUSES: tuple[tuple[int, type[errors.SLMError]], ...] = (
    (400, errors.BadRequestError),
    (401, errors.AuthenticationError),
    (403, errors.PermissionDeniedError),
    (404, errors.NotFoundError),
    (408, errors.InternalServerError),
    (409, errors.InternalServerError),
    (410, errors.RetiredError),
    (413, errors.BadRequestError),
    (422, errors.BadRequestError),
    (429, errors.RateLimitError),
    (500, errors.InternalServerError),
    (502, errors.InternalServerError),
    (503, errors.InternalServerError),
)
RETRYABLE = {408, 409, 429, 500, 502, 503}
HTML = "<!doctype html><html><body><h1>Welcome to the gateway</h1></body></html>"


class HttpDriverContract(HttpHooks):
    """Every promise of a driver, and those of drivers over HTTP. A subclass writes `make_driver_at` too."""

    @pytest.mark.parametrize(("status", "kind"), STATUSES, ids=[str(status) for status, _ in STATUSES])
    def test_a_status_becomes_its_error(self, mode: Mode, status: int, kind: type[errors.SLMError]) -> None:
        """Each error status becomes its class; only what may pass is retryable; nothing is asked twice."""
        error = self.after(mode, whole(status, {"error": {"message": "no luck"}})).failure()
        assert isinstance(error, kind), f"{status} became {type(error).__name__}"
        assert error.status_code == status
        assert error.retryable == (status in RETRYABLE)
        assert "no luck" in str(error)

    def test_an_error_page_is_not_quoted(self, mode: Mode) -> None:
        """The HTML page of a gateway becomes its status's error, and is not quoted."""
        error = self.after(mode, whole(502, HTML, "text/html")).failure()
        assert isinstance(error, errors.InternalServerError)
        assert "<h1>" not in str(error)

    def test_retry_after_is_told(self, mode: Mode) -> None:
        """The wait that a 429 asks for stands in ``retry_after``."""
        error = self.after(mode, whole(429, {"error": {"message": "slow"}}, Retry_After="7")).failure()
        assert error.retry_after == 7

    @pytest.mark.parametrize("first", [False, True], ids=["at_once", "after_the_role"])
    def test_an_error_before_any_text_is_itself(self, mode: Mode, first: bool) -> None:
        """An error frame before any text is the error it tells of."""
        steps: list[Step] = [self.chunk("")] if first else []
        error = self.after(mode, self.head(), *steps, self.error_chunk(429, "slow down")).failure()
        assert isinstance(error, self.frame_429)
        assert error.retryable
        assert "slow down" in str(error)

    @pytest.mark.parametrize("fault", ["error", "broken", "cut", "end"])
    def test_a_fault_after_text_interrupts_the_stream(self, mode: Mode, fault: str) -> None:
        """After text every fault is a StreamInterruptedError, not retryable; its ``partial`` holds the text."""
        faults: dict[str, list[Step]] = {
            "error": [self.error_chunk(500, "oh no")],
            "broken": [self.broken_chunk()],
            "cut": [Silence(0.05), Cut()],
            "end": [],
        }

        async def scenario() -> tuple[str, errors.SLMError | None]:
            driver = self.make_driver_at(server.url, None)
            try:
                return await mode.stream(driver, self.prompt, self.chat_options())
            finally:
                await mode.close(driver)

        with FaultServer(self.head(), self.chunk("Half an "), self.chunk("answer"), *faults[fault]) as server:
            text, error = mode.run(scenario, self.patience)
        assert isinstance(error, errors.StreamInterruptedError), f"it became {error!r}"
        assert not error.retryable
        assert text == "Half an answer"
        assert error.partial is not None
        assert error.partial.text == text

    @pytest.mark.parametrize("place", ["at_once", "after_the_head", "after_the_role", "in_the_body"])
    def test_a_cut_before_any_text_is_a_connection_error(self, mode: Mode, place: str) -> None:
        """A connection that breaks before any text is an APIConnectionError, retryable."""
        part = whole(200, self.whole_answer("Hello"))[:-20]
        places: dict[str, list[Step]] = {
            "at_once": [Cut()],
            "after_the_head": [self.head(), Silence(0.05), Cut()],
            "after_the_role": [self.head(), self.chunk("")],
            "in_the_body": [part],
        }
        error = self.after(mode, *places[place], stream=place != "in_the_body").failure()
        assert isinstance(error, errors.APIConnectionError), f"it became {type(error).__name__}: {error}"
        assert error.retryable

    def test_nobody_there_is_a_connection_error(self, mode: Mode) -> None:
        """A port where nobody listens is an APIConnectionError, and the message names the host."""
        with FaultServer() as server:
            pass
        error = self.outcome(mode, server).failure()
        assert isinstance(error, errors.APIConnectionError)
        assert server.url.removeprefix("http://") in str(error)

    def test_the_end_mark_may_be_missing(self, mode: Mode) -> None:
        """A stream that ends after its finish reason is complete, with or without its end mark."""
        outcome = self.after(mode, self.head(), self.chunk("Hello"), self.last_chunk())
        assert outcome.error is None
        assert outcome.reply is not None
        assert (outcome.reply.text, outcome.reply.finish_reason) == ("Hello", "stop")

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    @pytest.mark.parametrize("body", [HTML, '{"choices": [', '"Hello"', "[]", "{}", ""])
    def test_a_body_of_something_else_is_a_format_error(self, mode: Mode, body: str, stream: bool) -> None:
        """A 200 that is no answer (HTML, broken or other JSON, no choices, nothing) is a ResponseFormatError."""
        kind = "text/html" if body == HTML else "application/json"
        error = self.after(mode, whole(200, body, kind), stream=stream).failure()
        assert isinstance(error, errors.ResponseFormatError), f"it became {type(error).__name__}: {error}"
        assert not error.retryable

    def test_a_broken_first_frame_is_a_format_error(self, mode: Mode) -> None:
        """A frame that cannot be parsed, before any text, is a ResponseFormatError."""
        error = self.after(mode, self.head(), self.broken_chunk(), self.done()).failure()
        assert isinstance(error, errors.ResponseFormatError)

    def test_a_plain_body_answers_a_streamed_call(self, mode: Mode) -> None:
        """A server that does not stream, though it was asked to, is understood."""
        outcome = self.after(mode, whole(200, self.whole_answer("Hello there")), stream=True)
        assert outcome.error is None
        assert outcome.reply is not None
        assert (outcome.reply.text, outcome.reply.finish_reason) == ("Hello there", "stop")

    @pytest.mark.parametrize("place", ["before_the_head", "before_text"])
    def test_a_silent_server_is_a_timeout(self, mode: Mode, place: str) -> None:
        """Silence for longer than ``timeout`` is an APITimeoutError, in time."""
        steps: list[Step] = [] if place == "before_the_head" else [self.head(), self.chunk("")]
        outcome = self.after(mode, *steps, Silence(), timeout=0.3)
        assert isinstance(outcome.failure(), errors.APITimeoutError)
        assert 0.2 < outcome.seconds < 0.3 + self.soon

    def test_silence_after_text_interrupts_the_stream(self, mode: Mode) -> None:
        """Silence for longer than ``timeout``, once text has come, is a StreamInterruptedError, in time."""
        outcome = self.after(mode, self.head(), self.chunk("Half"), Silence(), timeout=0.3)
        assert isinstance(outcome.failure(), errors.StreamInterruptedError)
        assert outcome.text == "Half"
        assert outcome.seconds < 0.3 + self.soon

    @pytest.mark.parametrize("place", ["before_the_head", "after_text"])
    def test_a_deadline_ends_silence(self, mode: Mode, place: str) -> None:
        """The deadline ends a call to a silent server, however long its ``timeout``, with an APITimeoutError."""
        steps: list[Step] = [] if place == "before_the_head" else [Silence(0.55), self.head(), self.chunk("Half")]
        outcome = self.after(mode, *steps, Silence(), deadline=0.8)
        assert isinstance(outcome.failure(), errors.APITimeoutError)
        assert outcome.seconds < 1.2, "the deadline was missed"

    def test_a_trickle_ends_at_the_deadline(self, mode: Mode) -> None:
        """A server that always sends a little, so that no silence is too long, does not outlive the deadline."""
        drop: list[Step] = [self.sign_of_life(), Silence(0.05)]
        outcome = self.after(mode, self.head(), *drop * 200, deadline=0.6)
        assert isinstance(outcome.failure(), errors.APITimeoutError)
        assert outcome.seconds < 0.6 + self.soon

    def test_a_kept_connection_that_has_died_is_replaced(self, mode: Mode) -> None:
        """A server may close an idle connection just when the next call takes it: that call does not notice."""

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            for _ in range(3):
                assert (await mode.reply(driver, self.request(driver, stream=False))).text == "Hello"
            await mode.close(driver)

        with FaultServer(whole(200, self.whole_answer("Hello"), Connection="keep-alive"), Stale()) as server:
            mode.run(scenario, self.patience)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_not_followed(self, mode: Mode, status: int) -> None:
        """A redirect is an error, and who it points to is never asked."""
        with FaultServer(whole(200, self.whole_answer("Elsewhere"))) as elsewhere:
            error = self.after(mode, whole(status, "", Location=f"{elsewhere.url}/v1/chat/completions")).failure()
        assert elsewhere.seen == []
        assert not error.retryable

    def test_closing_hangs_up(self, mode: Mode) -> None:
        """Closing the generator in the middle of a stream closes its connection at once."""

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            async with aclosing(mode.events(driver, self.request(driver))) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
            assert await mode.until(server.gone.is_set, 1.0), "the server still has the connection"
            await mode.close(driver)

        with FaultServer(self.head(), self.chunk("Hello"), Silence()) as server:
            mode.run(scenario, self.patience)

    @pytest.mark.parametrize("sent", [0, 1, 2], ids=["before_the_head", "after_the_head", "after_text"])
    def test_cancelling_wakes_up(self, mode: Mode, sent: int) -> None:
        """`Cancellation.cancel` ends a call that waits for a silent server, and hangs up, within a second."""
        steps = [self.head(), self.chunk("Hi")][:sent]

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            request = self.request(driver)
            threading.Timer(0.2, request.cancellation.cancel).start()
            began = time.monotonic()
            reasons = [event.reason for event in await mode.all(driver, request) if isinstance(event, Finish)]
            assert reasons == ["cancelled"]
            assert time.monotonic() - began < 1.2, "it took too long"
            assert await mode.until(server.gone.is_set, 1.0), "the server still has the connection"
            await mode.close(driver)

        with FaultServer(*steps, Silence()) as server:
            mode.run(scenario, self.patience)

    def test_cancelled_before_it_begins_it_sends_nothing(self, mode: Mode) -> None:
        """A call that was cancelled before it began is not sent."""

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            request = self.request(driver)
            request.cancellation.cancel()
            await mode.all(driver, request)
            await mode.close(driver)

        with FaultServer(whole(200, self.whole_answer("Hello"))) as server:
            mode.run(scenario, self.patience)
            assert server.seen == []

    def test_a_cancelled_task_hangs_up(self) -> None:
        """An asyncio task that is cancelled while it waits closes its connection."""
        mode = AsyncMode()

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            task = asyncio.create_task(mode.all(driver, self.request(driver)))
            assert await mode.until(lambda: bool(server.seen), self.soon)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await mode.until(server.gone.is_set, 1.0), "the server still has the connection"
            await mode.close(driver)

        with FaultServer(self.head(), self.chunk("Hello"), Silence()) as server:
            mode.run(scenario, self.patience)

    # --- keys

    def test_the_key_goes_only_into_its_header(self, mode: Mode) -> None:
        """The key is sent in the headers it belongs to, and nowhere else; without a key none of them is sent."""
        key = new_key()
        for given in (key, None):
            with FaultServer(whole(200, self.whole_answer("Hello"))) as server:
                self.outcome(mode, server, given)
            (seen,) = server.seen
            carrying = {name for name, value in seen.headers.items() if key in value}
            assert carrying == (set(self.key_headers) if given else set())
            assert key not in seen.path
            assert key.encode() not in seen.body
            assert given or not self.key_headers & seen.headers.keys()

    @pytest.mark.parametrize("place", ["json", "text", "html", "frame", "late_frame", "cut"])
    def test_the_key_is_in_no_error(self, mode: Mode, place: str) -> None:
        """No error shows the key, in no way and no log, not even when the server sends it back."""
        key = new_key()

        def echoed(seen: Seen) -> bytes:
            said = f"bad key: {' '.join(seen.headers.get(name, '') for name in self.key_headers)}"
            if place == "cut":
                return b"HTTP/1.1 "
            if place == "json":
                return whole(401, {"error": {"message": said, "details": [{"said": said}]}})
            if place in ("text", "html"):
                return whole(401, said if place == "text" else f"<html>{said}</html>", f"text/{place}")
            return self.head() + self.chunk("Hi" if place == "late_frame" else "") + self.error_chunk(401, said)

        with FaultServer(echoed) as server, Heard() as heard:
            error = self.outcome(mode, server, key).failure()
        for text in shown(error):
            assert key not in text, f"the key is shown by: {text.partition(key)[0][-200:]}***"
        assert not any(key in line for line in heard.lines), "the key is in the log"

    def test_loopback_goes_through_no_proxy(self, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy named in the environment sees nothing of a call to this machine."""
        with FaultServer(whole(502, "a proxy", "text/plain")) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            outcome = self.after(mode, whole(200, self.whole_answer("Hello")))
        assert outcome.error is None
        assert proxy.seen == []
