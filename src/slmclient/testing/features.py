"""Promises about features and knobs: what a driver lacks is refused or reported, what it has works."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from slmclient.chat import KNOBS
from slmclient.drivers.base import Driver, Feature
from slmclient.errors import StructuredOutputError, UnsupportedFeatureError, UnsupportedParameterError
from slmclient.media import Audio, Image
from slmclient.messages import Message
from slmclient.policy.adapting import EMULATED
from slmclient.request import Prompt
from slmclient.testing.hooks import Hooks, promise
from slmclient.testing.mode import Mode

_VALUES: dict[str, Any] = {
    "temperature": 0,
    "top_p": 0.9,
    "top_k": 5,
    "max_tokens": 4,
    "stop": ["###"],
    "seed": 1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
}


class FeaturePromises(Hooks):
    """Features and knobs."""

    @promise
    async def test_what_it_lacks_is_refused_before_any_event(self, mode: Mode, driver: Driver) -> None:
        """A client refuses what the driver's features do not name, and what can be emulated if it is strict; the driver
        is not even called."""
        lacking = [feature for feature in Feature if feature not in driver.features]
        if not lacking:
            pytest.skip(f"{driver.name} lacks nothing")
        for feature in lacking:
            with pytest.raises(UnsupportedFeatureError) as caught:
                await mode.chat(driver, *self._asking(feature), strict=feature in EMULATED)
            assert driver.name in str(caught.value)

    @promise
    async def test_what_can_be_said_in_the_prompt_is_emulated_and_reported(self, mode: Mode, driver: Driver) -> None:
        """Tools and formats that the driver lacks are said in the prompt, and the reply says so."""
        lacking = [feature for feature in Feature if feature in EMULATED - driver.features]
        if not lacking:
            pytest.skip(f"{driver.name} needs no emulation")
        for feature in lacking:
            prompt, options = self._asking(feature)
            try:
                reply = await mode.chat(driver, prompt, options)
            except StructuredOutputError as error:  # what the model makes of it is another matter
                reply = error.replies[0]
            assert reply.structured == "prompt" if feature is Feature.RESPONSE_FORMAT else reply.converted

    @promise
    async def test_knobs_that_it_lacks_are_dropped_and_reported(self, mode: Mode, driver: Driver) -> None:
        """A knob that the driver lacks is left out and named in ``reply.dropped``; strict, it is an error."""
        lacking = [knob for knob in KNOBS if knob not in driver.knobs]
        if not lacking:
            pytest.skip(f"{driver.name} has all knobs")
        options: Any = self.chat_options(**_VALUES)
        with _quiet():
            reply = await mode.chat(driver, self.prompt, options)
        assert set(reply.dropped) == set(lacking)
        with pytest.raises(UnsupportedParameterError) as caught:
            await mode.chat(driver, self.prompt, options, strict=True)
        assert lacking[0] in str(caught.value)

    @promise
    async def test_knobs_that_it_has_are_taken(self, mode: Mode, driver: Driver) -> None:
        """Each knob that the driver names is taken without an error and not reported as dropped."""
        options: Any = self.chat_options(**{knob: _VALUES[knob] for knob in KNOBS if knob in driver.knobs})
        reply = await mode.chat(driver, self.prompt, options, strict=True)
        assert reply.dropped == ()
        assert reply.text.strip()

    @promise
    async def test_response_format_gives_json(self, mode: Mode, driver: Driver) -> None:
        """RESPONSE_FORMAT: the answer is JSON of that schema."""
        self.able(driver, Feature.RESPONSE_FORMAT)
        for stream in (True, False):
            reply = await mode.reply(
                driver, self.request(driver, response_format=self.json_format, max_tokens=64, stream=stream)
            )
            parsed = json.loads(reply.text)
            for name in self.json_format["json_schema"]["schema"].get("required", ()):
                assert name in parsed

    @promise
    async def test_prefill_is_continued_and_not_repeated(self, mode: Mode, driver: Driver) -> None:
        """PREFILL: the answer goes on where the last assistant turn ends, and does not repeat it."""
        self.able(driver, Feature.PREFILL)
        prompt, _ = self._asking(Feature.PREFILL)
        for stream in (True, False):
            reply = await mode.reply(driver, self.request(driver, prompt, stream=stream))
            assert reply.text.strip()
            assert not reply.text.strip().startswith(self.prefill), f"{reply.text!r} repeats the prefill"

    @promise
    async def test_images_are_taken(self, mode: Mode, driver: Driver) -> None:
        """IMAGES: a picture beside the text is taken."""
        self.able(driver, Feature.IMAGES)
        prompt, _ = self._asking(Feature.IMAGES)
        reply = await mode.reply(driver, self.request(driver, prompt))
        assert reply.finish_reason in ("stop", "length")

    @promise
    async def test_sound_is_taken(self, mode: Mode, driver: Driver) -> None:
        """AUDIO: sound beside the text is taken."""
        self.able(driver, Feature.AUDIO)
        prompt, _ = self._asking(Feature.AUDIO)
        reply = await mode.reply(driver, self.request(driver, prompt))
        assert reply.finish_reason in ("stop", "length")

    @promise
    async def test_tools_are_taken(self, mode: Mode, driver: Driver) -> None:
        """TOOLS: tools are taken; what the model calls has a name."""
        self.able(driver, Feature.TOOLS)
        for stream in (True, False):
            reply = await mode.reply(
                driver, self.request(driver, tools=[self.tool], tool_choice="auto", max_tokens=32, stream=stream)
            )
            assert reply.text.strip() or reply.tool_calls
            assert all(call.name for call in reply.tool_calls)

    @promise
    async def test_a_tool_can_be_asked_for(self, mode: Mode, driver: Driver) -> None:
        """TOOL_CHOICE: that a tool has to be called is taken. Whether the model does so is another matter."""
        self.able(driver, Feature.TOOL_CHOICE)
        prompt, _ = self._asking(Feature.TOOL_CHOICE)
        for choice in ("required", {"type": "function", "function": {"name": self.tool["function"]["name"]}}):
            reply = await mode.reply(
                driver, self.request(driver, prompt, tools=[self.tool], tool_choice=choice, max_tokens=32)
            )
            assert reply.finish_reason in ("stop", "length", "tool_calls")

    def _asking(self, feature: Feature) -> tuple[Prompt, Any]:
        """Return prompt and options of a call that needs the feature."""
        prompts: dict[Feature, Prompt] = {
            Feature.IMAGES: Message.user("What colour is this?", Image(self.image)),
            Feature.AUDIO: Message.user("What is said?", Audio(self.sound)),
            Feature.PREFILL: [Message.user(self.prompt), Message.assistant(self.prefill)],
        }
        options: dict[Feature, dict[str, Any]] = {
            Feature.TOOLS: {"tools": [self.tool], "max_tokens": 32},
            Feature.TOOL_CHOICE: {"tools": [self.tool], "tool_choice": "required", "max_tokens": 32},
            Feature.RESPONSE_FORMAT: {"response_format": self.json_format, "max_reasks": 0, "max_tokens": 32},
        }
        return prompts.get(feature, self.prompt), self.chat_options(**options.get(feature, {}))


@contextmanager
def _quiet() -> Generator[None, None, None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
