"""Sound in messages: what it is and how it is held."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, PrivateAttr, computed_field

from slmclient.errors import BadRequestError
from slmclient.media.source import check_file, kept, named, read

MAX_AUDIO_BYTES = 50 * 1024 * 1024
"""Larger files are refused before they are read (bytes)."""

AudioFormat = Literal["wav", "mp3"]

_KINDS = "a path, bytes, a file or a NumPy array"


class Audio(BaseModel):
    """Sound: ``Audio("question.wav")``, ``Audio(raw_bytes)``, ``Audio(samples, sampling_rate=16000)``.

    Nothing is read before it is needed, and what is read is read once. A saved conversation holds the sound itself.

    Args:
        source: Path, bytes or file object of a WAV or MP3 file; or a NumPy array of samples, one channel or samples ×
            channels: int16, or floats from -1 to 1.
        sampling_rate: Samples per second; for arrays, which do not say it.

    Raises:
        BadRequestError: It is none of these, or an array without its rate. What cannot be read is an error when it is
            needed: before anything is sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: Literal["audio"] = "audio"

    _source: Any = PrivateAttr(default=None)
    _content: bytes | None = PrivateAttr(default=None)

    def __init__(self, source: object = None, *, sampling_rate: int | None = None, **fields: Any) -> None:
        data, said = fields.pop("data", None), fields.pop("format", None)
        super().__init__(**fields)
        if source is None:
            source = _decoded(data)
        if hasattr(source, "__array_interface__"):
            self._content = _as_wav(source, sampling_rate)
            self._source = self._content
        else:
            if sampling_rate is not None:
                raise BadRequestError("A file says its sampling_rate itself: give it with arrays only.")
            self._source = kept(source, "Sound", _KINDS)
        if said is not None and said != self.format:
            raise BadRequestError(f"Bad audio: it is said to be {said!r} and is {self.format}.")

    @property
    def content(self) -> bytes:
        """The sound's file.

        Raises:
            BadRequestError: It cannot be read, is too large, or is neither WAV nor MP3.
        """
        if self._content is None:
            content = read(self._source, "audio", MAX_AUDIO_BYTES)
            if audio_format(content) is None:
                raise BadRequestError(f"{named(self._source)} is neither WAV nor MP3: convert it, to WAV for instance.")
            self._content = content
        return self._content

    def check(self) -> None:
        """Raise a BadRequestError for what shows without reading to be none: no such file, bytes of something else."""
        if isinstance(self._source, Path) and self._content is None:
            check_file(self._source, "audio", MAX_AUDIO_BYTES)
        elif isinstance(self._source, bytes):
            self.content  # noqa: B018  # it looks

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def data(self) -> str:
        """The file as base64."""
        return base64.b64encode(self.content).decode("ascii")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def format(self) -> AudioFormat:
        """``wav`` or ``mp3``, by the content."""
        return cast(AudioFormat, audio_format(self.content))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Audio):
            return NotImplemented
        return self._source is other._source or self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return f"Audio({named(self._source)})"

    __str__ = __repr__


def as_audio(source: object) -> Audio:
    """Return the sound that a path, bytes or a file stand for; an `Audio` as it is."""
    return source if isinstance(source, Audio) else Audio(source)


def audio_format(content: bytes) -> AudioFormat | None:
    """Return the format that the content itself shows, or None."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "wav"
    synced = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE6 == 0xE2  # an MPEG frame of layer III
    return "mp3" if content[:3] == b"ID3" or synced else None


def _decoded(data: object) -> bytes:
    try:
        return base64.b64decode(cast(str, data), validate=True)
    except (ValueError, TypeError):
        raise BadRequestError("Bad audio: its data is no valid base64.") from None


def _as_wav(array: Any, sampling_rate: int | None) -> bytes:
    import io
    import wave

    rate: object = sampling_rate
    if not isinstance(rate, int) or isinstance(rate, bool) or not 1 <= rate <= 768_000:
        raise BadRequestError("An array of samples needs its sampling_rate, in samples per second (16000, 44100 …).")
    shape, kind = tuple(array.shape), str(array.dtype.name)
    if not (len(shape) == 1 or (len(shape) == 2 and 1 <= shape[1] <= 8)) or 0 in shape:
        raise BadRequestError(f"An array of the shape {shape} is no sound: samples, or samples × channels.")
    if kind in ("float16", "float32", "float64"):
        if (array != array).any():
            raise BadRequestError("The samples hold NaN, which no sound file can.")
        array = (array.astype("float64").clip(-1, 1) * 32767).round()
    elif kind != "int16":
        raise BadRequestError(f"Samples are int16, or floats from -1 to 1, not {kind}.")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1 if len(shape) == 1 else shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(array.astype("<i2").tobytes())
    return out.getvalue()
