"""For tests: a driver that answers by script, and the contract that every driver keeps.

`ScriptedDriver` is for tests of programs that use slmclient; nothing is sent and no model runs. `DriverContract` and
`HttpDriverContract` are for those who write a driver: pytest classes to subclass. Only these two need pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmclient.testing.contract import DriverContract
    from slmclient.testing.fault_server import FaultServer
    from slmclient.testing.http_contract import HttpDriverContract
    from slmclient.testing.scripted import ScriptedDriver

_HOMES = {
    "DriverContract": "contract",
    "FaultServer": "fault_server",
    "HttpDriverContract": "http_contract",
    "ScriptedDriver": "scripted",
}
_ASSERTING = ("answers", "contract", "endings", "features", "http_contract", "http_hooks")

__all__ = ["DriverContract", "FaultServer", "HttpDriverContract", "ScriptedDriver"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home in _ASSERTING:
        import pytest  # its assert statements then show what they compared

        pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _ASSERTING))
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
