"""Pictures in messages: what they are and how they are held. Reads files, when it has to; never the network."""

from __future__ import annotations

import base64
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, PrivateAttr, computed_field

from slmclient.errors import BadRequestError
from slmclient.media.limits import ImageLimits
from slmclient.media.source import check_file, kept, named, read

if TYPE_CHECKING:
    from slmclient.media.fitting import Fitted

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""Larger files are refused before they are read (bytes)."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)
_FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_URL_SCHEMES = ("http://", "https://", "data:")
_KINDS = "a path, a URL, bytes, a file, a Pillow image or a NumPy array"
_SMALL = ImageLimits(formats=("image/png", "image/jpeg"), pixels=256 * 256)  # a thumbnail

ImageDetail = Literal["auto", "low", "high"]


class Image(BaseModel):
    """A picture: ``Image("photo.png")``, ``Image("https://…")``, ``Image(raw_bytes)``, ``Image(pil_image)``.

    A str that starts with ``http://``, ``https://`` or ``data:`` is a URL; every other str is a path. Nothing is read
    before it is needed, and what is read is read once: a file that changes later changes no message. A saved
    conversation holds the picture itself, and opens elsewhere.

    Args:
        source: Path, URL, bytes, a file object opened in binary mode, a Pillow image, or a NumPy array (height × width
            for grey, × 3 for RGB, × 4 for RGBA; uint8). The files are PNG, JPEG, GIF, WebP or BMP.
        detail: How closely a model should look, where the provider has such a switch.

    Raises:
        BadRequestError: It is none of these. What cannot be read is an error when it is needed: before anything is
            sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: Literal["image"] = "image"
    detail: ImageDetail | None = None

    _source: Any = PrivateAttr(default=None)
    _content: bytes | None = PrivateAttr(default=None)
    _fitted: dict[Any, Any] = PrivateAttr(default_factory=dict[Any, Any])

    def __init__(self, source: object = None, *, detail: ImageDetail | None = None, **fields: Any) -> None:
        url = fields.pop("url", None)
        super().__init__(detail=detail, **fields)
        if source is not None and url is not None:
            raise BadRequestError("An image has one source: give it alone, or url= alone.")
        if source is None:
            source = url
            if not isinstance(url, str) or not _is_url(url):
                raise BadRequestError("Bad image: an image URL starts with http://, https:// or data:.")
        self._source = _checked(source)

    @classmethod
    def from_path(cls, path: str | PathLike[str], *, detail: ImageDetail | None = None) -> Self:
        """Return the picture in a file, whatever its name looks like."""
        if not isinstance(path, (str, PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequestError(f"A path is a str or a PathLike, not {type(path).__name__}.")
        return cls(Path(path), detail=detail)

    @classmethod
    def from_url(cls, url: str, *, detail: ImageDetail | None = None) -> Self:
        """Return the picture at an http(s) address, or inside a data URL."""
        if not isinstance(url, str) or not _is_url(url):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequestError("An image URL starts with http://, https:// or data:.")
        return cls(url, detail=detail)

    @classmethod
    def from_bytes(cls, content: bytes, *, detail: ImageDetail | None = None) -> Self:
        """Return the picture that is the content of a file."""
        if not isinstance(content, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequestError(f"The content of an image is bytes, not {type(content).__name__}.")
        return cls(content, detail=detail)

    @classmethod
    def from_pil(cls, picture: Any, *, detail: ImageDetail | None = None) -> Self:
        """Return the picture that a Pillow image holds."""
        if not _is_pillow(picture):
            raise BadRequestError(f"That is no Pillow image but {type(picture).__name__}.")
        return cls(picture, detail=detail)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def url(self) -> str:
        """http(s) address, or else a data URL with the picture itself."""
        if isinstance(self._source, str):
            return self._source
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"

    @property
    def inline(self) -> bool:
        """Whether the picture itself is at hand, not only its address."""
        return not (isinstance(self._source, str) and self._source[:4].lower() == "http")

    @property
    def content(self) -> bytes:
        """The picture's file.

        Raises:
            BadRequestError: It cannot be read, is too large, or is no picture; or only its address is known.
        """
        if self._content is None:
            content = _read(self._source)
            if image_type(content) is None:
                film = isinstance(self._source, Path) and self._source.suffix.lower() in _FILMS
                hint = f" A film is given as Video({named(self._source)})." if film else ""
                raise BadRequestError(f"{named(self._source)} is no PNG, JPEG, GIF, WebP or BMP picture.{hint}")
            self._content = content
        return self._content

    def check(self) -> None:
        """Raise a BadRequestError for what shows without reading to be none: no such file, bytes of something else."""
        if isinstance(self._source, Path) and self._content is None:
            check_file(self._source, "image", MAX_IMAGE_BYTES)
        elif isinstance(self._source, bytes):
            self.content  # noqa: B018  # it looks

    @property
    def media_type(self) -> str:
        """The media type that the content itself shows, such as ``image/png``."""
        return image_type(self.content) or ""

    def thumbnail(self) -> Image:
        """Return a small version of the picture, for showing.

        Raises:
            MissingDependencyError: It is larger than that, and Pillow is not installed.
        """
        return Image(self.fitted(_SMALL, "the image").content)

    @property
    def at_hand(self) -> bool:
        """Whether the picture itself is here: its own, or fetched from its address before."""
        return self.inline or self._content is not None

    def keep(self, content: bytes) -> None:
        """Take what was fetched from its address; it stays the picture at that address."""
        self._content = content

    def fitted(self, limits: ImageLimits, name: str) -> Fitted:
        """Return what is sent where these limits hold; worked out once.

        Args:
            limits: What is taken.
            name: What the picture is called in errors.
        """
        from slmclient.media.fitting import fit

        found = self._fitted.get(limits)
        if found is None:
            found = self._fitted[limits] = fit(self.content, limits, name)
        return cast("Fitted", found)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, small; nothing is fetched for it."""
        import html

        if not self.inline:
            return f"<code>{html.escape(repr(self))}</code>"
        return f'<img src="{self.thumbnail().url}" alt="{html.escape(repr(self))}">'

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return self.detail == other.detail and (self._source is other._source or self.url == other.url)

    def __hash__(self) -> int:
        return hash((self.detail, self.url))

    def __repr__(self) -> str:
        return f"Image({named(self._source)})"

    __str__ = __repr__


def as_base64(image: Image) -> str | None:
    """Return a picture's own bytes as base64 text; None where only its address is held."""
    return base64.b64encode(image.content).decode("ascii") if image.inline else None


def image_bytes(image: Image) -> bytes:
    """Return a picture's own bytes; b"" where only its address is held."""
    return image.content if image.inline else b""


def as_image(source: object) -> Image:
    """Return the picture that something stands for; an `Image` as it is."""
    return source if isinstance(source, Image) else Image(source)


def image_type(content: bytes) -> str | None:
    """Return the media type that the content itself shows, or None: names and extensions lie."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if content.startswith(magic)), None)


def _is_url(text: str) -> bool:
    return text.lower().startswith(_URL_SCHEMES)


def _is_pillow(source: object) -> bool:
    return type(source).__module__.partition(".")[0] == "PIL" and hasattr(source, "getbands")


def _checked(source: object) -> Any:
    """Return the source as it is kept: what somebody may write to later is copied."""
    if isinstance(source, str) and _is_url(source):
        return source
    if _is_pillow(source):
        return source if getattr(source, "tile", None) else cast("Any", source).copy()  # one that is still in its file
    if hasattr(source, "__array_interface__"):
        return cast("Any", source).copy()
    return kept(source, "An image", _KINDS)


def _read(source: Any) -> bytes:
    if isinstance(source, str):
        return _from_url(source)
    if _is_pillow(source) or hasattr(source, "__array_interface__"):
        from slmclient.media.raster import as_png

        return as_png(source)
    return read(source, "image", MAX_IMAGE_BYTES)


def _from_url(url: str) -> bytes:
    kind, _, content = url.partition(",")
    if url[:4].lower() == "http":
        raise BadRequestError(f"Only the address of {named(url)} is known here, not the picture.")
    if not kind.lower().endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise BadRequestError("The image's data URL holds no valid base64.") from None
