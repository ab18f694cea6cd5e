"""Put results into docs/performance.md: the budgets of every run, the tables and the chart of the latest, and the
instructions that were counted.

    python benchmarks/page.py

Whole runs are those of benchmarks/results whose names are dates (``2026-11-27.json``, ``2026-11-27-b.json``); those
that counted instructions have that before the date. What stands between the page's marks is made here, and a test fails
where it was not made anew; the words around are not.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from compare.chart import chart  # noqa: E402
from compare.report import figures, number, spread, table  # noqa: E402

RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
PAGE, CHART = DOCS / "performance.md", DOCS / "performance.svg"
WHOLE = re.compile(r"\d{4}-\d\d-\d\d(-[a-z0-9]+)?\.json")


def runs() -> list[dict[str, Any]]:
    """Return the whole runs, the earliest first."""
    found = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json") if WHOLE.fullmatch(path.name)]
    return sorted(found, key=lambda run: run["when"])


def budgets(found: list[dict[str, Any]]) -> str:
    """Return what was promised and what each run came to."""
    head = ["ratio to openai", "at most", *(f"{run['when'][:16].replace('T', ' ')}" for run in found)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for place, promised in enumerate(found[-1]["budgets"]):
        cells = [spread(run["budgets"][place]["ratio"]) for run in found]
        cells = [
            cell if run["budgets"][place]["met"] else f"**{cell}**" for cell, run in zip(cells, found, strict=True)
        ]
        lines.append([promised["what"], number(promised["at_most"]), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def whole_table(run: dict[str, Any]) -> str:
    """Return all figures of a run."""
    return table({**run, "budgets": []}).strip()


def instructions() -> str:
    """Return the instructions that the latest run to count them has counted."""
    run: dict[str, Any] = json.loads(max(RESULTS.glob("instructions-*.json")).read_text("utf-8"))
    counted = {name: each for name, each in run["measures"].items() if name.startswith("instructions")}
    return figures({**run, "measures": counted}, list(run["versions"]), detailed=False)


def filled(page: str, found: list[dict[str, Any]]) -> str:
    """Return the page with these runs between its marks."""
    made = {"budgets": budgets(found), "figures": whole_table(found[-1]), "instructions": instructions()}
    for mark, text in made.items():
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    found = runs()
    PAGE.write_text(filled(PAGE.read_text("utf-8"), found), "utf-8")
    CHART.write_text(chart(found[-1]), "utf-8")


if __name__ == "__main__":
    main()
