"""Several answers at the same time: OpenVINO's continuous batching, stepped by whoever waits for a token."""

from __future__ import annotations

import threading
from typing import Any

from slmclient.drivers.engine.answering import Answer

_LOOK = 0.2  # seconds between two looks at whether an answer is still wanted, while another thread steps


class Batch:
    """Runs answers side by side.

    There is no thread of its own: of the threads that wait for a token one steps the pipeline, for all of them.
    """

    def __init__(self, genai: Any, pipe: Any) -> None:
        self._running = genai.GenerationStatus.RUNNING
        self._pipe = pipe
        self._changed = threading.Condition()
        self._stepping = False
        self._number = 0

    def run(self, inputs: Any, config: Any, answer: Answer) -> None:
        """Give an answer its tokens; leave when it wants no more."""
        with self._changed:
            while self._stepping:
                self._changed.wait()
            self._number += 1
            handle = self._pipe.add_request(self._number, inputs, config)
        going = True
        try:
            while going and (new := self._next(handle, answer)):
                going = all(answer.token(token) for token in new)
        finally:
            with self._changed:
                while self._stepping:
                    self._changed.wait()
                handle.cancel()

    def _next(self, handle: Any, answer: Answer) -> list[int]:
        """Return the next tokens; none at the end, or when nobody wants them."""
        while answer.wanted:
            with self._changed:
                if handle.can_read():
                    return [token for output in handle.read().values() for token in output.generated_ids]
                if handle.get_status() != self._running:
                    return []
                if self._stepping:
                    self._changed.wait(_LOOK)
                    continue
                self._stepping = True
            try:
                self._pipe.step()
            finally:
                with self._changed:
                    self._stepping = False
                    self._changed.notify_all()
        return []
