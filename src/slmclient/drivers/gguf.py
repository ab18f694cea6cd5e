"""What the header of a GGUF file says: enough to refuse what is none, and to know the model's control tokens.

Pure reading with bounds; the file is untrusted. Format: the GGUF page of ggml's documentation, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from slmclient.errors import ConfigurationError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_CONTROL_TYPES = (2, 3)  # unknown and control tokens: what the tokenizer reads as such in a prompt
_MOST_KEYS = 10_000
_MOST_ITEMS = 5_000_000
_LONGEST_STRING = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the driver wants to know of a model file."""

    name: str | None
    context_length: int | None
    """The context that the model was trained with, in tokens."""
    control_tokens: tuple[str, ...]
    """Tokens that steer the model, such as ``<|im_end|>``."""


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises:
        ConfigurationError: The file cannot be read or is no GGUF file; the message says which.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigurationError(f"{path} is no GGUF file: llama.cpp reads only that format.")
            return _header(_Reader(file, path.stat().st_size))
    except (OSError, ValueError, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        if isinstance(error, FileNotFoundError):
            raise ConfigurationError(f"There is no model file {path}.") from None
        if isinstance(error, OSError):
            raise ConfigurationError(f"The model file {path} cannot be read: {error.strerror or error}.") from None
        raise ConfigurationError(f"The GGUF file {path} is broken or cut off: fetch it again.") from None


def _header(reader: _Reader) -> GgufHeader:
    if reader.scalar(4) not in (2, 3):
        raise ValueError("unknown version")
    reader.scalar(10)  # number of tensors
    keys = reader.scalar(10)
    if keys > _MOST_KEYS:
        raise ValueError("too many keys")
    values = {reader.string(): reader.value(reader.scalar(4)) for _ in range(keys)}
    tokens, kinds = values.get("tokenizer.ggml.tokens"), values.get("tokenizer.ggml.token_type")
    name = values.get("general.name")
    context = values.get(f"{values.get('general.architecture')}.context_length")
    listed = isinstance(tokens, list) and isinstance(kinds, list)
    pairs = zip(cast("list[Any]", tokens), cast("list[Any]", kinds), strict=False) if listed else ()
    return GgufHeader(
        name=name if isinstance(name, str) else None,
        context_length=context if type(context) is int and context > 0 else None,
        control_tokens=tuple(
            text for text, kind in pairs if isinstance(text, str) and kind in _CONTROL_TYPES and len(text) > 1
        ),
    )


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def _take(self, count: int) -> bytes:
        if count > self._size:
            raise ValueError("longer than the file")
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("cut off")
        return data

    def scalar(self, kind: int) -> Any:
        form = _SCALARS.get(kind)
        if form is None:
            raise ValueError("unknown type")
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def string(self) -> str:
        length = self.scalar(10)
        if length > _LONGEST_STRING:
            raise ValueError("string too long")
        return self._take(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 2) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        item, count = self.scalar(4), self.scalar(10)
        if count > _MOST_ITEMS or not depth:
            raise ValueError("array too long, or too deep")
        if item in _SCALARS:
            form = _SCALARS[item][1]
            return list(struct.unpack(f"<{count}{form}", self._take(count * struct.calcsize("<" + form))))
        return [self.value(item, depth - 1) for _ in range(count)]
