"""Several answers at the same time: OpenVINO's continuous batching, stepped by whoever waits for a token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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

    def run(self, inputs: Any, config: Any, answer: Answer, images: Sequence[Any] = ()) -> int:
        """Give an answer its tokens; leave when it wants no more.

        Returns:
            How many tokens the prompt had, where there are images: else the caller knows.
        """
        more = {"images": list(images)} if images else {}
        with self._changed:
            while self._stepping:
                self._changed.wait()
            self._number += 1
            handle = self._pipe.add_request(self._number, inputs, generation_config=config, **more)
        going = True
        try:
            while going and (new := self._next(handle, answer)):
                going = all(answer.token(token) for token in new)
        finally:
            with self._changed:
                while self._stepping:
                    self._changed.wait()
                handle.cancel()
        return self._length(handle) if images and answer.wanted else 0

    def _next(self, handle: Any, answer: Answer) -> list[int]:
        """Return the next tokens; none at the end, or when nobody wants them."""
        while answer.wanted:
            with self._changed:
                if handle.can_read():
                    return [token for output in handle.read().values() for token in output.generated_ids]
                if handle.get_status() != self._running:
                    return []
                mine = self._claimed()
            if mine:
                self._step()
        return []

    def _length(self, handle: Any) -> int:
        """Return how many tokens a prompt had. What was left before its end tells so after one step more."""
        while True:
            with self._changed:
                try:
                    return int(handle.get_perf_metrics().get_num_input_tokens())
                except RuntimeError:
                    if not self._stepping and not self._pipe.has_non_finished_requests():
                        return 0
                mine = self._claimed()
            if mine:
                self._step()

    def _claimed(self) -> bool:
        """Return whether the next step is this thread's; if another is at one, wait for that."""
        if self._stepping:
            self._changed.wait(_LOOK)
            return False
        self._stepping = True
        return True

    def _step(self) -> None:
        try:
            self._pipe.step()
        finally:
            with self._changed:
                self._stepping = False
                self._changed.notify_all()
