"""`import slmclient` costs nothing and touches nothing: watched from outside, in a fresh process."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "dotenv", "httpcore2", "httpx2", "jsonschema", "openai", "pydantic", "pydantic_core", "rich", "tenacity", "typer",
    "xllamacpp",
}  # fmt: skip

# Sockets, processes and (from Python 3.12) threads announce themselves to an audit hook, however they are made.
WATCH = """
import _thread, json, sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(
    ("socket.", "_thread.start", "subprocess.", "os.exec", "os.fork", "os.posix_spawn")) else None)
if sys.version_info < (3, 12):
    start = _thread.start_new_thread
    _thread.start_new_thread = lambda *given: (seen.append("_thread.start_new_thread"), start(*given))[1]
exec(sys.argv[1])
print(json.dumps({"events": seen, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def watched(statement: str) -> tuple[list[str], set[str]]:
    """Return the events and top-level modules that one statement brings about in a fresh process."""
    run = subprocess.run([sys.executable, "-c", WATCH, statement], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    return seen["events"], set(seen["modules"])


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
