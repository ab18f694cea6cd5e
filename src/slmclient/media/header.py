"""What a picture's header says of its size: without Pillow, and before anything is unpacked. Pure."""

from __future__ import annotations

import re
import struct

from slmclient.media.image import image_type

Size = tuple[int, int]

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # one with a length behind it
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_OF_HEADER = (0xD9, 0xDA)
_MOST_SEGMENTS = 10_000  # before a JPEG's picture; a file of nothing else would keep Pillow busy for a minute


def size_of(content: bytes) -> Size | None:
    """Return width and height (pixels) as a picture's header says them; None where it does not."""
    media_type = image_type(content)
    if media_type is None:
        return None
    try:
        if media_type == "image/png":
            width, height = struct.unpack_from(">II", content, 16) if content[12:16] == b"IHDR" else (0, 0)
        elif media_type == "image/gif":
            width, height = struct.unpack_from("<HH", content, 6)
        elif media_type == "image/bmp":
            old = content[14:18] == b"\x0c\0\0\0"
            width, height = struct.unpack_from("<HH" if old else "<ii", content, 18)
        else:
            width, height = (_jpeg_size if media_type == "image/jpeg" else _webp_size)(content)
    except struct.error:
        return None
    return (width, abs(height)) if width > 0 and height else None  # a BMP from the top down has a height below 0


def _jpeg_size(content: bytes) -> Size:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        marker = _JPEG_MARKER.search(content, at)
        if marker is None or (kind := marker[1][0]) in _END_OF_HEADER:
            break
        if kind in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, marker.end() + 3)
            return width, height
        at = marker.end() + struct.unpack_from(">H", content, marker.end())[0]
    return 0, 0


def _webp_size(content: bytes) -> Size:
    kind = content[12:16]
    if kind == b"VP8X":  # three bytes each, less one
        both = int.from_bytes(content[24:30], "little")
        return (both & 0xFFFFFF) + 1, (both >> 24) + 1
    if kind == b"VP8L":  # 14 bits each, less one
        both = struct.unpack_from("<I", content, 21)[0]
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26) if kind == b"VP8 " else (0, 0)
    return width & 0x3FFF, height & 0x3FFF
