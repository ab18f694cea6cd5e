"""In which ways a call can be said to a driver and its model, the best first: tools, and a format of the answer.

A format: by what the driver has for it (``json_schema``, ``guided``, ``grammar``), as the arguments of a tool
(``tool``), or in the prompt (``prompt``). Tools: as such, or in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from slmclient import catalogue
from slmclient.chat import ChatRequest, Note
from slmclient.drivers.base import Driver, Feature
from slmclient.errors import (
    BadRequestError,
    ContentFilterError,
    ContextLengthExceededError,
    SLMError,
    UnsupportedParameterError,
)
from slmclient.phi import reasoning
from slmclient.policy.reading import AnswerToolReader, Reader, Reading

if TYPE_CHECKING:
    from slmclient.policy.adapting import AdaptingDriver

ANSWER_TOOL = "answer"
_TOOLS, _REASONING, _NATIVE, _TOOL, _PROMPT = "tools", "reasoning", "native", "tool", "prompt"
_REMEMBERED = 1_000
_OTHERWISE_WRONG = (ContentFilterError, ContextLengthExceededError)
_OF_A_FORMAT = re.compile(r"response_format|json_schema|structured output", re.IGNORECASE)


class Ways:
    """What is left to try for one call.

    Args:
        driver: Knows what the server has refused before.
        asked: The call as it was written.
        request: The same, with what its model needs.
        model: The model's name.
        known: What the catalogue says of it.
    """

    def __init__(
        self,
        driver: AdaptingDriver,
        asked: ChatRequest,
        request: ChatRequest,
        model: str | None,
        known: catalogue.Model | None,
    ) -> None:
        self._driver, self._inner = driver, driver.inner
        forced = request.tool_choice not in (None, "auto", "none")
        if forced and not driver.strict and Feature.TOOL_CHOICE not in driver.inner.features:
            request = replace(request, response_format=None)  # the answer is a call, and is bound to that
        self._asked, self._request, self._model, self._known = asked, request, model, known
        self._refused_now: list[str] = []
        self._unthinking = request.reasoning is not None and (model, _REASONING) in driver.refused
        self._has_tools = bool(request.tools) or any(m.tool_calls or m.role == "tool" for m in request.messages)
        self._native_tools = driver.strict or (
            Feature.TOOLS in self._inner.features and (model, _TOOLS) not in driver.refused
        )
        self._binds = Feature.RESPONSE_FORMAT in self._inner.features
        if self._binds and driver.refused:
            self._binds = (model, self._kept(_NATIVE)) not in driver.refused
        self._bound = False
        """Whether the answer is bound to the schema of a call."""
        self._formats = self._strategies() if request.response_format is not None else []

    def _strategies(self) -> list[str]:
        """Return how the model may be held to a format of the answer, the best first."""
        if self._driver.strict:
            return [_NATIVE]
        inner, request = self._inner, self._request
        native = self._binds
        calls = request.tools and request.tool_choice != "none"
        if calls and not (self._native_tools and Feature.TOOL_CHOICE in inner.features):
            native = False  # it would bind the calls, too
        if reasoning.expects(self._asked, self._known):
            native = False  # it would bind the thoughts, too
        shape = request.response_format or {}
        can_call = (
            not request.tools
            and {Feature.TOOLS, Feature.TOOL_CHOICE} <= inner.features
            and shape.get("type") == "json_schema"
            and _calls_tools(self._model, inner)
        )
        found = [name for name, use in ((_NATIVE, native), (_TOOL, can_call)) if use]
        return [*(name for name in found if (self._model, self._kept(name)) not in self._driver.refused), _PROMPT]

    def _kept(self, way: str) -> str:
        """Return by which name a refusal of that way is remembered: one schema may be too much where others are not."""
        wanted = self._request.response_format if self._request.response_format is not None else self._request.tools
        return f"{way} {hash(to_json(wanted, inf_nan_mode='constants'))}"

    # --- saying

    def said(self) -> tuple[ChatRequest, list[Note]]:
        """Return the call in the first way that is left, and what is to be told of it."""
        request, notes = self._request, list[Note]()
        if self._has_tools:
            request, notes = self._with_tools(request)
        if self._unthinking:
            request = replace(request, reasoning=None)
            notes.append(Note("dropped", _REASONING))
        if self._formats and self._formats[0] == _TOOL:
            request = _as_tool(request)
        elif self._formats and self._formats[0] == _PROMPT:
            from slmclient.phi import schema_prompt

            request = schema_prompt.described(request)
        return request, notes

    def _with_tools(self, request: ChatRequest) -> tuple[ChatRequest, list[Note]]:
        from slmclient.phi import tool_prompt

        inner, notes = self._inner, list[Note]()
        forced = request.tool_choice not in (None, "auto", "none")
        in_words = forced and not (
            self._native_tools and (self._driver.strict or Feature.TOOL_CHOICE in inner.features)
        )
        thinks = reasoning.expects(self._asked, self._known)  # a schema would bind the thoughts, too
        self._bound = in_words and self._binds and not thinks and request.response_format is None
        schema = tool_prompt.forced_schema(request) if self._bound else None
        if not self._native_tools:
            request, notes = tool_prompt.described(request, self._known)
            if in_words and not self._bound:
                notes.append(Note("converted", "tool_choice: said in the prompt"))
        elif in_words and not self._bound:  # the tools stay in the place that the model's template has for them
            request, notes = tool_prompt.urged(request)
        if schema is not None:
            shape = {"type": "json_schema", "json_schema": {"name": "tool_call", "schema": schema}}
            request = replace(request, tool_choice=None, response_format=shape)
            notes.append(Note("converted", "tool_choice: the answer is bound to the JSON schema of a call"))
        return request, notes

    def told(self) -> list[Note]:
        """Return what the reply says of the format of the answer."""
        if not self._formats:
            return []
        strategy = self._formats[0]
        if strategy == _NATIVE:
            shape = self._request.response_format or {}
            strategy = str(shape.get("type")) if self._inner.structured == "json_schema" else self._inner.structured
        return [Note("structured", strategy)]

    # --- what the server makes of it

    def refused(self, error: SLMError) -> bool:
        """Take note that the server refused the call; return whether there is another way."""
        if self._request.reasoning is not None and not self._unthinking and reasoning.refuses(error):
            self._unthinking = True
            self._refused_now.append(_REASONING)
            return True
        if self._has_tools and self._native_tools:
            from slmclient.phi import tool_prompt

            if tool_prompt.refuses_tools(error):
                self._native_tools = False
                self._refused_now.append(_TOOLS)
                self._formats = self._strategies() if self._formats else []
                return True
        if isinstance(error, _OTHERWISE_WRONG):
            return False
        if isinstance(error, UnsupportedParameterError) and not _OF_A_FORMAT.search(error.message):
            return False  # of another option
        if self._bound and isinstance(error, BadRequestError):
            self._binds = False
            self._refused_now.append(self._kept(_NATIVE))
            return True
        if len(self._formats) > 1 and isinstance(error, BadRequestError):
            self._refused_now.append(self._kept(self._formats.pop(0)))
            return True
        return False

    def reading(self, known: catalogue.Model | None) -> Reading:
        """Return what reads the answer, which has begun: so this way is a good one, and is remembered.

        Args:
            known: What the catalogue says of the model that answers.
        """
        if len(self._driver.refused) > _REMEMBERED:  # schemas that are made anew for each call
            self._driver.refused.clear()
        self._driver.refused.update((self._model, name) for name in self._refused_now)
        tags = (known.reasoning.open, known.reasoning.close) if known and known.reasoning else reasoning.TAGS
        expected = reasoning.expects(self._asked, known)
        readers: list[Reader] = [reasoning.ReasoningReader(tags, expected=expected, inside=self._is_inside(tags))]
        if self._formats and self._formats[0] == _TOOL:
            readers.append(AnswerToolReader())
        elif self._request.tools and self._request.tool_choice != "none":
            from slmclient.phi.tool_calls import ToolCallReader

            first = sum(len(message.tool_calls) for message in self._request.messages)
            readers.append(ToolCallReader(self._request.tools, first=first))
        return Reading(readers)

    def _is_inside(self, tags: tuple[str, str]) -> bool:
        """Return whether the caller has begun the answer with a thought; whoever writes prompts here sees to it."""
        begun = self._request.prefill
        if begun is None:
            return False
        host = catalogue.provider(self._inner.info.name)
        return not (host and host.own_prompts) and begun.rfind(tags[0]) > begun.rfind(tags[1])


def _calls_tools(model: str | None, driver: Driver) -> bool:
    """Return whether a provider is known to pass tools to a model that was trained for them."""
    offer = catalogue.offer(model, driver.info.name) if model else None
    return bool(offer and offer.tools)


def _as_tool(request: ChatRequest) -> ChatRequest:
    """Return the call with the answer as the arguments of a tool."""
    shape: Mapping[str, Any] = (request.response_format or {})["json_schema"]
    function = {
        "name": ANSWER_TOOL,
        "description": "Gives the answer.",
        "parameters": shape.get("schema") or {"type": "object"},
    }
    choice = {"type": "function", "function": {"name": ANSWER_TOOL}}
    tool = {"type": "function", "function": function}
    return replace(request, tools=(tool,), tool_choice=choice, response_format=None)
