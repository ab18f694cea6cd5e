"""Which drivers there are: built-in ones by a table, others by entry points of installed packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmclient import PhiClient
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo
from slmclient.errors import ConfigurationError, UnknownProviderError

BUILT_IN = (
    *("local", "openai", "github", "azure", "nvidia", "ollama"),
    *("llamacpp", "onnx", "openvino", "transformers", "mlx"),
)

PLUGIN = """
from slmclient.chat import Finish, Start, TextDelta
from slmclient.drivers.base import Driver, DriverInfo

class Echo(Driver):
    info = DriverInfo(name="another name", title="Echo", docs="-", default_model="echo-1")

    def events(self, request):
        yield Start(self.name, request.model or self.default_model)
        yield TextDelta(request.messages[-1].text)
        yield Finish("stop")

class NoInfo(Driver):
    pass

class NotADriver:
    pass

def function(config):
    raise AssertionError
"""


class Plugins:
    """Installs a package, as pip does: a module, and a dist-info folder with its entry points, on sys.path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, module: str, source: str, **entry_points: str) -> None:
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        rows = "".join(f"{name} = {target}\n" for name, target in entry_points.items())
        (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{rows}")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """An empty folder of packages; what they brought in is gone afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield Plugins(folder)
    for name in set(sys.modules) - before:
        if name.startswith("slm_plugin"):
            del sys.modules[name]


# --- the built-in ones


def test_the_built_in_providers_are_those_of_the_docs() -> None:
    assert tuple(registry.ROWS) == BUILT_IN
    assert registry.names()[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_row_loads_and_its_info_is_complete(name: str) -> None:
    found = registry.driver_class(name)
    info = registry.driver_info(name)
    assert issubclass(found, Driver)
    assert isinstance(info, DriverInfo)
    assert info.name == name
    assert info.title.strip()
    assert info.docs.strip()
    assert info.state.strip()
    assert info.hosted == bool(info.key_variables), "who asks for a key is on the network, and the other way round"


@pytest.mark.parametrize("name", ["openai", "nvidia", "azure", "github", "ollama", "llamacpp", "onnx"])
def test_a_drivers_own_name_is_its_rows(name: str) -> None:
    assert registry.driver_class(name).info.name == name


def test_local_is_a_row_on_another_drivers_class() -> None:
    assert registry.driver_class("local") is registry.driver_class("llamacpp")
    local, llamacpp = registry.driver_info("local"), registry.driver_info("llamacpp")
    assert (local.name, llamacpp.name) == ("local", "llamacpp")
    assert local.default_model == "smollm2-135m"
    assert llamacpp.default_model is None
    assert local.features == llamacpp.features


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_driver_is_made_by_its_name(name: str) -> None:
    driver = registry.new_driver(DriverConfig(provider=name, base_url="http://localhost:1/v1"))
    assert driver.name == name
    driver.close()


def test_aliases_mean_a_provider() -> None:
    assert registry.canonical("nim") == "nvidia"
    assert PhiClient("nim", "m", base_url="http://localhost:1/v1").provider == "nvidia"
    for alias, name in registry.ALIASES.items():
        assert name in registry.ROWS
        assert alias not in registry.ROWS


def test_canonical_knows_no_other_names() -> None:
    assert [registry.canonical(name) for name in BUILT_IN] == list(BUILT_IN)
    for name in ("", "Azure", "azure ", "olama", "phi-4-mini", "slmclient"):
        assert registry.canonical(name) is None


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        registry.ROWS["azure"] = registry.Row("evil:Driver")  # type: ignore[index]


# --- plugins


def test_a_plugin_is_found_by_its_entry_point(plugins: Plugins) -> None:
    plugins.install("slm_plugin_a", PLUGIN, echo="slm_plugin_a:Echo")
    assert registry.canonical("echo") == "echo"
    assert registry.names() == (*BUILT_IN, "echo")
    assert registry.driver_info("echo").name == "echo"
    client = PhiClient("echo")
    assert (client.provider, client.model) == ("echo", "echo-1")
    reply = client.chat("Hello?")
    assert (reply.text, reply.provider, reply.model) == ("Hello?", "echo", "echo-1")


def test_a_plugin_takes_a_model_and_the_environments_word(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.install("slm_plugin_b", PLUGIN, echo="slm_plugin_b:Echo")
    assert PhiClient("echo:echo-2").model == "echo-2"
    monkeypatch.setenv("SLM_PROVIDER", "echo")
    assert PhiClient().chat("?").provider == "echo"


def test_a_built_in_name_is_never_shadowed(plugins: Plugins) -> None:
    """A package that comes in by the way must not get requests, and keys, that are meant for another."""
    taken = dict.fromkeys([*BUILT_IN, "nim"], "slm_plugin_evil:X")
    plugins.install("slm_plugin_evil", "raise SystemExit('it was imported')", **taken)
    for name in (*BUILT_IN, "nim"):
        assert PhiClient(name, None if name == "local" else "m", base_url=url_for(name)).provider in BUILT_IN
    assert registry.names() == (*BUILT_IN, "nim")
    assert registry.canonical("nim") == "nvidia"
    assert "slm_plugin_evil" not in sys.modules


def url_for(name: str) -> str | None:
    return "http://localhost:1/v1" if registry.driver_info(registry.canonical(name) or name).hosted else None


WATCH = """
import json, sys
opened = []
sys.path.insert(0, sys.argv[1])
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
from slmclient import PhiClient
from slmclient.construction import build_models
from slmclient.drivers import registry
build_models()  # pydantic searches for plugins of its own, once
seen = lambda: sum("slm_plugin_c-1.0.dist-info" in path for path in opened)
opened.clear()
PhiClient("openai", "m", base_url="http://localhost:1/v1"); PhiClient("nim", "m", base_url="http://localhost:1/v1")
before = seen()
PhiClient("echo")
print(json.dumps([before, seen()]))
"""


def test_packages_are_searched_only_on_a_miss(plugins: Plugins) -> None:
    """Reading what is installed takes as long as importing us: nobody pays for it who names a built-in provider."""
    plugins.install("slm_plugin_c", PLUGIN, echo="slm_plugin_c:Echo")
    run = subprocess.run(
        [sys.executable, "-c", WATCH, str(plugins.folder)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    before, after = json.loads(run.stdout)
    assert before == 0
    assert after > 0, "the watch sees nothing at all"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("import nothing_of_that_name", "Echo", "nothing_of_that_name"),
        ("raise RuntimeError('no licence')", "Echo", "no licence"),
        ("this is no python", "Echo", "SyntaxError"),
        (PLUGIN, "Missing", "Missing"),
        (PLUGIN, "NotADriver", "no subclass of Driver"),
        (PLUGIN, "function", "no subclass of Driver"),
        (PLUGIN, "DriverInfo", "no subclass of Driver"),
        (PLUGIN, "NoInfo", "info"),
    ],
    ids=["missing import", "raises", "no python", "no such name", "another class", "a function", "info", "no info"],
)
def test_a_broken_plugin_is_a_configuration_error_that_names_it(
    plugins: Plugins, source: str, target: str, said: str
) -> None:
    plugins.install("slm_plugin_d", source, broken=f"slm_plugin_d:{target}")
    with pytest.raises(ConfigurationError, match=said) as caught:
        PhiClient("broken")
    assert "'broken'" in str(caught.value)
    assert caught.value.provider == "broken"


def test_a_broken_plugin_disturbs_nobody_else(plugins: Plugins) -> None:
    plugins.install("slm_plugin_e", "raise RuntimeError", broken="slm_plugin_e:X")
    plugins.install("slm_plugin_f", PLUGIN, echo="slm_plugin_f:Echo")
    assert PhiClient("echo").chat("?").text == "?"
    assert PhiClient("local").provider == "local"
    with pytest.raises(UnknownProviderError, match="broken"):
        PhiClient("brokn")


def test_an_unknown_name_is_told_of_plugins_too(plugins: Plugins) -> None:
    plugins.install("slm_plugin_g", PLUGIN, echo="slm_plugin_g:Echo")
    with pytest.raises(UnknownProviderError, match="'echo'"):
        registry.driver_class("ecoh")
