"""Pictures as ONNX Runtime GenAI can be trusted with: whole, and as PNG. And the marks that stand for them in a prompt.

Its decoder takes everything but PNG for JPEG, ends the process on what is none, and hangs on one that is cut off. So
each picture is read here first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.model_engine import engine_module
from slmclient.errors import BadRequestError
from slmclient.media import Image, image_bytes
from slmclient.messages import Message

TAGS: Mapping[str, str] = {"phi3v": "<|image_{n}|>\n", "phi4mm": "<|image_{n}|>"}
"""The model types that take pictures, and how one stands in the prompt."""

_MARK = re.compile(r"<\|(?:image|audio)_\d+\|>")


def marks(messages: Iterable[Message]) -> tuple[str, ...]:
    """Return what in people's texts would be taken for a picture."""
    return tuple(dict.fromkeys(mark for message in messages for mark in _MARK.findall(message.text)))


def as_png(images: Sequence[Image], info: DriverInfo, provider: str) -> list[bytes]:
    """Return the pictures as PNG files.

    Raises:
        BadRequestError: One is damaged; the message says which.
        MissingDependencyError: Pillow is not installed.
    """
    pillow = engine_module("PIL.Image", info, provider)
    files: list[bytes] = []
    for number, image in enumerate(images, 1):
        out = io.BytesIO()
        try:
            with pillow.open(io.BytesIO(image_bytes(image))) as picture:
                picture.convert("RGB").save(out, "PNG", compress_level=1)
        except Exception as error:  # decoders of files from anywhere raise all kinds
            raise BadRequestError(
                f"Image {number} cannot be read: {type(error).__name__}: {error}.", provider=provider
            ) from None
        files.append(out.getvalue())
    return files
