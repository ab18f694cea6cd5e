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

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.azure.endpoint import SHAPES, TOKEN_HEADERS, endpoint
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.http import HttpDriver, HttpRequest
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import ConfigurationError


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
