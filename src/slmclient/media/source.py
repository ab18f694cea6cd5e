"""What pictures and sound are read from: files, bytes and file objects, each once and of bounded size."""

from __future__ import annotations

import re
import threading
from os import PathLike
from pathlib import Path
from typing import Any, cast

from slmclient.errors import BadRequestError

_LONGEST_NAME = 60
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # two letters and more: C:/ is a drive
_STREAMS = threading.Lock()  # what two threads read from one file object would be a half for each


class _Stream:
    """A file object, which can be read only once: its content stays here."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.content: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stream) and other.stream is self.stream

    __hash__ = None  # type: ignore[assignment]


def kept(source: object, what: str, kinds: str) -> Any:
    """Return a source as it is kept until it is needed; nothing is read yet.

    Args:
        source: A path, bytes, or a file object.
        what: How an error begins, such as ``An image``.
        kinds: What it may be, in words.

    Raises:
        BadRequestError: It is none of these.
    """
    if isinstance(source, (str, PathLike)):
        return Path(cast("str | PathLike[str]", source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", source))
    if callable(getattr(source, "read", None)):
        return _Stream(source)
    raise BadRequestError(f"{what} is {kinds}, not {type(source).__name__}.")


def named(source: Any) -> str:
    """Return what a source is called: in short, and of bytes only how many there are."""
    if isinstance(source, bytes):
        return f"{len(source):,} bytes"
    if isinstance(source, (str, Path)):
        shown = str(source)
        if len(shown) <= _LONGEST_NAME:
            return repr(shown)
        if isinstance(source, Path):  # its end says which file it is
            return f"…{shown[-_LONGEST_NAME:]!r}"
        return f"{shown[:40]!r}… ({len(shown):,} characters)"
    return f"a {type(source.stream if isinstance(source, _Stream) else source).__name__}"


def read(source: Any, what: str, most: int) -> bytes:
    """Return the content of what `kept` gave back.

    Args:
        source: What is read.
        what: What it is called in errors, such as ``image``.
        most: Bytes; more are refused.

    Raises:
        BadRequestError: It cannot be read, or has more.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        return _from_file(source, what, most)
    with _STREAMS:
        if source.content is None:
            source.content = _from_stream(source.stream, what, most)
        return cast(bytes, source.content)


def check_file(path: Path, what: str, most: int) -> None:
    """Raise a BadRequestError for a file that is not there, is none, or has more bytes than are read."""
    try:
        if path.exists() and not path.is_file():
            raise BadRequestError(f"The {what} {str(path)!r} cannot be read: it is no file.")
        size = path.stat().st_size
        if size > most:
            raise _too_large(f"The {what} {str(path)!r} has {size:,} bytes", most)
    except (OSError, ValueError) as error:
        raise BadRequestError(f"The {what} {str(path)!r} cannot be read: {error}.{_hint(path)}") from None


def _hint(path: Path) -> str:
    """Return what else a path that leads nowhere may be meant as."""
    scheme = _ADDRESS.match(str(path))
    if scheme is None:
        return ""
    if scheme[1].lower() == "file":
        return " That is an address of a file: write the path alone."
    return " That is an address, not a path: download it first."


def _from_file(path: Path, what: str, most: int) -> bytes:
    check_file(path, what, most)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)  # some files have more than they say
    except OSError as error:
        raise BadRequestError(f"The {what} {str(path)!r} cannot be read: {error}.") from None
    if len(content) > most:
        raise _too_large(f"The {what} {str(path)!r} has more bytes", most)
    return content


def _from_stream(stream: Any, what: str, most: int) -> bytes:
    try:
        content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise BadRequestError(f"The file object of the {what} cannot be read: {error}.") from None
    if not isinstance(content, bytes):
        raise BadRequestError(f"The file object of the {what} gives text, not bytes: open it in binary mode ('rb').")
    if len(content) > most:
        raise _too_large(f"The file object of the {what} has more bytes", most)
    return content


def _too_large(what: str, most: int) -> BadRequestError:
    return BadRequestError(f"{what}; at most {most:,} are read. Make it smaller.")
