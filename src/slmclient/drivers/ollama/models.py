"""What Ollama says of its models, in a few words; and which context to ask for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from slmclient import catalogue

LATEST = ":latest"
"""The tag of a name without one."""

LARGEST_DEFAULT_CONTEXT = 8192
"""Tokens of context that are asked for by default: all that a model could take may cost gigabytes of memory."""


def context_for(model: str | None) -> int | None:
    """Return the context to ask for; None for a model that the catalogue does not know, by its name or its family's."""
    known = (catalogue.find(model) or catalogue.find(model.partition(":")[0])) if model else None
    return min(known.context, LARGEST_DEFAULT_CONTEXT) if known is not None and known.context else None


def entry(listed: Any) -> Mapping[str, Any] | None:
    """Return an entry of a list of models with its name, without a needless tag, as ``id``."""
    if not isinstance(listed, Mapping):
        return None
    found = cast("Mapping[str, Any]", listed)
    name: Any = found.get("model") or found.get("name")
    return {**found, "id": name.removesuffix(LATEST)} if isinstance(name, str) else None


def can_chat(model: Mapping[str, Any]) -> bool:
    """Return whether a listed model may chat: older servers do not say what a model can do."""
    capabilities: Any = model.get("capabilities")
    return not isinstance(capabilities, list) or "completion" in capabilities


def facts(model: Mapping[str, Any]) -> str:
    """Return what a list says of a model: how large it is, and how its weights are kept."""
    details = _mapping(model.get("details"))
    size = count(model.get("size"))
    told = [details.get("parameter_size"), details.get("quantization_level"), f"{size / 1e9:.1f} GB" if size else None]
    return ", ".join(_words(told))


def loaded(model: Mapping[str, Any]) -> str:
    """Return what is said of a model that is in memory."""
    context = count(model.get("context_length"))
    return f"in memory with a context of {context:,}" if context else "in memory"


def able(shown: Mapping[str, Any]) -> str:
    """Return what a model can do, and the context that it was made for."""
    info = _mapping(shown.get("model_info"))
    context = count(info.get(f"{info.get('general.architecture')}.context_length"))
    capabilities: Any = shown.get("capabilities")
    can = ", ".join(_words(cast("list[Any]", capabilities) if isinstance(capabilities, list) else []))
    return "; ".join(filter(None, (f"can do {can}" if can else "", f"up to {context:,} tokens" if context else "")))


def count(value: Any) -> int | None:
    """Return a number of a server's, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _words(values: list[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and value.isprintable() and 0 < len(value) < 50]
