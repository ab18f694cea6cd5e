"""`azure`: Azure AI Studio, now Foundry. Five endpoint shapes, told apart by host and path.

==========  ==============================================================  ==========================
shape       base_url                                                        today
==========  ==============================================================  ==========================
v1          https://RES.openai.azure.com or …/openai/v1                     the one with a future
models      https://RES.services.ai.azure.com/models                        API retired in August 2026
serverless  https://NAME.REGION.models.ai.azure.com                         legacy
classic     https://RES.openai.azure.com/openai/deployments/DEPLOYMENT      legacy
managed     https://NAME.REGION.inference.ml.azure.com                      managed compute
==========  ==============================================================  ==========================

Source: the pages of Azure's documentation on endpoints and model inference, 2025 and 2026; no live service was asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.http import HttpDriver, HttpRequest
from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.errors import ConfigurationError
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


class AzureDriver(HttpDriver):
    """Azure AI Foundry. The model is the deployment's name; a portable name stands for the default one."""

    options = {"deployment": str, "api_version": str}
    info: ClassVar[DriverInfo] = DriverInfo(
        name="azure",
        title="Azure AI Foundry",
        docs="providers.md#azure",
        features=frozenset({Feature.IMAGES, Feature.TOOLS, Feature.RESPONSE_FORMAT}),
        default_model="phi-4-mini",
        state="Phi-4 family on the v1 route; Phi-3 and Phi-3.5 retired 2025-08-30, the /models API in August 2026",
        hosted=True,
        key_variables=(
            "AZURE_OPENAI_API_KEY",
            "AZURE_AI_CHAT_KEY",
            "AZURE_INFERENCE_CREDENTIAL",
            "AZUREAI_ENDPOINT_KEY",
        ),
        url_variables=(
            "AZURE_OPENAI_ENDPOINT",
            "AZURE_AI_CHAT_ENDPOINT",
            "AZURE_INFERENCE_ENDPOINT",
            "AZUREAI_ENDPOINT_URL",
        ),
        vendor_hosts=(
            "*.openai.azure.com",
            "*.services.ai.azure.com",
            "*.cognitiveservices.azure.com",
            "*.models.ai.azure.com",
            "*.inference.ai.azure.com",
            "*.inference.ml.azure.com",
        ),
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        if not self.base_url:
            raise ConfigurationError(
                "azure needs the address of your resource: base_url=, SLM_BASE_URL or "
                f"{', '.join(self.info.url_variables)}, such as https://RESOURCE.openai.azure.com/openai/v1",
                provider=self.name,
            )
        self.shape, self.base_url, version = endpoint(self.config.base_url or "")
        self.dialect_here = self._dialect(SHAPES[self.shape], self.own.get("api_version") or version)

    def _dialect(self, dialect: Dialect, version: str | None) -> Dialect:
        if version is not None:
            dialect = replace(dialect, query=(("api-version", version),))
        if "deployment" in self.own:
            dialect = replace(dialect, headers=(("azureml-model-deployment", self.own["deployment"]),))
        if self.config.api_key is not None and self.config.api_key.renewable:
            dialect = replace(dialect, key_headers=TOKEN_HEADERS)
        return dialect

    @property
    def speech(self) -> Dialect:
        """The dialect of the endpoint's shape."""
        return self.dialect_here

    def model_id(self, name: str) -> str:
        """Return the deployment's name; a portable name stands for Azure's default, its model name."""
        return catalogue.provider_id(name, "azure")

    def encode(self, request: ChatRequest, model: str | None) -> HttpRequest:
        """Return the HTTP request; fields of ``extra`` need a header on the older shapes, which refuse them else."""
        asked = super().encode(request, None if self.shape == "classic" else model)
        if request.extra and self.dialect_here.query and self.shape != "classic":
            return replace(asked, headers={**asked.headers, "extra-parameters": "pass-through"})
        return asked
