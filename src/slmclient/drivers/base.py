"""The driver contract: a driver turns one `ChatRequest` into events.

`Driver` is the contract, `DriverInfo` what a driver says of itself, `DriverConfig` what it is given, `admit` the check
before any I/O. A driver that only has a plain generator (`events`) is complete: `aevents` then runs it on a thread.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from slmclient.chat import KNOBS, ChatRequest, Event, Note
from slmclient.errors import ConfigurationError, UnsupportedFeatureError, UnsupportedParameterError
from slmclient.media import ANY_IMAGE, ImageLimits
from slmclient.messages import in_parts
from slmclient.request import unknown_name

if TYPE_CHECKING:
    import ssl

    from slmclient.drivers.secret import Secret


class Feature(Enum):
    """What a driver can say to its provider, beyond text. Whether a model understands it is another matter."""

    IMAGES = "images"
    AUDIO = "audio"
    TOOLS = "tools"
    TOOL_CHOICE = "tool_choice"
    """That a tool, or this one, has to be called."""
    RESPONSE_FORMAT = "response_format"
    PREFILL = "prefill"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a provider lets one key do, as far as it says so; None is unknown. For whoever limits the rate of calls."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    concurrent_requests: int | None = None
    input_tokens: int | None = None
    """Most tokens of one prompt."""
    output_tokens: int | None = None
    """Most tokens of one answer."""
    source: str = ""
    """Where these numbers are from, and of which date."""


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """What a driver says of itself: data, read before it is constructed."""

    name: str
    """The provider name that users write."""
    title: str
    docs: str
    """Where to read more: a page of these docs or the provider's."""
    features: frozenset[Feature] = frozenset()
    knobs: frozenset[str] = frozenset(KNOBS)
    """The sampling options it can say."""
    images: ImageLimits = ANY_IMAGE
    """What it takes of pictures; what does not fit is made to fit before it gets them."""
    structured: str = "json_schema"
    """How it holds a model to a format of the answer: ``json_schema``, ``guided`` or ``grammar``."""
    default_model: str | None = None
    state: str = "active"
    """What a person should know of the service today, in a few words."""
    extra: str | None = None
    """The pip extra that it needs."""
    weights: tuple[str, ...] = ()
    """The forms of model files that an engine reads, best first (`slmclient.drivers.hub`)."""
    hosted: bool = False
    """Whether it talks to a server (and takes base_url, api_key, headers, proxy, verify) or works in this process."""
    default_base_url: str | None = None
    key_variables: tuple[str, ...] = ()
    """The vendor's environment variables for the key; the first found wins."""
    url_variables: tuple[str, ...] = ()
    """The vendor's environment variables for the endpoint; the first found wins. Those that go with a key stand in the
    order of their keys: the key beside the address that was found comes first."""
    vendor_hosts: tuple[str, ...] = ()
    """Host names that the vendor's own key may go to, and that need one; ``*.`` stands for one or more labels."""
    start: str = ""
    """How its server is started on one's own machine, for the error where it is not there."""
    key_advice: str = ""
    """What else may serve as a key, for the error where none was found."""
    telemetry_name: str = ""
    """What OpenTelemetry's conventions call the provider, where that is not its name."""
    old_variables: tuple[str, ...] = ()
    """Variables of programs written for an SDK that is retired, read or not: `slm doctor` says how to move on."""


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """What a driver is given: resolved values, no environment to read."""

    provider: str
    model: str | None = None
    base_url: str | None = None
    api_key: Secret | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict[str, "Secret"])
    proxy: Secret | None = None
    """Proxy URL, which may hold a password."""
    web_proxy: Secret | None = None
    """The same, for what is fetched from others than the provider, which may be on this machine: pictures."""
    verify: bool | str | ssl.SSLContext = True
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    strict: bool = False
    cache_dir: str | None = None
    """Where model files are kept; None is the platform's cache folder."""
    offline: bool = False
    """Whether fetching model files is forbidden."""
    key_hint: str = ""
    """Why there is no key, or where it came from: for the error when a server asks for one."""


class Driver:
    """Turns one `ChatRequest` into events.

    Subclasses set `info` and write `events`; those with asynchronous I/O of their own write `aevents` too. Promises
    (the contract suite in `slmclient.testing` holds them to it): Start first; text deltas concatenate to the reply;
    exactly one Finish, at most one Usage; only `SLMError` leaves; nothing is retried; closing the generator stops the
    work; `request.cancellation` ends it from any thread, with ``Finish("cancelled")``; construction does no I/O.
    """

    info: ClassVar[DriverInfo]

    def __init__(self, config: DriverConfig | None = None) -> None:
        self.config = config or DriverConfig(provider=self.info.name)

    @property
    def name(self) -> str:
        """The provider name that it was made for."""
        return self.config.provider

    @property
    def default_model(self) -> str | None:
        """The model of a call that names none."""
        return self.config.model or self.info.default_model

    @property
    def features(self) -> frozenset[Feature]:
        """What it can say; by default what its info says."""
        return self.info.features

    @property
    def knobs(self) -> frozenset[str]:
        """The sampling options that it can say; by default what its info says."""
        return self.info.knobs

    @property
    def structured(self) -> str:
        """How it holds a model to a format of the answer; by default what its info says."""
        return self.info.structured

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the provider lets this key do, where it says so beforehand."""
        return None

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return what is taken of the pictures of a call; by default what its info says."""
        return self.info.images

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events."""
        raise NotImplementedError(f"{type(self).__name__} has no events()")

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, for asyncio. By default `events`, one step at a time on a thread."""
        import asyncio

        events = self.events(request)
        step: asyncio.Future[Event | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(next, events, None))
                event = await asyncio.shield(step)
                if event is None:
                    return
                yield event
        finally:
            # A generator cannot be closed while it runs: a cancelled task ends the request and waits for its step.
            if step is not None and not step.done():
                request.cancellation.cancel()
                await asyncio.wait([step])
            await asyncio.to_thread(events.close)

    @classmethod
    def address(cls, written: str) -> str:
        """Return the URL that a written address means; by default it is one."""
        return written

    @classmethod
    def variant(cls, options: Mapping[str, Any]) -> str | None:
        """Return which of a repository's variants of a model the options ask for; None for no wish."""
        return None

    def pull(self, model: str, progress: Callable[[str, int, int | None], None]) -> str:
        """Have a model fetched to where this driver finds it; return what to tell of it.

        Args:
            model: Portable name or the provider's own id.
            progress: Told what is going on, the bytes so far, and how many there are, where that is known.

        Raises:
            UnsupportedFeatureError: This provider pulls nothing.
        """
        raise UnsupportedFeatureError(
            f"{self.name} pulls no models: it has what it serves.", provider=self.name, model=model
        )

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return how many tokens the prompt of a call has, exactly; None where this cannot be found out."""
        return None

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        return self.count_tokens(request)

    def warm_up(self, deadline: float) -> None:
        """Do ahead what the first call would wait for: engines load their model. There is nothing to do over HTTP.

        Args:
            deadline: Seconds that it may take.
        """

    async def awarm_up(self, deadline: float) -> None:
        """`warm_up`, for asyncio."""
        self.warm_up(deadline)

    def close(self) -> None:
        """Free what the driver holds. Calls after it are a ConfigurationError."""

    async def aclose(self) -> None:
        """`close`, for asyncio."""
        self.close()

    def __repr__(self) -> str:
        made = hasattr(self, "config")  # not so where a constructor failed and a debugger looks at it
        return f"<{type(self).__name__} {self.name}>" if made else f"<{type(self).__name__}>"


def admit(
    driver: Driver, request: ChatRequest, *, strict: bool = False, warn: bool = True
) -> tuple[ChatRequest, list[Note]]:
    """Return the request as the driver can take it, with notes of what was left out: the one check before any I/O.

    Args:
        driver: Who is to take it.
        request: The call.
        strict: Whether options that the driver lacks are an error, and not left out.
        warn: Whether a warning says what is left out.

    Raises:
        UnsupportedFeatureError: It asks for something that the driver cannot say.
        UnsupportedParameterError: Under ``strict``, a sampling option that the driver lacks.
    """
    parted = in_parts(request.messages)
    wanted = {
        Feature.IMAGES: any(message.images for message in parted),
        Feature.AUDIO: any(message.audio for message in parted),
        Feature.TOOLS: bool(request.tools) or any(m.role == "tool" or m.tool_calls for m in request.messages),
        Feature.TOOL_CHOICE: request.tool_choice not in (None, "auto", "none"),
        Feature.RESPONSE_FORMAT: request.response_format is not None,
        Feature.PREFILL: request.prefill is not None,
    }
    for feature in wanted:
        if wanted[feature] and feature not in driver.features:
            raise UnsupportedFeatureError(_UNSUPPORTED[feature].format(name=driver.name), provider=driver.name)
    knobs = driver.knobs if request.sampling else frozenset[str]()  # each policy asks the next one
    lacking = [name for name in request.sampling if name not in knobs]
    if not lacking:
        return request, []
    if strict:
        raise UnsupportedParameterError(
            f"{driver.name} has no {', '.join(lacking)}. Leave it out, or let it be dropped with strict=False.",
            provider=driver.name,
        )
    for name in lacking if warn else ():
        # The registry of the warnings module shows each text once for a place in the code.
        warnings.warn(f"{driver.name} has no {name}: it is left out (see reply.dropped).", UserWarning, stacklevel=4)
    kept = {name: value for name, value in request.sampling.items() if name not in lacking}
    return replace(request, sampling=kept), [Note("dropped", name) for name in lacking]


_UNSUPPORTED = {
    Feature.IMAGES: "{name} takes no images here. Use a provider and model with vision, or leave them out.",
    Feature.AUDIO: (
        "{name} takes no sound here. Phi-4-multimodal does, behind azure, nvidia or a server of its own (openai); "
        "elsewhere transcribe it first."
    ),
    Feature.TOOLS: "{name} takes no tools here. Use a hosted provider that does, or describe the tools in the prompt.",
    Feature.TOOL_CHOICE: "{name} cannot be told which tool to call: leave tool_choice out.",
    Feature.RESPONSE_FORMAT: "{name} takes no response_format here. Ask for the format in the prompt.",
    Feature.PREFILL: (
        "{name} cannot continue an assistant turn: the last message must be the user's (or a tool's). "
        "Providers that run in this process, such as local, can."
    ),
}


def checked_options(config: DriverConfig, known: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Return the driver's own options, checked.

    Args:
        config: Holds ``options`` as the user gave them.
        known: Option name to its type.

    Raises:
        ConfigurationError: An unknown option, with the closest name, or one of the wrong type.
    """
    for name, value in config.options.items():
        if name not in known:
            problem = unknown_name("option", name, known) if known else f"Unknown option {name!r}: there are none."
            raise ConfigurationError(f"{config.provider}: {problem}", provider=config.provider)
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is int):
            raise ConfigurationError(
                f"{config.provider}: the option {name} is {_type_names(known[name])}, not {value!r}.",
                provider=config.provider,
            )
    return dict(config.options)


def _type_names(types: type | tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))


DriverFactory = Callable[[DriverConfig], Driver]
__all__: Sequence[str] = (
    "Driver",
    "DriverConfig",
    "DriverFactory",
    "DriverInfo",
    "Feature",
    "RateLimit",
    "admit",
    "checked_options",
)
