"""The `slm` command. It talks to the library as any program does; `print` has its home here."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run `slm`."""
    missing = [package for package in ("typer", "rich") if find_spec(package) is None]
    if missing:
        print(f'slm needs {" and ".join(missing)}: pip install "slmclient[cli]"', file=sys.stderr)
        sys.exit(1)
    try:
        from slmclient.cli.app import app

        app(prog_name="slm")
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(130)
