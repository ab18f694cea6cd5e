"""Images and sound: what they are made of, when it is read, what is refused, and how little they show."""

from __future__ import annotations

import base64
import io
import os
import pickle
import subprocess
import sys
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient import Audio, Image, Message
from slmclient.errors import BadRequestError, MissingDependencyError
from slmclient.media import MAX_IMAGE_BYTES, as_audio, as_base64, as_image, image_bytes, image_type
from slmclient.media.audio import MAX_AUDIO_BYTES
from slmclient.testing import ScriptedDriver
from slmclient.testing.hooks import RED, SILENCE
from slmclient.testing.mode import MODES
from test_client import Face, both

# How files of each kind begin, by their standards.
BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "image/gif": b"GIF89a\1\0\1\0",
    "image/bmp": b"BM\x3a\0\0\0",
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
}


def decoded(image: Image) -> tuple[str, bytes]:
    """Return media type and content of a data URL."""
    head, _, payload = image.url.partition(",")
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(payload, validate=True)


# --- what an image is made of


@given(st.sampled_from(sorted(BEGINNINGS)), st.binary(max_size=200))
def test_bytes_become_a_data_url_of_the_same_bytes(media_type: str, end: bytes) -> None:
    content = BEGINNINGS[media_type] + end
    image = Image(content)
    assert decoded(image) == (media_type, content)
    assert image.inline


def test_a_picture_is_given_as_base64_however_its_url_has_it() -> None:
    assert base64.b64decode(as_base64(Image(RED)) or "", validate=True) == RED
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in RED)
    assert base64.b64decode(as_base64(Image(percent)) or "", validate=True) == RED
    assert as_base64(Image("https://example.com/a.png")) is None


@pytest.mark.parametrize("source", [bytearray(RED), memoryview(RED)])
def test_any_bytes_are_taken_and_copied(source: Any) -> None:
    image = Image(source)
    memoryview(source).release() if isinstance(source, memoryview) else source.clear()
    assert image.content == RED


def test_a_relative_path_is_one_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "bilde æøå.png").write_bytes(RED)
    assert decoded(Image("a b/bilde æøå.png")) == ("image/png", RED)


@pytest.mark.parametrize("media_type", sorted(BEGINNINGS))
def test_the_type_is_what_the_content_shows_not_the_name(tmp_path: Path, media_type: str) -> None:
    for name in ("a.png", "a.jpg", "a.txt", "a"):
        file = tmp_path / name
        file.write_bytes(BEGINNINGS[media_type])
        assert decoded(Image(file))[0] == media_type


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "http://example.com/a", "HTTPS://EXAMPLE.COM/A", "data:image/png;base64,AA"]
)
def test_a_url_is_kept_and_nothing_is_fetched(url: str) -> None:
    image = Image(url)
    assert image.url == url
    assert image.inline == url.startswith("data:")
    assert Image(url=url) == image


@pytest.mark.parametrize("name", ["https://not a url", "data:image/png;base64,AA", "http:", "a.png"])
def test_from_path_takes_any_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name.replace("/", "_")
    file.write_bytes(RED)
    os.chdir(tmp_path)
    for path in (file.name, Path(file.name)):
        image = Image.from_path(path)
        assert image.inline
        assert image.content == RED


@pytest.mark.parametrize(
    ("make", "good", "bad"),
    [
        (Image.from_path, "a.png", [RED, io.BytesIO(RED), None]),
        (Image.from_url, "https://example.com/a", ["a.png", "ftp://example.com/a", "", Path("https://x"), RED, None]),
        (Image.from_bytes, RED, ["a.png", io.BytesIO(RED), None]),
        (Image.from_pil, PIL.Image.new("RGB", (2, 2)), [RED, "a.png", np.zeros((2, 2, 3), "uint8"), None]),
    ],
)
def test_each_way_takes_its_own_kind_only(make: Any, good: Any, bad: list[Any]) -> None:
    assert make(good, detail="low").detail == "low"
    for source in bad:
        with pytest.raises(BadRequestError):
            make(source)


def test_what_stands_for_a_picture_becomes_one() -> None:
    image = Image(RED)
    assert as_image(image) is image
    assert as_image(RED) == image
    assert image_bytes(image) == RED
    assert image_bytes(Image("https://example.com/a.png")) == b""


def pixels(image: Image) -> Any:
    return np.asarray(PIL.Image.open(io.BytesIO(image.content)))


@pytest.mark.parametrize(
    ("shape", "kind", "mode"),
    [((3, 5), "uint8", "L"), ((3, 5, 3), "uint8", "RGB"), ((3, 5, 4), "uint8", "RGBA"), ((3, 5), "bool", "1")],
)
def test_an_array_becomes_the_picture_that_it_holds(shape: tuple[int, ...], kind: str, mode: str) -> None:
    array = np.random.default_rng(1).integers(0, 2 if kind == "bool" else 256, shape).astype(kind)
    image = Image(array)
    assert image.media_type == "image/png"
    assert PIL.Image.open(io.BytesIO(image.content)).mode == mode
    assert np.array_equal(pixels(image), array)
    assert np.array_equal(pixels(Image(array[::-1, ::2])), array[::-1, ::2]), "whichever way it lies in memory"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2)),
        np.zeros((2, 2, 3), "float32"),
        np.zeros((2, 2), "uint16"),
        np.zeros((2, 2, 3), "bool"),
        np.zeros(4, "uint8"),
        np.zeros((2, 2, 2), "uint8"),
        np.zeros((3, 2, 2), "uint8"),
        np.zeros((2, 2, 2, 3), "uint8"),
        np.zeros((0, 2), "uint8"),
        np.zeros((), "uint8"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_picture_is_refused_with_what_to_do(array: Any) -> None:
    with pytest.raises(BadRequestError, match=r"is no picture"):
        _ = Image(array).content


def test_a_pillow_image_becomes_a_file_of_the_same_pixels() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        picture = PIL.Image.new(mode, (5, 3))
        picture.putpixel((1, 1), picture.getpixel((0, 0)))
        found = PIL.Image.open(io.BytesIO(Image.from_pil(picture).content))
        assert (found.size, found.mode) == ((5, 3), mode)
    for mode in ("CMYK", "YCbCr", "HSV", "F", "RGBX"):
        assert PIL.Image.open(io.BytesIO(Image(PIL.Image.new(mode, (5, 3))).content)).mode == "RGB"
    deep = PIL.Image.new("I", (5, 3), 40_000)
    assert pixels(Image(deep)).max() == 40_000


def test_a_pillow_image_lies_as_it_is_shown_and_tells_nothing_of_its_camera() -> None:
    picture = PIL.Image.new("RGB", (5, 3), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112], exif[0x010F] = 6, "secret maker"
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", exif=exif)
    jpeg.seek(0)
    image = Image(PIL.Image.open(jpeg))
    assert PIL.Image.open(io.BytesIO(image.content)).size == (3, 5)
    assert b"secret" not in image.content


def test_a_damaged_pillow_image_is_refused() -> None:
    whole = io.BytesIO()
    PIL.Image.effect_noise((50, 50), 50).save(whole, "PNG")
    cut = PIL.Image.open(io.BytesIO(whole.getvalue()[:500]))
    with pytest.raises(BadRequestError, match="The Pillow image cannot be used"):
        _ = Image(cut).content


WITHOUT_PILLOW = """
import sys
sys.modules["PIL"] = None
import numpy
from slmclient import Image, PhiClient, Message
from slmclient.errors import MissingDependencyError
from slmclient.testing import ScriptedDriver
from slmclient.testing.hooks import RED
driver = ScriptedDriver("Red.")
client = PhiClient(driver=driver)
assert client.chat("?", images=[RED, "https://example.com/a.png"]).text == "Red."
try:
    client.chat("?", images=[numpy.zeros((2, 2), "uint8")])
except MissingDependencyError as error:
    print(error)
assert len(driver.requests) == 1
"""


def test_without_pillow_files_are_taken_and_arrays_say_what_is_missing() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert 'pip install "slmclient[images]"' in run.stdout
    assert issubclass(MissingDependencyError, ImportError)


# --- when it is read


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    stream = io.BytesIO(RED)
    picture = PIL.Image.open(io.BytesIO(RED))
    images = [Image(file), Image(stream), Image(picture)]
    message = Message.user("What is it?", *images)
    assert "a.png" in repr(message)
    assert all(image.inline and image.at_hand for image in images)
    assert stream.tell() == 0
    assert picture.tile, "Pillow has not unpacked it"
    file.write_bytes(RED)
    assert images[0].content == images[1].content == RED
    assert pixels(images[2])[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_file_is_read_once(tmp_path: Path, as_path: Any) -> None:
    """One that changes later changes no message."""
    file = tmp_path / "a.png"
    file.write_bytes(RED)
    image = Image(as_path(file))
    assert image.content == RED
    file.unlink()
    assert decoded(image) == ("image/png", RED)
    assert Image.model_validate_json(image.model_dump_json()).content == RED


class Slow(io.RawIOBase):
    """A file object that can be read once, slowly, and says how often it was."""

    def __init__(self, content: bytes) -> None:
        self.content, self.reads = content, 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        content, self.content = self.content, b""
        threading.Event().wait(0.05)
        return content


@pytest.mark.parametrize(("make", "content"), [(Image, RED), (Audio, SILENCE)])
def test_a_file_object_is_read_once_however_many_ask(make: Any, content: bytes) -> None:
    stream = Slow(content)
    media = make(stream)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(media.content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 4
    assert media.content == content
    assert stream.reads == 1


def test_a_pillow_image_is_unpacked_once_however_many_ask() -> None:
    """Pillow's own reading falls apart under two threads."""
    file = io.BytesIO()
    noise = PIL.Image.effect_noise((900, 900), 60)
    noise.save(file, "PNG")
    image = Image(PIL.Image.open(file))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(image.content)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(PIL.Image.open(io.BytesIO(each)).tobytes() == noise.tobytes() for each in found)


def test_what_a_program_goes_on_writing_to_is_copied() -> None:
    array = np.zeros((2, 2), "uint8")
    picture = PIL.Image.new("RGB", (2, 2))
    samples = np.zeros(8, "int16")
    kept: list[Any] = [Image(array), Image(picture), Audio(samples, sampling_rate=8000)]
    array[:] = 255
    PIL.ImageDraw.Draw(picture).rectangle((0, 0, 2, 2), fill="white")
    samples[:] = 1000
    assert pixels(kept[0]).max() == 0
    assert pixels(kept[1]).max() == 0
    assert kept[2].content.endswith(bytes(16))


@both
@pytest.mark.parametrize(
    ("name", "options"), [("missing.png", "images"), ("missing.wav", "audio"), ("notes.txt", "images")]
)
async def test_what_cannot_be_read_is_an_error_before_anything_is_sent(
    face: Face, tmp_path: Path, name: str, options: str
) -> None:
    """Whether it shows at once or only when it is read; a conversation stays as it was."""
    (tmp_path / "notes.txt").write_text("milk, bread")
    driver = ScriptedDriver("a", "b", "c")
    client = face.kind(driver=driver)
    with pytest.raises(BadRequestError, match=name.replace(".", r"\.")):
        await face.done(client.chat("What is it?", **{options: [name]}))
    talk = client.conversation(system="Be brief.")
    with pytest.raises(BadRequestError, match=name.replace(".", r"\.")):
        await face.done(talk.send("What is it?", **{options: [name]}))
    assert len(talk.messages) == 1
    assert driver.requests == []


@both
async def test_a_file_that_goes_meanwhile_is_an_error_too(face: Face, tmp_path: Path) -> None:
    driver = ScriptedDriver("a")
    client = face.kind(driver=driver)
    for name, content, option in (("a.png", RED, "images"), ("a.wav", SILENCE, "audio")):
        file = tmp_path / name
        file.write_bytes(content)
        async with face.opened(client.stream("?", **{option: [file]})) as stream:
            file.unlink()
            with pytest.raises(BadRequestError, match=name):
                await face.text(stream)
    assert driver.requests == []


@pytest.mark.parametrize("source", ["path", "file", "array", "pillow", "bytes"])
def test_what_a_driver_gets_needs_no_file_any_more(tmp_path: Path, source: str) -> None:
    """It may go on to another process."""
    (tmp_path / "a.png").write_bytes(RED)
    given = {
        "path": tmp_path / "a.png",
        "file": io.BytesIO(RED),
        "array": np.zeros((2, 2), "uint8"),
        "pillow": PIL.Image.open(io.BytesIO(RED)),
        "bytes": RED,
    }[source]
    driver = ScriptedDriver("Red.")
    from slmclient import PhiClient

    PhiClient(driver=driver).chat("?", images=[given])
    (tmp_path / "a.png").unlink()
    (sent,) = driver.requests[0].messages[0].images
    assert pickle.loads(pickle.dumps(sent)).content == sent.content
    assert sent.media_type == "image/png"


# --- saving


def test_detail_is_kept_and_checked() -> None:
    assert Image(RED, detail="low").detail == "low"
    assert Image(RED).detail is None
    with pytest.raises(ValueError, match="detail"):
        Image(RED, detail="highest")  # type: ignore[arg-type]


def test_an_image_survives_json() -> None:
    for image in (
        Image(RED),
        Image(RED, detail="high"),
        Image("https://example.com/å.png"),
        Image(np.zeros((2, 2), "uint8")),
        Image(io.BytesIO(RED)),
    ):
        again = Image.model_validate_json(image.model_dump_json())
        assert again == image
        assert hash(again) == hash(image)
        assert again.inline == image.inline


def test_a_message_of_pictures_and_sound_survives_json(tmp_path: Path) -> None:
    """Saved, it holds all of it: the files may go."""
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "a.wav").write_bytes(SILENCE)
    media = [Image(tmp_path / "a.png"), Image("https://example.com/b.png", detail="low"), Audio(tmp_path / "a.wav")]
    message = Message.user("What is it?", *media)
    saved = message.model_dump_json()
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.wav").unlink()
    again = Message.model_validate_json(saved)
    assert again == message
    assert [type(part).__name__ for part in again.content] == ["Text", "Image", "Image", "Audio"]
    assert [image_bytes(image) for image in again.images] == [RED, b""]
    assert again.audio[0].content == SILENCE
    assert Message.from_openai(message.to_openai()) == message


# --- what is refused


@given(st.binary(max_size=40))
def test_bytes_are_a_picture_only_if_they_begin_like_one(content: bytes) -> None:
    kinds = [
        content.startswith(b"\x89PNG\r\n\x1a\n"),
        content.startswith(b"\xff\xd8\xff"),
        content[:6] in (b"GIF87a", b"GIF89a"),
        content.startswith(b"BM"),
        content.startswith(b"RIFF") and content[8:].startswith(b"WEBP"),
    ]
    assert (image_type(content) is not None) == any(kinds)
    if not any(kinds):
        for source in (content, io.BytesIO(content)):
            with pytest.raises(BadRequestError, match="no PNG, JPEG, GIF, WebP or BMP"):
                _ = Image(source).content


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"<svg xmlns='http://w3.org/2000/svg'/>", b"RIFF\0\0\0\0WAVE"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    with pytest.raises(BadRequestError, match=r"photo\.png.* is no PNG"):
        _ = Image(file).content


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(BadRequestError, match=r"nowhere\.png.*cannot be read"):
        Image("nowhere.png").check()
    with pytest.raises(BadRequestError, match=r"nowhere\.png.*cannot be read"):
        _ = Image("nowhere.png").content


@pytest.mark.parametrize("path", ["", ".", "a\0b.png", "x" * 5000])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(BadRequestError, match="cannot be read"):
        _ = Image(path).content
    with pytest.raises(BadRequestError, match="cannot be read"):
        Image(path).check()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    """A pipe or device says nothing of its size: reading it may take for ever, or all memory."""
    os.mkfifo(tmp_path / "pipe.png")

    async def scenario() -> None:
        with pytest.raises(BadRequestError, match=r"pipe\.png"):
            Image(tmp_path / "pipe.png").check()
        with pytest.raises(BadRequestError, match=r"pipe\.png"):
            _ = Image(tmp_path / "pipe.png").content

    MODES["sync"].run(scenario, 5.0)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as sparse:
        sparse.write(BEGINNINGS["image/png"])
        sparse.truncate(1 << 40)  # a terabyte that takes no place: reading it would not end
    with pytest.raises(BadRequestError, match=r"large\.png.* at most 52,428,800"):
        Image(file).check()
    with pytest.raises(BadRequestError, match=r"large\.png.* at most 52,428,800"):
        _ = Image(file).content
    with file.open("wb") as sparse:
        sparse.truncate(MAX_IMAGE_BYTES)
    with pytest.raises(BadRequestError, match="is no PNG"):  # the largest that is still read
        _ = Image(file).content


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no such files")
def test_a_file_that_has_more_than_it_says_is_read_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmclient.media.image.MAX_IMAGE_BYTES", 100)
    assert Path("/proc/self/maps").stat().st_size == 0
    with pytest.raises(BadRequestError, match="more bytes; at most 100"):
        _ = Image("/proc/self/maps").content


class Endless(io.RawIOBase):
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "it has no end"
        return self.content[:size]


def test_a_file_object_is_read_within_bounds() -> None:
    with pytest.raises(BadRequestError, match=r"more bytes; at most 52,428,800"):
        _ = Image(Endless(RED + bytes(MAX_IMAGE_BYTES))).content
    with pytest.raises(BadRequestError, match=r"more bytes; at most 52,428,800"):
        _ = Audio(Endless(SILENCE + bytes(MAX_AUDIO_BYTES))).content


@pytest.mark.parametrize("make", [Image, Audio])
def test_a_file_object_that_gives_no_bytes_is_refused(make: Any) -> None:
    for stream, said in ((io.StringIO("a"), "open it in binary mode"), (io.FileIO(os.devnull, "w"), "cannot be read")):
        with stream, pytest.raises(BadRequestError, match=said):
            _ = make(stream).content
    closed = io.BytesIO(RED)
    closed.close()
    with pytest.raises(BadRequestError, match="closed file"):
        _ = make(closed).content


@pytest.mark.parametrize("url", ["data:image/png;base64,A", "data:;base64,Ä", "data:image/png;base64,iVBOR\n"])
def test_a_data_url_of_no_base64_is_refused(url: str) -> None:
    with pytest.raises(BadRequestError, match="no valid base64"):
        _ = Image(url).content
    with pytest.raises(BadRequestError, match="is no PNG"):
        _ = Image("data:image/png;base64,AAAA").content


def test_an_address_is_no_picture_until_it_was_fetched() -> None:
    image = Image("https://example.com/a.png")
    image.check()
    with pytest.raises(BadRequestError, match=r"Only the address of 'https://example\.com/a\.png' is known"):
        _ = image.content
    image.keep(RED)
    assert (image.content, image.at_hand, image.inline) == (RED, True, False)
    assert image.url == "https://example.com/a.png"


@pytest.mark.parametrize("source", [5, 1.5, ["a.png"], object(), True, {}])
def test_a_source_of_another_kind_is_refused(source: Any) -> None:
    with pytest.raises(BadRequestError, match=f"not {type(source).__name__}"):
        Image(source)


@pytest.mark.parametrize("url", ["/etc/hostname", "a.png", "file:///etc/hostname", "ftp://example.com/a.png", ""])
def test_what_is_given_as_a_url_is_never_read_as_a_path(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    with pytest.raises(BadRequestError, match="starts with http"):
        Image(url=url)
    with pytest.raises(BadRequestError, match="starts with http"):
        Image.from_url(url)
    with pytest.raises(BadRequestError, match="starts with http"):
        Image.model_validate_json(f'{{"type": "image", "url": "{url}"}}')


# --- what it shows


def test_repr_is_short() -> None:
    image = Image(RED + bytes(1_000_000))
    payload = decoded(image)[1]
    assert len(payload) > 1_000_000
    for shown in (repr(image), str(image), repr([image])):
        assert len(shown) < 100
        assert shown.strip("[]") == "Image(1,000,074 bytes)"
    shown = repr(Image(image.url))
    assert shown.startswith("Image('data:image/png;base64,iVBOR")
    assert len(shown) < 100
    assert len(repr(Message.user("What is this?", image))) < 300
    assert repr(Image("https://example.com/a.png")) == "Image('https://example.com/a.png')"
    assert repr(Image("photo.png")) == "Image('photo.png')"
    assert repr(Image("folder/" * 50 + "photo.png")).endswith("folder/photo.png')"), "of a path its end says most"
    assert len(repr(Image("folder/" * 50 + "photo.png"))) < 80
    assert repr(Image(PIL.Image.new("L", (1, 1)))) == "Image(a Image)"
    assert repr(Audio(SILENCE)) == f"Audio({len(SILENCE)} bytes)"


def big(width: int = 1200, height: int = 600) -> bytes:
    file = io.BytesIO()
    PIL.Image.effect_noise((width, height), 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_a_notebook_shows_a_small_picture_and_fetches_nothing() -> None:
    content = big()
    shown = Image(content)._repr_html_()
    assert shown.startswith('<img src="data:image/')
    assert f'alt="Image({len(content):,} bytes)"' in shown
    assert len(shown) < len(content) / 4
    assert Image("https://example.com/a.png?<script>")._repr_html_() == (
        "<code>Image(&#x27;https://example.com/a.png?&lt;script&gt;&#x27;)</code>"
    )


def test_a_thumbnail_is_small_and_of_the_same_shape() -> None:
    image = Image(big())
    small = image.thumbnail()
    width, height = PIL.Image.open(io.BytesIO(small.content)).size
    assert 0 < width * height <= 256 * 256
    assert width / height == pytest.approx(2, rel=0.02)
    assert image.content == big() or len(image.content) > len(small.content), "the picture stays what it is"
    assert Image(RED).thumbnail().content == RED, "what is small goes through as it is"


# --- sound


def samples_of(audio: Audio) -> tuple[int, int, list[int]]:
    with wave.open(io.BytesIO(audio.content)) as file:
        frames = file.readframes(file.getnframes())
        assert file.getsampwidth() == 2
        return file.getframerate(), file.getnchannels(), np.frombuffer(frames, "<i2").tolist()


MP3 = [b"ID3\x04\0\0\0\0\0\0", b"\xff\xfb\x90\x00", b"\xff\xf3\x40\xc0", b"\xff\xe3\x18\xc4", b"\xff\xfa\x90\x00"]
NEITHER = [b"", b"OggS\0", b"fLaC", b"RIFF\0\0\0\0AVI ", b"\xff\xf1\x50\x80", b"\xff\xd8\xff", b"\xff", RED]


@pytest.mark.parametrize(("content", "format"), [(SILENCE, "wav"), *[(mp3, "mp3") for mp3 in MP3]])
def test_the_format_of_sound_is_what_the_content_shows(tmp_path: Path, content: bytes, format: str) -> None:
    """MPEG 1, 2 and 2.5, layer III, with and without a checksum; ID3 before it."""
    file = tmp_path / "question.txt"
    file.write_bytes(content)
    for source in (content, bytearray(content), file, str(file), io.BytesIO(content)):
        audio = Audio(source)
        assert (audio.format, audio.content) == (format, content)
        assert base64.b64decode(audio.data, validate=True) == content
        assert Audio.model_validate_json(audio.model_dump_json()) == audio
        assert hash(audio) == hash(Audio(content))
        assert audio != Audio(SILENCE + b"\0")


@pytest.mark.parametrize("content", NEITHER)
def test_what_is_neither_wav_nor_mp3_is_refused(tmp_path: Path, content: bytes) -> None:
    """Ogg, FLAC, AVI, AAC, a picture."""
    file = tmp_path / "question.wav"
    file.write_bytes(content)
    with pytest.raises(BadRequestError, match=r"question\.wav' is neither WAV nor MP3: convert it"):
        _ = Audio(file).content
    with pytest.raises(BadRequestError, match="neither WAV nor MP3"):
        Audio(content).check()


def test_an_array_of_samples_becomes_a_wav_file() -> None:
    whole = np.array([0, 1, -1, 32767, -32768], "int16")
    assert samples_of(Audio(whole, sampling_rate=16_000)) == (16_000, 1, whole.tolist())
    assert samples_of(Audio(whole.astype(">i2"), sampling_rate=16_000)) == (16_000, 1, whole.tolist())
    for kind in ("float16", "float32", "float64", ">f4"):
        parts = np.array([0, 1, -1, 0.5, 2, -2], kind)
        assert samples_of(Audio(parts, sampling_rate=44_100))[2] == [0, 32767, -32767, 16384, 32767, -32767]
    stereo = np.array([[1, 2], [3, 4], [5, 6]], "int16")
    assert samples_of(Audio(stereo, sampling_rate=8000)) == (8000, 2, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("rate", [None, 0, -1, 1.5, 16_000.0, True, "16000", 1_000_000])
def test_an_array_needs_its_sampling_rate(rate: Any) -> None:
    with pytest.raises(BadRequestError, match="needs its sampling_rate"):
        Audio(np.zeros(8, "int16"), sampling_rate=rate)


def test_a_file_says_its_sampling_rate_itself() -> None:
    with pytest.raises(BadRequestError, match="with arrays only"):
        Audio(SILENCE, sampling_rate=16_000)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(8, "uint8"),
        np.zeros(8, "int32"),
        np.zeros(8, "complex64"),
        np.zeros(0, "int16"),
        np.zeros((8, 9), "int16"),
        np.zeros((2, 8, 2), "int16"),
        np.zeros((), "int16"),
        np.array([0.0, np.nan]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_sound_is_refused(array: Any) -> None:
    with pytest.raises(BadRequestError, match=r"no sound|Samples are"):
        Audio(array, sampling_rate=8000)


@pytest.mark.parametrize("source", [5, 1.5, ["a.wav"], object(), True, {}])
def test_sound_of_another_kind_is_refused(source: Any) -> None:
    with pytest.raises(BadRequestError, match=f"not {type(source).__name__}"):
        Audio(source)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"data": None},
        {"data": 5},
        {"data": "no base64!"},
        {"data": base64.b64encode(SILENCE).decode(), "format": "mp3"},
        {"data": base64.b64encode(RED).decode(), "format": "wav"},
    ],
)
def test_sound_in_an_openai_shape_is_checked(shape: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        Message.from_openai({"role": "user", "content": [{"type": "input_audio", "input_audio": shape}]})


def test_what_stands_for_sound_becomes_it(tmp_path: Path) -> None:
    audio = Audio(SILENCE)
    assert as_audio(audio) is audio
    assert as_audio(SILENCE) == audio
    (tmp_path / "a.wav").write_bytes(SILENCE)
    assert as_audio("a.wav") == audio
    assert Message.user("?", audio).audio == (audio,)
    assert Message.user("?", audio).images == ()
    with pytest.raises(ValueError, match="frozen"):
        audio.type = "audio"  # type: ignore[misc]


def test_a_picture_has_one_source() -> None:
    with pytest.raises(BadRequestError, match="one source"):
        Image(RED, url="https://example.com/a.png")


@pytest.mark.parametrize("kind", [Image, Audio])
@pytest.mark.parametrize(
    ("written", "hint"),
    [("ftp://e.example/a", "an address, not a path: download it first"), ("file:///a.png", "write the path alone")],
)
def test_an_address_that_is_no_path_is_told_apart(kind: Any, written: str, hint: str) -> None:
    with pytest.raises(BadRequestError, match=hint):
        kind(written).check()


def test_sound_at_an_address_is_not_fetched() -> None:
    with pytest.raises(BadRequestError, match="download it first"):
        Audio("https://e.example/a.wav").check()
