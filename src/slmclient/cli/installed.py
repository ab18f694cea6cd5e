"""What is installed of each pip extra, read off the packages' own metadata; nothing is imported in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec

_PACKAGE = "slmclient"
_REQUIREMENT = re.compile(r"^\s*([\w.-]+)[^;]*;(.*)\bextra\s*==\s*['\"]([\w.-]+)['\"]")
_EVERYTHING = "all"  # the extra that only sums up the others
_LONGEST_IMPORT = 60  # seconds
# Importing openvino tells its makers so, and writes into the home folder, unless it has no package for that.
_UNTOLD = "import sys; sys.modules['openvino_telemetry'] = None; "


def version() -> str:
    """Return the version of slmclient."""
    return metadata.version(_PACKAGE)


def extras() -> dict[str, dict[str, str | None]]:
    """Return what each extra needs: package name to its version, None where it is not installed."""
    found: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires(_PACKAGE) or ():
        match = _REQUIREMENT.match(requirement)
        if match is None or match[3] == _EVERYTHING or match[1] == _PACKAGE:
            continue
        name, condition, extra = match.groups()
        present = _version(name)
        if present is not None or not condition.strip():  # a condition (on the platform) may leave it out here
            found.setdefault(extra, {})[name] = present
    return found


def missing(extra: str | None) -> list[str]:
    """Return the packages that an extra lacks."""
    return [name for name, present in extras().get(extra or "", {}).items() if present is None]


def command(extra: str) -> str:
    """Return the line that installs an extra."""
    return f'pip install "{_PACKAGE}[{extra}]"'


def import_problem(package: str) -> str | None:
    """Return why an installed package cannot be imported, tried in another process; None if it can, or has no module.

    An engine may lack a library of the system, which only its import shows.
    """
    module = package.replace("-", "_")
    if find_spec(module) is None:
        return None
    try:
        run = subprocess.run(
            [sys.executable, "-P", "-c", f"{_UNTOLD}import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_IMPORT,
        )
    except subprocess.TimeoutExpired:
        return f"{package} is installed, but its import did not end in {_LONGEST_IMPORT} s."
    if run.returncode == 0:
        return None
    reason = next(reversed(run.stderr.strip().splitlines()), f"exit code {run.returncode}")
    hint = ""
    if "libgomp" in reason:
        hint = (
            " Install that system library: apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora), "
            "apk add libgomp (Alpine)."
        )
    return f"{package} is installed, but cannot be imported: {reason}.{hint}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
