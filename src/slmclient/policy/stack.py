"""How the policies stand around the drivers of a client, from the outside in.

Observing sees the call as the caller does. Fallback asks one candidate after the other; hedging is a matter of the
first. Around each driver: what it and its model have to be told otherwise; retries; and for each try the pictures made
to fit and a turn by the rate limit. A driver that was written elsewhere is made to keep deadlines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from slmclient.drivers.base import Driver
from slmclient.errors import SLMError
from slmclient.policy.adapting import AdaptingDriver
from slmclient.policy.fitting import FittingDriver
from slmclient.policy.limiting import limited
from slmclient.policy.observing import ObservingDriver, OnEvent
from slmclient.policy.retry import RetryDriver, RetryPolicy
from slmclient.policy.wrapper import Lent, innermost


@dataclass(frozen=True, slots=True)
class Leg:
    """A driver that a call may go to."""

    driver: Driver
    rate_limit: str | None = None
    owned: bool = True
    """Whether it is closed with the client."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What holds for all drivers of a client."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hedge_after: float | None = None
    fallback_on: Collection[type[SLMError]] = ()
    strict: bool = False
    allow_private_urls: bool = False
    on_event: OnEvent | None = None
    capture_content: bool = False


def stacked(legs: Sequence[Leg], policies: Policies) -> Driver:
    """Return the drivers in their policies.

    Args:
        legs: The drivers, in the order in which they are asked.
        policies: What is put around them.

    Raises:
        ConfigurationError: A rate limit is none.
    """
    patience = policies.retry.max_retry_wait if len(legs) > 1 else float("inf")  # beyond it the next is asked
    chains = [_chain(leg, policies, patience) for leg in legs]
    first = chains[0]
    if len(chains) == 1:
        return _observed(_hedged(first, first, policies) if first.info.hosted else first, policies)
    from slmclient.policy.candidate import Candidate  # these here and below: most clients do without
    from slmclient.policy.fallback import FallbackDriver

    candidates = [
        Candidate(chain, first if place else None, strict=policies.strict) for place, chain in enumerate(chains)
    ]
    asked = _hedged(candidates[0], candidates[1], policies)
    return _observed(FallbackDriver(candidates, first=asked, also_on=policies.fallback_on), policies)


def _chain(leg: Leg, policies: Policies, patience: float) -> Driver:
    driver = punctual(leg.driver)
    limiting = limited(
        driver if leg.owned else Lent(driver), leg.rate_limit, patience=patience, pause=policies.retry.max_retry_wait
    )
    fitting = FittingDriver(limiting, allow_private_urls=policies.allow_private_urls)
    return AdaptingDriver(RetryDriver(fitting, policies.retry), strict=policies.strict)


def punctual(driver: Driver) -> Driver:
    """Return the driver if its generator is one of ours, which keeps deadlines; else one that makes it keep them."""
    kind = type(innermost(driver))
    written = (kind.events, kind.aevents, kind.warm_up, kind.awarm_up)
    if all(method.__module__.startswith(f"{__name__.partition('.')[0]}.") for method in written):
        return driver
    from slmclient.policy.punctual import PunctualDriver

    return PunctualDriver(driver)


def _hedged(driver: Driver, second: Driver, policies: Policies) -> Driver:
    if policies.hedge_after is None:
        return driver
    from slmclient.policy.hedge import HedgeDriver

    return HedgeDriver(driver, second, after=policies.hedge_after, policy=policies.retry)


def _observed(driver: Driver, policies: Policies) -> Driver:
    return ObservingDriver(driver, policies.on_event, capture_content=policies.capture_content)
