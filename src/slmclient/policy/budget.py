"""The retry budget: what keeps a dead server from being asked two and three times by every call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

_MOST_KEPT = 1000


class RetryBudget:
    """How many retries an account may still make: a reserve, which calls fill up again, each by a share of a retry.

    Finagle and gRPC have the same: while few calls fail it never runs out, and when all of them do, retries add no more
    than the share to what the server gets.
    """

    def __init__(self, reserve: float) -> None:
        self._lock = threading.RLock()  # the collector may end a forgotten call, which gives back, in the midst of it
        self._left = reserve

    def called(self, reserve: float, share: float) -> None:
        """Count a call."""
        with self._lock:
            full = max(reserve, 1.0)
            if self._left < full:  # another client may have begun it with more
                self._left = min(self._left + share, full)

    def spend(self) -> bool:
        """Count a retry; return whether it may be made."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def give_back(self) -> None:
        """Count a retry no longer: the call was cancelled while it waited for it."""
        with self._lock:
            self._left += 1.0


_lock = threading.Lock()
_kept: OrderedDict[Hashable, RetryBudget] = OrderedDict()


def budget_of(account: Hashable | None, reserve: float) -> RetryBudget:
    """Return the budget that all clients of the process share for an account; one of its own for none.

    Args:
        account: Provider, address and key, as `slmclient.policy.account.account` tells them apart.
        reserve: Retries that a new budget begins with.
    """
    if account is None:
        return RetryBudget(reserve)
    with _lock:
        budget = _kept.setdefault(account, RetryBudget(reserve))
        _kept.move_to_end(account)
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return budget
