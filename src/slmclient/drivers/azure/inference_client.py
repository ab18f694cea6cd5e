"""`AzureInferenceClientDriver`: our wire through an `azure-ai-inference` client that was handed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.azure.endpoint import endpoint
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.sdk import Outgoing, SdkDriver, taken
from slmclient.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.ai.inference import ChatCompletionsClient
    from azure.ai.inference.aio import ChatCompletionsClient as AsyncChatCompletionsClient

    from slmclient.drivers.sdk_lines import SdkLine

_MODULE = "azure.ai.inference"
_KINDS = {"ChatCompletionsClient": False, "aio.ChatCompletionsClient": True}
_PIECE = 65536  # bytes


class AzureInferenceClientDriver(SdkDriver, AzureDriver):
    """Sends through a `ChatCompletionsClient` of yours, of `azure.ai.inference` or its ``aio``.

    Its endpoint, credential, API version, policies, proxies and tracing apply; its retries, its objects and the default
    parameters of its constructor do not.

    Args:
        client: The SDK client. It stays yours: it is not changed, and never closed.
        model: The model (on Azure the deployment) of calls that name none.

    Raises:
        ConfigurationError: It is no such client, or has no endpoint that serves chat.

    Example:
        >>> from azure.ai.inference import ChatCompletionsClient
        >>> from azure.core.credentials import AzureKeyCredential
        >>> from slmclient import AzureInferenceClientDriver, PhiClient
        >>> sdk = ChatCompletionsClient("https://RESOURCE.services.ai.azure.com/models", AzureKeyCredential("…"))
        >>> client = PhiClient(driver=AzureInferenceClientDriver(sdk, "phi-4-mini"))
    """

    sync_type, async_type = f"{_MODULE}.ChatCompletionsClient", f"{_MODULE}.aio.ChatCompletionsClient"
    info: ClassVar[DriverInfo] = replace(
        AzureDriver.info,
        title="An azure-ai-inference client of yours",
        docs="sdk-clients.md",
        extra="azure",
        key_variables=(),
        url_variables=(),
    )

    def __init__(self, client: ChatCompletionsClient | AsyncChatCompletionsClient, model: str | None = None) -> None:
        self.asynchronous = taken(client, _MODULE, _KINDS, "azure")
        # The client tells neither in public.
        settings: Any = getattr(client, "_config", None)
        address = getattr(settings, "endpoint", None)
        if not isinstance(address, str):
            raise ConfigurationError("The SDK client does not tell its endpoint.", provider=self.info.name)
        options = {"shape": _shape(address)}
        if isinstance(version := getattr(settings, "api_version", None), str):
            options["api_version"] = version
        super().__init__(
            DriverConfig(
                self.info.name,
                model,
                base_url=address,
                options=options,
                key_hint="It is the credential of the SDK client that was handed in.",
            )
        )
        self.client = client

    def submit(self, outgoing: Outgoing, line: SdkLine) -> Any:
        """Return the response of the SDK's public `send_request`, unread."""
        from azure.core.rest import HttpRequest

        asked = outgoing.asked
        return self.client.send_request(
            HttpRequest(asked.method, asked.url, headers=dict(asked.headers), content=asked.content or None),
            stream=True,
            retry_total=0,
            permit_redirects=False,
            connection_timeout=outgoing.connect,
            read_timeout=outgoing.silence,
        )

    def body(self, response: Any) -> Any:
        """Return an iterator over the body's bytes, as they come.

        The SDK's own, on threads, waits until 4,096 bytes are there, unless the server sends the body in chunks.
        """
        raw = _urllib3(response)
        if self.asynchronous or not hasattr(raw, "read1") or "content-encoding" in response.headers:
            return response.iter_bytes()
        return _pieces(raw)

    def hang_up(self, response: Any) -> Any:
        """Return urllib3's function that ends a read from another thread (from 2.3 on)."""
        return getattr(_urllib3(response), "shutdown", None)


def _urllib3(response: Any) -> Any:
    return getattr(getattr(response, "internal_response", None), "raw", None)


def _pieces(raw: Any) -> Iterator[bytes]:
    while piece := raw.read1(_PIECE):
        yield piece


def _shape(address: str) -> str:
    """Return the shape of an endpoint: this SDK speaks the older wire, whatever a gateway's path looks like."""
    found = endpoint(address).shape
    return "models" if found == "v1" and not urlsplit(address).path.rstrip("/").endswith("/openai/v1") else found
