"""The facade: PhiClient and AsyncPhiClient."""

from __future__ import annotations

from os import PathLike
from types import TracebackType
from typing import Any, Self, Unpack

from slmclient.chat import ChatOptions, ChatRequest, Note
from slmclient.construction import OF_POLICIES, ClientOptions, legs_of, settled
from slmclient.conversation import AsyncConversation, Conversation
from slmclient.drivers.base import Driver, admit
from slmclient.drivers.secret import ApiKey
from slmclient.environment import captures_content
from slmclient.errors import ConfigurationError, UnsupportedParameterError
from slmclient.policy.retry import RetryPolicy
from slmclient.policy.stack import Policies, stacked
from slmclient.reply import Reply
from slmclient.request import Prompt, chat_request, read_films
from slmclient.stream import AsyncReplyStream, ReplyStream


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
        driver = options.pop("driver", None)
        allow_private_urls = options.pop("allow_private_urls", False)
        policies: dict[str, Any] = {name: options.get(name) for name in OF_POLICIES}
        settings, failure = settled(provider, model, api_key, options, driver)
        del api_key, options  # a traceback shows the locals of its frames: from here on none holds a key as text
        if failure is not None:
            raise failure
        assert settings is not None
        self._strict = settings.strict
        self._timeout, self._deadline = settings.timeout, settings.deadline
        legs = legs_of(settings, driver)
        self._driver = stacked(
            legs,
            Policies(
                retry=policies["retry"] or RetryPolicy(settings.max_retries),
                hedge_after=policies["hedge_after"],
                fallback_on=policies["fallback_on"] or (),
                strict=settings.strict,
                allow_private_urls=allow_private_urls,
                on_event=policies["on_event"],
                capture_content=captures_content(),
            ),
        )
        self._adapts = len(legs) > 1
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
        driver = self._open_driver()
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
            SLMError: Whatever else went wrong; see `slmclient.errors`.
        """
        request, notes = self._admitted(prompt, options, stream=False)
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
        return ReplyStream(self._driver, request, notes)

    def conversation(self, **options: Unpack[ChatOptions]) -> Conversation:
        """Return a conversation that remembers its turns.

        Args:
            options: ``system`` is its first message; the others hold for all of its turns. See `ChatOptions`.
        """
        return Conversation(self, options)

    def load_conversation(self, path: str | PathLike[str], **options: Unpack[ChatOptions]) -> Conversation:
        """Return a conversation that `Conversation.save` wrote.

        Raises:
            BadRequestError: The file is no saved conversation.
        """
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
        async with AsyncReplyStream(self._driver, request, notes) as stream:
            async for _ in stream.events():
                pass
        return stream.reply

    def stream(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> AsyncReplyStream:
        """Ask, and get the answer while it is written; see `PhiClient.stream`."""
        request, notes = self._admitted(prompt, options, stream=True)
        return AsyncReplyStream(self._driver, request, notes)

    def conversation(self, **options: Unpack[ChatOptions]) -> AsyncConversation:
        """Return a conversation that remembers its turns; see `PhiClient.conversation`."""
        return AsyncConversation(self, options)

    def load_conversation(self, path: str | PathLike[str], **options: Unpack[ChatOptions]) -> AsyncConversation:
        """Return a conversation that was saved; see `PhiClient.load_conversation`."""
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
