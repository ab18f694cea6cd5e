"""Show what the paths of a call weigh beside their ceilings: ``python tests/weigh.py``.

A ceiling in ``weight.json`` is lowered (or raised, which wants a reason) by ``python tests/weigh.py --pin``, on the
oldest Python: newer ones take fewer instructions. Look at the difference before you commit it. Its other ceilings, of
memory and modules, are changed by hand.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from weighed import PATHS

FILE = Path(__file__).with_name("weight.json")
HEADROOM = 1.2
"""A ceiling stands so far above what was counted: Pythons and libraries differ a little."""
_SLACK = 1.5  # so far above, a ceiling guards nothing any more


def ceilings() -> dict[str, Any]:
    """Return what ``weight.json`` holds."""
    held: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return held


def rounded(count: int) -> int:
    """Return the ceiling of a count: with headroom, and three digits, so that small changes do not change it."""
    room = int(count * HEADROOM)
    step = 10 ** max(0, len(str(room)) - 3)
    return -(-room // step) * step


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Show the present counts; with ``--pin``, make the ceilings of them."""
    for name in [name for name in os.environ if name.startswith("SLM_")]:
        del os.environ[name]
    held = ceilings() if FILE.exists() else {"instructions": {}}
    counts = {name: path() for name, path in PATHS.items()}
    say(f"instructions on Python {platform.python_version()}")
    for name, count in counts.items():
        ceiling = held["instructions"].get(name, 0)
        remark = "over it" if count > ceiling else "lower it?" if count * _SLACK < ceiling else ""
        say(f"{count:>9,} of {ceiling:>9,}  {name:<58}{remark}".rstrip())
    if "--pin" in sys.argv:
        held["instructions"] = {name: rounded(count) for name, count in counts.items()}
        FILE.write_text(json.dumps(held, indent=2) + "\n", "utf-8")
        say(f"wrote {FILE.name}")


if __name__ == "__main__":
    main()
