"""`slm models`: the catalogue, as far as this version can reach it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from slmclient import catalogue
from slmclient.catalogue import Model, Offer
from slmclient.cli.terminal import console, is_terminal
from slmclient.drivers import registry
from slmclient.errors import ModelNotFoundError
from slmclient.request import unknown_name

_STYLES = {"active": "green", "deprecated": "yellow", "retired": "red", "unknown": "dim"}


def run(name: str | None, *, as_json: bool) -> None:
    """Print all models, or one of them."""
    if name is None:
        print(_json([_data(model) for model in catalogue.models()])) if as_json else _table()
        return
    model = catalogue.find(name)
    if model is None:
        known = [each.name for each in catalogue.models()]
        raise ModelNotFoundError(
            f"{unknown_name('model', name, known)} The catalogue is no gate: a provider may have more than it lists."
        )
    print(_json(_data(model))) if as_json else _one(model)


def _offers(model: Model) -> list[Offer]:
    """Return the offers of the providers that are in this version."""
    here = registry.names()
    return [offer for offer in model.offers if offer.provider in here]


def _data(model: Model) -> dict[str, Any]:
    return {**asdict(model), "offers": [asdict(offer) for offer in _offers(model)]}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str)


def _status(offer: Offer) -> str:
    return f"{offer.status} {offer.on}" if offer.on else offer.status


def _table() -> None:
    """Print the models: on a terminal each with its providers below it, else a line for each pair of the two."""
    from rich.text import Text

    shown, out = is_terminal(sys.stdout), console(error=False)
    for model in catalogue.models():
        facts = f"{model.name:<27}{model.parameters:<18}{_context(model):>5}"
        offers = _offers(model)
        if shown:
            out.print(Text(facts, style="bold"))
        for offer in offers:
            status = Text(f"{_status(offer):<20}", style=_STYLES[offer.status])
            out.print(Text.assemble("  " if shown else f"{facts}  ", f"{offer.provider:<10}", status, offer.id))
        if not offers:
            out.print(f"{'' if shown else facts}  no provider of this version", style="dim")


def _one(model: Model) -> None:
    from rich.text import Text

    out = console(error=False)
    shown = is_terminal(sys.stdout)
    tools = {True: "calls tools", False: "no tool calls", None: "tool calls: unknown"}[model.tools]
    out.print(Text.assemble((model.name, "bold"), f"  {model.title}"))
    takes = ", ".join(model.modalities)
    out.print(f"{model.parameters} parameters · {model.context:,} tokens · takes {takes} · {tools} · {model.licence}")
    if model.aliases:
        out.print(f"also written {', '.join(model.aliases)}")
    here = registry.names()
    for offer in model.offers:
        absent = "" if offer.provider in here else "  (not in this version)"
        out.print()
        out.print(
            Text.assemble(f"{offer.provider}  {offer.id}  ", (_status(offer), _STYLES[offer.status]), (absent, "dim"))
        )
        if offer.replacement:
            out.print(f"  instead: {offer.replacement}")
        out.print(f"  source: {offer.source}", style="dim", soft_wrap=not shown)


def _context(model: Model) -> str:
    return f"{model.context // 1024}k" if model.context >= 1024 else str(model.context)
