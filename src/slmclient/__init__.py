"""slmclient: one client for Phi and other small language models, wherever they run.

>>> from slmclient import PhiClient
>>> client = PhiClient()                     # the environment decides; else a small model in this process
>>> reply = client.chat("Say hello.")

The names below are loaded on first use: importing the package does no I/O and loads no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmclient.chat import ChatOptions, TokenCount, Usage
    from slmclient.client import AsyncPhiClient, PhiClient
    from slmclient.code_blocks import CodeBlock
    from slmclient.conversation import AsyncConversation, Conversation
    from slmclient.drivers.azure.inference_client import AzureInferenceClientDriver
    from slmclient.drivers.openai.client import OpenAIClientDriver
    from slmclient.errors import SLMError
    from slmclient.media import Audio, Image
    from slmclient.media.video import Video
    from slmclient.messages import Message, Text, ToolCall
    from slmclient.policy.hearing import CallEvent
    from slmclient.policy.retry import RetryPolicy
    from slmclient.reply import Reply
    from slmclient.stream import AsyncReplyStream, ReplyStream
    from slmclient.tools import Tool, tool

__version__ = "0.1.0"

_HOMES = {
    "AsyncConversation": "conversation",
    "AsyncPhiClient": "client",
    "AsyncReplyStream": "stream",
    "AzureInferenceClientDriver": "drivers.azure.inference_client",
    "CallEvent": "policy.hearing",
    "ChatOptions": "chat",
    "CodeBlock": "code_blocks",
    "Conversation": "conversation",
    "Audio": "media",
    "Image": "media",
    "Video": "media.video",
    "Message": "messages",
    "OpenAIClientDriver": "drivers.openai.client",
    "PhiClient": "client",
    "Reply": "reply",
    "ReplyStream": "stream",
    "RetryPolicy": "policy.retry",
    "SLMError": "errors",
    "Text": "messages",
    "TokenCount": "chat",
    "Tool": "tools",
    "ToolCall": "messages",
    "Usage": "chat",
    "tool": "tools",
}

__all__ = [
    "AsyncConversation",
    "AsyncPhiClient",
    "AsyncReplyStream",
    "Audio",
    "AzureInferenceClientDriver",
    "CallEvent",
    "ChatOptions",
    "CodeBlock",
    "Conversation",
    "Image",
    "Message",
    "OpenAIClientDriver",
    "PhiClient",
    "Reply",
    "ReplyStream",
    "RetryPolicy",
    "SLMError",
    "Text",
    "TokenCount",
    "Tool",
    "ToolCall",
    "Usage",
    "Video",
    "tool",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
