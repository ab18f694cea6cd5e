"""The built-in chat templates, as data: for model files that bring none. Pure.

The names are those that the catalogue's ``template`` uses. The forms are those of the model cards and repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, and what has to be known to render it."""

    source: str
    """Jinja, as Transformers defines it for chat templates."""
    control: tuple[str, ...] = ()
    """Texts of the control tokens: what nobody's text may become."""
    special: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Variables that templates use, such as ``bos_token``."""


# Phi-3 and Phi-3.5: every turn on lines of its own. They know no tools: a tool's answer is said by the user.
_PHI_3 = r"""
{%- for message in messages -%}
    {{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>\n' + message.content + '<|end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>\n' -}}
{%- endif -%}
"""

# Phi-4: as ChatML, with a token between the role and the text, and without new lines.
_PHI_4 = r"""
{%- for message in messages -%}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '<|im_sep|>' -}}
    {{- message.content + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant<|im_sep|>' -}}
{%- endif -%}
"""

# Phi-4-mini: as Phi-3 without new lines. The first system turn lists the tools; there is one if there are tools.
_PHI_4_MINI = r"""
{%- set functions = (tools or []) | map(attribute='function') | list -%}
{%- set said = namespace(tools=not tools) -%}
{%- if tools and messages[0].role != 'system' -%}
    {{- '<|system|><|tool|>' + functions | tojson + '<|/tool|><|end|>' -}}
    {%- set said.tools = true -%}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|' + ('tool_response' if message.role == 'tool' else message.role) + '|>' + message.content -}}
    {%- if message.role == 'system' and not said.tools -%}
        {{- '<|tool|>' + functions | tojson + '<|/tool|>' -}}
        {%- set said.tools = true -%}
    {%- endif -%}
    {%- if message.tool_calls -%}
        {{- '<|tool_call|>[' -}}
        {%- for call in message.tool_calls -%}
            {{- ', ' if not loop.first -}}
            {{- '{"name": ' + call.function.name | tojson -}}
            {{- ', "arguments": ' + call.function.arguments | tojson + '}' -}}
        {%- endfor -%}
        {{- ']<|/tool_call|>' -}}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""

# ChatML, with tools as the models that were trained on it in the manner of Hermes expect them.
_CHATML = r"""
{%- set listed = 'You may call these functions, each described by a line of JSON:\n<tools>' -%}
{%- set manner = '\n</tools>\nTo call one, write its name and arguments as JSON between tags:\n<tool_call>\n' -%}
{%- set example = '{"name": "the name", "arguments": {"the argument": "its value"}}\n</tool_call>' -%}
{%- set said = namespace(tools=not tools) -%}
{%- macro functions() -%}
    {{- listed -}}
    {%- for tool in tools -%}
        {{- '\n' + tool | tojson -}}
    {%- endfor -%}
    {{- manner + example -}}
{%- endmacro -%}
{%- if tools and messages[0].role != 'system' -%}
    {{- '<|im_start|>system\n' + functions() + '<|im_end|>\n' -}}
    {%- set said.tools = true -%}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' + message.content -}}
    {%- if message.role == 'system' and not said.tools -%}
        {{- '\n\n' + functions() -}}
        {%- set said.tools = true -%}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {{- '\n' if message.content or not loop.first -}}
        {{- '<tool_call>\n{"name": ' + call.function.name | tojson -}}
        {{- ', "arguments": ' + call.function.arguments | tojson + '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""

_TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
_CALLS = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")

_BUILTIN = {
    "phi-3": Template(_PHI_3, _TURNS, {"eos_token": "<|end|>"}),
    "phi-4-mini": Template(_PHI_4_MINI, (*_TURNS, *_CALLS), {"eos_token": "<|end|>"}),
    "phi-4": Template(
        _PHI_4, ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>"), {"eos_token": "<|im_end|>"}
    ),
    "chatml": Template(_CHATML, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), {"eos_token": "<|im_end|>"}),
}

NAMES = tuple(_BUILTIN)
"""The names that `builtin` knows."""


def builtin(name: str) -> Template | None:
    """Return the built-in template of that name, or None."""
    return _BUILTIN.get(name)
