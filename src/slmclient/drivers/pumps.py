"""What drives a driver's flows, made when it is needed: importing the HTTP library costs more than all of ours."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from slmclient.drivers.pump import AsyncPump, SyncPump
    from slmclient.drivers.transport import Route


class Pumps:
    """The pump for threads, and one for each asyncio loop.

    Args:
        name: The provider, for errors.
        route: Returns how requests go out.
        keep: Whether connections are kept for other calls; else there is nothing to close.
    """

    def __init__(self, name: str, route: Callable[[], Route], *, keep: bool = True) -> None:
        self._name, self._route, self._keep = name, route, keep
        self._sync: SyncPump | None = None
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPump] = weakref.WeakKeyDictionary()

    def sync(self) -> SyncPump:
        """Return the pump for threads."""
        if self._sync is None:
            from slmclient.drivers.pump import SyncPump

            self._sync = SyncPump(self._name, self._route(), keep=self._keep)
        return self._sync

    def asynchronous(self) -> AsyncPump:
        """Return the pump of the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        pump = self._async.get(loop)
        if pump is None:
            from slmclient.drivers.pump import AsyncPump

            pump = self._async[loop] = AsyncPump(self._name, self._route(), keep=self._keep)
        return pump

    def close(self) -> None:
        """Close idle connections of threads, and those in use when their calls end."""
        if self._sync is not None:
            self._sync.close()

    async def aclose(self) -> None:
        """`close`, and those of the running loop."""
        import asyncio

        self.close()
        pump = self._async.pop(asyncio.get_running_loop(), None)
        if pump is not None:
            await pump.aclose()
