"""SdkDriver: what drivers share that send through a vendor's SDK client which the user configured and handed in.

The wire is ours: the same flows, pumps and errors as over our own connections. The way out is the SDK's: its address,
its keys and token providers, its proxies, its tracing. Its retries and redirects are switched off, call by call. The
client belongs to the user: it is never changed and never closed. No SDK is imported here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from slmclient.chat import ChatRequest, Event
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.secret import Secret
from slmclient.drivers.steps import HttpRequest, HttpResponse, from_json_or_none
from slmclient.errors import ConfigurationError, MissingDependencyError, SLMError

if TYPE_CHECKING:
    from slmclient.drivers.sdk_lines import SdkLine
    from slmclient.drivers.transport import Route

# Headers whose values are no secrets; whatever else was sent is cut out of errors, for a gateway's key has any name.
_HARMLESS = frozenset(
    {"accept", "accept-encoding", "api-version", "connection", "content-length", "content-type", "date", "host"}
    | {"extra-parameters", "traceparent", "tracestate", "transfer-encoding", "user-agent", "x-ms-client-request-id"}
)
_HARMLESS_PREFIX = "x-stainless-"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request on its way to the SDK."""

    asked: HttpRequest
    connect: float
    """Seconds to connect, at most."""
    silence: float
    """Longest silence of the server, in seconds."""


@dataclass(frozen=True, slots=True)
class SdkResponse(HttpResponse):
    """A response with the secrets that its request carried."""

    sent: tuple[Secret, ...] = ()


class Answered(Exception):
    """The server answered, with a status that the SDK would turn into an error of its own."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.response = response


class SdkDriver(HttpDriver):
    """A driver whose requests go through an SDK client. A subclass says how one is sent and its answer read.

    It goes before the driver whose wire it speaks: ``class MyClientDriver(SdkDriver, MyDriver)``.
    """

    sync_type: ClassVar[str]
    """The SDK's class for threads, for messages."""
    async_type: ClassVar[str]
    """The SDK's class for asyncio."""

    client: Any
    """The SDK client, which the user keeps."""
    asynchronous: bool
    """Whether that is one for asyncio."""

    # --- what a subclass writes

    @abstractmethod
    def submit(self, outgoing: Outgoing, line: SdkLine) -> Any:
        """Return the SDK's response, its body unread; an awaitable of it from a client for asyncio.

        Raises:
            Answered: With a response whose status the SDK takes for an error.
        """

    def answer(self, error: Exception) -> Any:
        """Return the server's response that an error of the SDK's holds; None if it holds none."""
        held = error if isinstance(error, Answered) else error.__cause__  # some versions of an SDK wrap whatever comes
        return held.response if isinstance(held, Answered) else None

    def body(self, response: Any) -> Any:
        """Return an iterator over the body's bytes, as they come; an asynchronous one from a client for asyncio."""
        return response.iter_bytes()

    def hang_up(self, response: Any) -> Any:
        """Return a function that ends a read of the body from another thread; None where there is no such thing.

        For clients for threads alone: an asyncio task can be cancelled anyway.
        """
        return None

    # --- what they share

    def url(self, path: str) -> str:
        """Return the path, which the SDK puts behind its own base URL."""
        query = urlencode(dict(self.speech.query))
        return f"{path}?{query}" if query else path

    def fault(self, response: HttpResponse, model: str | None, payload: Any) -> SLMError:
        """Return the error for an answer that is none; what the SDK sent to prove who it is, is cut out of it."""
        if isinstance(payload, bytes):
            parsed = from_json_or_none(payload)
            payload = payload.decode("utf-8", "replace") if parsed is None else parsed
        headers: Any = dict(response.headers)
        for secret in cast(SdkResponse, response).sent:
            payload, headers = secret.redact(payload), secret.redact(headers)
        return super().fault(HttpResponse(response.status, headers), model, payload)

    def route(self) -> Route:
        """Return the way through the SDK client."""
        from slmclient.drivers.sdk_route import SdkRoute

        return cast("Route", SdkRoute(self))  # a pump needs what both routes have

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events."""
        if self.asynchronous:
            raise ConfigurationError(
                f"This driver has a client for asyncio: use AsyncPhiClient, or hand in {self.sync_type}.",
                provider=self.name,
            )
        return super().events(request)

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, for asyncio."""
        if not self.asynchronous:
            raise ConfigurationError(
                f"This driver has a client that blocks its thread: use PhiClient, or hand in {self.async_type}.",
                provider=self.name,
            )
        return super().aevents(request)


def taken(client: object, module: str, kinds: dict[str, bool], extra: str) -> bool:
    """Return whether an SDK client is one for asyncio.

    Args:
        client: What was handed in.
        module: The SDK, as imported.
        kinds: Names of the classes that are taken, and whether each is one for asyncio. A dot stands for a submodule.
        extra: The pip extra with the SDK.

    Raises:
        ConfigurationError: It is none of them.
        MissingDependencyError: The SDK is not installed, so it cannot be one.
    """
    names = ", ".join(f"{module}.{name}" for name in kinds)
    refused = f"The client is one of {names}, not {type(client).__name__}."
    for name, asynchronous in kinds.items():
        below, _, attribute = f"{module}.{name}".rpartition(".")
        try:
            kind = getattr(import_module(below), attribute)
        except ImportError as error:
            missing = error.name or below
            if asynchronous and module.partition(".")[0] != missing.partition(".")[0]:
                continue  # what the SDK needs for asyncio is not there, so the client is none of that kind
            raise MissingDependencyError(
                f'{refused} {module} cannot be imported: pip install "slmclient[{extra}]"'
            ) from None
        if isinstance(client, kind):
            return asynchronous
    raise ConfigurationError(refused)


def secrets_in(headers: Iterable[tuple[str, str]], url: str) -> tuple[Secret, ...]:
    """Return what a request carried that an answer must not be quoted with: keys, tokens, cookies."""
    values = [value for name, value in headers if not _is_harmless(name.lower())]
    values += [value for name, value in parse_qsl(urlsplit(url).query) if not _is_harmless(name.lower())]
    found: list[Secret] = []
    for value in values:
        for part in {value.strip(), value.strip().rpartition(" ")[2]}:  # the scheme, such as Bearer, is none
            try:
                found.append(Secret(part))
            except ConfigurationError:
                continue  # empty, or no text
    return tuple(found)


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(_HARMLESS_PREFIX)
