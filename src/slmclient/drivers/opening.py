"""How a key is opened on its way out: within the call's time, for a token provider may hang."""

from __future__ import annotations

from slmclient.chat import ChatRequest
from slmclient.drivers.apart import Apart
from slmclient.drivers.secret import Secret

_LONGEST_WAIT = 2_000_000.0  # seconds; what waits here waits in milliseconds of 31 bits


def opened(secret: Secret, request: ChatRequest) -> str:
    """Return the key of a token provider, asked apart: nobody waits beyond the call's own end."""
    apart = Apart(secret.open)
    forget = request.cancellation.on_cancel(apart.leave)
    try:
        return apart.result(max(0.0, min(request.remaining(), _LONGEST_WAIT)))
    finally:
        forget()


async def aopened(secret: Secret, request: ChatRequest) -> str:
    """`opened`, for asyncio."""
    import asyncio

    loop = asyncio.get_running_loop()
    opening = asyncio.ensure_future(secret.aopen())

    def end() -> None:
        loop.call_soon_threadsafe(opening.cancel)

    forget = request.cancellation.on_cancel(end)
    try:
        await asyncio.wait([opening], timeout=max(0.0, min(request.remaining(), _LONGEST_WAIT)))
    finally:
        forget()
        opening.cancel()
    if opening.done() and not opening.cancelled():
        return opening.result()
    raise TimeoutError
