"""Films: which frames become pictures, what is refused, and that nothing but the film itself is opened."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import io
import math
import os
import random
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slmclient import AsyncPhiClient, Message, PhiClient
from slmclient.errors import BadRequestError
from slmclient.media.film import Film, Progress
from slmclient.media.image import Image
from slmclient.media.video import MOST_FRAMES, Video
from slmclient.testing import ScriptedDriver

av: Any = importlib.import_module("av")
pictures: Any = importlib.import_module("PIL.Image")

LEVELS = (0, 85, 170, 255)


def colour(number: int) -> tuple[int, int, int]:
    """Return one of 64 colours that survive any encoder."""
    return LEVELS[number % 4], LEVELS[number // 4 % 4], LEVELS[number // 16 % 4]


def opened(image: Image) -> Any:
    assert image.media_type == "image/jpeg"
    return pictures.open(io.BytesIO(image.content)).convert("RGB")


def number_of(image: Image) -> int:
    """Return which of the colours a picture has in its middle."""
    picture = opened(image)
    red, green, blue = (round(part / 85) for part in picture.getpixel((picture.width // 2, picture.height // 2)))
    return int(red + 4 * green + 16 * blue)


def seconds(video: Video) -> list[int]:
    return [number_of(image) for image in video]


def flat(number: int, size: tuple[int, int]) -> Any:
    return pictures.new("RGB", size, colour(number))


def noise(number: int, size: tuple[int, int]) -> Any:
    """Return a picture that takes room in a file, a block of colour in its middle."""
    grain = random.Random(number).randbytes(size[0] * size[1] * 3)
    picture = pictures.frombytes("RGB", size, grain)
    picture.paste(colour(number), (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    return picture


def film(
    path: Any,
    numbers: Any,
    *,
    codec: str = "libx264",
    fps: int = 5,
    size: tuple[int, int] = (64, 48),
    draw: Any = flat,
    gop: int = 10,
    container: dict[str, str] | None = None,
    form: str | None = None,
    **options: str,
) -> Any:
    """Make a film with a second of each colour."""
    with av.open(path, "w", format=form, options=container or {}) as out:
        stream = out.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.gop_size = gop
        for number in numbers:
            picture = draw(number, size)
            for _ in range(fps):
                out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode())
    return path


def frame_times(path: Path) -> list[float]:
    """Return when each frame of a film is shown, from its first on: decoded plainly, from end to end."""
    times: list[float] = []
    with av.open(str(path)) as opened_film, contextlib.suppress(av.FFmpegError):
        times += (float(frame.time) for frame in opened_film.decode(video=0))
    return [time - times[0] for time in times]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of six seconds, 5 frames each, a colour per second."""
    return Path(film(tmp_path_factory.mktemp("film") / "six.mp4", range(6)))


# --- in calls


@pytest.mark.parametrize("way", ["chat", "send", "stream"])
def test_asyncio_has_a_film_read_on_a_thread(six: Path, way: str) -> None:
    readers: set[int] = set()
    film = Video(six, frames=3, progress=lambda _: readers.add(threading.get_ident()))

    async def scenario() -> None:
        async with AsyncPhiClient(driver=ScriptedDriver("Colours.")) as client:
            if way == "chat":
                await client.chat("What is it?", images=[film])
            elif way == "send":
                await client.conversation().send("What is it?", images=film)
            else:
                async with client.conversation().stream("What is it?", images=film) as stream:
                    async for _ in stream:
                        pass

    asyncio.run(scenario())
    assert readers
    assert threading.get_ident() not in readers


def test_a_film_among_pictures_stands_for_its_own(six: Path) -> None:
    driver = ScriptedDriver("Colours.")
    other = Image(next(iter(Video(six, frames=1))).content)
    PhiClient(driver=driver).chat("What is it?", images=[other, Video(six, frames=2), other])
    assert [number_of(image) for image in driver.requests[0].messages[0].images] == [3, 1, 4, 3]


def test_a_film_given_as_a_picture_is_told_how(six: Path) -> None:
    with pytest.raises(BadRequestError, match=r"is no PNG.* A film is given as Video\("):
        Image(six).content  # noqa: B018


# --- which frames


def test_frames_are_spread_evenly(six: Path) -> None:
    video = Video(six, frames=6)
    assert seconds(video) == [0, 1, 2, 3, 4, 5]
    assert video.times == pytest.approx((0.4, 1.4, 2.4, 3.4, 4.4, 5.4))  # the frames shown at 0.5, 1.5, …
    assert seconds(Video(six, frames=2)) == [1, 4]
    assert seconds(Video(six, frames=1)) == [3]


def test_eight_frames_are_taken_where_nothing_is_said(six: Path) -> None:
    assert len(Video(six)) == 8


def test_one_frame_each_so_many_seconds(six: Path) -> None:
    assert Video(six, every=2).times == pytest.approx((0, 2, 4))
    assert seconds(Video(six, every=2)) == [0, 2, 4]
    assert Video(six, every=2.5).times == pytest.approx((0, 2.4, 5.0))  # what is shown at 2.5 began at 2.4
    assert Video(six, every=6).times == (0,)
    assert Video(six, every=0.01).times == pytest.approx(frame_times(six))


def test_scene_changes_are_found(tmp_path: Path) -> None:
    path = film(tmp_path / "cuts.mp4", [0, 0, 21, 21, 21, 40, 0])
    video = Video(path, scene_change=0.9)
    assert video.times == pytest.approx((0, 2, 5, 6))
    assert seconds(video) == [0, 21, 40, 0]


def test_a_scene_is_compared_with_the_one_that_was_taken(tmp_path: Path) -> None:
    """A change so slow that no two frames in a row differ much is one all the same."""

    def share(number: int, size: tuple[int, int]) -> Any:
        picture = flat(0, size)
        picture.paste(colour(63), (0, 0, size[0] * number // 20, size[1]))
        return picture

    path = film(tmp_path / "slow.mp4", range(21), draw=share, fps=1)
    taken = Video(path, scene_change=0.5).times
    assert 2 <= len(taken) <= 6
    assert taken[0] == 0
    assert taken[1] > 5


def test_of_a_film_with_fewer_frames_each_is_taken_once(tmp_path: Path) -> None:
    path = film(tmp_path / "short.mp4", range(3), fps=1)
    assert seconds(Video(path, frames=50)) == [0, 1, 2]
    single = film(tmp_path / "single.mp4", [7], fps=1)
    for video in (Video(single, frames=3), Video(single, every=0.1), Video(single, scene_change=0.5)):
        assert seconds(video) == [7]


KINDS = {
    "mp4 h264 with B-frames": ("a.mp4", "libx264", 10, {"bf": "3"}),
    "mp4 open groups": ("a.mp4", "libx264", 10, {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}),
    "mp4 one key frame": ("a.mp4", "libx264", 9999, {"x264-params": "scenecut=0"}),
    "mp4 mpeg4": ("a.mp4", "mpeg4", 10, {}),
    "mov": ("a.mov", "mpeg4", 10, {}),
    "mkv": ("a.mkv", "libx264", 10, {}),
    "webm vp9": ("a.webm", "libvpx-vp9", 10, {"deadline": "realtime", "cpu-used": "8"}),
    "avi": ("a.avi", "mpeg4", 10, {}),
    "mpegts": ("a.ts", "mpeg2video", 10, {}),
    "mpeg": ("a.mpg", "mpeg2video", 10, {}),
    "flv": ("a.flv", "flv", 10, {}),
    "wmv": ("a.wmv", "wmv2", 10, {}),
    "gif": ("a.gif", "gif", 10, {}),
    "ogg": ("a.ogv", "libvpx", 10, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_frame_is_found_in_every_kind_of_film(kind: str, tmp_path: Path) -> None:
    """64 seconds: long enough to look for key frames. What is shown at a time is decided by plain decoding."""
    name, codec, gop, options = KINDS[kind]
    fps = 25 if codec == "mpeg2video" else 5  # it knows no 5
    path = film(tmp_path / name, range(64), codec=codec, gop=gop, fps=fps, **options)
    every = frame_times(path)
    for count in (4, 13, 64):
        video = Video(path, frames=count)
        shown = [max(time for time in every if time <= (part + 0.5) * 64 / count + 1e-6) for part in range(count)]
        assert video.times == pytest.approx(shown, abs=1.01 / fps)
        assert seconds(video) == [int(time + 1e-6) for time in video.times]
    assert seconds(Video(path, every=8)) == list(range(0, 64, 8))


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_a_film_that_does_not_say_how_long_it_is(name: str, tmp_path: Path) -> None:
    path = film(tmp_path / name, range(12), codec="libvpx", container={"live": "1"}, deadline="realtime")
    with av.open(str(path)) as opened_film:
        assert opened_film.duration is None
    assert seconds(Video(path, frames=4)) == [1, 4, 7, 10]
    told: list[float] = []
    assert seconds(Video(path, every=5, progress=told.append)) == [0, 5, 10]
    assert any(0 < fraction < 1 for fraction in told)


def test_a_clock_that_starts_late_and_is_set_back(tmp_path: Path) -> None:
    """Two transport streams one after the other, as recorders make them: each begins at 1.4 seconds."""
    one = film(io.BytesIO(), range(8), codec="mpeg2video", fps=25, form="mpegts").getvalue()
    two = film(io.BytesIO(), range(8, 16), codec="mpeg2video", fps=25, form="mpegts").getvalue()
    path = tmp_path / "both.ts"
    path.write_bytes(one + two)
    video = Video(path, every=2)
    assert seconds(video) == list(range(0, 16, 2))
    assert video.times == pytest.approx(range(0, 16, 2), abs=0.05)


def test_far_frames_are_looked_for_by_key_frames(tmp_path: Path) -> None:
    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    content = film(io.BytesIO(), range(64), draw=noise, size=(160, 120), form="mp4", codec="mjpeg").getvalue()
    assert len(content) > 1_000_000
    file = Counted(content)
    opened_film = Film(file, "a film")
    taken = [shown.time for shown in opened_film.shown_at([20.5, 40.5, 60.5], Progress(None))]
    opened_film.close()
    assert taken == pytest.approx([20.4, 40.4, 60.4])
    assert 0 < file.taken < len(content) / 2


def test_an_index_that_lies_costs_time_only(tmp_path: Path) -> None:
    class Lying(Film):
        def _seek(self, time: float) -> None:
            super()._seek(time + 20 if time else 0)

    path = film(tmp_path / "lying.mp4", range(64))
    with path.open("rb") as file, contextlib.closing(Lying(file, "a film")) as lying:
        assert [shown.time for shown in lying.shown_at([0.5, 30.5, 50.5], Progress(None))] == [0.4, 30.4, 50.4]


class Failing(io.BytesIO):
    """A file on a disk that breaks: its second half is not to be had."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(self.getbuffer()) / 2 and self.broken:
            raise OSError(5, "Input/output error")
        return super().read(size)

    broken = False


def test_what_was_read_before_the_disk_broke_is_used_to_the_last_frame() -> None:
    options: dict[str, Any] = {"form": "matroska", "draw": noise, "size": (160, 120), "bf": "3"}
    file = Failing(film(io.BytesIO(), range(30), **options).getvalue())
    packets = 0
    with av.open(file, "r") as opened_film, contextlib.suppress(OSError):
        file.broken = True
        for packet in opened_film.demux(video=0):
            packets += packet.size > 0
    file.broken = False
    file.seek(0)
    with contextlib.closing(Film(file, "a film")) as broken:
        file.broken = True
        frames = list(broken.shown_at([number / 5 for number in range(150)], Progress(None)))
    assert 20 < packets < 130
    assert len(frames) == packets


# --- what a picture is like


def test_pictures_are_scaled_down_and_never_up(tmp_path: Path) -> None:
    wide = film(tmp_path / "wide.mp4", [1], size=(1920, 1080), fps=1)
    assert opened(Video(wide)[0]).size == (1280, 720)
    assert opened(Video(wide, longest_side=320)[0]).size == (320, 180)
    tall = film(tmp_path / "tall.mp4", [1], size=(48, 64))
    assert opened(Video(tall)[0]).size == (48, 64)
    assert opened(Video(tall, longest_side=32)[0]).size == (24, 32)


IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
CLOCKWISE = struct.pack(">9I", 0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)  # as telephones write portraits


def test_a_film_that_was_filmed_upright_stands_upright(tmp_path: Path) -> None:
    def corner(number: int, size: tuple[int, int]) -> Any:
        picture = flat(number, size)
        picture.paste(colour(63), (0, 0, 16, 16))
        return picture

    path = film(tmp_path / "upright.mp4", [0], draw=corner)
    plain = path.read_bytes()
    track = plain.index(IDENTITY, plain.index(b"tkhd"))
    path.write_bytes(plain[:track] + CLOCKWISE + plain[track + len(CLOCKWISE) :])
    lying, upright = opened(Video(plain)[0]), opened(Video(path)[0])
    assert (lying.size, upright.size) == ((64, 48), (48, 64))
    assert lying.getpixel((4, 4))[0] > 200
    assert upright.getpixel((43, 4))[0] > 200, "what was at the top left is at the top right"
    assert max(upright.getpixel((4, 4))[0], upright.getpixel((43, 59))[0]) < 50


def test_pixels_that_are_no_squares_are_made_so(tmp_path: Path) -> None:
    path = film(tmp_path / "dv.mp4", [1], size=(64, 48), x264opts="sar=2/1")
    assert opened(Video(path)[0]).size == (128, 48)


# --- a video is a list of images


def test_a_video_goes_where_a_list_of_images_goes(six: Path) -> None:
    video = Video(str(six), frames=3)
    driver = ScriptedDriver("Colours.")
    assert PhiClient(driver=driver).chat("What happens?", images=video).text == "Colours."
    assert [number_of(image) for image in driver.requests[0].messages[-1].images] == [1, 3, 5]
    assert Message.user("What happens?", *video).images == tuple(video)
    assert video[-1] == video[2]
    assert list(video[1:]) == [video[1], video[2]]
    with pytest.raises(IndexError):
        video[3]


def test_nothing_is_read_before_it_is_needed_and_then_once(tmp_path: Path) -> None:
    path = tmp_path / "later.mp4"
    video = Video(path, frames=2)
    assert repr(video).endswith(", frames=2)")
    assert repr(Video("later.mp4", every=2)) == "Video('later.mp4', every=2)"
    assert repr(Video(b"abc", scene_change=0.5)) == "Video(3 bytes, scene_change=0.5)"
    with pytest.raises(BadRequestError, match=r"later\.mp4.*No such file"):
        len(video)
    film(path, range(4))
    assert seconds(video) == [1, 3]
    path.unlink()
    assert seconds(video) == [1, 3]
    assert len(video.times) == 2


def test_many_threads_read_it_once(six: Path) -> None:
    starts: list[float] = []
    video = Video(six, frames=6, progress=lambda fraction: starts.append(fraction) if fraction == 1 else None)
    ready, found = threading.Barrier(8), []

    def look() -> None:
        ready.wait()
        found.append(tuple(video))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts == [1.0]
    assert len(found) == 8
    assert all(image is mine for images in found for image, mine in zip(images, found[0], strict=True))


@pytest.mark.parametrize("way", [{"frames": 7}, {"every": 1}, {"scene_change": 0.9}])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_progress_rises_to_one(way: dict[str, Any], name: str, tmp_path: Path) -> None:
    told: list[float] = []
    fps = 25
    path = film(tmp_path / name, range(4), codec="mpeg2video", fps=fps)
    len(Video(path, progress=told.append, **way))
    assert len(told) > 20
    assert told == sorted(set(told))
    assert 0 <= told[0] < 0.3
    assert told[-1] == 1


def test_an_error_of_progress_is_the_callers_own(six: Path) -> None:
    def stop(fraction: float) -> None:
        raise InterruptedError(f"at {fraction}")

    with pytest.raises(InterruptedError):
        len(Video(six, progress=stop))


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 3, "every": 1.0}, "one of frames, every and scene_change, not frames and every"),
        ({"every": 1, "scene_change": 0.5}, "not every and scene_change"),
        ({"frames": 0}, "frames is a whole number from 1 to 256, not 0"),
        ({"frames": MOST_FRAMES + 1}, "frames is"),
        ({"frames": True}, "frames is"),
        ({"frames": 2.0}, "frames is"),
        ({"every": 0}, "every is a number above 0"),
        ({"every": -1}, "every is"),
        ({"every": math.nan}, "every is"),
        ({"every": math.inf}, "every is"),
        ({"every": "1"}, "every is"),
        ({"scene_change": 0}, "scene_change is a number above 0 and below 1"),
        ({"scene_change": 1}, "scene_change is"),
        ({"longest_side": 0}, "longest_side is"),
        ({"longest_side": None}, "longest_side is"),
        ({"progress": 1}, "progress is a function"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        Video("nowhere.mp4", **arguments)


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1:9/a.mp4", "HTTPS://example.com/a", "rtsp://a", "file:///etc/passwd", "data:video/mp4,"]
)
def test_addresses_are_refused_at_once(source: str) -> None:
    with pytest.raises(BadRequestError, match=r"not an address: download .* first"):
        Video(source)


@pytest.mark.parametrize("source", [None, 3, ["a.mp4"], io.BytesIO()])
def test_what_is_neither_path_nor_bytes_is_refused(source: Any) -> None:
    with pytest.raises(BadRequestError, match=r"path or bytes, not (NoneType|int|list|BytesIO)"):
        Video(source)


def test_what_is_no_film_is_an_error_that_names_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(random.Random(1).randbytes(50_000))
    for source, message in (
        (junk, r"junk\.mp4.*none of MP4"),
        (b"", "film of 0 bytes cannot be read"),
        (tmp_path, "no file"),
        (tmp_path / "a\0b.mp4", "cannot be read"),
        ("concat:a.mp4|b.mp4", "No such file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read"),
    ):
        with pytest.raises(BadRequestError, match=message):
            len(Video(source))
    assert capfd.readouterr() == ("", "")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadRequestError, match="no file"):
        len(Video(tmp_path / "pipe.mp4"))


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        for begin in range(0, 8000, 1000):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1000)
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.sample_rate, frame.pts = 8000, begin
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(BadRequestError, match=r"sound\.mp4.*no pictures"):
        len(Video(path))


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("a.mp4", {"movflags": "faststart"}),
        ("a.mkv", {}),
        ("a.avi", {}),
        ("a.ts", {}),
        ("a.mov", {"movflags": "faststart"}),
    ],
)
def test_of_a_film_that_breaks_off_what_is_there_is_used(name: str, container: dict[str, str], tmp_path: Path) -> None:
    """40 seconds, half of the file: pictures are spread over what is left of it."""
    path = film(tmp_path / name, range(40), codec="mpeg4", draw=noise, gop=5, container=container)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    left = frame_times(path)[-1] + 0.2
    assert 10 < left < 30
    told: list[float] = []
    taken = seconds(Video(path, frames=4, progress=told.append))
    assert taken == pytest.approx([(part + 0.5) * left / 4 - 0.5 for part in range(4)], abs=0.8)
    assert told == sorted(set(told)), "it does not start again, though the film is read more than once"
    assert told[-1] == 1
    assert seconds(Video(path, every=3)) == list(range(0, math.ceil(left), 3))


def test_a_film_whose_directory_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "cut.mp4", range(10))
    whole = path.read_bytes()
    for length in (whole.index(b"moov") + 4, len(whole) - 1000):
        path.write_bytes(whole[:length])
        with pytest.raises(BadRequestError, match=r"cut\.mp4.*(incomplete|no pictures)"):
            len(Video(path))


def test_a_film_without_one_good_frame_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "bad.mp4", range(10))
    content = path.read_bytes()
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    path.write_bytes(content[:begin] + b"\xff" * (end - begin) + content[end:])
    with pytest.raises(BadRequestError, match=r"No frame of the film .*bad\.mp4.* can be decoded"):
        len(Video(path))


def test_damage_of_any_kind_is_no_error_of_another_kind(six: Path) -> None:
    """Bytes changed anywhere: there are pictures, or an error of ours; nothing else gets out, and nothing hangs."""
    content, chance = six.read_bytes(), random.Random(7)
    read = refused = 0
    for way in ({"frames": 3}, {"every": 2}, {"scene_change": 0.9}) * 40:
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 5, 50))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            read += len(Video(bytes(damaged), **way)) > 0
        except BadRequestError:
            refused += 1
    assert read + refused == 120
    assert read
    assert refused


def test_too_many_pictures_are_refused(tmp_path: Path) -> None:
    blinking = film(tmp_path / "blinking.mp4", [0, 63] * 130, fps=1, codec="mpeg4")
    for way, advice in (({"every": 0.5}, "raise every="), ({"scene_change": 0.9}, "lower scene_change=")):
        with pytest.raises(BadRequestError, match=f"more than 256 pictures: {advice}"):
            len(Video(blinking, **way))
    assert len(Video(blinking, frames=MOST_FRAMES)) == MOST_FRAMES
    assert len(Video(blinking, every=2)) == 130


def test_frames_of_a_huge_size_are_refused(tmp_path: Path) -> None:
    large = film(tmp_path / "large.mp4", [1], codec="mpeg4", fps=1, size=(8000, 6400))
    with pytest.raises(BadRequestError, match=r"large\.mp4.* frames of 8000 × 6400; at most 50,000,000 pixels"):
        len(Video(large))


def test_frames_that_grow_huge_on_the_way_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "growing.ts"
    kind: dict[str, Any] = {"form": "mpegts", "codec": "mpeg4"}
    small = film(io.BytesIO(), range(9), **kind, fps=1).getvalue()
    path.write_bytes(small + film(io.BytesIO(), [9], **kind, fps=1, size=(8000, 6400)).getvalue())
    with av.open(str(path)) as opened_film:
        assert [frame.width for frame in opened_film.decode(video=0)] == [64] * 9 + [8000]
    video = Video(path, every=1)
    assert seconds(video)[:5] == [0, 1, 2, 3, 4]
    assert {opened(image).width for image in video} == {64}


def test_a_small_file_makes_no_huge_frame() -> None:
    screen = struct.pack("<HH", 65535, 65535)  # 12 GB as RGB, of 35 bytes
    with pytest.raises(BadRequestError, match="more than 50,000,000 pixels"):
        len(Video(b"GIF89a" + screen + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + screen + b"\0\2\2\x44\1\0;"))


# --- nothing but the film is opened


@contextmanager
def opens(path: Path) -> Iterator[list[int]]:
    """Note how often a file is opened, by whatever code of this process: Linux says so."""
    if sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watcher, os.fsencode(path), 0x20) >= 0  # IN_OPEN
    noted: list[int] = []
    try:
        yield noted
        try:
            noted.append(len(os.read(watcher, 4096)) // 16)
        except BlockingIOError:
            noted.append(0)
    finally:
        os.close(watcher)


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:6,\nother.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile other.ts\n",
    "list.mp4": "ffconcat version 1.0\nfile other.ts\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_refused_and_what_it_names_is_not_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = film(tmp_path / "other.ts", range(6), codec="mpeg2video", fps=25)
    playlist = tmp_path / name
    playlist.write_text(PLAYLISTS[name])
    with opens(other) as without_us, playlist.open("rb") as file, av.open(file, "r") as opened_film:
        assert next(opened_film.decode(video=0))
    assert without_us[0] > 0, "FFmpeg by itself opens it"
    with opens(other) as noted:
        for source in (name, playlist, playlist.read_bytes()):
            with pytest.raises(BadRequestError, match="none of MP4"):
                len(Video(source))
    assert noted == [0]


def alias_to(path: Path, content: bytes) -> bytes:
    """Return a QuickTime film that says its frames are in another file: a data reference, of an absolute path."""
    where = os.fsencode(path)
    where += b"\0" * (len(where) % 2)
    head = bytes(10) + b"\4disk" + bytes(23) + bytes(12) + b"\5other" + bytes(58) + bytes(16) + b"\0\1\0\1" + bytes(16)
    record = head + struct.pack(">HH", 2, len(where)) + where + b"\xff\xff\0\0"
    reference = struct.pack(">I4sI", len(record) + 12, b"alis", 0) + record
    begin = content.index(b"dref") + 12  # behind type, version and count
    (length,) = struct.unpack_from(">I", content, begin)
    changed = bytearray(content[:begin] + reference + content[begin + length :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = content.rindex(box, 0, begin) - 4
        struct.pack_into(">I", changed, at, struct.unpack_from(">I", content, at)[0] + len(reference) - length)
    return bytes(changed)


def test_a_film_that_keeps_its_frames_in_another_file_gets_none_of_it(tmp_path: Path) -> None:
    content = film(io.BytesIO(), range(6), form="mov", codec="mpeg4").getvalue()
    other = tmp_path / "other"
    other.write_bytes(content)
    elsewhere = alias_to(other, content)
    allowed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with opens(other) as without_us, av.open(io.BytesIO(elsewhere), "r", options=allowed) as opened_film:
        assert next(opened_film.decode(video=0))
    assert without_us[0] > 0, "FFmpeg can be told to open it"
    with opens(other) as noted, contextlib.suppress(BadRequestError):
        len(Video(elsewhere))
    assert noted == [0]


# --- light, and in bounds


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much a process has held")
def test_a_long_film_is_not_held_in_memory(tmp_path: Path) -> None:
    """3,000 frames take 345 MB decoded, and 690 MB as pictures."""
    path = film(tmp_path / "long.mp4", [number // 12 for number in range(120)], codec="mpeg4", fps=25, size=(320, 240))
    script = """
        import re, sys
        from pathlib import Path
        from slmclient.media.video import Video
        len(Video(sys.argv[2], frames=1))
        most = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        before = most()
        print(len(Video(sys.argv[1], scene_change=0.9)), len(Video(sys.argv[1], every=1)))
        print(most() - before)
    """
    small = film(tmp_path / "small.mp4", [1], codec="mpeg4", fps=25, size=(320, 240))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path), str(small)],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    counts, grown = done.stdout.splitlines()
    assert counts == "10 120"
    assert int(grown) < 60_000  # KB


def test_without_pyav_the_error_says_what_to_install(six: Path) -> None:
    script = """
        import sys
        from slmclient.media.video import Video
        assert "av" not in sys.modules and "PIL" not in sys.modules

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == sys.argv[2]:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())
        video = Video(sys.argv[1])
        try:
            len(video)
        except Exception as error:
            print(type(error).__name__, error)
    """
    for package in ("av", "PIL"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(six), package],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.stdout == 'MissingDependencyError Video needs PyAV and Pillow: pip install "slmclient[video]"\n'
