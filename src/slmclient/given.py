"""What a client's constructor was given by keyword."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slmclient.drivers.secret import Secret

if TYPE_CHECKING:
    import ssl

    from slmclient.drivers.base import Driver


@dataclass(frozen=True, slots=True)
class Given:
    """What the constructor was given by keyword; None is "not given". Keys and headers are secrets already."""

    provider: str | None = None
    model: str | None = None
    api_key: Secret | None = None
    base_url: str | None = None
    timeout: float | None = None
    deadline: float | None = None
    max_retries: int | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    proxy: Secret | None = None
    verify: bool | str | ssl.SSLContext | None = None
    env_file: str | os.PathLike[str] | bool | None = None
    strict: bool = False
    insecure_http: bool = False
    options: Mapping[str, Any] | None = None
    rate_limit: str | None = None
    fallbacks: Sequence[str | Given | Driver] | None = None
