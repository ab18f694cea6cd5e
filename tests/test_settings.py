"""Settings: keyword, process environment, .env file, default, in this order; and which provider that means."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from slmclient import AsyncPhiClient, PhiClient, SLMError
from slmclient.drivers import registry
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.environment import DEFAULT, DOTENV, KEYWORD, PROCESS
from slmclient.errors import ConfigurationError, ModelNotFoundError, UnknownProviderError
from slmclient.given import Given
from slmclient.settings import VARIABLES, Settings, resolve
from slmclient.testing import ScriptedDriver

LOCAL_URL = "http://localhost:8080/v1"


def write_dotenv(**values: str) -> None:
    """Write a .env file into the working directory."""
    Path(".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), encoding="utf-8")


def value_of(settings: Settings, name: str) -> Any:
    """Return what a setting came to."""
    driver = settings.driver
    values = {
        "provider": driver.provider,
        "model": driver.model,
        "base_url": driver.base_url,
        "api_key": driver.api_key.open() if driver.api_key else None,
        "timeout": settings.timeout,
        "deadline": settings.deadline,
        "max_retries": settings.max_retries,
        "rate_limit": settings.rate_limit,
        "fallbacks": [each.driver.provider for each in settings.fallbacks if isinstance(each.driver, DriverConfig)],
        "options": dict(driver.options),
        "cache": driver.cache_dir,
        "offline": driver.offline,
    }
    return values[name]


# --- the order: setting, its variable, (keyword, environment, .env, default), and what else has to be given

ORDER: list[tuple[str, str, tuple[Any, str, str, Any], dict[str, Any]]] = [
    ("provider", "SLM_PROVIDER", ("azure", "github", "llamacpp", "local"), {}),
    (
        "model",
        "SLM_MODEL",
        ("keyword-model", "process-model", "file-model", None),
        {"provider": "github"},
    ),  # the driver has its own default
    (
        "base_url",
        "SLM_BASE_URL",
        ("http://localhost:1/v1", "http://localhost:2/v1", "http://localhost:3/v1", None),
        {"provider": "github"},
    ),
    (
        "api_key",
        "SLM_API_KEY",
        ("key-by-keyword", "key-of-process", "key-of-file", None),
        {"provider": "openai", "base_url": LOCAL_URL},
    ),
    ("timeout", "SLM_TIMEOUT", (1.5, "2.5", "3.5", 60.0), {}),
    ("deadline", "SLM_DEADLINE", (11, "12", "13", 600.0), {}),
    ("max_retries", "SLM_MAX_RETRIES", (7, "8", "9", 2), {}),
    ("rate_limit", "SLM_RATE_LIMIT", ("1/s", "2/s", "3/s", None), {"provider": "llamacpp"}),
    ("fallbacks", "SLM_FALLBACKS", (["mlx"], "onnx", "openvino", None), {"provider": "llamacpp"}),
    ("options", "SLM_OPTIONS", ({"n_ctx": 1}, '{"n_ctx": 2}', '{"n_ctx": 3}', {}), {"provider": "llamacpp"}),
]
PLACES = (KEYWORD, PROCESS, DOTENV, DEFAULT)


@pytest.mark.parametrize(("name", "variable", "values", "beside"), ORDER, ids=[row[0] for row in ORDER])
@pytest.mark.parametrize("first", range(4), ids=PLACES)
def test_the_first_place_that_says_something_wins(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variable: str,
    values: tuple[Any, str, str, Any],
    beside: dict[str, Any],
    first: int,
) -> None:
    """Every place from ``first`` on says something else; and origins tell which one it was."""
    fields = dict(beside)
    provider = fields.pop("provider", None)
    if provider and name != "provider":  # SLM_* belong to the provider that the environment names
        monkeypatch.setenv("SLM_PROVIDER", provider)
    if first == 0:
        fields[name] = Secret(values[0]) if name == "api_key" else values[0]
    if first <= 1:
        monkeypatch.setenv(variable, values[1])
    if first <= 2:
        write_dotenv(**{variable: values[2]})
    settings = resolve(Given(**fields))
    wanted = values[first]
    if name == "fallbacks":
        assert value_of(settings, name) == ([wanted] if isinstance(wanted, str) else wanted or [])
        return
    if isinstance(wanted, str) and name in ("timeout", "deadline", "max_retries", "options"):
        wanted = json.loads(wanted)
    assert value_of(settings, name) == wanted
    origin = settings.origins[name]
    assert origin.origin == PLACES[first]
    if first in (1, 2):
        assert origin.name == variable
    assert origin.value == ("set" if name == "api_key" and wanted is not None else wanted)


def test_the_order_is_tested_for_every_variable() -> None:
    assert {row[1] for row in ORDER} | {"SLM_CACHE", "SLM_OFFLINE"} == set(VARIABLES)


@pytest.mark.parametrize(
    ("variable", "name", "process", "file"),
    [("SLM_CACHE", "cache", ("/a", "/a"), ("/b", "/b")), ("SLM_OFFLINE", "offline", ("1", True), ("0", False))],
)
def test_cache_and_offline_have_variables_only(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, process: tuple[str, Any], file: tuple[str, Any]
) -> None:
    monkeypatch.delenv(variable, raising=False)
    write_dotenv(**{variable: file[0]})
    settings = resolve(Given())
    assert value_of(settings, name) == file[1]
    assert (settings.origins[name].origin, settings.origins[name].name) == (DOTENV, variable)
    monkeypatch.setenv(variable, process[0])
    settings = resolve(Given())
    assert value_of(settings, name) == process[1]
    assert (settings.origins[name].origin, settings.origins[name].name) == (PROCESS, variable)


def test_the_cache_folder_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SLM_CACHE", "~/models")
    assert resolve(Given()).driver.cache_dir == str(tmp_path / "models")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SLM_PROVIDER= python ask.py` is how a shell unsets one for a moment."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    settings = resolve(Given())
    assert settings.driver.provider == "local"
    assert {found.origin for found in settings.origins.values()} == {DEFAULT}


def test_a_setting_of_the_process_hides_only_its_own_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_dotenv(SLM_PROVIDER="openai", SLM_MODEL="file-model", SLM_BASE_URL=LOCAL_URL)
    monkeypatch.setenv("SLM_MODEL", "process-model")
    driver = resolve(Given()).driver
    assert (driver.provider, driver.model, driver.base_url) == ("openai", "process-model", LOCAL_URL)


def test_the_file_that_was_read_is_named(tmp_path: Path) -> None:
    assert resolve(Given()).env_file is None
    write_dotenv(SLM_TIMEOUT="5")
    assert resolve(Given()).env_file == str(tmp_path / ".env")
    assert resolve(Given(env_file=False)).env_file is None


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
def test_a_client_runs_with_what_was_resolved(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setenv("SLM_PROVIDER", "openai")
    monkeypatch.setenv("SLM_BASE_URL", LOCAL_URL)
    client = kind(model="mine")
    assert (client.provider, client.model) == ("openai", "mine")


def test_a_ready_driver_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what is wrong there."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "nonsense")
    Path(".env").write_bytes(b"\xff\xfe")
    client = PhiClient(driver=ScriptedDriver("a"))
    assert client.chat("?").text == "a"


# --- which provider


def test_nothing_at_all_is_the_local_model() -> None:
    client = PhiClient()
    assert (client.provider, client.model) == ("local", "smollm2-135m")


VENDORS = sorted(
    {
        variable
        for name in registry.ROWS
        for variable in (*registry.driver_info(name).key_variables, *registry.driver_info(name).url_variables)
    }
    | {"HF_TOKEN", "ANTHROPIC_API_KEY", "AZURE_CLIENT_SECRET", "GITHUB_ACTIONS", "GH_TOKEN", "OLLAMA_HOST"}
)
OURS_WITHOUT_A_PROVIDER = {"SLM_API_KEY": "any-key", "SLM_TIMEOUT": "5", "SLM_MAX_RETRIES": "1", "SLM_OPTIONS": "{}"}


@limits(deadline=None, max_examples=60)
@given(
    st.sets(st.sampled_from(VENDORS)),
    st.sets(st.sampled_from(VENDORS)),
    st.sets(st.sampled_from(sorted(OURS_WITHOUT_A_PROVIDER))),
)
def test_credentials_lying_around_never_select_a_provider(process: set[str], file: set[str], ours: set[str]) -> None:
    """Nothing leaves the machine unless the user names a provider."""

    def vendor_value(name: str) -> str:
        return "https://vendor.example/v1" if any(end in name for end in ("URL", "ENDPOINT", "BASE")) else "a-key-1234"

    with pytest.MonkeyPatch.context() as patch:
        for name in process:
            patch.setenv(name, vendor_value(name))
        for name in ours:
            patch.setenv(name, OURS_WITHOUT_A_PROVIDER[name])
        write_dotenv(**{name: vendor_value(name) for name in file})
        for kind in (PhiClient, AsyncPhiClient):
            client: Any = kind()
            assert client.provider == "local"
        assert resolve(Given()).driver.api_key is None
    Path(".env").unlink()


@pytest.mark.parametrize(
    ("provider", "model", "wanted"),
    [
        ("openai", "m", ("openai", "m")),
        ("openai:m", None, ("openai", "m")),
        ("openai:phi4:14b", None, ("openai", "phi4:14b")),
        ("ollama:phi4:14b", None, ("ollama", "phi4:14b")),
        ("nim:phi-4-mini", None, ("nvidia", "phi-4-mini")),
        ("nim", "x", ("nvidia", "x")),
        ("llamacpp:C:/models/a.gguf", None, ("llamacpp", "C:/models/a.gguf")),
        ("openai:", "m", ("openai", "m")),
        ("local:smollm2-135m", None, ("local", "smollm2-135m")),
        ("local", "SmolLM2-135M-Instruct", ("local", "SmolLM2-135M-Instruct")),
    ],
)
def test_provider_and_model_are_split_at_a_known_name(
    provider: str, model: str | None, wanted: tuple[str, str]
) -> None:
    given_url = None if wanted[0] in ("llamacpp", "local") else LOCAL_URL
    client = PhiClient(provider, model, base_url=given_url)
    assert (client.provider, client.model) == wanted


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("azur", "'azure'"),
        ("nvidea", "'nvidia'"),
        ("gihtub", "'github'"),
        ("Azure", "'azure'"),
        ("LOCAL", "local"),
        ("", "Unknown provider ''"),
        (" openai", "'openai'"),
        ("xyzzy", "azure, github, llamacpp, local, mlx, nvidia, ollama, onnx, openai, openvino, transformers"),
        (":phi-4-mini", "Unknown provider"),
        ("azure/phi-4-mini", "azure"),
    ],
)
def test_an_unknown_provider_names_the_closest(provider: str, said: str) -> None:
    with pytest.raises(UnknownProviderError, match=said) as caught:
        PhiClient(provider)
    assert "model=" in str(caught.value)
    assert caught.value.provider == provider


@pytest.mark.parametrize("name", ["phi-4-mini", "microsoft/phi-4-mini-instruct", "Phi-4-mini-instruct", "smollm2-135m"])
def test_a_model_in_the_providers_place_says_where_it_belongs(name: str) -> None:
    with pytest.raises(UnknownProviderError, match=rf"model='{name}'"):
        PhiClient(name)


def test_a_model_in_the_providers_place_says_who_serves_it() -> None:
    with pytest.raises(UnknownProviderError, match="azure"):
        PhiClient("phi-4-mini")


def test_a_gguf_file_in_the_providers_place_says_where_it_belongs() -> None:
    with pytest.raises(UnknownProviderError, match=r"model='models/a\.gguf'"):
        PhiClient("models/a.gguf")


def test_a_base_url_alone_is_any_compatible_server() -> None:
    settings = resolve(Given(base_url=LOCAL_URL))
    assert settings.driver.provider == "openai"
    assert settings.origins["provider"].origin == KEYWORD
    assert PhiClient(base_url=LOCAL_URL, model="m").model == "m"


@pytest.mark.parametrize("place", [PROCESS, DOTENV])
def test_slm_base_url_alone_is_any_compatible_server(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("SLM_BASE_URL", LOCAL_URL) if place == PROCESS else write_dotenv(SLM_BASE_URL=LOCAL_URL)
    driver = resolve(Given()).driver
    assert (driver.provider, driver.base_url) == ("openai", LOCAL_URL)


@pytest.mark.parametrize("name", ["smollm2-135m", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_model_alone_is_local_where_that_serves_it(name: str) -> None:
    assert PhiClient(model=name).provider == "local"


def test_a_file_alone_is_run_in_this_process() -> None:
    client = PhiClient(model="models/phi.gguf")
    assert (client.provider, client.model) == ("local", "models/phi.gguf")


@pytest.mark.parametrize("place", ["keyword", PROCESS])
def test_a_model_alone_that_local_does_not_serve_lists_who_does(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == PROCESS:
        monkeypatch.setenv("SLM_MODEL", "phi-4-mini")
    with pytest.raises(ModelNotFoundError, match=r"PhiClient\('azure', 'phi-4-mini'\)") as caught:
        PhiClient(model="phi-4-mini" if place == "keyword" else None)
    assert "github" not in str(caught.value), "that service is retired"
    assert "PhiClient('ollama', 'phi-4-mini')" in str(caught.value)


def test_a_model_that_nobody_knows_asks_for_a_provider() -> None:
    with pytest.raises(ModelNotFoundError, match="name the provider"):
        PhiClient(model="my-fine-tune")


def test_two_models_are_one_too_many() -> None:
    with pytest.raises(ConfigurationError, match=r"'openai:a'.*'b'"):
        PhiClient("openai:a", "b", base_url=LOCAL_URL)


# --- SLM_MODEL with a provider in it


def test_slm_model_may_hold_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MODEL", "openai:phi4:14b")
    monkeypatch.setenv("SLM_BASE_URL", LOCAL_URL)
    settings = resolve(Given())
    assert (settings.driver.provider, settings.driver.model) == ("openai", "phi4:14b")
    assert settings.origins["provider"].name == "SLM_MODEL"


def test_slm_model_may_not_hold_a_provider_beside_slm_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_PROVIDER", "openai")
    monkeypatch.setenv("SLM_BASE_URL", LOCAL_URL)
    for model in ("nvidia:phi-4-mini", "openai:phi-4-mini"):
        monkeypatch.setenv("SLM_MODEL", model)
        with pytest.raises(ConfigurationError, match=r"SLM_MODEL.*SLM_PROVIDER"):
            PhiClient()


def test_slm_model_with_a_colon_of_its_own_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_PROVIDER", "openai")
    monkeypatch.setenv("SLM_BASE_URL", LOCAL_URL)
    monkeypatch.setenv("SLM_MODEL", "phi4:14b")
    assert PhiClient().model == "phi4:14b"


def test_an_unknown_slm_provider_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_PROVIDER", "azur")
    with pytest.raises(UnknownProviderError, match=r"SLM_PROVIDER.*'azure'"):
        PhiClient()


# --- another provider's variables


@pytest.mark.parametrize("place", [PROCESS, DOTENV])
def test_variables_of_another_provider_are_not_for_the_one_in_the_code(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    theirs = {
        "SLM_PROVIDER": "nvidia",
        "SLM_MODEL": "their-model",
        "SLM_BASE_URL": "https://their.example/v1",
        "SLM_API_KEY": "their-key-1234",
        "SLM_OPTIONS": '{"theirs": 1}',
    }
    if place == PROCESS:
        for name, value in theirs.items():
            monkeypatch.setenv(name, value)
    else:
        write_dotenv(**theirs)
    driver = resolve(Given(provider="openai", base_url=LOCAL_URL)).driver
    assert (driver.model, driver.base_url, driver.api_key, dict(driver.options)) == (None, LOCAL_URL, None, {})
    assert resolve(Given(provider="local")).driver.model == "smollm2-135m"
    same = resolve(Given(provider="nim")).driver
    assert (same.model, same.base_url) == ("their-model", "https://their.example/v1")
    assert same.api_key == Secret("their-key-1234")


def test_limits_hold_for_every_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_PROVIDER", "nvidia")
    monkeypatch.setenv("SLM_TIMEOUT", "7")
    assert resolve(Given(provider="local")).timeout == 7


# --- bad values


@pytest.mark.parametrize("place", [PROCESS, DOTENV])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *[
            (name, value)
            for name in ("SLM_TIMEOUT", "SLM_DEADLINE")
            for value in ("0", "-1", "soon", "nan", "1,5", "1s")
        ],
        *[("SLM_MAX_RETRIES", value) for value in ("-1", "2.5", "two", "1e1", "nan")],
        *[("SLM_OPTIONS", value) for value in ("{", "n_ctx=5", "[1]", "5", '"a"', "null")],
        *[("SLM_OFFLINE", value) for value in ("maybe", "2", "-")],
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, place: str, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value) if place == PROCESS else write_dotenv(**{variable: value})
    with pytest.raises(ConfigurationError, match=variable):
        PhiClient()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        ("on", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("off", False),
    ],
)
def test_a_flag_has_the_usual_spellings(monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool) -> None:
    monkeypatch.setenv("SLM_OFFLINE", value)
    assert resolve(Given()).driver.offline is wanted


@pytest.mark.parametrize(("variable", "name"), [("SLM_TIMEOUT", "timeout"), ("SLM_DEADLINE", "deadline")])
def test_no_limit_can_be_said_in_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv(variable, "inf")
    seconds = getattr(resolve(Given()), name)
    assert seconds > 10**7
    assert math.isfinite(seconds), "no socket takes an infinite timeout"


BAD_URLS = [
    "localhost:8080",
    "localhost:8080/v1",
    "127.0.0.1:8080/v1",
    "example.com/v1",
    "//example.com/v1",
    "/v1",
    "ftp://example.com",
    "file:///v1",
    "http://",
    "https:///v1",
    "http:example.com",
    "http://localhost:port",
    "http://localhost:99999",
    "http://[::1",
    "https://exa mple.com/v1",
    "https://example.com/v1\n",
    "https://exam\tple.com",
    "https://example.com/\x00",
    " https://example.com",
    "https://example.com/v1?x=\udc80",
    "https://example.com\\@evil.example/",
]


@pytest.mark.parametrize("url", BAD_URLS, ids=ascii)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        PhiClient("openai", "m", base_url=url)


@pytest.mark.parametrize("url", ["localhost:8080", "https://ada:pass-word@example.com/v1", "https://exa mple.com"])
@pytest.mark.parametrize("place", [PROCESS, DOTENV])
def test_a_bad_address_names_its_variable(monkeypatch: pytest.MonkeyPatch, place: str, url: str) -> None:
    monkeypatch.setenv("SLM_BASE_URL", url) if place == PROCESS else write_dotenv(SLM_BASE_URL=url)
    with pytest.raises(ConfigurationError, match="SLM_BASE_URL"):
        PhiClient()


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "NVIDIA_BASE_URL", "AZURE_OPENAI_ENDPOINT"])
def test_a_bad_address_of_a_vendor_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "resource.example.com")
    with pytest.raises(ConfigurationError, match=variable):
        PhiClient({"O": "openai", "N": "nvidia", "A": "azure"}[variable[0]])


@pytest.mark.parametrize(
    "url", ["https://ada:pass-word@example.com/v1", "https://ada@example.com", "http://:pass-word@localhost"]
)
def test_a_password_does_not_belong_into_base_url(url: str) -> None:
    """It would stand in logs, errors and traces."""
    with pytest.raises(ConfigurationError, match="api_key= or headers=") as caught:
        PhiClient("openai", "m", base_url=url)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("provider", ["local", "llamacpp"])
def test_an_engine_takes_no_address(provider: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        PhiClient(provider, base_url=LOCAL_URL)


# --- a driver's own options


@pytest.mark.parametrize(
    ("provider", "options", "said"),
    [
        ("llamacpp", {"n_cxt": 5}, "Did you mean 'n_ctx'"),
        ("llamacpp", {"n_ctx": "5"}, "n_ctx.*int"),
        ("llamacpp", {"n_ctx": True}, "n_ctx.*int"),
        ("llamacpp", {"n_ctx": 5.0}, "n_ctx.*int"),
        ("llamacpp", {"chat_template": 5}, "chat_template.*str"),
        ("azure", {"deployments": "a"}, "Did you mean 'deployment'"),
        ("azure", {"deployment": 5}, "deployment.*str"),
        ("openai", {"deployment": "a"}, "deployment"),
    ],
)
def test_options_are_typed_by_their_driver(provider: str, options: dict[str, Any], said: str) -> None:
    url = None if provider == "llamacpp" else LOCAL_URL
    with pytest.raises(ConfigurationError, match=said):
        PhiClient(provider, "m", options=options, base_url=url)


def test_options_of_the_environment_are_typed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_OPTIONS", '{"n_ctx": "many"}')
    with pytest.raises(ConfigurationError, match="n_ctx"):
        PhiClient("local")


def test_good_options_are_taken() -> None:
    PhiClient("llamacpp", "a.gguf", options={"n_ctx": 512, "n_threads": 1})
    PhiClient("azure", options={"deployment": "mine", "api_version": "2024-10-21"}, base_url=LOCAL_URL)


# --- the constructor's arguments


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize(
    ("name", "said"), [("base_ulr", "'base_url'"), ("retries", "'max_retries'"), ("xyzzy", "Unknown argument 'xyzzy'")]
)
def test_an_unknown_argument_names_the_closest(kind: Any, name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        kind("local", **{name: 5})


def test_a_folder_that_is_gone_is_no_hindrance(tmp_path: Path) -> None:
    """A service's working directory may have been removed under it; then there is no .env file."""
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert PhiClient("local").provider == "local"
    finally:
        os.chdir(tmp_path)


@limits(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_whatever_is_given_only_slmerrors_leave(provider: str, model: str, base_url: str) -> None:
    for url in (base_url, f"http://{base_url}", f"https://localhost/{base_url}"):
        for name in (provider, "openai"):
            with suppress(SLMError):
                PhiClient(name, model, base_url=url)


def test_fallbacks_of_the_environment_go_with_the_provider_that_it_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt for this machine goes to no cloud because of a variable."""
    monkeypatch.setenv("SLM_FALLBACKS", "llamacpp:a.gguf, openvino")
    for provider in (None, "local"):
        fallbacks = resolve(Given(provider=provider)).fallbacks
        assert [each.driver.model for each in fallbacks if isinstance(each.driver, DriverConfig)] == (
            [] if provider else ["a.gguf", None]
        )
    assert resolve(Given(fallbacks=())).fallbacks == ()
    monkeypatch.setenv("SLM_FALLBACKS", "nowhere")
    with pytest.raises(UnknownProviderError, match="nowhere"):
        resolve(Given())
