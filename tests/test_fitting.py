"""Pictures made to fit: what comes out always decodes and keeps the limits, and files that bite hurt nobody."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from functools import cache
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFile, PngImagePlugin

from slmclient.errors import BadRequestError
from slmclient.media import FORMATS, ImageLimits
from slmclient.media.fitting import MOST_PIXELS, Fitted, fit

PNG, JPEG, GIF, WEBP, BMP = FORMATS
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
}
ONLY_PNG, ONLY_JPEG = ImageLimits(formats=(PNG,)), ImageLimits(formats=(JPEG,))
BOTH = ImageLimits(formats=(PNG, JPEG))
OTHER_THAN = {kind: ImageLimits(formats=(JPEG,) if kind == "PNG" else (PNG,)) for kind in MODES}


def file(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def noise(size: tuple[int, int], mode: str, seed: int = 1) -> Image.Image:
    grey = "I;16" if mode == "I;16" else "L"
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode)
    raw = random.Random(seed).randbytes(size[0] * size[1] * (bands or (2 if grey == "I;16" else 1)))
    picture = Image.frombytes(mode if bands else grey, size, raw)
    return picture if picture.mode == mode else picture.convert("RGB").convert(mode)


def decoded(made: Fitted) -> Image.Image:
    with Image.open(io.BytesIO(made.content)) as picture:
        assert Image.MIME[picture.format or ""] == made.media_type
        assert picture.size == made.size
        picture.load()
        return picture


def outcome(content: bytes, limits: ImageLimits) -> Fitted | str:
    """Return what was made of it, or why nothing was."""
    try:
        return fit(content, limits, "image 7")
    except BadRequestError as error:
        return str(error)


def corners(picture: Image.Image) -> list[Any]:
    width, height = picture.size
    return [picture.convert("RGB").getpixel(at) for at in ((2, 2), (width - 3, 2), (2, height - 3))]


def near(found: Any, wanted: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(one - other) <= by for one, other in zip(found, wanted, strict=True))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(size: tuple[int, int], packed: bytes, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", packed), chunk(b"IEND", b"")))


@cache
def bomb() -> bytes:
    """Return a real picture of 80 million pixels, in a file of 80 KB."""
    packer = zlib.compressobj(9)
    row = b"\0" * 10_001
    return raw_png((10_000, 8_000), b"".join([*(packer.compress(row) for _ in range(8_000)), packer.flush()]))


@cache
def photo() -> bytes:
    """Return a JPEG of 12 million pixels and some 6 MB: something smooth, and a sensor's noise on it."""
    smooth = Image.radial_gradient("L").resize((4000, 3000), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((4000, 3000), 22)
    bands = [ImageChops.add(band, grain, 1, -128) for band in (smooth, ImageChops.invert(smooth), smooth)]
    return file(Image.merge("RGB", bands), "JPEG", quality=88)


# --- whatever comes in


kinds = st.sampled_from(sorted(MODES)).flatmap(lambda kind: st.tuples(st.just(kind), st.sampled_from(MODES[kind])))
sides = st.integers(1, 300)
sizes = st.one_of(st.tuples(sides, sides), st.sampled_from([(2000, 1), (1, 2000), (1, 1)]))
formats = st.sets(st.sampled_from((*FORMATS, PNG, JPEG)), min_size=1).map(lambda some: tuple(sorted(some)))
limits = st.builds(
    ImageLimits,
    formats=formats,
    bytes=st.none() | st.integers(300, 60_000),
    base64=st.none() | st.integers(300, 60_000),
    pixels=st.none() | st.integers(1, 90_000),
)


@settings(max_examples=250, deadline=None)
@given(kinds, sizes, limits, st.integers(0, 9))
def test_what_comes_out_decodes_and_keeps_the_limits(
    kind: tuple[str, str], size: tuple[int, int], limits: ImageLimits, seed: int
) -> None:
    content = file(noise(size, kind[1], seed), kind[0])
    made = outcome(content, limits)
    if isinstance(made, str):
        assert made.startswith("image 7 ")
        targets = {PNG, JPEG, WEBP} & set(limits.formats)
        assert not targets or (limits.largest and limits.largest < 45_000 + 200_000 * (JPEG not in targets))
        return
    assert made.media_type in limits.formats
    assert len(made.content) <= (limits.largest or len(made.content))
    assert made.original_type == Image.MIME[kind[0]]
    if made.content is content:
        assert made.changes == ()
        assert made.size == made.original_size == (size if limits.pixels else None)
        assert not limits.pixels or size[0] * size[1] <= limits.pixels
        return
    assert made.changes
    assert made.original_size == size
    width, height = decoded(made).size
    assert not limits.pixels or width * height <= limits.pixels
    assert ("scaled down" in made.changes) == ((width, height) != size)
    factor = max(width, height) / max(size)
    assert abs(width - size[0] * factor) <= 1
    assert abs(height - size[1] * factor) <= 1


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("size", [(1, 1), (255, 257), (20_000, 1)])
def test_a_file_that_fits_is_the_same_file(kind: str, size: tuple[int, int]) -> None:
    if kind == "WEBP" and size[0] > 16_383:
        size = (16_383, 1)
    content = file(Image.new("RGB", size, "red"), kind)
    made = fit(content, ImageLimits(bytes=len(content), pixels=size[0] * size[1]), "image 1")
    assert made.content is content
    assert (made.size, made.changes) == (size, ())
    assert fit(content, ImageLimits(), "image 1").original_size is None
    assert size == (1, 1) or fit(content, ImageLimits(pixels=size[0] * size[1] - 1), "image 1").changes


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0MM"}], ids=str)
def test_the_size_of_every_kind_of_webp_is_read(options: dict[str, Any]) -> None:
    content = file(noise((301, 77), "RGB"), "WEBP", **options)
    assert fit(content, ImageLimits(pixels=301 * 77), "image 1").size == (301, 77)
    assert fit(content, ImageLimits(pixels=301 * 77 - 1), "image 1").original_size == (301, 77)


def test_what_comes_out_is_the_same_each_time_and_in_each_thread() -> None:
    content, made = file(noise((400, 300), "RGBA"), "PNG"), []
    tasks = [threading.Thread(target=lambda: made.append(fit(content, ImageLimits(bytes=40_000), "a"))) for _ in "1234"]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert len(made) == 4
    assert len(set(made)) == 1


# --- what becomes of each kind


def test_drawings_become_png_where_that_fits_and_jpeg_where_it_does_not() -> None:
    plain, busy = Image.new("RGB", (500, 400), "teal"), noise((500, 400), "RGB")
    for kind, original in (("BMP", BMP), ("GIF", GIF)):
        made = fit(file(plain, kind), BOTH, "image 1")
        assert (made.media_type, made.changes) == (PNG, (f"converted from {original}",))
        assert near(corners(decoded(made))[0], (0, 128, 128), 0)
    made = fit(file(busy, "BMP"), ImageLimits(formats=(PNG, JPEG), bytes=250_000), "image 1")
    assert (made.media_type, made.size, made.changes[0]) == (JPEG, (500, 400), f"converted from {BMP}")
    made = fit(file(busy, "BMP"), ImageLimits(formats=(PNG,), bytes=400_000), "image 1")
    assert (made.media_type, made.changes) == (PNG, (f"converted from {BMP}", "scaled down"))
    made = fit(file(busy, "BMP"), ImageLimits(formats=(WEBP,)), "image 1")
    assert (made.media_type, made.changes) == (WEBP, (f"converted from {BMP}", "WebP quality 90"))


def test_quality_is_given_before_pixels() -> None:
    picture = noise((600, 400), "RGB")
    content, lengths = file(picture, "JPEG", quality=98), [len(file(picture, "JPEG", quality=q)) for q in (90, 75, 60)]
    made = [fit(content, ImageLimits(bytes=int(length * 1.1)), "image 1") for length in lengths]
    assert [one.changes for one in made] == [("JPEG quality 90",), ("JPEG quality 75",), ("JPEG quality 60",)]
    smaller = fit(content, ImageLimits(bytes=lengths[-1] // 2), "image 1")
    assert smaller.changes[0] == "scaled down"
    assert len(smaller.content) > lengths[-1] / 2 * 0.6  # no smaller than it has to be


def test_what_fits_at_no_size_is_refused_with_the_limit_and_a_way_out() -> None:
    content = file(noise((900, 300), "RGB"), "JPEG")
    with pytest.raises(BadRequestError, match=r"^image 3 does not fit: at most 2,000 bytes .* 256 × 85 .* Crop it"):
        fit(content, ImageLimits(bytes=2_000), "image 3")
    with pytest.raises(BadRequestError, match=r"^image 3 is image/jpeg; what is taken is image/gif\..* none of them"):
        fit(content, ImageLimits(formats=(GIF,)), "image 3")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_in_png_and_put_on_white_in_jpeg(mode: str) -> None:
    picture = Image.new("RGBA", (40, 30), (200, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 30))  # what cannot be seen is black
    content = file(picture.convert(mode), "PNG")
    made = fit(content, ONLY_JPEG, "image 1")
    assert made.changes == ("transparency put on white", f"converted from {PNG}", "JPEG quality 90")
    seen = corners(decoded(made))
    assert near(seen[0], (255, 255, 255))
    assert near(seen[1], (60, 60, 60) if mode == "LA" else (200, 0, 0))
    kept = decoded(fit(content, ImageLimits(formats=(PNG, JPEG), pixels=1_100), "image 1"))
    assert kept.getpixel((2, 2))[3] == 0  # type: ignore[index]
    assert kept.getpixel((35, 2))[3] == 255  # type: ignore[index]
    webp = fit(file(picture, "WEBP", lossless=True), BOTH, "image 1")
    assert (webp.media_type, decoded(webp).mode) == (PNG, "RGBA")


def test_an_alpha_channel_that_hides_nothing_is_no_transparency() -> None:
    made = fit(file(Image.new("RGBA", (40, 30), (0, 200, 0, 255)), "PNG"), ONLY_JPEG, "image 1")
    assert made.changes == (f"converted from {PNG}", "JPEG quality 90")


def test_transparent_colours_of_16_bits_are_none_of_8_bits() -> None:
    """A PNG may name one colour that is transparent; two that only look alike in 8 bits are not it."""
    rows = zlib.compress(b"".join(b"\0" + struct.pack(">2H", 0, 65535) * 4 for _ in range(8)))
    content = raw_png((8, 8), rows, chunk(b"tRNS", b"\xff\xff"), depth=16)
    assert decoded(fit(content, ImageLimits(formats=(PNG,), pixels=63), "image 1")).mode == "L"


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    picture = Image.new("I;16", (60, 40), 32_896)
    picture.paste(65_535, (30, 0, 60, 40))
    made = fit(file(picture, "PNG"), ONLY_JPEG, "image 1")
    assert made.changes == ("16 bits made 8", f"converted from {PNG}", "JPEG quality 90")
    assert [seen[0] for seen in corners(decoded(made))] == [128, 255, 128]


def test_cmyk_becomes_rgb() -> None:
    made = fit(file(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG"), ONLY_PNG, "image 1")
    assert made.changes == ("CMYK made RGB", f"converted from {JPEG}")
    assert near(corners(decoded(made))[0], (255, 0, 0))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_and_only_if_it_must_be(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    content = file(frames[0], kind, save_all=True, append_images=frames[1:])
    assert fit(content, ImageLimits(), "image 1").content is content
    made = fit(content, OTHER_THAN[kind], "image 1")
    assert made.changes[0] == "the first of 3 frames"
    assert near(corners(decoded(made))[0], (255, 0, 0))


def test_two_photos_in_one_jpeg_are_no_animation() -> None:
    content = file(noise((50, 40), "RGB"), "MPO", save_all=True, append_images=[noise((50, 40), "RGB", 2)])
    assert fit(content, ONLY_PNG, "image 1").changes == (f"converted from {JPEG}",)


# --- metadata


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    """Return a picture that upright is red, green and blue at its upper left, upper right and lower left."""
    picture = Image.new("RGB", (96, 64))
    for colour, at in (("red", (0, 0)), ("lime", (48, 0)), ("blue", (0, 32))):
        picture.paste(colour, (*at, at[0] + 48, at[1] + 32))
    turn = Image.Transpose
    stored = {
        1: None, 2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE, 6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    exif[0x010E] = "Sekret"
    picture = picture if stored is None else picture.transpose(stored)
    return file(picture, kind, exif=exif, **({"quality": 95, "comment": b"Sekret"} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_out_upright_and_without_metadata(orientation: int, kind: str) -> None:
    content = rotated(orientation, kind)
    assert b"Sekret" in content
    made = fit(content, ImageLimits(pixels=5_000), "image 1")  # too many pixels: written anew
    picture = decoded(made)
    assert ("turned upright" in made.changes) == (orientation != 1)
    assert made.original_size == ((64, 96) if orientation > 4 else (96, 64))
    assert picture.size[0] > picture.size[1]
    for seen, wanted in zip(corners(picture), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        assert near(seen, wanted, 40)
    assert not dict(picture.getexif())
    assert b"Sekret" not in made.content
    assert b"Exif" not in made.content


def test_a_jpeg_on_its_side_is_turned_even_if_it_fits() -> None:
    made = fit(rotated(6), ImageLimits(), "image 1")
    assert (made.size, made.changes) == ((96, 64), ("turned upright", "JPEG quality 90"))
    upright = rotated(1)
    assert fit(upright, ImageLimits(), "image 1").content is upright
    broken = rotated(6).replace(b"Exif\0\0II*\0", b"Exif\0\0XXXX").replace(b"Exif\0\0MM\0*", b"Exif\0\0XXXX")
    assert fit(broken, ImageLimits(), "image 1").content is broken


@pytest.mark.parametrize("limits", [ImageLimits(formats=(PNG,), pixels=99), ImageLimits(formats=(JPEG,))], ids=str)
def test_texts_and_colour_profiles_are_left_out(limits: ImageLimits) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "Sekret", zip=False)
    content = file(noise((20, 20), "RGB"), "PNG", pnginfo=text, icc_profile=b"Sekret" * 30)
    assert b"Sekret" in content
    picture = decoded(fit(content, limits, "image 1"))
    assert not {"Comment", "icc_profile", "comment"} & set(picture.info)
    assert fit(content, ImageLimits(bytes=len(content) - 1), "image 1").changes == ("written anew",)


# --- files that bite


@pytest.mark.parametrize("kind", MODES)
def test_what_is_cut_short_is_refused_or_whole(kind: str) -> None:
    picture = noise((60, 50), "L")
    content = file(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    wanted, refused = fit(content, OTHER_THAN[kind], "image 4").content, 0
    for length in [*range(0, 64), *range(64, len(content), max(1, len(content) // 60)), *range(-12, 0)]:
        made = outcome(content[:length], OTHER_THAN[kind])
        if isinstance(made, str):
            assert made.startswith("image 7 ")
            refused += 1
        else:
            assert made.content == wanted
    assert refused > 100
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MODES)), st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), max_size=6))
def test_damage_raises_nothing_else(kind: str, damage: list[tuple[int, int]]) -> None:
    content = bytearray(file(noise((40, 30), "L"), kind))
    for at, byte in damage:
        content[at % len(content)] = byte
    for limits in (OTHER_THAN[kind], ImageLimits(pixels=100)):
        made = outcome(bytes(content), limits)
        if isinstance(made, str):
            assert made.startswith("image 7 ")
        elif made.changes:
            decoded(made)


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF....WEBP", b"BM"])
@pytest.mark.parametrize("limits", [ImageLimits(pixels=9), ImageLimits(bytes=99)], ids=str)
def test_junk_is_refused_by_name(magic: bytes, limits: ImageLimits) -> None:
    for rest in (b"", b"\0" * 200, b"\xff" * 200_000, random.Random(3).randbytes(300)):
        if limits.pixels or len(rest) > 99:
            with pytest.raises(BadRequestError, match=r"^image 5 "):
                fit(magic + rest, limits, "image 5")


@pytest.mark.parametrize("content", [b"", b"GIF", b"<html>", b"%PDF-1.7", b"II*\0" + b"\0" * 99, b"\0" * 999])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequestError, match="image 5 is no PNG, JPEG, GIF, WebP or BMP picture"):
        fit(content, ImageLimits(), "image 5")


def test_what_else_a_file_holds_is_left_out() -> None:
    page, picture = b"PK\3\4<script>alert(1)</script>", noise((30, 20), "RGB")
    tailed, commented = file(picture, "PNG") + page, file(picture, "JPEG", comment=page)
    assert fit(tailed, ImageLimits(), "image 1").content is tailed
    for content in (tailed, commented):
        for limits in (ONLY_PNG, ONLY_JPEG):
            made = fit(content, ImageLimits(formats=limits.formats, pixels=500), "image 1")
            decoded(made)
            assert b"script" not in made.content


def test_a_header_without_end_is_read_by_nobody() -> None:
    content = file(noise((30, 20), "RGB"), "JPEG")
    with pytest.raises(BadRequestError, match="image 5 cannot be read: its header is damaged"):
        fit(content[:2] + b"\xff\xe1\0\2" * 20_000 + content[2:], ONLY_PNG, "image 5")


def test_a_long_line_fits_every_format() -> None:
    line = file(Image.new("L", (70_000, 2), 99), "PNG")
    assert fit(line, ONLY_JPEG, "image 1").size == (65_500, 2)
    assert fit(line, ImageLimits(formats=(WEBP,)), "image 1").size == (16_383, 1)


@pytest.mark.parametrize("size", [(100_000, 100_000), (10_000, 9_500), (MOST_PIXELS + 1, 1)])
@pytest.mark.parametrize("first", [b"", chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))], ids=len)
def test_bombs_are_refused_before_they_go_off_and_without_a_warning(size: tuple[int, int], first: bytes) -> None:
    content = raw_png(size, zlib.compress(b"\0" * 99))
    content = content[:8] + first + content[8:]  # with a first header that says one pixel
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadRequestError, match=f"^image 2 has {size[0]:,} × {size[1]:,} pixels; at most 64,000,000"):
            fit(content, ONLY_JPEG, "image 2")


def test_a_large_photo_gets_under_a_small_limit_and_still_shows_what_it_did() -> None:
    content, limits = photo(), ImageLimits(base64=180_000)
    assert 5_000_000 < len(content) < 8_000_000
    made = fit(content, limits, "image 1")
    assert 135_000 / 2 < len(made.content) <= 135_000  # what is allowed is used
    assert made.changes[0] == "scaled down"
    smooth = Image.radial_gradient("L").resize((64, 48), Image.Resampling.BICUBIC)
    seen = decoded(made).getchannel("R").resize((64, 48), Image.Resampling.BOX)
    assert correlation(list(seen.tobytes()), list(smooth.tobytes())) > 0.95


# --- in a process of its own


CHILD = """
import sys
from pathlib import Path
from slmclient.errors import BadRequestError, MissingDependencyError
from slmclient.media import ImageLimits
from slmclient.media.fitting import fit
assert "PIL" not in sys.modules
content = Path(sys.argv[1]).read_bytes()
"""
MEMORY = """
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
def peak():  # ru_maxrss of a child begins with its parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
before = peak()
try:
    fit(content, ImageLimits(base64=180_000, formats=("image/jpeg",), pixels=PIXELS), "image 1")
except BadRequestError:
    print("refused")
print(peak() - before)
"""
WITHOUT = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
assert fit(content, ImageLimits(pixels=6_144), "image 1").content is content
try:
    fit(b"BM" + bytes(16) + b"\\0\\0\\1\\0" * 2, ImageLimits(bytes=9), "a bomb")
except BadRequestError as error:
    print(error)
for limits in (ImageLimits(pixels=6_143), ImageLimits(bytes=len(content) - 1), ImageLimits(formats=("image/png",))):
    try:
        fit(content, limits, "image 1")
    except MissingDependencyError as error:
        print(error)
"""


def run(code: str, content: bytes, folder: Path) -> list[str]:
    (folder / "picture").write_bytes(content)
    command = [sys.executable, "-c", CHILD + code, str(folder / "picture")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    code = MEMORY.replace("PIXELS", "None")
    refused, grown = run(code, bomb(), tmp_path)
    assert refused == "refused"
    assert int(grown) < 50
    whole = int(run(code, photo(), tmp_path)[0])
    assert 30 < whole < 300
    assert int(run(MEMORY.replace("PIXELS", "200_000"), photo(), tmp_path)[0]) < whole / 2  # never unpacked whole


def test_without_pillow_what_fits_passes_and_the_rest_says_what_it_takes(tmp_path: Path) -> None:
    bomb, *said = run(WITHOUT, rotated(6), tmp_path)
    assert bomb.startswith("a bomb has 65,536 × 65,536 pixels; at most 64,000,000")
    assert [line.partition(";")[0] for line in said] == [
        "image 1 has 64 × 96 pixels",
        f"image 1 has {len(rotated(6)):,} bytes",
        "image 1 is image/jpeg",
    ]
    assert all(line.endswith('pip install "slmclient[images]"') for line in said)
