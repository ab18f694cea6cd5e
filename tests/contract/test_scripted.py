"""ScriptedDriver keeps the contract, given a script that writes, stops, cuts and continues as a model does."""

from __future__ import annotations

import json
from collections.abc import Iterator

from slmclient.chat import ChatRequest, Event, Finish, TextDelta, Usage
from slmclient.drivers.base import Driver, Feature
from slmclient.testing import DriverContract, ScriptedDriver


def answer(request: ChatRequest) -> Iterator[Event]:
    """Answer like a model that knows the capital of Japan, and can tell stories."""
    if request.response_format:
        words = [json.dumps({"city": "Tokyo"})]
    elif "story" in request.messages[-1].text:
        words = ["fox "] * 100_000
    else:
        words = ["The ", "capital ", "of ", "Japan ", "is ", "Tokyo."]
    if request.prefill:
        words = words[len(request.prefill.split()) :]
    limit = request.sampling.get("max_tokens", len(words))
    written = 0
    for word in words:
        if written == limit or word.strip() in request.sampling.get("stop", ()):
            break
        written += 1
        yield TextDelta(word)
    yield Finish("length" if written == limit < len(words) else "stop")
    yield Usage(input_tokens=len(request.messages), output_tokens=written)


class TestScripted(DriverContract):
    """All features and knobs, at the speed of a fast model."""

    def make_driver(self) -> Driver:
        return ScriptedDriver(*[answer] * 20, delay=0.002)


class TestScriptedThatLacksMuch(DriverContract):
    """Another name, no feature and one knob."""

    def make_driver(self) -> Driver:
        return ScriptedDriver(*[answer] * 20, name="other", features=[], knobs=["max_tokens"], model="fox", delay=0.002)


class TestScriptedThatOnlyContinues(DriverContract):
    """One feature, no event loop's time taken."""

    soon = 2.0

    def make_driver(self) -> Driver:
        return ScriptedDriver(*[answer] * 20, features=[Feature.PREFILL], delay=0.001)
