"""What a server or a model takes of pictures, as data, and what was made of one that it does not take. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

FORMATS: tuple[str, ...] = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
"""The media types that are known here."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is taken of pictures. What does not fit is made to fit, or refused, before any I/O."""

    formats: tuple[str, ...] = FORMATS
    """Media types; of these, PNG and JPEG are what other pictures are made into."""
    urls: bool = True
    """Whether a server fetches http(s) addresses itself; else they are fetched here."""
    count: int | None = None
    """Most pictures in one message."""
    bytes: int | None = None
    """Most bytes of one picture's file."""
    base64: int | None = None
    """Most characters of one picture's file as base64."""
    pixels: int | None = None
    """Most pixels of one picture."""
    source: str = ""
    """Where these numbers are from."""

    @property
    def largest(self) -> int | None:
        """The most bytes of one picture's file, whichever way it is said; None where there is no limit."""
        said = (self.bytes, None if self.base64 is None else self.base64 // 4 * 3)
        return min((limit for limit in said if limit is not None), default=None)


ANY_IMAGE = ImageLimits()
"""No limits: for servers of which nobody knows any."""

HELD = ImageLimits(urls=False)
"""What an engine in this process takes: any picture, itself."""


class SentImage(BaseModel):
    """A picture that was not sent as it was: what it was, what was sent, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    """Which picture of the call, counted from 1."""
    original_format: str
    """Media type, such as ``image/jpeg``."""
    original_size: tuple[int, int] | None
    """Width and height in pixels; None where nobody had to look."""
    original_bytes: int
    format: str
    size: tuple[int, int] | None
    bytes: int
    changes: tuple[str, ...] = ()
    """What was done, in words: ``fetched``, ``scaled down``, ``the first of 12 frames``, …"""
