"""The prompt of a call, with what tells its model how much to think: a template's variable, or the model's switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slmclient.chat import ChatRequest, Note
from slmclient.drivers.prompt import Prompt, render
from slmclient.drivers.prompt.scene import jinja_sandbox
from slmclient.phi import reasoning

if TYPE_CHECKING:
    from slmclient.catalogue import Model, Reasoning
    from slmclient.phi.templates import Template

_ON_OFF = ("enable_thinking", "thinking")  # in the templates of Qwen3, SmolLM3 and GLM; of Granite and DeepSeek V3.1
_LEVEL = "reasoning_effort"  # in the template of gpt-oss


def rendered(
    template: Template,
    request: ChatRequest,
    model: Model | None,
    *,
    image_tag: str | None = None,
    parts: bool = False,
) -> Prompt:
    """Return the prompt of a call; a note says where ``reasoning`` can be said to the model in no way.

    Args:
        template: How turns are written.
        request: The call.
        model: What the catalogue knows of the model.
        image_tag: See `render`.
        parts: See `render`.
    """
    said, mode = _variables(template, request), model.reasoning if model else None

    def prompt_of(asked: ChatRequest) -> Prompt:
        return render(template, asked.messages, tools=asked.tools, image_tag=image_tag, parts=parts, variables=said)

    prompt, notes = prompt_of(request), list[Note]()
    if mode and mode.system and request.reasoning != "off" and mode.system not in prompt.text:
        led, notes = reasoning.led_by(mode.system, request)
        prompt = prompt_of(led)
    switch = _switch(mode, request)
    if switch and request.prefill is None:
        prompt = replace(prompt, pieces=(*prompt.pieces[:-1], prompt.pieces[-1] + switch))
    elif request.reasoning is not None and not said and not (model and not mode and request.reasoning == "off"):
        notes.append(Note("dropped", reasoning.KNOB))
    return replace(prompt, notes=(*prompt.notes, *notes)) if notes else prompt


def is_thinking(prompt: Prompt, request: ChatRequest) -> bool:
    """Return whether an answer to that prompt begins inside the model's reasoning; one bound to JSON does not."""
    if request.response_format is not None:
        return False
    opening, closing = reasoning.TAGS
    begun = request.prefill or ""
    return prompt.text.rstrip().endswith(opening) or begun.rfind(opening) > begun.rfind(closing)


def _variables(template: Template, request: ChatRequest) -> Mapping[str, Any]:
    """Return the variables by which a template can be told how much the model is to think, of those that it reads."""
    effort = _effort(request)
    if effort is None:
        return {}
    read = jinja_sandbox().variables(template.source)
    said: dict[str, Any] = {name: effort != "off" for name in _ON_OFF if name in read}
    if _LEVEL in read and effort != "off":
        said[_LEVEL] = effort
    return said


def _switch(mode: Reasoning | None, request: ChatRequest) -> str | None:
    """Return what is written where the answer begins."""
    effort = _effort(request)
    if mode is None or effort is None:
        return None
    return mode.answer if effort == "off" else mode.think


def _effort(request: ChatRequest) -> str | None:
    """Return how much the model is to think: an answer that is bound from its first character leaves no room for it."""
    return "off" if request.response_format is not None else request.reasoning
