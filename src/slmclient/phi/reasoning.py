"""Telling what a model thought from what it answered, while the answer comes in. Pure."""

from __future__ import annotations

from collections.abc import Iterator

TAGS = ("<think>", "</think>")
"""Around the thoughts of Phi's reasoning models, and of most others."""


class ReasoningSplitter:
    """Splits an answer that begins (after white space) with thoughts between two tags.

    Text that does not begin with the tag passes through at once. What may still become a tag is held back until that
    is sure. White space before the opening tag and behind the closing one is dropped. Thoughts without a closing tag
    are thoughts to the end.

    Args:
        tags: The opening and the closing one.
        inside: Whether the prompt already ended with the opening tag. (Should the model write it again, it is dropped.)
    """

    def __init__(self, tags: tuple[str, str] = TAGS, *, inside: bool = False) -> None:
        self._open, self._close = tags
        self._inside = inside
        self._held = ""
        self._part = "start"  # then "thoughts", "gap" and "answer"

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Return what is sure by now, in order: whether it is reasoning, and the text, which is never empty."""
        self._held += text
        return [(thought, sure) for thought, sure in self._sure(last=False) if sure]

    def end(self) -> list[tuple[bool, str]]:
        """Return what was held back: the answer is over."""
        return [(thought, sure) for thought, sure in self._sure(last=True) if sure]

    def _sure(self, *, last: bool) -> Iterator[tuple[bool, str]]:
        if self._part == "start":
            self._start(last)
        if self._part == "thoughts":
            thoughts, closed, rest = self._held.partition(self._close)
            if closed:
                yield True, thoughts
                self._held, self._part = rest, "gap"
            else:
                yield True, self._take(len(self._held) - (0 if last else begun(self._held, self._close)))
        if self._part == "gap":
            self._held = self._held.lstrip()
            if self._held:
                self._part = "answer"
        if self._part == "answer":
            yield False, self._take(len(self._held))

    def _start(self, last: bool) -> None:
        """Look for the opening tag."""
        begun = self._held.lstrip()
        if begun.startswith(self._open):
            self._held, self._part = begun[len(self._open) :], "thoughts"
        elif last or not self._open.startswith(begun):
            self._part = "thoughts" if self._inside else "answer"

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def begun(text: str, tag: str) -> int:
    """Return how many characters at the text's end may be the beginning of the tag."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)
