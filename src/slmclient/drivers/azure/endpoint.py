"""Azure's endpoints as data: the five shapes, how each is told by its URL, and the dialect it speaks. Pure.

Source: the pages of Azure's documentation on endpoints and model inference, 2025 and 2026; no live service was asked.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit, urlunsplit

from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.hosts import matches

# Every shape reads one of the two; azure-ai-inference sends both for the same reason. A token goes as Bearer only.
KEY_HEADERS = (("api-key", "{key}"), ("Authorization", "Bearer {key}"))
TOKEN_HEADERS = (("Authorization", "Bearer {key}"),)

_NO_TOOLS = FaultPattern(
    400, r"enable-auto-tool-choice", "UnsupportedFeatureError", "Phi on Azure takes no tools (no tool parser there)."
)
_WRONG_PATH = FaultPattern(
    404, r"api-version", "NotFoundError", "Use the v1 address: https://RESOURCE.openai.azure.com/openai/v1"
)
_DEPLOYMENT = FaultPattern(
    404,
    r"deployment|model|resource not found",
    "ModelNotFoundError",
    "On Azure the model is the name of your deployment: look it up in the Foundry portal and pass it as model=.",
)
_PATTERNS = (_NO_TOOLS, _WRONG_PATH, _DEPLOYMENT)

V1 = Dialect(key_headers=KEY_HEADERS, patterns=_PATTERNS)
MODELS = Dialect(
    key_headers=KEY_HEADERS, patterns=_PATTERNS, query=(("api-version", "2024-05-01-preview"),), stream_usage=False
)
CLASSIC = Dialect(key_headers=KEY_HEADERS, patterns=_PATTERNS, query=(("api-version", "2024-10-21"),))

SHAPES = {"v1": V1, "models": MODELS, "serverless": MODELS, "classic": CLASSIC, "managed": MODELS}
_BY_HOST = {
    "serverless": ("*.models.ai.azure.com", "*.inference.ai.azure.com"),
    "managed": ("*.inference.ml.azure.com",),
}


def endpoint(base_url: str) -> tuple[str, str, str | None]:
    """Return shape, base URL and api-version of an endpoint as a portal shows it (with or without its route)."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    version = parse_qs(parts.query).get("api-version", [None])[0]
    host = parts.hostname or ""
    shape = next((name for name, patterns in _BY_HOST.items() if matches(host, patterns)), None)
    if shape is None:
        if path.endswith("/models"):
            shape = "models"
        elif "/openai/deployments/" in path:
            shape = "classic"
        else:
            shape = "v1"
            path = {"": "/openai/v1", "/openai": "/openai/v1"}.get(path, path)
    return shape, urlunsplit((parts.scheme, parts.netloc, path, "", "")), version
