"""For tests: answers by script, answers that were recorded, and the contract that every driver keeps.

`ScriptedDriver`, `recording` and `replaying` (or `record` and `replay`, for one driver) are for tests of programs that
use slmclient. `DriverContract` and `HttpDriverContract` are for those who write a driver: pytest classes to subclass.
Only these two need pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmclient.testing.cassette import Cassette
    from slmclient.testing.contract import DriverContract
    from slmclient.testing.fault_server import FaultServer
    from slmclient.testing.http_contract import HttpDriverContract
    from slmclient.testing.recorder import RecordDriver, ReplayDriver, record, recording, replay, replaying
    from slmclient.testing.scripted import ScriptedDriver

_HOMES = {
    "Cassette": "cassette",
    "DriverContract": "contract",
    "FaultServer": "fault_server",
    "HttpDriverContract": "http_contract",
    "RecordDriver": "recorder",
    "ReplayDriver": "recorder",
    "ScriptedDriver": "scripted",
    "record": "recorder",
    "recording": "recorder",
    "replay": "recorder",
    "replaying": "recorder",
}
_ASSERTING = ("answers", "contract", "endings", "features", "http_contract", "http_hooks")

__all__ = [
    "Cassette",
    "DriverContract",
    "FaultServer",
    "HttpDriverContract",
    "RecordDriver",
    "ReplayDriver",
    "ScriptedDriver",
    "record",
    "recording",
    "replay",
    "replaying",
]


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
