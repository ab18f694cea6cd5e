"""Takes an answer's tokens out of OpenVINO GenAI while it generates."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from slmclient.drivers.engine.answering import Answer


@cache
def streamer_class(genai: Any) -> Any:
    """Return the class of what the engine gives its tokens to; its base is the engine's own."""
    status, base = genai.StreamingStatus, cast("type[object]", genai.StreamerBase)

    class Streamer(base):  # type: ignore[misc,valid-type]  # known only once the engine is imported
        def __init__(self, answer: Answer) -> None:
            super().__init__()
            self.ids: list[int] = []
            """What the answer took."""
            self.failure: BaseException | None = None
            self._answer = answer
            self._going = True

        def write(self, token: int | list[int]) -> Any:
            """Take one token or several. An exception that left this would end the process."""
            try:
                for each in [token] if isinstance(token, int) else token:
                    if self._going:
                        self.ids.append(each)
                        self._going = self._answer.token(each)
            except BaseException as error:
                self.failure, self._going = error, False
            return status.RUNNING if self._going else status.STOP

        def end(self) -> None:
            """Nothing is left to do."""

    return Streamer
