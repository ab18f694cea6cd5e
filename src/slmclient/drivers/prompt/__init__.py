"""From messages to the prompt's text, by a chat template, so that nobody's text becomes a control token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmclient.chat import Note
from slmclient.drivers.prompt.disguise import Disguise, control_tokens
from slmclient.drivers.prompt.scene import Scene, jinja_sandbox, reads_lists_only, scene, tools_place
from slmclient.errors import ConfigurationError
from slmclient.media import Image
from slmclient.messages import Message, Text
from slmclient.phi.templates import Template, builtin

__all__ = ("Prompt", "Template", "builtin", "render", "takes_tools")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model is to read it."""

    pieces: tuple[str, ...]
    """To be encoded one by one, and the ids joined. A control token that stands in somebody's text is cut in two
    between pieces, so that no encoder sees it; joined, the pieces are the whole text, with nothing changed."""
    notes: tuple[Note, ...] = ()
    """What had to be put otherwise."""
    images: tuple[Image, ...] = ()
    """In the order of their places in the text."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


def render(
    template: Template,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    image_tag: str | None = None,
    parts: bool = False,
    variables: Mapping[str, Any] = {},
) -> Prompt:
    """Return the prompt of a conversation.

    If the last message is the assistant's, the prompt ends right behind its text, to be continued.

    Args:
        template: How turns are written.
        messages: The conversation; at least one.
        tools: Functions that the model may call, OpenAI-shaped.
        image_tag: What stands for an image, such as ``<|image_{n}|>``; numbered from 1. Where a message has one text,
            its images stand before it; where it has several, images and texts keep their order.
        parts: Whether contents are given as lists, with ``{"type": "image"}`` for an image that has no tag, as the
            templates of multimodal models expect. One that reads nothing but lists gets them in any case.
        variables: Further variables of the template.

    Raises:
        ConfigurationError: The template is broken, or refuses the conversation; the message says which, and why.
        UnsupportedFeatureError: The last message is the assistant's, and the template leaves it out.
        MissingDependencyError: jinja2 is not installed.
    """
    turns, notes = tuple(messages), list[Note]()
    if tools:
        place = tools_place(template)
        if place is None:
            notes.append(Note("dropped", "tools: the model's chat template has no place for them"))
        elif place == "message" and not any(turn.role == "system" for turn in turns):
            turns = (Message.system(""), *turns)
    parts = parts or reads_lists_only(template.source)
    before = scene(template, turns, tools, image_tag=image_tag, parts=parts, variables=variables)
    turns, plain, changes = _accepted(before, turns)
    pieces, kept_from = _pieces(before, turns, plain) if template.control else ((plain,), list[Note]())
    images = tuple(image for turn in turns for image in turn.images)
    return Prompt(pieces, (*notes, *changes, *kept_from), images)


def takes_tools(template: Template) -> bool:
    """Return whether the template has a place for tools."""
    return tools_place(template) is not None


def _accepted(before: Scene, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, list[Note]]:
    """Return the first form of the conversation that the template takes whole, its text, and what was changed."""
    reason = ""
    for form, change in _forms(turns):
        try:
            text = before.text(form)
        except jinja_sandbox().TemplateRefused as refusal:
            reason = str(refusal)
            continue
        if not before.swallows_system(form):
            return form, text, [Note("converted", change)] if change else []
    raise _refused(reason)


def _forms(turns: tuple[Message, ...]) -> Iterator[tuple[tuple[Message, ...], str]]:
    """Yield the conversation as it is, then with one system message, then with none."""
    yield turns, ""
    system = [turn for turn in turns if turn.role == "system"]
    if not system:
        return
    others = tuple(turn for turn in turns if turn.role != "system")
    text = "\n\n".join(turn.text for turn in system if turn.text)
    if len(system) > 1:
        joined = system[0].model_copy(update={"content": text})
        yield (joined, *others), "the system messages were put together: the template takes one, at the beginning"
    place = next((index for index, turn in enumerate(others) if turn.role == "user"), None)
    if place is None:
        folded = (Message.user(text), *others)
    else:
        folded = (*others[:place], _led(others[place], text), *others[place + 1 :])
    yield folded, "the system message was put into the first user turn: the template has no system role"


def _led(turn: Message, text: str) -> Message:
    """Return the turn with that text in front of its own."""
    if isinstance(turn.content, str):
        return turn.model_copy(update={"content": "\n\n".join(filter(None, (text, turn.content)))})
    content = list(turn.content)
    for place, part in enumerate(content):
        if isinstance(part, Text):
            content[place] = Text(text="\n\n".join(filter(None, (text, part.text))))
            break
    else:
        content.append(Text(text=text))
    return turn.model_copy(update={"content": tuple(content)})


def _pieces(before: Scene, turns: tuple[Message, ...], plain: str) -> tuple[tuple[str, ...], list[Note]]:
    """Return the text, cut inside control tokens that are not the template's; and a note if it had to differ."""
    tokens = control_tokens(before.template.control)
    disguise = Disguise(tokens, before.free)
    try:
        text = before.text(turns, disguise.whole, disguise.tokens)
        if disguise.plain(text) == plain:
            return disguise.pieces(text), []
    except (jinja_sandbox().TemplateRefused, ConfigurationError):
        pass
    # The template looks into the texts: it is let see the words that it may look for, but for control tokens.
    disguise = Disguise(tokens, before.free, jinja_sandbox().strings(before.template.source))
    try:
        text = before.text(turns, disguise.whole, disguise.tokens)
    except jinja_sandbox().TemplateRefused as refusal:
        raise _refused(str(refusal)) from None
    same = disguise.plain(text) == plain
    note = Note("converted", "a control token in the text was kept from the chat template, which looks for it")
    return disguise.pieces(text), [] if same else [note]


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(f"The model's chat template does not take this conversation: {reason}")
