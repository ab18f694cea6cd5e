"""Pictures in messages: what they are and how they are held. Reads files; never the network."""

from __future__ import annotations

import base64
from os import PathLike
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, model_validator

from slmclient.errors import BadRequestError

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""Larger files are refused before they are read (bytes)."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)
_URL_SCHEMES = ("http://", "https://", "data:")

ImageDetail = Literal["auto", "low", "high"]


class Image(BaseModel):
    """A picture: ``Image("photo.png")``, ``Image("https://…")`` or ``Image(raw_bytes)``.

    A str that starts with ``http://``, ``https://`` or ``data:`` is a URL; every other str is a path. Files and bytes
    become a data URL at once, so that a saved conversation opens elsewhere.

    Args:
        source: Path, URL or bytes of a PNG, JPEG, GIF, WebP or BMP file.
        detail: How closely a model should look, where the provider has such a switch.

    Raises:
        BadRequestError: The file cannot be read, is too large, or is no picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["image"] = "image"
    url: str
    """http(s) or data URL."""
    detail: ImageDetail | None = None

    def __init__(
        self,
        source: str | bytes | PathLike[str] | None = None,
        *,
        detail: ImageDetail | None = None,
        **fields: object,
    ) -> None:
        if source is not None:
            fields["url"] = _as_url(source)
        super().__init__(detail=detail, **fields)

    @model_validator(mode="after")
    def _url_is_no_path(self) -> Image:
        if not self.url.lower().startswith(_URL_SCHEMES):
            raise ValueError("an image URL starts with http://, https:// or data:")
        return self

    @property
    def inline(self) -> bool:
        """Whether the picture itself is held here, not only its address."""
        return self.url[:5].lower() == "data:"

    def __repr__(self) -> str:
        shown = self.url if len(self.url) <= 60 else f"{self.url[:40]}… ({len(self.url):,} characters)"
        return f"Image({shown!r})"

    __str__ = __repr__


def as_base64(image: Image) -> str | None:
    """Return a picture's own bytes as base64 text; None where only its address is held."""
    if not image.inline:
        return None
    kind, _, content = image.url.partition(",")
    if kind.lower().endswith(";base64"):
        return content
    return base64.b64encode(unquote_to_bytes(content)).decode("ascii")


def image_bytes(image: Image) -> bytes:
    """Return a picture's own bytes; b"" where only its address is held."""
    return base64.b64decode(as_base64(image) or "")


def as_image(source: object) -> Image:
    """Return the picture that a path, a URL or bytes stand for; an `Image` as it is."""
    if isinstance(source, Image):
        return source
    if isinstance(source, (str, bytes, PathLike)):
        return Image(cast("str | bytes | PathLike[str]", source))
    raise BadRequestError(f"An image is a path, a URL or bytes, not {type(source).__name__}.")


def _as_url(source: str | bytes | PathLike[str]) -> str:
    if isinstance(source, bytes):
        return _data_url(source, "the bytes")
    if isinstance(source, str) and source.lower().startswith(_URL_SCHEMES):
        return source
    if not isinstance(source, (str, PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadRequestError(f"An image is a path, a URL or bytes, not {type(source).__name__}.")
    path = Path(source)
    try:
        if path.exists() and not path.is_file():
            raise BadRequestError(f"The image {str(path)!r} cannot be read: it is no file.")
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise BadRequestError(
                f"The image {str(path)!r} has {size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read. Scale it down."
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadRequestError(f"The image {str(path)!r} cannot be read: {error}.") from None
    return _data_url(content, repr(str(path)))


def _data_url(content: bytes, name: str) -> str:
    media_type = image_type(content)
    if media_type is None:
        raise BadRequestError(f"{name} is no PNG, JPEG, GIF, WebP or BMP picture.")
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def image_type(content: bytes) -> str | None:
    """Return the media type that the content itself shows, or None: names and extensions lie."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if content.startswith(magic)), None)
