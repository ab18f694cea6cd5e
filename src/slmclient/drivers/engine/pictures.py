"""Pictures: how engines whose models see answer to them, and what the files are made into first.

The files are from anywhere: what is damaged, or huge once unpacked, is refused here, before an engine has it.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from slmclient.chat import ChatRequest, Usage
from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine import Outlet
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.model import TokenEngine, unsplit
from slmclient.drivers.engine.package import engine_module
from slmclient.drivers.prompt import Template
from slmclient.errors import BadRequestError
from slmclient.media import Image, image_bytes

MOST_PIXELS = 64_000_000
"""A picture of more is refused before it is unpacked: a small file may hold a huge one."""

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


class SeeingEngine(TokenEngine):
    """One loaded model that may see: its pictures become tokens of the prompt. Subclasses write `look` and `tell` too.

    A prompt with pictures is taken as one string, and as a whole.
    """

    sees = False
    """Whether the model takes pictures; known once it is loaded."""

    @abstractmethod
    def look(self, text: str, images: Sequence[Image]) -> tuple[list[int], Any]:
        """Return the ids of a prompt with pictures, and what `tell` needs besides them."""

    @abstractmethod
    def tell(self, seen: Any, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Generate, as `run` does, from what `look` has returned."""

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer."""
        if not self.sees or not any(message.images for message in request.messages):
            super().generate(request, emit)
            return
        self.check_model(request)
        prompt = self.prompt(request)
        text, notes = unsplit(prompt)
        ids, seen = self.look(text, prompt.images)
        limit = self.check_length(len(ids), request)
        answer = self.answer(emit, request, prompt, ids, limit)
        if self.announce(emit, prompt, [*notes, *self.shortened(limit, request)]):
            self.tell(seen, ids, request, answer, limit)
            answer.end(len(ids))

    def count(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit how many tokens the prompt has, those of its pictures included."""
        if not self.sees or not any(message.images for message in request.messages):
            super().count(request, emit)
            return
        self.check_model(request)
        prompt = self.prompt(request)
        ids, _ = self.look(unsplit(prompt)[0], prompt.images)
        emit(Usage(input_tokens=len(ids), output_tokens=0))


def guarded(template: Template, marks: Iterable[str]) -> Template:
    """Return the template with what stands for pictures among its control tokens: nobody's text may become one."""
    return replace(template, control=tuple(dict.fromkeys((*template.control, *marks))))


def unpacked(images: Sequence[Image], info: DriverInfo, provider: str) -> list[Any]:
    """Return the images as Pillow's, whole and in RGB.

    Raises:
        BadRequestError: One is damaged or too large; the message says which.
        MissingDependencyError: Pillow is not installed.
    """
    if not images:
        return []
    pillow = engine_module("PIL.Image", info, provider)
    return [_unpacked(image, number, pillow, provider) for number, image in enumerate(images, 1)]


def _unpacked(image: Image, number: int, pillow: Any, provider: str) -> Any:
    try:
        with pillow.open(io.BytesIO(image_bytes(image)), formats=_FORMATS) as picture:
            if picture.width * picture.height <= MOST_PIXELS:
                return picture.convert("RGB")
            problem = f"has {picture.width:,} × {picture.height:,} pixels, more than {MOST_PIXELS:,}: scale it down"
    except Exception:  # decoders of files from anywhere raise all kinds
        problem = f"is damaged, cut off, or none of {', '.join(_FORMATS)}"
    raise BadRequestError(f"Image {number} {problem}.", provider=provider)
