"""Tools before an engine's model: in the place that its chat template has for them, or else in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slmclient.chat import ChatRequest, Note
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.prompt import Template, takes_tools
from slmclient.errors import UnsupportedFeatureError
from slmclient.phi import tool_prompt
from slmclient.phi.tool_calls import TAGS


def told(template: Template, request: ChatRequest, config: DriverConfig, model: str) -> tuple[ChatRequest, list[Note]]:
    """Return the request as the template takes it, and what was put otherwise.

    Args:
        template: The model's.
        request: With the tool_choice ``none`` its tools are left out.
        config: Says whether tools without a place are an error (``strict``).
        model: The model's name, for the error.

    Raises:
        UnsupportedFeatureError: Under ``strict``, the template has no place for tools.
    """
    if request.tool_choice == "none":
        request = replace(request, tools=())
    called = any(message.tool_calls or message.role == "tool" for message in request.messages)
    if not (request.tools or called) or takes_tools(template):
        return request, []
    if config.strict and request.tools:
        raise UnsupportedFeatureError(
            f"The chat template of {model} has no place for tools. Let them be described in the prompt with "
            "strict=False, or leave them out.",
            provider=config.provider,
            model=model,
        )
    # In plain words for every model: a template's own are cut in two where anybody else says them.
    return tool_prompt.described(request, None)


def shown(ids: Mapping[str, int], request: ChatRequest) -> dict[str, int]:
    """Return the control tokens around calls, which whoever gave tools has to see.

    Args:
        ids: The model's control tokens.
        request: The call.
    """
    return {tag: ids[tag] for tag in TAGS if tag in ids} if request.tools else {}
