"""What is loaded, and when: `import slmclient` costs nothing and touches nothing; a call loads what it needs.

Watched from outside, in fresh processes. `weight.json` holds how many modules each step may have loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import weigh
from raw_server import RawServer, serve

HEAVY = {
    "dotenv", "httpcore2", "httpx2", "jsonschema", "openai", "pydantic", "pydantic_core", "rich", "tenacity", "typer",
    "xllamacpp",
}  # fmt: skip

# Sockets, processes and (from Python 3.12) threads announce themselves to an audit hook, however they are made. What
# it needs itself is built in, so that it loads nothing that it would have to look for.
WATCH = """
import _thread, sys
seen, before = [], set(sys.modules)
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(
    ("socket.", "_thread.start", "subprocess.", "os.exec", "os.fork", "os.posix_spawn")) else None)
if sys.version_info < (3, 12):
    start = _thread.start_new_thread
    _thread.start_new_thread = lambda *given: (seen.append("_thread.start_new_thread"), start(*given))[1]
exec(sys.argv[1])
loaded = sorted(set(sys.modules) - before)
import json
print(json.dumps({"events": seen, "modules": loaded}))
"""

NAMES = "from slmclient import AsyncPhiClient, Message, PhiClient"
CALL = f"""{NAMES}
with PhiClient("openai", "m", base_url=sys.argv[2], api_key="k", env_file=False) as client:
    assert client.chat("Hi").text"""
STREAM = f"""{NAMES}
with PhiClient("openai", "m", base_url=sys.argv[2], api_key="k", env_file=False) as client:
    assert list(client.stream("Hi"))"""
ASYNC_CALL = f"""{NAMES}
import asyncio
async def main():
    async with AsyncPhiClient("openai", "m", base_url=sys.argv[2], api_key="k", env_file=False) as client:
        assert (await client.chat("Hi")).text
asyncio.run(main())"""
STEPS = {"import slmclient": "import slmclient", "its names": NAMES, "a call": CALL, "a stream": STREAM,
         "an async call": ASYNC_CALL}  # fmt: skip

MODELS = {"annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
HTTP = {"anyio", "h11", "httpcore2", "truststore"}  # anyio and truststore by the library, whether it needs them or not
PACKAGES: dict[str, set[str]] = {
    "import slmclient": set(),
    "its names": MODELS,
    "a call": MODELS | HTTP,
    "a stream": MODELS | HTTP,
    "an async call": MODELS | HTTP,
}
"""What of others each step may load, and of what we depend on ourselves, does load."""
DIRECT = {"dotenv", "httpcore2", "httpx2", "jsonschema", "pydantic", "tenacity"}
IF_THERE = {"sniffio"}  # what anyio loads where another package has brought it

# Modules of ours and of Python's that no plain call over HTTP needs, nor whoever only makes a client.
UNNEEDED = {
    *(
        "answer.structured",
        "answer.tool_run",
        "cli",
        "drivers.azure",
        "drivers.engine",
        "drivers.github",
        "drivers.hub",
    ),
    *("drivers.llamacpp", "drivers.mlx", "drivers.nvidia", "drivers.ollama", "drivers.onnx", "drivers.openvino"),
    *("drivers.prompt", "drivers.sdk", "drivers.transformers", "json_schema", "json_text", "media.film"),
    *("media.fitting", "media.raster", "media.video", "output", "phi.schema_prompt", "phi.templates"),
    *("phi.tool_calls", "phi.tool_prompt", "policy.candidate", "policy.fallback", "policy.hedge", "policy.telemetry"),
    *("testing", "tools"),
}
UNNEEDED_OF_PYTHON = {
    *("asyncio", "ctypes", "doctest", "ftplib", "multiprocessing", "pdb", "pydoc", "smtplib", "sqlite3", "tkinter"),
    *("unittest", "webbrowser", "xml", "xmlrpc"),
}
ONLY_FOR_HTTP = {"http", "ssl"}


def run(statement: str, *arguments: str) -> tuple[list[str], set[str]]:
    """Return the events, and the modules that one statement loads in a fresh process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLM_")}
    command = [sys.executable, "-c", WATCH, statement, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    return seen["events"], set(seen["modules"])


def watched(statement: str) -> tuple[list[str], set[str]]:
    """Return the events and top-level modules that one statement brings about in a fresh process."""
    events, modules = run(statement)
    return events, packages(modules)


def packages(modules: set[str]) -> set[str]:
    """Return the top-level names of modules."""
    return {name.partition(".")[0] for name in modules}


def foreign(modules: set[str]) -> set[str]:
    """Return the packages that are neither Python's own nor ours."""
    own = {"slmclient", *sys.stdlib_module_names}
    return {name for name in packages(modules) - own if not name.startswith("_sysconfigdata")}


def unneeded(modules: set[str]) -> list[str]:
    """Return our modules that the step could do without."""
    ours = {name.removeprefix("slmclient.") for name in modules if name.startswith("slmclient.")}
    return sorted(name for name in ours if any(f"{name}.".startswith(f"{part}.") for part in UNNEEDED))


@pytest.fixture(scope="module")
def loaded() -> Iterator[dict[str, set[str]]]:
    """The modules that each step has loaded, by its name."""
    with RawServer(serve) as server:
        yield {step: run(statement, server.url)[1] for step, statement in STEPS.items()}


def test_import_opens_no_socket_and_starts_no_thread_or_process() -> None:
    events, _ = watched("import slmclient; assert slmclient.__file__")
    assert events == []


def test_import_loads_no_http_library_no_engine_and_no_pydantic() -> None:
    _, modules = watched("import slmclient; assert slmclient.__file__")
    assert "slmclient" in modules
    assert modules & HEAVY == set()


def test_every_public_name_can_be_imported_and_opens_nothing() -> None:
    events, _ = watched("import slmclient\nassert slmclient.__all__\nfor n in slmclient.__all__: getattr(slmclient, n)")
    assert events == []


# --- the import graph


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_these_packages_and_no_others(step: str, loaded: dict[str, set[str]]) -> None:
    found = foreign(loaded[step])
    assert found - IF_THERE - PACKAGES[step] == set()
    assert found & DIRECT == PACKAGES[step] & DIRECT, "what is not loaded any more is not to come back: take it out"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_no_module_of_ours_that_it_could_do_without(step: str, loaded: dict[str, set[str]]) -> None:
    assert unneeded(loaded[step]) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_no_more_modules_than_its_ceiling(step: str, loaded: dict[str, set[str]]) -> None:
    ours = sorted(name for name in loaded[step] if packages({name}) == {"slmclient"})
    ceiling = weigh.ceilings()["modules"][step]
    assert len(ours) <= ceiling["of ours"], ours
    assert len(loaded[step]) <= ceiling["all"], sorted(loaded[step])


@pytest.mark.parametrize("step", ["import slmclient", "its names", "a call", "a stream"])
def test_who_calls_without_asyncio_does_not_load_it(step: str, loaded: dict[str, set[str]]) -> None:
    assert packages(loaded[step]) & UNNEEDED_OF_PYTHON == set()


def test_who_only_imports_the_names_has_no_model_built(loaded: dict[str, set[str]]) -> None:
    assert "pydantic.plugin._loader" not in loaded["its names"], "pydantic loads 54 modules of Python's for the first"


def test_who_only_makes_a_client_loads_nothing_of_http(loaded: dict[str, set[str]]) -> None:
    assert packages(loaded["its names"]) & (ONLY_FOR_HTTP | HTTP) == set()
    ours = loaded["its names"] & {f"slmclient.drivers.{name}" for name in ("http", "pump", "transport")}
    assert ours == set()


# --- the watch itself


@pytest.mark.parametrize(
    ("statement", "event"),
    [
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import threading; threading.Thread(target=int).start()", "_thread.start"),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", "subprocess.Popen"),
    ],
)
def test_the_watch_sees(statement: str, event: str) -> None:
    events, _ = watched(statement)
    assert any(name.startswith(event) for name in events)


@pytest.mark.parametrize("module", ["httpx2", "jsonschema", "pydantic", "tenacity", "dotenv"])
def test_the_watch_sees_the_heavy_module(module: str) -> None:
    _, modules = watched(f"import {module}")
    assert module in modules & HEAVY
    assert module in foreign(modules)


@pytest.mark.parametrize("module", ["asyncio", "json", "unittest"])
def test_the_watch_sees_modules_of_python(module: str) -> None:
    assert module in watched(f"import {module}")[1]


@pytest.mark.parametrize("module", ["output", "tools.declared", "drivers.nvidia", "media.video"])
def test_the_watch_sees_a_module_that_is_not_needed(module: str) -> None:
    assert module in unneeded(run(f"import slmclient.{module}")[1])


def test_every_module_that_is_not_needed_is_there() -> None:
    import importlib.util

    assert [name for name in UNNEEDED if importlib.util.find_spec(f"slmclient.{name}") is None] == []
