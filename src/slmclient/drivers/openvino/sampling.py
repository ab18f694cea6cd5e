"""From a request's options to OpenVINO GenAI's GenerationConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from slmclient.chat import ChatRequest
from slmclient.drivers.engine.model import is_drawn, seed_of
from slmclient.drivers.engine.schema import schema_of
from slmclient.errors import BadRequestError
from slmclient.request import unknown_name

_SAME = ("top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty")
_SHAPES = ("json_schema", "regex", "grammar")  # kinds of StructuredOutputConfig
# What is done here for every engine, or would make an answer that is not one text.
_OURS = (
    *("adapters", "apply_chat_template", "assistant_confidence_threshold", "do_sample", "echo", "eos_token_id"),
    *("ignore_eos", "include_stop_str_in_output", "max_length", "max_new_tokens", "num_return_sequences", "parsers"),
    *("return_omni_outputs", "rng_seed", "stop_criteria", "stop_strings", "stop_token_ids"),
    *("structured_output_config", "temperature"),
)
_UNSET = (1 << 64) - 1  # what the engine has for "not given"


def config(genai: Any, pipe: Any, request: ChatRequest, limit: int, provider: str, context: int = 0) -> Any:
    """Return the generation config of a call: the model's own, changed by what the user gave.

    Args:
        genai: The engine's module.
        pipe: The model's pipeline.
        request: The call.
        limit: Most tokens of the answer.
        provider: The provider's name, for errors.
        context: Most tokens of prompt and answer together, for the engine to look at: where only it can count the
            prompt. The answer's own limit holds then as well, but not by the engine.

    Raises:
        BadRequestError: ``extra`` has something that it does not know, or cannot have.
    """
    made = pipe.get_config() if hasattr(pipe, "get_config") else pipe.get_generation_config()
    given = request.sampling
    made.apply_chat_template = False
    made.max_new_tokens = min(limit, _UNSET)
    if context:
        made.max_length, made.max_new_tokens = context, _UNSET
    made.do_sample = is_drawn(request, {"do_sample": made.do_sample})
    if given.get("temperature"):
        made.temperature = given["temperature"]
    for name in _SAME:
        if name in given:
            setattr(made, name, given[name])
    made.rng_seed = seed_of(request)  # the engine's own is always the same
    _put_extra(genai, made, request, provider)
    made.min_new_tokens = min(made.min_new_tokens, limit)
    return made


def _put_extra(genai: Any, made: Any, request: ChatRequest, provider: str) -> None:
    shapes: dict[str, Any] = {}
    if (schema := schema_of(request)) is not None:
        shapes["json_schema"] = json.dumps(schema)
    for name, value in request.extra.items():
        if name in _SHAPES:
            shapes[name] = value if isinstance(value, str) else json.dumps(value)
            continue
        if name not in names(genai):
            text = unknown_name("option of OpenVINO GenAI", name, [*names(genai), *_SHAPES])
            raise BadRequestError(f"{provider}: extra: {text}", provider=provider)
        try:
            setattr(made, name, value)
        except (TypeError, ValueError):
            raise BadRequestError(f"{provider}: extra: {name} cannot be {value!r}.", provider=provider) from None
    if len(shapes) > 1:
        raise BadRequestError(f"{provider}: an answer has one shape, not {' and '.join(shapes)}.", provider=provider)
    if shapes:
        made.structured_output_config = genai.StructuredOutputConfig(**shapes)


def names(genai: Any) -> list[str]:
    """Return the fields of a generation config that ``extra`` may set."""
    fields = cast("Mapping[str, Any]", vars(genai.GenerationConfig))
    return [name for name, kind in fields.items() if isinstance(kind, property) and name not in _OURS]
