"""From a request's options to those of `generate`, without a warning and without touching anybody's random numbers."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slmclient.chat import ChatRequest
from slmclient.drivers.engine.package import one_line
from slmclient.errors import BadRequestError
from slmclient.request import unknown_name

_NUMBER = (int, float)
CHANCE: Mapping[str, tuple[type, ...]] = {
    "temperature": _NUMBER,
    "top_k": (int,),
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "typical_p": _NUMBER,
    "top_h": _NUMBER,
    "epsilon_cutoff": _NUMBER,
    "eta_cutoff": _NUMBER,
}
"""Arguments that shape chance: without sampling they have no place."""

_WARPERS: Mapping[str, tuple[str, str, float | None]] = {  # class, its argument, and the value that changes nothing
    "temperature": ("TemperatureLogitsWarper", "temperature", 1.0),
    "top_h": ("TopHLogitsWarper", "top_h", None),
    "top_k": ("TopKLogitsWarper", "top_k", 0),
    "top_p": ("TopPLogitsWarper", "top_p", 1.0),
    "min_p": ("MinPLogitsWarper", "min_p", None),
    "typical_p": ("TypicalLogitsWarper", "mass", 1.0),
    "epsilon_cutoff": ("EpsilonLogitsWarper", "epsilon", 0),
    "eta_cutoff": ("EtaLogitsWarper", "epsilon", 0),
}
_KNOBS = ("temperature", "top_k", "top_p")  # of these, those that a call has options for
ARGUMENTS: Mapping[str, tuple[type, ...]] = {
    **{name: kinds for name, kinds in CHANCE.items() if name not in _KNOBS},
    "do_sample": (bool,),
    "num_beams": (int,),
    "length_penalty": _NUMBER,
    "early_stopping": (bool, str),
    "min_new_tokens": (int,),
    "no_repeat_ngram_size": (int,),
    "bad_words_ids": (list,),
    "sequence_bias": (list,),
    "suppress_tokens": (list,),
    "begin_suppress_tokens": (list,),
    "exponential_decay_length_penalty": (list, tuple),
    "remove_invalid_values": (bool,),
    "renormalize_logits": (bool,),
}
"""Arguments of `generate` that ``extra`` and the driver's options take."""

_OURS = ("max_new_tokens", "max_length", "eos_token_id", "stop_strings", "max_time", "num_return_sequences")
RANGES: Mapping[str, tuple[float, float]] = {
    "num_beams": (1, 64),  # each has a cache of its own
    "min_new_tokens": (0, 1_000_000),
    "no_repeat_ngram_size": (0, 1_000),
}
"""What numbers among them may be, where `generate` itself does not say."""

_UNSET = ("do_sample", "max_length", "max_new_tokens", "min_length", "max_time", "stop_strings", "cache_implementation")
_global_chance = threading.Lock()


@dataclass(frozen=True, slots=True)
class Plan:
    """How one answer is written."""

    settings: Any
    """A `GenerationConfig`."""
    processors: list[Any]
    """What changes the scores of the next token, and picks one."""
    beams: bool
    seed: int | None


class Sampler:
    """Makes the plan of each call.

    Args:
        torch: The module.
        engine: The module ``transformers``.
        model: The loaded model; its own defaults are taken over, so that generate adds nothing to a plan.
        ends: Ids that end an answer.
        options: The driver's.
    """

    def __init__(self, torch: Any, engine: Any, model: Any, ends: Sequence[int], options: Mapping[str, Any]) -> None:
        self._torch = torch
        self._engine = engine
        self._device = model.device
        self._options = {name: options[name] for name in ARGUMENTS if name in options}
        own = model.generation_config
        names = ("do_sample", *CHANCE)
        self._own = {name: value for name in names if (value := getattr(own, name, None)) is not None}
        for name in (*_UNSET, *CHANCE):
            setattr(own, name, None)
        if ends:
            own.eos_token_id = list(ends)
            own.pad_token_id = ends[0] if own.pad_token_id is None else own.pad_token_id

    def plan(self, request: ChatRequest, limit: int) -> Plan:
        """Return how the answer to a request is written.

        Raises:
            BadRequestError: An argument in ``extra`` that generate does not have, or of a wrong value.
        """
        _check(request.extra)
        knobs = (*_KNOBS, "repetition_penalty")
        given = {**self._options, **{name: v for name, v in request.sampling.items() if name in knobs}, **request.extra}
        sampling = self._is_sampling(given)
        chance = {name: {**self._own, **given}[name] for name in CHANCE if name in {**self._own, **given}}
        plain = {name: value for name, value in given.items() if name not in (*CHANCE, "do_sample")}
        beams = plain.get("num_beams", 1) > 1
        if "min_new_tokens" in plain:
            plain["min_new_tokens"] = min(plain["min_new_tokens"], limit)
        settings = self._engine.GenerationConfig()
        # Sampling among beams is generate's own; else a token is picked here, see _Pick.
        arguments = {**plain, **(chance if sampling and beams else {}), "do_sample": sampling and beams}
        for name, value in {**arguments, "max_new_tokens": limit}.items():
            setattr(settings, name, value)
        try:
            settings.validate(strict=True)
            processors = [*self._warpers(chance), self._pick(request)] if sampling and not beams else []
        except (ValueError, TypeError) as error:
            raise BadRequestError(f"Transformers refuses these options: {one_line(error)}") from None
        return Plan(settings, processors, beams, request.sampling.get("seed"))

    def _is_sampling(self, given: Mapping[str, Any]) -> bool:
        if given.get("temperature") == 0:
            return False
        if "do_sample" in given:
            return bool(given["do_sample"])
        return bool(self._own.get("do_sample")) or any(name in given for name in CHANCE)

    def _warpers(self, chance: Mapping[str, Any]) -> list[Any]:
        """Return what generate would make of these values if it sampled itself, in the same order."""
        values, made = {"top_k": 50, **chance}, list[Any]()  # 50 is generate's own default
        for name, (kind, argument, nothing) in _WARPERS.items():
            value = values.get(name, nothing)
            if value != nothing:
                value = float(value) if nothing == 1.0 and value is not None else value
                further = {"device": self._device} if name == "eta_cutoff" else {}
                made.append(getattr(self._engine, kind)(**{argument: value}, **further))
        return made

    def _pick(self, request: ChatRequest) -> _Pick:
        generator = self._torch.Generator(device=self._device)
        seed = request.sampling.get("seed")
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return _Pick(self._torch, generator)

    @contextmanager
    def chance(self, plan: Plan) -> Generator[None]:
        """Give generate's own sampling, among beams, its seed; the process's random numbers are as before after it."""
        if not plan.settings.do_sample:
            yield
            return
        torch = self._torch
        devices = [self._device] if self._device.type == "cuda" else []
        with _global_chance, torch.random.fork_rng(devices=devices):
            if plan.seed is None:
                torch.seed()
            else:
                torch.manual_seed(plan.seed)
            yield


class _Pick:
    """Picks the next token by chance, from a generator of its own, and leaves generate no other choice.

    generate draws from the process's one generator, which is the program's: other threads draw from it too. The same
    seed gives the same tokens as there.
    """

    def __init__(self, torch: Any, generator: Any) -> None:
        self._torch = torch
        self._generator = generator

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chances = self._torch.softmax(scores, dim=-1)
        picked = self._torch.multinomial(chances, 1, generator=self._generator)
        return self._torch.full_like(scores, -float("inf")).scatter_(1, picked, 0.0)


def _check(extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        kinds = {**ARGUMENTS, **CHANCE}.get(name)
        if name in _OURS:
            raise BadRequestError(f"extra: {name} is not generate's to decide here: use max_tokens=, stop=, deadline=.")
        if kinds is None:
            raise BadRequestError(f"extra: {unknown_name('argument of generate', name, ARGUMENTS)}")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            listed = " or ".join(kind.__name__ for kind in kinds)
            raise BadRequestError(f"extra: {name} is {listed}, not {value!r}.")
    for name, (low, high) in RANGES.items():
        if not low <= extra.get(name, low) <= high:
            raise BadRequestError(f"extra: {name} is {low} to {high:,}, not {extra[name]}.")
