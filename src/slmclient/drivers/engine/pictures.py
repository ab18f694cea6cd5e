"""Pictures for engines that want them unpacked: bounded, whole, in three colours; the files are from anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.model import engine_module
from slmclient.errors import BadRequestError
from slmclient.media import Image, image_bytes

MOST_PIXELS = 50_000_000
"""A picture of more is refused before it is unpacked: a small file may hold a huge one."""

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


def unpacked(images: Sequence[Image], info: DriverInfo, provider: str) -> list[Any]:
    """Return the images as Pillow's, in RGB.

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
