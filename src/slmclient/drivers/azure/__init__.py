"""`azure`: Azure AI Studio, now Foundry. Five endpoint shapes, told apart by host and path; a key, or Entra ID."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.azure.endpoint import (
    DEPLOYMENT_HEADER,
    EXTRA_HEADER,
    EXTRA_WAYS,
    MANAGED_HOSTS,
    RESOURCE_HOSTS,
    SERVERLESS_HOSTS,
    SHAPES,
    TOKEN_HEADERS,
    endpoint,
    v1_address,
)
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature, checked_options
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.steps import HttpRequest, Steps
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import ConfigurationError
from slmclient.media import ImageLimits

_DEPLOYMENT = re.compile(r"[A-Za-z0-9._-]+")  # what Azure lets a deployment be called, and a header carry


class AzureDriver(HttpDriver):
    """Azure AI Foundry. The model is the deployment's name; a portable name stands for the default one."""

    lists_models = False  # what Azure lists are models that could be deployed, not deployments
    options = {"deployment": str, "api_version": str, "shape": str, "scope": str, "extra_parameters": str}
    info: ClassVar[DriverInfo] = DriverInfo(
        name="azure",
        telemetry_name="azure.ai.inference",
        title="Azure AI Foundry",
        docs="providers/azure.md",
        features=frozenset(
            {Feature.IMAGES, Feature.AUDIO, Feature.TOOLS, Feature.TOOL_CHOICE, Feature.RESPONSE_FORMAT}
        ),
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
        vendor_hosts=(*RESOURCE_HOSTS, *SERVERLESS_HOSTS, *MANAGED_HOSTS),
        key_advice="For Entra ID pass any credential of azure-identity as api_key=.",
        old_variables=(
            "AZURE_AI_CHAT_ENDPOINT",
            "AZURE_AI_CHAT_KEY",
            "AZURE_INFERENCE_ENDPOINT",
            "AZURE_INFERENCE_CREDENTIAL",
            "AZUREAI_ENDPOINT_URL",
            "AZUREAI_ENDPOINT_KEY",
            "CHAT_COMPLETIONS_ENDPOINT",
            "CHAT_COMPLETIONS_KEY",
            "CHAT_COMPLETIONS_DEPLOYMENT_NAME",
        ),
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        config = config or DriverConfig(provider=self.info.name)
        own = _own_options(config, self.options)
        if not config.base_url:
            raise ConfigurationError(
                "azure needs the address of your resource: base_url=, SLM_BASE_URL or "
                f"{', '.join(self.info.url_variables)}, such as https://RESOURCE.openai.azure.com/openai/v1",
                provider=config.provider,
            )
        self.shape, address, version = endpoint(config.base_url, own.get("shape"))
        if config.api_key is not None and config.api_key.needs_scope:
            scope = own.get("scope") or SHAPES[self.shape].scope
            config = replace(config, api_key=config.api_key.for_scope(scope))
        super().__init__(config)
        self.base_url = address
        self.dialect_here = self._dialect(own.get("api_version") or version)
        if config.model:
            _check_deployment(config.model, "the model")
            if self.shape != "managed" and config.model != own.get("deployment", config.model):
                raise ConfigurationError(
                    f"azure: the model {config.model!r} and the option deployment {own['deployment']!r} both name the "
                    "deployment: give one of them.",
                    provider=config.provider,
                )

    def _dialect(self, version: str | None) -> Dialect:
        dialect = SHAPES[self.shape].dialect
        if version is not None:
            dialect = replace(dialect, query=(("api-version", version),))
        if self.shape == "managed" and "deployment" in self.own:
            dialect = replace(dialect, headers=((DEPLOYMENT_HEADER, self.own["deployment"]),))
        if self.config.api_key is not None and self.config.api_key.renewable:
            dialect = replace(dialect, key_headers=TOKEN_HEADERS)
        return dialect

    @property
    def speech(self) -> Dialect:
        """The dialect of the endpoint's shape."""
        return self.dialect_here

    @property
    def default_model(self) -> str | None:
        """The client's model, or the deployment of that name; none where the address stands for one deployment."""
        named = self.config.model or (self.own.get("deployment") if self.shape != "managed" else None)
        return named or (None if SHAPES[self.shape].one_model else self.info.default_model)

    @property
    def at_vendor(self) -> bool:
        """Whether Azure itself hosts the model: on managed compute it is the user's own, retired or not."""
        return self.shape != "managed" and super().at_vendor

    def model_id(self, name: str) -> str:
        """Return the deployment's name; a portable name stands for Azure's default, its model name.

        Raises:
            ConfigurationError: No deployment can have that name.
        """
        _check_deployment(name, "the model")
        return name if name == self.own.get("deployment") else catalogue.provider_id(name, "azure")

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return what is taken of pictures; how many in a message, the catalogue knows of Azure's own models."""
        named = request.model or self.default_model
        offer = catalogue.offer(named, "azure") if named and self.at_vendor and "model" not in request.extra else None
        if offer is None or offer.images is None:
            return self.info.images
        return replace(self.info.images, count=offer.images, source="Azure keeps only those of the last turn")

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call; an address that stands for one deployment needs no model."""
        named = request.model or self.default_model
        if self.shape == "classic":
            self._check_classic(named)
        if named is None:
            self.refuse_retired(None, request)
            yield from self.exchange(request, None, self.encode(request, None))
        else:
            yield from super().flow(request)

    def encode(self, request: ChatRequest, model: str | None) -> HttpRequest:
        """Return the HTTP request; fields of ``extra`` need a header on the older shapes, which refuse them else."""
        asked = super().encode(request, None if self.shape == "classic" else model)
        if not SHAPES[self.shape].extra_header:
            return asked
        way = self.own.get("extra_parameters") or ("pass-through" if request.extra else None)
        return replace(asked, headers={**asked.headers, EXTRA_HEADER: way}) if way else asked

    def refuse_retired(self, name: str | None, request: ChatRequest) -> None:
        """Raise a ModelRetiredError for a retired portable name, unless it was said to be a deployment's own."""
        own = name == self.own.get("deployment") or self.shape == "classic"  # there the address names the deployment
        super().refuse_retired(None if own else name, request)

    def advice(self, status: int, model: str | None) -> str:
        """Return the v1 address, where a ``/models`` address is not there any more."""
        offer = catalogue.offer(model, self.info.name) if model else None
        gone = offer is not None and offer.status == "retired"  # then it is the model, not the address
        v1 = v1_address(self.base_url) if self.shape == "models" and status in (404, 410) and not gone else None
        return (
            f"The /models API was retired by Azure in August 2026: the same deployments are at {v1} (base_url=)."
            if v1
            else ""
        )

    def _check_classic(self, named: str | None) -> None:
        """Raise a ConfigurationError for a model that the address does not stand for: it would be asked silently."""
        deployment = self.base_url.rpartition("/")[2]
        if named is not None and deployment not in (named, self.model_id(named)):
            raise ConfigurationError(
                f"This address stands for the deployment {deployment!r}, not for {named!r}. Leave the model out, or "
                f"use the v1 address: {v1_address(self.base_url) or 'https://RESOURCE.openai.azure.com/openai/v1'}",
                provider=self.name,
            )


def _own_options(config: DriverConfig, known: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    own = checked_options(config, known)
    for name, legal in (("shape", tuple(SHAPES)), ("extra_parameters", EXTRA_WAYS)):
        if name in own and own[name] not in legal:
            raise ConfigurationError(
                f"azure: the option {name} is one of {', '.join(legal)}, not {own[name]!r}.", provider=config.provider
            )
    if "deployment" in own:
        _check_deployment(own["deployment"], "the option deployment")
    return own


def _check_deployment(name: str, what: str) -> None:
    """Raise a ConfigurationError for a name that no deployment and no model can have."""
    if _DEPLOYMENT.fullmatch(name) or ("/" in name and not any(map(str.isspace, name))):
        return  # with a publisher before it, it is a model's name elsewhere: the catalogue may know it
    raise ConfigurationError(
        f"{what} {name!r} cannot be the name of a deployment, which has letters, digits, '-', '_' and '.' only: look "
        "yours up in the Foundry portal.",
        provider="azure",
    )
