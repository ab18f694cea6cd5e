"""The driver `ollama` keeps the contract: on a real model behind a translator, and on a server that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llama_server import KEY, LlamaServers
from ollama_server import OllamaServer
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.ollama import OllamaDriver
from slmclient.drivers.secret import Secret
from slmclient.errors import InternalServerError
from slmclient.testing import HttpDriverContract


def line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


class TestOllama(HttpDriverContract):
    """No model is named: the driver asks the server for one."""

    key = KEY
    long_options = {"extra": {"options": {"ignore_eos": True}}}
    unknown_model = "nobody-has-it"
    understands = frozenset({Feature.RESPONSE_FORMAT, Feature.TOOLS})  # this model has no eyes
    stream_type = "application/x-ndjson"
    frame_429 = InternalServerError  # a line has no status

    @pytest.fixture(autouse=True)
    def _server(self, llama_server: LlamaServers) -> Iterator[None]:
        with OllamaServer(llama_server(), api_key=KEY) as self.server:
            yield

    def make_driver(self) -> Driver:
        return self._driver(self.server.url, KEY, None)

    def make_driver_at(self, base_url: str, api_key: str | None) -> Driver:
        return self._driver(base_url, api_key, "smollm2")

    def _driver(self, url: str, key: str | None, model: str | None) -> Driver:
        return OllamaDriver(DriverConfig("ollama", model, base_url=url, api_key=Secret(key) if key else None))

    def at_rest(self) -> bool:
        return self.server.behind.idle()

    # --- the wire's own canned answers

    def chunk(self, text: str) -> bytes:
        return line({"model": "m", "message": {"role": "assistant", "content": text}, "done": False})

    def last_chunk(self) -> bytes:
        return line(self.whole_answer(""))

    def done(self) -> bytes:
        return b""

    def error_chunk(self, status: int, message: str) -> bytes:
        return line({"error": message})

    def broken_chunk(self) -> bytes:
        return b'{"model": "m", "message": {"content\n'

    def sign_of_life(self) -> bytes:
        return b"\n"

    def whole_answer(self, text: str) -> Any:
        return {
            "model": "m",
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 5,
            "eval_count": 2,
        }
