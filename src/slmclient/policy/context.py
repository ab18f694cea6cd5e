"""Whether a call's pictures fit into a model's context, where it is known how many tokens they take. Pure."""

from __future__ import annotations

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.errors import ContextLengthExceededError
from slmclient.media.header import size_of
from slmclient.phi import vision

_SIGNS_PER_TOKEN = 8  # few texts have more: the text is rather counted as too short


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
        )
