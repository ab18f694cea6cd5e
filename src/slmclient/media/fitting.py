"""Pictures made to fit what a server takes: their format, their bytes and their pixels. Pure: no I/O, no state.

A file that fits goes through as it is, and needs no Pillow. Any other is unpacked once and written anew: upright, the
first frame only, in 8 bits, and without metadata (EXIF and with it where it was taken, texts, colour profiles).
"""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import prod, sqrt
from typing import TYPE_CHECKING

from slmclient.errors import BadRequestError, MissingDependencyError
from slmclient.media.header import size_of
from slmclient.media.image import image_type
from slmclient.media.limits import ImageLimits

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from PIL import Image, ImageFile

MOST_PIXELS = 64_000_000
"""Pictures with more are refused before they are unpacked: a small file can hold any number of them."""

LOWEST_QUALITY = 60
"""JPEG quality that nothing is written below: under it letters blur, and pixels are the better thing to give."""

SHORTEST_SIDE = 256
"""Pixels that the longer side keeps where bytes are short: on fewer, a model sees next to nothing."""

_Size = tuple[int, int]

_PNG, _JPEG, _WEBP = "image/png", "image/jpeg", "image/webp"
_LOSSLESS = (_PNG, "image/gif", "image/bmp")
_WRITTEN_AS = {_JPEG: "JPEG", _PNG: "PNG", _WEBP: "WebP"}  # the first that is taken is written
_LONGEST_SIDES = {_JPEG: 65_500, _PNG: 2**31 - 1, _WEBP: 16_383}  # what their encoders take
_QUALITIES = (90, 75, LOWEST_QUALITY)
_FULL_ENOUGH = 0.7  # of the most bytes; below it there is room for more pixels
_EXIF_WITHIN = 64 * 1024
_ORIENTATION = 0x0112
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation in EXIF: what undoes it, of Pillow's Transpose
_ON_ITS_SIDE = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture's file as it is sent, and what was done to it."""

    content: bytes
    media_type: str
    original_type: str
    original_size: tuple[int, int] | None
    """Width and height as they were in the file; None where nobody had to look."""
    size: tuple[int, int] | None
    changes: tuple[str, ...]
    """In words; empty if it is the same file."""


def fit(content: bytes, limits: ImageLimits, name: str) -> Fitted:
    """Return the picture as a file that these limits let through; the same file where it does already.

    Args:
        content: The picture's file.
        limits: What is taken. Bytes are saved by JPEG quality first, then by pixels.
        name: What the picture is called in errors, such as ``image 2``.

    Raises:
        BadRequestError: It is no picture, is damaged, has too many pixels, or cannot be made to fit.
        MissingDependencyError: It does not fit, and Pillow is not installed.
    """
    media_type = image_type(content)
    if media_type is None:
        raise BadRequestError(f"{name} is no PNG, JPEG, GIF, WebP or BMP picture.")
    size = size_of(content) if limits.pixels else None
    misfit = _misfit(content, media_type, size, limits)
    if misfit is None and not _lies_rotated(content, media_type):
        return Fitted(content, media_type, media_type, size, size, ())
    target = next((target for target in _WRITTEN_AS if target in limits.formats), None)
    if target is None:
        raise BadRequestError(f"{name} {misfit}. It could be made into JPEG, PNG or WebP, and none of them is taken.")
    _check_pixels(size or size_of(content), name)  # before Pillow sees it
    try:
        import_module("PIL.Image")
    except ImportError:
        raise MissingDependencyError(
            f'{name} {misfit}. To make it fit takes Pillow: pip install "slmclient[images]"'
        ) from None
    return _anew(content, media_type, target, limits, name)


def _misfit(content: bytes, media_type: str, size: _Size | None, limits: ImageLimits) -> str | None:
    """Return in words why a file cannot go as it is; None where it can."""
    if media_type not in limits.formats:
        return f"is {media_type}; what is taken is {', '.join(limits.formats)}"
    if limits.largest and len(content) > limits.largest:
        return f"has {len(content):,} bytes; at most {limits.largest:,} are taken"
    if limits.pixels and size is None:
        return f"does not say how many pixels it has; at most {limits.pixels:,} are taken"
    if limits.pixels and size and prod(size) > limits.pixels:
        return f"has {size[0]:,} × {size[1]:,} pixels; at most {limits.pixels:,} are taken"
    return None


def _anew(content: bytes, media_type: str, target: str, limits: ImageLimits, name: str) -> Fitted:
    """Return the picture written anew: as PNG where that loses less and fits, else as the target."""
    changes: list[str] = []
    with _told(f"{name} cannot be read: it is damaged or cut short"):
        picture, original, upright = _unpacked(content, media_type, limits, name, changes)
    with _told(f"{name} cannot be made to fit"):
        made, size, quality = b"", _within(upright, limits, _PNG), None
        if target == _JPEG and _PNG in limits.formats and (media_type in _LOSSLESS or picture.mode == "RGBA"):
            made = _as_png(_resized(picture, size), limits.largest)
        if made:
            target = _PNG
        else:
            if target == _JPEG and picture.mode == "RGBA":
                picture = _on_white(picture)
                changes.append("transparency put on white")
            made, size, quality = _small_enough(picture, upright, target, limits, name)
    if target != media_type:
        changes.append(f"converted from {media_type}")
    if size != upright:
        changes.append("scaled down")
    if quality:
        changes.append(f"{_WRITTEN_AS[target]} quality {quality}")
    return Fitted(made, target, media_type, original, size, tuple(changes) or ("written anew",))


@contextmanager
def _told(problem: str) -> Generator[None]:
    """Make whatever goes wrong a BadRequestError: on a bad file decoders raise just about anything."""
    try:
        yield
    except BadRequestError:
        raise
    except Exception as error:
        raise BadRequestError(f"{problem} ({type(error).__name__}: {error}).") from None


# --- reading


def _check_pixels(size: _Size | None, name: str) -> None:
    if size is None:
        raise BadRequestError(f"{name} cannot be read: its header is damaged or cut short.")
    if prod(size) > MOST_PIXELS:
        raise BadRequestError(
            f"{name} has {size[0]:,} × {size[1]:,} pixels; at most {MOST_PIXELS:,} are unpacked. Make it smaller."
        )


def _opened(content: bytes, media_type: str) -> ImageFile.ImageFile:
    """Return the picture with nothing but its header read.

    `PIL.Image.open` is not used. It warns of large pictures, and warnings are silenced for all threads or for none; it
    asks decoders of other formats; and it takes a JPEG with a second one behind it for a film.
    """
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    kinds: dict[str, type[ImageFile.ImageFile]] = {
        _PNG: PngImagePlugin.PngImageFile,
        _JPEG: JpegImagePlugin.JpegImageFile,
        _WEBP: WebPImagePlugin.WebPImageFile,
        "image/gif": GifImagePlugin.GifImageFile,
        "image/bmp": BmpImagePlugin.BmpImageFile,
    }
    return kinds[media_type](io.BytesIO(content))


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION)
        return int(found) if found in _UPRIGHT else 1
    except Exception:  # EXIF that cannot be read says nothing; the picture may be good
        return 1


def _lies_rotated(content: bytes, media_type: str) -> bool:
    """Return whether only EXIF says which side of a JPEG is up: few servers look there. Unknown is no."""
    if media_type != _JPEG or content.find(b"Exif\0\0", 0, _EXIF_WITHIN) < 0 or size_of(content) is None:
        return False
    try:
        return _orientation(_opened(content, media_type)) != 1
    except Exception:  # no Pillow, or a header that it cannot read: then it goes as it is, as any other that fits
        return False


def _unpacked(
    content: bytes, media_type: str, limits: ImageLimits, name: str, changes: list[str]
) -> tuple[Image.Image, _Size, _Size]:
    """Return the picture upright, as L, RGB or RGBA; its size in the file; and that same size upright."""
    from PIL import Image

    picture: Image.Image = _opened(content, media_type)
    original = upright = picture.size
    _check_pixels(original, name)  # headers can contradict themselves
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        changes.append(f"the first of {frames} frames")
    if limits.pixels:
        picture.draft(None, _within(original, limits, _JPEG))  # JPEG unpacks to a half, a quarter … as cheaply
    picture.load()
    orientation = _orientation(picture)
    if orientation != 1:
        picture = picture.transpose(Image.Transpose(_UPRIGHT[orientation]))
        changes.append("turned upright")
    if orientation in _ON_ITS_SIDE:
        upright = (original[1], original[0])
    picture = _in_8_bits(picture, changes)
    picture.info.clear()  # Pillow writes some of it into the new file
    return picture, original, upright


def _in_8_bits(picture: Image.Image, changes: list[str]) -> Image.Image:
    """Return it as L, RGB or RGBA. Of 16 bits the whole range is taken, whatever part of it the picture uses."""
    mode = picture.mode
    if mode.startswith("I"):  # Pillow's own conversion cuts off all above 255
        changes.append("16 bits made 8")
        picture = picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif picture.has_transparency_data:
        picture = picture if mode == "RGBA" else picture.convert("RGBA")
        alpha = picture.getchannel("A").getextrema()
        picture = picture.convert("RGB") if alpha == (255, 255) else picture
    elif mode not in ("L", "RGB"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    if mode == "CMYK":
        changes.append("CMYK made RGB")
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    from PIL import ImageChops

    white = ImageChops.invert(picture.getchannel("A"))  # how much of it shows where
    picture = picture.convert("RGB")
    picture.paste((255, 255, 255), None, white)
    return picture


# --- writing


def _scaled(size: _Size, factor: float) -> _Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _within(size: _Size, limits: ImageLimits, target: str) -> _Size:
    """Return the size, made smaller as far as the most pixels and the target's encoder ask for it."""
    factor = min(1.0, _LONGEST_SIDES[target] / max(size))
    if limits.pixels:
        factor = min(factor, sqrt(limits.pixels / prod(size)))
        while prod(_scaled(size, factor)) > limits.pixels:  # rounded up, or one pixel wide already
            factor *= 0.99
    return _scaled(size, factor)


def _resized(picture: Image.Image, size: _Size) -> Image.Image:
    from PIL import Image

    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


class _Short(io.BytesIO):
    """A file that takes so many bytes and no more: what becomes too long is not compressed to its end."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, data: ReadableBuffer, /) -> int:
        self._left -= len(memoryview(data))
        if self._left < 0:
            raise EOFError
        return super().write(data)


def _as_png(picture: Image.Image, most: int | None) -> bytes:
    """Return the picture as PNG; b"" where that is too long."""
    out = _Short(most) if most else io.BytesIO()
    try:
        picture.save(out, "PNG")
    except EOFError:
        return b""
    return out.getvalue()


def _small_enough(
    picture: Image.Image, upright: _Size, target: str, limits: ImageLimits, name: str
) -> tuple[bytes, _Size, int | None]:
    """Return the picture's new file, its size and quality: the best of these that has few enough bytes.

    Raises:
        BadRequestError: It has more at the lowest quality and the smallest size.
    """
    whole = size = _within(upright, limits, target)
    most = limits.largest or 2**63
    qualities: tuple[int | None, ...] = (None,) if target == _PNG else _QUALITIES
    best: tuple[bytes, _Size, int | None] | None = None
    while True:
        content, quality, lengths = _written(_resized(picture, size), target, qualities, most)
        if content is not None:
            best = content, size, quality
        elif best is None and max(size) <= SHORTEST_SIDE:
            raise BadRequestError(
                f"{name} does not fit: at most {most:,} bytes are taken, and at {size[0]} × {size[1]} pixels it still "
                f"has {lengths[-1]:,}. Crop it, or send a simpler one."
            )
        length = lengths[-2:][0]  # at the middle quality
        if best and (content is None or size == whole or length > most * _FULL_ENOUGH):
            return best
        qualities = qualities[-2:]  # the highest quality was for the whole size
        side = max(size) * sqrt(most / length) * 0.95  # larger again where detail was what took the bytes
        size = _scaled(upright, min(max(side, SHORTEST_SIDE), max(whole)) / max(upright))


def _written(
    picture: Image.Image, target: str, qualities: tuple[int | None, ...], most: int
) -> tuple[bytes | None, int | None, list[int]]:
    """Return the first file that is short enough, its quality, and how long each was that was tried."""
    lengths: list[int] = []
    for quality in qualities:
        out = io.BytesIO()
        picture.save(out, _WRITTEN_AS[target], **({"quality": quality} if quality else {}))
        lengths.append(out.tell())
        if lengths[-1] <= most:
            return out.getvalue(), quality, lengths
    return None, None, lengths
