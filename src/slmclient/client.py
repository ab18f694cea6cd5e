"""The facade: PhiClient and AsyncPhiClient."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from slmclient.chat import ChatOptions, ChatRequest, Note, TokenCount
from slmclient.errors import BadRequestError, ConfigurationError, UnsupportedParameterError
from slmclient.reply import Reply
from slmclient.request import Prompt, chat_request, checked_reasks, read_films
from slmclient.stream import AsyncReplyStream, ReplyStream

# What settings, drivers and policies need is loaded where a client is made: it costs as much as all of this, and
# programs import names that they do not use in each run.
if TYPE_CHECKING:
    from slmclient.answer.tool_run import Ask, OnToolCall, ToolRun
    from slmclient.construction import ClientOptions
    from slmclient.conversation import AsyncConversation, Conversation
    from slmclient.drivers.base import Driver
    from slmclient.drivers.secret import ApiKey
    from slmclient.output import Output


class _Client:
    """What both clients share: settings, the driver, building requests. No I/O."""

    def __init__(
        self,
        provider: str | None = None,
        model: str | None = None,
        *,
        api_key: ApiKey | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        """Set up a client; nothing is sent, read or loaded yet, but the environment and a .env file.

        Args:
            provider: Provider name, or ``provider:model``. Default: ``SLM_PROVIDER``, else the embedded local model.
            model: Portable name (``phi-4-mini``) or the provider's own id; for llamacpp a path.
            api_key: The key, a function that returns one, or (azure) a TokenCredential of azure-identity.
            options: See `ClientOptions`.

        Raises:
            UnknownProviderError: Nothing has that name.
            MissingApiKeyError: The provider needs a key; the message names where it was looked for.
            ConfigurationError: Settings that cannot work together, or would send a key where it does not belong.
        """
        from slmclient import construction

        driver = options.pop("driver", None)
        policies = construction.policies_of(options)
        settings, failure = construction.settled(provider, model, api_key, options, driver)
        del api_key, options  # a traceback shows the locals of its frames: from here on none holds a key as text
        if failure is not None:
            raise failure
        assert settings is not None
        construction.build_models()
        self._strict = settings.strict
        self._timeout, self._deadline = settings.timeout, settings.deadline
        self._driver, self._adapts = construction.whole_driver(settings, driver, policies)
        self._closed = False

    @property
    def provider(self) -> str:
        """The provider that answers."""
        return self._driver.name

    @property
    def model(self) -> str | None:
        """The model of calls that name none; None leaves it to the server."""
        return self._driver.default_model

    def __repr__(self) -> str:
        made = hasattr(self, "_driver")  # not so where the constructor failed and a debugger looks at it
        return f"{type(self).__name__}({self.provider!r}, {self.model!r})" if made else f"<{type(self).__name__}>"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds connections and keys, and does not pickle: make one in each process")

    def _open_driver(self) -> Driver:
        if self._closed:
            raise ConfigurationError("This client is closed. Make a new one.", provider=self.provider)
        return self._driver

    def _admitted(self, prompt: Prompt, options: ChatOptions, *, stream: bool) -> tuple[ChatRequest, list[Note]]:
        """Return the checked request, and notes of what was left out of it.

        What ``response_format`` asks for is put in its place among the options.
        """
        from slmclient.construction import ClientOptions
        from slmclient.drivers.base import admit

        driver = self._open_driver()
        if (wanted := options.get("response_format")) is not None:
            from slmclient.output import Output  # few calls have one

            options["response_format"] = Output.of(wanted)
        of_client = sorted(options.keys() & (ClientOptions.__annotations__.keys() - ChatOptions.__annotations__.keys()))
        if of_client:
            name, kind = of_client[0], type(self).__name__
            raise UnsupportedParameterError(f"{name} is set for the client, not for a call: {kind}({name}=…).")
        request = chat_request(
            prompt, options, stream=stream, model=None, timeout=self._timeout, deadline=self._deadline
        )
        admitted, notes = admit(driver, request, strict=self._strict)
        # Where there are fallbacks each gets the call as it was written, and tells itself what it left out of it.
        return (request, []) if self._adapts else (admitted, notes)

    def _tool_run(self, prompt: Prompt, options: ChatOptions, max_rounds: int, on_tool_call: object) -> ToolRun:
        """Return the run of the tools among the options; what cannot work is an error here, before any I/O."""
        from slmclient.answer.tool_run import ToolRun, declared, runnable  # few programs have tools

        if on_tool_call is not None and not callable(on_tool_call):
            raise BadRequestError(f"on_tool_call is a function, not a {type(on_tool_call).__name__}.")
        tools = runnable(options.get("tools"))
        asked: ChatOptions = {**options, "tools": declared(tools)}
        request, _ = self._admitted(prompt, {**asked}, stream=False)
        asked["system"] = asked["images"] = asked["audio"] = None  # they are among the messages now
        return ToolRun(request.messages, asked, tools, max_rounds=max_rounds, deadline_at=request.deadline_at)


class PhiClient(_Client):
    """Chat with a small language model, wherever it runs.

    ``PhiClient()`` takes provider and model from the environment, and where nothing is set runs a small real model in
    this process. ``PhiClient("azure", "phi-4-mini")`` and ``PhiClient("nvidia:phi-4-mini")`` name them. A client is
    safe to share between threads; close it, or use it as a context manager, when you are done.

    Example:
        >>> from slmclient import PhiClient
        >>> with PhiClient("local") as client:
        ...     print(client.chat("What is the capital of Japan?", temperature=0).text)
        The capital of Japan is Tokyo.
    """

    def chat(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        """Ask and wait for the whole answer.

        Args:
            prompt: A str, a `Message`, or a list of messages (or OpenAI-shaped dicts).
            options: See `ChatOptions`.

        Returns:
            The reply.

        Raises:
            BadRequestError: The input is wrong, or the provider refused it.
            StructuredOutputError: No answer fits ``response_format``, however often it was asked again.
            SLMError: Whatever else went wrong; see `slmclient.errors`.
        """
        request, notes = self._admitted(prompt, options, stream=False)
        output: Output | None = options.get("response_format")
        if output is None:
            return self._ask(request, notes)
        from slmclient.answer import asking, structured

        reasks = checked_reasks(options.get("max_reasks"))
        return asking.run(structured.structured(request, notes, output, reasks), self._ask)

    def _ask(self, request: ChatRequest, notes: Sequence[Note]) -> Reply:
        with ReplyStream(self._driver, request, notes) as stream:
            for _ in stream.events():
                pass
        return stream.reply

    def stream(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> ReplyStream:
        """Ask, and get the answer while it is written.

        Args:
            prompt: As for `chat`.
            options: See `ChatOptions`.

        Returns:
            A context manager that iterates over the text; its ``reply`` is there at the end. Bad input is an error
            here; the request goes out when iteration begins.
        """
        request, notes = self._admitted(prompt, options, stream=True)
        return ReplyStream(self._driver, request, notes, options.get("response_format"))

    def run_tools(
        self,
        prompt: Prompt,
        *,
        max_rounds: int = 5,
        on_tool_call: OnToolCall | None = None,
        **options: Unpack[ChatOptions],
    ) -> Conversation:
        """Ask, run the tools that the model calls, tell it what came out, and so on until it answers without a call.

        Only functions in ``tools`` are run, with arguments that fit; errors are told to the model.

        Args:
            prompt: As for `chat`.
            max_rounds: Most answers whose calls are run.
            on_tool_call: Is asked before each call is run: None or True lets it run; False refuses it, as does a str,
                which tells the model why. An error that it raises ends the run.
            options: See `ChatOptions`; ``tools`` has to be among them. A ``tool_choice`` holds for the first answer,
                and ``deadline`` for the whole run.

        Returns:
            The conversation: its ``reply`` is the answer, its ``messages`` are all turns.

        Raises:
            BadRequestError: The input is wrong, or a tool has no function.
            ToolRoundsError: The model still called tools when the rounds were over; it holds the conversation.
            APITimeoutError: The run took longer than its deadline; a function is not interrupted.
            SLMError: As `chat`.
        """
        run = self._tool_run(prompt, options, max_rounds, on_tool_call)
        from slmclient.answer import tool_run

        def ask(command: Ask) -> Reply:
            return self.chat(command.messages, **command.options)

        tool_run.run(run.flow(), ask, on_tool_call)
        from slmclient.conversation import Conversation

        talk = Conversation.after(self, run.messages, run.reply, run.options)
        if run.unfinished:
            raise tool_run.rounds_over(max_rounds, talk)
        return talk

    def count_tokens(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> TokenCount:
        """Return how many tokens a prompt has: exactly where the engine or the server counts, else an estimate.

        An engine in this process loads its model for that, if it is not loaded yet.

        Args:
            prompt: As for `chat`.
            options: As for `chat`: ``system``, ``tools`` and ``images`` count, too.

        Raises:
            SLMError: As `chat`; a server that has no way to count is none.
        """
        request, _ = self._admitted(prompt, options, stream=False)
        from slmclient.policy.context import token_count

        return token_count(self._driver.count_tokens(request), request, request.model or self.model)

    def conversation(self, **options: Unpack[ChatOptions]) -> Conversation:
        """Return a conversation that remembers its turns.

        Args:
            options: ``system`` is its first message; the others hold for all of its turns. See `ChatOptions`.
        """
        from slmclient.conversation import Conversation

        return Conversation(self, options)

    def load_conversation(self, path: str | PathLike[str], **options: Unpack[ChatOptions]) -> Conversation:
        """Return a conversation that `Conversation.save` wrote.

        Raises:
            BadRequestError: The file is no saved conversation.
        """
        from slmclient.conversation import Conversation

        return Conversation.load(self, path, options)

    def warm_up(self) -> None:
        """Load the model now, so that the first answer does not wait for it; for a hosted provider, do nothing.

        Raises:
            APITimeoutError: It took longer than the client's ``deadline``; an engine in this process that has begun to
                load goes on, for the next call.
            SLMError: What the first call would raise: the model is not there, or its engine.
        """
        self._open_driver().warm_up(self._deadline)

    def close(self) -> None:
        """Close connections, or free the model; a driver that was handed in stays open."""
        self._closed = True
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncPhiClient(_Client):
    """`PhiClient` for asyncio: the same names, awaited; ``async with`` closes it.

    Example:
        >>> import asyncio
        >>> from slmclient import AsyncPhiClient
        >>> async def main():
        ...     async with AsyncPhiClient("local") as client:
        ...         print((await client.chat("What is the capital of Japan?", temperature=0)).text)
        >>> asyncio.run(main())
        The capital of Japan is Tokyo.
    """

    async def chat(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        """Ask and wait for the whole answer; see `PhiClient.chat`."""
        await read_films(options.get("images"))
        request, notes = self._admitted(prompt, options, stream=False)
        output: Output | None = options.get("response_format")
        if output is None:
            return await self._ask(request, notes)
        from slmclient.answer import asking, structured

        reasks = checked_reasks(options.get("max_reasks"))
        return await asking.arun(structured.structured(request, notes, output, reasks), self._ask)

    async def _ask(self, request: ChatRequest, notes: Sequence[Note]) -> Reply:
        async with AsyncReplyStream(self._driver, request, notes) as stream:
            async for _ in stream.events():
                pass
        return stream.reply

    def stream(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> AsyncReplyStream:
        """Ask, and get the answer while it is written; see `PhiClient.stream`."""
        request, notes = self._admitted(prompt, options, stream=True)
        return AsyncReplyStream(self._driver, request, notes, options.get("response_format"))

    async def run_tools(
        self,
        prompt: Prompt,
        *,
        max_rounds: int = 5,
        on_tool_call: OnToolCall | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncConversation:
        """Run the tools that the model calls; see `PhiClient.run_tools`.

        Functions that are not async run on a thread; ``on_tool_call`` runs here, and may be async.
        """
        await read_films(options.get("images"))
        run = self._tool_run(prompt, options, max_rounds, on_tool_call)
        from slmclient.answer import tool_run

        async def ask(command: Ask) -> Reply:
            return await self.chat(command.messages, **command.options)

        await tool_run.arun(run.flow(), ask, on_tool_call)
        from slmclient.conversation import AsyncConversation

        talk = AsyncConversation.after(self, run.messages, run.reply, run.options)
        if run.unfinished:
            raise tool_run.rounds_over(max_rounds, talk)
        return talk

    async def count_tokens(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> TokenCount:
        """Return how many tokens a prompt has; see `PhiClient.count_tokens`."""
        await read_films(options.get("images"))
        request, _ = self._admitted(prompt, options, stream=False)
        from slmclient.policy.context import token_count

        return token_count(await self._driver.acount_tokens(request), request, request.model or self.model)

    def conversation(self, **options: Unpack[ChatOptions]) -> AsyncConversation:
        """Return a conversation that remembers its turns; see `PhiClient.conversation`."""
        from slmclient.conversation import AsyncConversation

        return AsyncConversation(self, options)

    def load_conversation(self, path: str | PathLike[str], **options: Unpack[ChatOptions]) -> AsyncConversation:
        """Return a conversation that was saved; see `PhiClient.load_conversation`."""
        from slmclient.conversation import AsyncConversation

        return AsyncConversation.load(self, path, options)

    async def warm_up(self) -> None:
        """Load the model now; see `PhiClient.warm_up`."""
        await self._open_driver().awarm_up(self._deadline)

    async def aclose(self) -> None:
        """Close connections, or free the model; a driver that was handed in stays open."""
        self._closed = True
        await self._driver.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
