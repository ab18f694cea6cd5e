"""`nvidia` (alias `nim`): NVIDIA NIM, hosted at integrate.api.nvidia.com or in a container of your own, without key."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from slmclient import catalogue
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.hosts import matches

_GRANTED = "Being listed is not being granted: choose another model, or run the NIM container yourself (base_url=)."

PATTERNS = (
    # NemoClaw#11902: {"status":410,"detail":"The model 'X' has reached its end of life on <ISO time> and …"}
    FaultPattern(410, r"end of life", "ModelRetiredError"),
    # Listed in /v1/models, but not for this account: {"detail":"Function '<uuid>': Not found for account '<id>'"}
    FaultPattern(404, r"Function .*not found for account", "ModelNotFoundError", _GRANTED),
    FaultPattern(404, r"model .*(not found|does not exist)", "ModelNotFoundError", "Check the model's name."),
    FaultPattern(400, r"maximum context length", "ContextLengthExceededError", "Shorten the prompt."),  # vLLM inside
)


class NvidiaDriver(HttpDriver):
    """NVIDIA NIM. A self-hosted container needs no key, and no model: it serves one."""

    dialect = Dialect(
        patterns=PATTERNS,
        redactions=(r"(?<=account ')[^']+",),
        # vLLM inside: https://docs.vllm.ai, "extra parameters"; NIM 1.x takes them at the same place for most models.
        unsupported=frozenset(),
    )
    info: ClassVar[DriverInfo] = DriverInfo(
        name="nvidia",
        title="NVIDIA NIM",
        docs="providers.md#nvidia",
        features=frozenset({Feature.IMAGES, Feature.TOOLS, Feature.RESPONSE_FORMAT}),
        state="hosted Phi may be withdrawn at any time; self-hosted is dependable",
        hosted=True,
        default_base_url="https://integrate.api.nvidia.com/v1",
        key_variables=("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
        url_variables=("NVIDIA_BASE_URL", "NVIDIA_NIM_API_BASE"),
        vendor_hosts=("integrate.api.nvidia.com", "ai.api.nvidia.com"),
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        parts = urlsplit(self.base_url)
        self.vendor_hosted = matches(parts.hostname or "", self.info.vendor_hosts)
        if not parts.path:
            self.base_url += "/v1"

    @property
    def default_model(self) -> str | None:
        """The hosted default; a container of one's own is asked what it serves."""
        return self.config.model or ("phi-4-mini" if self.vendor_hosted else None)

    def model_id(self, name: str) -> str:
        """Return NVIDIA's id of a portable name; a container may have renamed its model and gets names as written."""
        return catalogue.provider_id(name, "nvidia") if self.vendor_hosted else name
