"""What is known of models: `models.json`, and how to ask it. It never blocks what it does not know.

The data is one entry a model: its portable name, other spellings, what it can do, and one offer a provider: the id
there, whether it can still be had, and where that fact is from. Unknown is a legal value: ``tools: null``,
``status: "unknown"``. An offer's replacement does the same job: the provider's own advice where it gives any (the
source says so), else the family's successor; null where the same model can be had elsewhere (`providers_of`) or
nothing replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, Literal

Status = Literal["active", "deprecated", "retired", "unknown"]


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags around what a model writes while it thinks."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Offer:
    """One model at one provider."""

    provider: str
    id: str
    """The provider's own name of the model; at Azure also the default name of a deployment."""
    status: Status
    on: date | None
    """The day of its retirement, if known."""
    replacement: str | None
    """The portable name of the model to use instead."""
    source: str
    """Where these facts are from, and of which date."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model, wherever it runs."""

    name: str
    """The portable name: `phi-4-mini`."""
    aliases: tuple[str, ...]
    """Other spellings people write, the Hugging Face id among them."""
    family: str
    title: str
    parameters: str
    context: int
    """The longest prompt and answer together, in tokens. A provider may allow less."""
    modalities: tuple[str, ...]
    """What it takes in: text, image, audio."""
    tools: bool | None
    """Whether it was trained to call tools. A provider may not offer it."""
    reasoning: ReasoningTags | None
    template: str | None
    """Its prompt form, by name; None where the model's own file has to say."""
    licence: str
    offers: tuple[Offer, ...]


@cache
def models() -> tuple[Model, ...]:
    """Return every model in the catalogue; the file is read on first use."""
    import json  # here, so that importing the catalogue costs nothing
    from importlib import resources

    return tuple(_model(entry) for entry in json.loads(resources.files(__name__).joinpath("models.json").read_bytes()))


def find(name: str) -> Model | None:
    """Return the model of a portable name, an alias or any provider's id, in any case; None where there is none."""
    return _index().get(name.casefold())


def offer(name: str, provider: str) -> Offer | None:
    """Return what a provider has, or had, under a name that `find` knows."""
    model = find(name)
    return next((each for each in model.offers if each.provider == provider), None) if model else None


def provider_id(name: str, provider: str) -> str:
    """Return the provider's id of a model.

    Args:
        name: A portable name, an alias or an id of any provider.
        provider: The provider's name, not an alias of it.

    Returns:
        The id to send. The name comes back as it is where the catalogue does not know it, where it knows no offer of
        that provider, and where it is that provider's own id: in the caller's spelling, which may name a deployment.
        A portable name or an alias, spelled as in the catalogue, is always translated: `phi-4` is `Phi-4` at Azure.
    """
    model, found = find(name), offer(name, provider)
    if model is None or found is None:
        return name
    own = name.casefold() == found.id.casefold() and name not in (model.name, *model.aliases)
    return name if own else found.id


def providers_of(name: str) -> tuple[str, ...]:
    """Return the providers that have not retired a model: those known to have it first, then the doubtful ones."""
    model = find(name)
    left = [each for each in model.offers if each.status != "retired"] if model else []
    return tuple(each.provider for each in sorted(left, key=lambda each: each.status != "active"))


@cache
def _index() -> dict[str, Model]:
    return {
        key.casefold(): model
        for model in models()
        for key in (model.name, *model.aliases, *(each.id for each in model.offers))
    }


def _model(entry: dict[str, Any]) -> Model:
    tags = entry["reasoning"]
    plain: dict[str, Any] = {
        **entry,
        "aliases": tuple(entry["aliases"]),
        "modalities": tuple(entry["modalities"]),
        "reasoning": ReasoningTags(**tags) if tags else None,
        "offers": tuple(_offer(row) for row in entry["offers"]),
    }
    return Model(**plain)


def _offer(row: dict[str, Any]) -> Offer:
    plain: dict[str, Any] = {**row, "on": date.fromisoformat(row["on"]) if row["on"] else None}
    return Offer(**plain)
