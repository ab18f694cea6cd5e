"""What is known of models and providers, as data, and how to ask it. It never blocks what it does not know.

`models.json` has one entry a model: its portable name, other spellings, what it can do, where those facts are from,
and one offer a provider: the id there, whether it can still be had, what differs there, and where that is from.
Unknown is a legal value: ``context: null``, ``status: "unknown"``; what is optional and unknown is left out. An
offer's replacement does the same job: the provider's own advice where it gives any (the source says so), else the
family's successor; null where the same model can be had elsewhere (`elsewhere`) or nothing replaces it.

`providers.json` has one entry a provider: whether it is still there, and how one gets to a model on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

Status = Literal["active", "deprecated", "retired", "unknown"]
Where = Literal["hosted", "local"]

_LONGEST_DIRECTIONS = 350
"""Characters: directions end an error message, and nobody reads a page of it."""

_LISTS = ("aliases", "modalities", "languages", "image_languages", "audio_languages")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a model thinks before it answers."""

    open: str
    """The tag before its thoughts."""
    close: str
    """The tag behind them."""
    chooses: bool = False
    """Whether it decides from answer to answer whether it thinks at all. Then the opening tag shows that it does."""
    system: str | None = None
    """The system prompt that it was trained to think with."""
    think: str | None = None
    """Its switch: what, written where its answer begins, has it think."""
    answer: str | None = None
    """The other side of the switch: what, written there, has it answer at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where some of a model's facts are from."""

    facts: tuple[str, ...]
    """The fields of `Model` that it is for; one that is None may have one, which says why."""
    text: str
    """What was read, and of which date."""


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
    legacy_id: str | None = None
    """The id that an older endpoint of the provider took."""
    max_input: int | None = None
    """The longest prompt there, in tokens."""
    max_output: int | None = None
    """The longest answer there, in tokens."""
    tools: bool | None = None
    """Whether the provider passes tools to it, whatever it was trained for."""
    images: int | None = None
    """The most images in one message there."""
    needs_system: bool = False
    """Whether the model's own system prompt (`Reasoning.system`) has to be sent there: its template has none."""
    own_endpoint: bool = False
    """Whether it has an address and a wire of its own there, which this version does not speak."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, whichever models it has."""

    name: str
    title: str
    where: Where
    """Whether it is somebody's service, or runs on a machine of the user's own."""
    status: Status
    on: date | None
    """The day of its retirement."""
    replacement: str | None
    """The provider to use instead."""
    reach: str | None
    """How a user of this version gets to a model there; None where this version has no way. ``{name}`` stands for the
    model's portable name and ``{id}`` for its id there."""
    source: str
    """Where these facts are from, and of which date."""
    own_prompts: bool = False
    """Whether the prompt of a model is written by slmclient there, and not by a server."""
    hosts: tuple[str, ...] = ()
    """Where a retired service was: nothing is there any more, by whichever driver it is asked."""


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
    context: int | None
    """The longest prompt and answer together, in tokens. A provider may allow less."""
    modalities: tuple[str, ...]
    """What it takes in: text, image, audio."""
    languages: tuple[str, ...] | None
    """The languages of its texts that its makers list, as ISO 639-1 codes."""
    tools: bool | None
    """Whether it was trained to call tools. A provider may not offer it."""
    reasoning: Reasoning | None
    """How it thinks; None for a model that does not."""
    template: str | None
    """Its prompt form, by name; None where the model's own file has to say."""
    licence: str
    sources: tuple[Source, ...]
    """Where the facts above are from; that of an offer stands with it."""
    offers: tuple[Offer, ...]
    image_languages: tuple[str, ...] | None = None
    """The languages for questions about images, where its makers list them apart."""
    audio_languages: tuple[str, ...] | None = None
    """The languages that it understands when spoken, where its makers list them."""


@cache
def models() -> tuple[Model, ...]:
    """Return every model in the catalogue; the file is read on first use."""
    return tuple(_model(entry) for entry in _read("models.json"))


@cache
def providers() -> tuple[Provider, ...]:
    """Return every provider in the catalogue; the file is read on first use."""
    return tuple(_provider(entry) for entry in _read("providers.json"))


def provider(name: str) -> Provider | None:
    """Return what is known of a provider, by its name and not an alias of it; None where there is nothing."""
    return next((each for each in providers() if each.name == name), None)


def retired_service(host: str) -> Provider | None:
    """Return the retired provider whose service a host was, or None."""
    return next((each for each in providers() if host.rstrip(".").lower() in each.hosts), None)


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


def legacy_id(name: str) -> str:
    """Return the id that the older endpoint of a model's provider took, or the name as it is where there was none.

    GitHub Models took bare names (`Phi-3.5-mini-instruct`) before it took a publisher with them.
    """
    model = find(name)
    old = [each.legacy_id for each in model.offers if each.legacy_id] if model else []
    return old[0] if old else name


def providers_of(name: str) -> tuple[str, ...]:
    """Return the providers that a model can be asked of by its name, and that have not retired it.

    Those known to have it come first, then the doubtful ones.
    """
    model = find(name)
    left = [each for each in model.offers if each.status != "retired"] if model else []
    return tuple(each.provider for each in sorted(left, key=lambda each: each.status != "active"))


def retirement(name: str, provider: str) -> Offer | None:
    """Return the offer that a provider has withdrawn, if that is what a name means there.

    Args:
        name: A portable name, an alias or an id.
        provider: The provider's name, not an alias of it.

    Returns:
        None for what is not retired or not known, and for the provider's own id, old or new and in any case, even
        where it is an alias too: whoever writes it may mean a deployment or a container of their own. A portable name
        is never an id, though it may read like one: `phi-4`.
    """
    model, found = find(name), offer(name, provider)
    if model is None or found is None or found.status != "retired":
        return None
    ids = {each.casefold() for each in (found.id, found.legacy_id) if each}
    return None if name != model.name and name.casefold() in ids else found


def elsewhere(name: str, provider: str) -> tuple[tuple[Provider, Offer], ...]:
    """Return where else a model can still be had, as far as this version can reach.

    Args:
        name: A portable name, an alias or any provider's id.
        provider: The provider to leave out.

    Returns:
        Providers with their offers: those on the user's own machine first, and the doubtful after the certain ones.
    """
    model = find(name)
    hosts = {each.name: each for each in providers() if each.status != "retired" and each.reach}
    found = [
        (hosts[each.provider], each)
        for each in (model.offers if model else ())
        if each.provider in hosts and each.provider != provider and each.status != "retired" and not each.own_endpoint
    ]
    return tuple(sorted(found, key=lambda pair: (pair[0].where != "local", pair[1].status != "active")))


def reach(model: Model, offer: Offer) -> str | None:
    """Return how a user of this version gets to a model at a provider; None where there is no way."""
    host = provider(offer.provider)
    return host.reach.format(name=model.name, id=offer.id) if host and host.reach else None


def directions(name: str, provider: str) -> str:
    """Return where to go with a model that a provider does not have: a few short sentences that end an error message.

    Args:
        name: A portable name, an alias or any provider's id.
        provider: The provider that does not have it.

    Returns:
        Where the same model can be had, and what the nearest one is; "" where nothing is known.
    """
    model = find(name)
    if model is None:
        return ""
    ways = elsewhere(name, provider)
    certain = [way for way in ways if way[1].status == "active"]
    own = [way for way in certain if way[0].where == "local"]
    hosted = [way for way in certain if way[0].where == "hosted"]
    text = ""
    for most in (2, 1):
        sentences = (
            _ways(model, f"{model.name} still runs on your own machine", own[:most]),
            _ways(model, f"{'It' if own else model.name} is still hosted", hosted[:1]),
            _ways(model, f"{model.name} may still be had", [] if certain else ways[:1]),
            _nearest(name, provider),
        )
        text = " ".join(sentence for sentence in sentences if sentence)
        if len(text) <= _LONGEST_DIRECTIONS:
            break
    return text


def _ways(model: Model, start: str, ways: Sequence[tuple[Provider, Offer]]) -> str:
    listed = ", ".join(f"{host.name} ({reach(model, each)})" for host, each in ways)
    return f"{start}: {listed}." if listed else ""


def _nearest(name: str, provider: str) -> str:
    """Return the sentence on the replacement: at that provider, else where the provider points to, else hosted."""
    found = offer(name, provider)
    if found is None or found.replacement is None:
        return ""
    own = next((each.replacement for each in providers() if each.name == provider), None)
    living = [host for host, each in elsewhere(found.replacement, "") if each.status == "active"]
    living.sort(key=lambda host: (host.name != provider, host.name != own, host.where != "hosted"))
    return f"The nearest living model at {living[0].name} is {found.replacement}." if living else ""


@cache
def _index() -> dict[str, Model]:
    return {key.casefold(): model for model in models() for key in (model.name, *model.aliases, *_ids(model))}


def _ids(model: Model) -> list[str]:
    return [key for each in model.offers for key in (each.id, each.legacy_id) if key]


def _read(file: str) -> list[dict[str, Any]]:
    # By what loaded this module, which may be in an archive: importlib.resources takes 15 ms to import.
    loader: Any = globals()["__spec__"].loader
    entries: list[dict[str, Any]] = from_json(loader.get_data(str(Path(__file__).with_name(file))))
    return entries


def _model(entry: dict[str, Any]) -> Model:
    reasoning = entry["reasoning"]
    plain: dict[str, Any] = {
        **entry,
        **{key: tuple(entry[key]) for key in _LISTS if entry.get(key) is not None},
        "reasoning": Reasoning(**reasoning) if reasoning else None,
        "sources": tuple(Source(tuple(facts.split()), text) for facts, text in entry["sources"].items()),
        "offers": tuple(Offer(**_dated(row)) for row in entry["offers"]),
    }
    return Model(**plain)


def _provider(entry: dict[str, Any]) -> Provider:
    plain: dict[str, Any] = {**_dated(entry), "hosts": tuple(entry.get("hosts", ()))}
    return Provider(**plain)


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "on": date.fromisoformat(row["on"]) if row["on"] else None}
