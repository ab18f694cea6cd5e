"""`slm models`: the catalogue, or a part of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, get_args

import typer
from rich.text import Text

from slmclient import catalogue
from slmclient.catalogue import Model, Offer, Status
from slmclient.cli.terminal import console, is_terminal, say
from slmclient.drivers import registry
from slmclient.errors import ModelNotFoundError
from slmclient.request import unknown_name

_STYLES = {"active": "green", "deprecated": "yellow", "retired": "red", "unknown": "dim"}

Row = tuple[Model, list[Offer]]


@dataclass(frozen=True, slots=True)
class Filter:
    """What to list; None lists everything."""

    provider: str | None = None
    modality: str | None = None
    status: str | None = None

    def __str__(self) -> str:
        asked = (("--provider", self.provider), ("--modality", self.modality), ("--status", self.status))
        return " ".join(f"{option} {value}" for option, value in asked if value)


def run(name: str | None, wanted: Filter, *, as_json: bool) -> None:
    """Print all models, or one of them, as far as the filter lets them through."""
    wanted = _checked(wanted)
    if name is None:
        rows = _rows(wanted)
        print(_json([_data(*row) for row in rows])) if as_json else _table(rows)
        found = bool(rows)
    else:
        model = _model(name)
        offers = _offers(model, wanted)
        print(_json(_data(model, offers))) if as_json else _one(model, offers)
        found = bool(offers)
    if not found:
        say(f"Nothing in the catalogue fits {f'{name} {wanted}' if name else wanted}.")


def _checked(wanted: Filter) -> Filter:
    """Return the filter with a provider's own name for an alias; what does not exist is a usage error."""
    own = registry.canonical(wanted.provider) if wanted.provider else None
    provider = own or wanted.provider
    listed = [each.name for each in catalogue.providers()]
    _check("--provider", provider, [*listed, own] if own else listed, shown=listed)
    kinds = dict.fromkeys(modality for model in catalogue.models() for modality in model.modalities)
    _check("--modality", wanted.modality, list(kinds))
    _check("--status", wanted.status, list(get_args(Status)))
    return Filter(provider, wanted.modality, wanted.status)


def _check(option: str, value: str | None, known: list[str], *, shown: list[str] | None = None) -> None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(shown or known)}.", param_hint=option)


def _model(name: str) -> Model:
    model = catalogue.find(name)
    if model is None:
        known = [each.name for each in catalogue.models()]
        raise ModelNotFoundError(
            f"{unknown_name('model', name, known)} The catalogue is no gate: a provider may have more than it lists."
        )
    return model


def _rows(wanted: Filter) -> list[Row]:
    """Return the models that fit, each with its offers."""
    rows: list[Row] = []
    for model in catalogue.models():
        offers = _offers(model, wanted)
        if offers:
            rows.append((model, offers))
    return rows


def _offers(model: Model, wanted: Filter) -> list[Offer]:
    if wanted.modality not in (None, *model.modalities):
        return []
    return [
        offer
        for offer in model.offers
        if wanted.provider in (None, offer.provider) and wanted.status in (None, offer.status)
    ]


def _data(model: Model, offers: list[Offer]) -> dict[str, Any]:
    return {**asdict(model), "offers": [{**asdict(offer), "reach": _reach(model, offer)} for offer in offers]}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str)


def _reach(model: Model, offer: Offer) -> str | None:
    return None if offer.status == "retired" else catalogue.reach(model, offer)


def _status(offer: Offer) -> str:
    return f"{offer.status} {offer.on}" if offer.on else offer.status


def _table(rows: list[Row]) -> None:
    """Print the models: on a terminal each with its providers below it, else a line for each pair of the two."""
    shown, out = is_terminal(sys.stdout), console(error=False)
    every = [offer for _, offers in rows for offer in offers]
    provider = max((len(offer.provider) for offer in every), default=0)
    status = max((len(_status(offer)) for offer in every), default=0)
    for model, offers in rows:
        size, _, _ = model.parameters.partition(",")  # of a mixture, all of it
        facts = f"{model.name:<27}{size:<6}{_context(model):>5}  {','.join(model.modalities):<18}"
        if shown:
            out.print(Text(facts.rstrip(), style="bold"))
        for offer in offers:
            state = Text(f"{_status(offer):<{status}}  ", style=_STYLES[offer.status])
            start = "  " if shown else facts
            out.print(Text.assemble(start, f"{offer.provider:<{provider}} ", state, offer.id))


def _one(model: Model, offers: list[Offer]) -> None:
    out = console(error=False)
    wrap = not is_terminal(sys.stdout)
    tools = {True: "calls tools", False: "no tool calls", None: "tool calls: unknown"}[model.tools]
    context = f"{model.context:,} tokens" if model.context else "context: unknown"
    out.print(Text.assemble((model.name, "bold"), f"  {model.title}"))
    takes = ", ".join(model.modalities)
    out.print(f"{model.parameters} parameters · {context} · takes {takes} · {tools} · {model.licence}")
    for what, codes in _languages(model):
        out.print(f"{what}: {codes}", soft_wrap=wrap)
    if model.aliases:
        out.print(f"also written {', '.join(model.aliases)}", soft_wrap=wrap)
    for source in model.sources:
        out.print(f"source of {', '.join(source.facts).replace('_', ' ')}: {source.text}", style="dim", soft_wrap=wrap)
    for offer in offers:
        reach = _reach(model, offer)
        out.print()
        out.print(Text.assemble(f"{offer.provider}  {offer.id}  ", (_status(offer), _STYLES[offer.status])))
        for label, text in (("limits", _limits(offer)), ("older id", offer.legacy_id), ("instead", offer.replacement)):
            if text:
                out.print(f"  {label}: {text}", soft_wrap=wrap)
        if reach:
            out.print(f"  use: {reach}")  # never wrapped: to be copied
        out.print(f"  source: {offer.source}", style="dim", soft_wrap=wrap)


def _languages(model: Model) -> list[tuple[str, str]]:
    """Return labels and codes of the languages."""
    listed = (
        ("languages", model.languages or ("unknown",)),
        ("languages of images", model.image_languages),
        ("spoken languages", model.audio_languages),
    )
    return [(label, " ".join(codes)) for label, codes in listed if codes]


def _limits(offer: Offer) -> str:
    """Return what differs at a provider; "" where that is unknown."""
    parts = [
        f"{offer.max_input:,} tokens in" if offer.max_input else "",
        f"{offer.max_output:,} tokens out" if offer.max_output else "",
        {True: "tools", False: "no tools", None: ""}[offer.tools],
        f"{offer.images} image{'' if offer.images == 1 else 's'} in a message" if offer.images else "",
    ]
    return ", ".join(part for part in parts if part)


def _context(model: Model) -> str:
    return f"{model.context // 1024}k" if model.context else "?"
