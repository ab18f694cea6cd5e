"""What drives a driver's flows, made when it is needed: importing the HTTP library costs more than all of ours."""

from __future__ import annotations

import threading
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
        self._lock = threading.RLock()  # of two first calls at once, one makes the pump
        self._sync: SyncPump | None = None
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPump] = weakref.WeakKeyDictionary()

    def sync(self) -> SyncPump:
        """Return the pump for threads."""
        with self._lock:
            if self._sync is None:
                from slmclient.drivers.pump import SyncPump

                self._sync = SyncPump(self._name, self._route(), keep=self._keep)
            return self._sync

    def asynchronous(self) -> AsyncPump:
        """Return the pump of the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        with self._lock:
            pump = self._async.get(loop)
            if pump is None:
                from slmclient.drivers.pump import AsyncPump

                for ended in [each for each in self._async if each.is_closed()]:
                    del self._async[ended]  # its pump holds it
                pump = self._async[loop] = AsyncPump(self._name, self._route(), keep=self._keep)
            return pump

    def close(self) -> None:
        """Close idle connections of threads, and those in use when their calls end."""
        with self._lock:
            self._keep = False  # a call that is about to begin keeps nothing either
            pump = self._sync
        if pump is not None:
            pump.close()

    async def aclose(self) -> None:
        """`close`, and those of the running loop."""
        import asyncio

        self.close()
        with self._lock:
            pump = self._async.pop(asyncio.get_running_loop(), None)
        if pump is not None:
            await pump.aclose()
