"""Whether a call fits into a model's context, as far as that can be known before it is sent; and an estimate. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from slmclient import catalogue, lengths
from slmclient.chat import ChatRequest, Note, TokenCount
from slmclient.drivers.base import Driver
from slmclient.errors import ContextLengthExceededError
from slmclient.media import Image
from slmclient.media.header import size_of
from slmclient.messages import Message
from slmclient.phi import vision
from slmclient.policy.wrapper import innermost

AUDIO_TOKENS = 750
"""Of a sound: a minute in Phi-4-multimodal, which makes a token of 80 ms (its technical report, 2025)."""

_SIGNS_PER_TOKEN = 8  # few texts have more: the text is rather counted as too short
_REPEATED = re.compile(r"(.)\1{7,}", re.DOTALL)  # vocabularies have long runs of one character as single tokens


def estimate(request: ChatRequest, model: str | None) -> int:
    """Return about how many tokens the prompt of a call has.

    About four characters of English a token, other scripts by their bytes (`slmclient.lengths`), what stands around
    messages, the descriptions of tools, and pictures: by their size where the model's rule is known.

    Args:
        request: The call.
        model: Which model is asked, as it was named.
    """
    parts = message_estimates(request, model)
    return sum(parts) + lengths.tools_tokens(request.tools) + lengths.BEGINNING


def message_estimates(request: ChatRequest, model: str | None) -> list[int]:
    """Return about how many tokens each message has, its pictures and sound included."""
    known = catalogue.find(model) if model else None
    counts_so = known is not None and known.name in vision.MODELS
    several = sum(len(message.images) for message in request.messages) > 1
    crops = vision.CROPS_OF_MANY if several else vision.CROPS
    return [_message_estimate(message, crops if counts_so else None) for message in request.messages]


def _message_estimate(message: Message, crops: int | None) -> int:
    seen = sum(_image_estimate(image, crops) for image in message.images)
    return lengths.message_tokens(message) + seen + len(message.audio) * AUDIO_TOKENS


def _image_estimate(image: Image, crops: int | None) -> int:
    size = size_of(image.content) if crops is not None and image.at_hand else None
    return lengths.IMAGE_TOKENS if size is None or crops is None else vision.image_tokens(*size, crops)


def token_count(counted: int | None, request: ChatRequest, model: str | None) -> TokenCount:
    """Return what was counted, or an estimate that says that it is one."""
    if counted is not None:
        return TokenCount(tokens=counted)
    return TokenCount(tokens=estimate(request, model), estimated=True)


def within_offer(request: ChatRequest, driver: Driver) -> tuple[ChatRequest, list[Note]]:
    """Return the call with no more ``max_tokens`` than its provider's own service gives, and what to tell of that.

    A server of one's own has limits of its own, and an id that the catalogue does not know passes as it is.

    Args:
        request: The call.
        driver: Who is asked; policies around it are looked through.

    Raises:
        ContextLengthExceededError: The text alone surely does not fit into the model's context.
    """
    model = request.model or driver.default_model
    inner = innermost(driver)
    known = catalogue.find(model) if model and getattr(inner, "at_vendor", False) else None
    if model is None or known is None:
        return request, []
    _check_text(request, driver.name, model, known)
    offer = catalogue.offer(model, inner.info.name)
    asked: int | None = request.sampling.get("max_tokens")
    if offer is None or offer.max_output is None or asked is None or asked <= offer.max_output:
        return request, []
    told = f"max_tokens: {asked:,} asked, {offer.max_output:,} is the most that {driver.name} gives"
    sampling = {**request.sampling, "max_tokens": offer.max_output}
    return replace(request, sampling=sampling), [Note("converted", told)]


def _check_text(request: ChatRequest, provider: str, model: str, known: catalogue.Model) -> None:
    """Raise an error for a text that surely has more tokens than the model's context, before it is sent."""
    signs = sum(len(message.text) for message in request.messages)
    if known.context is None or signs <= known.context * _SIGNS_PER_TOKEN:
        return
    signs = sum(len(_REPEATED.sub(r"\1", message.text)) for message in request.messages)
    least = signs // _SIGNS_PER_TOKEN
    if least > known.context:
        raise ContextLengthExceededError(
            f"{known.title} has a context of {known.context:,} tokens, and the prompt has at least {least:,} (an "
            "estimate, and a low one). Shorten it, or drop old turns: on_overflow='truncate_oldest'.",
            provider=provider,
            model=model,
            context=known.context,
        )


def check_context(request: ChatRequest, provider: str, model: str | None) -> None:
    """Raise an error for more pictures than a model's context holds, before they are sent.

    Only a sure overflow is one: the tokens are estimates, and low ones.

    Args:
        request: The call, its pictures made to fit.
        provider: Who is asked, for the error.
        model: Which model is asked, as it was named.

    Raises:
        ContextLengthExceededError: They do not fit; the number in it is an estimate, and says so.
    """
    known = catalogue.find(model) if model else None
    if known is None or known.name not in vision.MODELS or known.context is None:
        return
    images = [image for message in request.messages for image in message.images if image.at_hand]
    crops = vision.CROPS if len(images) == 1 else vision.CROPS_OF_MANY
    sizes = [size for image in images if (size := size_of(image.content)) is not None]
    seen = sum(vision.image_tokens(*size, crops) for size in sizes)
    read = sum(len(message.text) for message in request.messages) // _SIGNS_PER_TOKEN
    if seen + read > known.context:
        raise ContextLengthExceededError(
            f"{known.title} has a context of {known.context:,} tokens; the {len(sizes)} images alone take about "
            f"{seen:,} (an estimate). Send fewer: of a film, for instance, fewer frames.",
            provider=provider,
            model=model,
            context=known.context,
        )
