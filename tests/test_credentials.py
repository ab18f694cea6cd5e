"""Entra ID: tokens of any credential, kept for their scope, renewed in time, and given to Azure only."""

import asyncio
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import azure.identity
import azure.identity.aio
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ServiceRequestError

from slmclient import AsyncPhiClient, PhiClient
from slmclient.drivers.credential import RENEWED_BEFORE, TokenCache
from slmclient.drivers.secret import Secret
from slmclient.errors import APIConnectionError, AuthenticationError, ConfigurationError
from slmclient.testing.fault_server import FaultServer, Seen, whole

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}
SCOPE = "https://ai.azure.com/.default"


class Credential:
    """Gives numbered tokens that last for so many seconds."""

    def __init__(self, lasts: float = 3600, takes: float = 0, fails: Exception | None = None) -> None:
        self.lasts, self.takes, self.fails = lasts, takes, fails
        self.scopes: list[tuple[str, ...]] = []

    def _token(self, scopes: tuple[str, ...]) -> AccessToken:
        self.scopes.append(scopes)
        if self.fails is not None:
            raise self.fails
        return AccessToken(f"token-number-{len(self.scopes)}", int(time.time() + self.lasts))

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        time.sleep(self.takes)
        return self._token(scopes)


class Waiting(Credential):
    """Gives tokens once it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert self.free.wait(10), "nobody could free it"
        return self._token(scopes)


class AsyncCredential(Credential):
    """The same, as azure.identity.aio has them."""

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:  # type: ignore[override]
        await asyncio.sleep(self.takes)
        return self._token(scopes)


# --- the cache


def test_a_token_is_asked_for_once_and_kept() -> None:
    credential = Credential()
    cache = TokenCache(credential, SCOPE)
    assert cache.fresh() is None
    assert [cache.token(), cache.token(), cache.fresh()] == ["token-number-1"] * 3
    assert credential.scopes == [(SCOPE,)]


@pytest.mark.parametrize(("lasts", "asked"), [(RENEWED_BEFORE + 60, 1), (RENEWED_BEFORE - 60, 3)])
def test_a_token_is_renewed_a_while_before_it_expires(lasts: float, asked: int) -> None:
    credential = Credential(lasts)
    cache = TokenCache(credential, SCOPE)
    assert [cache.token() for _ in range(3)][-1] == f"token-number-{asked}"
    assert len(credential.scopes) == asked


def test_a_token_that_still_holds_is_used_when_renewing_fails() -> None:
    credential = Credential(RENEWED_BEFORE - 60)
    cache = TokenCache(credential, SCOPE)
    first = cache.token()
    credential.fails = OSError("the metadata server is away")
    assert cache.token() == first


def test_a_token_that_was_refused_is_dropped() -> None:
    credential = Credential()
    secret = Secret(credential).for_scope(SCOPE)
    assert secret.open() == "token-number-1"
    secret.refused()
    assert secret.open() == "token-number-2"


def test_many_threads_wait_for_one_request() -> None:
    credential = Credential(takes=0.1)
    cache = TokenCache(credential, SCOPE)
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(cache.token())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens == ["token-number-1"] * 20
    assert len(credential.scopes) == 1


@pytest.mark.parametrize("kind", [Credential, AsyncCredential])
def test_many_tasks_wait_for_one_request(kind: Callable[..., Credential]) -> None:
    credential = kind(takes=0.1)
    secret = Secret(credential).for_scope(SCOPE)

    async def many() -> list[str]:
        return list(await asyncio.gather(*(secret.aopen() for _ in range(20))))

    assert asyncio.run(many()) == ["token-number-1"] * 20
    assert asyncio.run(many()) == ["token-number-1"] * 20  # in another loop
    assert len(credential.scopes) == 1


def test_tasks_that_wait_for_a_token_leave_asyncios_threads_to_others() -> None:
    """asyncio looks names up on the same few threads."""
    credential = Waiting()
    secret = Secret(credential).for_scope(SCOPE)

    async def many() -> list[str]:
        waiting = [asyncio.create_task(secret.aopen()) for _ in range(60)]
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(asyncio.to_thread(int), 5) == 0
        credential.free.set()
        return await asyncio.gather(*waiting)

    assert len(asyncio.run(many())) == 60


@pytest.mark.parametrize("kind", [Credential, AsyncCredential])
def test_asyncio_renews_a_token_a_while_before_it_expires_too(kind: Callable[..., Credential]) -> None:
    credential = kind(RENEWED_BEFORE - 60)
    secret = Secret(credential).for_scope(SCOPE)

    async def thrice() -> str:
        return [await secret.aopen() for _ in range(3)][-1]

    assert asyncio.run(thrice()) == "token-number-3"
    assert secret.at_hand() is None


class Delegating(AsyncCredential):
    """Its get_token is no coroutine function, but returns a coroutine."""

    def get_token(self, *scopes: str, **options: Any) -> Any:  # type: ignore[override]
        return super().get_token(*scopes, **options)


def test_a_credential_may_hand_on_to_an_asynchronous_one() -> None:
    secret = Secret(Delegating()).for_scope(SCOPE)
    assert asyncio.run(secret.aopen()) == "token-number-1"
    with pytest.raises(ConfigurationError, match="asynchronous: use AsyncPhiClient"):
        Secret(Delegating()).for_scope(SCOPE).open()


def test_an_empty_token_is_not_kept() -> None:
    class Empty(Credential):
        def _token(self, scopes: tuple[str, ...]) -> AccessToken:
            token = super()._token(scopes)
            return AccessToken("", token.expires_on) if token.token == "token-number-1" else token

    secret = Secret(Empty()).for_scope(SCOPE)
    with pytest.raises(AuthenticationError, match="its token is empty"):
        secret.open()
    assert secret.open() == "token-number-2"


@pytest.mark.parametrize(
    "failure", [ServiceRequestError("no such host"), ConnectionError("reset"), TimeoutError("slow")]
)
def test_tokens_that_could_not_be_fetched_are_worth_another_try(failure: Exception) -> None:
    with pytest.raises(APIConnectionError, match="could not be reached") as caught:
        Secret(Credential(fails=failure)).for_scope(SCOPE).open()
    assert caught.value.retryable


def test_a_credential_does_not_hold_up_the_loop() -> None:
    credential = Waiting()

    async def both() -> str:
        waiting = asyncio.create_task(Secret(credential).for_scope(SCOPE).aopen())
        for _ in range(6):
            await asyncio.sleep(0.01)
        credential.free.set()
        return await waiting

    assert asyncio.run(both()) == "token-number-1"


# --- what is told apart


async def async_provider() -> str:
    return "token-of-a-function"


def test_functions_may_be_asynchronous_too() -> None:
    assert asyncio.run(Secret(async_provider).aopen()) == "token-of-a-function"
    assert asyncio.run(Secret(lambda: async_provider()).aopen()) == "token-of-a-function"


@pytest.mark.parametrize("value", [AsyncCredential(), async_provider, lambda: async_provider()])
def test_what_is_asynchronous_needs_the_async_client(value: Any) -> None:
    secret = Secret(value)
    secret = secret.for_scope(SCOPE) if secret.needs_scope else secret
    with pytest.raises(ConfigurationError, match="asynchronous: use AsyncPhiClient"):
        secret.open()


def test_a_credential_shows_nothing() -> None:
    secret = Secret(Credential()).for_scope(SCOPE)
    token = secret.open()
    assert token not in repr(secret) + repr(secret._cache)  # pyright: ignore[reportPrivateUsage]
    assert secret.redact({"message": f"bad token {token}"}) == {"message": "bad token ***"}


@pytest.mark.parametrize("provider", ["openai", "github", "nvidia"])
def test_only_azure_has_a_scope_for_a_credential(provider: str) -> None:
    with pytest.raises(ConfigurationError, match=r"get_bearer_token_provider\(credential, scope\)"):
        PhiClient(provider, "m", base_url="http://127.0.0.1:9/v1", api_key=Credential())


@pytest.mark.parametrize("key", [Credential(), AsyncCredential(), async_provider])
def test_a_token_goes_no_more_over_plain_http_than_a_key(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="must not go over plain http"):
        PhiClient("azure", "m", base_url="http://gateway.example/openai/v1", api_key=key)


# --- through a client


def test_a_client_takes_its_token_from_a_credential_once() -> None:
    credential = Credential()
    with FaultServer(whole(200, ANSWER)) as server:
        client = PhiClient("azure", "m", base_url=server.url, api_key=credential)
        for _ in range(3):
            client.chat("Hi")
        client.close()
    assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer token-number-1"] * 3
    assert credential.scopes == [(SCOPE,)]


@pytest.mark.parametrize("credential", [Credential(), AsyncCredential(), async_provider, lambda: "token-of-a-function"])
def test_an_async_client_takes_every_kind(credential: Any) -> None:
    async def scenario() -> None:
        async with AsyncPhiClient("azure", "m", base_url=server.url, api_key=credential) as client:
            assert (await client.chat("Hi")).text == "Hi."

    with FaultServer(whole(200, ANSWER)) as server:
        asyncio.run(scenario())
    assert server.seen[0].headers["authorization"].startswith("Bearer token-")
    assert "api-key" not in server.seen[0].headers


def test_after_a_401_the_next_call_asks_for_a_new_token() -> None:
    def answer(seen: Seen) -> bytes:
        old = seen.headers["authorization"] == "Bearer token-number-1"
        return whole(401, {"error": {"code": "401", "message": "revoked"}}) if old else whole(200, ANSWER)

    with FaultServer(answer) as server, PhiClient("azure", "m", base_url=server.url, api_key=Credential()) as client:
        with pytest.raises(AuthenticationError):
            client.chat("Hi")
        assert client.chat("Hi").text == "Hi."


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_credential_that_fails_says_which_and_why_and_sends_nothing(asynchronous: bool) -> None:
    failure = RuntimeError("Please run 'az login' to set up an account\nand more lines")
    credential = AsyncCredential(fails=failure) if asynchronous else Credential(fails=failure)

    async def scenario() -> None:
        async with AsyncPhiClient("azure", "m", base_url=server.url, api_key=credential) as client:
            await client.chat("Hi")

    with FaultServer(whole(200, ANSWER)) as server:
        client = PhiClient("azure", "m", base_url=server.url, api_key=credential)
        with pytest.raises(AuthenticationError) as caught:
            asyncio.run(scenario()) if asynchronous else client.chat("Hi")
        assert server.seen == []
    error = caught.value
    for part in (type(credential).__name__, "RuntimeError", "az login", SCOPE):
        assert part in str(error)
    assert "more lines" not in str(error)
    assert error.provider == "azure"
    assert not error.retryable
    assert error.__cause__ is None
    assert len(credential.scopes) == 1


def test_a_function_that_fails_shows_nothing_of_what_it_said() -> None:
    """It is any code of the user's: what it says may be the key."""

    def failing() -> str:
        raise ValueError("the-key-itself-0123456789")

    client = PhiClient("azure", "m", base_url="http://127.0.0.1:9", api_key=failing)
    with client, pytest.raises(AuthenticationError, match="ValueError") as caught:
        client.chat("Hi")
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format())
    assert "the-key-itself" not in shown + repr(vars(caught.value))


# --- azure-identity itself, which can be signed in nowhere here


def test_azure_identitys_token_provider_is_a_function_like_any_other() -> None:
    credential = Credential()
    provider = azure.identity.get_bearer_token_provider(credential, SCOPE)  # type: ignore[arg-type]
    with FaultServer(whole(200, ANSWER)) as server:
        client = PhiClient("azure", "m", base_url=server.url, api_key=provider)
        client.chat("Hi")
        client.chat("Hi")
        client.close()
    assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer token-number-1"] * 2
    assert credential.scopes == [(SCOPE,)]


@pytest.mark.parametrize("kind", ["EnvironmentCredential", "aio.EnvironmentCredential"])
def test_a_credential_of_azure_identity_that_is_not_set_up_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    asynchronous = kind.startswith("aio.")
    module = azure.identity.aio if asynchronous else azure.identity

    async def scenario() -> None:
        async with AsyncPhiClient("azure", "m", base_url=server.url, api_key=module.EnvironmentCredential()) as client:
            await client.chat("Hi")

    def plainly() -> None:
        PhiClient("azure", "m", base_url=server.url, api_key=module.EnvironmentCredential()).chat("Hi")

    with FaultServer(whole(200, ANSWER)) as server, pytest.raises(AuthenticationError) as caught:
        asyncio.run(scenario()) if asynchronous else plainly()
    assert server.seen == []
    assert "EnvironmentCredential gave no token" in str(caught.value)
    assert "CredentialUnavailableError" in str(caught.value)
