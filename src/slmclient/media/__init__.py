"""Pictures, video and sound in messages: what they are, how they are held, and how they are made to fit."""

from __future__ import annotations

from slmclient.media.audio import Audio, as_audio
from slmclient.media.image import MAX_IMAGE_BYTES, Image, as_base64, as_image, image_bytes, image_type
from slmclient.media.limits import ANY_IMAGE, FORMATS, HELD, ImageLimits, SentImage

__all__ = (
    "ANY_IMAGE",
    "FORMATS",
    "HELD",
    "MAX_IMAGE_BYTES",
    "Audio",
    "Image",
    "ImageLimits",
    "SentImage",
    "as_audio",
    "as_base64",
    "as_image",
    "image_bytes",
    "image_type",
)
