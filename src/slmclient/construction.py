"""What a client's constructor takes: its options, their checks, and the drivers that they ask for."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict, cast

from slmclient.answer.overflow import OverflowDriver
from slmclient.chat import Attempt, TokenCount, Usage
from slmclient.drivers import registry
from slmclient.drivers.base import Driver
from slmclient.drivers.secret import ApiKey, Secret
from slmclient.environment import captures_content
from slmclient.errors import ConfigurationError, SLMError, bare
from slmclient.given import Given
from slmclient.media import Audio, Image, SentImage
from slmclient.messages import Message, Text, ToolCall
from slmclient.policy.observing import OnEvent
from slmclient.policy.retry import RetryPolicy
from slmclient.policy.stack import Leg, Policies, stacked
from slmclient.reply import Reply, Timing
from slmclient.request import checked_seconds, unknown_name
from slmclient.settings import Settings, of_fallback, resolve

if TYPE_CHECKING:
    import ssl

_FOR_READY = (  # what a client with a ready driver still decides
    *("timeout", "deadline", "max_retries", "retry", "rate_limit", "fallbacks", "fallback_on", "hedge_after"),
    *("on_event", "strict"),
)
OF_POLICIES = ("retry", "fallback_on", "hedge_after", "on_event")
_OF_FALLBACK = (
    *("provider", "model", "api_key", "base_url", "headers", "proxy", "verify", "insecure_http", "options"),
    "rate_limit",
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, "token"


# They are built here and not with their modules, which programs import that ask nothing; and under a lock: pydantic's
# own building at the first use is not safe between threads before its version 2.14.
_MODELS = (Text, ToolCall, Image, Audio, SentImage, Message, Usage, TokenCount, Attempt, Timing, Reply)
_building = threading.Lock()


def build_models() -> None:
    """Have pydantic make what checks our values, once for the process."""
    with _building:
        for model in _MODELS:
            model.model_rebuild()


class ClientOptions(TypedDict, total=False):
    """What both clients' constructors take by keyword besides the key. None means "not given"."""

    base_url: str | None
    """The server's address; alone it means provider ``openai``."""
    timeout: float | None
    """Longest silence of a server, in seconds; default 60, and 5 to connect."""
    deadline: float | None
    """Seconds for a whole call with its retries, loading and fetching of a model included; default 600."""
    max_retries: int | None
    """Tries after the first; default 2."""
    retry: RetryPolicy | None
    """The same and more, in place of ``max_retries``: how long to wait at most, and the budget of all retries."""
    rate_limit: str | None
    """Such as ``15/min, 8000 tokens/min, 5 concurrent``, shared by all who use the same key and model; ``off``: none.
    Default: what is known of the provider."""
    fallbacks: Sequence[str | Mapping[str, Any] | Driver] | None
    """Who is asked where the provider cannot answer, in order: ``azure:phi-4-mini``, or a dict of ``provider``,
    ``model`` and keywords of this constructor, for that one alone."""
    fallback_on: Sequence[type[SLMError]] | None
    """More errors after which a fallback is asked: ``[ContentFilterError]``."""
    hedge_after: float | None
    """Seconds without any answer after which the call is sent once more, to the first fallback if there is one; what
    speaks first is taken. Not for engines in this process alone, nor for calls with tools."""
    on_event: OnEvent | None
    """A function that is told what happens to calls, as `CallEvent`."""
    headers: Mapping[str, str] | None
    """More headers for the provider; their values are kept as secrets."""
    proxy: str | None
    """Proxy URL; default HTTPS_PROXY and its kin. Loopback never goes through one."""
    verify: bool | str | ssl.SSLContext | None
    """Certificate check: True, a bundle's path or an SSLContext; False turns it off."""
    env_file: str | PathLike[str] | bool | None
    """Path of a .env file; False reads none; default: the nearest one of the user's own."""
    strict: bool
    """Refuse options that the provider lacks, instead of leaving them out."""
    insecure_http: bool
    """Let a key go over plain http to another machine."""
    allow_private_urls: bool
    """Fetch pictures also from private networks and over plain http, where a provider takes no addresses itself."""
    options: Mapping[str, Any] | None
    """The driver's own settings, such as ``n_ctx`` or an Azure ``deployment``."""
    driver: Driver | None
    """A ready driver: nothing is read from the environment then."""


def settled(
    provider: str | None, model: str | None, api_key: ApiKey | None, options: ClientOptions, driver: Driver | None
) -> tuple[Settings | None, SLMError | None]:
    """Return the settings, or the error: returned, not raised, for these frames hold keys."""
    try:
        unknown = sorted(options.keys() - ClientOptions.__annotations__.keys())
        if unknown:
            raise ConfigurationError(unknown_name("argument", unknown[0], ClientOptions.__annotations__))
        for name, value in (("provider", provider), ("model", model)):
            if value is not None and not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"{name} is a str, not {type(value).__name__}.")
        if driver is not None:
            _check_ready(driver, {"provider": provider, "model": model, "api_key": api_key, **options})
        _check_policies(options)
        given: dict[str, Any] = {name: value for name, value in options.items() if name not in OF_POLICIES}
        given |= {"provider": provider, "model": model, "api_key": api_key}
        if given.get("fallbacks") is not None:
            given["fallbacks"] = tuple(
                _fallback(each) for each in _several("fallbacks", given["fallbacks"], "['azure:phi-4-mini', 'local']")
            )
        return resolve(_given(given), driver), None
    except SLMError as error:
        return None, bare(error)


def _given(named: Mapping[str, Any]) -> Given:
    """Return what was given by keyword; secrets are wrapped as such."""
    given = {name: value for name, value in named.items() if value is not None}
    if "api_key" in given:
        given["api_key"] = Secret(given["api_key"])
    if "proxy" in given:
        given["proxy"] = Secret(given["proxy"], "proxy")
    if "headers" in given:
        given["headers"] = _secret_values(given["headers"])
    if "rate_limit" in given and not isinstance(given["rate_limit"], str):
        raise ConfigurationError(f"rate_limit is a str such as '15/min', not {type(given['rate_limit']).__name__}.")
    return Given(**given)


def _several(name: str, value: object, example: str) -> Sequence[Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return cast("Sequence[Any]", value)
    raise ConfigurationError(f"{name} is a list, such as {example}, not {type(value).__name__}.")


def _fallback(said: object) -> str | Given | Driver:
    if isinstance(said, (str, Driver)):
        return said
    if not isinstance(said, Mapping):
        raise ConfigurationError(
            f"A fallback is 'provider:model', a dict such as {{'provider': …, 'api_key': …}}, or a Driver, not "
            f"{type(said).__name__}."
        )
    named = cast("Mapping[str, Any]", said)
    unknown = sorted(str(name) for name in named if name not in _OF_FALLBACK)
    if unknown:
        raise ConfigurationError(unknown_name("key of a fallback", unknown[0], _OF_FALLBACK))
    if not isinstance(named.get("provider"), str):
        raise ConfigurationError("A fallback that is a dict names its 'provider'.")
    return _given(named)


def _check_policies(options: ClientOptions) -> None:
    retry = cast(object, options.get("retry"))
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry is a RetryPolicy, not {type(retry).__name__}: RetryPolicy(max_retries=5).")
    if retry is not None and options.get("max_retries") is not None:
        raise ConfigurationError("retry= holds max_retries already: give one of the two.")
    if options.get("hedge_after") is not None:
        checked_seconds("hedge_after", options.get("hedge_after"))
    for kind in _several("fallback_on", options.get("fallback_on") or (), "[ContentFilterError]"):
        if not (isinstance(kind, type) and issubclass(kind, SLMError)):
            raise ConfigurationError("fallback_on is a list of error classes, such as [ContentFilterError].")


def policies_of(options: ClientOptions) -> dict[str, Any]:
    """Return what was given of policies, which holds no key; what settings have no use for is taken out."""
    allowed = options.pop("allow_private_urls", False)
    return {**{name: options.get(name) for name in OF_POLICIES}, "allow_private_urls": allowed}


def whole_driver(settings: Settings, ready: Driver | None, given: Mapping[str, Any]) -> tuple[Driver, bool]:
    """Return the drivers in all their policies, and whether there are several.

    Args:
        settings: The client's.
        ready: The first driver, where it was handed in.
        given: What `policies_of` returned.
    """
    legs = legs_of(settings, ready)
    policies = Policies(
        retry=given["retry"] or RetryPolicy(settings.max_retries),
        hedge_after=given["hedge_after"],
        fallback_on=given["fallback_on"] or (),
        strict=settings.strict,
        allow_private_urls=given["allow_private_urls"],
        on_event=given["on_event"],
        capture_content=captures_content(),
    )
    return OverflowDriver(stacked(legs, policies)), len(legs) > 1


def legs_of(settings: Settings, ready: Driver | None) -> list[Leg]:
    """Return the drivers that a call may go to, in order.

    Args:
        settings: The client's.
        ready: The first one, where it was handed in.
    """
    asked = [(ready or settings.driver, settings.rate_limit)]
    asked += [(fallback.driver, fallback.rate_limit) for fallback in settings.fallbacks]
    legs: list[Leg] = []
    seen: list[Any] = []
    for given, rate_limit in asked:
        if isinstance(given, Driver):
            legs.append(Leg(given, rate_limit, owned=False))
            continue
        same = (given.provider, given.model, given.base_url, given.api_key, dict(given.options))
        if same in seen:
            continue  # PhiClient(fallbacks=["local"]) where nothing else was chosen
        seen.append(same)
        try:
            driver = registry.new_driver(given)
        except SLMError as error:
            if not legs:
                raise
            raise of_fallback(error, given.provider) from None
        legs.append(Leg(driver, "off" if registry.is_replayed() else rate_limit))  # a recording has nothing to wait for
    return legs


def _check_ready(driver: object, beside: Mapping[str, object]) -> None:
    if not isinstance(driver, Driver):
        raise ConfigurationError(f"driver= is a Driver, ready to use, not {type(driver).__name__}.")
    useless = [name for name, value in beside.items() if name not in _FOR_READY and value is not None]
    if useless:
        raise ConfigurationError(f"driver= is a ready driver: it takes no {', '.join(useless)} beside it.")


def _secret_values(headers: object) -> dict[str, Secret]:
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers is a dict, not {type(headers).__name__}.")
    values: dict[str, Secret] = {}
    for name, value in cast("Mapping[Any, Any]", headers).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError("headers has a name that no header can have.")
        values[name] = Secret(value, f"the header {name}")
    return values
