"""The page on pictures says of each provider what the code says."""

import re
from pathlib import Path

import pytest

from slmclient import catalogue
from slmclient.drivers import registry
from slmclient.drivers.base import Feature
from slmclient.drivers.images import FETCH_SECONDS
from slmclient.media import MAX_IMAGE_BYTES
from slmclient.media.fitting import LOWEST_QUALITY, MOST_PIXELS, SHORTEST_SIDE
from slmclient.media.video import MOST_FRAMES

PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text("utf-8")
NAMES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WebP": "image/webp", "BMP": "image/bmp"}


def rows() -> dict[str, list[str]]:
    """Return the cells behind each provider's name."""
    section = PAGE.partition("\n## What each provider takes\n")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (\[`.+) \|$", section, re.MULTILINE):
        first, *cells = line.split(" | ")
        for name in re.findall(r"\[`(\w+)`\]", first):
            assert name not in found
            found[name] = cells if "projector" not in first else [*cells, "projector"]
    return found


def test_every_provider_has_a_row() -> None:
    assert set(rows()) == set(registry.ROWS)


@pytest.mark.parametrize("provider", registry.ROWS)
def test_a_row_says_what_the_driver_says(provider: str) -> None:
    info, row = registry.driver_info(provider), rows()[provider]
    pictures, addresses, most, sound = (cell.strip() for cell in row[:4])
    assert sound == ("yes" if Feature.AUDIO in info.features else "no")
    if Feature.IMAGES not in info.features and "projector" not in row:
        assert pictures == "none"
        return
    assert {NAMES[name] for name in pictures.split(", ")} == set(info.images.formats)
    assert addresses == ("go as they are" if info.images.urls else "slmclient fetches")
    numbers = [info.images.count, info.images.bytes, info.images.base64, info.images.pixels]
    said = [int(number.replace(",", "")) for number in re.findall(r"(?<![\w.-])\d[\d,]*(?![\w.-])", most)]
    assert [number for number in numbers if number is not None] == (said if provider != "azure" else [])


def test_the_row_of_azure_names_the_model_that_takes_few() -> None:
    few = {
        (model.name, offer.images)
        for model in catalogue.models()
        for offer in model.offers
        if offer.provider == "azure" and offer.images is not None
    }
    assert few == {("phi-3.5-vision", 1)}
    assert "Phi-3.5-vision: 1 in a message" in rows()["azure"][2]


def test_a_projector_is_what_makes_llama_cpp_see() -> None:
    assert "projector" in vars(registry.driver_class("llamacpp"))["options"]
    assert [provider for provider, row in rows().items() if "projector" in row] == ["llamacpp"]


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    for said in (
        f"Up to {MAX_IMAGE_BYTES // 2**20} MB, within {FETCH_SECONDS:g} seconds",
        f"more than {MAX_IMAGE_BYTES // 2**20} MB or {MOST_PIXELS // 1_000_000} million pixels",
        f"quality 90, 75, {LOWEST_QUALITY}; then fewer pixels, but never below {SHORTEST_SIDE} ",
        f"more than {MOST_FRAMES} are refused",
    ):
        assert said in PAGE
