"""What the header of a GGUF file says: enough to refuse what is none, and to write prompts for the model.

Pure reading with bounds; the file is untrusted. Format: the GGUF page of ggml's documentation, versions 2 and 3.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from slmclient.errors import ConfigurationError

_SCALARS = {
    kind: struct.Struct(f"<{form}")
    for kind, form in ((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (7, "?"), (10, "Q"),
                       (11, "q"), (12, "d"))
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LENGTH = _SCALARS[10]
_CONTROL_TYPES = (2, 3)  # unknown and control tokens: what the tokenizer reads as such in a prompt
_ADDED_TYPE = 4  # tokens that were added to the vocabulary, for whatever reason
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # so spelled in the format
}
_UNREAD = ("tokenizer.ggml.merges", "tokenizer.ggml.scores")  # as long as the vocabulary, and of no use here
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, a turn, a message
_BLOCKS = {  # kinds of numbers: how many stand together, in how many bytes; of others only the beginning is looked for
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)},
}
_MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 8
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
    added_tokens: tuple[str, ...] = ()
    """Tokens that were added to the vocabulary and are no control tokens by the file's word."""
    architecture: str | None = None
    """Such as ``llama`` or ``phi3``."""
    template: str | None = None
    """The chat template: Jinja."""
    special: Mapping[str, str] = field(default_factory=dict[str, str])
    """Texts of tokens by the names that templates use, such as ``bos_token``."""
    end_ids: frozenset[int] = frozenset()
    """Tokens that end an answer, by the file's word."""
    ids: Mapping[str, int] = field(default_factory=dict[str, int])
    """Ids of the control tokens."""
    adds_bos: bool = False
    """Whether the tokenizer puts a token before every text."""


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises:
        ConfigurationError: The file cannot be read or is no GGUF file; the message says which.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigurationError(f"{path} is no GGUF file, which a model in one file has to be.")
            return _header(_Reader(file, path.stat().st_size))
    except (OSError, ValueError, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        if isinstance(error, FileNotFoundError):
            raise ConfigurationError(f"There is no model file {path}.") from None
        if isinstance(error, OSError):
            raise ConfigurationError(f"The model file {path} cannot be read: {error.strerror or error}.") from None
        raise ConfigurationError(f"The GGUF file {path} is broken or cut off: fetch it again.") from None


def check_whole(path: Path) -> None:
    """Raise an error if numbers of the model are missing at the end: for engines that would crash on such a file.

    Raises:
        ConfigurationError: The file is broken or cut off.
    """
    try:
        with path.open("rb") as file:
            file.seek(4)
            _check_tensors(_Reader(file, path.stat().st_size), file, path.stat().st_size)
    except (OSError, ValueError, struct.error, OverflowError, MemoryError):
        raise ConfigurationError(f"The GGUF file {path} is broken or cut off: fetch it again.") from None


def _check_tensors(reader: _Reader, file: BinaryIO, size: int) -> None:
    reader.scalar(4)  # version
    tensors, keys = reader.scalar(10), reader.scalar(10)
    if keys > _MOST_KEYS or tensors > _MOST_TENSORS:
        raise ValueError("too many keys or tensors")
    alignment = 32
    for _ in range(keys):
        if reader.string() == "general.alignment":
            alignment = reader.value(reader.scalar(4))
        else:
            reader.skip(reader.scalar(4))
    end = 0
    for _ in range(tensors):
        reader.string()
        dimensions = reader.scalar(4)
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError("too many dimensions")
        count = math.prod(reader.scalar(10) for _ in range(dimensions))
        together, bytes_ = _BLOCKS.get(reader.scalar(4), (1, 0))
        end = max(end, reader.scalar(10) + count // together * bytes_)
    if -(-file.tell() // alignment) * alignment + end > size:
        raise ValueError("cut off")


def _header(reader: _Reader) -> GgufHeader:
    if reader.scalar(4) not in (2, 3):
        raise ValueError("unknown version")
    reader.scalar(10)  # number of tensors
    keys = reader.scalar(10)
    if keys > _MOST_KEYS:
        raise ValueError("too many keys")
    values: dict[str, Any] = {}
    for _ in range(keys):
        key, kind = reader.string(), reader.scalar(4)
        if key in _UNREAD:
            reader.skip(kind)
        else:
            values[key] = reader.value(kind)
    return GgufHeader(
        name=_text(values.get("general.name")),
        context_length=_positive(values.get(f"{values.get('general.architecture')}.context_length")),
        architecture=_text(values.get("general.architecture")),
        template=_text(values.get("tokenizer.chat_template")),
        **_vocabulary({key.removeprefix("tokenizer.ggml."): value for key, value in values.items()}),
    )


def _vocabulary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tokenizer's part of a header says."""
    tokens, kinds = values.get("tokens"), values.get("token_type")
    listed = cast("list[Any]", tokens) if isinstance(tokens, list) else []
    pairs = list(zip(listed, cast("list[Any]", kinds), strict=False)) if isinstance(kinds, list) else []
    control = {
        text: id for id, (text, kind) in enumerate(pairs) if isinstance(text, str) and kind in _CONTROL_TYPES and text
    }
    special = {name: _at(listed, values.get(key)) for name, key in _SPECIAL.items()}
    ends = [values.get(key) for key in _ENDS]
    adds_bos = values.get("add_bos_token")
    return {
        # Those of one character are left out: nobody could write a text without them.
        "control_tokens": tuple(text for text in control if len(text) > 1),
        "added_tokens": tuple(text for text, kind in pairs if isinstance(text, str) and kind == _ADDED_TYPE and text),
        "special": {name: text for name, text in special.items() if text is not None},
        "end_ids": frozenset(id for id in ends if type(id) is int and _at(listed, id) is not None),
        "ids": control,
        # SentencePiece vocabularies begin every text with a token unless told otherwise.
        "adds_bos": adds_bos if isinstance(adds_bos, bool) else values.get("model") == "llama",
    }


def _at(tokens: list[Any], id: Any) -> str | None:
    return _text(tokens[id]) if type(id) is int and 0 <= id < len(tokens) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


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
        return form.unpack(self._take(form.size))[0]

    def string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        # A vocabulary has hundreds of thousands: what a call for each would cost is felt when a model loads.
        read, unpack, size, texts = self._file.read, _LENGTH.unpack, _LENGTH.size, list[str]()
        for _ in range(count):
            (length,) = unpack(read(size))
            if length > _LONGEST_STRING or length > self._size:
                raise ValueError("string too long")
            data = read(length)
            if len(data) != length:
                raise ValueError("cut off")
            texts.append(data.decode("utf-8", "replace"))
        return texts

    def skip(self, kind: int) -> None:
        """Pass over a value without making anything of it."""
        if kind != _ARRAY:
            self.value(kind)
            return
        item, count = self.scalar(4), self.scalar(10)
        if count > _MOST_ITEMS or item not in (*_SCALARS, _STRING):
            raise ValueError("array too long, or of an unknown type")
        if item == _STRING:
            read, seek, unpack, size = self._file.read, self._file.seek, _LENGTH.unpack, _LENGTH.size
            for _ in range(count):
                seek(unpack(read(size))[0], os.SEEK_CUR)
        else:
            self._file.seek(count * _SCALARS[item].size, os.SEEK_CUR)
        if self._file.tell() > self._size:
            raise ValueError("cut off")

    def value(self, kind: int, depth: int = 2) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        item, count = self.scalar(4), self.scalar(10)
        if count > _MOST_ITEMS or not depth:
            raise ValueError("array too long, or too deep")
        if item in _SCALARS:
            form = _SCALARS[item]
            return list(struct.unpack(f"<{count}{form.format[1:]}", self._take(count * form.size)))
        if item == _STRING:
            return self._strings(count)
        return [self.value(item, depth - 1) for _ in range(count)]
