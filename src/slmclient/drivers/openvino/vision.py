"""Pictures for OpenVINO GenAI: tensors out of the bytes in a message, and the tags that stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.pictures import unpacked
from slmclient.drivers.prompt import Template
from slmclient.media import Image

TAG = "<ov_genai_image_{n}>"
"""What stands for a picture, whatever the model's own tag is. OpenVINO counts from 0, prompts here from 1."""

_BEGIN = "<ov_genai_image_"
_OTHERS = ("<ov_genai_video_", "<ov_genai_audio_", "<image>", "<|image_")  # what the engine would look for, too
_NUMBERED = re.compile(re.escape(_BEGIN) + r"(\d+)>")


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
    return [runtime.Tensor(numpy.array(picture)[None]) for picture in unpacked(images, info, provider)]
