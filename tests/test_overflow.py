"""Prompts that do not fit: fewer tokens are asked for, or the oldest turns are left out; and the reply says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_server import KEY, LlamaServers
from slmclient import PhiClient
from slmclient.answer.overflow import OverflowDriver, cuts
from slmclient.chat import ChatOptions, ChatRequest, Event, TextDelta
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import (
    BadRequestError,
    ContextLengthExceededError,
    ContextTruncatedError,
    RateLimitError,
    SLMError,
)
from slmclient.messages import Message, ToolCall
from slmclient.policy.context import estimate
from slmclient.policy.retry import RetryDriver, RetryPolicy
from slmclient.reply import Reply
from slmclient.request import chat_request
from slmclient.testing import DriverContract, FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, whole
from slmclient.testing.mode import MODES, Mode
from test_retry import answer

CALLS = 20
WORDS = "one two three four five six seven eight nine ten " * 4  # about 50 tokens

modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def asked(messages: list[Message] | str, **options: Any) -> ChatRequest:
    given = ChatOptions(**{"temperature": 0, "deadline": 120, **options})
    return chat_request(messages, given, stream=True, model=None, timeout=60, deadline=60)


def talk(turns: int, text: str = WORDS) -> list[Message]:
    """Return a conversation with so many questions, all answered but the last; each message says its number."""
    messages = [Message.system("Be brief.")]
    for number in range(turns):
        messages += [Message.user(f"Q{number} {text}"), Message.assistant(f"A{number} {text}")]
    return messages[:-1]


class Small(ScriptedDriver):
    """A model with a small context, which counts as it likes: ``per`` tokens for one of the estimate."""

    def __init__(
        self, context: int, *, per: float = 1.0, tells: str = "tokens context", refuses_long_answers: bool = True
    ) -> None:
        super().__init__(*[self._reply] * CALLS)
        self.context, self.per, self.tells = context, per, tells
        self.refuses_long_answers = refuses_long_answers
        self.counts = 0

    def size(self, request: ChatRequest) -> int:
        return int(estimate(request, None) * self.per)

    def _reply(self, request: ChatRequest) -> list[Event]:
        size = self.size(request)
        wanted = request.sampling.get("max_tokens", 1) if self.refuses_long_answers else 1
        if size + wanted > self.context:
            known = {"tokens": size, "context": self.context}
            told = {name: number for name, number in known.items() if name in self.tells}
            raise ContextLengthExceededError("too long", **told, status_code=400)
        return [TextDelta("Yes.")]

    def count_tokens(self, request: ChatRequest) -> int | None:
        self.counts += 1
        return self.size(request) if "counts" in self.tells else None


async def reply_of(mode: Mode, driver: Driver, request: ChatRequest) -> Reply:
    return await mode.reply(OverflowDriver(driver), request)


def run(mode: Mode, driver: Driver, request: ChatRequest) -> Reply:
    return mode.run(lambda: reply_of(mode, driver, request))


# --- fewer tokens asked for


@modes
def test_more_than_is_left_beside_the_prompt_becomes_what_is_left(mode: Mode) -> None:
    driver = Small(400)
    request = asked(talk(2), max_tokens=5000)
    left = 400 - driver.size(request)
    reply = run(mode, driver, request)
    assert reply.text == "Yes."
    assert reply.converted == (f"max_tokens: 5,000 asked, {left} left beside the prompt",)
    assert [sent.sampling["max_tokens"] for sent in driver.requests] == [5000, left]
    assert reply.truncated == ()
    assert driver.requests[1].messages == request.messages


@modes
def test_a_prompt_that_does_not_fit_by_itself_stays_an_error(mode: Mode) -> None:
    driver = Small(100)
    with pytest.raises(ContextLengthExceededError, match=r"^too long$"):
        run(mode, driver, asked(talk(3), max_tokens=10))
    assert len(driver.requests) == 1


@modes
def test_without_max_tokens_and_without_leave_to_truncate_nothing_is_sent_again(mode: Mode) -> None:
    driver = Small(100)
    with pytest.raises(ContextLengthExceededError, match=r"^too long$"):
        run(mode, driver, asked(talk(3)))
    assert len(driver.requests) == 1


@modes
def test_a_server_that_tells_no_prompt_tokens_is_asked_to_count_them(mode: Mode) -> None:
    """As vLLM of 2026: "your prompt contains at least 4097 input tokens" is a bound, and no count."""
    driver = Small(400, per=1.3, tells="context counts")
    reply = run(mode, driver, asked(talk(2), max_tokens=390))
    left = 400 - driver.size(driver.requests[0])
    assert driver.requests[1].sampling["max_tokens"] == left
    assert driver.counts == 1
    assert reply.converted == (f"max_tokens: 390 asked, {left} left beside the prompt",)


@modes
@pytest.mark.parametrize("per", [0.7, 1.0, 1.4])
def test_where_nobody_counts_the_estimate_does_with_a_margin(mode: Mode, per: float) -> None:
    driver = Small(500, per=per, tells="context")
    reply = run(mode, driver, asked(talk(2), max_tokens=480))
    assert reply.text == "Yes."
    assert len(driver.requests) <= 4
    assert 0 < driver.requests[-1].sampling["max_tokens"] < 480
    (told,) = reply.converted
    assert told.startswith("max_tokens: 480 asked, ")


# --- the oldest turns left out


@modes
@pytest.mark.parametrize("tells", ["tokens context", "context counts", "context", ""])
@pytest.mark.parametrize("per", [0.6, 1.0, 1.5])
def test_the_oldest_turns_go_until_the_rest_fits(mode: Mode, tells: str, per: float) -> None:
    driver = Small(400, per=per, tells=tells)
    messages = talk(12)
    reply = run(mode, driver, asked(messages, on_overflow="truncate_oldest"))
    sent = driver.requests[-1].messages
    assert reply.text == "Yes."
    assert len(driver.requests) <= 6
    assert (sent[0], sent[-1]) == (messages[0], messages[-1])
    assert [sent[0], *reply.truncated, *sent[1:]] == messages, "in order, and nothing twice"
    assert sent[1].role == "user"


@modes
@pytest.mark.parametrize("per", [0.7, 1.0, 1.5])
def test_no_more_goes_than_has_to_where_the_numbers_are_known(mode: Mode, per: float) -> None:
    driver = Small(400, per=per)
    request = asked(talk(12), on_overflow="truncate_oldest", max_tokens=100)
    reply = run(mode, driver, request)
    sent = driver.requests[-1]
    assert len(driver.requests) == 2, "the first overflow says how much"
    longer = replace(sent, messages=(sent.messages[0], *reply.truncated[-2:], *sent.messages[1:]))
    assert driver.size(longer) + 100 > 400 >= driver.size(sent) + 100
    assert reply.converted == ()


@modes
def test_an_answer_longer_than_half_the_context_gets_the_room_that_turns_leave(mode: Mode) -> None:
    """A wish for more than the model has does not cost the whole conversation."""
    driver = Small(600)
    reply = run(mode, driver, asked(talk(12), on_overflow="truncate_oldest", max_tokens=5000))
    assert 0 < len(reply.truncated) < 20
    left = driver.requests[-1].sampling["max_tokens"]
    assert left >= 600 // 4
    assert reply.converted == (f"max_tokens: 5,000 asked, {left} left beside the prompt",)


@modes
def test_a_last_turn_that_does_not_fit_alone_is_an_error_that_says_so(mode: Mode) -> None:
    driver = Small(60)
    messages = [*talk(3)[:-1], Message.user(WORDS * 3)]
    with pytest.raises(ContextLengthExceededError, match="the last turn does not fit by itself") as caught:
        run(mode, driver, asked(messages, on_overflow="truncate_oldest"))
    assert driver.requests[-1].messages == (messages[0], messages[-1])
    assert caught.value.context == 60
    assert caught.value.status_code == 400
    assert len(driver.requests) == 2


@modes
def test_a_prompt_that_a_server_has_cut_is_truncated_here_instead(mode: Mode) -> None:
    """Ollama leaves out turns by itself, and says so only by its count."""
    driver = ScriptedDriver(ContextTruncatedError("cut"), "Yes.")
    reply = run(mode, driver, asked(talk(8), on_overflow="truncate_oldest"))
    assert reply.truncated
    assert len(driver.requests) == 2


@modes
@pytest.mark.parametrize("kind", [BadRequestError, ContextTruncatedError])
def test_what_is_no_overflow_or_was_not_to_be_truncated_is_left_alone(mode: Mode, kind: type[SLMError]) -> None:
    driver = ScriptedDriver(kind("no"), "never asked")
    with pytest.raises(kind, match=r"^no$"):
        run(mode, driver, asked(talk(4), max_tokens=5))
    assert len(driver.requests) == 1


@modes
def test_after_the_first_piece_of_an_answer_nothing_is_sent_again(mode: Mode) -> None:
    broken = [TextDelta("I"), ContextLengthExceededError("late", tokens=1, context=2)]
    driver = ScriptedDriver(broken, "never asked")
    with pytest.raises(ContextLengthExceededError, match=r"^late$"):
        run(mode, driver, asked(talk(4), on_overflow="truncate_oldest", max_tokens=50))
    assert len(driver.requests) == 1


@modes
def test_every_try_is_in_the_attempts_of_the_reply(mode: Mode) -> None:
    busy = RateLimitError("busy", retry_after=0.0)
    inner = ScriptedDriver(busy, ContextLengthExceededError("long", tokens=900, context=400), busy, "Yes.")
    reply = run(mode, RetryDriver(inner, RetryPolicy(2)), asked(talk(12), on_overflow="truncate_oldest"))
    assert [attempt.error for attempt in reply.attempts] == [
        "RateLimitError",
        "ContextLengthExceededError",
        "RateLimitError",
        None,
    ]


@modes
def test_every_try_is_in_the_attempts_of_the_error(mode: Mode) -> None:
    errors = [ContextLengthExceededError("long", tokens=900, context=40)] * 3
    inner = RetryDriver(ScriptedDriver(*errors), RetryPolicy(2))
    with pytest.raises(ContextLengthExceededError) as caught:
        run(mode, inner, asked(talk(2), on_overflow="truncate_oldest"))
    assert [attempt.error for attempt in caught.value.attempts] == ["ContextLengthExceededError"] * 2


@modes
def test_a_call_cancelled_between_two_tries_ends_as_cancelled(mode: Mode) -> None:
    def overflow(request: ChatRequest) -> list[Event]:
        request.cancellation.cancel()
        raise ContextLengthExceededError("long", tokens=900, context=400)

    reply = run(mode, ScriptedDriver(overflow, "late"), asked(talk(12), on_overflow="truncate_oldest"))
    assert (reply.finish_reason, reply.text) == ("cancelled", "")


class TestOverflowDriver(DriverContract):
    """It keeps the contract."""

    def make_driver(self) -> Driver:
        return OverflowDriver(ScriptedDriver(*[answer] * 100, features=[], delay=0.002))


class TestOverflowingDriver(DriverContract):
    """It keeps the contract where every other call does not fit, too."""

    def make_driver(self) -> Driver:
        return _AlwaysTruncating(ScriptedDriver(*[answer] * 100, features=[], delay=0.002))


class _AlwaysTruncating(OverflowDriver):
    """As if every caller had given leave: the code that looks at the beginning of an answer runs for all."""

    def _asked(self, request: ChatRequest) -> ChatRequest:
        return replace(request, on_overflow="truncate_oldest")

    def events(self, request: ChatRequest) -> Any:
        return super().events(self._asked(request))

    def aevents(self, request: ChatRequest) -> Any:
        return super().aevents(self._asked(request))


# --- where a conversation may begin


def call(number: int) -> ToolCall:
    return ToolCall.parse(f"call_{number}", "weather", "{}")


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Histories as they come: turns with and without tools, greetings before, system messages anywhere."""
    messages: list[Message] = []
    calls = 0
    if draw(st.booleans()):
        messages.append(Message.system("S"))
    if draw(st.booleans()):
        messages.append(Message.assistant("Hello!"))
    for number in range(draw(st.integers(1, 8))):
        messages.append(Message.user(f"Q{number}" + "x" * draw(st.integers(0, 400))))
        for _ in range(draw(st.integers(0, 2))):
            ids = [call(calls + more) for more in range(draw(st.integers(1, 2)))]
            calls += len(ids)
            messages.append(Message(role="assistant", tool_calls=tuple(ids)))
            messages += [Message.tool("sunny", each.id) for each in ids]
        if draw(st.booleans()):
            messages.append(Message.assistant(f"A{number}" + "y" * draw(st.integers(0, 400))))
        if draw(st.integers(0, 5)) == 0:
            messages.append(Message.system(f"S{number}"))
    if draw(st.integers(0, 3)) == 0:  # a tool that answers late
        place = draw(st.integers(0, len(messages)))
        messages.insert(place, Message.tool("late", f"call_{draw(st.integers(0, 8))}"))
    return messages


def orphans(messages: tuple[Message, ...] | list[Message]) -> list[str]:
    """Return the ids that tools answer although nobody called them before."""
    called: set[str] = set()
    found: list[str] = []
    for message in messages:
        called.update(each.id for each in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in called:
            found.append(str(message.tool_call_id))
    return found


@given(histories(), st.integers(30, 400), st.sampled_from(["tokens context", "context", ""]))
def test_what_is_left_of_any_history_is_a_history(messages: list[Message], context: int, tells: str) -> None:
    driver = Small(context, tells=tells)
    request = ChatRequest(tuple(messages), on_overflow="truncate_oldest")
    dropped: tuple[Message, ...] = ()
    try:
        dropped = run(MODES["sync"], driver, request).truncated
    except ContextLengthExceededError:
        pass
    sent = driver.requests[-1].messages
    systems = [message for message in messages if message.role == "system"]
    last = max(place for place, message in enumerate(messages) if message.role == "user")
    assert [message for message in sent if message.role == "system"] == systems
    assert list(sent[len(sent) - len(messages[last:]) :]) == messages[last:], "the last question, and what follows it"
    assert len(orphans(sent)) <= len(orphans(messages)), "no tool answers a call that is gone"
    left = iter(messages)
    assert all(any(message is other for other in left) for message in sent), "in the old order"
    if driver.size(driver.requests[-1]) < context:
        assert len(dropped) == len(messages) - len(sent)


def test_what_a_tool_answers_in_a_later_turn_keeps_its_call() -> None:
    messages = [
        Message.user("Q0"),
        Message(role="assistant", tool_calls=(call(0),)),
        Message.user("Q1"),
        Message.tool("sunny", "call_0"),
        Message.user("Q2"),
    ]
    assert cuts(messages) == [4]


def test_finding_where_to_cut_takes_linear_time() -> None:
    looks = 0

    class Looked(Message):
        def __getattribute__(self, name: str) -> Any:
            nonlocal looks
            looks += name in ("role", "tool_calls", "tool_call_id")
            return super().__getattribute__(name)

    def looks_at(turns: int) -> int:
        nonlocal looks
        messages = [Looked(role="user", content="Q") for _ in range(turns)]
        looks = 0
        assert len(cuts(messages)) == turns - 1
        return looks

    assert looks_at(2000) <= 2 * looks_at(1000) + 10


# --- real servers and engines


@pytest.fixture(scope="module")
def small_server(llama_server: LlamaServers) -> Iterator[Callable[[], Driver]]:
    server = llama_server(n_ctx=512, n_parallel=1)
    drivers: list[Driver] = []

    def made() -> Driver:
        key = Secret(KEY)
        drivers.append(registry.new_driver(DriverConfig("openai", "smollm2", f"{server.url}/v1", key)))
        return drivers[-1]

    yield made
    for driver in drivers:
        driver.close()


@modes
def test_a_real_llama_server_gets_what_fits_its_context(mode: Mode, small_server: Callable[[], Driver]) -> None:
    messages = [*talk(12)[:-1], Message.user("What is the capital of France?")]

    async def scenario() -> Reply:
        return await reply_of(mode, small_server(), asked(messages, on_overflow="truncate_oldest", max_tokens=8))

    reply = mode.run(scenario)
    assert reply.text
    assert 512 // 3 < reply.usage.input_tokens < 512, "its own count, and no more left out than has to be"
    assert reply.truncated[0] == messages[1]


@modes
def test_a_real_engine_with_a_small_context_goes_on(mode: Mode, weights: Path) -> None:
    driver = registry.new_driver(DriverConfig("llamacpp", str(weights), options={"n_ctx": 400}))
    messages = [*talk(12)[:-1], Message.user("What is the capital of France?")]

    async def scenario() -> Reply:
        reply = await reply_of(mode, driver, asked(messages, on_overflow="truncate_oldest", max_tokens=40))
        await mode.close(driver)
        return reply

    reply = mode.run(scenario)
    assert reply.text
    assert reply.truncated
    assert reply.usage.input_tokens + 40 <= 400, "room for the answer that was asked for"


def test_a_conversation_of_sixty_turns_goes_on_in_a_small_context(weights: Path) -> None:
    with PhiClient("llamacpp", str(weights), options={"n_ctx": 256}) as client:
        chat = client.conversation(
            system="Answer in a few words.", on_overflow="truncate_oldest", max_tokens=16, temperature=0
        )
        replies = [chat.send(f"Question {number}: name an animal.") for number in range(60)]
    assert len(chat.messages) == 121, "the conversation itself keeps all turns"
    assert all(reply.usage.input_tokens + 16 <= 256 for reply in replies)
    assert all(reply.text.strip() for reply in replies)
    assert not replies[0].truncated
    assert len(replies[-1].truncated) > 80


def vllm(context: int, say: Callable[[int, int, int], str], counts: bool = True) -> Callable[[Seen], bytes]:
    """Return a server like vLLM: it counts a token for each four characters, and refuses what does not fit."""

    def answered(seen: Seen) -> bytes:
        body = json.loads(seen.body)
        tokens = sum(len(message["content"]) for message in body["messages"]) // 4
        if seen.path == "/tokenize" and counts:
            return whole(200, {"count": tokens, "max_model_len": context, "tokens": [1] * tokens})
        if seen.path != "/v1/chat/completions":
            return whole(404, {"detail": "Not Found"})
        wanted = body.get("max_tokens", 16)
        if tokens + wanted > context:
            told = {"message": say(context, tokens, wanted), "type": "BadRequestError", "param": None, "code": 400}
            return whole(400, {"error": told})
        message = {"role": "assistant", "content": "Yes."}
        usage = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return whole(200, {"id": "1", "model": "m", "choices": [choice], "usage": usage})

    return answered


SENTENCES: dict[str, Callable[[int, int, int], str]] = {
    # vllm-project/vllm, entrypoints/openai/serving_engine.py until 0.8
    "0.8": lambda context, tokens, wanted: (
        f"This model's maximum context length is {context} tokens. However, you requested {tokens + wanted} tokens "
        f"({tokens} in the messages, {wanted} in the completion). Please reduce the length of the messages or "
        "completion."
    ),
    # the same file in 0.10
    "0.10": lambda context, tokens, wanted: (
        f"'max_tokens' or 'max_completion_tokens' is too large: {wanted}. This model's maximum context length is "
        f"{context} tokens and your request has {tokens} input tokens ({wanted} > {context} - {tokens})."
    ),
    # vllm/renderers/params.py of early 2026: it reads no further than one token over what is left
    "0.15": lambda context, tokens, wanted: (
        f"You passed {min(tokens, context - wanted + 1)} input tokens and requested {wanted} output tokens. However, "
        f"the model's context length is only {context} tokens, resulting in a maximum input length of "
        f"{context - wanted} tokens. Please reduce the length of the input prompt."
    ),
    # the same file in 0.22
    "0.22": lambda context, tokens, wanted: (
        f"This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens and "
        f"your prompt contains at least {context - wanted + 1} input tokens, for a total of at least {context + 1} "
        "tokens. Please reduce the length of the input prompt or the number of requested output tokens."
    ),
}


@modes
@pytest.mark.parametrize("version", SENTENCES)
@pytest.mark.parametrize("counts", [True, False], ids=["with /tokenize", "without"])
def test_a_server_like_vllm_of_any_version_gets_what_fits(mode: Mode, version: str, counts: bool) -> None:
    with FaultServer(vllm(300, SENTENCES[version], counts)) as server:
        driver = registry.new_driver(DriverConfig("openai", "m", f"{server.url}/v1"))

        async def scenario() -> tuple[Reply, Reply]:
            shorter = await reply_of(mode, driver, asked(talk(2), max_tokens=280))
            older = await reply_of(mode, driver, asked(talk(12), max_tokens=60, on_overflow="truncate_oldest"))
            await mode.close(driver)
            return shorter, older

        shorter, older = mode.run(scenario)
    assert shorter.truncated == ()
    assert shorter.converted
    assert shorter.converted[0].startswith("max_tokens: 280 asked, ")
    assert older.truncated
    assert older.converted == ()
    if counts or version in ("0.8", "0.10"):
        assert shorter.converted == (
            f"max_tokens: 280 asked, {300 - shorter.usage.input_tokens} left beside the prompt",
        )
