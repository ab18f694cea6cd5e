"""From what users write to a checked `ChatRequest`: every bad input is an error here, before any I/O. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

from pydantic_core import to_json

from slmclient import clock
from slmclient.chat import KNOBS, Cancellation, ChatOptions, ChatRequest, OnOverflow, ReasoningEffort
from slmclient.errors import BadRequestError, ConfigurationError, UnsupportedParameterError
from slmclient.media import Audio, Image, as_audio, as_image
from slmclient.messages import Message, Text

Prompt = str | Message | Sequence[str | Message | Mapping[str, Any]]
"""What `chat` and `stream` take first."""

LONGEST_WAIT = 1_000_000_000
"""Seconds, 30 years: what "no limit" becomes; no clock here waits for infinity."""

_NUMBERS: dict[str, tuple[type, float, float]] = {
    # option: (int or float, lowest, highest)
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, 1, math.inf),
    "max_tokens": (int, 1, math.inf),
    "seed": (int, -(2**63), 2**63 - 1),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "repetition_penalty": (float, 0, math.inf),
}
_EFFORTS, _ON_OVERFLOW = get_args(ReasoningEffort), get_args(OnOverflow)
DEFAULT_REASKS, MOST_REASKS = 2, 20
_FORMAT = "it is response_format= here, with a type or a JSON schema"
_ELSEWHERE = {
    "stream": "client.stream(…) gives the answer while it is written",
    "messages": "the messages are the first argument, without a name",
    "functions": "it is tools= here",
    "output_type": _FORMAT,
    "response_model": _FORMAT,
    "text_format": _FORMAT,
    "schema": _FORMAT,
    "guided_json": _FORMAT,
    "max_rounds": "it is an option of run_tools",
    "on_tool_call": "it is an option of run_tools",
    "reasoning_effort": "it is reasoning= here",
    "parallel_tool_calls": "hand it in as extra={…} where the provider knows it",
}
"""What other libraries' names are here."""


def chat_request(
    prompt: Prompt,
    options: ChatOptions,
    *,
    stream: bool,
    model: str | None,
    timeout: float,
    deadline: float,
) -> ChatRequest:
    """Return the checked request.

    Args:
        prompt: A str, a Message, or a list of Messages or OpenAI-shaped dicts.
        options: As the caller gave them.
        stream: Whether the answer is wanted in pieces.
        model: The client's model, for calls that name none.
        timeout: The client's timeout, in seconds.
        deadline: The client's deadline, in seconds.

    Raises:
        BadRequestError: A value out of range, an unknown role, no user turn, an empty prompt.
        UnsupportedParameterError: An option that does not exist.
    """
    check_names(options)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    seconds = checked_seconds("deadline", given.get("deadline", deadline))
    checked_reasks(given.get("max_reasks"))
    tools = _tools(given)
    request = ChatRequest(
        messages=_messages(prompt, given),
        model=_text("model", given["model"]) if "model" in given else model,
        stream=stream,
        sampling=_sampling(given),
        tools=tools,
        tool_choice=_tool_choice(given, tools),
        response_format=_response_format(given),
        reasoning=_choice("reasoning", given, _EFFORTS),
        on_overflow=_choice("on_overflow", given, _ON_OVERFLOW) or "error",
        extra=dict(_mapping("extra", given.get("extra", {}))),
        timeout=checked_seconds("timeout", given.get("timeout", timeout)),
        deadline_at=clock.now() + seconds,
        cancellation=Cancellation(),
    )
    return _check_json(request)


def check_names(options: ChatOptions) -> None:
    """Raise an UnsupportedParameterError for an option that does not exist."""
    unknown = sorted(options.keys() - ChatOptions.__annotations__.keys())
    if unknown:
        raise UnsupportedParameterError(unknown_name("option", unknown[0], ChatOptions.__annotations__))


def unknown_name(kind: str, name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Return the message for a name that is not among ``known``, with the closest one."""
    if kind == "option" and name in _ELSEWHERE and "temperature" in known:
        return f"Unknown option {name!r}: {_ELSEWHERE[name]}."
    from difflib import get_close_matches  # few programs have a misspelt name

    close = get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."
    return f"Unknown {kind} {name!r}.{hint}"


def checked_seconds(name: str, value: object) -> float:
    """Return a duration in seconds; raise a ConfigurationError if it is no number above 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(min(value, LONGEST_WAIT))
    raise ConfigurationError(f"{name} is a number of seconds above 0, not {value!r}.")


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    raise BadRequestError(f"{name} is a dict, not {type(value).__name__}.")


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    sampling: dict[str, Any] = {name: _number(name, given[name]) for name in KNOBS if name in given and name != "stop"}
    if "stop" in given:
        stop: Any = given["stop"]
        strings = list(cast("Sequence[Any]", stop)) if isinstance(stop, (list, tuple)) else [stop]
        if not all(isinstance(string, str) and string for string in strings):
            raise BadRequestError("stop is a non-empty str or a list of such.")
        if strings:
            sampling["stop"] = strings
    return sampling


def _number(name: str, value: object) -> int | float:
    kind, low, high = _NUMBERS[name]
    fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    above = name in ("top_p", "repetition_penalty")  # 0 itself means nothing for these
    number = cast("int | float", value)
    if fits and low <= number <= high and number != math.inf and not (above and number == low):
        return number
    upper = "" if math.isinf(high) else f" and at most {high:g}"
    raise BadRequestError(
        f"{name} is {'a whole number' if kind is int else 'a number'} {'above' if above else 'of at least'} "
        f"{low:g}{upper}, not {value!r}."
    )


def _tools(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    if not given.get("tools"):
        return ()
    from slmclient.tools import as_tools  # few calls have any

    return tuple(each.to_openai() for each in as_tools(given["tools"]))


def _tool_choice(given: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> str | Mapping[str, Any] | None:
    """Return the choice as OpenAI writes it; a bare name becomes its dict."""
    choice = given.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return cast("str | None", choice)
    if not tools:
        raise BadRequestError("tool_choice asks for a tool, and tools= has none.")
    if choice == "required":
        return "required"
    name: Any = choice
    if isinstance(choice, Mapping):
        function: Any = cast("Mapping[str, Any]", choice).get("function")
        name = cast("Mapping[str, Any]", function).get("name") if isinstance(function, Mapping) else None
    names = [tool["function"]["name"] for tool in tools]
    if name not in names:
        raise BadRequestError(
            f"tool_choice is 'auto', 'none', 'required', or one of the tools ({', '.join(names)}), not {name!r}."
        )
    return {"type": "function", "function": {"name": name}}


def _response_format(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "response_format" not in given:
        return None
    from slmclient.output import Output

    output = Output.of(given["response_format"])
    return None if output is None else output.request_format


def _choice(name: str, given: Mapping[str, Any], known: Sequence[str]) -> Any:
    value = given.get(name)
    if value is None or value in known:
        return value
    raise BadRequestError(f"{name} is {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, not {value!r}.")


def checked_reasks(value: object) -> int:
    """Return how often to ask again; raise a BadRequestError for what is no number of times."""
    if value is None:
        return DEFAULT_REASKS
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_REASKS:
        return value
    raise BadRequestError(f"max_reasks is a whole number of 0 to {MOST_REASKS}, not {value!r}.")


def _check_json(request: ChatRequest) -> ChatRequest:
    """Return the request, once everything in it can be written as JSON."""
    names = [
        (m.name, m.tool_call_id, [(c.id, c.name, c.raw) for c in m.tool_calls])
        for m in request.messages
        if m.name is not None or m.tool_call_id is not None or m.tool_calls
    ]
    parts = (request.model, request.sampling, request.tools, request.tool_choice, request.response_format, names)
    try:
        to_json((*parts, request.extra))
    except (ValueError, TypeError, RecursionError):
        raise BadRequestError(
            "The call holds something that JSON cannot say (an object, or half a character: a lone surrogate): "
            "look at extra, tools, response_format, stop, model and the messages' names."
        ) from None
    return request


def _messages(prompt: Prompt, given: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = [_message(item) for item in _prompt_items(prompt)]
    if given.get("system") is not None:
        if any(message.role == "system" for message in messages):
            raise BadRequestError("system= was given, and the messages hold a system message too: use one of them.")
        messages.insert(0, Message.system(_text("system", given["system"])))
    _attach(messages, given)
    _check_turns(messages)
    return tuple(messages)


def _prompt_items(prompt: object) -> Sequence[Any]:
    if isinstance(prompt, (str, Message)):
        return (prompt,)
    if isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
        return cast("Sequence[Any]", prompt)
    raise BadRequestError(f"A prompt is a str, a Message or a list of messages, not {type(prompt).__name__}.")


def _message(item: object) -> Message:
    if isinstance(item, str):
        return Message.user(item)
    if isinstance(item, Message):
        return item
    if isinstance(item, Mapping):
        return Message.from_openai(cast("Mapping[str, Any]", item))
    raise BadRequestError(f"A message is a Message or an OpenAI-shaped dict, not {type(item).__name__}.")


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise BadRequestError(f"{name} is a str, not {type(value).__name__}.")


def _attach(messages: list[Message], given: Mapping[str, Any]) -> None:
    """Put the options ``images`` and ``audio`` into the last turn of the user's."""
    media: list[Image | Audio] = [as_image(image) for image in _pictures(_several("images", given.get("images")))]
    media += [as_audio(sound) for sound in _several("audio", given.get("audio"))]
    for position in range(len(messages) - 1 if media else -1, -1, -1):
        message = messages[position]
        if message.role == "user":
            parts = (Text(text=message.content),) if isinstance(message.content, str) else message.content
            kept = tuple(part for part in parts if not (isinstance(part, Text) and not part.text))
            messages[position] = message.model_copy(update={"content": (*kept, *media)})
            return


def _pictures(given: Sequence[Any]) -> Iterator[Any]:
    """Yield the pictures one by one: those of a film, or of another list, stand in its place."""
    for item in given:
        if isinstance(item, Sequence) and not isinstance(item, (str, bytes, bytearray, memoryview)):
            yield from cast("Sequence[Any]", item)
        else:
            yield item


async def read_films(images: object) -> None:
    """Have films among the pictures of a call read on a thread: it takes seconds that asyncio has no time for.

    Args:
        images: The option of a call; what it holds is checked later.
    """
    import asyncio

    films: Sequence[Any] = cast("Sequence[Any]", images) if type(images) in (list, tuple) else [images]
    for film in films:
        if isinstance(film, Sequence) and type(film) not in (list, tuple, str, bytes):  # pyright: ignore
            await asyncio.to_thread(len, film)  # pyright: ignore


def _several(name: str, given: object) -> Sequence[Any]:
    if given is None:
        return ()
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes, bytearray, memoryview)):
        return cast("Sequence[Any]", given)
    raise BadRequestError(f"{name} is a list: {name}=[…].")


def turn(prompt: object, given: Mapping[str, Any]) -> Message:
    """Return the message of one turn of a conversation, with its pictures and sound.

    Args:
        prompt: A str or a Message.
        given: The options of the call, ``images`` and ``audio`` among them.

    Raises:
        BadRequestError: It is neither text nor a Message, or pictures were given for a turn that is not the user's.
    """
    if not isinstance(prompt, (str, Message)):
        raise BadRequestError(f"A turn is a str or a Message, not {type(prompt).__name__}.")
    turns = [_message(prompt)]
    if turns[0].role != "user" and (given.get("images") or given.get("audio")):
        raise BadRequestError("images= and audio= go with a turn of the user's.")
    _attach(turns, given)
    return turns[0]


def _check_turns(messages: Sequence[Message]) -> None:
    users = [message for message in messages if message.role == "user"]
    if not users:
        raise BadRequestError("There is no user turn: a prompt needs at least one message with role 'user'.")
    if not any(message.text.strip() or message.images or message.audio for message in users):
        raise BadRequestError("The prompt is empty.")
    for message in messages:
        text = message.content
        if not isinstance(text, str):
            for image in message.images:
                image.check()
            for sound in message.audio:
                sound.check()
            text = message.text
        try:
            _ = text.isascii() or text.encode()  # the first is known of every str, and costs no copy of a long text
        except UnicodeEncodeError:
            raise BadRequestError(
                "The prompt holds half a character (a lone surrogate) and is no valid text."
            ) from None
