"""What a server says of itself without a chat: for `slm doctor` and `slm models --served`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from slmclient.cli.terminal import console
from slmclient.drivers import registry
from slmclient.drivers.base import Driver
from slmclient.drivers.http import HttpDriver
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    InternalServerError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.given import Given
from slmclient.hosts import is_loopback
from slmclient.settings import Settings, resolve

_PATIENCE = 3.0  # seconds for what nobody asked for
_LONGER_PATIENCE = 30.0
_MOST = 20  # models that a report lists


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the user's own, as it answered."""

    address: str
    ready: bool | None = None
    """Whether it says that it is ready; None where it has no way to say so."""
    models: tuple[str, ...] = ()
    """The first ids that it lists."""
    about: dict[str, str] = field(default_factory=dict[str, str])
    """What it says of these, by id, where it says anything."""
    lists_model: bool | None = None
    """Whether the model that would be asked for is among all that it lists; None where none was named."""
    problem: str | None = None
    """Why a chat would not get through."""
    note: str | None = None
    """Why it could not be asked, although a chat may get through."""


def examine(settings: Settings, driver: Driver) -> Server | None:
    """Return what a server of one's own says of itself; None for a vendor's, which is not asked unless it is meant.

    A key goes along only to this machine itself.
    """
    config = settings.driver
    if not isinstance(driver, HttpDriver) or not driver.base_url or driver.at_vendor or not driver.lists_models:
        return None
    host = urlsplit(driver.base_url).hostname or ""
    if (config.api_key is not None or config.headers) and not is_loopback(host):
        return None
    address = urlsplit(driver.base_url)._replace(query="", fragment="").geturl()
    try:
        probe = driver.probe(_PATIENCE)
    except (APIConnectionError, APITimeoutError, InternalServerError) as error:  # the last: it still loads
        return Server(address, problem=str(error))
    except SLMError as error:
        return Server(address, note=f"It does not say what it serves: {error}")
    if probe.ready is False:
        return Server(address, False, problem=f"{config.provider} at {address} is not ready yet.")
    named = driver.default_model
    lists = driver.model_id(named) in probe.models if named and probe.models else None
    models = probe.models[:_MOST]
    about = {model: probe.about[model] for model in models if probe.about.get(model)}
    return Server(address, probe.ready, models, about, lists)


def lines(server: Server) -> Iterator[str]:
    """Yield what is to be told of it, for people."""
    state = {True: "ready", False: "not ready", None: "reached" if server.models or server.note else "not reached"}
    yield f"{server.address}: {state[server.ready]}"
    if server.about:
        for model in server.models:
            yield f"serves {model}{f': {server.about[model]}' if model in server.about else ''}"
    elif server.models:
        yield f"serves {', '.join(server.models)}"


def run(provider: str | None, *, as_json: bool) -> None:
    """Print the models that the provider's server lists now."""
    settings = resolve(Given(provider=provider))
    driver = registry.new_driver(settings.driver)
    if not isinstance(driver, HttpDriver) or not driver.lists_models:
        raise UnsupportedFeatureError(
            f"{settings.driver.provider} has no list of served models; `slm models -p {settings.driver.provider}` "
            "shows the known ones.",
            provider=settings.driver.provider,
        )
    probe = driver.probe(_LONGER_PATIENCE)
    driver.close()
    if as_json:
        print(json.dumps(list(probe.models), indent=2))
        return
    width = max(map(len, probe.models), default=0)
    for model in probe.models:
        print(f"{model:<{width}}  {probe.about[model]}" if probe.about.get(model) else model)
    if not probe.models:
        console(error=True).print(f"{settings.driver.provider} lists no models.", style="dim")
    sys.stdout.flush()
