"""What a model's name means: the repository that it leads to for an engine, and the engines that take it. Pure."""

from __future__ import annotations

import re

from slmclient import catalogue
from slmclient.catalogue import forms
from slmclient.drivers.hub.faults import Origin
from slmclient.errors import ModelNotFoundError

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_FILES = (".gguf", ".onnx", ".safetensors", ".xml", ".bin", ".pt", ".pth")


def origin_of(provider: str, name: str, quantization: str | None = None) -> Origin:
    """Return the repository that a name means for a provider's engine.

    Where the catalogue has none in the engine's own form, it is the one of GGUF files, if the engine reads those.

    Raises:
        ModelNotFoundError: There is none; the message says which engines take the model, and how.
    """
    model, offer = catalogue.find(name), catalogue.offer(name, provider)
    match = None if name.lower().endswith(_FILES) else _ID.fullmatch(name)
    # An id of somebody else's offer is meant as it is: an engine may read that too.
    if model is not None and (match is None or name in model.aliases):
        if offer is not None:
            return Origin(provider, name, offer.id, quantization=quantization)
        if (instead := forms.gguf_offer(model, provider)) is not None:
            chosen = quantization or forms.GGUF_READERS[provider].quantization
            return Origin(provider, name, instead.id, quantization=chosen)
    if match is not None and ".." not in name:
        named = catalogue.find(match[1])
        if named is None or not forms.is_refused(named, provider, match[1]):
            return Origin(provider, name, match[1], match[2], quantization)
        raise ModelNotFoundError(_refused(provider, named.name, match[1]), provider=provider, model=name)
    raise ModelNotFoundError(_unknown(provider, name), provider=provider, model=name)


def ways(name: str, provider: str) -> str:
    """Return which other engines take a model, each with the command that fetches it; "" where none is known."""
    model = catalogue.find(name)
    if model is None:
        return ""
    local = [(host.name, offer.status) for host, offer in catalogue.elsewhere(name, provider) if host.where == "local"]
    local += [(each, "active") for each in forms.GGUF_READERS if each != provider and forms.gguf_offer(model, each)]
    certain = [engine for engine, status in local if status == "active"]
    engines = certain or [engine for engine, _ in local]
    listed = ", ".join(f"`slm pull {model.name} --engine {engine}`" for engine in engines)
    return f"Engines that {'take' if certain else 'may take'} it: {listed}." if engines else ""


def _refused(provider: str, name: str, id: str) -> str:
    """Return what to say of GGUF files that an engine does not read."""
    own = catalogue.offer(name, provider)
    instead = f"`slm pull {name} --engine {provider}` fetches files that it reads." if own else ways(name, provider)
    return f"{id} is not for {provider}. {_read(provider)} {instead} Or give a path."


def _read(provider: str) -> str:
    reader = forms.GGUF_READERS.get(provider)
    return f"Of GGUF files it reads only the architectures {', '.join(reader.architectures)}." if reader else ""


def _unknown(provider: str, name: str) -> str:
    if catalogue.find(name) is not None:
        elsewhere = ways(name, provider) or catalogue.directions(name, provider)
        parts = (
            f"The catalogue knows no files of {name} for {provider}.",
            _read(provider),
            elsewhere,
            "Or give a path.",
        )
        return " ".join(part for part in parts if part)
    if name.lower().endswith(_FILES) or name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1:
        return (
            f"There is no file or folder {name}. A model by its name is fetched: `slm pull NAME --engine {provider}`."
        )
    return (
        f"There is no model {name!r}: no file or folder has that path, and the catalogue does not know the name "
        f"(`slm models -p {provider}` lists those it knows; `slm pull NAME --engine {provider}` fetches one). A model "
        "on Hugging Face's hub is written org/name."
    )
