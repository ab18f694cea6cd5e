"""Messages and their parts: values that users keep, and their OpenAI shape both ways. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError
from pydantic_core import from_json

from slmclient.errors import BadRequestError, UnsupportedFeatureError
from slmclient.media import Audio, Image

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

_FROZEN = ConfigDict(frozen=True, extra="forbid", defer_build=True)
_Model = TypeVar("_Model", bound=BaseModel)


class Text(BaseModel):
    """A piece of text inside a message that has several parts."""

    model_config = _FROZEN

    type: Literal["text"] = "text"
    text: str


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else getattr(part, "type", None)  # pyright: ignore


Part = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Image, Tag("image")] | Annotated[Audio, Tag("audio")],
    Discriminator(_kind),
]


class ToolCall(BaseModel):
    """A function that the model wants called."""

    model_config = _FROZEN

    id: str
    name: str
    arguments: dict[str, Any]
    """The arguments, parsed; empty where they are no JSON object: look at ``raw`` then."""
    raw: str
    """The arguments exactly as the model wrote them."""
    problem: str | None = None
    """What is wrong with it: no tool of that name was declared, or the arguments do not fit its schema."""

    @classmethod
    def parse(cls, id: str, name: str, raw: str) -> ToolCall:
        """Return the call whose arguments the model wrote as ``raw``."""
        try:
            parsed: object = from_json(raw, allow_inf_nan=False) if raw.strip() else {}
        except (ValueError, TypeError):  # TypeError: half a character, which is no text
            parsed = {}
        arguments = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
        return cls(id=id, name=name, arguments=arguments, raw=raw)


class Message(BaseModel):
    """One turn of a conversation.

    ``Message.user("What is this?", Image("a.png"))`` and its sisters are the short way; `Message.from_openai` reads the
    dict shape that other libraries use.
    """

    model_config = _FROZEN

    role: Role
    content: str | tuple[Part, ...] = ""
    reasoning: str | None = None
    """What the model thought before it answered; not sent back to it."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """On a tool's answer: the id of the call that it answers."""
    name: str | None = None

    @classmethod
    def system(cls, text: str) -> Message:
        """Return a system message."""
        return cls(role="system", content=text)

    @classmethod
    def user(cls, text: str, *media: Image | Audio) -> Message:
        """Return a user message: text, and pictures and sound after it."""
        return cls(role="user", content=(Text(text=text), *media) if media else text)

    @classmethod
    def assistant(cls, text: str) -> Message:
        """Return an assistant message."""
        return cls(role="assistant", content=text)

    @classmethod
    def tool(cls, text: str, tool_call_id: str) -> Message:
        """Return a tool's answer to the call with that id."""
        return cls(role="tool", content=text, tool_call_id=tool_call_id)

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures among the parts."""
        return () if isinstance(self.content, str) else tuple(p for p in self.content if isinstance(p, Image))

    @property
    def audio(self) -> tuple[Audio, ...]:
        """The sound among the parts."""
        return () if isinstance(self.content, str) else tuple(p for p in self.content if isinstance(p, Audio))

    @classmethod
    def from_openai(cls, message: Mapping[str, Any]) -> Message:
        """Return the message that an OpenAI-shaped dict describes.

        Args:
            message: ``{"role": …, "content": str or parts, "tool_calls": …, "tool_call_id": …}``. The role
                ``developer`` is OpenAI's newer word for ``system``. An ``image_url`` is a URL, never read as a path.

        Raises:
            BadRequestError: An unknown role, key or part; the message names it.
            UnsupportedFeatureError: A kind of part that slmclient cannot carry, such as ``video_url``.
        """
        fields = dict(message)
        role = fields.pop("role", None)
        role = "system" if role == "developer" else role
        if role not in ROLES:
            raise BadRequestError(f"Unknown role {role!r}: a message's role is one of {', '.join(ROLES)}.")
        content = _content_from_openai(fields.pop("content", None))
        calls = tuple(_call_from_openai(call) for call in _listed(fields.pop("tool_calls", None)))
        reasoning = fields.pop("reasoning_content", None) or fields.pop("reasoning", None)
        known = {key: fields.pop(key) for key in ("tool_call_id", "name") if key in fields}
        leftover = sorted(key for key, value in fields.items() if value and key not in _IGNORED_KEYS)
        if leftover:
            raise BadRequestError(f"A message has unknown keys: {', '.join(leftover)}.")
        return validated(cls, role=role, content=content, tool_calls=calls, reasoning=reasoning, **known)

    def to_openai(self) -> dict[str, Any]:
        """Return the OpenAI-shaped dict. Reasoning is left out: no server takes it back."""
        shaped: dict[str, Any] = {"role": self.role}
        if isinstance(self.content, str):
            shaped["content"] = self.content
        else:
            shaped["content"] = [_part_to_openai(part) for part in self.content]
        if self.name is not None:
            shaped["name"] = self.name
        if self.tool_call_id is not None:
            shaped["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            shaped["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw}}
                for call in self.tool_calls
            ]
        return shaped


def in_parts(messages: Iterable[Message]) -> list[Message]:
    """Return the messages that have parts: only these can hold pictures or sound.

    Each turn of a conversation looks through all turns before it, and most are plain text.
    """
    return [message for message in messages if not isinstance(message.content, str)]


# Keys that an SDK's dump of an assistant message carries and that say nothing to a chat endpoint.
_IGNORED_KEYS = frozenset({"refusal", "annotations", "audio", "function_call"})


def validated(model: type[_Model], **fields: Any) -> _Model:
    """Return ``model(**fields)``; a validation error becomes a BadRequestError that names the field, not its value."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadRequestError(f"Bad {model.__name__.lower()}: {where}: {first['msg']}.") from None


def _content_from_openai(content: Any) -> str | tuple[Text | Image | Audio, ...]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable) or isinstance(content, (bytes, Mapping)):
        raise BadRequestError(
            f"A message's content is a str or a list of parts, not {type(cast(object, content)).__name__}."
        )
    return tuple(_part_from_openai(part) for part in cast("Iterable[Any]", content))


def _part_from_openai(part: Any) -> Text | Image | Audio:
    if isinstance(part, (Text, Image, Audio)):
        return part
    if isinstance(part, str):
        return Text(text=part)
    shape = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else {"type": type(part).__name__}
    kind = shape.get("type")
    if kind == "text":
        return validated(Text, text=shape.get("text"))
    if kind == "image_url":
        inner: Any = shape.get("image_url")
        fields: Mapping[str, Any] = (
            {"url": inner} if not isinstance(inner, Mapping) else cast("Mapping[str, Any]", inner)
        )
        return validated(Image, url=fields.get("url"), detail=fields.get("detail"))
    if kind == "input_audio":
        inner = shape.get("input_audio")
        sound: Mapping[str, Any] = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {}
        return validated(Audio, data=sound.get("data"), format=sound.get("format"))
    if kind in ("audio_url", "video_url", "file"):
        raise UnsupportedFeatureError(f"Message parts of type {kind!r} are not supported.")
    raise BadRequestError(f"Unknown message part {kind!r}: use 'text', 'image_url' or 'input_audio'.")


def _listed(calls: Any) -> list[Any]:
    if calls is None or isinstance(calls, (list, tuple)):
        return list(cast("list[Any]", calls or ()))
    raise BadRequestError(f"A message's tool_calls is a list, not {type(calls).__name__}.")


def _part_to_openai(part: Text | Image | Audio) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    url = {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}
    return {"type": "image_url", "image_url": url}


def _call_from_openai(call: Any) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = cast("Mapping[str, Any]", call).get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise BadRequestError("A tool call needs 'function' with a 'name': {'id': …, 'function': {'name': …}}.")
    shape = cast("Mapping[str, Any]", function)
    raw = shape.get("arguments") or ""
    if not isinstance(raw, str):
        raise BadRequestError("A tool call's 'arguments' is JSON text, as the model wrote it.")
    return ToolCall.parse(str(cast("Mapping[str, Any]", call).get("id") or ""), str(shape["name"]), raw)
