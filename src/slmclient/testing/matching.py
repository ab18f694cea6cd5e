"""Which recorded request a request is like, and what differs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, cast

from slmclient.testing.redaction import CUT

_SHOWN = 60  # characters of a value in an error
_MOST = 4  # differences that are listed
_COMPARED = 2_000  # characters


def is_same(recorded: Any, asked: Any) -> bool:
    """Return whether a request is the recorded one; what was cut out of that may have been anything."""
    if isinstance(recorded, str) and isinstance(asked, str) and CUT in recorded:
        return re.fullmatch(".*".join(map(re.escape, recorded.split(CUT))), asked, re.DOTALL) is not None
    if isinstance(recorded, dict) and isinstance(asked, dict):
        mine, theirs = cast("dict[str, Any]", recorded), cast("dict[str, Any]", asked)
        return mine.keys() == theirs.keys() and all(is_same(mine[name], theirs[name]) for name in mine)
    if isinstance(recorded, list) and isinstance(asked, list):
        pair = cast("list[Any]", recorded), cast("list[Any]", asked)
        return len(pair[0]) == len(pair[1]) and all(map(is_same, *pair))
    return bool(recorded == asked) and isinstance(recorded, bool) == isinstance(asked, bool)


def not_recorded(path: Path, same: int, asked: Mapping[str, Any], recorded: Sequence[Mapping[str, Any]]) -> str:
    """Return what to say of a request that no recorded call is left for.

    Args:
        path: The cassette.
        same: How many equal calls it has, all used.
        asked: The request.
        recorded: Those in the cassette.
    """
    if same:
        times = "once" if same == 1 else f"{same} times"
        return f"{path.name} has this call {times}, and it was made once more. "
    if not recorded:
        return f"{path.name} has no calls. "
    flat = _flat(asked)
    closest = min((_flat(request) for request in recorded), key=lambda other: _distance(flat, other))
    names = [name for name in {**closest, **flat} if not is_same(closest.get(name), flat.get(name))]
    lines = [f"\n  {name}: {_shown(closest.get(name), flat.get(name))}" for name in names[:_MOST]]
    more = f"\n  and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{path.name} has no such call. The closest one differs in{''.join(lines)}{more}\n"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the values at the ends of a tree, by their paths."""
    if isinstance(value, Mapping) and value:
        items = [(f"{name}.{key}" if name else str(key), inner) for key, inner in cast("Any", value).items()]
    elif isinstance(value, list) and value:
        items = [(f"{name}[{place}]", inner) for place, inner in enumerate(cast("list[Any]", value))]
    else:
        return {name: value}
    return {path: end for key, inner in items for path, end in _flat(inner, key).items()}


def _distance(asked: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return how many values differ; those that are nearly alike count for less."""
    distance = 0.0
    for name in {**asked, **other}:
        mine, theirs = asked.get(name), other.get(name)
        if isinstance(mine, str) and isinstance(theirs, str) and mine != theirs:
            distance += 1 - SequenceMatcher(None, mine[:_COMPARED], theirs[:_COMPARED]).quick_ratio()
        else:
            distance += not is_same(theirs, mine)
    return distance


def _shown(recorded: Any, asked: Any) -> str:
    start = 0
    if isinstance(recorded, str) and isinstance(asked, str) and max(len(recorded), len(asked)) > _SHOWN:
        alike = next((n for n, (a, b) in enumerate(zip(recorded, asked, strict=False)) if a != b), 0)
        start = max(0, alike - _SHOWN // 3)
    return f"recorded {_short(recorded, start)}, asked {_short(asked, start)}"


def _short(value: Any, start: int) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    piece = text[start : start + _SHOWN]
    shown = f"{'…' if start else ''}{piece}{'…' if start + _SHOWN < len(text) else ''}"
    return repr(shown) if isinstance(value, str) else shown
