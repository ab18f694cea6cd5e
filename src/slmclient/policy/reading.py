"""An answer's events, read: one reader after the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slmclient.chat import Event, Finish, TextDelta, ToolCallDelta


class Reader(Protocol):
    """Takes events one by one, and gives out what they say."""

    @property
    def passing(self) -> bool:
        """Whether it changes and holds back nothing any more."""
        ...

    def feed(self, event: Event) -> list[Event]:
        """Return what is sure by now. A Finish is the end: it comes behind what was held back."""
        ...


class Reading:
    """What readers in a row make of an answer.

    Args:
        readers: The first gets the driver's events, each of the others what the one before gives out.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)

    @property
    def passing(self) -> bool:
        """Whether events come out as they go in."""
        return all(reader.passing for reader in self._readers)

    def feed(self, event: Event) -> list[Event]:
        """Return what is sure by now."""
        events = [event]
        for reader in self._readers:
            if not reader.passing:
                events = [each for fed in events for each in reader.feed(fed)]
        return events

    def rest(self) -> list[Event]:
        """Return what was held back, of an answer that broke off."""
        return [event for event in self.feed(Finish("error")) if not isinstance(event, Finish)]


class AnswerToolReader:
    """Makes the text of an answer out of the arguments of the tool that it was asked to be given to."""

    passing = False

    def feed(self, event: Event) -> list[Event]:
        """Return the event, or what it says as text."""
        if isinstance(event, ToolCallDelta):
            return [TextDelta(event.arguments)] if event.arguments else []
        if isinstance(event, Finish) and event.reason == "tool_calls":
            return [Finish("stop", event.raw)]
        return [event]
