"""A driver that wraps a driver: what every policy passes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

from slmclient.chat import ChatRequest, Event
from slmclient.drivers.base import Driver, Feature, RateLimit
from slmclient.errors import ConfigurationError
from slmclient.media import ImageLimits


class Wrapper(Driver):
    """Says of itself what the inner driver says. A policy writes `events` and `aevents`.

    Args:
        inner: The driver.
    """

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner.config)
        object.__setattr__(self, "info", inner.info)
        self.inner = inner
        self._closed = False

    def check_open(self) -> None:
        """Raise a ConfigurationError once it was closed: for what a policy does before the inner driver is asked."""
        if self._closed:
            raise ConfigurationError("This client is closed. Make a new one.", provider=self.name)

    @property
    def name(self) -> str:
        """The inner driver's name."""
        return self.inner.name

    @property
    def default_model(self) -> str | None:
        """The inner driver's default model."""
        return self.inner.default_model

    @property
    def features(self) -> frozenset[Feature]:
        """The inner driver's features."""
        return self.inner.features

    @property
    def knobs(self) -> frozenset[str]:
        """The inner driver's knobs."""
        return self.inner.knobs

    @property
    def structured(self) -> str:
        """How the inner driver holds a model to a format of the answer."""
        return self.inner.structured

    @property
    def rate_limit(self) -> RateLimit | None:
        """The inner driver's rate limit."""
        return self.inner.rate_limit

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return the inner driver's limits."""
        return self.inner.image_limits(request)

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the inner driver's count."""
        return self.inner.count_tokens(request)

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        return await self.inner.acount_tokens(request)

    def warm_up(self, deadline: float) -> None:
        """Let the inner driver do ahead what the first call would wait for."""
        self.inner.warm_up(deadline)

    async def awarm_up(self, deadline: float) -> None:
        """`warm_up`, for asyncio."""
        await self.inner.awarm_up(deadline)

    def close(self) -> None:
        """Close the inner driver."""
        self._closed = True
        self.inner.close()

    async def aclose(self) -> None:
        """Close the inner driver."""
        self._closed = True
        await self.inner.aclose()


class Lent(Wrapper):
    """A driver that was handed in from outside: it stays open when the policies around it are closed."""

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Return the inner driver's events."""
        return self.inner.events(request)

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        return self.inner.aevents(request)

    def close(self) -> None:
        """Leave the inner driver open."""

    async def aclose(self) -> None:
        """Leave the inner driver open."""


def innermost(driver: Driver) -> Driver:
    """Return the driver inside all its policies; of several, the first."""
    while isinstance(driver, Wrapper):
        driver = driver.inner
    return driver
