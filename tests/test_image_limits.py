"""Every way to give a picture, at every provider: what arrives there is a picture that it takes, or nothing does.

The expected limits stand here by hand, from the providers' documentation, and not from the drivers; the pictures are
taken out of the requests as servers got them, and unpacked by Pillow.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy
import pytest
from PIL import Image as Pillow

from slmclient import Image, Message
from slmclient.drivers import registry
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.errors import BadRequestError, UnsupportedFeatureError
from slmclient.testing.fault_server import FaultServer, Seen, whole
from test_client import Face, both

KNOWN = frozenset({"PNG", "JPEG", "GIF", "WEBP", "BMP"})
SENT_AS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP", "image/bmp": "BMP"}


class HostedNvidia(NvidiaDriver):
    """The driver at NVIDIA's own service, which here is on loopback."""

    info: DriverInfo = replace(NvidiaDriver.info, vendor_hosts=("127.0.0.1",))


class HostedAzure(AzureDriver):
    """The driver at Azure itself, which here is on loopback."""

    info: DriverInfo = replace(AzureDriver.info, vendor_hosts=("127.0.0.1",))


@dataclass(frozen=True)
class Provider:
    """One provider's endpoint, and what it takes of pictures."""

    name: str
    path: str = "/v1"
    model: str = "m"
    kind: type[Driver] | None = None
    """The driver's class; None is the registry's."""
    formats: frozenset[str] = KNOWN
    urls: bool = True
    base64: int | None = None
    count: int | None = None

    def driver(self, url: str) -> Driver:
        config = DriverConfig(self.name, self.model, base_url=url + self.path)
        return self.kind(config) if self.kind else registry.new_driver(config)


PROVIDERS = {
    "openai": Provider("openai"),
    "github": Provider("github", "/inference"),
    "azure": Provider("azure", "/openai/v1"),
    "azure, Phi-3.5-vision": Provider("azure", "/openai/v1", "Phi-3.5-vision-instruct", HostedAzure, count=1),
    "nvidia": Provider("nvidia", kind=HostedNvidia, formats=frozenset({"PNG", "JPEG"}), urls=False, base64=180_000),
    "nvidia, a container": Provider("nvidia"),
    "ollama": Provider("ollama", "", formats=frozenset({"PNG", "JPEG", "WEBP"}), urls=False),
}
FETCHING = [name for name, provider in PROVIDERS.items() if not provider.urls]


# --- the pictures: four fields of different colours, so that it shows which side is up


@cache
def drawn(width: int = 96, height: int = 64, noise: int = 0) -> Pillow.Image:
    """Return the picture that all files here show."""
    pixels = numpy.zeros((height, width, 3), "uint8")
    half, middle = height // 2, width // 2
    pixels[:half, :middle], pixels[:half, middle:] = (220, 30, 30), (30, 200, 30)
    pixels[half:, :middle], pixels[half:, middle:] = (30, 30, 220), (230, 230, 230)
    if noise:
        grain = numpy.random.default_rng(0).integers(-noise, noise, pixels.shape)
        pixels = numpy.clip(pixels + grain, 0, 255).astype("uint8")
    return Pillow.fromarray(pixels)


@cache
def file(file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    drawn().save(out, file_format, **options)
    return out.getvalue()


@cache
def large() -> bytes:
    """Return a photo of more than 6 MB, such as a camera makes."""
    out = io.BytesIO()
    drawn(3200, 2400, noise=70).save(out, "JPEG", quality=94)
    assert len(out.getvalue()) > 6_000_000
    return out.getvalue()


@cache
def rotated() -> bytes:
    """Return a JPEG file whose EXIF data alone says which side is up."""
    out = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    drawn().rotate(90, expand=True).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


@cache
def animated() -> bytes:
    out = io.BytesIO()
    drawn().save(out, "GIF", save_all=True, append_images=[Pillow.new("RGB", drawn().size, "black")], duration=100)
    return out.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True)
class Given:
    """A picture as a user gives it."""

    source: Callable[[Path], Any]
    """Makes it, given a folder."""
    content: Callable[[], bytes] | None = None
    """The file that goes as it is where its format and size are taken; None where there is no file yet."""
    shows: Callable[[], Pillow.Image] = drawn
    """The picture, upright."""
    changed: bool = False
    """Whether it is written anew everywhere."""


def in_file(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


SOURCES = {
    "data URL": Given(lambda folder: f"data:image/png;base64,{base64_of(file())}", file),
    "percent-encoded data URL": Given(lambda folder: f"data:image/png,{quote_from_bytes(file())}", file),
    "mislabelled data URL": Given(lambda folder: f"data:image/jpeg;base64,{base64_of(file())}", file),
    "data URL of no type": Given(lambda folder: f"data:;base64,{base64_of(file('JPEG'))}", lambda: file("JPEG")),
    "path": Given(in_file(file(), "a.png"), file),
    "path as a str": Given(lambda folder: str(in_file(file(), "a.png")(folder)), file),
    "path with a wrong ending": Given(in_file(file(), "a.jpg"), file),
    "bytes": Given(lambda folder: file(), file),
    "file object": Given(lambda folder: in_file(file(), "a.png")(folder).open("rb"), file),
    "Pillow image": Given(lambda folder: drawn()),
    "NumPy array": Given(lambda folder: numpy.asarray(drawn())),
    "6 MB": Given(lambda folder: large(), large, lambda: opened(large())),
    "WebP": Given(lambda folder: file("WEBP", lossless=True), lambda: file("WEBP", lossless=True)),
    "BMP": Given(lambda folder: file("BMP"), lambda: file("BMP")),
    "GIF": Given(lambda folder: animated(), animated),
    "lying on its side": Given(lambda folder: rotated(), changed=True),
}


# --- what arrived


@dataclass(frozen=True)
class Arrived:
    """A picture as the server got it."""

    content: bytes
    media_type: str | None
    """What the request says that it is; Ollama's wire says nothing."""
    characters: int


def answered(seen: Seen) -> bytes:
    message = {"role": "assistant", "content": "Four fields."}
    if seen.path == "/api/chat":
        return whole(200, {"model": "m", "message": message, "done": True, "done_reason": "stop"})
    return whole(200, {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(answered) as running:
        yield running


def addresses(seen: Seen) -> list[str]:
    """Return the URLs of a request's pictures, of whatever kind; for Ollama's wire with nothing before the base64."""
    found: list[str] = []
    for message in json.loads(seen.body)["messages"]:
        found += message.get("images", [])
        parts = message["content"] if isinstance(message["content"], list) else []
        assert all(part["type"] in ("text", "image_url") for part in parts)
        found += [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return found


def arrived(seen: Seen) -> list[Arrived]:
    """Return a request's pictures."""
    found: list[Arrived] = []
    for address in addresses(seen):
        kind, mark, encoded = address.rpartition(";base64,")
        assert (kind[:5] == "data:") if mark else kind == ""
        content = base64.b64decode(encoded, validate=True)
        found.append(Arrived(content, kind[5:] if mark else None, len(encoded)))
    return found


def opened(content: bytes) -> Pillow.Image:
    picture = Pillow.open(io.BytesIO(content))
    picture.load()
    return picture


def unlike(picture: Pillow.Image, wanted: Pillow.Image, width: int = 48, height: int = 32) -> float:
    """Return how far two pictures are apart, scaled down alike: the mean difference of a colour's value, of 255."""
    one, other = (
        numpy.asarray(each.convert("RGB").resize((width, height), Pillow.Resampling.BOX), "float")
        for each in (picture, wanted)
    )
    return float(numpy.abs(one - other).mean())


def check(provider: Provider, got: Arrived, given: Given) -> None:
    """Fail unless what arrived is a picture that the provider takes, and the one that was given."""
    picture = opened(got.content)
    assert picture.format in provider.formats
    if got.media_type is not None:
        assert SENT_AS[got.media_type] == picture.format, "a server reads it by what the request says"
    assert provider.base64 is None or got.characters <= provider.base64
    assert picture.getexif().get(0x0112, 1) == 1, "few servers look there"
    wanted = given.shows()
    assert unlike(picture, wanted) < 6
    assert picture.width / picture.height == pytest.approx(wanted.width / wanted.height, rel=0.02)
    if given.content is not None and not given.changed:
        content = given.content()
        fits = opened(content).format in provider.formats and len(base64_of(content)) <= (provider.base64 or 2**40)
        assert (got.content == content) is fits, "what fits goes as it is"


def test_the_check_can_fail() -> None:
    """A picture of another format, length, side or content is noticed."""
    nvidia, plain = PROVIDERS["nvidia"], SOURCES["bytes"]
    good = Arrived(file(), "image/png", 1000)
    check(nvidia, good, plain)
    for bad in (
        replace(good, media_type="image/jpeg"),
        replace(good, characters=180_001),
        Arrived(file("WEBP"), "image/webp", 1000),
        Arrived(rotated(), "image/jpeg", 1000),
        Arrived(file("PNG", optimize=True), "image/png", 1000),
    ):
        with pytest.raises(AssertionError):
            check(nvidia, bad, plain)
    assert unlike(drawn(), drawn().rotate(180)) > 50
    assert unlike(drawn(), drawn().transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)) > 50


# --- the table


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", PROVIDERS)
@both
async def test_what_is_given_arrives_as_the_provider_takes_it(
    face: Face, server: FaultServer, tmp_path: Path, name: str, source: str
) -> None:
    provider, given = PROVIDERS[name], SOURCES[source]
    picture = given.source(tmp_path)
    with picture if isinstance(picture, io.IOBase) else nullcontext():
        async with face.opened(face.kind(driver=provider.driver(server.url), max_retries=0)) as client:
            reply = await face.done(client.chat("What is it?", images=[picture]))
    (seen,) = server.seen
    (got,) = arrived(seen)
    check(provider, got, given)
    if given.content is not None and got.content == given.content():
        assert reply.images == ()
    if given.content is not None and got.content != given.content():
        (told,) = reply.images
        assert (told.number, told.original_bytes, told.bytes) == (1, len(given.content()), len(got.content))
        assert SENT_AS[told.format] == opened(got.content).format
        assert told.changes


@both
async def test_a_photo_of_6_mb_still_shows_what_it_showed(face: Face, server: FaultServer) -> None:
    provider = PROVIDERS["nvidia"]
    await face.done(face.kind(driver=provider.driver(server.url)).chat("What is it?", images=[large()]))
    (got,) = arrived(server.seen[0])
    assert 110_000 < got.characters <= 180_000, "as large as it may be, or nearly"
    picture = opened(got.content)
    assert max(picture.size) >= 256
    assert unlike(picture, opened(large()), 128, 96) < 12


@pytest.mark.parametrize("name", PROVIDERS)
@both
async def test_an_address_is_fetched_where_the_provider_does_not(face: Face, server: FaultServer, name: str) -> None:
    provider = PROVIDERS[name]
    client = face.kind(driver=provider.driver(server.url), allow_private_urls=True, max_retries=0)
    with FaultServer(whole(200, file("BMP"), "text/plain")) as pictures:
        address = f"{pictures.url}/a.png"
        reply = await face.done(client.chat("What is it?", images=[address]))
    assert [seen.path for seen in pictures.seen] == ([] if provider.urls else ["/a.png"])
    if provider.urls:
        assert addresses(server.seen[0]) == [address]
        assert reply.images == ()
        return
    (got,) = arrived(server.seen[0])
    check(provider, got, SOURCES["BMP"])
    assert reply.images[0].changes[0] == "fetched"


@pytest.mark.parametrize("name", FETCHING)
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (whole(200, "<html>Sign in</html>", "image/png"), "is no PNG, JPEG, GIF, WebP or BMP picture"),
        (whole(404, ""), "404"),
    ],
    ids=["no picture", "404"],
)
@both
async def test_an_address_without_a_picture_is_sent_nowhere(
    face: Face, server: FaultServer, name: str, answer: bytes, says: str
) -> None:
    client = face.kind(driver=PROVIDERS[name].driver(server.url), allow_private_urls=True, max_retries=0)
    with FaultServer(answer) as pictures, pytest.raises(BadRequestError, match=says):
        await face.done(client.chat("What is it?", images=[f"{pictures.url}/a.png"]))
    assert server.seen == []


@pytest.mark.parametrize("name", FETCHING)
@both
async def test_an_address_of_this_machine_is_not_asked_unless_it_may(
    face: Face, server: FaultServer, name: str
) -> None:
    client = face.kind(driver=PROVIDERS[name].driver(server.url), max_retries=0)
    with FaultServer(whole(200, file())) as pictures, pytest.raises(BadRequestError, match="allow_private_urls=True"):
        await face.done(client.chat("What is it?", images=[f"{pictures.url}/a.png"]))
    assert (pictures.seen, server.seen) == ([], [])


BAD = {
    "text file": in_file(b"This is no picture.", "a.png"),
    "text as bytes": lambda folder: b"This is no picture.",
    "text in a data URL": lambda folder: "data:image/png;base64,VGhpcw==",
    "no base64": lambda folder: "data:image/png;base64,$$$",
    "no such file": lambda folder: folder / "missing.png",
    "a folder": lambda folder: folder,
    "nothing": lambda folder: b"",
}


@pytest.mark.parametrize("source", BAD)
@pytest.mark.parametrize("name", PROVIDERS)
@both
async def test_what_is_no_picture_is_sent_nowhere(
    face: Face, server: FaultServer, tmp_path: Path, name: str, source: str
) -> None:
    client = face.kind(driver=PROVIDERS[name].driver(server.url), max_retries=0)
    with pytest.raises(BadRequestError):
        await face.done(client.chat("What is it?", images=[BAD[source](tmp_path)]))
    assert server.seen == []


@pytest.mark.parametrize("name", PROVIDERS)
@both
async def test_several_arrive_in_their_order_or_are_too_many(face: Face, server: FaultServer, name: str) -> None:
    provider = PROVIDERS[name]
    client = face.kind(driver=provider.driver(server.url), max_retries=0)
    colours = ("red", "lime", "blue")
    pictures = [Pillow.new("RGB", (40, 30), colour) for colour in colours]
    if provider.count is not None:
        for several in (pictures, pictures[:2]):
            with pytest.raises(UnsupportedFeatureError, match="takes 1 image in a message"):
                await face.done(client.chat("Compare them.", images=several))
        assert server.seen == []
        turns = [
            Message.user("First", Image(pictures[0])),
            Message.assistant("Red."),
            Message.user("Next", Image(pictures[1])),
        ]
        await face.done(client.chat(turns))
        assert len(arrived(server.seen[0])) == 2, "one a turn is none too many"
        return
    await face.done(client.chat("Compare them.", images=pictures))
    found = [opened(got.content) for got in arrived(server.seen[0])]
    for picture, wanted in zip(found, pictures, strict=True):
        assert unlike(picture, wanted) < 3


@both
async def test_too_many_are_refused_before_any_is_read(face: Face, server: FaultServer, tmp_path: Path) -> None:
    client = face.kind(driver=PROVIDERS["azure, Phi-3.5-vision"].driver(server.url), allow_private_urls=True)
    no_picture = in_file(b"This is no picture.", "a.png")(tmp_path)
    with FaultServer(whole(200, file())) as pictures, pytest.raises(UnsupportedFeatureError):
        await face.done(client.chat("Compare them.", images=[pictures.url, no_picture]))
    assert (pictures.seen, server.seen) == ([], [])
