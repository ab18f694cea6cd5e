"""The keys and values of the last prompt and its answer, kept for a next prompt that begins in the same way."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from importlib import import_module
from typing import Any

from slmclient.drivers.engine.reading import common_prefix


class Memory:
    """Holds one cache of Transformers', and says which part of a prompt is in it.

    Args:
        engine: The module ``transformers``.
        config: The model's.
    """

    def __init__(self, engine: Any, config: Any) -> None:
        self._engine = engine
        self._config = config
        self._cache: Any = None
        self._keys: list[Hashable] = []

    def recall(self, keys: Sequence[Hashable], least: int = 0) -> tuple[Any, int]:
        """Return the cache, cut to what it has of the prompt, and how many tokens that are.

        Args:
            keys: What stands for each token: its id; another object for one that is part of a picture.
            least: With fewer in common it begins anew, as a picture can only be read as a whole.
        """
        known = common_prefix(self._keys, keys[:-1])  # the last token is always read: what follows it is asked for
        if self._cache is None or known < max(least, 1) or not self._cut(known):
            self._cache, known = self._new(), 0
        self._keys = list(keys[:known])
        return self._cache, known

    def keep(self, keys: Sequence[Hashable]) -> None:
        """Note what has been read and written; what not all of the cache has taken in does not count."""
        if self._cache is not None:
            lengths = [length for layer in self._cache.layers if (length := layer.get_seq_length())]
            self._keys = list(keys[: min(lengths, default=0)])

    def clear(self) -> None:
        """Forget everything."""
        self._cache, self._keys = None, []

    def _cut(self, length: int) -> bool:
        """Cut the cache to a length; return whether it could be."""
        layers = [layer for layer in self._cache.layers if layer.get_seq_length() > length]
        if layers and not self._cache.is_croppable:
            return False
        for layer in layers:  # one by one: a pass that was left in its middle has filled only some
            layer.crop(length - layer.get_seq_length())
        return True

    def _new(self) -> Any:
        engine = self._engine
        cache = engine.DynamicCache(config=self._config)
        layers = import_module("transformers.cache_utils")
        kinds = layers.DynamicLayer, layers.DynamicSlidingWindowLayer
        # A layer with a sliding window cannot go back; one that keeps everything can, and its mask is the same.
        return engine.DynamicCache() if all(type(layer) in kinds for layer in cache.layers) else cache
