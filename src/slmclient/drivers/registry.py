"""Which drivers there are: names, and where their classes live. The only place that lists providers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from slmclient.drivers.base import Driver, DriverConfig, DriverFactory, DriverInfo
from slmclient.errors import ConfigurationError, UnknownProviderError
from slmclient.request import unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "slmclient.drivers"
"""Entry-point group of other packages' drivers: name = "module:Class"."""

LOCAL = "local"
"""The provider that needs no configuration."""

COMPATIBLE = "openai"
"""The provider that a base_url alone stands for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One provider: its class as "module:Class", and what differs from the class's own info."""

    target: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])


_DRIVERS = "slmclient.drivers"
ROWS: Mapping[str, Row] = MappingProxyType(
    {
        LOCAL: Row(
            f"{_DRIVERS}.llamacpp:LlamaCppDriver",
            MappingProxyType(
                {
                    "title": "The embedded model",
                    "docs": "local.md",
                    "default_model": "smollm2-135m",
                    "extra": LOCAL,
                    "state": "works at once, without key or configuration",
                }
            ),
        ),
        COMPATIBLE: Row(f"{_DRIVERS}.openai:OpenAIDriver"),
        "github": Row(f"{_DRIVERS}.github:GitHubDriver"),
        "azure": Row(f"{_DRIVERS}.azure:AzureDriver"),
        "nvidia": Row(f"{_DRIVERS}.nvidia:NvidiaDriver"),
        "ollama": Row(f"{_DRIVERS}.ollama:OllamaDriver"),
        "llamacpp": Row(f"{_DRIVERS}.llamacpp:LlamaCppDriver"),
        "onnx": Row(f"{_DRIVERS}.onnx:OnnxDriver"),
        "openvino": Row(f"{_DRIVERS}.openvino:OpenVinoDriver"),
        "transformers": Row(f"{_DRIVERS}.transformers:TransformersDriver"),
        "mlx": Row(f"{_DRIVERS}.mlx:MlxDriver"),
    }
)
ENGINES = ("llamacpp", "onnx", "openvino", "transformers", "mlx")
"""The engines in the process, the first to be taken where several could run a model: small, quick to start and light
on memory before large."""

ALIASES: Mapping[str, str] = MappingProxyType({"nim": "nvidia"})


def _plugins() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # asked on a miss only; its import is not free

    return entry_points(group=ENTRY_POINTS)


def names() -> tuple[str, ...]:
    """Return the built-in provider names, and those of installed plugins after them."""
    return (*ROWS, *sorted(point.name for point in _plugins() if point.name not in ROWS))


def canonical(name: str) -> str | None:
    """Return the provider that a name or alias means, or None. Plugins are looked at only if no built-in has it."""
    name = ALIASES.get(name, name)
    if name in ROWS or any(point.name == name for point in _plugins()):
        return name
    return None


def driver_class(name: str) -> type[Driver]:
    """Return the class of a provider; this imports its module.

    Raises:
        UnknownProviderError: No built-in and no plugin has that name; the message has the closest.
        ConfigurationError: A plugin does not load, or is no driver.
    """
    if name in ROWS:
        module, _, attribute = ROWS[name].target.partition(":")
        found: Any = getattr(import_module(module), attribute)
        return found  # type: ignore[no-any-return]  # the rows above are ours
    for point in _plugins():
        if point.name == name:
            return _plugin_class(name, point)
    raise UnknownProviderError(unknown_name("provider", name, names()), provider=name)


def _plugin_class(name: str, point: EntryPoint) -> type[Driver]:
    try:
        found = point.load()
    except Exception as error:  # a plugin may fail in any way at import
        raise ConfigurationError(
            f"The plugin for {name!r} ({point.value}) does not load: {type(error).__name__}: {error}", provider=name
        ) from error
    info: object = getattr(found, "info", None)
    if not (isinstance(found, type) and issubclass(found, Driver) and isinstance(info, DriverInfo)):
        raise ConfigurationError(
            f"The plugin for {name!r} ({point.value}) is no subclass of Driver with a DriverInfo as its info.",
            provider=name,
        )
    return found


def driver_info(name: str) -> DriverInfo:
    """Return what the driver of that provider says of itself."""
    info = replace(driver_class(name).info, name=name, **(ROWS[name].changes if name in ROWS else {}))
    if _stand_in is not None and _stand_in.keyless:
        return replace(info, vendor_hosts=(), key_variables=(), url_variables=())
    return info


def new_driver(config: DriverConfig) -> Driver:
    """Return a new driver of the provider that the config names, or what stands in for it."""
    make = driver_class(config.provider) if _stand_in is None else _stand_in.make
    return make(config)


@dataclass(frozen=True, slots=True)
class _StandIn:
    make: DriverFactory
    keyless: bool


_stand_in: _StandIn | None = None


def is_replayed() -> bool:
    """Return whether nothing is sent: what stands in for drivers answers by itself."""
    return _stand_in is not None and _stand_in.keyless


@contextmanager
def standing_in(make: DriverFactory, *, keyless: bool = False) -> Generator[None, None, None]:
    """Have `new_driver` make something else for a while, in the whole process: for tests.

    Args:
        make: Makes it.
        keyless: Whether no provider needs a key or an address then, nor is one of its vendor's looked for.
    """
    global _stand_in
    before, _stand_in = _stand_in, _StandIn(make, keyless)
    try:
        yield
    finally:
        _stand_in = before
