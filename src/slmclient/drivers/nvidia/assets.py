"""Large pictures at NVIDIA's hosted service: uploaded beside the call as NVCF assets, and deleted after it.

Source: NVIDIA's reference pages of Cloud Functions (assets), langchain-nvidia-ai-endpoints 1.5.0. Not tried live.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any, cast

from pydantic_core import to_json

from slmclient.chat import ChatRequest
from slmclient.drivers.steps import HttpRequest, HttpResponse, from_json_or_none, read_body
from slmclient.errors import APIConnectionError, BadRequestError, ResponseFormatError, SLMError
from slmclient.media import Image

ASSETS_URL = "https://api.nvcf.nvidia.com/v2/nvcf/assets"
INLINE_CHARACTERS = 180_000
"""Most characters of a picture's base64 inside the call: docs.api.nvidia.com, the pages of its vision models."""
REFERENCE_HEADERS = ("NVCF-INPUT-ASSET-REFERENCES", "NVCF-FUNCTION-ASSET-IDS")  # the old name and the new one
LARGEST = 5_000_000_000
"""Most bytes of an asset, by NVIDIA's reference pages."""

DELETING = 5.0
"""Seconds that the deletion of a call's assets may hold up its end, however many they are."""

_MARK = ";asset_id,"
_DESCRIPTION = "slmclient"
_IDENTITY = re.compile(r"[A-Za-z0-9-]{1,100}")  # it becomes a part of a URL, and of headers
_PASSING = (408, 429, 500, 502, 503, 504)

Uploading = Generator[Any, Any, str]


def is_large(image: Image) -> bool:
    """Return whether a picture does not go inside the call."""
    return image.inline and (len(image.content) + 2) // 3 * 4 > INLINE_CHARACTERS


def uploading(image: Image, request: ChatRequest, name: str, uploaded: list[str], fault: Any) -> Uploading:
    """Yield the commands that upload a picture; return the asset's id.

    Args:
        image: The picture.
        request: Its call, for the timeout.
        name: The provider, for errors.
        uploaded: Gets the id as soon as there is an asset, whether or not it gets its content: it is to be deleted.
        fault: Returns the error for a response, of ``(response, payload)``.
    """
    said = {"contentType": image.media_type, "description": _DESCRIPTION}
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    asked = HttpRequest("POST", ASSETS_URL, headers, to_json(said), request.timeout)
    response = cast(HttpResponse, (yield asked))
    payload = yield from read_body()
    if not 200 <= response.status < 300:  # the body of these holds the signed address, which no error may quote
        raise fault(response, payload=payload)
    identity, address = _created(from_json_or_none(payload), name)
    uploaded.append(identity)
    # The address is signed, so it is a key itself: it gets no other, and stands in no error.
    headers = {"Content-Type": image.media_type, "x-amz-meta-nvcf-asset-description": _DESCRIPTION}
    put = HttpRequest("PUT", address, headers, image.content, request.timeout, keyless=True)
    answer = cast(HttpResponse, (yield put))
    yield from read_body()
    if answer.status not in (200, 201, 204):
        kind = APIConnectionError if answer.status in _PASSING else BadRequestError
        raise kind(
            f"The storage of {name} did not take the upload of a picture: it answered {answer.status}. Without the "
            "option large_images it is scaled down instead.",
            provider=name,
            status_code=answer.status,
        )
    return identity


def _created(payload: Any, name: str) -> tuple[str, str]:
    """Return an asset's id, and where its content is put; both come from the server and become parts of requests."""
    from slmclient.drivers.addresses import scheme_and_host

    made: Mapping[str, Any] = cast("Mapping[str, Any]", payload) if isinstance(payload, Mapping) else {}
    identity, address = made.get("assetId"), made.get("uploadUrl")
    named = isinstance(identity, str) and _IDENTITY.fullmatch(identity)
    scheme, host = scheme_and_host(address) if isinstance(address, str) else ("", "")
    if not named or scheme != "https" or not host:
        raise ResponseFormatError(f"{name} sent no asset to upload a picture to.", provider=name)
    return str(identity), str(address)


def deleting(uploaded: list[str], request: ChatRequest) -> Generator[Any, Any, None]:
    """Yield the commands that delete assets; one that stays is deleted by NVIDIA after a day."""
    until = time.monotonic() + DELETING
    for identity in uploaded:
        with suppress(SLMError):
            timeout = min(request.timeout, DELETING)
            yield HttpRequest("DELETE", f"{ASSETS_URL}/{identity}", timeout=timeout, until=until)
            yield from read_body()


def headers(request: ChatRequest) -> dict[str, str]:
    """Return the headers that name the assets of a call."""
    urls = [image.url for message in request.messages for image in message.images]
    named = ",".join(url.partition(_MARK)[2] for url in urls if _MARK in url[:60])
    return dict.fromkeys(REFERENCE_HEADERS, named) if named else {}


def reference(image: Image, identity: str) -> str:
    """Return what stands for an uploaded picture in a call."""
    return f"data:{image.media_type}{_MARK}{identity}"
