"""The way through an SDK client, and what its errors become."""

from __future__ import annotations

from urllib.parse import urlsplit

from slmclient.chat import ChatRequest
from slmclient.drivers.sdk import Outgoing, SdkDriver
from slmclient.drivers.sdk_lines import AsyncSdkLine, KeptConnections, SdkLine, SyncSdkLine, causes
from slmclient.drivers.steps import HttpRequest
from slmclient.drivers.transport import CONNECT_TIMEOUT, deadline_passed
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    ResponseFormatError,
    SLMError,
)
from slmclient.hosts import is_loopback

_SHORTEST, _LONGEST_WAIT = 0.001, 2_000_000.0  # seconds; sockets wait in milliseconds of 31 bits
# Names, as httpx, httpx2, azure-core, requests, urllib3 and aiohttp have them: none of these is imported for an error.
_CONNECT_TIMEOUTS = ("ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError", "ServiceRequestTimeoutError")
_BROKEN_BODIES = ("DecodingError", "DecodeError", "ContentDecodingError")
_NO_SENDING = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class SdkRoute:
    """How requests reach the server: through the SDK client of a driver."""

    def __init__(self, driver: SdkDriver) -> None:
        self._driver = driver
        self._connections = KeptConnections()

    def sync_line(self, url: str) -> SyncSdkLine:
        """Return a new call, for threads."""
        return SyncSdkLine(self._driver, self._connections)

    def async_line(self, url: str) -> AsyncSdkLine:
        """Return a new call, for asyncio."""
        return AsyncSdkLine(self._driver, self._connections)

    def outgoing(self, asked: HttpRequest, request: ChatRequest) -> Outgoing:
        """Return the request with its timeouts; the SDK adds its keys."""
        silence = max(_SHORTEST, min(asked.timeout, request.remaining(), _LONGEST_WAIT))
        headers = {"accept-encoding": "identity", **{name.lower(): value for name, value in asked.headers.items()}}
        asked = HttpRequest(asked.method, asked.url, headers, asked.content, asked.timeout)
        return Outgoing(asked, min(CONNECT_TIMEOUT, silence), silence)

    async def aoutgoing(self, asked: HttpRequest, request: ChatRequest) -> Outgoing:
        """`outgoing`, for asyncio."""
        return self.outgoing(asked, request)

    def failure(self, error: Exception, line: SdkLine, request: ChatRequest) -> SLMError:
        """Return the error that callers see for one of the SDK's, whose own text may quote headers: it is not shown."""
        if isinstance(error, SLMError):
            return error
        provider, parts = self._driver.name, urlsplit(self._driver.base_url)
        host = parts.netloc.rpartition("@")[2]
        chain = list(causes(error))
        names = [type(cause).__name__ for cause in chain]
        if request.remaining() <= 0.01:
            return deadline_passed(provider)
        if any(isinstance(cause, TimeoutError) or "Timeout" in name for cause, name in zip(chain, names, strict=True)):
            if any(name in _CONNECT_TIMEOUTS for name in names):
                patience = min(CONNECT_TIMEOUT, request.timeout)
                said = f"{provider} did not accept a connection within {patience:g} s ({host})."
            else:
                said = f"{provider} was silent for timeout={request.timeout:g} s ({host})."
            return APITimeoutError(f"{said} Raise timeout=, or check the server.", provider=provider)
        if any(name in _BROKEN_BODIES for name in names):
            return ResponseFormatError(f"{provider} sent a broken body ({host}).", provider=provider)
        reason = _reason(chain)
        if line.response is not None:
            return APIConnectionError(f"The connection of {provider} to {host} broke: {reason}.", provider=provider)
        if any("Credential" in name or "Authentication" in name for name in names):
            return AuthenticationError(f"The credential of the SDK client failed: {names[0]}.", provider=provider)
        wrapped = names[0] == "APIConnectionError" and len(chain) > 1  # as openai 3.0 does with any error
        if isinstance(chain[wrapped], _NO_SENDING) and not any(isinstance(cause, OSError) for cause in chain):
            return ConfigurationError(
                f"The SDK client could not send: {names[wrapped]}. Is it closed, or used in another event loop, or "
                "does its token provider fail?",
                provider=provider,
            )
        hint = "Is the server running?" if is_loopback(parts.hostname or "") else "Check the network and the address."
        return APIConnectionError(f"{provider} cannot be reached at {host}: {reason}. {hint}", provider=provider)


def _reason(causes: list[BaseException]) -> str:
    """Return the operating system's reason, or the name of what was at the bottom."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and isinstance(cause.strerror, str):
            return cause.strerror.rstrip(".")
    return type(causes[-1]).__name__
