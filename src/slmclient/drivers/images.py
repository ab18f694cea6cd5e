"""Pictures on their way: fetched where a provider takes no addresses, made to fit where it takes not everything.

Two flows, driven by the same pumps as any other: so cancelling, deadlines and asyncio hold for them too.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin

from slmclient.chat import ChatRequest, Note
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.steps import READ, HttpRequest, HttpResponse, Work
from slmclient.errors import APIConnectionError, APITimeoutError, BadRequestError, SLMError, UnsupportedFeatureError
from slmclient.hosts import is_public, may_be_public
from slmclient.media import MAX_IMAGE_BYTES, Audio, Image, ImageLimits, SentImage, image_type
from slmclient.messages import Message

if TYPE_CHECKING:
    from slmclient.drivers.transport import Route
    from slmclient.media.fitting import Fitted

FETCH_SECONDS = 60.0
"""Longest that one picture is fetched for (seconds)."""

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 429, 500, 502, 503, 504)
_CONNECTING, _CONNECTED = "connection.connect_tcp.started", "connection.connect_tcp.complete"
_ABOUT_NOW = 0.01  # seconds: what is left of a time that ended a wait
_YOURSELF = "Fetch it yourself and pass its bytes."
_PRIVATE = "allow_private_urls=True lets it."

Fitting = Generator[Any, Any, "tuple[ChatRequest, list[Note]]"]
Fetching = Generator[Any, Any, bytes]


@dataclass(frozen=True, slots=True)
class Task:
    """One call's pictures, and what is done with them."""

    request: ChatRequest
    limits: ImageLimits
    provider: str
    allow_private: bool
    """Whether addresses of private networks, and plain http, are fetched."""

    def fitting(self) -> Fitting:
        """Yield the commands that make pictures fit; return the request with them, and what is to be told.

        Raises:
            UnsupportedFeatureError: More pictures in a message than are taken.
            BadRequestError: A picture or sound that cannot be read or fetched, or be made to fit.
        """
        self._check_count()
        notes: list[Note] = []
        messages: list[Message] = []
        number = 0
        for message in self.request.messages:
            parts: list[Any] = [] if isinstance(message.content, str) else list(message.content)
            for place, part in enumerate(parts):
                if isinstance(part, Image):
                    number += 1
                    parts[place] = yield from self._fitted(part, number, notes)
                elif isinstance(part, Audio):
                    yield Work(partial(getattr, part, "content"))  # read now: an unreadable one is sent nowhere
            messages.append(message.model_copy(update={"content": tuple(parts)}) if parts else message)
        return replace(self.request, messages=tuple(messages)), notes

    def _check_count(self) -> None:
        most, limits = max((len(m.images) for m in self.request.messages), default=0), self.limits
        if limits.count is not None and most > limits.count:
            raise UnsupportedFeatureError(
                f"{self.provider} takes {limits.count} image{'' if limits.count == 1 else 's'} in a message here, not "
                f"{most}. Send fewer, or ask another provider." + (f" ({limits.source})" if limits.source else ""),
                provider=self.provider,
                model=self.request.model,
            )

    def _fitted(self, image: Image, number: int, notes: list[Note]) -> Generator[Any, Any, Image]:
        name = f"image {number}"
        changes: tuple[str, ...] = ()
        if not image.inline:
            if self.limits.urls:
                return image
            if not image.at_hand:
                image.keep((yield from self._fetched(image.url, name)))
            changes = ("fetched",)
        made = cast("Fitted", (yield Work(partial(image.fitted, self.limits, name))))
        changes += made.changes
        fitted = Image(made.content, detail=image.detail)  # bytes, which another process can be sent, whatever it was
        if not changes:
            return fitted
        sent = SentImage(
            number=number,
            original_format=made.original_type,
            original_size=made.original_size,
            original_bytes=len(image.content),
            format=made.media_type,
            size=made.size,
            bytes=len(made.content),
            changes=changes,
        )
        notes.append(Note("image", sent))
        return fitted

    # --- fetching

    def _fetched(self, url: str, name: str) -> Fetching:
        """Yield the commands that fetch a picture; return its file. Each address is checked, also behind redirects."""
        until = time.monotonic() + FETCH_SECONDS
        for _ in range(_MOST_REDIRECTS + 1):
            host = ""
            try:
                host = self._checked_host(url)
                headers = {"Accept": "image/*"}
                asked = HttpRequest("GET", url, headers, timeout=self.request.timeout, keyless=True, until=until)
                response = cast(HttpResponse, (yield asked))
                target = response.headers.get("location")
                if response.status not in _REDIRECTS or not target:
                    return (yield from self._body(response, host))
            except SLMError as error:
                raise self._told(error, name, host, until) from None
            url = _joined(url, target)
        raise BadRequestError(f"{name}: its address leads from one to the next without end. {_YOURSELF}")

    def _checked_host(self, url: str) -> str:
        """Return an address's host; raise an error for one that is not fetched, as far as it shows now."""
        from slmclient.drivers.addresses import scheme_and_host

        scheme, host = scheme_and_host(url)
        if scheme not in ("http", "https") or not host:
            raise BadRequestError(f"its address is no http(s) URL that can be called. {_YOURSELF}")
        if not self.allow_private:
            if scheme == "http":
                raise BadRequestError(f"a plain http address ({host}) is not fetched: use https. {_PRIVATE}")
            if not may_be_public(host):
                raise refused(host)
        return host

    def _told(self, error: SLMError, name: str, host: str, until: float) -> SLMError:
        """Return the error that a caller sees: it says which picture and which host, and nothing else of its URL."""
        told = error.message
        if host and isinstance(error, Refused):
            told = refused(host).message  # which address a name of a private network has is nobody's business
        elif isinstance(error, APITimeoutError) and self.request.remaining() <= _ABOUT_NOW:
            told = f"it had not come from {host} by the deadline. Raise deadline=."
        elif isinstance(error, APITimeoutError) and until - time.monotonic() <= _ABOUT_NOW:
            told = f"it did not come from {host} within {FETCH_SECONDS:g} s. {_YOURSELF}"
        return type(error)(f"{name}: {told}")

    def _body(self, response: HttpResponse, host: str) -> Fetching:
        if response.status != 200:
            kind = APIConnectionError if response.status in _PASSING else BadRequestError
            raise kind(f"{host} answered {response.status}. {_YOURSELF}")
        too_large = BadRequestError(f"{host} has more than {MAX_IMAGE_BYTES:,} bytes for it, which are not fetched.")
        said = response.headers.get("content-length", "")
        if said.isdigit() and len(said) < 20 and int(said) > MAX_IMAGE_BYTES:
            raise too_large
        pieces: list[bytes] = []
        size = 0
        while piece := cast(bytes, (yield READ)):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_IMAGE_BYTES:
                raise too_large
        content = b"".join(pieces)
        if image_type(content) is None:
            raise BadRequestError(f"what {host} sent is no PNG, JPEG, GIF, WebP or BMP picture.")
        return content


class Refused(BadRequestError):
    """An address inside a private network: a model's user must not make us ask there."""


def refused(host: str) -> Refused:
    """Return the error for an address that is not asked."""
    return Refused(f"{host} is of this machine or of a private network, where nothing is fetched. {_PRIVATE}")


def _joined(url: str, target: str) -> str:
    """Return where a redirect leads; nothing for what cannot be read."""
    try:
        return urljoin(url, target)
    except ValueError:
        return ""


class Guard:
    """Lets connections lead to public addresses only. It hears of them from the HTTP library's ``trace`` extension."""

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Refuse an address: before it is connected to, for that alone tells who listens there; and again after it.

        Names may mean another address each time. What is refused then was sent nothing.
        """
        import socket

        if event == _CONNECTING:
            self._check_all(socket.getaddrinfo(info["host"], info["port"], type=socket.SOCK_STREAM))
        elif event == _CONNECTED and not _is_there_public(info):
            info["return_value"].close()
            raise refused("it")

    async def awatch(self, event: str, info: Mapping[str, Any]) -> None:
        """`watch`, for asyncio."""
        import asyncio
        import socket

        if event == _CONNECTING:
            loop = asyncio.get_running_loop()
            looking = loop.getaddrinfo(info["host"], info["port"], type=socket.SOCK_STREAM)
            self._check_all(await asyncio.wait_for(looking, info["timeout"]))
        elif event == _CONNECTED and not _is_there_public(info):
            await info["return_value"].aclose()
            raise refused("it")

    def _check_all(self, found: Sequence[Any]) -> None:
        if not all(is_public(str(address[0])) for *_, address in found):
            raise refused("it")


def _is_there_public(info: Mapping[str, Any]) -> bool:
    return is_public(str(info["return_value"].get_extra_info("server_addr")[0]))


def route(config: DriverConfig, allow_private: bool) -> Route:
    """Return how pictures are fetched: through the same proxy, without a key, and to public addresses only."""
    from slmclient.drivers.transport import Route

    verify = True if config.verify is False else config.verify  # unchecked was said of the provider, not of the world
    ours = DriverConfig("the image's server", proxy=config.proxy or config.web_proxy, verify=verify)
    return Route(ours, (), f"Check its address. {_YOURSELF}", None if allow_private else Guard())
