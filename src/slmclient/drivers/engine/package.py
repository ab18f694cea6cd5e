"""An engine's own Python package: imported, and new enough, or the error that says what to install."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import Any

from slmclient.drivers.base import DriverInfo
from slmclient.errors import MissingDependencyError


def engine_module(module: str, info: DriverInfo, provider: str) -> ModuleType:
    """Return an engine's module.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported; the message has the command, or the reason.
    """
    try:
        return import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and (error.name or top).partition(".")[0] == top:
            raise MissingDependencyError(
                f'{provider} needs {info.title}: pip install "slmclient[{provider}]"', provider=provider
            ) from None
        raise MissingDependencyError(f"{top} cannot be imported: {one_line(error)}", provider=provider) from None


def check_version(
    module: Any, oldest: tuple[int, int], info: DriverInfo, provider: str, distribution: str | None = None
) -> None:
    """Raise an error if an engine is older than what its driver was written for.

    Args:
        module: The engine's. Its own version counts: one engine may come in distributions of several names.
        oldest: The first version that does what is needed.
        info: The driver's.
        provider: The provider's name, for the error.
        distribution: What pip is to upgrade; None is this library's own extra.

    Raises:
        MissingDependencyError: It is too old; the message has the command.
    """
    found = str(getattr(module, "__version__", ""))  # built from source, it may have none
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers and numbers < oldest:
        needed = ".".join(map(str, oldest))
        wanted = f'-U "{distribution}>={needed}"' if distribution else f'--upgrade "slmclient[{info.extra}]"'
        raise MissingDependencyError(
            f"{provider} needs {info.title} {needed} or later, and this is {found}: pip install {wanted}",
            provider=provider,
        )


def one_line(said: object) -> str:
    """Return what an engine said, short enough for a message."""
    return " ".join(str(said).split())[:500]
