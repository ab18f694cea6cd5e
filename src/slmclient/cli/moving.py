"""Notes of `slm doctor` for programs that come from a service or an SDK that is retired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from slmclient import catalogue
from slmclient.drivers.base import DriverInfo
from slmclient.environment import Environment

GUIDE = "docs/migrate.md (Moving house)"
_ALSO = ("SLM_BASE_URL", "OPENAI_API_BASE")  # the second: what openai called its address before 1.0


def notes(infos: Sequence[DriverInfo], environment: Environment) -> Iterator[str]:
    """Yield what is worth knowing of old variables, and of addresses where nobody answers any more."""
    for info in infos:
        old = [name for name in info.old_variables if environment.find(name) is not None]
        if old:
            verb = "belongs" if len(old) == 1 else "belong"
            yield (
                f"{_listed(old)} {verb} to programs for an SDK that {info.title} retired in 2026: {GUIDE} shows what "
                "to set and write now."
            )
    addresses = {name for info in infos for name in (*info.url_variables, *info.old_variables)} | {*_ALSO}
    for name in sorted(addresses):
        found = environment.find(name)
        service = catalogue.retired_service(_host(found.value)) if found is not None else None
        if service is not None:
            yield f"{name} points to {service.title}, which was switched off on {service.on}: {GUIDE} says where to go."


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
