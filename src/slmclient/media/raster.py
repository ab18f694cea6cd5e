"""Pictures that a program holds unpacked, Pillow's and NumPy's, made into files."""

from __future__ import annotations

import io
import threading
from typing import Any

from slmclient.errors import BadRequestError, MissingDependencyError

_SAVED_AS_THEY_ARE = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_UNPACKING = threading.Lock()  # Pillow reads a file when the picture is first used: two threads get a half each


def as_png(picture: Any) -> bytes:
    """Return a Pillow image or a NumPy array as a PNG file, upright.

    Args:
        picture: An array is height × width (grey), × 3 (RGB) or × 4 (RGBA) in uint8, or height × width of bools.

    Raises:
        BadRequestError: An array of another shape or type; a Pillow image whose file is damaged.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingDependencyError(
            'A NumPy array or a Pillow image is made into a file with Pillow: pip install "slmclient[images]"'
        ) from None
    if not isinstance(picture, Image.Image):
        _check_array(picture)
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    try:
        with _UNPACKING:
            picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode not in _SAVED_AS_THEY_ARE:
            upright = upright.convert("I;16" if upright.mode == "I" else "RGB")
        upright.save(out, "PNG", compress_level=1, exif=b"", pnginfo=None)
    except Exception as error:  # one that Pillow has opened is read only now, and may be damaged in any way
        raise BadRequestError(f"The Pillow image cannot be used: {type(error).__name__}: {error}.") from None
    return out.getvalue()


def _check_array(array: Any) -> None:
    shape, kind = tuple(array.shape), str(array.dtype)
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if not fits or 0 in shape:
        raise BadRequestError(
            f"An array of the shape {shape} is no picture: height × width for grey, height × width × 3 for RGB, × 4 "
            "for RGBA."
        )
    if kind != "uint8" and not (kind == "bool" and len(shape) == 2):
        raise BadRequestError(
            f"An array of {kind} is no picture yet: make it uint8, of values from 0 to 255. From 0 to 1 it takes "
            '(array * 255).astype("uint8").'
        )
