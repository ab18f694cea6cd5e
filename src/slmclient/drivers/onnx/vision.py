"""Pictures as ONNX Runtime GenAI can be trusted with: whole, and as PNG. And the marks that stand for them in a prompt.

Its decoder takes everything but PNG for JPEG, ends the process on what is none, and hangs on one that is cut off. So
each picture is read here first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

from slmclient.messages import Message

TAGS: Mapping[str, str] = {"phi3v": "<|image_{n}|>\n", "phi4mm": "<|image_{n}|>"}
"""The model types that take pictures, and how one stands in the prompt."""

_MARK = re.compile(r"<\|(?:image|audio)_\d+\|>")


def marks(messages: Iterable[Message]) -> tuple[str, ...]:
    """Return what in people's texts would be taken for a picture."""
    return tuple(dict.fromkeys(mark for message in messages for mark in _MARK.findall(message.text)))


def png(picture: Any) -> bytes:
    """Return an unpacked picture as a PNG file."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
