"""Transformers in this process keeps the contract: a random Phi-3, and a random model that sees."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from engine_models import EngineModels
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.transformers import TransformersDriver
from slmclient.testing import DriverContract


class Engine(DriverContract):
    one_driver = True
    long_tokens = 1900
    long_options = {"extra": {"min_new_tokens": 1900}}
    understands = frozenset({Feature.PREFILL})
    unknown_model = "gpt-oss-120b"

    made_by: str
    path: Path

    @pytest.fixture(autouse=True)
    def _model(self, engine_models: EngineModels) -> None:
        type(self).path = engine_models(self.made_by)

    def make_driver(self) -> Driver:
        # One thread: with more, they wait for each other where the machine has other work.
        options = {"n_threads": 1, "suppress_tokens": half_characters(self.path)}
        return TransformersDriver(DriverConfig("transformers", str(self.path), options=options))


@cache
def half_characters(folder: Path) -> list[int]:
    """Return the tokens that are no whole characters: models with random weights write them in any order."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return [token for text, token in vocabulary.items() if not is_whole(text)]


def is_whole(text: str) -> bool:
    """Return whether a token's bytes, one letter each, are UTF-8 of their own."""
    try:
        bytes(BYTES[letter] for letter in text).decode()
    except (KeyError, UnicodeDecodeError):
        return False
    return True


PLAIN = (*range(33, 127), *range(161, 173), *range(174, 256))
SHIFTED = [byte for byte in range(256) if byte not in PLAIN]
# The letters that stand for bytes in vocabularies like GPT-2's: the byte's own, or one from 256 on if it has none.
BYTES = {chr(byte): byte for byte in PLAIN} | {chr(256 + place): byte for place, byte in enumerate(SHIFTED)}


class TestPhi3(Engine):
    """Text."""

    made_by = "tiny_phi3"


class TestLlava(Engine):
    """Text and images."""

    made_by = "tiny_llava"
    understands = frozenset({Feature.PREFILL, Feature.IMAGES})
