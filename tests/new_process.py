"""What a process keeps in mind of servers, forgotten: a port of a server that is gone may be the next server's."""

from __future__ import annotations

from slmclient.policy import budget, limiter, retired


def forget_servers() -> None:
    """Know no pause that a server asked for, no retries that were made, and none that is retired."""
    limiter._limiters.clear()
    limiter._kept.clear()
    budget._kept.clear()
    retired._retired.clear()
