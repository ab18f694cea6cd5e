"""Pictures: from the bytes in a message to what a model's processor makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.pictures import unpacked
from slmclient.drivers.prompt import Template, render
from slmclient.errors import BadRequestError, ConfigurationError, SLMError
from slmclient.media import Image, image_bytes
from slmclient.messages import Message
from slmclient.phi.vision import CROPS, CROPS_OF_MANY

_PROBE = Image(b"BM")
_TOKENS = ("image_token", "fake_image_token", "global_image_token", "boi_token", "eoi_token")


class Eyes:
    """A model's processor.

    Args:
        processor: As Transformers loaded it.
        info: The driver's, and the provider's name: for errors.
        provider: The same.
    """

    def __init__(self, processor: Any, info: DriverInfo, provider: str) -> None:
        self._processor = processor
        self._info = info
        self._provider = provider
        words = processor.tokenizer
        self.tag: str = getattr(processor, "image_token", None) or "<image>"
        own = [token for name in _TOKENS if isinstance(token := getattr(processor, name, None), str)]
        self.marks: tuple[str, ...] = (self.tag, *own, *words.all_special_tokens)
        """What stands for pictures, or for anything else that nobody's text may become."""
        self._token: int | None = words.convert_tokens_to_ids(self.tag)

    def takes_parts(self, template: Template) -> bool:
        """Return whether a template itself knows how to place a picture."""
        try:
            return self.tag in render(template, [Message.user("a", _PROBE)], parts=True).text
        except SLMError:
            return False

    def read(self, text: str, images: Sequence[Image], device: Any, dtype: Any) -> Mapping[str, Any]:
        """Return the model's inputs, as tensors.

        Raises:
            BadRequestError: A picture is damaged or too large, or the processor refuses them.
        """
        pictures = unpacked(images, self._info, self._provider)
        sight = self._processor.image_processor
        if hasattr(sight, "num_crops"):  # that of Phi-3-vision and Phi-3.5-vision; not tried with their own weights
            sight.num_crops = CROPS if len(images) == 1 else CROPS_OF_MANY
        try:
            made = self._processor(text=text, images=pictures, add_special_tokens=False, return_tensors="pt")
        except (ValueError, TypeError, IndexError) as error:
            raise BadRequestError(
                f"The model's processor refuses these images: {error}", provider=self._provider
            ) from None
        moved: Mapping[str, Any] = made.to(device=device, dtype=dtype)
        return moved

    def keys(self, ids: Sequence[int], images: Sequence[Image]) -> tuple[list[Hashable], int]:
        """Return what stands for each token, so that other pictures are other tokens; and how many there are at least
        until the last picture is over.
        """
        print_ = hashlib.sha256(b"".join(hashlib.sha256(image_bytes(image)).digest() for image in images)).digest()
        places = [place for place, token in enumerate(ids) if token == self._token]
        if not places:
            return [(print_, token) for token in ids], len(ids)
        keys: list[Hashable] = list(ids)
        for place in places:
            keys[place] = print_
        return keys, places[-1] + 1


def load_eyes(engine: Any, path: Path, info: DriverInfo, provider: str, trusted: bool) -> Eyes:
    """Return the processor of a model that sees."""
    processor = engine.AutoProcessor.from_pretrained(str(path), local_files_only=True, trust_remote_code=trusted)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ConfigurationError(f"{path} has no processor for images: preprocessor_config.json is missing.")
    return Eyes(processor, info, provider)
