"""Dialects: how one provider's use of a wire differs from the plain protocol, as frozen data without callables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FaultPattern:
    """Prose that refines an error where a server sends nothing better. Each needs a source beside it."""

    status: int
    pattern: str
    """A regular expression, searched in the server's message, case ignored."""
    error: str
    """Name of the class in `slmclient.errors`."""
    hint: str = ""
    """What to do next. ``{model}`` and ``{provider}`` stand for what was asked."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider speaks the chat-completions wire."""

    path: str = "/chat/completions"
    """Appended to the base URL."""
    query: tuple[tuple[str, str], ...] = ()
    key_headers: tuple[tuple[str, str], ...] = (("Authorization", "Bearer {key}"),)
    """Headers that carry the key."""
    headers: tuple[tuple[str, str], ...] = ()
    unsupported: frozenset[str] = frozenset({"top_k", "repetition_penalty"})
    """Options that it has no field for: of sampling, or ``reasoning``."""
    spelling: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Sampling option to its field in the body, where that is not the option's own name."""
    stream_usage: bool = True
    """Whether it takes ``stream_options.include_usage``."""
    counting: tuple[str, ...] = ()
    """The ways in which its servers may be asked for the tokens of a prompt, best first: ``input_tokens``,
    ``tokenize``, ``apply_template`` (`slmclient.drivers.counting`)."""
    patterns: tuple[FaultPattern, ...] = ()
    redactions: tuple[str, ...] = ()
    """Regular expressions cut out of the server's messages (account ids)."""
