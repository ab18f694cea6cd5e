"""Films as FFmpeg decodes them, by way of PyAV: frames, when each is shown, and pictures of them."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any, BinaryIO, cast

from slmclient.errors import BadRequestError, MissingDependencyError, SLMError

MOST_PIXELS = 50_000_000
"""Larger frames are not decoded."""

_QUALITY = 90  # of the JPEG files
_FAR = 5.0  # seconds; what is further ahead is looked for by a key frame
_EARLY = 1.0  # seconds; pictures right after a key frame may build upon some before it
_TINY = 1e-6  # seconds; times are fractions, and rounded
_INDEXED = ("mov", "matroska")  # these say their duration, and where key frames are; others estimate both
# A playlist (m3u8, ffconcat, sdp, …) makes FFmpeg open whatever it names, from disk or network. So only the demuxers
# listed run at all, and none may open anything but the file that it was given. These go into container_options:
# before 17.1, PyAV's options= crash at files that show their streams late (MPEG).
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,asf",
    "protocol_whitelist": "none",
}
_KNOWN = "MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg, GIF or WMV"


@dataclass(slots=True)
class Shown:
    """A frame, and when it is shown: from, to (seconds)."""

    frame: Any
    time: float
    until: float


class Film:
    """An open film: its frames, in the order in which they are shown."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.ended_early = False
        with damage(name, f"; it is damaged, incomplete, or none of {_KNOWN}"):
            self._container: Any = _pyav().open(file, "r", container_options=_OPTIONS)
        try:
            with damage(name):
                self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        self._stream: Any = self._container.streams.best("video")
        codec = self._stream and self._stream.codec_context
        if not codec:
            raise BadRequestError(f"The film {self.name} holds no pictures that can be decoded.")
        _check_size(self.name, codec.width, codec.height)
        codec.options = {"max_pixels": str(MOST_PIXELS)}  # frames may be larger than the header says
        codec.thread_type, codec.thread_count = "AUTO", 4  # each holds a frame; one lost at the end may cost the others
        self._indexed = self._container.format.name.split(",")[0] in _INDEXED
        self._clock = _Clock(self._stream.time_base, self._stream.average_rate)
        self._aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / 4 <= self._aspect <= 4:
            self._aspect = 1.0

    def close(self) -> None:
        self._container.close()

    @property
    def claimed_end(self) -> float | None:
        """How long the film says it is (seconds); None where that would be an estimate."""
        if not self._indexed:
            return None
        with damage(self.name):
            if self._stream.duration:
                return float(self._stream.duration * self._stream.time_base)
            return self._container.duration / 1_000_000 if self._container.duration else None

    def measured_end(self) -> float:
        """Return how long the film is (seconds), by reading it through, undecoded."""
        first, end = math.inf, 0.0
        with damage(self.name):
            for packet in self._packets():
                begin = packet.dts if packet.pts is None else packet.pts
                if begin is not None:
                    first = min(first, float(begin * packet.time_base))
                    end = max(end, float((begin + (packet.duration or 0)) * packet.time_base))
        return max(end - first, 0.0)

    def shown_at(self, times: Iterable[float], told: Progress, *, beyond: bool = True) -> Iterator[Shown]:
        """Yield the frames that are shown at these times, none twice.

        Args:
            times: Rising; seconds from the first frame.
            told: Told how far it is.
            beyond: Whether the last frame stands for times after the end.
        """
        frames, taken = self._frames(), -1.0
        shown, ahead = next(frames, None), None
        for time in times:
            if shown is None:
                return
            if self._indexed and time - (ahead or shown).time > _FAR and (found := self._jumped(time, shown.time)):
                frames, shown, ahead = found, next(found, shown), None
            while (ahead := ahead or next(frames, None)) and ahead.time <= time + _TINY:
                shown, ahead = ahead, None
                told(shown.time)
            if ahead is None and time >= shown.until - _TINY:
                self.ended_early = True
                if not beyond:
                    return
            if shown.time > taken:
                taken = shown.time
                yield shown
            if ahead is None and not beyond:
                return

    def scenes(self, threshold: float, told: Progress) -> Iterator[Shown]:
        """Yield the first frame, and each whose colours correlate less than this with the last one yielded."""
        last: list[int] | None = None
        for shown in self._frames():
            told(shown.time)
            with damage(self.name):
                colours = _colours(shown.frame)
            if last is None or _alike(last, colours) < threshold:
                last = colours
                yield shown

    def picture(self, shown: Shown, longest_side: int) -> bytes:
        """Return a frame as a JPEG file: upright, in its proportions, no side longer than this."""
        frame = shown.frame
        _check_size(self.name, frame.width, frame.height)
        width, height = frame.width * self._aspect, frame.height
        scale = min(1.0, longest_side / max(width, height))
        out = io.BytesIO()
        with damage(self.name):
            size = {"width": max(1, round(width * scale)), "height": max(1, round(height * scale))}
            picture = frame.to_image(**size, interpolation="AREA")
            picture.rotate(frame.rotation, expand=True).save(out, "JPEG", quality=_QUALITY)
        return out.getvalue()

    def _jumped(self, time: float, now: float) -> Iterator[Shown] | None:
        """Return the frames from the key frame before a time on; None where that cannot be."""
        try:
            self._seek(time - _EARLY)
        except Exception:  # nothing has moved: the frames are gone through
            self._indexed = False
            return None
        frames = self._frames()
        first = next(frames, None)
        if first is None or first.time > time:  # the index lies
            self._indexed = False
            with damage(self.name):
                self._seek(0)
            return self._frames()
        if first.time <= now:  # key frames are so far apart that going on is shorter
            self._indexed = False
        return chain((first,), frames)

    def _seek(self, time: float) -> None:
        self._container.seek(int((time + (self._clock.zero or 0)) / self._stream.time_base), stream=self._stream)

    def _frames(self) -> Iterator[Shown]:
        """Yield the frames from where the file is read; what is damaged is left out."""
        self._clock.last = None
        for packet in chain(self._packets(), (None,)):  # None: what the decoder still holds
            for frame in self._decoded(packet):
                with damage(self.name):
                    shown = self._clock.shown(frame)
                yield shown

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except Exception:  # the rest is missing or damaged
                return
            if packet is None:
                return
            yield packet

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            return cast("list[Any]", self._stream.decode(packet))
        except Exception:  # damaged; or nothing more is held
            return []


class Progress:
    """Tells what fraction is done, rising, and 1 at the end."""

    def __init__(self, tell: Callable[[float], None] | None) -> None:
        self.end: float | None = None
        self._tell = tell
        self._told = -1.0

    def __call__(self, time: float) -> None:
        if self._tell and self.end and self._told < (fraction := min(time / self.end, 1.0)):
            self._told = fraction
            self._tell(fraction)

    def finish(self) -> None:
        self.end = self.end or 1.0
        self(self.end)


class _Clock:
    """Says when frames are shown: in seconds from the film's first, rising, whatever the file says."""

    def __init__(self, time_base: Any, rate: Any) -> None:
        self._time_base = time_base  # frames that the decoder gives at the end have none
        self.zero: float | None = None
        """What the file calls the time of its first frame."""
        self.last: float | None = None
        self._lasts = 1 / float(rate) if rate else 0.04

    def shown(self, frame: Any) -> Shown:
        zero, last = self.zero or 0.0, self.last
        said = None if frame.pts is None else float(frame.pts * self._time_base)
        following = 0.0 if last is None else last + self._lasts
        time = following if said is None else said - zero
        if self.zero is None:
            self.zero, time = time, 0.0
        elif last is not None and time < last - 1:  # the file's clock was set back
            self.zero, time = zero + time - following, following
        elif last is not None and time < last:  # where only the order of decoding is known (AVI)
            time = last
        if frame.duration:
            self._lasts = float(frame.duration * self._time_base)
        elif last is not None and time > last:
            self._lasts = time - last
        self.last = time
        return Shown(frame, time, time + self._lasts)


@contextmanager
def damage(name: str, hint: str = "") -> Generator[None]:
    """Make whatever FFmpeg, PyAV, Pillow and the file raise an error of ours."""
    try:
        yield
    except SLMError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise BadRequestError(f"The film {name} cannot be read: {reason}{hint}.") from None


def _pyav() -> Any:
    try:
        import_module("PIL.Image")  # what PyAV makes the pictures with
        return import_module("av")
    except ImportError:
        raise MissingDependencyError('Video needs PyAV and Pillow: pip install "slmclient[video]"') from None


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise BadRequestError(f"The film {name} has frames of {width} × {height}; at most {MOST_PIXELS:,} pixels.")


def _colours(frame: Any) -> list[int]:
    """Return how many pixels of a small copy are how red, green and blue: 32 steps of each."""
    exact = frame.to_image(width=64, height=64, interpolation="AREA").histogram()
    return [sum(exact[begin : begin + 8]) for begin in range(0, len(exact), 8)]


def _alike(one: list[int], other: list[int]) -> float:
    """Return how two histograms correlate, as OpenCV's HISTCMP_CORREL does."""
    try:
        return statistics.correlation(one, other)
    except statistics.StatisticsError:  # one is the same everywhere
        return float(one == other)
