"""Azure's endpoints as data: the five shapes, how each is told by its URL, and the dialect it speaks. Pure.

==========  ==============================================================  ===============================
shape       base_url                                                        today
==========  ==============================================================  ===============================
v1          https://RES.openai.azure.com or …/openai/v1                     the one with a future
models      https://RES.services.ai.azure.com/models                        API retired by Azure 2026-08-26
serverless  https://NAME.REGION.models.ai.azure.com                         legacy
classic     https://RES.openai.azure.com/openai/deployments/DEPLOYMENT      legacy
managed     https://NAME.REGION.inference.ml.azure.com                      managed compute
==========  ==============================================================  ===============================

Source: the pages of Azure's documentation on endpoints, model inference and the move to the v1 API, 2025 and 2026; the
package azure-ai-inference 1.0.0b9. No live service was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.errors import ConfigurationError
from slmclient.hosts import matches

# Every shape reads one of the two; azure-ai-inference sends both for the same reason. A token goes as Bearer only.
KEY_HEADERS = (("api-key", "{key}"), ("Authorization", "Bearer {key}"))
TOKEN_HEADERS = (("Authorization", "Bearer {key}"),)
DEPLOYMENT_HEADER = "azureml-model-deployment"
EXTRA_HEADER = "extra-parameters"
EXTRA_WAYS = ("error", "drop", "pass-through")
"""What the older shapes may do with fields that they do not know."""

_NO_TOOLS = FaultPattern(
    400, r"--tool-call-parser", "UnsupportedFeatureError", "Phi on Azure takes no tools (no tool parser there)."
)
_ONE_IMAGE = FaultPattern(  # vLLM behind Phi-3.5-vision: "At most 1 image(s) may be provided in one request."
    400, r"at most \d+ image", "UnsupportedFeatureError", "Send fewer pictures: the ones of earlier turns count too."
)
_V1_IS = "The v1 address is https://RESOURCE.openai.azure.com/openai/v1"
_WRONG_PATHS = tuple(
    FaultPattern(status, r"query parameter: api-version", kind, f"That is the answer of an older route. {_V1_IS}.")
    for status, kind in ((400, "BadRequestError"), (404, "NotFoundError"))
)
_DEPLOYMENT = FaultPattern(
    404,
    r"deployment|model|resource not found",
    "ModelNotFoundError",
    "On Azure the model is the name of your deployment, which is the model's own name only by default: look yours up "
    "in the Foundry portal and pass it as model=.",
)
_OTHER_CAP = FaultPattern(  # OpenAI's reasoning models, which may be deployed beside Phi
    400,
    r"'max_tokens' is not supported",
    "UnsupportedParameterError",
    'Pass extra={"max_completion_tokens": …} instead of max_tokens=.',
)
_PATTERNS = (_NO_TOOLS, _ONE_IMAGE, _OTHER_CAP, *_WRONG_PATHS, _DEPLOYMENT)
_INFERENCE_VERSION = (("api-version", "2024-05-01-preview"),)  # azure-ai-inference's default

_V1 = Dialect(key_headers=KEY_HEADERS, patterns=_PATTERNS)
_INFERENCE = Dialect(
    key_headers=KEY_HEADERS,
    patterns=_PATTERNS,
    query=_INFERENCE_VERSION,
    stream_usage=False,
    # None of them is in that route's schema; a model may refuse what is passed through to it.
    unsupported=frozenset({"top_k", "repetition_penalty", "reasoning"}),
)
_CLASSIC = Dialect(key_headers=KEY_HEADERS, patterns=_PATTERNS, query=(("api-version", "2024-10-21"),))


@dataclass(frozen=True, slots=True)
class Shape:
    """One way in which Azure serves models."""

    dialect: Dialect
    scope: str
    """What a token of Entra ID has to be for."""
    one_model: bool = False
    """Whether the address stands for one deployment, so that no model has to be named."""
    extra_header: bool = False
    """Whether fields that it does not know are refused unless a header says otherwise."""


_SERVICES = "https://cognitiveservices.azure.com/.default"
_ML = "https://ml.azure.com/.default"  # azure-ai-inference's default; the docs know no Entra ID on serverless at all
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "v1": Shape(_V1, "https://ai.azure.com/.default"),
        "models": Shape(_INFERENCE, _SERVICES, extra_header=True),
        "serverless": Shape(_INFERENCE, _ML, one_model=True, extra_header=True),
        "classic": Shape(_CLASSIC, _SERVICES, one_model=True),
        "managed": Shape(_INFERENCE, _ML, one_model=True, extra_header=True),
    }
)

RESOURCE_HOSTS = ("*.openai.azure.com", "*.services.ai.azure.com", "*.cognitiveservices.azure.com")
SERVERLESS_HOSTS = ("*.models.ai.azure.com", "*.inference.ai.azure.com")
MANAGED_HOSTS = ("*.inference.ml.azure.com",)
_BY_HOST = {"serverless": SERVERLESS_HOSTS, "managed": MANAGED_HOSTS}
_PORTALS = ("ai.azure.com", "oai.azure.com", "ml.azure.com", "portal.azure.com", "learn.microsoft.com")
_ROUTES = ("/chat/completions", "/score")  # what portals show behind the address
_DEPLOYMENT_PATH = re.compile(r"(?P<path>.*/openai/deployments/[^/]+)(/.*)?")
_ENDING = {"v1": "/openai/v1"}  # on a resource's own hosts
_ADDRESSES = (
    "https://RESOURCE.openai.azure.com/openai/v1 (the one with a future), "
    "https://RESOURCE.services.ai.azure.com/models, "
    "https://RESOURCE.openai.azure.com/openai/deployments/DEPLOYMENT, https://NAME.REGION.models.ai.azure.com and "
    "https://NAME.REGION.inference.ml.azure.com"
)


class Endpoint(NamedTuple):
    """An address, understood."""

    shape: str
    """A key of `SHAPES`."""
    base_url: str
    """What routes are appended to; without a query."""
    api_version: str | None
    """What the address itself says."""


def endpoint(base_url: str, shape: str | None = None) -> Endpoint:
    """Return what an address means, as a portal shows it, with or without its route.

    Args:
        base_url: The address. On Azure's own hosts its path must be a known one; elsewhere (a gateway) any path is
            taken, as v1 unless it ends like that of another shape.
        shape: What the user says that it is; for gateways whose address does not show it.

    Raises:
        ConfigurationError: It is no endpoint of Azure's; the message lists the shapes.
    """
    parts = urlsplit(base_url)
    host, path = parts.hostname or "", parts.path.rstrip("/")
    for route in _ROUTES:
        path = path.removesuffix(route)
    path = path.removesuffix("/models") if path.endswith("/openai/v1/models") else path
    if matches(host, _PORTALS):
        raise ConfigurationError(f"{host} is a site for people, not an endpoint. Azure's endpoints are {_ADDRESSES}.")
    found = shape or next((name for name, hosts in _BY_HOST.items() if matches(host, hosts)), None)
    if found is None:
        found = _by_path(path)
    if found == "v1":
        path = {"": "/openai/v1", "/openai": "/openai/v1"}.get(path, path)
    deployment = _DEPLOYMENT_PATH.fullmatch(path)
    path = deployment["path"] if deployment is not None else path
    _check_path(host, path, found)
    version = parse_qs(parts.query).get("api-version", [None])[0]
    return Endpoint(found, urlunsplit((parts.scheme, parts.netloc, path, "", "")), version)


def _by_path(path: str) -> str:
    if path.endswith("/models"):
        return "models"
    return "classic" if "/openai/deployments" in path else "v1"


def _check_path(host: str, path: str, shape: str) -> None:
    problem = ""
    if shape == "classic" and _DEPLOYMENT_PATH.fullmatch(path) is None:
        problem = "it names no deployment"
    elif "/api/projects/" in path and not path.endswith("/openai/v1"):
        problem = "it is the address of a Foundry project, which serves agents; chat is at the resource's own address"
    elif matches(host, RESOURCE_HOSTS) and (shape == "models" != path[1:] or not path.endswith(_ENDING.get(shape, ""))):
        problem = f"Azure has no chat at {path}"
    if problem:
        raise ConfigurationError(f"base_url cannot be used with azure: {problem}. Azure's endpoints are {_ADDRESSES}.")


def v1_address(base_url: str) -> str | None:
    """Return the v1 address of the resource that serves a ``/models`` address, or None where no resource is named."""
    host = urlsplit(base_url).hostname or ""
    if not matches(host, RESOURCE_HOSTS):
        return None
    return f"https://{host.partition('.')[0]}.openai.azure.com/openai/v1"
