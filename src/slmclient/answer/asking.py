"""One answer out of several requests, written once for threads and for asyncio.

A generator (`Asking`) yields what is to be asked and receives the reply, or the error; what it returns is the reply
that counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import cast

from slmclient.chat import ChatRequest, Note
from slmclient.errors import SLMError
from slmclient.reply import Reply

Asked = tuple[ChatRequest, Sequence[Note]]
Asking = Generator[Asked, Reply, Reply]


def run(asking: Asking, ask: Callable[[ChatRequest, Sequence[Note]], Reply]) -> Reply:
    """Return the reply that counts; ``ask`` makes one request and returns its reply."""
    try:
        todo = next(asking)
        while True:
            try:
                reply = ask(*todo)
            except SLMError as error:
                todo = asking.throw(error)
            else:
                todo = asking.send(reply)
    except StopIteration as end:
        return cast(Reply, end.value)


async def arun(asking: Asking, ask: Callable[[ChatRequest, Sequence[Note]], Awaitable[Reply]]) -> Reply:
    """`run`, for asyncio."""
    try:
        todo = next(asking)
        while True:
            try:
                reply = await ask(*todo)
            except SLMError as error:
                todo = asking.throw(error)
            else:
                todo = asking.send(reply)
    except StopIteration as end:
        return cast(Reply, end.value)
