"""`echo`: a whole driver in one file. It answers with the words of the question; no model, no network.

    pip install ./examples/plugin
    SLM_PROVIDER=echo slm ask "Is anybody there?"

Installing it is enough: slmclient finds it by the entry point in pyproject.toml.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import ClassVar

from slmclient.chat import ChatRequest, Event, Finish, Start, TextDelta, Usage
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo, checked_options
from slmclient.errors import APITimeoutError, ConfigurationError, ModelNotFoundError

MODEL = "echo-1"


class EchoDriver(Driver):
    """Answers with the last message, word by word. The option ``pause`` is how long a word takes, in seconds."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="echo",
        title="Echo",
        docs="the file itself",
        knobs=frozenset({"max_tokens"}),  # the only sampling option it can keep: the others are reported as dropped
        default_model=MODEL,
        state="an example",
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        self._pause = float(checked_options(self.config, {"pause": (int, float)}).get("pause", 0))
        self._closed = False

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events: Start, the words, Finish, Usage."""
        if self._closed:
            raise ConfigurationError("This client is closed. Make a new one.", provider=self.name)
        model = request.model or self.default_model
        if model != MODEL:
            raise ModelNotFoundError(f"echo has one model, {MODEL}, not {model!r}.", provider=self.name, model=model)
        words = re.findall(r"\s*\S+", request.messages[-1].text)
        most = request.sampling.get("max_tokens", len(words))
        yield Start(self.name, MODEL)
        for word in words[:most]:
            request.cancellation.sleep(min(self._pause, max(0, request.remaining())))
            if request.cancellation.cancelled:
                yield Finish("cancelled")
                return
            if request.remaining() <= 0:
                raise APITimeoutError("echo had not answered by the deadline. Raise deadline=.", provider=self.name)
            yield TextDelta(word)
        yield Finish("length" if most < len(words) else "stop")
        read = sum(len(message.text.split()) for message in request.messages)
        yield Usage(input_tokens=read, output_tokens=min(most, len(words)))

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True
