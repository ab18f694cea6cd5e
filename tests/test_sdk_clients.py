"""Drivers with an SDK client handed in: what the SDK does for a request, what it must not, and whose client it is."""

from __future__ import annotations

import asyncio
import contextvars
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from azure.ai.inference import ChatCompletionsClient, EmbeddingsClient
from azure.ai.inference.aio import ChatCompletionsClient as AsyncChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.policies import SansIOHTTPPolicy

from slmclient import AsyncPhiClient, AzureInferenceClientDriver, Message, OpenAIClientDriver, PhiClient
from slmclient.chat import Finish
from slmclient.drivers import steps
from slmclient.drivers.sdk import SdkDriver
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    InternalServerError,
    MissingDependencyError,
    ModelRetiredError,
    RateLimitError,
    SLMError,
)
from slmclient.reply import Reply
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import Cut, Seen, Silence, head, whole
from test_pump import CERTIFICATE, PRIVATE_KEY, half, serving

KEY = "sk-of-the-sdk-client-1234"
SAID = {"id": "x", "model": "m", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
ANSWER = whole(200, SAID)
KEPT = whole(200, SAID, Connection="keep-alive")
SDKS = ["openai", "azure"]
WAYS = [(sdk, asynchronous) for sdk in SDKS for asynchronous in (False, True)]
ways = pytest.mark.parametrize(
    ("sdk", "asynchronous"), WAYS, ids=[f"{sdk}-{'async' if way else 'sync'}" for sdk, way in WAYS]
)


def client_of(sdk: str, asynchronous: bool, url: str, key: str = KEY, **settings: Any) -> Any:
    if sdk == "openai":
        return (openai.AsyncOpenAI if asynchronous else openai.OpenAI)(base_url=f"{url}/v1", api_key=key, **settings)
    kind = AsyncChatCompletionsClient if asynchronous else ChatCompletionsClient
    return kind(f"{url}/models", AzureKeyCredential(key), **settings)


def driver_of(client: Any, model: str | None = "m") -> SdkDriver:
    openais = (openai.OpenAI, openai.AsyncOpenAI)
    return (
        OpenAIClientDriver(client, model) if isinstance(client, openais) else AzureInferenceClientDriver(client, model)
    )


def ask(client: Any, *, model: str | None = "m", times: int = 1, retries: int = 0, **options: Any) -> Reply:
    """Return the last reply to one question through an SDK client, of which nothing is left open afterwards."""
    driver = driver_of(client, model)
    prompt = options.pop("prompt", "Hi")
    if not driver.asynchronous:
        with client, PhiClient(driver=driver, max_retries=retries) as ours:
            return [ours.chat(prompt, **options) for _ in range(times)][-1]

    async def main() -> Reply:
        async with client, AsyncPhiClient(driver=driver, max_retries=retries) as ours:
            return [await ours.chat(prompt, **options) for _ in range(times)][-1]

    return asyncio.run(main())


def seen_by(call: Callable[[str], object]) -> list[Seen]:
    with FaultServer(ANSWER) as server:
        call(server.url)
    return server.seen


# --- what is sent


QUESTIONS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0.7, "max_tokens": 9, "stop": ["\n\n"], "seed": 3},
    "scripts": {"prompt": "Blåbær 東京 👩‍👩‍👧 \u2028 \x7f </script>", "top_p": 0.1},
    "turns": {"prompt": [Message.system("Be brief."), Message.user("Hi"), Message.assistant("Ha"), Message.user("Hm")]},
    "extra": {"extra": {"a": {"b": [1, 2.5, None, True, 1e-7, 12345678901234567890]}}},
}


@ways
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_body_is_the_one_that_our_own_driver_sends(sdk: str, asynchronous: bool, question: str) -> None:
    options = QUESTIONS[question]

    def own(url: str) -> None:
        base_url = f"{url}/v1" if sdk == "openai" else f"{url}/models"
        with PhiClient(sdk, "m", base_url=base_url, api_key=KEY, env_file=False) as client:
            client.chat(**{"prompt": "Hi", **options})

    (ours,) = seen_by(own)
    (theirs,) = seen_by(lambda url: ask(client_of(sdk, asynchronous, url), **options))
    assert json.loads(theirs.body) == json.loads(ours.body)
    assert theirs.body == ours.body or question == "extra"  # where the two write the same number differently
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    for name in ("authorization", "api-key", "content-type", "accept", "accept-encoding", "extra-parameters"):
        assert theirs.headers.get(name) == ours.headers.get(name), name


@pytest.mark.parametrize("asynchronous", [False, True])
def test_openais_own_settings_go_with_a_request(asynchronous: bool) -> None:
    settings: dict[str, Any] = {
        "organization": "org-1",
        "default_headers": {"X-Gateway": "gw-7"},
        "default_query": {"tenant": "t-5"},
    }
    (seen,) = seen_by(lambda url: ask(client_of("openai", asynchronous, url, **settings)))
    assert seen.path == "/v1/chat/completions?tenant=t-5"
    assert seen.headers["x-gateway"] == "gw-7"
    assert seen.headers["openai-organization"] == "org-1"
    assert seen.headers["user-agent"].startswith(("OpenAI/Python", "AsyncOpenAI/Python"))


def test_a_key_function_of_openais_is_asked_for_each_request() -> None:
    keys = iter(["first-key", "second-key"])

    def both(url: str) -> None:
        ask(openai.OpenAI(base_url=f"{url}/v1", api_key=lambda: next(keys)), times=2)

    assert [seen.headers["authorization"] for seen in seen_by(both)] == ["Bearer first-key", "Bearer second-key"]


VERSION = "2024-10-21"
DEPLOYMENTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "by_model": ({}, "phi"),
    "by_deployment": ({"azure_deployment": "phi"}, None),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("case", DEPLOYMENTS)
def test_an_azure_openai_client_finds_its_deployment_and_its_token(case: str, asynchronous: bool) -> None:
    settings, model = DEPLOYMENTS[case]
    kind: Any = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
    tokens = iter(["token-1", "token-2"])

    def both(url: str) -> None:
        made = kind(azure_endpoint=url, api_version=VERSION, azure_ad_token_provider=lambda: next(tokens), **settings)
        ask(made, model=model, times=2)

    first, second = seen_by(both)
    assert first.path == second.path == f"/openai/deployments/phi/chat/completions?api-version={VERSION}"
    assert (first.headers["authorization"], second.headers["authorization"]) == ("Bearer token-1", "Bearer token-2")
    assert "api-key" not in first.headers


def test_an_azure_openai_client_without_a_deployment_needs_a_model() -> None:
    with FaultServer(ANSWER) as server:
        made = openai.AzureOpenAI(azure_endpoint=server.url, api_version=VERSION, api_key=KEY)
        with pytest.raises(ConfigurationError, match="model="):
            ask(made, model=None)
    assert server.seen == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_pipeline_of_an_azure_client_applies(asynchronous: bool) -> None:
    class Policy(SansIOHTTPPolicy):  # type: ignore[type-arg]
        def on_request(self, request: Any) -> None:
            request.http_request.headers["x-policy"] = "was here"

    def call(url: str) -> None:
        ask(client_of("azure", asynchronous, url, per_call_policies=[Policy()], api_version="2099-01-01"))

    (seen,) = seen_by(call)
    assert seen.path == "/models/chat/completions?api-version=2099-01-01"
    assert seen.headers["x-policy"] == "was here"
    assert "azsdk-python-ai-inference" in seen.headers["user-agent"]


def test_the_default_parameters_of_an_azure_client_are_not_used() -> None:
    (seen,) = seen_by(lambda url: ask(client_of("azure", False, url, temperature=0.3, model="theirs")))
    assert json.loads(seen.body) == {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


def test_the_model_is_asked_for_if_none_is_named() -> None:
    def answer(seen: Seen) -> bytes:
        return whole(200, {"data": [{"id": "served"}]}) if seen.method == "GET" else ANSWER

    with FaultServer(answer) as server:
        ask(client_of("openai", False, server.url), model=None)
    listing, chat = server.seen
    assert (listing.path, listing.headers["authorization"]) == ("/v1/models", f"Bearer {KEY}")
    assert json.loads(chat.body)["model"] == "served"


def test_what_is_traced_in_the_caller_is_seen_by_the_sdk() -> None:
    """The helper thread has the caller's context, so that a span finds its parent."""
    span = contextvars.ContextVar("span", default="none")
    found: list[str] = []
    http_client = openai.DefaultHttpxClient(event_hooks={"request": [lambda _: found.append(span.get())]})
    span.set("the caller's")
    seen_by(lambda url: ask(client_of("openai", False, url, http_client=http_client)))
    assert found == ["the caller's"]


# --- what the SDK must not do


@ways
@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("fault", ["status", "cut"])
def test_only_our_retries_count(sdk: str, asynchronous: bool, retries: int, fault: str) -> None:
    settings = {"max_retries": 5} if sdk == "openai" else {"retry_total": 5}
    step = whole(500, {"error": {"message": "no"}}, Retry_After="0") if fault == "status" else Cut()
    kind = InternalServerError if fault == "status" else APIConnectionError
    with FaultServer(step) as server, pytest.raises(kind) as caught:
        ask(client_of(sdk, asynchronous, server.url, **settings), retries=retries)
    assert len(server.seen) == retries + 1
    assert len(caught.value.attempts) == retries + 1


@ways
def test_an_errors_body_is_bounded(sdk: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end, by the SDK neither: this one has none."""
    monkeypatch.setattr(steps, "MAX_ERROR_BODY", 200_000)
    piece = b"x" * 100_000
    with (
        FaultServer(head(500, "text/plain"), *[piece] * 5, Silence()) as server,
        pytest.raises(InternalServerError) as caught,
    ):
        ask(client_of(sdk, asynchronous, server.url), timeout=5)
    assert len(caught.value.body) == 200_000


@ways
def test_what_a_gateway_was_sent_is_in_no_error(sdk: str, asynchronous: bool) -> None:
    """Any header may be a key, and so may a part of the query."""

    def echo(seen: Seen) -> bytes:
        said = " ".join(f"{name}={value}" for name, value in seen.headers.items())
        return whole(429, {"error": {"message": said[:250], "all": said, "path": seen.path}})

    settings: dict[str, Any] = {"headers": {"X-Gateway": "gateway-secret"}}
    if sdk == "openai":
        settings = {"default_headers": settings["headers"], "default_query": {"code": "query-secret"}}
    with FaultServer(echo) as server, pytest.raises(RateLimitError) as caught:
        ask(client_of(sdk, asynchronous, server.url, **settings))
    assert "gateway-secret" in server.seen[0].headers["x-gateway"]
    shown = f"{caught.value} {caught.value.body}"
    assert "x-gateway=***" in shown
    assert "content-type=application/json" in shown, "and nothing else is cut out"
    for secret in (KEY, "gateway-secret", "query-secret"):
        assert secret not in shown


def test_a_header_that_cannot_be_sent_is_not_shown() -> None:
    for sdk in SDKS:
        with FaultServer(ANSWER) as server, pytest.raises(SLMError) as caught:
            ask(client_of(sdk, False, server.url, key="sk-with\na-break"))
        assert "a-break" not in f"{caught.value!r} {vars(caught.value)}"
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_repr_shows_no_key() -> None:
    for sdk, asynchronous in WAYS:
        driver = driver_of(client_of(sdk, asynchronous, "http://127.0.0.1:1"))
        assert KEY not in f"{driver!r} {vars(driver)!r} {PhiClient(driver=driver)!r}"


# --- whose client it is


@ways
def test_the_clients_of_both_kinds_close_each_for_itself(sdk: str, asynchronous: bool) -> None:
    """A closed PhiClient, and a closed driver, leave the SDK client as it was."""

    def theirs(client: Any) -> Any:
        if sdk == "azure":
            return client.complete(messages=[{"role": "user", "content": "Hi"}], model="m")
        return client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="m")

    async def main(client: Any) -> Any:
        async with AsyncPhiClient(driver=driver_of(client)) as ours:
            await ours.chat("Hi")
            await ours._driver.aclose()
        async with client:
            return await theirs(client)

    with FaultServer(ANSWER) as server:
        client = client_of(sdk, asynchronous, server.url)
        if asynchronous:
            said = asyncio.run(main(client))
        else:
            with PhiClient(driver=driver_of(client)) as ours:
                ours.chat("Hi")
                ours._driver.close()
            with client:
                said = theirs(client)
        assert said.choices[0].message.content == "Hello"
        assert len(server.seen) == 2
        assert "_send_request" not in vars(client), "the client itself was changed"


@ways
def test_a_closed_sdk_client_is_named_as_the_reason(sdk: str, asynchronous: bool) -> None:
    with FaultServer(ANSWER) as server:
        client = client_of(sdk, asynchronous, server.url)
        ask(client)
        with pytest.raises(ConfigurationError, match="closed"):
            ask_closed(client)
    assert len(server.seen) == 1


def ask_closed(client: Any) -> None:
    driver = driver_of(client)
    if driver.asynchronous:
        asyncio.run(AsyncPhiClient(driver=driver).chat("Hi"))
    else:
        PhiClient(driver=driver).chat("Hi")


@ways
def test_a_client_of_the_other_kind_is_refused(sdk: str, asynchronous: bool) -> None:
    driver = driver_of(client_of(sdk, asynchronous, "http://127.0.0.1:1"))
    advice = {
        False: f"use PhiClient, or hand in {driver.async_type}.",
        True: f"use AsyncPhiClient, or hand in {driver.sync_type}.",
    }
    call = PhiClient(driver=driver).chat if asynchronous else lambda prompt: asyncio.run(aclient.chat(prompt))
    aclient = AsyncPhiClient(driver=driver)
    with pytest.raises(ConfigurationError) as caught:
        call("Hi")
    assert str(caught.value).endswith(advice[asynchronous])


@pytest.mark.parametrize("kind", [OpenAIClientDriver, AzureInferenceClientDriver])
@pytest.mark.parametrize(
    "wrong", ["sk-a-key", None, openai.OpenAI, EmbeddingsClient("http://x", AzureKeyCredential(KEY))]
)
def test_anything_else_is_refused(kind: Any, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"The client is one of .+, not \w+\.") as caught:
        kind(wrong)
    assert "sk-a-key" not in str(caught.value)


def test_the_clients_of_the_other_sdk_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"azure\.ai\.inference\.aio\.ChatCompletionsClient, not OpenAI"):
        AzureInferenceClientDriver(openai.OpenAI(api_key=KEY))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "module", "extra"), [
    (OpenAIClientDriver, "openai", "openai"), (AzureInferenceClientDriver, "azure.ai.inference", "azure"),
])  # fmt: skip
def test_a_missing_sdk_is_named(kind: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        kind(object())
    assert f'pip install "slmclient[{extra}]"' in str(caught.value)


def test_an_azure_client_needs_no_aiohttp_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.ai.inference.aio", None)
    AzureInferenceClientDriver(client_of("azure", False, "http://127.0.0.1:1"), "m")
    with pytest.raises(ConfigurationError):
        AzureInferenceClientDriver(object())  # type: ignore[arg-type]


# --- time


class OnceAnswering:
    """Answers the first request on its one connection, and is silent on the second."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked_again = threading.Event()
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            got = b""
            while b'"Hi"' not in got:
                got += connection.recv(65536)
            connection.sendall(KEPT)
            assert connection.recv(65536)
            self.asked_again.set()
            self.over.wait(30)


@ways
def test_a_call_on_a_kept_connection_is_cancelled_before_the_head(sdk: str, asynchronous: bool) -> None:
    """No SDK shows the socket of a connection that it had kept; the caller is free at once all the same."""
    server = OnceAnswering()
    client = client_of(sdk, asynchronous, server.url)
    driver = driver_of(client)

    def end(stream: Any) -> None:
        server.asked_again.wait(5)
        time.sleep(0.1)
        stream.cancel()

    def plain() -> list[str]:
        with PhiClient(driver=driver) as ours:
            ours.chat("Hi")
            stream = ours.stream("Hi", timeout=10)
            threading.Thread(target=end, args=(stream,)).start()
            return [event.reason for event in stream.events() if isinstance(event, Finish)]

    async def main() -> list[str]:
        async with client, AsyncPhiClient(driver=driver) as ours:
            await ours.chat("Hi")
            stream = ours.stream("Hi", timeout=10)
            threading.Thread(target=end, args=(stream,)).start()
            return [event.reason async for event in stream.events() if isinstance(event, Finish)]

    began = time.monotonic()
    assert (asyncio.run(main()) if asynchronous else plain()) == ["cancelled"]
    assert server.asked_again.is_set()
    assert time.monotonic() - began < 2
    server.over.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_token_provider_that_hangs_ends_at_the_deadline(asynchronous: bool) -> None:
    over = threading.Event()

    async def hang() -> str:
        await asyncio.Event().wait()
        return KEY

    with FaultServer(ANSWER) as server:
        kind: Any = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        client = kind(base_url=server.url, api_key=hang if asynchronous else lambda: str(over.wait(5)))
        began = time.monotonic()
        with pytest.raises(APITimeoutError):
            ask(client, deadline=0.3)
        assert time.monotonic() - began < 2
        assert server.seen == []
    over.set()


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_read_over_tls_ends_at_once_and_hangs_up(sdk: str, end: str, tmp_path: Path) -> None:
    """The socket that is shut down from another thread is an SSLSocket here."""
    bundle, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    bundle.write_text(CERTIFICATE)
    key.write_text(PRIVATE_KEY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(bundle, key)
    settings: dict[str, Any] = {"connection_verify": str(bundle)}
    if sdk == "openai":
        verify = ssl.create_default_context(cafile=str(bundle))
        settings = {"http_client": openai.DefaultHttpxClient(verify=verify)}
    with serving(half, tls) as server:
        client = client_of(sdk, False, server.url.removesuffix("/v1"), **settings)
        with client, PhiClient(driver=driver_of(client), max_retries=0) as ours:
            stream = ours.stream("Hi", deadline=0.5 if end == "deadline" else 30)
            texts = iter(stream)
            assert next(texts) == "one"
            began = time.monotonic()
            if end == "cancel":
                threading.Timer(0.2, stream.cancel).start()
                assert list(texts) == ["two"]
                assert stream.reply.finish_reason == "cancelled"
            else:
                assert next(texts) == "two"
                with pytest.raises(APITimeoutError):
                    next(texts)
            assert time.monotonic() - began < 1.5
            assert server.peers[0].ended.wait(1)


# --- what becomes of errors


def test_a_token_provider_that_fails_is_no_fault_of_the_network() -> None:
    def fail() -> str:
        raise ValueError("the secret stands here")

    with FaultServer(ANSWER) as server, pytest.raises(ConfigurationError, match="token provider") as caught:
        ask(openai.OpenAI(base_url=server.url, api_key=fail))
    assert "secret" not in str(caught.value)


def test_a_credential_that_fails_is_an_authentication_error() -> None:
    class CredentialUnavailableError(Exception):
        """Like azure-identity's."""

    class Policy(SansIOHTTPPolicy):  # type: ignore[type-arg]
        def on_request(self, request: Any) -> None:
            raise CredentialUnavailableError("no managed identity here")

    with FaultServer(ANSWER) as server, pytest.raises(AuthenticationError, match="CredentialUnavailableError"):
        ask(client_of("azure", False, server.url, authentication_policy=Policy()))
    assert server.seen == []


@ways
def test_nobody_there_has_the_systems_reason(sdk: str, asynchronous: bool) -> None:
    with FaultServer() as server:
        pass
    with pytest.raises(APIConnectionError, match=r"(Connection refused|Connect call failed).* Is the server running\?"):
        ask(client_of(sdk, asynchronous, server.url))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_without_the_sdks_private_hook_answers_and_errors_are_the_same(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later SDK may have none, or a client may not be copied."""

    def refuse(self: Any) -> Any:
        raise TypeError("no copies")

    monkeypatch.setattr(openai.AsyncOpenAI if asynchronous else openai.OpenAI, "__copy__", refuse, raising=False)
    with FaultServer(ANSWER) as server:
        assert ask(client_of("openai", asynchronous, server.url)).text == "Hello"
    with (
        FaultServer(whole(429, {"error": {"message": f"bad {KEY}"}}, Retry_After="7")) as server,
        pytest.raises(RateLimitError, match=r"bad \*\*\*") as caught,
    ):
        ask(client_of("openai", asynchronous, server.url))
    assert caught.value.retry_after == 7
    assert len(server.seen) == 1


def test_a_retired_models_address_gets_the_advice_of_the_azure_driver() -> None:
    """What is known of Azure's endpoints holds for this way too."""
    client = ChatCompletionsClient("https://mine.services.ai.azure.com/models", AzureKeyCredential(KEY))
    driver = AzureInferenceClientDriver(client)
    assert driver.at_vendor
    assert "https://mine.openai.azure.com/openai/v1" in driver.advice(410, None)
    with pytest.raises(ModelRetiredError):
        PhiClient(driver=AzureInferenceClientDriver(client, "phi-3.5-mini")).chat("Hi")
