"""Which account at which server a driver uses: what limits and budgets are kept for."""

from __future__ import annotations

from collections.abc import Hashable

from slmclient.drivers.base import Driver
from slmclient.policy.wrapper import innermost


def account(driver: Driver) -> Hashable | None:
    """Return what tells one account at one server from others, without a key as text; None without an address.

    Args:
        driver: The driver, bare or in its policies.
    """
    driver = innermost(driver)
    config = driver.config
    if not (driver.info.hosted and config.base_url):
        return None
    secrets = [] if config.api_key is None else [("", config.api_key.identity())]
    secrets += [(name.lower(), secret.identity()) for name, secret in config.headers.items()]
    return config.provider, config.base_url.rstrip("/"), frozenset(secrets)
