"""Where keys go: each sentence of the rules, on a server that writes down what it is sent, and as data where none is.

The rules: a vendor's own key goes to that vendor's hosts, or to the host that the vendor's own variable names; what a
.env file says never decides where a key of the process environment goes; no key over plain http but to this machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from slmclient import PhiClient
from slmclient.drivers import registry
from slmclient.drivers.secret import Secret
from slmclient.environment import DOTENV, KEYWORD, PROCESS
from slmclient.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    MissingApiKeyError,
    ProviderRetiredError,
    ResponseFormatError,
)
from slmclient.given import Given
from slmclient.hosts import is_loopback, matches
from slmclient.settings import Settings, resolve
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import whole
from test_client import ANSWER as CHAT_ANSWER
from test_client import Face, both
from test_settings import write_dotenv

KEY = "key-0123456789"
OTHER = "other-0123456789"
ANSWER = {**CHAT_ANSWER, "message": {"role": "assistant", "content": "Hi."}, "done": True}  # and Ollama's wire
VENDOR_URLS = {
    "openai": "https://api.openai.com/v1",
    "nvidia": "https://integrate.api.nvidia.com/v1",
    "azure": "https://resource.openai.azure.com/openai/v1",
    "github": "https://models.github.ai/inference",
    "ollama": "https://ollama.com",
}
KEY_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "nvidia": "NVIDIA_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "github": "GITHUB_TOKEN",
    "ollama": "OLLAMA_API_KEY",
}
URL_VARIABLES = {
    "openai": "OPENAI_BASE_URL",
    "nvidia": "NVIDIA_BASE_URL",
    "azure": "AZURE_OPENAI_ENDPOINT",
    "ollama": "OLLAMA_HOST",
}
providers = pytest.mark.parametrize("provider", VENDOR_URLS)


def key_of(settings: Settings) -> str | None:
    """Return the key that a driver would be given."""
    secret = settings.driver.api_key
    return secret.open() if secret is not None else None


def sent(server: FaultServer) -> str:
    """Return all that a server was sent."""
    return repr([(seen.path, dict(seen.headers), seen.body) for seen in server.seen])


def secret_of(key: str | None) -> Secret | None:
    return Secret(key) if key is not None else None


# --- a vendor's key


@providers
def test_a_vendors_key_goes_to_the_vendors_hosts(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    settings = resolve(Given(provider=provider, base_url=VENDOR_URLS[provider]))
    assert key_of(settings) == KEY
    assert (settings.origins["api_key"].origin, settings.origins["api_key"].name) == (PROCESS, KEY_VARIABLES[provider])


@pytest.mark.parametrize("provider", ["openai", "nvidia"])
def test_the_default_address_is_the_vendors(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    assert key_of(resolve(Given(provider=provider))) == KEY


@providers
@both
async def test_a_vendors_key_goes_to_no_other_address(
    face: Face, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind(provider, "m", base_url=server.url)
        await face.done(client.chat("?"))
        async with face.opened(client.stream("?")) as stream:
            await face.text(stream)
        assert len(server.seen) == 2
        assert KEY not in sent(server)
        assert not any({"authorization", "api-key"} & set(seen.headers) for seen in server.seen)


@providers
@both
async def test_no_key_but_its_own_goes_anywhere(face: Face, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    """All vendors' keys lie around; the server named for one vendor sees that one."""
    for name, variable in KEY_VARIABLES.items():
        monkeypatch.setenv(variable, f"{KEY}-of-{name}")
    with FaultServer(whole(200, ANSWER)) as server:
        if provider in URL_VARIABLES:
            monkeypatch.setenv(URL_VARIABLES[provider], server.url)
            client = face.kind(provider, "m")
        else:
            client = face.kind(provider, "m", base_url=server.url)
        await face.done(client.chat("?"))
        assert len(server.seen) == 1
        found = {name for name in KEY_VARIABLES if f"{KEY}-of-{name}" in sent(server)}
        assert found == ({provider} if provider in URL_VARIABLES else set())


@pytest.mark.parametrize("beside", ["api_key", "SLM_API_KEY", "the vendor's variable", "nothing"])
@pytest.mark.parametrize(
    ("provider", "address", "owner"),
    [
        (provider, address, owner)
        for provider in ("azure", "nvidia", "github")
        for owner, address in VENDOR_URLS.items()
        if owner not in (provider, "github")  # which is gone: below
    ],
)
def test_another_vendors_host_gets_no_key_and_is_named(
    monkeypatch: pytest.MonkeyPatch, provider: str, address: str, owner: str, beside: str
) -> None:
    """A mix-up of two clouds is an error at once, wherever the key is from."""
    monkeypatch.setenv("SLM_PROVIDER", provider)
    if beside != "nothing":
        monkeypatch.setenv(KEY_VARIABLES[provider] if beside.startswith("the") else "SLM_API_KEY", KEY)
    key = Secret(KEY) if beside == "api_key" else None
    with pytest.raises(ConfigurationError, match=f"belongs to provider '{owner}', not to '{provider}'"):
        resolve(Given(base_url=address, api_key=key))


@pytest.mark.parametrize("provider", ["azure", "nvidia", "openai", "github"])
def test_a_vendors_host_that_is_gone_gets_nothing(provider: str) -> None:
    client = PhiClient(provider, "m", base_url=VENDOR_URLS["github"], api_key=KEY)
    with client, pytest.raises(ProviderRetiredError, match=r"GitHub Models \(models\.github\.ai\)"):
        client.chat("?")


def test_openais_wire_may_be_spoken_to_any_vendor() -> None:
    for address in VENDOR_URLS.values():
        assert key_of(resolve(Given(provider="openai", base_url=address, api_key=Secret(KEY)))) == KEY


def test_the_key_beside_the_address_comes_before_a_key_of_another_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An .env of azure-ai-inference beside an older set-up of Azure OpenAI: each address has a key of its own."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "key-of-another-resource")
    monkeypatch.setenv("AZURE_INFERENCE_ENDPOINT", "https://phi.services.ai.azure.com/models")
    monkeypatch.setenv("AZURE_INFERENCE_CREDENTIAL", KEY)
    assert key_of(resolve(Given(provider="azure"))) == KEY
    monkeypatch.delenv("AZURE_INFERENCE_CREDENTIAL")
    assert key_of(resolve(Given(provider="azure"))) == "key-of-another-resource"


@pytest.mark.parametrize("provider", URL_VARIABLES)
@both
async def test_a_vendors_key_goes_to_the_host_that_the_vendors_variable_names(
    face: Face, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """An API gateway before Azure, a NIM container in the house."""
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    with FaultServer(whole(200, ANSWER)) as server:
        monkeypatch.setenv(URL_VARIABLES[provider], server.url)
        await face.done(face.kind(provider, "m").chat("?"))
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("provider", URL_VARIABLES)
def test_a_vendors_variable_says_nothing_for_an_address_of_the_code(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    monkeypatch.setenv(URL_VARIABLES[provider], "https://gateway.example/v1")
    assert key_of(resolve(Given(provider=provider, base_url="https://elsewhere.example/v1"))) is None
    assert key_of(resolve(Given(provider=provider, base_url="https://gateway.example/v1"))) is None
    assert key_of(resolve(Given(provider=provider))) == KEY


@pytest.mark.parametrize("provider", VENDOR_URLS)
def test_the_first_variable_that_is_set_wins(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    variables = registry.driver_info(provider).key_variables
    for number in range(len(variables) - 1, -1, -1):
        monkeypatch.setenv(variables[number], f"{KEY}-{number}")
        settings = resolve(Given(provider=provider, base_url=VENDOR_URLS[provider]))
        assert key_of(settings) == f"{KEY}-{number}"
        assert settings.origins["api_key"].name == variables[number]


@pytest.mark.parametrize("provider", URL_VARIABLES)
def test_the_first_address_that_is_set_wins(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    variables = registry.driver_info(provider).url_variables
    for number in range(len(variables) - 1, -1, -1):
        monkeypatch.setenv(variables[number], f"https://host{number}.example/v1")
        wanted = registry.driver_class(provider).address(f"https://host{number}.example/v1")
        assert resolve(Given(provider=provider)).driver.base_url == wanted
        assert f"host{number}.example" in wanted


@both
async def test_a_server_that_wants_a_key_gets_a_reason_told(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    with FaultServer(whole(401, {"error": {"message": "Unauthorized"}})) as server:
        with pytest.raises(
            AuthenticationError, match=r"No key was sent.*NVIDIA_API_KEY.*api_key= or SLM_API_KEY"
        ) as caught:
            await face.done(face.kind("nvidia", "m", base_url=server.url).chat("?"))
        assert KEY not in str(caught.value)


# --- keys of the caller's own


@providers
@both
async def test_api_key_goes_to_any_address(face: Face, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], OTHER)
    monkeypatch.setenv("SLM_API_KEY", OTHER)
    with FaultServer(whole(200, ANSWER)) as server:
        await face.done(face.kind(provider, "m", base_url=server.url, api_key=KEY).chat("?"))
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
        assert OTHER not in sent(server)


@providers
@both
async def test_slm_api_key_goes_to_any_address(face: Face, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], OTHER)
    monkeypatch.setenv("SLM_API_KEY", KEY)
    with FaultServer(whole(200, ANSWER)) as server:
        await face.done(face.kind(provider, "m", base_url=server.url).chat("?"))
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
        assert OTHER not in sent(server)


@both
async def test_a_function_is_asked_for_the_key_at_every_request(face: Face) -> None:
    tokens = iter(["token-1111", "token-2222"])
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind("openai", "m", base_url=server.url, api_key=lambda: next(tokens))
        await face.done(client.chat("?"))
        await face.done(client.chat("?"))
        assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer token-1111", "Bearer token-2222"]


@both
async def test_headers_go_to_the_provider(face: Face) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind("openai", "m", base_url=server.url, headers={"X-Gateway-Key": KEY})
        await face.done(client.chat("?"))
        assert server.seen[0].headers["x-gateway-key"] == KEY


@both
async def test_a_redirect_takes_no_key_along(face: Face) -> None:
    with FaultServer(whole(200, ANSWER)) as elsewhere:
        away = whole(307, "", Location=f"{elsewhere.url}/v1/chat/completions")
        with FaultServer(away) as server:
            client = face.kind("openai", "m", base_url=server.url, api_key=KEY, headers={"X-Key": OTHER})
            with pytest.raises(ResponseFormatError, match="Redirects are not followed"):
                await face.done(client.chat("?"))
            assert KEY in sent(server)
        assert elsewhere.seen == []


# --- none found


@pytest.mark.parametrize("provider", ["openai", "nvidia", "azure"])
def test_a_missing_key_names_where_it_was_looked_for_in_order(provider: str) -> None:
    variables = registry.driver_info(provider).key_variables
    with pytest.raises(MissingApiKeyError) as caught:
        PhiClient(provider, "m", base_url=VENDOR_URLS[provider])
    message = str(caught.value)
    places = [message.index(name) for name in ("api_key=", "SLM_API_KEY", *variables)]
    assert places == sorted(places)
    assert len(variables) == len(set(variables)) > 0
    assert caught.value.provider == provider


def test_a_server_of_ones_own_needs_no_key() -> None:
    for url in ("http://localhost:8080/v1", "http://gpu-box:8000/v1", "https://nim.example/v1"):
        assert key_of(resolve(Given(provider="nvidia", base_url=url))) is None


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_a_key_of_white_space_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", value)
    with pytest.raises(ConfigurationError, match="NVIDIA_API_KEY"):
        PhiClient("nvidia")


# --- .env files


@pytest.mark.parametrize("variable", ["SLM_BASE_URL", "OPENAI_BASE_URL"])
def test_an_address_of_a_file_is_not_for_slm_api_key_of_the_process(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Who clones a repository must not send its author their key."""
    write_dotenv(**{variable: "https://evil.example/v1"})
    monkeypatch.setenv("SLM_PROVIDER", "openai")
    monkeypatch.setenv("SLM_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match=f"SLM_API_KEY.*{variable}.*\\.env") as caught:
        PhiClient()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("provider", URL_VARIABLES)
@pytest.mark.parametrize("variable", ["ours", "theirs"])
def test_an_address_of_a_file_is_not_for_a_vendors_key_of_the_process(
    monkeypatch: pytest.MonkeyPatch, provider: str, variable: str
) -> None:
    name = "SLM_BASE_URL" if variable == "ours" else URL_VARIABLES[provider]
    monkeypatch.setenv("SLM_PROVIDER", provider)
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    write_dotenv(**{name: "https://evil.example/v1"})
    assert key_of(resolve(Given())) is None
    write_dotenv(**{name: VENDOR_URLS[provider]})
    with pytest.raises(
        MissingApiKeyError, match=rf"{KEY_VARIABLES[provider]} is in the environment, but {name}.*\.env"
    ):
        PhiClient()


@both
async def test_a_real_server_named_by_a_file_sees_no_key_of_the_process(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        write_dotenv(SLM_PROVIDER="nvidia", SLM_MODEL="m", NVIDIA_BASE_URL=server.url)
        for variable in KEY_VARIABLES.values():
            monkeypatch.setenv(variable, KEY)
        await face.done(face.kind().chat("?"))
        assert len(server.seen) == 1
        assert KEY not in sent(server)


@pytest.mark.parametrize("named_by", ["SLM_PROVIDER", "SLM_MODEL"])
def test_a_provider_of_a_file_is_not_for_slm_api_key_of_the_process(
    monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    """The provider decides the host where nothing else does."""
    write_dotenv(**{named_by: "nvidia" if named_by == "SLM_PROVIDER" else "nvidia:phi-4-mini"})
    monkeypatch.setenv("SLM_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match=f"SLM_API_KEY.*{named_by}.*\\.env"):
        PhiClient()
    monkeypatch.delenv("SLM_API_KEY")
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    assert key_of(resolve(Given())) == KEY, "a vendor's key may always go to its vendor"


def test_a_key_and_an_address_of_the_same_file_go_together() -> None:
    write_dotenv(SLM_PROVIDER="nvidia", SLM_BASE_URL="https://gateway.example/v1", SLM_API_KEY=KEY)
    assert key_of(resolve(Given())) == KEY
    write_dotenv(SLM_PROVIDER="nvidia", NVIDIA_BASE_URL="https://gateway.example/v1", NVIDIA_API_KEY=KEY)
    assert key_of(resolve(Given())) == KEY
    write_dotenv(SLM_PROVIDER="nvidia", SLM_BASE_URL="https://gateway.example/v1", NVIDIA_API_KEY=KEY)
    assert key_of(resolve(Given())) is None


def test_a_key_of_a_file_may_go_where_the_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    write_dotenv(SLM_API_KEY=KEY)
    monkeypatch.setenv("SLM_PROVIDER", "nvidia")
    monkeypatch.setenv("SLM_BASE_URL", "https://gateway.example/v1")
    assert key_of(resolve(Given())) == KEY


def test_the_address_of_the_code_is_the_callers_own_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    write_dotenv(SLM_PROVIDER="openai", SLM_BASE_URL="https://evil.example/v1")
    monkeypatch.setenv("SLM_API_KEY", KEY)
    settings = resolve(Given(base_url="https://good.example/v1"))
    assert (settings.driver.base_url, key_of(settings)) == ("https://good.example/v1", KEY)


def test_proxy_and_certificates_never_come_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    evil = "http://evil.example:3128"
    write_dotenv(
        SLM_PROVIDER="nvidia",
        **dict.fromkeys(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "SLM_PROXY"], evil),
        **dict.fromkeys(["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "SLM_VERIFY"], "/tmp/evil.pem"),
    )
    driver = resolve(Given()).driver
    assert (driver.proxy, driver.verify) == (None, True)


def test_a_file_cannot_look_into_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """``${NAME}`` would carry a key of the process into an address of the file's choice."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Path(".env").write_text(
        "SLM_BASE_URL=https://evil.example/${OPENAI_API_KEY}/v1\nSLM_MODEL=${OPENAI_API_KEY}\nSLM_API_KEY=$OPENAI_API_KEY\n"
    )
    settings = resolve(Given())
    assert settings.driver.base_url == "https://evil.example/${OPENAI_API_KEY}/v1"
    assert settings.driver.model == "${OPENAI_API_KEY}"
    assert key_of(settings) == "$OPENAI_API_KEY"


def test_a_file_is_not_exported() -> None:
    """Other libraries and child processes must not see it."""
    before = dict(os.environ)
    write_dotenv(SLM_PROVIDER="nvidia", NVIDIA_API_KEY=KEY, SOMETHING_ELSE="x")
    PhiClient()
    assert dict(os.environ) == before


def test_settings_do_not_show_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    write_dotenv(SLM_PROVIDER="nvidia", NVIDIA_API_KEY=KEY)
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    settings = resolve(Given(headers={"X-Key": Secret(OTHER)}))
    assert key_of(settings) == KEY
    for shown in (repr(settings), str(settings.driver), repr(settings.origins)):
        assert KEY not in shown
        assert OTHER not in shown
    assert settings.origins["api_key"].value == "set"


# --- plain http


@pytest.mark.parametrize("beside", ["api_key", "headers", "SLM_API_KEY", "vendor"])
def test_no_key_goes_over_plain_http_to_another_machine(monkeypatch: pytest.MonkeyPatch, beside: str) -> None:
    fields: dict[str, Any] = {"provider": "nvidia", "base_url": "http://gpu-box.example:8000/v1"}
    if beside == "api_key":
        fields["api_key"] = Secret(KEY)
    elif beside == "headers":
        fields["headers"] = {"X-Key": Secret(KEY)}
    elif beside == "SLM_API_KEY":
        monkeypatch.setenv("SLM_API_KEY", KEY)
    else:
        monkeypatch.setenv("NVIDIA_API_KEY", KEY)
        monkeypatch.setenv("NVIDIA_BASE_URL", fields.pop("base_url"))
    with pytest.raises(ConfigurationError, match=r"plain http to gpu-box\.example") as caught:
        resolve(Given(**fields))
    assert "insecure_http=True" in str(caught.value)
    assert KEY not in str(caught.value)
    settings = resolve(Given(**fields, insecure_http=True))
    assert settings.driver.base_url == "http://gpu-box.example:8000/v1"


def test_the_vendors_own_host_over_plain_http_gets_no_key_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for url in ("http://api.openai.com/v1", "HTTP://API.OPENAI.COM/v1"):
        with pytest.raises(ConfigurationError, match="plain http"):
            PhiClient("openai", "m", base_url=url)


LOOPBACK = ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.8.9.1", "[::1]"]
NOT_LOOPBACK = [
    *["localhost.evil.example", "127.0.0.1.evil.example", "mylocalhost", "localhost2", "local", "0.0.0.0", "[::]"],
    *["10.0.0.1", "192.168.1.1", "169.254.169.254", "128.0.0.1", "[2001:db8::1]", "host.docker.internal"],
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_may_be_spoken_to_plainly(host: str) -> None:
    assert key_of(resolve(Given(base_url=f"http://{host}:8080/v1", api_key=Secret(KEY)))) == KEY
    assert is_loopback(host)


@pytest.mark.parametrize("host", NOT_LOOPBACK)
def test_what_only_looks_like_this_machine_may_not(host: str) -> None:
    with pytest.raises(ConfigurationError, match="plain http"):
        resolve(Given(base_url=f"http://{host}:8080/v1", api_key=Secret(KEY)))
    assert not is_loopback(host)


# --- proxies


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_bypasses_proxies(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert resolve(Given(base_url=f"http://{host}:8080/v1")).driver.proxy is None


def test_a_proxy_of_the_process_is_used_and_kept_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:{KEY}@proxy.example:3128")
    driver = resolve(Given(provider="nvidia", api_key=Secret(OTHER))).driver
    assert driver.proxy is not None
    assert driver.proxy.open() == f"http://ada:{KEY}@proxy.example:3128"
    assert KEY not in repr(driver)
    monkeypatch.setenv("NO_PROXY", "nvidia.com")
    assert resolve(Given(provider="nvidia", api_key=Secret(OTHER))).driver.proxy is None


@both
async def test_a_proxy_sees_where_to_and_no_key(face: Face) -> None:
    with FaultServer(whole(403, "no")) as proxy:
        client = face.kind("nvidia", "m", api_key=KEY, headers={"X-Key": OTHER}, proxy=proxy.url, max_retries=0)
        with pytest.raises(APIConnectionError) as caught:
            await face.done(client.chat("?"))
        assert [(seen.method, seen.path) for seen in proxy.seen] == [("CONNECT", "integrate.api.nvidia.com:443")]
        for shown in (sent(proxy), str(caught.value)):
            assert KEY not in shown
            assert OTHER not in shown


# --- hosts that look alike

LOOK_ALIKE = [
    ("openai", "https://api.openai.com/v1", True),
    ("openai", "https://api.openai.com", True),
    ("openai", "https://API.OpenAI.com/v1", True),
    ("openai", "https://api.openai.com./v1", True),
    ("openai", "https://api.openai.com:443/v1", True),
    ("openai", "https://api.openai.com.evil.example/v1", False),
    ("openai", "https://evilapi.openai.com/v1", False),
    ("openai", "https://x.api.openai.com/v1", False),
    ("openai", "https://openai.com/v1", False),
    ("openai", "https://api-openai.com/v1", False),
    ("openai", "https://apixopenai.com/v1", False),
    ("openai", "https://evil.example/api.openai.com/v1", False),
    ("openai", "https://evil.example/v1?host=api.openai.com", False),
    ("openai", "https://evil.example/v1#api.openai.com", False),
    ("openai", "https://\u0430pi.openai.com/v1", False),  # a Cyrillic а
    ("openai", "https://api\u3002openai.com/v1", False),  # an ideographic full stop
    ("openai", "https://api.openai.com%2f.evil.example/v1", False),
    ("openai", "https://api.openai.com\\.evil.example/v1", False),
    ("openai", "https://resource.openai.azure.com/openai/v1", False),
    ("azure", "https://resource.openai.azure.com/openai/v1", True),
    ("azure", "https://RESOURCE.OpenAI.Azure.com./openai/v1", True),
    ("azure", "https://resource.services.ai.azure.com/models", True),
    ("azure", "https://name.eastus2.models.ai.azure.com", True),
    ("azure", "https://name.eastus2.inference.ml.azure.com", True),
    ("azure", "https://openai.azure.com/openai/v1", False),
    ("azure", "https://evilopenai.azure.com/openai/v1", False),
    ("azure", "https://openai.azure.com.evil.example/openai/v1", False),
    ("azure", "https://resource.openai.azure.com.evil.example/openai/v1", False),
    ("azure", "https://resource.openai-azure.com/openai/v1", False),
    ("azure", "https://evil.azure.com/openai/v1", False),
    ("azure", "https://evil.azurewebsites.net/resource.openai.azure.com", False),
    ("azure", "https://api.openai.com/v1", False),
    ("nvidia", "https://integrate.api.nvidia.com/v1", True),
    ("nvidia", "https://integrate.api.nvidia.com.evil.example/v1", False),
    ("nvidia", "https://evil.api.nvidia.com/v1", False),
    ("nvidia", "https://api.nvidia.com/v1", False),
    ("github", "https://models.github.ai/inference", True),
    ("github", "https://models.inference.ai.azure.com", True),
    ("github", "https://evil.github.io/inference", False),
    ("github", "https://models.github.ai.evil.example", False),
]


@pytest.mark.parametrize(("provider", "url", "vendors"), LOOK_ALIKE, ids=[ascii(row[1]) for row in LOOK_ALIKE])
def test_a_host_is_the_vendors_or_it_is_not(
    monkeypatch: pytest.MonkeyPatch, provider: str, url: str, vendors: bool
) -> None:
    monkeypatch.setenv(KEY_VARIABLES[provider], KEY)
    try:
        key = key_of(resolve(Given(provider=provider, base_url=url)))
    except ConfigurationError:
        key = None  # refused: no key goes there either
    assert key == (KEY if vendors else None)


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(labels, min_size=1, max_size=4), labels)
def test_a_star_stands_for_whole_labels(above: list[str], label: str) -> None:
    name = ".".join([*above, "openai.azure.com"])
    assert matches(name, ("*.openai.azure.com",))
    assert matches(name.upper() + ".", ("*.openai.azure.com",))
    assert not matches(f"{name}.{label}", ("*.openai.azure.com",))
    assert not matches(f"{label}openai.azure.com", ("*.openai.azure.com",))
    assert not matches("openai.azure.com", ("*.openai.azure.com",))
    assert matches(name, (name,))
    assert not matches(f"{label}.{name}", (name,))
    assert not matches(label + name, (name,))


# --- all of it at once, against the rules written a second time

HOSTS = {
    "vendor": {
        "openai": "api.openai.com",
        "nvidia": "integrate.api.nvidia.com",
        "azure": "r.openai.azure.com",
        "ollama": "ollama.com",
    },
    "other": dict.fromkeys(URL_VARIABLES, "gateway.example"),
    "alike": {
        "openai": "evilapi.openai.com",
        "nvidia": "api.nvidia.com",
        "azure": "openai.azure.com",
        "ollama": "evilollama.com",
    },
    "loopback": dict.fromkeys(URL_VARIABLES, "127.0.0.1:8080"),
}
KEY_PLACES = ("keyword", "ours in the process", "ours in the file", "theirs in the process", "theirs in the file")
URL_PLACES = ("keyword", "ours in the process", "ours in the file", "theirs in the process", "theirs in the file")
REFUSED, MISSING = "ConfigurationError", "MissingApiKeyError"


def expected(keys: set[str], url: str, host: str, scheme: str, insecure: bool) -> str | None:
    """Return which key goes out, None for none, or the error: the rules of the design once more, as a table."""
    url_of_file = url.endswith("file")
    theirs_may_go = host == "vendor" or url.startswith("theirs")
    if "keyword" in keys:
        chosen: str | None = "keyword"
    elif "ours in the process" in keys:
        if url_of_file:
            return REFUSED
        chosen = "ours in the process"
    elif "ours in the file" in keys:
        chosen = "ours in the file"
    elif "theirs in the process" in keys and theirs_may_go and not url_of_file:
        chosen = "theirs in the process"
    elif "theirs in the file" in keys and theirs_may_go:
        chosen = "theirs in the file"
    elif host == "vendor":
        return MISSING
    else:
        chosen = None
    if chosen and scheme == "http" and host != "loopback" and not insecure:
        return REFUSED
    return chosen


@limits(deadline=None, max_examples=400)
@given(
    st.sampled_from(sorted(URL_VARIABLES)),
    st.sets(st.sampled_from(KEY_PLACES)),
    st.sampled_from(URL_PLACES),
    st.sampled_from(sorted(HOSTS)),
    st.sampled_from(["http", "https"]),
    st.booleans(),
)
def test_a_key_goes_out_only_if_the_rules_allow(
    provider: str, keys: set[str], url: str, host: str, scheme: str, insecure: bool
) -> None:
    address = f"{scheme}://{HOSTS[host][provider]}/v1"
    values = {place: f"{KEY}-{number}" for number, place in enumerate(KEY_PLACES)}
    process, file = {"SLM_PROVIDER": provider}, {"UNRELATED": "x"}
    places = {"process": process, "file": file}
    for place in keys - {"keyword"}:
        whose, _, where = place.partition(" in the ")
        places[where]["SLM_API_KEY" if whose == "ours" else KEY_VARIABLES[provider]] = values[place]
    if url != "keyword":
        whose, _, where = url.partition(" in the ")
        places[where]["SLM_BASE_URL" if whose == "ours" else URL_VARIABLES[provider]] = address
    fields: dict[str, Any] = {"base_url": address if url == "keyword" else None, "insecure_http": insecure}
    fields["api_key"] = secret_of(values["keyword"] if "keyword" in keys else None)
    write_dotenv(**file)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in process.items():
            patch.setenv(name, value)
        try:
            outcome = key_of(resolve(Given(**fields)))
        except ConfigurationError as error:
            outcome = type(error).__name__
    wanted = expected(keys, url, host, scheme, insecure)
    assert outcome == values.get(wanted or "", wanted)


def test_the_table_knows_both_answers() -> None:
    """A table that allows or refuses everything would prove nothing."""
    assert expected({"theirs in the process"}, "keyword", "vendor", "https", False) == "theirs in the process"
    assert expected({"theirs in the process"}, "keyword", "other", "https", False) is None
    assert expected({"theirs in the process"}, "theirs in the file", "other", "https", False) is None
    assert expected({"ours in the process"}, "theirs in the file", "vendor", "https", False) == REFUSED
    assert (KEYWORD, PROCESS, DOTENV) == ("keyword", "environment", ".env file")
