"""`OpenAIClientDriver`: our wire through an `openai` client that was handed in."""

from __future__ import annotations

import copy
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic_core import from_json

from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.sdk import Answered, Outgoing, SdkDriver, taken
from slmclient.drivers.steps import Steps
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import ConfigurationError

if TYPE_CHECKING:
    import openai

    from slmclient.drivers.sdk_lines import SdkLine

_PLAIN = Dialect()
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")
_KINDS = {"OpenAI": False, "AsyncOpenAI": True}


class OpenAIClientDriver(SdkDriver, OpenAIDriver):
    """Sends through an `openai.OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI` client of yours.

    Its address, keys and token providers, headers, proxies and tracing apply; its retries and its objects do not.

    Args:
        client: The SDK client. It stays yours: it is not changed, and never closed.
        model: The model of calls that name none. Default: the deployment that the client's address names, else the
            first model that the server lists.

    Raises:
        ConfigurationError: It is no such client.

    Example:
        >>> import openai
        >>> from slmclient import OpenAIClientDriver, PhiClient
        >>> sdk = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="EMPTY")
        >>> client = PhiClient(driver=OpenAIClientDriver(sdk, "phi-4-mini"))
    """

    sync_type, async_type = "openai.OpenAI or openai.AzureOpenAI", "openai.AsyncOpenAI or openai.AsyncAzureOpenAI"
    info: ClassVar[DriverInfo] = replace(
        OpenAIDriver.info,
        title="An openai client of yours",
        docs="sdk-clients.md",
        extra="openai",
        default_base_url=None,
        key_variables=(),
        url_variables=(),
    )

    def __init__(
        self,
        client: openai.OpenAI | openai.AsyncOpenAI | openai.AzureOpenAI | openai.AsyncAzureOpenAI,
        model: str | None = None,
    ) -> None:
        self.asynchronous = taken(client, "openai", _KINDS, "openai")
        address = str(client.base_url)
        deployment = _DEPLOYMENT.search(address)
        super().__init__(
            DriverConfig(
                self.info.name,
                model or (deployment[1] if deployment else None),
                base_url=address,
                key_hint="It is the key of the SDK client that was handed in.",
            )
        )
        self.client = client
        self._azure = any(kind.__name__ == "BaseAzureClient" for kind in type(client).__mro__)
        if self._azure:
            self.dialect_here = _PLAIN

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call; on Azure the list of models is none of deployments, so one is named."""
        if self._azure and not (request.model or self.default_model):
            raise ConfigurationError("Name the deployment with model=: the SDK client has none.", provider=self.name)
        yield from super().flow(request)

    def submit(self, outgoing: Outgoing, line: SdkLine) -> Any:
        """Return the SDK's raw response: from its public `post` or `get`, which leave it alone for this ``cast_to``."""
        from slmclient.drivers.lines import raw_response

        asked = outgoing.asked
        options = {
            "headers": dict(asked.headers),
            "timeout": outgoing.silence,
            "max_retries": 0,
            "follow_redirects": False,
        }
        client = self._watched(outgoing, line)
        if asked.method == "GET":
            return client.get(asked.url, cast_to=raw_response(), options=options, stream=True)
        # Parsed again, not as bytes: an Azure client reads the model's name off the body.
        return client.post(
            asked.url, cast_to=raw_response(), body=from_json(asked.content), options=options, stream=True
        )

    def _watched(self, outgoing: Outgoing, line: SdkLine) -> Any:
        """Return a twin of the client, which shares all it has, whose requests the line watches.

        `_send_request` is no public name. Without it calls still work; but a read looks at the deadline less exactly,
        and the SDK reads an error's body whole before anybody can bound it.
        """
        try:
            twin = copy.copy(self.client)  # not with_options(): that makes a client without the token that it has
            watching = _watching_async if self.asynchronous else _watching
            twin._send_request = watching(twin._send_request, outgoing, line)
        except Exception:
            return self.client
        return twin

    def answer(self, error: Exception) -> Any:
        """Return the server's response that an error holds: ours, or the SDK's where nobody could come before it."""
        from openai import APIStatusError

        return error.response if isinstance(error, APIStatusError) else super().answer(error)

    def body(self, response: Any) -> Any:
        """Return an iterator over the body's bytes, as they come."""
        return response.aiter_bytes() if self.asynchronous else response.iter_bytes()

    def hang_up(self, response: Any) -> Any:
        """Return a function that shuts the response's socket down; None if other calls share it, or none is shown."""
        stream = response.extensions.get("network_stream")
        if stream is None or not str(response.http_version).startswith("HTTP/1"):
            return None
        connection = cast("socket.socket | None", stream.get_extra_info("socket"))

        def shut_down() -> None:
            if not response.is_closed:  # after that it carries another call
                # Not the method of an SSLSocket, which forgets its TLS: a reader would go on without it.
                socket.socket.shutdown(cast(socket.socket, connection), socket.SHUT_RDWR)

        return shut_down if isinstance(connection, socket.socket) else None


def _prepare(request: Any, outgoing: Outgoing, line: SdkLine) -> None:
    silence = outgoing.silence
    request.extensions["timeout"] = {"connect": outgoing.connect, "read": silence, "write": silence, "pool": silence}
    request.extensions.setdefault("trace", line.note)


def _settled(response: Any) -> Any:
    if not 200 <= response.status_code < 300:
        raise Answered(response)
    return response


def _watching(send: Callable[..., Any], outgoing: Outgoing, line: SdkLine) -> Callable[..., Any]:
    def sending(request: Any, **settings: Any) -> Any:
        _prepare(request, outgoing, line)
        return _settled(send(request, **settings))

    return sending


def _watching_async(send: Callable[..., Any], outgoing: Outgoing, line: SdkLine) -> Callable[..., Any]:
    async def sending(request: Any, **settings: Any) -> Any:
        _prepare(request, outgoing, line)
        return _settled(await send(request, **settings))

    return sending
