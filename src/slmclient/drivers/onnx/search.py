"""From a request to the engine's search: its options, what binds the answer, and which adapter. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from slmclient.chat import ChatRequest
from slmclient.drivers.engine.schema import schema_of
from slmclient.errors import BadRequestError
from slmclient.request import unknown_name

KNOBS = frozenset({"temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "repetition_penalty"})
"""The sampling options that the engine has."""

_SPELLING = {"seed": "random_seed", **{name: name for name in ("temperature", "top_p", "top_k", "repetition_penalty")}}
_CHANCE = ("temperature", "top_p", "top_k")  # who gives one of them wants the answer drawn
_OURS = {
    "max_length": "the length follows from max_tokens and n_ctx",
    "batch_size": "a call has one prompt",
    "num_return_sequences": "a call has one answer",
}
_GUIDANCE = ("json_schema", "regex", "lark_grammar")
_SEEDS = 2**31  # the engine takes 31 bits, and reads a negative number as "by chance"
# Between the parts of JSON a small model would write empty lines without end.
_COMPACT = {"lenient": True, "whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


@dataclass(frozen=True, slots=True)
class Search:
    """How one answer is looked for. Two that are equal can go on with one another's cache."""

    options: Mapping[str, float | bool] = field(default_factory=dict[str, "float | bool"])
    """The engine's search options, those that differ from the model's own."""
    guidance: tuple[str, str] | None = None
    """What binds the answer: the kind, and its text."""
    adapter: str | None = None

    @property
    def beams(self) -> bool:
        """Whether several answers are followed at once, and the likeliest is taken at the end."""
        return self.options.get("num_beams", 1) > 1

    @property
    def repeats(self) -> bool:
        """Whether chance is to fall the same way again: what goes on with a cache draws other numbers."""
        return "random_seed" in self.options and self.options.get("do_sample") is not False


def checked(given: Mapping[str, Any], known: Mapping[str, Any], place: str) -> dict[str, float | bool]:
    """Return search options, once each is one of the engine's and of its type.

    Args:
        given: As the user wrote them.
        known: The engine's own, with the model's values.
        place: Where they were given, for the error.

    Raises:
        BadRequestError: One that the engine does not have, that is not the caller's to set, or that cannot be.
    """
    for name, value in given.items():
        if name in _OURS:
            raise BadRequestError(f"{place}: {name} cannot be set: {_OURS[name]}.")
        if name not in known:
            own = [each for each in known if each not in _OURS]
            raise BadRequestError(f"{place}: {unknown_name('search option', name, own)}")
        if isinstance(known[name], bool) != isinstance(value, bool) or not isinstance(value, (int, float)):
            kind = "true or false" if isinstance(known[name], bool) else "a number"
            raise BadRequestError(f"{place}: {name} is {kind}, not {value!r}.")
        if not math.isfinite(value) or (value < 0 and name != "length_penalty"):
            raise BadRequestError(f"{place}: {name} is a number of at least 0, not {value!r}.")
    return {name: _whole(value) for name, value in given.items()}


def search(
    request: ChatRequest, defaults: Mapping[str, float | bool], known: Mapping[str, Any], adapter: str | None
) -> Search:
    """Return the search for a request.

    Args:
        request: Has the sampling options, response_format, and in ``extra`` search options, guidance and adapter.
        defaults: The client's own search options.
        known: All that the engine has, with the model's values.
        adapter: The client's own adapter.

    Raises:
        BadRequestError: Something in ``extra`` that the engine does not have, or things that exclude each other.
    """
    extra = dict(request.extra)
    guidance = _guidance(request, extra.pop("guidance", None))
    chosen: Any = extra.pop("adapter", adapter)
    if chosen is not None and not isinstance(chosen, str):
        raise BadRequestError(f"extra: adapter is the name of one of the option adapters, or None, not {chosen!r}.")
    sampling = {_SPELLING[name]: value for name, value in request.sampling.items() if name in _SPELLING}
    if "random_seed" in sampling:
        sampling["random_seed"] %= _SEEDS
    if sampling.get("temperature") == 0:
        sampling = {**{name: value for name, value in sampling.items() if name not in _CHANCE}, "do_sample": False}
    elif any(name in sampling for name in _CHANCE):
        sampling["do_sample"] = True
    asked = {**sampling, **checked(extra, known, "extra")}
    options = {**defaults, **asked}
    if options.get("num_beams", 1) > 1:
        if asked.get("do_sample"):
            raise BadRequestError(
                "Beam search (num_beams) takes the likeliest answer: leave out temperature, top_p, top_k and "
                "do_sample, or ask with extra={'num_beams': 1}."
            )
        options["do_sample"] = False
    return Search(options, guidance, chosen)


def _guidance(request: ChatRequest, given: Any) -> tuple[str, str] | None:
    schema = schema_of(request)
    if given is None:
        return None if schema is None else ("json_schema", json.dumps({**schema, "x-guidance": _COMPACT}))
    if schema is not None:
        raise BadRequestError("response_format and extra's guidance both bind the answer: give one of them.")
    asked: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    kind, data = asked.get("type"), asked.get("data")
    if kind == "json_schema" and isinstance(data, Mapping):
        data = json.dumps(data)
    if kind not in _GUIDANCE or not isinstance(data, str) or len(asked) != 2:
        raise BadRequestError(f"extra: guidance is {{'type': …, 'data': …}} with a type of {', '.join(_GUIDANCE)}.")
    return kind, data


def _whole(value: float | bool) -> float | bool:
    """Return 4.0 as 4: the engine takes no fractions where it counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
