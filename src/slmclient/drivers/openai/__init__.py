"""`openai`: any OpenAI-compatible endpoint: llama-server, vLLM, LM Studio, Foundry Local, a gateway, OpenAI itself."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.wire.dialect import Dialect, FaultPattern

VENDOR_HOSTS = ("api.openai.com",)
_UNREADABLE = "The server cannot read what the model writes as calls of tools: let tools be described in the prompt."

COMPATIBLE = Dialect(
    unsupported=frozenset(),
    # vLLM reads repetition_penalty, llama-server repeat_penalty; each ignores the other's.
    spelling={"repetition_penalty": ("repetition_penalty", "repeat_penalty")},
    counting=("input_tokens", "tokenize", "apply_template"),
    patterns=(
        # vLLM and SGLang say it in prose only: "This model's maximum context length is 4096 tokens. However, you …",
        # "However, the model's context length is only …", "The input (… tokens) is longer than the model's context …"
        FaultPattern(
            400,
            r"(maximum|model's) context length",
            "ContextLengthExceededError",
            "Shorten the prompt, or lower max_tokens.",
        ),
        FaultPattern(
            400,
            r"--tool-call-parser",  # vLLM without a tool parser: vllm#14359, PhiCookBook#289
            "UnsupportedFeatureError",
            "This server takes no tools: start vLLM with --enable-auto-tool-choice and a --tool-call-parser.",
        ),
        # llama-server (tools/server, 2025): "tools param requires --jinja flag", code 500; later ones have it on
        FaultPattern(500, r"tools param requires", "UnsupportedFeatureError", "Start llama-server with --jinja."),
        FaultPattern(500, r"Unsupported param: tool", "UnsupportedFeatureError", "Start llama-server with --jinja."),
        # llama-server (seen with that of 2026-10): what the model wrote as a call is none. It would not pass by trying
        # again; before any text it comes as a frame of the stream.
        *(
            FaultPattern(status, r"does not match the expected \S+ format", "BadRequestError", _UNREADABLE)
            for status in (200, 500)
        ),
        # OpenRouter: "No endpoints found that support tool use."
        FaultPattern(404, r"support tool use", "UnsupportedFeatureError", "Choose a model whose providers take tools."),
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
        features=frozenset(
            {Feature.IMAGES, Feature.AUDIO, Feature.TOOLS, Feature.TOOL_CHOICE, Feature.RESPONSE_FORMAT}
        ),
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
