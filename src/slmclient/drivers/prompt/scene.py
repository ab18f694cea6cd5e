"""A conversation before a template: as the plain values that chat templates read. Rendered as often as needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from slmclient.drivers.prompt.disguise import unused
from slmclient.errors import ConfigurationError, MissingDependencyError, UnsupportedFeatureError
from slmclient.messages import Message, Text, ToolCall

if TYPE_CHECKING:
    from types import ModuleType

    from slmclient.phi.templates import Template

Say = Callable[[str], str]
"""How a text is given to the template."""

_TOOLS_OF_MESSAGE = re.compile(r"""message(\.tools\b|\[\s*['"]tools['"]\s*\])""")  # so in Phi-4-mini's own template


def as_it_is(text: str) -> str:
    """Return the text."""
    return text


def jinja_sandbox() -> ModuleType:
    """Return the module that runs templates.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from slmclient.drivers.prompt import sandbox
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("slmclient"):
            raise
        raise MissingDependencyError('Chat templates need Jinja: pip install "jinja2>=3.1.6"') from None
    return sandbox


def tools_place(template: Template) -> str | None:
    """Return where the template reads tools: ``variable``, ``message`` (the first system message), or None."""
    if "tools" in jinja_sandbox().variables(template.source):
        return "variable"
    return "message" if _TOOLS_OF_MESSAGE.search(template.source) else None


@lru_cache(maxsize=16)
def reads_lists_only(source: str) -> bool:
    """Return whether a template leaves out a text that is given as one string: many that know of images do."""
    sandbox = jinja_sandbox()
    probe = "slmclient"

    def shows(content: Any) -> bool:
        turn = {"role": "user", "content": content}
        values = {"messages": [turn], "tools": None, "documents": None, "add_generation_prompt": True}
        return probe in sandbox.run(source, values)

    try:
        return not shows(probe) and shows([{"type": "text", "text": probe}])
    except (sandbox.TemplateRefused, ConfigurationError):
        return False


@dataclass(frozen=True, slots=True)
class Scene:
    """What stays the same while one conversation is rendered in several ways."""

    template: Template
    tools: tuple[Mapping[str, Any], ...]
    tools_in: str | None
    image_tag: str | None
    parts: bool
    variables: Mapping[str, Any]
    free: Iterator[str]
    """Characters that stand in none of the texts."""
    mark: str = field(init=False)
    """One of them: it follows the text that the model is to continue."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", next(self.free))

    def text(self, turns: Sequence[Message], say: Say = as_it_is, name: Say = as_it_is) -> str:
        """Return the rendered text.

        Args:
            turns: The messages.
            say: How their texts are given to the template.
            name: How what stands in tools and their calls is given to it.

        Raises:
            TemplateRefused: The template refuses the conversation.
            ConfigurationError: The template is broken.
            UnsupportedFeatureError: It leaves out a last assistant turn.
        """
        prefill = turns[-1].role == "assistant"
        values = {
            **self.template.special,
            **self.variables,
            "messages": self._messages(turns, say, name, prefill),
            "tools": _named(list(self.tools), name) if self.tools and self.tools_in == "variable" else None,
            "documents": None,
            "add_generation_prompt": not prefill,
        }
        text = cast("str", jinja_sandbox().run(self.template.source, values))
        return self._until_mark(text) if prefill else text

    def swallows_system(self, turns: Sequence[Message]) -> bool:
        """Return whether the template leaves out the text of a system message."""
        probes: list[str] = []
        probed: list[Message] = []
        for turn in turns:
            if turn.role == "system" and turn.text:
                probes.append(next(self.free))
                turn = turn.model_copy(update={"content": probes[-1]})
            probed.append(turn)
        if not probes:
            return False
        try:
            text = self.text(probed)
        except jinja_sandbox().TemplateRefused:  # it looks at what the system says: then it does not leave it out
            return False
        return not all(probe in text for probe in probes)

    def _until_mark(self, text: str) -> str:
        place = text.rfind(self.mark)
        if place < 0:
            raise UnsupportedFeatureError(
                "The model's chat template leaves out a last turn of the assistant: the last message must be "
                "the user's."
            )
        # The space behind the mark shows whether the template trims; then it would have trimmed the text as well.
        untrimmed = text.startswith(" ", place + len(self.mark))
        return text[:place] if untrimmed else text[:place].rstrip()

    def _messages(self, turns: Sequence[Message], say: Say, name: Say, prefill: bool) -> list[dict[str, Any]]:
        images = 0
        names = {call.id: call.name for turn in turns for call in turn.tool_calls}
        shaped: list[dict[str, Any]] = []
        for turn in turns:
            end = f"{self.mark} " if prefill and turn is turns[-1] else ""
            message: dict[str, Any] = {"role": turn.role, "content": self._content(turn, say, images, end)}
            images += len(turn.images)
            if turn.tool_calls:
                message["tool_calls"] = [_call(call, name) for call in turn.tool_calls]
            if turn.tool_call_id is not None:
                message["tool_call_id"] = name(turn.tool_call_id)
            if called := turn.name or names.get(turn.tool_call_id or ""):
                message["name"] = name(called)
            shaped.append(message)
        if self.tools and self.tools_in == "message":
            for message in shaped:
                if message["role"] == "system":
                    functions = [tool.get("function", tool) for tool in self.tools]
                    message["tools"] = json.dumps(_named(functions, name), ensure_ascii=False)
                    break
        return shaped

    def _content(self, turn: Message, say: Say, images: int, end: str) -> str | list[dict[str, Any]]:
        """Return what a message says.

        Args:
            turn: The message.
            say: How its texts are given.
            images: How many images stood in the messages before.
            end: What follows its last text.
        """
        given = (Text(text=turn.content),) if isinstance(turn.content, str) else turn.content
        texts = [part for part in given if isinstance(part, Text)]
        if len(texts) < 2:  # one text: its images stand before it, as models have learned it
            given = (*turn.images, *texts)
        listed: list[dict[str, Any]] = []
        for part in given:
            if isinstance(part, Text):
                listed.append({"type": "text", "text": say(part.text)})
            else:
                images += 1
                tag = self.image_tag.format(n=images) if self.image_tag else ""
                as_part = self.parts and not tag
                listed.append({"type": "image"} if as_part else {"type": "text", "text": tag})
        if end:
            if not listed or listed[-1]["type"] == "image":
                listed.append({"type": "text", "text": ""})
            listed[-1]["text"] += end
        return listed if self.parts else "".join(part["text"] for part in listed)


def _call(call: ToolCall, name: Say) -> dict[str, Any]:
    function = {"name": name(call.name), "arguments": _named(call.arguments, name)}
    return {"id": name(call.id), "type": "function", "function": function}


def _named(value: Any, name: Say) -> Any:
    """Return a copy of a JSON value, with every text in it said so."""
    if isinstance(value, str):
        return name(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {name(key) if isinstance(key, str) else key: _named(item, name) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_named(item, name) for item in cast("Sequence[Any]", value)]
    return value


def scene(
    template: Template,
    turns: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    *,
    image_tag: str | None,
    parts: bool,
    variables: Mapping[str, Any],
) -> Scene:
    """Return the scene of a conversation."""
    calls = [call for turn in turns for call in turn.tool_calls]
    others = (list(tools), [[c.id, c.name, c.arguments] for c in calls], dict(template.special), dict(variables))
    texts = [template.source, *(turn.text for turn in turns), *(turn.name or "" for turn in turns)]
    texts += [turn.tool_call_id or "" for turn in turns]
    texts += [json.dumps(value, ensure_ascii=False, default=str) for value in others]
    return Scene(template, tuple(tools), tools_place(template), image_tag, parts, variables, unused(texts))
