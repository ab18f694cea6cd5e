"""What a contract class says of its driver, and how its promises become tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar, cast

import pytest

from slmclient.chat import KNOBS, ChatOptions, ChatRequest
from slmclient.drivers.base import Driver, Feature
from slmclient.request import Prompt, chat_request
from slmclient.testing.mode import MODES, Mode

# 8 by 8 pixels, red
RED = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000080000000808020000004b6d29dc00000011494441"
    "54789c63f8cfc08015310c2d090028ff3fc1ce77c84f0000000049454e44ae426082"
)
# a WAV file of 8 samples, silent
SILENCE = bytes.fromhex(
    "524946463400000057415645666d74201000000001000100803e0000007d0000"
    "02001000646174611000000000000000000000000000000000000000"
)
CITY: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Hooks:
    """What a subclass says of its driver. Only `make_driver` has to be written."""

    patience: ClassVar[float] = 60.0
    """Seconds that one promise may take; a driver that hangs fails it then."""
    soon: ClassVar[float] = 5.0
    """Seconds within which cancelling, closing and a deadline must have had their effect."""
    one_driver: ClassVar[bool] = False
    """Whether one driver serves all tests that do not close it: for engines that load for long."""
    deterministic: ClassVar[bool] = True
    """Whether the same prompt gets the same answer, at temperature 0."""
    prompt: ClassVar[str] = "What is the capital of Japan?"
    """Something that is answered in one sentence."""
    prefill: ClassVar[str] = "The capital of"
    """How an answer to that may begin."""
    long_prompt: ClassVar[str] = "Write a very long story about a fox."
    """Something whose answer takes several times `soon`, unless it is stopped."""
    options: ClassVar[ChatOptions] = {}
    """Options of every call, such as a model."""
    long_options: ClassVar[ChatOptions] = {}
    """More options of those calls that take long, such as ``extra`` that keeps a model from ending too early."""
    long_tokens: ClassVar[int] = 1200
    """``max_tokens`` of those calls."""
    key: ClassVar[str | None] = None
    """The key that `make_driver` gives to the driver, if any."""
    unknown_model: ClassVar[str | None] = None
    """A model's name that the driver refuses, if it refuses any."""
    understands: ClassVar[frozenset[Feature] | None] = None
    """Those of the driver's features that what is behind it here can do; None is all of them."""
    json_format: ClassVar[Mapping[str, Any]] = CITY
    image: ClassVar[bytes] = RED
    sound: ClassVar[bytes] = SILENCE
    tool: ClassVar[Mapping[str, Any]] = WEATHER

    _kept: ClassVar[Driver | None] = None

    def make_driver(self) -> Driver:
        """Return a new driver. It only constructs: what the driver needs (a server, a model file) is there before."""
        pytest.fail(f"{type(self).__name__} has no make_driver()")

    def at_rest(self) -> bool:
        """Return whether nothing is at work for the driver any more, where that can be seen (a server's slots)."""
        return True

    @pytest.fixture(params=list(MODES))
    def mode(self, request: pytest.FixtureRequest) -> Mode:
        """Plain or asyncio: the tests that take it run both ways."""
        return MODES[request.param]

    @classmethod
    def teardown_class(cls) -> None:
        """Close the driver of `one_driver`."""
        if cls._kept is not None:
            cls._kept.close()
            cls._kept = None

    # --- for the promises

    def request(self, driver: Driver, prompt: Prompt | None = None, **options: Any) -> ChatRequest:
        """Return a request of this driver's: a short one, unless it is told otherwise."""
        merged: dict[str, Any] = {"temperature": 0, "max_tokens": 12, **self.options, **options}
        kept = {name: value for name, value in merged.items() if name not in KNOBS or name in driver.knobs}
        stream = bool(kept.pop("stream", True))
        deadline = float(kept.pop("deadline", None) or self.patience)
        return chat_request(
            self.prompt if prompt is None else prompt,
            cast(ChatOptions, kept),
            stream=stream,
            model=None,
            timeout=self.patience,
            deadline=deadline,
        )

    def long_request(self, driver: Driver, **options: Any) -> ChatRequest:
        """Return a request whose answer takes long."""
        return self.request(
            driver, self.long_prompt, **{"max_tokens": self.long_tokens, **self.long_options, **options}
        )

    def chat_options(self, **options: Any) -> ChatOptions:
        """Return the options of a client's call."""
        return cast(ChatOptions, {**self.options, **options})

    def able(self, driver: Driver, feature: Feature) -> None:
        """Skip the test unless the driver, and what is behind it, have that feature."""
        if feature not in driver.features:
            pytest.skip(f"{driver.name} lacks {feature.value}: it is refused, which has a test of its own")
        if self.understands is not None and feature not in self.understands:
            pytest.skip(f"what is behind {driver.name} here lacks {feature.value}")

    def borrowed(self) -> Driver:
        """Return a driver for one test, or the one for all of them."""
        if not self.one_driver:
            return self.make_driver()
        cls = type(self)
        if cls._kept is None:
            cls._kept = self.make_driver()
        return cls._kept

    @classmethod
    def forget(cls) -> None:
        """After a failure the next test begins with a driver of its own."""
        cls._kept = None

    async def returned(self, mode: Mode, driver: Driver) -> None:
        """Close a driver that was borrowed, unless others still need it."""
        if not self.one_driver:
            await mode.close(driver)


Contract = TypeVar("Contract", bound=Hooks)


def promise(
    scenario: Callable[[Contract, Mode, Driver], Coroutine[Any, Any, None]],
) -> Callable[[Contract, Mode], None]:
    """Make a test of a scenario: it is run in the mode at hand, with a driver that is closed afterwards."""

    def test(self: Contract, mode: Mode) -> None:
        async def whole() -> None:
            driver = self.borrowed()
            try:
                await scenario(self, mode, driver)
            finally:
                await self.returned(mode, driver)

        try:
            mode.run(whole, self.patience)
        except BaseException:
            self.forget()
            raise

    functools.update_wrapper(test, scenario)
    vars(test).pop("__wrapped__")  # pytest would read the scenario's parameters, not the test's
    return test
