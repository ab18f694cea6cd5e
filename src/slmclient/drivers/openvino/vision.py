"""Pictures for OpenVINO GenAI: tensors out of the bytes in a message, and the tags that stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.model_engine import engine_module
from slmclient.drivers.prompt import Template
from slmclient.errors import BadRequestError
from slmclient.media import Image, image_bytes

MOST_PIXELS = 50_000_000
"""A picture of more is refused before it is unpacked: a small file may hold a huge one."""

TAG = "<ov_genai_image_{n}>"
"""What stands for a picture, whatever the model's own tag is. OpenVINO counts from 0, prompts here from 1."""

_BEGIN = "<ov_genai_image_"
_OTHERS = ("<ov_genai_video_", "<ov_genai_audio_", "<image>", "<|image_")  # what the engine would look for, too
_NUMBERED = re.compile(re.escape(_BEGIN) + r"(\d+)>")
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


def guarded(template: Template) -> Template:
    """Return the template with the tags for pictures among its control tokens: nobody's text may become one."""
    return replace(template, control=tuple(dict.fromkeys((*template.control, _BEGIN, *_OTHERS))))


def from_zero(text: str) -> str:
    """Return the prompt with its tags counted from 0."""
    return _NUMBERED.sub(lambda match: f"{_BEGIN}{int(match[1]) - 1}>", text)


def tensors(images: Sequence[Image], numpy: Any, runtime: Any, info: DriverInfo, provider: str) -> list[Any]:
    """Return the pictures as the engine takes them: bytes, of one picture, its rows, columns and three colours.

    Raises:
        BadRequestError: A picture is damaged or too large.
    """
    if not images:
        return []
    pillow = engine_module("PIL.Image", info, provider)
    return [runtime.Tensor(numpy.array(_picture(image, pillow, provider))[None]) for image in images]


def _picture(image: Image, pillow: Any, provider: str) -> Any:
    try:
        picture = pillow.open(BytesIO(image_bytes(image)), formats=_FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise BadRequestError(
                f"An image has {picture.width:,} × {picture.height:,} pixels, more than {MOST_PIXELS:,}. Scale it "
                "down.",
                provider=provider,
            )
        return picture.convert("RGB")
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise BadRequestError(f"An image is too large: {error}", provider=provider) from None
    except (OSError, ValueError, SyntaxError):
        raise BadRequestError(
            "An image is damaged, cut off, or no PNG, JPEG, GIF, WebP or BMP file.", provider=provider
        ) from None
