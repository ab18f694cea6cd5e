"""`github`: GitHub Models. The hosted service was switched off on 2026-07-30; the wire lives on at other hosts.

Two eras of it: ``models.github.ai`` (2025 to 2026: ids with a publisher, routes below ``/inference``, or below
``/orgs/ORG/inference`` to bill an organization) and ``models.inference.ai.azure.com`` before (bare ids, routes at the
root; the option ``legacy``).

Sources: GitHub's changelog of 2025-07-17 and 2026-07-30, its REST reference of 2022-11-28, github/gh-models (2025-08).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature, RateLimit
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.steps import Listing
from slmclient.drivers.wire import faults
from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.errors import ConfigurationError

_REST = "GitHub's REST reference and model docs, 2026"
TIERS: Mapping[tuple[str, str], RateLimit] = {
    # (tier, plan): requests a minute, a day, at once; tokens in, out
    (tier, plan): RateLimit(*numbers, source=_REST)
    for tier, rows in {
        "low": {
            "free": (15, 150, 5, 8000, 4000),
            "pro": (15, 150, 5, 8000, 4000),
            "business": (15, 300, 5, 8000, 4000),
            "enterprise": (20, 450, 8, 8000, 8000),
        },
        "high": {
            "free": (10, 50, 2, 8000, 4000),
            "pro": (10, 50, 2, 8000, 4000),
            "business": (10, 100, 2, 8000, 4000),
            "enterprise": (15, 150, 4, 16000, 8000),
        },
    }.items()
    for plan, numbers in rows.items()
}
"""What the hosted service let one account do, by the model's tier and the account's plan."""

_PLANS = ("free", "pro", "business", "enterprise")
_ORGANIZATION = re.compile(r"[A-Za-z0-9-]{1,100}")


class GitHubDriver(HttpDriver):
    """GitHub Models, where something still speaks its wire: a gateway, a proxy, a recording."""

    options = {"organization": str, "api_version": str, "legacy": bool, "plan": str}
    dialect = Dialect(
        headers=(("X-GitHub-Api-Version", "2022-11-28"),),
        key_headers=(("Authorization", "Bearer {key}"),),
        unsupported=frozenset({"top_k", "repetition_penalty", "reasoning"}),  # unknown fields were a 400 or a 422
        patterns=(
            # The vLLM behind it had no tool parser: litellm#9740
            FaultPattern(
                400, r"--tool-call-parser", "UnsupportedFeatureError", "This model takes no tools at that server."
            ),
            FaultPattern(
                400,
                r"'max_tokens' is not supported",  # the reasoning models of OpenAI that it had
                "UnsupportedParameterError",
                'Pass extra={"max_completion_tokens": …} instead of max_tokens=.',
            ),
            FaultPattern(400, r"maximum context length", "ContextLengthExceededError", "Shorten the prompt."),
        ),
    )
    info: ClassVar[DriverInfo] = DriverInfo(
        name="github",
        title="GitHub Models",
        docs="providers/github.md",
        features=frozenset(
            {Feature.IMAGES, Feature.AUDIO, Feature.TOOLS, Feature.TOOL_CHOICE, Feature.RESPONSE_FORMAT}
        ),
        default_model="phi-4-mini",
        state="hosted service retired 2026-07-30; works with a base_url",
        hosted=True,
        key_variables=("GITHUB_TOKEN",),
        vendor_hosts=("models.github.ai", "models.inference.ai.azure.com"),
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        organization, plan = self.own.get("organization"), self.own.get("plan")
        if organization is not None and not _ORGANIZATION.fullmatch(organization):
            raise ConfigurationError(
                f"github: the option organization is the organization's login, not {organization!r}.",
                provider=self.name,
            )
        if plan is not None and plan not in _PLANS:
            raise ConfigurationError(
                f"github: the option plan is one of {', '.join(_PLANS)}, not {plan!r}.", provider=self.name
            )
        if self.own.get("legacy") and organization:
            raise ConfigurationError(
                "github: the older wire (legacy) knows no organizations: give one of the two options.",
                provider=self.name,
            )
        if "api_version" in self.own:
            self.query = (*self.query, ("api-version", self.own["api_version"]))
        self.base_url = self._routes()

    def _routes(self) -> str:
        """Return what the routes are appended to: a bare host is completed, an organization goes before /inference."""
        path = urlsplit(self.base_url).path
        if self.own.get("legacy") or not self.base_url:
            return self.base_url
        before, inference = (path.removesuffix("/inference"), True) if path.endswith("/inference") else (path, not path)
        organization = self.own.get("organization")
        if not inference:
            if organization:
                raise ConfigurationError(
                    f"github: an organization goes before /inference, and base_url ends in {path!r}: give the whole "
                    "address, or one that ends in /inference.",
                    provider=self.name,
                )
            return self.base_url
        if organization and not before.endswith(f"/orgs/{organization}"):
            before += f"/orgs/{organization}"
        return urlunsplit(urlsplit(self.base_url)._replace(path=f"{before}/inference"))

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the hosted service allowed a plan that is named: Phi was believed to be of the low tier."""
        return TIERS["low", self.own["plan"]] if "plan" in self.own else None

    def model_id(self, name: str) -> str:
        """Return the id that GitHub Models used, in the era that is spoken."""
        return catalogue.legacy_id(name) if self.own.get("legacy") else catalogue.provider_id(name, "github")

    def refuse_retired(self, name: str | None, request: ChatRequest) -> None:
        """Raise a ProviderRetiredError where no address of one's own is given: then there is nowhere to go."""
        service = catalogue.provider(self.info.name)
        if service is not None and (not self.base_url or self.at_vendor):
            raise faults.service_retired(self.name, service, name, urlsplit(self.base_url).hostname or "")

    def listing(self, request: ChatRequest) -> Listing:
        """Yield the commands that ask for the catalogue: ``/catalog/models`` of the host, ``/models`` of old."""
        self.refuse_retired(None, request)
        if self.own.get("legacy"):
            return (yield from super().listing(request))
        root = self.base_url.removesuffix("/inference").rpartition("/orgs/")
        return (yield from self.listed_at(request, f"{root[0] or root[2]}/catalog/models"))
