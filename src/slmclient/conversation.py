"""Conversations: turns that are remembered, saved and loaded. A turn that fails leaves them as they were."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, Unpack

from pydantic import BaseModel, ConfigDict, ValidationError

from slmclient.chat import ChatOptions
from slmclient.errors import BadRequestError, SLMError
from slmclient.messages import Message
from slmclient.request import check_names, read_films, turn

if TYPE_CHECKING:
    from slmclient.client import AsyncPhiClient, PhiClient
    from slmclient.reply import Reply
    from slmclient.stream import AsyncReplyStream, ReplyStream

_LARGEST = 256 * 1024 * 1024  # bytes; images are embedded


class SavedConversation(BaseModel):
    """The file format: JSON, with images embedded."""

    model_config = ConfigDict(frozen=True)

    format: Literal["slmclient.conversation/1"] = "slmclient.conversation/1"
    messages: tuple[Message, ...]


class _Turns:
    """What both conversations share: the messages, saving, loading."""

    def __init__(self, options: ChatOptions) -> None:
        check_names(options)
        self._options = options.copy()
        system = self._options.pop("system", None)
        if system is not None and not isinstance(system, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequestError(f"system is a str, not {type(system).__name__}.")
        self._messages: list[Message] = [Message.system(system)] if system else []
        self._reply: Reply | None = None

    @property
    def reply(self) -> Reply:
        """The last reply. It is not saved.

        Raises:
            SLMError: There is none yet.
        """
        if self._reply is None:
            raise SLMError("There is no reply yet: send something first.")
        return self._reply

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns so far, the system message first."""
        return tuple(self._messages)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages to a JSON file, whole or not at all; pictures are embedded, options are not."""
        target = Path(path)
        text = SavedConversation(messages=self.messages).model_dump_json(indent=1)
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(target.parent))
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink()
            raise

    def _read(self, path: str | os.PathLike[str]) -> None:
        if self._messages:
            raise BadRequestError("A saved conversation has its own system message: load it without system=.")
        file = Path(path)
        try:
            too_large = file.stat().st_size > _LARGEST
            content = b"" if too_large else file.read_bytes()
        except OSError as error:
            raise BadRequestError(f"{file} cannot be read: {error.strerror or error}.") from None
        if too_large:
            raise BadRequestError(f"{file} is too large to be a saved conversation.")
        try:
            saved = SavedConversation.model_validate_json(content)
        except (ValidationError, BadRequestError):
            raise BadRequestError(f"{file} is no conversation that save() wrote.") from None
        self._messages = list(saved.messages)

    def _asked(self, prompt: str | Message, options: ChatOptions) -> tuple[list[Message], ChatOptions]:
        """Return the messages to send, and the options without what went into the new message."""
        merged: ChatOptions = {**self._options, **options}
        if merged.get("system") is not None:
            raise BadRequestError("A conversation's system message is set when it is made: conversation(system=…).")
        asked = [*self._messages, turn(prompt, merged)]
        merged.pop("images", None)
        merged.pop("audio", None)
        return asked, merged

    def _go_on(self, messages: Sequence[Message], reply: Reply | None) -> None:
        """Begin after turns that were made elsewhere."""
        self._messages, self._reply = list(messages), reply

    def _remember(self, asked: list[Message], reply: Reply) -> None:
        if reply.finish_reason not in ("cancelled", "error"):
            self._messages, self._reply = [*asked, reply.to_message()], reply


class Conversation(_Turns):
    """Turns with one model: ``talk.send("…")``, ``talk.send("…")``, `save`.

    A turn that fails or is cancelled leaves the conversation as it was. One conversation is for one thread.
    """

    def __init__(self, client: PhiClient, options: ChatOptions) -> None:
        super().__init__(options)
        self._client = client

    def send(self, prompt: str | Message, **options: Unpack[ChatOptions]) -> Reply:
        """Say something and wait for the answer; arguments and errors as for `PhiClient.chat`."""
        asked, merged = self._asked(prompt, options)
        reply = self._client.chat(asked, **merged)
        self._remember(asked, reply)
        return reply

    @contextmanager
    def stream(self, prompt: str | Message, **options: Unpack[ChatOptions]) -> Generator[ReplyStream]:
        """Say something and read the answer while it is written: ``with talk.stream("…") as stream: …``."""
        asked, merged = self._asked(prompt, options)
        with self._client.stream(asked, **merged) as stream:
            yield stream
        self._remember(asked, stream.reply)

    @classmethod
    def after(cls, client: PhiClient, messages: Sequence[Message], reply: Reply | None, options: ChatOptions) -> Self:
        """Return a conversation that goes on after these messages, the last of which may be a reply."""
        conversation = cls(client, options)
        conversation._go_on(messages, reply)
        return conversation

    @classmethod
    def load(cls, client: PhiClient, path: str | os.PathLike[str], options: ChatOptions) -> Self:
        """Return the conversation of a file that `save` wrote."""
        conversation = cls(client, options)
        conversation._read(path)
        return conversation


class AsyncConversation(_Turns):
    """`Conversation` for asyncio: the same names, awaited."""

    def __init__(self, client: AsyncPhiClient, options: ChatOptions) -> None:
        super().__init__(options)
        self._client = client

    async def send(self, prompt: str | Message, **options: Unpack[ChatOptions]) -> Reply:
        """Say something and wait for the answer; see `Conversation.send`."""
        await read_films(options.get("images"))
        asked, merged = self._asked(prompt, options)
        reply = await self._client.chat(asked, **merged)
        self._remember(asked, reply)
        return reply

    @asynccontextmanager
    async def stream(self, prompt: str | Message, **options: Unpack[ChatOptions]) -> AsyncGenerator[AsyncReplyStream]:
        """Say something and read the answer while it is written; see `Conversation.stream`."""
        await read_films(options.get("images"))
        asked, merged = self._asked(prompt, options)
        async with self._client.stream(asked, **merged) as stream:
            yield stream
        self._remember(asked, stream.reply)

    @classmethod
    def after(
        cls, client: AsyncPhiClient, messages: Sequence[Message], reply: Reply | None, options: ChatOptions
    ) -> Self:
        """Return a conversation that goes on after these messages, the last of which may be a reply."""
        conversation = cls(client, options)
        conversation._go_on(messages, reply)
        return conversation

    @classmethod
    def load(cls, client: AsyncPhiClient, path: str | os.PathLike[str], options: ChatOptions) -> Self:
        """Return the conversation of a file that `save` wrote."""
        conversation = cls(client, options)
        conversation._read(path)
        return conversation
