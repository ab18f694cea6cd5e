"""How long a prompt is, where nobody counted: an estimate; and how much room an answer is to have. Pure.

What pictures take depends on the model: `slmclient.policy.context` adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

if TYPE_CHECKING:
    from slmclient.chat import ChatRequest
    from slmclient.messages import Message

PER_MESSAGE = 4
"""Tokens around a message: who speaks, and where it begins and ends. Chat templates of small models have 3 to 6."""
BEGINNING = 3
"""Tokens behind the last message, which begin the answer."""
IMAGE_TOKENS = 576
"""Of a picture, where the model's rule is not known: what LLaVA-1.5 and many after it make of one."""

_SIGNS, _BYTES = 4, 3  # of ASCII, and of everything else, that make a token
_ANSWER = 256  # tokens that an answer is given where the caller said nothing


def text_tokens(text: str) -> int:
    """Return about how many tokens a text has.

    About four characters of English make one. Vocabularies have few words of other scripts, and spell most of them in
    bytes: so those are counted, three to a token, which is one for a Chinese character or a kana.
    """
    if text.isascii():
        return -(-len(text) // _SIGNS)
    plain = len(text.encode("ascii", "ignore"))
    others = len(text.encode("utf-8", "replace")) - plain
    return -(-plain // _SIGNS) + -(-others // _BYTES)


def message_tokens(message: Message) -> int:
    """Return about how many tokens a message has, without its pictures and sound."""
    calls = sum(text_tokens(call.name) + text_tokens(call.raw) + PER_MESSAGE for call in message.tool_calls)
    return text_tokens(message.text) + calls + PER_MESSAGE


def tools_tokens(tools: tuple[Mapping[str, Any], ...]) -> int:
    """Return about how many tokens the descriptions of tools have."""
    return sum(text_tokens(to_json(tool).decode()) + PER_MESSAGE for tool in tools)


def least_room(request: ChatRequest, context: int) -> int:
    """Return the tokens that an answer is to have at least, for the prompt to count as fitting.

    One is enough for a prompt that stays as it is. Where old turns may go instead, an answer gets what was asked for,
    but no more than a quarter of the context.
    """
    if request.on_overflow == "error":
        return 1
    asked: int = request.sampling.get("max_tokens", _ANSWER)
    return max(1, min(asked, context // 4))


def shortened(asked: int, left: int) -> str:
    """Return what the reply tells of an answer that has less room than was asked for."""
    return f"max_tokens: {asked:,} asked, {left:,} left beside the prompt"
