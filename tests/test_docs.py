"""The docs are true: their code runs, their tables are those of the code, their links lead somewhere.

Every python block of a page runs, in order, in one namespace, unless a line ``<!-- not run: why -->`` stands above it.
What stands behind ``# →`` must be the beginning of a printed line, in that order.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import azure.core.exceptions
import openai
import pytest

from slmclient import catalogue, errors, settings
from slmclient.drivers import registry
from slmclient.drivers.engine import EngineDriver
from slmclient.drivers.http import HttpDriver

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^(?P<skip><!-- not run: [^\n]+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNER = """
import json, sys
page, blocks = json.load(sys.stdin)
names = {"__name__": "__main__"}
for line, code in blocks:
    exec(compile("\\n" * line + code, page, "exec"), names)
    print(flush=True)
"""


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks_of(page: Path) -> list[tuple[int, str]]:
    text = page.read_text("utf-8")
    return [
        (text.count("\n", 0, block.start("code")), block["code"]) for block in BLOCK.finditer(text) if not block["skip"]
    ]


def variables_of(provider: str) -> tuple[str, ...]:
    info = registry.driver_info(provider)
    return info.key_variables + info.url_variables


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.stem)
@pytest.mark.usefixtures("weights")
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: Path) -> None:
    blocks = blocks_of(page)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUNNER],
        input=json.dumps([str(page), blocks]),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for promised in re.findall(r"# → (.+)", "".join(code for _, code in blocks)):
        assert any(line.strip().startswith(promised) for line in lines), f"{promised!r} is not in\n{done.stdout}"


@pytest.mark.parametrize("page", ["README.md", "docs/providers.md"])
def test_the_tables_of_providers_are_those_of_the_code(page: str) -> None:
    text = text_of(page)
    for provider in registry.ROWS:
        rows = [line for line in text.splitlines() if re.match(rf"\| \[?`{provider}`", line)]
        assert len(rows) == 1, f"{page} has {len(rows)} rows of {provider}"
        named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", rows[0])) - set(settings.VARIABLES)
        assert named == set(variables_of(provider))


def test_every_variable_of_ours_is_explained() -> None:
    rows = re.findall(r"^\| `(SLM_\w+)`", text_of("docs/providers.md"), re.MULTILINE)
    assert sorted(rows) == sorted(settings.VARIABLES)


def test_portable_names_are_those_of_the_catalogue() -> None:
    rows = re.findall(r"^\| `(phi-[^`]+)` \| (.*) \| (.*) \| (.*) \|$", text_of("docs/providers.md"), re.MULTILINE)
    assert rows
    for name, *ids in rows:
        offers = [catalogue.offer(name, provider) for provider in ("azure", "nvidia", "github")]
        assert [cell.strip().strip("`") for cell in ids] == [offer.id if offer else "" for offer in offers]


def test_drivers_point_to_pages_and_sections_that_are_there() -> None:
    for provider in registry.ROWS:
        page, _, section = registry.driver_info(provider).docs.partition("#")
        assert (ROOT / "docs" / page).is_file(), f"{provider} points to docs/{page}"
        assert not section or f"\n## {section}\n" in text_of(f"docs/{page}")


HTTP_PROVIDERS = [name for name in registry.ROWS if registry.driver_info(name).hosted]


@pytest.mark.parametrize("provider", HTTP_PROVIDERS)
def test_every_http_provider_has_a_page_that_says_what_was_checked(provider: str) -> None:
    assert registry.driver_info(provider).docs == f"providers/{provider}.md"
    text = text_of(f"docs/providers/{provider}.md")
    assert text.startswith(f"# {provider}\n")
    section = text.partition("\n## What was checked against what\n")[2]
    assert re.search(r"^\| .+ \| .+ \|$", section, re.MULTILINE)
    assert "\n## " not in section, "it ends the page"
    for file in re.findall(r"`(tests/[^`]+)`", section):
        assert (ROOT / file).is_file(), f"{provider}'s page names {file}"


@pytest.mark.parametrize("provider", HTTP_PROVIDERS)
def test_the_page_of_a_provider_names_its_options_and_variables(provider: str) -> None:
    text = text_of(f"docs/providers/{provider}.md")
    driver = registry.driver_class(provider)
    assert issubclass(driver, HttpDriver)
    for name in (*driver.options, *variables_of(provider)):
        assert f"`{name}`" in text, f"{provider}'s page does not name {name}"
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("\n## Options\n")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(driver.options), "its section on options has a row for each"


ENGINES = [name for name in registry.ENGINES if name in registry.ROWS]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_a_page_with_its_options_and_what_was_checked(engine: str) -> None:
    info, driver = registry.driver_info(engine), registry.driver_class(engine)
    assert info.docs == f"engines/{engine}.md"
    assert issubclass(driver, EngineDriver)
    text = text_of(f"docs/{info.docs}")
    assert f"slmclient[{engine}]" in text or f".[{engine}" in text, "how it is installed"
    assert "\n## What was checked against what\n" in text
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("\n## Options\n")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted({*driver.common_options, *driver.options}), "each option has a row"


def test_moving_house_has_a_row_for_every_old_variable() -> None:
    rows = [line.split(" | ")[0] for line in text_of("docs/migrate.md").splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}
    assert {name for provider in registry.ROWS for name in registry.driver_info(provider).old_variables} <= named


def test_the_errors_of_moving_house_are_ours_or_those_of_the_sdks() -> None:
    theirs = {name for module in (openai, azure.core.exceptions) for name in vars(module)} | {"ValueError"}
    named = set(re.findall(r"`(\w+Error)`", text_of("docs/migrate.md")))
    assert named
    assert named <= theirs | set(vars(errors))


def test_every_error_is_in_the_tree() -> None:
    tree = re.search(r"```text\n(.*?)```", text_of("docs/errors-and-retries.md"), re.DOTALL)
    assert tree is not None
    classes = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert sorted(re.findall(r"(\w+Error)\b", tree[1])) == sorted(classes)


@pytest.mark.parametrize("file", ["slmclient_echo.py", "test_slmclient_echo.py"])
def test_the_plugin_in_the_docs_is_the_one_in_the_examples(file: str) -> None:
    assert f"```python\n{text_of(f'examples/plugin/{file}')}```" in text_of("docs/write-a-driver.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page))):
        assert (ROOT / target).exists(), f"{page} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text_of(target), re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], f"{page} links to {target}#{anchor}"


def test_the_page_on_performance_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("page")
    runs, shown = page.runs(), text_of("docs/performance.md")
    assert shown == page.filled(shown, runs), "make it anew: python benchmarks/page.py"
    assert text_of("docs/performance.svg") == page.chart(runs[-1])
    times = [run["when"] for run in runs]
    assert times == sorted(times), "the latest is the last, whatever its name"
