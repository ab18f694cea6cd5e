"""The soak of `benchmarks/soak.py`, small: nothing is lost or left, and a server that fails is not hammered."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def soak() -> Any:
    spec = importlib.util.spec_from_file_location("soak", BENCHMARKS / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    module.TIMEOUT = 1.0  # type: ignore[attr-defined]  # on few calls a stall is not to decide how long it takes
    return module


@pytest.mark.parametrize("way", ["asyncio", "threads"])
def test_a_small_soak_keeps_every_promise(soak: Any, way: str) -> None:
    run = soak.soak(way, calls=300, in_flight=40, faults=0.1)
    assert run.broken() == [], run.report()
    assert len(run.served["done"]) == 1 + len(soak.FAULTS), "not every fault was there"


def test_a_broken_promise_is_told(soak: Any) -> None:
    class Late:
        attempts, text = (), "41"

    run = soak.Run("by hand", 2)
    held = {"traced": 0, "rss": 0, "files": 10, "threads": 1}
    run.before, run.after = held, {**held, "files": 40}
    run.served = {"requests": 3, "done": {}}
    run.note(42, Late())
    run.note(42, Late())
    said = " | ".join(run.broken())
    assert "wrong answers: [\"42 got '41'\"" in said
    assert "0 of 2 calls came back once" in said
    assert "3 requests for 2 calls" in said
    assert "files grew by 30" in said
