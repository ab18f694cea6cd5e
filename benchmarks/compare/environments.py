"""One environment per client, so that no peer decides which versions another one gets, and a missing one costs one row.

    python benchmarks/compare/environments.py [--refresh] [NAME …]

An environment lies in benchmarks/.environments/<name> and is kept until what its client requires changes; where that is
this checkout, until its sources change. pip compiles what it installs, so that no measured process compiles anything.
None holds pip or setuptools that its packages do not ask for: what those leave in site-packages is read at every start
of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
ENVIRONMENTS = HERE.parent / ".environments"
THIS_CHECKOUT = "."  # as a requirement
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")  # what an installed slmclient is made of
PATIENCE = 900  # seconds for one command; litellm and its tree take about one minute


class ClientFile(Protocol):
    """What is asked of a client: the file it stands in, and what pip installs for it."""

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> list[str]: ...


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message says why. The client is left out, the others are measured."""


def python_of(client: ClientFile, *, refresh: bool = False) -> Path:
    """Return the Python of a client's environment, which is made first where it is missing or outdated.

    Raises:
        EnvironmentFailedError: it cannot be made.
    """
    name = client.name.rstrip("_")  # a file is named azure_.py lest it shadow a package; its environment is azure
    folder = ENVIRONMENTS / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = _wanted(client.requires)
    with _lock(name):
        if refresh or not python.exists() or _made_of(folder) != wanted:
            _make(folder, python, client.requires, _made_of(folder) if not refresh and python.exists() else {}, wanted)
    return python


def _wanted(requires: list[str]) -> dict[str, str]:
    """What an environment is made of, in words that differ when it must be made anew."""
    wanted = {"python": sys.version, "requires": json.dumps(requires)}
    if THIS_CHECKOUT in requires:
        wanted["dependencies"] = _digest("pyproject.toml")
        wanted["sources"] = _digest(*SOURCES)
    return wanted


def _digest(*parts: str) -> str:
    """Return a digest of files of the checkout, and of all files in folders of it."""
    digest = hashlib.sha256()
    paths = [CHECKOUT / part for part in parts]
    for file in sorted(file for path in paths for file in (path, *path.rglob("*")) if file.is_file()):
        if file.suffix == ".pyc":
            continue
        digest.update(f"{file.relative_to(CHECKOUT)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _made_of(folder: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        made: dict[str, str] = json.loads((folder / "made-of.json").read_text())
        return made
    return {}


def _make(folder: Path, python: Path, requires: list[str], made: dict[str, str], wanted: dict[str, str]) -> None:
    begun = time.monotonic()
    packages = [str(CHECKOUT) if requirement == THIS_CHECKOUT else requirement for requirement in requires]
    differing = {key for key in wanted if made.get(key) != wanted[key]}
    if differing == {"sources"}:  # the same dependencies: a matter of seconds
        print(f"{folder.name}: installing slmclient again, its sources changed …", file=sys.stderr, flush=True)
        (folder / "made-of.json").unlink()
        _pip(folder, python, "install", "--no-deps", "--force-reinstall", str(CHECKOUT))
    else:
        print(f"{folder.name}: installing {' '.join(requires) or 'nothing'} …", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run(folder, [sys.executable, "-m", "venv", "--without-pip", str(folder)])
        if packages:
            _pip(folder, python, "install", *packages)
    (folder / "made-of.json").write_text(json.dumps(wanted, indent=2))  # last: what is half made is made anew
    print(f"{folder.name}: ready after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _pip(folder: Path, python: Path, *command: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EnvironmentFailedError(f"{folder.name}: {sys.executable} has no pip to install with")
    quiet = ("--disable-pip-version-check", "--no-input", "--quiet")
    _run(folder, [sys.executable, "-m", "pip", "--python", str(python), *quiet, *command])


def _run(folder: Path, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailedError(f"{folder.name}: not installed within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.startswith("ERROR")]
        why = said[-1] if said else (done.stderr or done.stdout).strip()[-300:]
        raise EnvironmentFailedError(f"{folder.name}: {why.removeprefix('ERROR: ')}")


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Let one process at a time make an environment; where there is no flock, the user runs one benchmark at a time."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as file:
        _flock(file)
        yield  # closing the file unlocks it


def _flock(file: IO[str]) -> None:
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


class _Named:
    """A client file, read only as far as an environment needs it."""

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        spec = importlib.util.spec_from_file_location(f"client_{file.stem}", file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.requires: list[str] = module.REQUIRES


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environments of the clients.")
    parser.add_argument("names", nargs="*", help="which; all if none is named")
    parser.add_argument("--refresh", action="store_true", help="make them anew")
    asked = parser.parse_args()
    failed = 0
    for file in sorted((HERE / "clients").glob("[!_]*.py")):
        if not asked.names or file.stem.rstrip("_") in {name.rstrip("_") for name in asked.names}:
            try:
                print(python_of(_Named(file), refresh=asked.refresh))
            except EnvironmentFailedError as error:
                print(error, file=sys.stderr)
                failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
