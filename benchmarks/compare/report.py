"""From results to what people read: a table and a chart. Pure, but that it writes files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compare.chart import chart
from compare.measures import AGAINST, US

NOTHING = "—"
FIRST = (US, AGAINST, "httpx2", "http_client", "aiohttp")
"""Clients of the first table: ours, theirs and the floors; the others are in the second."""


def written(found: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write results as JSON, table and chart; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        "md": table(found),
        "svg": chart(found),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(ratio: dict[str, float]) -> str:
    """Return a ratio with the least and the greatest of its rounds."""
    return f"{number(ratio['median'])} ({number(ratio['low'])}–{number(ratio['high'])})"


def table(found: dict[str, Any]) -> str:
    """Return all figures as Markdown."""
    machine = found["machine"]
    clients = list(found["versions"])
    first = [client for client in FIRST if client in clients]
    others = [client for client in clients if client not in first]
    parts = [
        f"{found['when'][:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['os']}, Python "
        f"{machine['python']}; {found['rounds']} rounds. "
        + ", ".join(f"{client} {version}" for client, version in found["versions"].items())
        + "."
    ]
    if found["budgets"]:
        parts.append(_budgets(found["budgets"]))
    parts.append(f"Medians; in brackets the ratio to {found['against']}, and its least and greatest in the rounds.")
    parts.append(figures(found, first, detailed=True))
    if others:
        parts += ["The peers: medians, and the ratio.", figures(found, others, detailed=False)]
    parts += [f"- left out: {client}: {why}" for client, why in found["missing"].items()]
    parts += [f"- {each['client']} could not do `{each['measure']}`: {each['why']}" for each in found["failed"]]
    return "\n\n".join(parts) + "\n"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _budgets(budgets: list[dict[str, Any]]) -> str:
    rows = [
        [each["what"], each["against"], number(each["at_most"]), spread(each["ratio"]), "yes" if each["met"] else "no"]
        for each in budgets
    ]
    return _rows(["budget", "against", "at most", "ratio", "met"], rows)


def figures(found: dict[str, Any], clients: list[str], *, detailed: bool) -> str:
    """Return a table of what was measured of some clients: medians and ratios, in detail with their spread."""
    rows = []
    for measure in found["measures"].values():
        cells = [_cell(measure["clients"].get(client), client != found["against"], detailed) for client in clients]
        rows.append([f"{measure['title']} ({measure['unit']})", *cells])
    return _rows(["", *clients], rows)


def _cell(value: dict[str, Any] | None, with_ratio: bool, detailed: bool) -> str:
    if value is None:
        return NOTHING
    said = number(value["median"])
    if not with_ratio or "ratio" not in value:
        return said
    ratio = value["ratio"]
    if not detailed:
        return f"{said} · {number(ratio['median'])}"
    return f"{said} · {spread(ratio)}"
