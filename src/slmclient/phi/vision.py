"""How many tokens a picture takes in Phi-3-vision and Phi-3.5-vision. Pure.

Source: ``processing_phi3_v.py`` in microsoft/Phi-3.5-vision-instruct, as in ONNX Runtime's extensions: a picture lies
on a grid of square crops, at most so many; each crop, and the whole picture once more, becomes 144 tokens, each row of
crops ends with 12, and one separates the two views. Estimates all the same: a server may have been set up otherwise.
"""

from __future__ import annotations

import math

MODELS = frozenset({"phi-3-vision", "phi-3.5-vision"})
"""The models that count so, by their portable names."""
CROPS = 16
"""Most crops of a single picture."""
CROPS_OF_MANY = 4
"""Most crops of each where there are several, as the model card of Phi-3.5-vision recommends."""

_CROP_TOKENS, _ROW_TOKENS, _SEPARATORS = 144, 12, 1


def image_tokens(width: int, height: int, crops: int) -> int:
    """Return about how many tokens a picture takes.

    Args:
        width: In pixels.
        height: In pixels.
        crops: Most crops that it is laid on.
    """
    long, short = max(width, height), min(width, height)
    ratio = long / short
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= crops:
        columns += 1
    rows = math.ceil(columns / ratio)
    if width < height:
        columns, rows = rows, columns
    return (columns * rows + 1) * _CROP_TOKENS + _SEPARATORS + (rows + 1) * _ROW_TOKENS
