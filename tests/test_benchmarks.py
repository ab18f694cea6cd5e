"""The comparison in `benchmarks/compare`, tiny: it runs end to end and tells what it found. No time is asserted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FLOOR = "http_client"
MEASURES = ["cold", "import", "sync", "async_1", "chunk", "async_chunk", "first_chunk", "open_stream", "image_1"]
WITHOUT_FLOOR = {"async_1", "async_chunk", "open_stream"}  # it has no async side


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where slmclient beside the standard library's client has been written to."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCHMARKS / "compare"), "--python", sys.executable, "--results", str(folder)]
    command += ["--clients", "slmclient", FLOOR, "--against", FLOOR, "--name", "tiny", "--only", *MEASURES]
    command += ["--rounds", "1", "--repeats", "1", "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (folder / "tiny.md").read_text(encoding="utf-8").strip()
    return folder


@pytest.fixture(scope="module")
def found(written: Path) -> Any:
    return json.loads((written / "tiny.json").read_text(encoding="utf-8"))


def test_every_figure_is_there_with_its_ratio(found: Any) -> None:
    assert set(found["versions"]) == {"slmclient", FLOOR}
    assert found["missing"] == {}
    assert found["failed"] == []
    figures = {*MEASURES, "memory", "memory_over", "first_chunk_added"} - {"image_1"}
    figures |= {"image_1_copies", "image_1_wall", "image_1_cpu"}
    assert set(found["measures"]) == figures
    for name, measure in found["measures"].items():
        assert {"title", "unit", "clients"} <= set(measure)
        ours = measure["clients"]["slmclient"]
        assert len(ours["values"]) == 1
        assert ours["median"] == ours["values"][0]
        if name not in WITHOUT_FLOOR | {"first_chunk_added", "memory_over", "import"}:
            ratio = ours["ratio"]["median"]
            assert ratio == pytest.approx(ours["median"] / measure["clients"][FLOOR]["median"])


def test_the_server_saw_the_calls_and_few_connections(found: Any) -> None:
    seen = found["seen_by_the_server"]
    assert seen["sync"]["slmclient"]["requests"] > 30
    assert seen["sync"]["slmclient"]["connections"] == 1, "calls are measured on a connection that is open"
    assert seen["chunk"]["slmclient"]["connections"] == 2
    assert seen["open_stream"]["slmclient"]["connections"] == 205
    assert seen["image_1"]["slmclient"]["bytes"] > 4 * 1_333_000, "the picture goes out as it is"


def test_the_table_has_a_row_for_each_figure(written: Path, found: Any) -> None:
    table = (written / "tiny.md").read_text(encoding="utf-8")
    for measure in found["measures"].values():
        assert f"| {measure['title']} ({measure['unit']}) |" in table
    assert "| CPU of a plain call, async, 1 in flight (µs) |" in table


def test_the_chart_is_well_formed_and_says_what_it_shows(written: Path) -> None:
    chart = ElementTree.parse(written / "tiny.svg").getroot()  # it was just made here
    space = "{http://www.w3.org/2000/svg}"
    assert chart.tag == f"{space}svg"
    title, described = chart.find(f"{space}title"), chart.find(f"{space}desc")
    assert title is not None
    assert FLOOR in (title.text or "")
    assert described is not None
    assert "CPU of a plain call, sync: slmclient" in (described.text or "")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the modules of the comparison, as a program that is run has them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield lambda name: importlib.import_module(f"compare.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "compare"]:
        del sys.modules[name]


def test_ratios_are_of_one_lap_and_budgets_of_their_medians(compare: Any) -> None:
    measures, results = compare("measures"), compare("results")
    sync = next(each for each in measures.MEASURES if each.name == "sync")
    found = results.Results("openai", 3)
    for ours, theirs in ((1.0, 2.0), (3.0, 12.0), (4.0, 5.0)):
        found.begin()
        found.take(sync, "slmclient", {"value": ours})
        found.take(sync, "openai", {"value": theirs})
    found.begin()
    found.take(sync, "openai", {"value": 1.0})  # a lap without ours
    told = found.whole({"cpu": "a", "cores": 1, "python": "3", "os": "b"})
    ours = told["measures"]["sync"]["clients"]["slmclient"]
    assert ours["ratio"] == {"median": 0.5, "low": 0.25, "high": 0.8}
    assert [budget["met"] for budget in told["budgets"]] == [True]


def test_a_client_that_cannot_is_left_out_and_costs_one_row(compare: Any) -> None:
    measures, results, report = compare("measures"), compare("results"), compare("report")
    found = results.Results("openai", 1)
    found.versions["slmclient"] = "1"
    found.missing["litellm"] = "no such package"
    found.failed["slmclient", "sync"] = "it broke"
    table = report.table(found.whole({"cpu": "a", "cores": 1, "python": "3", "os": "b"}))
    assert "- left out: litellm: no such package" in table
    assert "- slmclient could not do `sync`: it broke" in table
    assert measures.US == "slmclient"
