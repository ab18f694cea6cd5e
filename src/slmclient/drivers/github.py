"""`github`: GitHub Models. The hosted service was switched off on 2026-07-30; the wire lives on at other hosts.

Source: GitHub's changelog of 2026-07-30; every route answers 410 with the code ``github_models_retirement_brownout``.
"""

from __future__ import annotations

from datetime import date
from typing import ClassVar
from urllib.parse import urlsplit

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverInfo, Feature
from slmclient.drivers.http import HttpDriver, Steps
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import ProviderRetiredError

RETIRED_ON = date(2026, 7, 30)


class GitHubDriver(HttpDriver):
    """GitHub Models, where something still speaks its wire: a gateway, a proxy, a recording."""

    dialect = Dialect(
        headers=(("X-GitHub-Api-Version", "2022-11-28"),),
        key_headers=(("Authorization", "Bearer {key}"),),
    )
    info: ClassVar[DriverInfo] = DriverInfo(
        name="github",
        title="GitHub Models",
        docs="providers.md#github",
        features=frozenset({Feature.IMAGES, Feature.TOOLS, Feature.RESPONSE_FORMAT}),
        default_model="phi-4-mini",
        state="hosted service retired 2026-07-30; works with a base_url",
        hosted=True,
        key_variables=("GITHUB_TOKEN",),
        vendor_hosts=("models.github.ai", "models.inference.ai.azure.com"),
    )

    def url(self, path: str) -> str:
        """Return the URL; the API of a bare host is under /inference."""
        bare = not urlsplit(self.base_url).path
        return super().url(f"/inference{path}" if bare else path)

    def model_id(self, name: str) -> str:
        """Return the id that GitHub Models used."""
        return catalogue.provider_id(name, "github")

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call; without a base_url there is nowhere to go."""
        if not self.base_url:
            raise ProviderRetiredError(
                f"GitHub Models was switched off on {RETIRED_ON}. Set SLM_PROVIDER to another provider, such as local "
                "(no key) or azure; or set base_url to a server that still speaks its API.",
                provider=self.name,
                retired_on=RETIRED_ON,
                replacement="Azure AI Foundry",
            )
        yield from super().flow(request)
