"""From values to medians, ratios and budgets. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from typing import Any

from compare.measures import ADDED, BUDGETS, FLOOR, US, Budget, Figure, Measure

Values = dict[int, float]
"""What a client came to, by lap: in a lap all clients are measured one after the other."""


class Results:
    """What all clients came to.

    Args:
        against: The client that ratios are to.
        rounds: How many there are.
    """

    def __init__(self, against: str, rounds: int) -> None:
        self.against, self.rounds = against, rounds
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.failed: dict[tuple[str, str], str] = {}
        """By client and measure."""
        self._lap = 0
        self._figures: dict[str, Figure] = {}
        self._values: dict[str, dict[str, Values]] = {}
        self._seen: dict[str, dict[str, dict[str, float]]] = {}

    def begin(self) -> None:
        """Begin a lap."""
        self._lap += 1

    def take(self, measure: Measure, client: str, found: dict[str, float]) -> None:
        """Take a client's values of this lap."""
        for key, figure in measure.figures.items():
            self._figures[figure.name] = figure
            self._values.setdefault(figure.name, {}).setdefault(client, {})[self._lap] = found[key]

    def noticed(self, measure: Measure, client: str, seen: dict[str, float]) -> None:
        """Take what the server saw of a client, so that figures can be believed: requests, connections, its own CPU."""
        kept = {"requests": seen["requests"], "connections": seen["connections"] - 1}  # one was the asking's own
        kept |= {"bytes": seen["sent"], "server_cpu": round(seen["cpu"], 2)}
        self._seen.setdefault(measure.name, {})[client] = kept

    def whole(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Return all of it, as it is written."""
        self._add_added()
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "versions": self.versions,
            "rounds": self.rounds,
            "against": self.against,
            "measures": {name: self._told(figure) for name, figure in self._figures.items()},
            "missing": self.missing,
            "failed": [{"client": who, "measure": what, "why": why} for (who, what), why in self.failed.items()],
            "seen_by_the_server": self._seen,
            "budgets": [told for budget in BUDGETS if (told := self._budget(budget)) is not None],
        }

    def _add_added(self) -> None:
        """Add the time to the first chunk without the floor's."""
        values = self._values.get("first_chunk", {})
        floor = values.get(FLOOR)
        if not floor:
            return
        self._figures[ADDED.name] = ADDED
        self._values[ADDED.name] = {
            client: {lap: value - floor[lap] for lap, value in laps.items() if lap in floor}
            for client, laps in values.items()
            if client != FLOOR
        }
        order = list(self._figures)  # next to where it is from
        order.remove(ADDED.name)
        order.insert(order.index("first_chunk") + 1, ADDED.name)
        self._figures = {name: self._figures[name] for name in order}

    def _told(self, figure: Figure) -> dict[str, Any]:
        clients = {}
        values = self._values[figure.name]
        for client, laps in values.items():
            told: dict[str, Any] = {"median": median(laps.values()), "values": list(laps.values())}
            against = values.get(self.against, {})
            ratios = [value / against[lap] for lap, value in laps.items() if against.get(lap, 0) > 0]
            if ratios:
                told["ratio"] = _spread(ratios)
            clients[client] = told
        more = {"more_is_better": figure.more_is_better, "charted": figure.charted}
        return {"title": figure.title, "unit": figure.unit, **more, "clients": clients}

    def _budget(self, budget: Budget) -> dict[str, Any] | None:
        """Return whether a budget is met; None where it was not measured."""
        ours = list(self._values.get(budget.figure, {}).get(US, {}).values())
        theirs = list(self._values.get(budget.against, {}).get(budget.other, {}).values())
        ratios = [value / other for value, other in zip(ours, theirs, strict=False) if other > 0]
        if not ratios:
            return None
        ratio = _spread(ratios)
        met = ratio["median"] <= budget.at_most
        return {"what": budget.what, "against": budget.other, "at_most": budget.at_most, "ratio": ratio, "met": met}


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"median": median(ratios), "low": min(ratios), "high": max(ratios)}
