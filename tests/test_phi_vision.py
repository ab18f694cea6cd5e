"""How many tokens a picture takes, as the processor of Phi-3-vision in ONNX Runtime counts them; and too many."""

from __future__ import annotations

import io

import pytest
from PIL import Image as Pillow

from engine_models import EngineModels
from slmclient import Image, PhiClient
from slmclient.drivers.base import Feature
from slmclient.errors import ContextLengthExceededError
from slmclient.phi.vision import CROPS, CROPS_OF_MANY, image_tokens
from slmclient.testing import ScriptedDriver
from test_client import Face, both

SIZES = [(336, 336), (640, 480), (480, 640), (1280, 720), (720, 1280), (1000, 100), (100, 1000), (64, 64), (4000, 3000)]


def picture(size: tuple[int, int]) -> Image:
    out = io.BytesIO()
    Pillow.new("RGB", size, "red").save(out, "PNG")
    return Image(out.getvalue())


@pytest.fixture(scope="module")
def client(engine_models: EngineModels) -> PhiClient:
    return PhiClient("onnx", str(engine_models("tiny_phi3v_onnx")), env_file=False)


def read(client: PhiClient, *images: Image) -> int:
    usage = client.chat("What is this?", images=list(images), max_tokens=1).usage
    assert not usage.estimated
    return usage.input_tokens


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_takes_as_many_tokens_as_the_processor_makes_of_it(client: PhiClient, size: tuple[int, int]) -> None:
    """The text around the pictures is the same, so two pictures less one is a picture."""
    square = picture((336, 336))
    assert read(client, square, picture(size)) - read(client, square, square) == (
        image_tokens(*size, CROPS) - image_tokens(336, 336, CROPS)
    )


def test_fewer_crops_are_fewer_tokens() -> None:
    """757 and 1,921 are what users report of a wide picture in 4 and in 16 crops."""
    assert image_tokens(1280, 720, CROPS_OF_MANY) == (2 * 2 + 1) * 144 + 1 + 3 * 12
    assert image_tokens(1280, 720, CROPS_OF_MANY) < image_tokens(1280, 720, CROPS)


@both
async def test_more_pictures_than_a_context_holds_are_refused_before_any_io(face: Face) -> None:
    """757 tokens each, of 131,072 in all: 170 pictures go, 180 do not."""
    wide = picture((1280, 720))
    driver = ScriptedDriver("a", "b", features=set(Feature))
    client = face.kind(driver=driver)
    assert (await face.done(client.chat("?", model="phi-3.5-vision", images=[wide] * 170))).text == "a"
    with pytest.raises(ContextLengthExceededError, match=r"about 136,260 \(an estimate\)"):
        await face.done(client.chat("?", model="phi-3.5-vision", images=[wide] * 180))
    assert len(driver.requests) == 1
    assert (await face.done(client.chat("?", model="another", images=[wide] * 180))).text == "b"
