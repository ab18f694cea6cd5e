"""The chart of the main figures, as SVG written by hand: bars of the ratio to openai, on a logarithmic scale."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

from compare.measures import FLOOR, US

WIDTH, MARGIN, COLUMN_GAP = 960, 24, 28
LABELS, VALUES = 96, 44  # pixels left of the bars for names, right of them for numbers
ROW, HEAD, AFTER = 17, 40, 18  # heights: of a bar, of a panel's title and scale, of what is between two panels
TOP = 84
PAPER, INK, FAINT, LINE = "#fbfbf9", "#1f2328", "#59636e", "#d5d9de"
OURS, PEER, BARE = "#0b7285", "#a8b0b9", "#d9c39a"
FLOORS = (FLOOR, "httpx2", "aiohttp")
STYLE = "font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif"


def chart(found: dict[str, Any]) -> str:
    """Return the chart."""
    against = found["against"]
    panels = [
        (measure["title"], _ratios(measure, against)) for measure in found["measures"].values() if measure["charted"]
    ]
    panels = [(title, ratios) for title, ratios in panels if ratios]
    every = [ratio for _, ratios in panels for ratio in ratios.values()] or [1.0]
    scale = _Scale(min(0.5, *every), max(2.0, *every))
    columns, height = _placed(panels)
    drawn = [_panel(title, ratios, x, y, scale, against) for title, ratios, x, y in columns]
    said = f"Bars of the ratio of each client's cost to that of {against}, on a logarithmic scale; less is better. "
    said += " ".join(_sentence(title, ratios, against) for title, ratios in panels)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="title desc" style="{STYLE}">',
        f'<title id="title">What clients cost, as a ratio to {escape(against)}</title>',
        f'<desc id="desc">{escape(said)}</desc>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>',
        *_legend(found, against),
        *drawn,
        "</svg>\n",
    ])  # fmt: skip


class _Scale:
    """Where a ratio stands, from the least to the greatest, in shares of the width."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._span = log10(low), log10(high) - log10(low)
        self.ticks = [tick for tick in (0.01, 0.1, 1, 10, 100) if low <= tick <= high]

    def at(self, ratio: float) -> float:
        return (log10(ratio) - self._low) / self._span


def _ratios(measure: dict[str, Any], against: str) -> dict[str, float]:
    """Return the ratio of each client but the one it is to, ours first, then the cheapest."""
    found = {
        client: value["ratio"]["median"]
        for client, value in measure["clients"].items()
        if client != against and value.get("ratio", {}).get("median", 0) > 0
    }
    return dict(sorted(found.items(), key=lambda item: (item[0] != US, item[1])))


def _placed(panels: list[tuple[str, dict[str, float]]]) -> tuple[list[tuple[str, dict[str, float], int, int]], int]:
    """Put each panel below the shorter of two columns; return them with their places, and the height of all."""
    heights, placed = [TOP, TOP], []
    for title, ratios in panels:
        column = 0 if heights[0] <= heights[1] else 1
        x = MARGIN + column * ((WIDTH - 2 * MARGIN + COLUMN_GAP) // 2)
        placed.append((title, ratios, x, heights[column]))
        heights[column] += HEAD + ROW * len(ratios) + AFTER
    return placed, max(heights) + 4


def _legend(found: dict[str, Any], against: str) -> list[str]:
    machine = found["machine"]
    lines = [
        f'<text x="{MARGIN}" y="30" fill="{INK}" style="font-size: 17px; font-weight: 600">'
        f"Cost as a ratio to {escape(against)}: left of the line is cheaper</text>",
        f'<text x="{MARGIN}" y="50" fill="{FAINT}">'
        + escape(f"Logarithmic scale. {found['when'][:10]}, {machine['cpu']}, Python {machine['python']}.")
        + "</text>",
    ]
    x = MARGIN
    for colour, name in ((OURS, US), (PEER, "peers"), (BARE, "floors: an HTTP library alone")):
        lines.append(f'<rect x="{x}" y="60" width="11" height="11" rx="2" fill="{colour}"/>')
        lines.append(f'<text x="{x + 16}" y="70" fill="{FAINT}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return lines


def _panel(title: str, ratios: dict[str, float], x: int, y: int, scale: _Scale, against: str) -> str:
    left = x + LABELS
    width = (WIDTH - 2 * MARGIN - COLUMN_GAP) // 2 - LABELS - VALUES
    bottom = y + HEAD + ROW * len(ratios)
    parts = [f'<text x="{x}" y="{y + 16}" fill="{INK}" style="font-weight: 600">{escape(title)}</text>']
    for tick in scale.ticks:
        at = left + scale.at(tick) * width
        colour = INK if tick == 1 else LINE
        parts.append(f'<path d="M{at:.1f} {y + HEAD - 4}V{bottom}" stroke="{colour}"/>')
        said = against if tick == 1 else f"{tick:g}×"
        parts.append(f'<text x="{at:.1f}" y="{y + HEAD - 8}" text-anchor="middle" fill="{FAINT}" '
                     f'style="font-size: 10px">{escape(said)}</text>')  # fmt: skip
    one = left + scale.at(1) * width
    for row, (client, ratio) in enumerate(ratios.items()):
        top, at = y + HEAD + ROW * row, left + scale.at(ratio) * width
        colour = OURS if client == US else BARE if client in FLOORS else PEER
        weight = ' style="font-weight: 600"' if client == US else ""
        parts.append(
            f'<text x="{left - 8}" y="{top + 12}" text-anchor="end" fill="{INK}"{weight}>{escape(client)}</text>'
        )
        parts.append(f'<rect x="{min(one, at):.1f}" y="{top + 3}" width="{max(1.0, abs(at - one)):.1f}" '
                     f'height="{ROW - 5}" rx="2" fill="{colour}"/>')  # fmt: skip
        parts.append(f'<text x="{max(one, at) + 5:.1f}" y="{top + 12}" fill="{INK}"{weight}>{_said(ratio)}</text>')
    return "\n".join(parts)


def _said(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _sentence(title: str, ratios: dict[str, float], against: str) -> str:
    return f"{title}: " + ", ".join(f"{client} {_said(ratio)}" for client, ratio in ratios.items()) + "."
