"""Pictures, video and sound in messages: what they are, how they are held, and how they are made to fit."""

from __future__ import annotations

from slmclient.media.image import MAX_IMAGE_BYTES, Image, as_base64, as_image, image_bytes, image_type
from slmclient.media.limits import FORMATS, ImageLimits, SentImage

__all__ = (
    "FORMATS",
    "MAX_IMAGE_BYTES",
    "Image",
    "ImageLimits",
    "SentImage",
    "as_base64",
    "as_image",
    "image_bytes",
    "image_type",
)
