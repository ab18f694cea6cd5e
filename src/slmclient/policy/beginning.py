"""The beginning of an answer: as far as a call can still be tried again, or be answered by somebody else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import aclosing, closing

from slmclient.chat import Event, Note, Start, answers


def begun(events: Generator[Event, None, None]) -> list[Event]:
    """Return the events up to the first that is part of an answer; if there is an error, the generator is closed."""
    first: list[Event] = []
    try:
        for event in events:
            first.append(event)
            if answers(event):
                break
    except BaseException:
        events.close()
        raise
    return first


async def abegun(events: AsyncGenerator[Event, None]) -> list[Event]:
    """`begun`, for asyncio."""
    first: list[Event] = []
    try:
        async for event in events:
            first.append(event)
            if answers(event):
                break
    except BaseException:
        await events.aclose()
        raise
    return first


def with_notes(first: list[Event], notes: Iterable[Note]) -> list[Event]:
    """Return the events with notes behind Start."""
    split = 1 if first and isinstance(first[0], Start) else 0
    return [*first[:split], *notes, *first[split:]]


def noted(events: Generator[Event, None, None], notes: Iterable[Note]) -> Generator[Event, None, None]:
    """Yield events with notes behind Start; ending it ends them."""
    with closing(events):
        for event in events:
            yield event
            if isinstance(event, Start):
                yield from notes


async def anoted(events: AsyncGenerator[Event, None], notes: Iterable[Note]) -> AsyncGenerator[Event, None]:
    """`noted`, for asyncio."""
    async with aclosing(events):
        async for event in events:
            yield event
            if isinstance(event, Start):
                for note in notes:
                    yield note
