"""NVIDIA's older addresses of single vision models, below /v1/vlm: pictures are ``<img>`` tags in the text.

Source: NVIDIA's reference pages of phi-3-vision-128k-instruct; langchain-nvidia-ai-endpoints 1.5.0. Not tried live.
"""

from __future__ import annotations

from dataclasses import replace

from slmclient.chat import ChatRequest
from slmclient.drivers.wire.dialect import Dialect
from slmclient.media import Image
from slmclient.messages import Message, Text

PATH = "/v1/vlm/"


def spoken(dialect: Dialect) -> Dialect:
    """Return the dialect there: the address is the whole address, and ``stream_options`` is refused."""
    return replace(dialect, path="", stream_usage=False)


def model_of(path: str) -> str:
    """Return the id of the model that an address is for: what follows `PATH`."""
    return path.removeprefix(PATH).strip("/")


def tagged(request: ChatRequest) -> ChatRequest:
    """Return the request with each picture where it stands in the text; tags are not seen inside lists of parts."""
    return replace(request, messages=tuple(map(_tagged, request.messages)))


def _tagged(message: Message) -> Message:
    if isinstance(message.content, str):
        return message
    said = [
        part.text if isinstance(part, Text) else f'<img src="{part.url}" />'
        for part in message.content
        if isinstance(part, (Text, Image))
    ]
    return message.model_copy(update={"content": " ".join(said)})
