"""The public API as users write it, for type checkers: read by mypy and pyright, strictly, and never run.

``assert_type`` says what a type must be; ``type: ignore`` stands where a mistake must be found.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, assert_type

import slmclient
from slmclient import (
    AsyncConversation,
    AsyncPhiClient,
    AsyncReplyStream,
    CodeBlock,
    Conversation,
    Image,
    Message,
    PhiClient,
    Reply,
    ReplyStream,
    SLMError,
    Text,
    TokenCount,
    ToolCall,
    Usage,
    tool,
)
from slmclient.chat import (
    Attempt,
    ChatOptions,
    ChatRequest,
    Event,
    Finish,
    FinishReason,
    Start,
    TextDelta,
)
from slmclient.drivers.base import Driver, DriverInfo, Feature
from slmclient.errors import RateLimitError, RetiredError, StreamInterruptedError
from slmclient.testing import ScriptedDriver


@tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return city


async def tools(client: PhiClient, other: AsyncPhiClient) -> None:
    assert_type(weather("Oslo"), str)  # still the function
    reply = client.chat("?", tools=[weather, str.upper, {"type": "function"}], tool_choice="weather", reasoning="off")
    assert_type(reply.tool_calls[0].problem, str | None)
    assert_type(reply.parsed, Any)
    assert_type(reply.structured, str | None)
    assert_type(reply.truncated, tuple[Message, ...])
    assert_type(reply.code_blocks, tuple[CodeBlock, ...])
    talk = client.run_tools("?", tools=[weather], max_rounds=3, on_tool_call=lambda call: call.name == "weather")
    assert_type(talk, Conversation)
    assert_type(talk.reply, Reply)
    assert_type(await other.run_tools("?", tools=[weather]), AsyncConversation)
    assert_type(client.count_tokens("?", system="?"), TokenCount)
    assert_type(await other.count_tokens("?"), TokenCount)
    client.chat("?", reasoning="much")  # type: ignore[arg-type]
    client.chat("?", on_overflow="ignore")  # type: ignore[arg-type]
    client.chat("?", response_format=TokenCount, max_reasks=1, on_overflow="truncate_oldest")
    with client.stream("?", response_format=list[str]) as stream:
        assert_type(stream.partial(), Iterator[Any])


def clients() -> None:
    assert_type(PhiClient(), PhiClient)
    PhiClient("azure", "phi-4-mini")
    PhiClient("openai:phi-4-mini", base_url="http://localhost:8080/v1")
    PhiClient(model="smollm2-135m")
    PhiClient(
        provider="azure",
        api_key=lambda: "token",
        base_url="https://resource.openai.azure.com",
        timeout=30,
        deadline=120.5,
        max_retries=0,
        headers={"X-Team": "a"},
        proxy="http://localhost:3128",
        verify=False,
        env_file=Path(".env"),
        strict=True,
        insecure_http=True,
        options={"deployment": "mine"},
    )
    PhiClient(driver=ScriptedDriver("Hello."))
    AsyncPhiClient("nvidia", api_key="key", verify="bundle.pem", env_file=False)
    with PhiClient() as client:
        assert_type(client, PhiClient)
        assert_type(client.provider, str)
        assert_type(client.model, str | None)
    assert_type(slmclient.PhiClient(), PhiClient)
    assert_type(slmclient.__version__, str)


def answers(client: PhiClient) -> str:
    reply = client.chat("Explain mixture of experts in one sentence.", system="Be brief.", max_tokens=80)
    assert_type(reply, Reply)
    assert_type(reply.text, str)
    assert_type(reply.reasoning, str | None)
    assert_type(reply.tool_calls, tuple[ToolCall, ...])
    assert_type(reply.finish_reason, FinishReason)
    assert_type(reply.usage, Usage)
    assert_type(reply.usage.input_tokens, int)
    assert_type(reply.usage.output_tokens, int)
    assert_type(reply.usage.estimated, bool)
    assert_type(reply.provider, str)
    assert_type(reply.model, str)
    assert_type(reply.id, str | None)
    assert_type(reply.attempts, tuple[Attempt, ...])
    assert_type(reply.dropped, tuple[str, ...])
    assert_type(reply.timing.first_token, float | None)
    assert_type(reply.timing.total, float)
    assert_type(reply.code("python"), str | None)
    assert_type(reply.to_openai(), dict[str, Any])
    assert_type(reply.to_message(), Message)
    for call in reply.tool_calls:
        assert_type(call.arguments, dict[str, Any])
        assert_type(call.raw, str)
    return reply.text


def prompts(client: PhiClient) -> None:
    client.chat(Message.user("What changed?", Image("a.png"), Image(Path("b.png"), detail="low")))
    client.chat([Message.system("Be brief."), Message.user("?")])
    client.chat([{"role": "user", "content": "?"}])
    client.chat([Message.system("Be brief."), {"role": "user", "content": "?"}])
    client.chat("What changed?", images=["a.png", Image("https://example.com/b.png"), b"...", Path("c.png")])
    client.chat("?", temperature=0, top_p=0.9, top_k=5, seed=7, stop="END", extra={"user": "ada"})
    client.chat("?", stop=["END", "\n"], tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="auto")
    client.chat("?", response_format={"type": "json_object"}, timeout=5, deadline=30, model=None)
    options: ChatOptions = {"temperature": 0.2, "max_tokens": 10}
    client.chat("?", **options)
    message = Message(role="user", content=(Text(text="a"), Image(b"...")))
    assert_type(message.text, str)
    assert_type(message.images, tuple[Image, ...])
    assert_type(Message.from_openai({"role": "user", "content": "?"}), Message)
    assert_type(message.to_openai(), dict[str, Any])


def streams(client: PhiClient) -> None:
    with client.stream("Tell me a story", max_tokens=200) as stream:
        assert_type(stream, ReplyStream)
        for text in stream:
            assert_type(text, str)
        stream.cancel()
    assert_type(stream.reply, Reply)
    events = client.stream("?").events()
    assert_type(events, Iterator[Event])
    for event in events:
        if isinstance(event, Start):
            assert_type(event.provider, str)
        elif isinstance(event, TextDelta):
            assert_type(event.text, str)
        elif isinstance(event, Finish):
            assert_type(event.reason, FinishReason)


def conversations(client: PhiClient) -> None:
    talk = client.conversation(system="Be brief.", temperature=0)
    assert_type(talk, Conversation)
    assert_type(talk.send("?"), Reply)
    assert_type(talk.send(Message.user("?"), max_tokens=5), Reply)
    assert_type(talk.messages, tuple[Message, ...])
    opened: AbstractContextManager[ReplyStream] = talk.stream("?")
    with opened as stream:
        assert_type(stream, ReplyStream)
    talk.save("talk.json")
    talk.save(Path("talk.json"))
    assert_type(client.load_conversation(Path("talk.json"), temperature=0), Conversation)


async def asynchronous() -> None:
    async with AsyncPhiClient("nvidia") as client:
        assert_type(client, AsyncPhiClient)
        assert_type(await client.chat("?", max_tokens=5), Reply)
        async with client.stream("?") as stream:
            assert_type(stream, AsyncReplyStream)
            async for text in stream:
                assert_type(text, str)
            stream.cancel()
        assert_type(stream.reply, Reply)
        assert_type(client.stream("?").events(), AsyncIterator[Event])
        talk = client.conversation(system="Be brief.")
        assert_type(talk, AsyncConversation)
        assert_type(await talk.send("?"), Reply)
        opened: AbstractAsyncContextManager[AsyncReplyStream] = talk.stream("?")
        async with opened as turn:
            assert_type(turn.reply.text, str)
        assert_type(client.load_conversation("talk.json"), AsyncConversation)
    await client.aclose()


def errors(client: PhiClient) -> None:
    try:
        client.chat("?")
    except RetiredError as error:
        assert_type(error.replacement, str | None)
    except StreamInterruptedError as error:
        assert_type(error.partial, Reply | None)
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.retryable, bool)
    except SLMError as error:
        assert_type(error.provider, str | None)
        assert_type(error.attempts, tuple[Attempt, ...])


class Echo(Driver):
    """A driver as users write one."""

    info = DriverInfo(name="echo", title="Echo", docs="-", features=frozenset({Feature.PREFILL}))

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        yield Start(self.name, "echo")
        yield TextDelta(request.messages[-1].text)
        yield Finish("stop")

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for event in self.events(request):
            yield event


def own_driver() -> None:
    PhiClient(driver=Echo())


def mistakes(client: PhiClient, asynchronous_client: AsyncPhiClient) -> None:
    client.chat("?", tempature=0)  # type: ignore[call-arg]
    client.chat("?", temperature="0")  # type: ignore[arg-type]
    client.chat("?", max_tokens="80")  # type: ignore[arg-type]
    client.chat(5)  # type: ignore[arg-type]
    client.chat("?", images="a.png", stop=5)  # type: ignore[arg-type]
    client.chat()  # type: ignore[call-arg]
    _ = client.chat("?").txt  # type: ignore[attr-defined]
    client.ask("?")  # type: ignore[attr-defined]
    PhiClient("azure", "phi-4-mini", "key")  # type: ignore[call-arg]
    PhiClient(base_ulr="http://localhost")  # type: ignore[call-arg]
    PhiClient(timeout="60")  # type: ignore[arg-type]
    PhiClient(driver=Echo)  # type: ignore[arg-type]
    Message(role="boss", content="?")  # type: ignore[arg-type]
    for _ in asynchronous_client.stream("?"):  # type: ignore[attr-defined]
        pass
