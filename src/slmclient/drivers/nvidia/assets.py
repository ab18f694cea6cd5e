"""Large pictures at NVIDIA's hosted service: uploaded beside the call as NVCF assets, and deleted after it.

Source: NVIDIA's reference pages of Cloud Functions (assets), langchain-nvidia-ai-endpoints 1.5.0. Not tried live.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic_core import to_json

from slmclient.chat import ChatRequest
from slmclient.drivers.steps import HttpRequest, HttpResponse, from_json_or_none, read_body
from slmclient.errors import APIConnectionError, ResponseFormatError
from slmclient.media import Image, as_base64

ASSETS_URL = "https://api.nvcf.nvidia.com/v2/nvcf/assets"
INLINE_CHARACTERS = 180_000
"""Most characters of a picture's base64 inside the call: docs.api.nvidia.com, the pages of its vision models."""
REFERENCE_HEADERS = ("NVCF-INPUT-ASSET-REFERENCES", "NVCF-FUNCTION-ASSET-IDS")  # the old name and the new one
LARGEST = 5_000_000_000
"""Most bytes of an asset, by NVIDIA's reference pages."""

_MARK = ";asset_id,"
_DESCRIPTION = "slmclient"
_IDENTITY = re.compile(r"[A-Za-z0-9-]{1,100}")  # it becomes a part of a URL, and of headers

Uploading = Generator[Any, Any, str]


def is_large(image: Image) -> bool:
    """Return whether a picture does not go inside the call."""
    return image.inline and len(as_base64(image) or "") > INLINE_CHARACTERS


def uploading(image: Image, request: ChatRequest, name: str, fault: Any) -> Uploading:
    """Yield the commands that upload a picture; return the asset's id.

    Args:
        image: The picture.
        request: Its call, for the timeout.
        name: The provider, for errors.
        fault: Returns the error for a response, of ``(response, payload)``.
    """
    said = {"contentType": image.media_type, "description": _DESCRIPTION}
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    asked = HttpRequest("POST", ASSETS_URL, headers, to_json(said), request.timeout)
    response = cast(HttpResponse, (yield asked))
    payload = yield from read_body()
    if response.status != 200:
        raise fault(response, payload=payload)
    identity, address = _created(from_json_or_none(payload), name)
    # The address is signed, so it is a key itself: it gets no other, and stands in no error.
    headers = {"Content-Type": image.media_type, "x-amz-meta-nvcf-asset-description": _DESCRIPTION}
    put = HttpRequest("PUT", address, headers, image.content, request.timeout, keyless=True)
    answer = cast(HttpResponse, (yield put))
    yield from read_body()
    if answer.status not in (200, 201, 204):
        raise APIConnectionError(f"{name} did not take the upload of a picture: {answer.status}.", provider=name)
    return identity


def _created(payload: Any, name: str) -> tuple[str, str]:
    made: Mapping[str, Any] = cast("Mapping[str, Any]", payload) if isinstance(payload, Mapping) else {}
    identity, address = made.get("assetId"), made.get("uploadUrl")
    fits = isinstance(identity, str) and _IDENTITY.fullmatch(identity) and isinstance(address, str)
    if not fits or urlsplit(str(address)).scheme != "https":
        raise ResponseFormatError(f"{name} sent no asset to upload a picture to.", provider=name)
    return str(identity), str(address)


def deleting(identity: str, request: ChatRequest) -> Generator[Any, Any, None]:
    """Yield the commands that delete an asset; one that stays is deleted by NVIDIA after a day."""
    yield HttpRequest("DELETE", f"{ASSETS_URL}/{identity}", timeout=min(request.timeout, 5.0))
    yield from read_body()


def headers(request: ChatRequest) -> dict[str, str]:
    """Return the headers that name the assets of a call."""
    urls = [image.url for message in request.messages for image in message.images]
    named = ",".join(url.partition(_MARK)[2] for url in urls if _MARK in url[:60])
    return dict.fromkeys(REFERENCE_HEADERS, named) if named else {}


def reference(image: Image, identity: str) -> str:
    """Return what stands for an uploaded picture in a call."""
    return f"data:{image.media_type}{_MARK}{identity}"
