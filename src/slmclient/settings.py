"""Settings: what a client runs with, from keyword, process environment, ``.env`` file or default, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pydantic_core import from_json

from slmclient import catalogue, destination
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo
from slmclient.environment import DEFAULT, KEYWORD, Environment, Found
from slmclient.errors import ConfigurationError, ModelNotFoundError, SLMError, UnknownProviderError
from slmclient.given import Given
from slmclient.hosts import is_loopback, matches
from slmclient.request import checked_seconds, unknown_name

DEFAULT_TIMEOUT = 60.0
DEFAULT_DEADLINE = 600.0
DEFAULT_RETRIES = 2

# Variables that describe the provider which the environment names; another provider chosen by keyword ignores them.
_OF_PROVIDER = ("SLM_MODEL", "SLM_BASE_URL", "SLM_API_KEY", "SLM_OPTIONS", "SLM_RATE_LIMIT", "SLM_FALLBACKS")
VARIABLES = (
    "SLM_PROVIDER",
    *_OF_PROVIDER,
    "SLM_TIMEOUT",
    "SLM_DEADLINE",
    "SLM_MAX_RETRIES",
    "SLM_CACHE",
    "SLM_OFFLINE",
)
"""Our own variables."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Who is asked when the provider cannot answer: how to make its driver, or one that was handed in."""

    driver: DriverConfig | Driver
    rate_limit: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client runs with, and why."""

    driver: DriverConfig
    strict: bool
    timeout: float
    deadline: float
    max_retries: int
    origins: Mapping[str, Found]
    """Setting name to where it came from; keys are shown as set, never as they are."""
    env_file: str | None
    """The .env file that was read."""
    rate_limit: str | None = None
    fallbacks: tuple[Fallback, ...] = ()


def resolve(given: Given, ready: Driver | None = None) -> Settings:
    """Return the settings of a client.

    Args:
        given: What the constructor was given.
        ready: A driver that was handed in: the environment is not read then.

    Raises:
        UnknownProviderError: Nothing has that provider name.
        MissingApiKeyError: The vendor's host needs a key and none was found.
        ConfigurationError: Values that are wrong, contradict each other, or would send a key where it does not belong.
    """
    if ready is not None:
        timeout, deadline, retries = _limits(given, None)
        fallbacks = _fallbacks(given, given.fallbacks or (), None)
        values = timeout.value, deadline.value, retries.value
        return Settings(ready.config, given.strict, *values, {}, None, given.rate_limit, fallbacks)
    environment = Environment(given.env_file)
    provider, model = _provider_and_model(given, environment)
    ours = _our_variables(environment, provider.value)
    driver, origins = _driver_config(given, environment, provider, model, ours)
    timeout, deadline, retries = _limits(given, environment)
    rate_limit = _keyword_or(given.rate_limit, "rate_limit", ours("SLM_RATE_LIMIT"))
    said = _fallbacks_said(given, provider, ours)
    origins |= {
        "timeout": timeout,
        "deadline": deadline,
        "max_retries": retries,
        "rate_limit": rate_limit,
        "fallbacks": replace(said, value=", ".join(map(_shown, said.value)) or None),
    }
    return Settings(
        driver,
        given.strict,
        timeout.value,
        deadline.value,
        retries.value,
        origins,
        str(environment.file) if environment.file and environment.dotenv else None,
        rate_limit.value,
        _fallbacks(given, said.value, environment),
    )


def _driver_config(
    given: Given,
    environment: Environment,
    provider: Found,
    model: Found | None,
    ours: Callable[[str], Found | None],
) -> tuple[DriverConfig, dict[str, Found]]:
    """Return what a driver is given, and where that came from."""
    info = registry.driver_info(provider.value)
    # A driver over HTTP has its own default, which may depend on the address; an engine's is a matter of its row.
    model = model or ours("SLM_MODEL") or Found(None if info.hosted else info.default_model, DEFAULT)
    _check_local_serves(given, provider, model)
    address = registry.driver_class(provider.value).address
    base_url = destination.base_url(given, info, address, ours, environment)
    _check_owner(provider.value, info, base_url)
    key, hint = destination.api_key(given, provider, info, base_url, ours, environment)
    verify = destination.verify(given, environment)
    destination.check_destination(info, base_url, key, given)
    options = _options(given, ours)
    cache = environment.find("SLM_CACHE")
    offline = environment.find("SLM_OFFLINE")
    origins = {
        "provider": provider,
        "model": model,
        "base_url": base_url,
        "api_key": Found("set" if key else None, key.origin if key else DEFAULT, key.name if key else ""),
        "options": options,
        "cache": cache or Found(None, DEFAULT),
        "offline": offline or Found(None, DEFAULT),
    }
    driver = DriverConfig(
        provider=provider.value,
        model=model.value,
        base_url=base_url.value if info.hosted else None,
        api_key=key.value if key else None,
        headers=given.headers,
        proxy=destination.proxy(given, environment, base_url.value) if info.hosted else None,
        web_proxy=destination.proxy(given, environment, "https://"),
        verify=verify.value,
        options=options.value,
        strict=given.strict,
        cache_dir=environment.cache_folder(),
        offline=_flag(offline),
        key_hint=hint,
    )
    return driver, origins


def _keyword_or(keyword: object, name: str, found: Found | None) -> Found:
    if keyword is not None:
        return Found(keyword, KEYWORD, f"{name}=")
    return found or Found(None, DEFAULT)


def _fallbacks_said(given: Given, provider: Found, ours: Callable[[str], Found | None]) -> Found:
    """Return who was named: by keyword, or by the environment beside the provider that it chose.

    A provider that was chosen in code has the fallbacks that stand there: a prompt for this machine goes to no cloud
    because of a variable.
    """
    if given.fallbacks is not None:
        return Found(given.fallbacks, KEYWORD, "fallbacks=")
    found = ours("SLM_FALLBACKS") if provider.origin != KEYWORD else None
    if found is None:
        return Found((), DEFAULT)
    return replace(found, value=[name.strip() for name in found.value.split(",") if name.strip()])


def _shown(fallback: str | Given | Driver) -> str:
    if isinstance(fallback, Driver):
        return fallback.name
    if isinstance(fallback, Given):
        return ":".join(filter(None, (fallback.provider, fallback.model)))
    return fallback


def _fallbacks(
    given: Given, said: Sequence[str | Given | Driver], environment: Environment | None
) -> tuple[Fallback, ...]:
    """Return how the fallbacks are set up: by what was written for each, and the vendors' own variables."""
    if environment is None and any(not isinstance(each, Driver) for each in said):
        environment = Environment(given.env_file)
    return tuple(_fallback(given, each, environment) for each in said)


def _fallback(given: Given, said: str | Given | Driver, environment: Environment | None) -> Fallback:
    if isinstance(said, Driver):
        return Fallback(said)
    own = Given(provider=said) if isinstance(said, str) else said
    inherited = None if given.verify is False else given.verify  # unchecked was said of the first one's server alone
    own = replace(own, strict=given.strict, verify=inherited if own.verify is None else own.verify)
    assert environment is not None
    try:
        provider, model = _provider_and_model(own, environment)
        driver, _ = _driver_config(own, environment, provider, model, destination.not_ours)
    except SLMError as error:
        raise of_fallback(error, _shown(said)) from None
    return Fallback(driver, own.rate_limit)


def of_fallback(error: SLMError, name: str) -> SLMError:
    """Return the error as one of a fallback, which our own variables say nothing to.

    Args:
        error: Of its settings.
        name: How the fallback was named.
    """
    message = error.message.replace("SLM_BASE_URL or ", "").replace("SLM_BASE_URL, ", "")
    return type(error)(f"Fallback {name!r}: {message}", provider=error.provider)


def _provider_and_model(given: Given, environment: Environment) -> tuple[Found, Found | None]:
    keyword_model = Found(given.model, KEYWORD, "model=") if given.model else None
    if given.provider is not None:
        name, model = split(given.provider)
        if name is None:
            raise UnknownProviderError(_no_provider(given.provider), provider=given.provider)
        if model and keyword_model:
            raise ConfigurationError(f"Two models were given: {given.provider!r} and model={given.model!r}.")
        return Found(name, KEYWORD), Found(model, KEYWORD) if model else keyword_model
    named = _environment_provider(environment)
    if named is not None:
        return named, keyword_model
    if given.base_url:
        return Found(registry.COMPATIBLE, KEYWORD, "base_url="), keyword_model
    return Found(registry.LOCAL, DEFAULT), keyword_model


def split(text: str) -> tuple[str | None, str | None]:
    """Return provider and model of ``provider`` or ``provider:model``; None for a provider that does not exist."""
    whole = registry.canonical(text)
    if whole is not None:
        return whole, None
    prefix, colon, model = text.partition(":")
    name = registry.canonical(prefix) if colon else None
    return (name, model or None) if name else (None, None)


def _no_provider(name: str) -> str:
    known = catalogue.find(name)
    if known is not None or name.lower().endswith(".gguf"):
        who = catalogue.providers_of(name) if known else (registry.LOCAL,)
        who = tuple(provider for provider in who if provider in registry.ROWS)
        hint = f" Or name a provider that serves it: {', '.join(who)}." if who else ""
        return f"{name!r} is a model, not a provider: write PhiClient(model={name!r}).{hint}"
    return f"{unknown_name('provider', name, registry.names())} A model's name goes into model=."


def _environment_provider(environment: Environment) -> Found | None:
    """Return the provider that the environment means: SLM_PROVIDER, SLM_MODEL's prefix, or that of a base_url alone."""
    named = environment.find("SLM_PROVIDER")
    model = environment.find("SLM_MODEL")
    # Without a colon there is no prefix: the plugins, a search through all installed packages, are not asked.
    named_in = model is not None and ":" in model.value and registry.canonical(model.value) is None
    prefixed = split(model.value) if model and named_in else (None, None)
    if named is not None:
        name = registry.canonical(named.value)
        if name is None:
            raise UnknownProviderError(f"{named}: {_no_provider(named.value)}", provider=named.value)
        if model and prefixed[0]:
            raise ConfigurationError(
                f"SLM_MODEL={model.value!r} names a provider, and SLM_PROVIDER={named.value!r} does too: use one."
            )
        return Found(name, named.origin, named.name)
    if model is not None and prefixed[0]:
        return Found(prefixed[0], model.origin, model.name)
    address = environment.find("SLM_BASE_URL")
    return Found(registry.COMPATIBLE, address.origin, address.name) if address else None


def _our_variables(environment: Environment, provider: str) -> Callable[[str], Found | None]:
    named = _environment_provider(environment)

    def ours(name: str) -> Found | None:
        if named is not None and named.value != provider:
            return None  # they describe another provider: its key and address are not for this one
        found = environment.find(name)
        if found is None or name != "SLM_MODEL" or ":" not in found.value:
            return found
        prefix, model = split(found.value)
        return Found(model, found.origin, found.name) if prefix and model else found

    return ours


def _check_local_serves(given: Given, provider: Found, model: Found) -> None:
    name = model.value
    if provider.value != registry.LOCAL or catalogue.offer(name, registry.LOCAL) or name.lower().endswith(".gguf"):
        return
    who = [f"PhiClient({other!r}, {name!r})" for other in catalogue.providers_of(name) if other in registry.ROWS]
    hint = (
        f"these serve it: {', '.join(who)}" if who else "name the provider that serves it, or the path of a GGUF file"
    )
    raise ModelNotFoundError(
        f"The embedded model of provider 'local' is not {name!r}: {hint}.", provider=registry.LOCAL, model=name
    )


def _check_owner(provider: str, info: DriverInfo, base_url: Found) -> None:
    """Raise a ConfigurationError for the address of another vendor, which must not get this one's key."""
    host = urlsplit(base_url.value or "").hostname or ""
    if provider == registry.COMPATIBLE or provider not in registry.ROWS or base_url.origin == DEFAULT:
        return  # OpenAI's wire is spoken by most of them, and a plugin may be for any
    if is_loopback(host):
        return
    if matches(host, info.vendor_hosts) or catalogue.retired_service(host) is not None:
        return  # the second: nobody is there any more, and the first call says so
    owner = next((name for name in registry.ROWS if matches(host, registry.driver_info(name).vendor_hosts)), None)
    if owner is not None:
        raise ConfigurationError(
            f"{host} ({base_url}) belongs to provider {owner!r}, not to {provider!r}, whose key must not go there: "
            f"write PhiClient({owner!r}, …) or SLM_PROVIDER={owner}.",
            provider=provider,
        )


def _limits(given: Given, environment: Environment | None) -> tuple[Found, Found, Found]:
    def find(name: str) -> Found | None:
        return environment.find(name) if environment is not None else None

    return (
        _seconds("timeout", given.timeout, find("SLM_TIMEOUT"), DEFAULT_TIMEOUT),
        _seconds("deadline", given.deadline, find("SLM_DEADLINE"), DEFAULT_DEADLINE),
        _retries(given.max_retries, find("SLM_MAX_RETRIES")),
    )


def _seconds(name: str, keyword: object, found: Found | None, default: float) -> Found:
    if keyword is not None:
        return Found(checked_seconds(name, keyword), KEYWORD, f"{name}=")
    if found is None:
        return Found(default, DEFAULT)
    try:
        return Found(checked_seconds(found.name, float(found.value)), found.origin, found.name)
    except ValueError:
        raise ConfigurationError(f"{found.name} is a number of seconds, not {found.value!r}.") from None


def _retries(keyword: object, found: Found | None) -> Found:
    if keyword is not None:
        source = Found(keyword, KEYWORD, "max_retries=")
    elif found is not None and found.value.strip().isdigit():
        source = Found(int(found.value), found.origin, found.name)
    else:
        source = found or Found(DEFAULT_RETRIES, DEFAULT)
    if not isinstance(source.value, int) or isinstance(source.value, bool) or source.value < 0:
        raise ConfigurationError(f"{source.name} is a whole number of at least 0, not {source.value!r}.")
    return source


def _options(given: Given, ours: Callable[[str], Found | None]) -> Found:
    found = ours("SLM_OPTIONS") if given.options is None else None
    if found is None:
        options: object = given.options or {}
        source = Found(options, KEYWORD if given.options else DEFAULT, "options=")
    else:
        try:
            source = Found(from_json(found.value), found.origin, found.name)
        except ValueError:
            raise ConfigurationError('SLM_OPTIONS is no JSON; write it as {"n_ctx": 2048}.') from None
    if not isinstance(source.value, Mapping):
        raise ConfigurationError(f"{source.name} is a JSON object (a dict), not {type(source.value).__name__}.")
    return source


def _flag(found: Found | None) -> bool:
    if found is None or found.value.lower() in ("0", "false", "no", "off"):
        return False
    if found.value.lower() in ("1", "true", "yes", "on"):
        return True
    raise ConfigurationError(f"{found.name} is 1 or 0, not {found.value!r}.")
