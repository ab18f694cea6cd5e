"""What goes with a question: pictures, frames of films, sound. All of it is read here, before a model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmclient.cli.progress import Reading
from slmclient.media import MAX_IMAGE_BYTES, Audio, Image, image_type
from slmclient.media.audio import MAX_AUDIO_BYTES, audio_format

MOST_PIPED = max(MAX_IMAGE_BYTES, MAX_AUDIO_BYTES)
"""No picture and no sound is longer than this (bytes)."""

STAND_IN = "https://film.invalid/"
"""The picture that stands for the frames of films where a call is only checked: films are not read for a model without
eyes."""


@dataclass(frozen=True, slots=True)
class Enclosed:
    """What goes with a question, as the command line and standard input give it."""

    images: Sequence[str] = ()
    """Paths and addresses."""
    videos: Sequence[str] = ()
    frames: int | None = None
    """How many of each film; None for as many as is usual."""
    audio: Sequence[str] = ()
    piped: Image | Audio | None = None
    """Standard input, where it was a picture or sound."""

    def __bool__(self) -> bool:
        return bool(self.images or self.videos or self.audio or self.piped)

    def pictures(self) -> list[Image]:
        """Return the pictures, but no films: those named, and that of standard input; all read but addresses.

        Raises:
            BadRequestError: One cannot be read, or is none.
        """
        images = [Image(source) for source in self.images]
        images += [self.piped] if isinstance(self.piped, Image) else []
        for image in images:
            if image.inline:
                _ = image.content
        return images

    def sounds(self) -> list[Audio]:
        """Return the sound that is named, and that of standard input; all read.

        Raises:
            BadRequestError: One cannot be read, or is none.
        """
        sounds = [Audio(source) for source in self.audio]
        sounds += [self.piped] if isinstance(self.piped, Audio) else []
        for sound in sounds:
            _ = sound.content
        return sounds

    def films(self, *, quiet: bool) -> list[Image]:
        """Return the frames of the films, with progress on standard error.

        Raises:
            BadRequestError: One cannot be read, or is none.
            MissingDependencyError: What films need is not installed.
        """
        if not self.videos:
            return []
        from slmclient.media.video import Video  # few questions have one

        images: list[Image] = []
        for path in self.videos:
            with Reading(f"Reading {Path(path).name}", quiet=quiet) as display:
                images += Video(path, frames=self.frames, progress=display.update)
        return images


def is_media(content: bytes) -> bool:
    """Return whether the first bytes are those of a picture or of sound, and of no text: ``BM`` begins both."""
    return bool(image_type(content) or audio_format(content)) and not _is_text(content)


def piped_media(content: bytes) -> Image | Audio | None:
    """Return the picture or the sound that standard input is; None where it is neither."""
    if not is_media(content):
        return None
    return Image(content) if image_type(content) else Audio(content)


def _is_text(content: bytes) -> bool:
    beginning = content[:64]
    try:
        return "\0" not in beginning.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(beginning) - 4 and error.reason == "unexpected end of data"  # cut within a character
