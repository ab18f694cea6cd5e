"""Record and replay: real answers, kept in a file, for tests that need no network, no key and no model.

`recording` and `replaying` are for a program as it is: they hold for every client that is made inside them. `record`
and `replay` give a driver, for a client of one's own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from dataclasses import replace
from os import PathLike

from slmclient.chat import ChatRequest, Event, Finish
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo, Feature
from slmclient.errors import APITimeoutError, ConfigurationError, SLMError
from slmclient.media import ANY_IMAGE, ImageLimits
from slmclient.policy.fitting import FittingDriver
from slmclient.policy.wrapper import Wrapper
from slmclient.testing.cassette import HOW, Cassette, RecordedDriver
from slmclient.testing.redaction import Redaction, Word
from slmclient.testing.taking import Taking, described, played


class RecordDriver(Wrapper):
    """Writes down what a driver is asked and answers; see `record`."""

    def __init__(self, cassette: Cassette, inner: Driver, words: Sequence[Word] = (), *, save: bool = False) -> None:
        # Pictures are made to fit below it: so the cassette knows them as they were given, and a replay needs neither
        # Pillow nor, for those that are only addresses, a network.
        super().__init__(FittingDriver(inner))
        self.cassette = cassette
        self._words = words
        self._save = save

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return no limits: the wrapped driver's hold below."""
        return ANY_IMAGE

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the wrapped driver's events."""
        self.check_open()
        if request.cancellation.cancelled:
            yield Finish("cancelled")
            return
        taking = self._begun(request)
        with closing(self.inner.events(request)) as events, self._kept(taking):
            for event in events:
                taking.events.append(event)
                yield event

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        self.check_open()
        if request.cancellation.cancelled:
            yield Finish("cancelled")
            return
        taking = self._begun(request)
        async with aclosing(self.inner.aevents(request)) as events:
            with self._kept(taking):
                async for event in events:
                    taking.events.append(event)
                    yield event

    def _begun(self, request: ChatRequest) -> Taking:
        return Taking(self.name, self.inner.config.model, described(request, self._redaction()))

    @contextmanager
    def _kept(self, taking: Taking) -> Generator[None, None, None]:
        number = self.cassette.begin()
        try:
            yield
            taking.ended = True
        except SLMError as error:
            taking.error = error
            raise
        finally:
            said = RecordedDriver(
                provider=self.name,
                model=self.config.model,
                default_model=self.default_model,
                features=tuple(sorted(self.features, key=lambda feature: feature.value)),
                knobs=tuple(sorted(self.knobs)),
            )
            self.cassette.end(number, taking.call(self._redaction()), said)
            if self._save:
                self.cassette.save()

    def _redaction(self) -> Redaction:
        return Redaction(self.inner.config, self._words)  # anew: a key that is renewed is known when it was used


class ReplayDriver(Driver):
    """Answers from a cassette; see `replay`."""

    def __init__(self, cassette: Cassette, config: DriverConfig | None = None) -> None:
        recorded = cassette.driver(config)
        if recorded is None:  # nothing of it is recorded, and its first call will say so
            provider, model = (config.provider, config.model) if config else ("recorded", None)
            recorded = RecordedDriver(provider=provider, model=model, features=tuple(Feature))
        info = _info(recorded.provider)
        object.__setattr__(self, "info", info)
        given = config or DriverConfig(provider=recorded.provider)
        # Without an address, what policies remember of a server (its limits, its failures) is not mixed with this.
        super().__init__(replace(given, provider=recorded.provider, model=recorded.model, base_url=None))
        self.cassette = cassette
        self._recorded = recorded
        self._closed = False

    @property
    def default_model(self) -> str | None:
        """The recorded driver's."""
        return self._recorded.default_model

    @property
    def features(self) -> frozenset[Feature]:
        """The recorded driver's."""
        return frozenset(self._recorded.features)

    @property
    def knobs(self) -> frozenset[str]:
        """The recorded driver's."""
        return frozenset(self._recorded.knobs)

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return no limits: pictures are compared as they were given."""
        return ANY_IMAGE

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the recorded events of the next call that was the same."""
        if self._closed:
            raise ConfigurationError("This driver is closed. Make a new one.", provider=self.name)
        if request.cancellation.cancelled:
            yield Finish("cancelled")
            return
        asked = described(request, Redaction(self.config))
        call = self.cassette.take(self.config.provider, self.config.model, asked)
        finished = False
        for event in played(call):
            if not finished and self._over(request):
                yield Finish("cancelled")
                return
            finished = finished or isinstance(event, Finish)
            yield event
        if not finished and self._over(request):
            yield Finish("cancelled")
        elif call.error is not None:
            raise call.error.error()
        elif call.closed:
            raise ConfigurationError(
                f"The recording of this call ends here, for its reader left then. Record it anew: {HOW}.",
                provider=self.name,
            )

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        with closing(self.events(request)) as events:
            for event in events:
                yield event

    def _over(self, request: ChatRequest) -> bool:
        if request.cancellation.cancelled:
            return True
        if request.remaining() <= 0:
            raise APITimeoutError(f"{self.name} had not answered by the deadline. Raise deadline=.", provider=self.name)
        return False

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True


def _info(provider: str) -> DriverInfo:
    if registry.canonical(provider) is not None:
        return registry.driver_info(provider)
    return DriverInfo(name=provider, title="Recorded answers", docs="testing.md", state="for tests")


def record(path: str | PathLike[str], driver: Driver, *, secrets: Iterable[str] = ()) -> RecordDriver:
    """Return a driver that does what another does, and writes it down: ``PhiClient(driver=record(path, driver))``.

    The file is written after each call; the one that was there before is replaced. Keys that the driver was given, and
    what looks like one, are cut out.

    Args:
        path: The cassette.
        driver: The driver.
        secrets: What else to cut out.
    """
    return RecordDriver(Cassette(path), driver, _words(secrets), save=True)


def replay(path: str | PathLike[str]) -> ReplayDriver:
    """Return a driver that answers from a cassette: ``PhiClient(driver=replay(path))``.

    A call gets the answer of the recorded call that was the same; of several, the next. Its `Cassette` is the driver's
    ``cassette``.

    Args:
        path: The cassette.

    Raises:
        ConfigurationError: There is none, or it is none.
    """
    return ReplayDriver(Cassette.load(path))


@contextmanager
def recording(path: str | PathLike[str], *, secrets: Iterable[str] = ()) -> Generator[Cassette, None, None]:
    """Record every call of the clients that are made inside: ``with recording("a.json"): …``.

    The file is written at the end; where the block ends with an error, it stays as it was.

    Args:
        path: The cassette.
        secrets: What else to cut out besides keys.
    """
    cassette = Cassette(path)
    with written(cassette, secrets):
        yield cassette
    cassette.save()


@contextmanager
def replaying(path: str | PathLike[str]) -> Generator[Cassette, None, None]:
    """Answer every call of the clients that are made inside from a cassette: ``with replaying("a.json"): …``.

    They need no key and no settings. Which provider was recorded does not matter, unless there were several.

    Args:
        path: The cassette.

    Raises:
        ConfigurationError: There is none, or it is none; or, at the end, a call was made that is not in it, and the
            program caught the error.
    """
    cassette = Cassette.load(path)
    with answered(cassette):
        yield cassette
    cassette.check()


def written(cassette: Cassette, secrets: Iterable[str]) -> AbstractContextManager[None]:
    """Return what has every client that is made inside it recorded."""
    words = _words(secrets)
    return registry.standing_in(
        lambda config: RecordDriver(cassette, registry.driver_class(config.provider)(config), words)
    )


def _words(secrets: Iterable[str]) -> tuple[Word, ...]:
    return tuple(Word(value) for value in ([secrets] if isinstance(secrets, str) else secrets))


def answered(cassette: Cassette) -> AbstractContextManager[None]:
    """Return what has every client that is made inside it answered from a cassette."""
    return registry.standing_in(lambda config: ReplayDriver(cassette, config), keyless=True)
