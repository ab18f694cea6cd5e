"""Films in messages: some frames of one, held as pictures. Reads files, when it has to; never the network."""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import cast, overload

from slmclient.errors import BadRequestError
from slmclient.media.film import MOST_PIXELS, Film, Progress, Shown, damage
from slmclient.media.image import Image
from slmclient.media.source import named

MOST_FRAMES = 256
"""More pictures than these are not taken from one film."""

_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DEFAULT_FRAMES = 8
_MOST_TIMES = 10_000_000  # a damaged film may have a frame that lasts for years


class Video(Sequence[Image]):
    """A film as a few pictures: ``client.chat("What happens?", images=Video("film.mp4", frames=21))``.

    Nothing is read before the first picture, or their number, is needed; then the film is read once. No frame is taken
    twice: of a film with fewer frames than were asked for, each is one picture.

    Args:
        source: The film's path, or its content as bytes.
        frames: How many, spread evenly over the film; 8 where nothing else is said.
        every: One each so many seconds, from the beginning on.
        scene_change: The first frame, and each whose colours correlate less than this (0 to 1) with those of the frame
            taken before; 0.9 finds cuts.
        longest_side: Larger pictures are scaled down to it (pixels).
        progress: Told what fraction of the film is read, from 0 to 1.

    Raises:
        BadRequestError: An argument does not fit. What cannot be read, and more than `MOST_FRAMES` pictures, are
            errors when the pictures are needed.
    """

    def __init__(
        self,
        source: str | PathLike[str] | bytes,
        *,
        frames: int | None = None,
        every: float | None = None,
        scene_change: float | None = None,
        longest_side: int = 1280,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        ways = {"frames": frames, "every": every, "scene_change": scene_change}
        if len(given := [way for way, value in ways.items() if value is not None]) > 1:
            raise BadRequestError(f"A video takes one of frames, every and scene_change, not {' and '.join(given)}.")
        self._source = _checked(source)
        self._frames = _DEFAULT_FRAMES if frames is None else _whole("frames", frames, MOST_FRAMES)
        self._every = None if every is None else _positive("every", every, math.inf)
        self._scene_change = None if scene_change is None else _positive("scene_change", scene_change, 1)
        self._longest_side = _whole("longest_side", longest_side, MOST_PIXELS)
        if progress is not None and not callable(progress):  # pyright: ignore[reportUnnecessaryComparison]
            raise BadRequestError(f"progress is a function, not {type(progress).__name__}.")
        self._progress = progress
        self._reading = threading.RLock()
        self._taken: tuple[tuple[Image, float], ...] | None = None

    @property
    def times(self) -> tuple[float, ...]:
        """When each frame is shown, in seconds from the first frame of the film."""
        return tuple(time for _, time in self._read())

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        return tuple(image for image, _ in self._read())[index]

    def __repr__(self) -> str:
        if self._scene_change is not None:
            return f"Video({named(self._source)}, scene_change={self._scene_change})"
        way = f"frames={self._frames}" if self._every is None else f"every={self._every}"
        return f"Video({named(self._source)}, {way})"

    def _read(self) -> tuple[tuple[Image, float], ...]:
        """Return the pictures and their times; the film is read by who asks first."""
        with self._reading:
            if self._taken is None:
                told = Progress(self._progress)
                spread = self._every is None and self._scene_change is None
                self._taken = tuple(self._even(told) if spread else self._along(told))
                told.finish()
            return self._taken

    def _even(self, told: Progress) -> list[tuple[Image, float]]:
        with self._film() as film:
            told.end = film.claimed_end
            if told.end:
                taken = self._pictures(film, film.shown_at(self._middles(told.end), told))
                if not film.ended_early:
                    return taken
        # How long it is was not said, or is not so: a download that broke off says what it was to be.
        with self._film() as film:
            told.end = film.measured_end()
        with self._film() as film:
            return self._pictures(film, film.shown_at(self._middles(told.end), told))

    def _middles(self, end: float) -> list[float]:
        return [(part + 0.5) * end / self._frames for part in range(self._frames)]

    def _along(self, told: Progress) -> list[tuple[Image, float]]:
        with self._film() as film:
            told.end = film.claimed_end
            if told.end or not self._progress:
                return self._pictures(film, self._picked(film, told))
            told.end = film.measured_end()
        with self._film() as film:
            return self._pictures(film, self._picked(film, told))

    def _picked(self, film: Film, told: Progress) -> Iterator[Shown]:
        if self._scene_change is not None:
            return film.scenes(self._scene_change, told)
        every = cast(float, self._every)
        return film.shown_at((number * every for number in range(_MOST_TIMES)), told, beyond=False)

    def _pictures(self, film: Film, frames: Iterator[Shown]) -> list[tuple[Image, float]]:
        taken: list[tuple[Image, float]] = []
        for shown in frames:
            if len(taken) == MOST_FRAMES:
                way = "raise every=" if self._scene_change is None else "lower scene_change="
                raise BadRequestError(
                    f"The film {film.name} gives more than {MOST_FRAMES} pictures: {way}, or say frames=."
                )
            taken.append((Image(film.picture(shown, self._longest_side)), shown.time))
        if not taken:
            raise BadRequestError(
                f"No frame of the film {film.name} can be decoded: it is damaged, incomplete, or its frames have more "
                f"than {MOST_PIXELS:,} pixels."
            )
        return taken

    @contextmanager
    def _film(self) -> Generator[Film]:
        source = self._source
        name = f"of {len(source):,} bytes" if isinstance(source, bytes) else repr(str(source))
        with damage(name):
            if isinstance(source, Path) and source.exists() and not source.is_file():
                raise BadRequestError(f"The film {name} cannot be read: it is no file.")
            # FFmpeg is handed an open file, never a name: names of its own protocols ("concat:a|b") mean more.
            file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        with file, closing(Film(file, name)) as film:
            yield film


def _checked(source: object) -> Path | bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", source))
    if isinstance(source, str) and _ADDRESS.match(source):
        raise BadRequestError(f"A video is a file here, not an address: download {named(source)} first.")
    if isinstance(source, (str, PathLike)):
        return Path(cast("str | PathLike[str]", source))
    raise BadRequestError(f"A video is a path or bytes, not {type(source).__name__}.")


def _whole(name: str, value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BadRequestError(f"{name} is a whole number from 1 to {most:,}, not {value!r}.")
    return value


def _positive(name: str, value: object, below: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < below:
        raise BadRequestError(f"{name} is a number above 0{f' and below {below}' if below < math.inf else ''}.")
    return value
