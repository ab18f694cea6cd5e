"""Telling whose text is whose in a rendered prompt, so that a control token in somebody's text can be cut in two. Pure.

The characters of people's texts are swapped for stand-ins, one for one, before the template puts its own text around
them, and swapped back afterwards. What shows a stand-in is somebody's text; a control token that shows none is the
template's. Unlike marks around the texts, stand-ins survive trimming, slicing and joining, and change no length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

from slmclient.errors import BadRequestError

_PRIVATE = range(0xE000, 0xF900)  # characters that mean nothing to anybody
_LEFT_ALONE = re.compile(r'[\s"\\\x00-\x1f\x7f]')  # what templates trim, split at, or escape in JSON
_ESCAPED = re.compile(r"\\u([ef][0-9a-f]{3})")


class ControlTokens:
    """The texts of a model's control tokens, to be found in other text. Those of one character are left out."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(text for text in texts if len(text) > 1)
        sizes: dict[str, set[int]] = {}
        for text in self._texts:
            sizes.setdefault(text[0], set()).add(len(text))
        self._sizes = {first: sorted(lengths) for first, lengths in sizes.items()}
        self._first = re.compile("|".join(map(re.escape, sizes)) or "(?!)")
        self.characters = sorted({c for text in self._texts for c in text if not _LEFT_ALONE.match(c)})

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where the tokens stand: all of them, also those that overlap."""
        for hit in self._first.finditer(text):
            start = hit.start()
            for size in self._sizes[text[start]]:
                if text[start : start + size] in self._texts:
                    yield start, start + size


@lru_cache(maxsize=16)
def control_tokens(texts: tuple[str, ...]) -> ControlTokens:
    """Return the tokens with those texts."""
    return ControlTokens(texts)


def unused(texts: Iterable[str]) -> Iterator[str]:
    """Yield characters that stand in none of the texts, neither as they are nor as JSON may escape them.

    Raises:
        BadRequestError: There are none left.
    """
    joined = "\n".join(texts)
    there = set(joined)
    there.update(chr(int(digits, 16)) for digits in _ESCAPED.findall(joined))
    yield from (c for c in map(chr, _PRIVATE) if c not in there)
    raise BadRequestError("The texts use every character of Unicode's private area: leave these out.")


class Disguise:
    """Swaps characters for stand-ins, and back.

    Args:
        tokens: The control tokens: only characters that stand in them are swapped.
        free: Characters that stand in no text; as many as are needed are taken.
        spared: Texts whose characters stay as they are outside of control tokens: a template may look for them.
    """

    def __init__(self, tokens: ControlTokens, free: Iterator[str], spared: Iterable[str] = ()) -> None:
        self._tokens = tokens
        swapped = {c: next(free) for c in tokens.characters}
        self._there = str.maketrans(swapped)
        self._back: Mapping[int, str] = {ord(stand_in): c for c, stand_in in swapped.items()}
        self._stand_in = re.compile("|".join(swapped.values()) or "(?!)")
        words = sorted((text for text in spared if len(text) > 1), key=len, reverse=True)
        self._spared = re.compile("|".join(map(re.escape, words))) if words else None

    def whole(self, text: str) -> str:
        """Return the text, disguised from end to end but for what is spared."""
        if self._spared is None:
            return text.translate(self._there)
        spared = {place for hit in self._spared.finditer(text) for place in range(*hit.span())}
        spared -= self._in_tokens(text)
        return "".join(c if place in spared else c.translate(self._there) for place, c in enumerate(text))

    def tokens(self, text: str) -> str:
        """Return the text with no more than the control tokens in it disguised."""
        inside = self._in_tokens(text)
        if not inside:
            return text
        return "".join(c.translate(self._there) if place in inside else c for place, c in enumerate(text))

    def _in_tokens(self, text: str) -> set[int]:
        return {place for span in self._tokens.find(text) for place in range(*span)}

    def plain(self, text: str) -> str:
        """Return the text as it was before."""
        return self._unescaped(text).translate(self._back)

    def pieces(self, text: str) -> tuple[str, ...]:
        """Return the text as it was before, cut once inside each control token that somebody's text has a part in."""
        text = self._unescaped(text)
        restored = text.translate(self._back)
        own: set[int] = set()  # places inside the template's own tokens
        others: list[tuple[int, int]] = []
        for start, end in self._tokens.find(restored):
            if self._stand_in.search(text, start, end):
                others.append((start, end))
            else:
                own.update(range(start + 1, end))
        cuts = {_place(start, end, own) for start, end in others}
        places = [0, *sorted(cuts), len(restored)]
        return tuple(restored[start:end] for start, end in pairwise(places))

    def _unescaped(self, text: str) -> str:
        """Return the text with stand-ins for what JSON, told to write ASCII only, made of them."""

        def stand_in(escape: re.Match[str]) -> str:
            character = chr(int(escape[1], 16))
            return character if ord(character) in self._back else escape[0]

        return _ESCAPED.sub(stand_in, text) if "\\u" in text else text


def _place(start: int, end: int, own: set[int]) -> int:
    """Return where to cut a token: inside it, but inside none of the template's own that overlaps it."""
    inside = range(start + 1, end)
    return next((place for place in inside if place not in own), inside[0])
