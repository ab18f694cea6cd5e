"""Images: what they are made of, what is refused, and how little they show of themselves."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient import Image, Message
from slmclient.errors import BadRequestError
from slmclient.media import MAX_IMAGE_BYTES, as_base64, image_type
from slmclient.testing.hooks import RED
from slmclient.testing.mode import MODES

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


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_file_is_read_at_once(tmp_path: Path, as_path: Any) -> None:
    """A saved conversation opens elsewhere, and a file that changes later changes no message."""
    file = tmp_path / "a.png"
    file.write_bytes(RED)
    image = Image(as_path(file))
    file.unlink()
    assert decoded(image) == ("image/png", RED)


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


def test_detail_is_kept_and_checked() -> None:
    assert Image(RED, detail="low").detail == "low"
    assert Image(RED).detail is None
    with pytest.raises(ValueError, match="detail"):
        Image(RED, detail="highest")  # type: ignore[arg-type]


def test_an_image_survives_json() -> None:
    for image in (Image(RED), Image(RED, detail="high"), Image("https://example.com/å.png")):
        assert Image.model_validate_json(image.model_dump_json()) == image


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
        with pytest.raises(BadRequestError, match="no PNG, JPEG, GIF, WebP or BMP"):
            Image(content)


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"<svg xmlns='http://w3.org/2000/svg'/>", b"RIFF\0\0\0\0WAVE"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    with pytest.raises(BadRequestError, match=r"photo\.png.* is no PNG"):
        Image(file)


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(BadRequestError, match=r"nowhere\.png.*cannot be read"):
        Image("nowhere.png")


@pytest.mark.parametrize("path", ["", ".", "a\0b.png", "x" * 5000])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(BadRequestError, match="cannot be read"):
        Image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    """A pipe or device says nothing of its size: reading it may take for ever, or all memory."""
    os.mkfifo(tmp_path / "pipe.png")

    async def scenario() -> None:
        with pytest.raises(BadRequestError, match=r"pipe\.png"):
            Image(tmp_path / "pipe.png")

    MODES["sync"].run(scenario, 5.0)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as sparse:
        sparse.write(BEGINNINGS["image/png"])
        sparse.truncate(1 << 40)  # a terabyte that takes no place: reading it would not end
    with pytest.raises(BadRequestError, match=r"large\.png.* at most 52,428,800"):
        Image(file)
    with file.open("wb") as sparse:
        sparse.truncate(MAX_IMAGE_BYTES)
    with pytest.raises(BadRequestError, match="is no PNG"):  # the largest that is still read
        Image(file)


@pytest.mark.parametrize("source", [5, 1.5, ["a.png"], object(), bytearray(RED)])
def test_a_source_of_another_kind_is_refused(source: Any) -> None:
    with pytest.raises(BadRequestError, match=f"not {type(source).__name__}"):
        Image(source)


@pytest.mark.parametrize("url", ["/etc/hostname", "a.png", "file:///etc/hostname", "ftp://example.com/a.png", ""])
def test_what_is_given_as_a_url_is_never_read_as_a_path(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    with pytest.raises(ValueError, match="starts with http"):
        Image(url=url)
    with pytest.raises(ValueError, match="starts with http"):
        Image.model_validate_json(f'{{"type": "image", "url": "{url}"}}')


# --- what it shows


def test_repr_is_short() -> None:
    image = Image(RED + bytes(1_000_000))
    payload = decoded(image)[1]
    assert len(payload) > 1_000_000
    for shown in (repr(image), str(image), repr([image])):
        assert len(shown) < 100
        assert shown.strip("[]").startswith("Image('data:image/png")
    assert len(repr(Message.user("What is this?", image))) < 300
    assert repr(Image("https://example.com/a.png")) == "Image('https://example.com/a.png')"
