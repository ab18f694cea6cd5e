"""Pictures for OpenVINO GenAI: as tensors, and the tags that stand for them in a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

TAG = "<ov_genai_image_{n}>"
"""What stands for a picture, whatever the model's own tag is. OpenVINO counts from 0, prompts here from 1."""

_BEGIN = "<ov_genai_image_"
MARKS = (_BEGIN, "<ov_genai_video_", "<ov_genai_audio_", "<image>", "<|image_")
"""What the engine would look for in a prompt."""

_NUMBERED = re.compile(re.escape(_BEGIN) + r"(\d+)>")


def from_zero(text: str) -> str:
    """Return the prompt with its tags counted from 0."""
    return _NUMBERED.sub(lambda match: f"{_BEGIN}{int(match[1]) - 1}>", text)


def tensors(pictures: Sequence[Any], numpy: Any, runtime: Any) -> list[Any]:
    """Return unpacked pictures as the engine takes them: bytes, of one picture, its rows, columns and three colours."""
    return [runtime.Tensor(numpy.array(picture)[None]) for picture in pictures]
