"""How many tokens a prompt has, and a model takes, as servers say it in their errors. Pure.

Only the prompt's own tokens count as such: not what was asked for beside them, nor a bound that a server reckoned back
from what was asked for. The sentences are those of the servers named beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

_N = r"(\d[\d,]{0,15})"
_CONTEXT = (
    # vLLM, OpenAI, Azure: "maximum context length is 4096 tokens"; vLLM 0.15: "the model's context length is only 4096
    # tokens"; SGLang: "maximum context length of 4096 tokens", "the model's context length (4096 tokens)";
    # llama.cpp, Ollama: "the available context size (4096 tokens)"
    rf"context (?:length|size|window)(?: is| is only| of)? ?\(?{_N} tokens",
    rf"max size: {_N} tokens",  # GitHub Models and Azure, tokens_limit_reached: "Max size: 8000 tokens."
    rf"too large for model with {_N} maximum context length",  # Mistral
)
_PROMPT = (
    # OpenAI and Azure: "your messages resulted in 5818 tokens (5382 in the messages, 436 in the functions)"
    rf"resulted in {_N} tokens",
    # vLLM 0.9 (protocol.py): "your request has 2778 input tokens"; vLLM 0.22 (renderers/params.py): "your prompt
    # contains 10000 input tokens". There "at least 4097 input tokens" is a bound: what was asked for, taken from the
    # context.
    rf"(?:request has|prompt contains) {_N} input tokens",
    rf"request \({_N} tokens\)",  # llama.cpp, Ollama: "request (8889 tokens) exceeds …"
    rf"input \({_N} tokens\)",  # SGLang, Together: "The input (9000 tokens) is longer than …"
    rf"{_N} tokens from the input messages",  # SGLang
    rf"prompt contains {_N} tokens",  # Mistral
)
# OpenAI, Azure, vLLM before 0.9, FastChat: "you requested 5000 tokens (1000 in the messages, 52 in the functions, 3948
# in the completion)"
_PARTS = re.compile(rf"{_N} in the (?:messages|functions)")
# vLLM 0.15: "You passed 3097 input tokens and requested 1000 output tokens." It reads no further than one token over
# what is left, so that one is a bound, too.
_PASSED = re.compile(rf"passed {_N} input tokens and requested {_N} output tokens", re.IGNORECASE)
_READ = 2_000  # characters of a message that are looked at


def sizes(payload: Any, message: str) -> dict[str, int]:
    """Return what is known of ``tokens``, the prompt's, and of the ``context``.

    Args:
        payload: The parsed error body: llama.cpp has fields for both.
        message: What the server says, as one line.
    """
    inner: Any = cast("Mapping[str, Any]", payload).get("error") if isinstance(payload, Mapping) else None
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {}
    said = message[:_READ]
    context = _number(fields.get("n_ctx")) or _first(_CONTEXT, said)
    tokens = _number(fields.get("n_prompt_tokens")) or _first(_PROMPT, said) or _summed(said) or _passed(said, context)
    found = {"tokens": tokens, "context": context}
    return {name: number for name, number in found.items() if number is not None}


def _first(patterns: tuple[str, ...], said: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, said, re.IGNORECASE):
            return _number(match[1])
    return None


def _summed(said: str) -> int | None:
    return sum(_number(part) or 0 for part in _PARTS.findall(said)) or None


def _passed(said: str, context: int | None) -> int | None:
    match = _PASSED.search(said)
    tokens, asked = (_number(match[1]), _number(match[2])) if match else (None, None)
    bound = tokens is not None and asked is not None and context == tokens + asked - 1
    return None if bound else tokens


def _number(written: Any) -> int | None:
    """Return a number of tokens; None for what is none."""
    if isinstance(written, str):
        written = int(written.replace(",", ""))
    return written if type(written) is int and 0 < written < 10**12 else None
