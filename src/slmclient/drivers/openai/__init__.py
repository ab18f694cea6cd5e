"""`openai`: any OpenAI-compatible endpoint: llama-server, vLLM, LM Studio, Foundry Local, a gateway, OpenAI itself."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.wire.dialect import Dialect, FaultPattern

VENDOR_HOSTS = ("api.openai.com",)

COMPATIBLE = Dialect(
    unsupported=frozenset(),
    # vLLM reads repetition_penalty, llama-server repeat_penalty; each ignores the other's.
    spelling={"repetition_penalty": ("repetition_penalty", "repeat_penalty")},
    patterns=(
        # vLLM says it in prose only: "This model's maximum context length is 4096 tokens. However, you requested …"
        FaultPattern(400, r"maximum context length", "ContextLengthExceededError", "Shorten the prompt."),
        FaultPattern(
            400,
            r"enable-auto-tool-choice",  # vLLM without a tool parser
            "UnsupportedFeatureError",
            "This server takes no tools: start vLLM with --enable-auto-tool-choice and a --tool-call-parser.",
        ),
    ),
)
OPENAI = Dialect(
    # OpenAI's reasoning models refuse max_tokens (unsupported_parameter); all its chat models take the newer name.
    spelling={"max_tokens": ("max_completion_tokens",)},
)


class OpenAIDriver(HttpDriver):
    """Any OpenAI-compatible endpoint. Without a model it uses the first one that the server lists."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="openai",
        title="Any OpenAI-compatible server",
        docs="providers/openai.md",
        features=frozenset({Feature.IMAGES, Feature.AUDIO, Feature.TOOLS, Feature.RESPONSE_FORMAT}),
        hosted=True,
        default_base_url="https://api.openai.com/v1",
        key_variables=("OPENAI_API_KEY",),
        url_variables=("OPENAI_BASE_URL",),
        vendor_hosts=VENDOR_HOSTS,
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        parts = urlsplit(self.base_url)
        self.dialect_here = OPENAI if parts.hostname in VENDOR_HOSTS else COMPATIBLE
        if not parts.path:  # http://localhost:8000 is what people write; the API is under /v1 on every such server
            self.base_url += "/v1"

    @property
    def speech(self) -> Dialect:
        """OpenAI's own host takes less, and spells one option differently."""
        return self.dialect_here
