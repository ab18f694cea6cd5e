"""JSON in a model's text: fences and prose around it, commas too many. Pure, and linear in the text's length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

# What may stand in JSON, one piece at a time. Line ends inside strings are none of JSON's; small models write them.
# Whether a string's escapes are good is seen when the whole is parsed.
_PIECE = re.compile(
    r"""[ \t\r\n]*+(?:
        (?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")
      | (?P<open>[{\[]) | (?P<close>[}\]]) | (?P<comma>,) | (?P<colon>:)
      | (?P<plain>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+(?![\w.]) | (?:true|false|null)\b)
    )""",
    re.VERBOSE | re.DOTALL,
)
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<open>[{\[])|(?P<close>[}\]])|".*+', re.DOTALL)
_OPEN = re.compile(r"[{\[]")
_CUT_OFF = re.compile(r'[ \t\r\n]*+(?:"|[-+.\w]*+$)')
_CONTROL = re.compile(r"[\x00-\x1f]")
_FENCE = re.compile(r"```[ \t]*json[ \t]*\r?\n", re.IGNORECASE)
_STARTS_TRIED = 8  # brackets in prose that a growing text may have before its JSON

# What may come next inside a container: after "{", after a key, after its colon, after a value, after a comma.
_KEY_OR_END, _COLON, _VALUE, _VALUE_OR_END, _COMMA_OR_END = range(5)


def first_value(text: str) -> str | None:
    """Return the first JSON object or array in a text, as JSON text; None if there is none.

    One in a ```json fence comes before any other. Prose around it is left out, a comma before a closing bracket is
    taken out, and a line end inside a string is written as JSON wants it. A piece of something that broke off is none:
    what is returned was complete.
    """
    return next(values(text), None)


def values(text: str) -> Iterator[str]:
    """Yield every JSON object or array in a text that is not part of another, like `first_value`."""
    fence = _FENCE.search(text)
    start = fence.end() if fence else 0
    for begin, end in ((start, len(text)), (0, start)):
        yield from filter(_is_json, _Finder(text, begin, end).values())


def whole_value(text: str) -> str | None:
    """Return the text if it is JSON and nothing else, or what its one fence holds if that is; None otherwise."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].partition("\n")[2].strip()
    return text if _is_json(text) else None


def partial_value(text: str) -> Any:
    """Return what a growing text holds of its JSON object or array so far, or None where none has begun.

    The last string may be half of one, and the last number too.
    """
    complete = first_value(text)
    if complete is not None:
        return from_json(complete, allow_inf_nan=False)
    fence = _FENCE.search(text)
    for _, bracket in zip(range(_STARTS_TRIED), _OPEN.finditer(text, fence.end() if fence else 0), strict=False):
        try:
            return from_json(text[bracket.start() :], allow_inf_nan=False, allow_partial="trailing-strings")
        except (ValueError, TypeError):
            continue
    return None


def complaint(text: str) -> str:
    """Return why there is no JSON in a text, in words."""
    bracket = _OPEN.search(text)
    if bracket is None:
        return "there is no JSON in it"
    try:
        from_json(text[bracket.start() :], allow_inf_nan=False)
    except (ValueError, TypeError) as error:
        return f"it is not valid JSON: {str(error)[:120]}"
    return "there is no JSON in it"


def _is_json(text: str) -> bool:
    try:
        from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError):  # TypeError: half a character, which is no text
        return False
    return True


class _Finder:
    """Goes through the text once, with a stack of the brackets that are open.

    Where a piece does not fit, everything open is given up, since all of it holds that piece. What was meant as JSON
    (an object with a key and a colon) is passed over to its end: no part of it counts. Other brackets were prose, and
    the search goes on behind them, or inside the string that was read last: that may have begun in prose, too. No
    character is looked at more than a few times: inside a string all quotes have a backslash before them, which fits
    nowhere, so that no other string can begin there.
    """

    def __init__(self, text: str, start: int, end: int) -> None:
        self._text = text
        self._at = start
        self._end = end
        self._string = -1
        """Where the string that was read last begins."""
        self._open: list[tuple[int, bool]] = []
        """The containers that are open: where each begins, and whether it is an object."""
        self._next = 0
        self._comma = -1
        """Where the comma before this piece stands."""
        self._meant = False
        """Whether a key and a colon were read: no prose has those."""
        self._repairs: list[tuple[int, str]] = []
        """Characters to write otherwise, and what for."""

    def values(self) -> Iterator[str]:
        """Yield the outermost values."""
        while (bracket := _OPEN.search(self._text, self._at, self._end)) is not None:
            self._at = bracket.start()
            if (value := self._value()) is not None:
                yield value

    def _value(self) -> str | None:
        """Return the value that begins here, or None; stands after it, or where another may begin."""
        start = self._at
        self._open.clear()
        self._repairs.clear()
        self._string = self._comma = -1
        self._meant = False
        self._next = _VALUE
        while True:
            piece = _PIECE.match(self._text, self._at, self._end)
            if piece is None or not self._take(piece):
                self._resume(start)
                return None
            self._at = piece.end()
            if not self._open:
                return self._repaired(start, self._at)

    def _resume(self, start: int) -> None:
        """Go on where other JSON may begin."""
        if _CUT_OFF.match(self._text, self._at, self._end) and not _PIECE.match(self._text, self._at, self._end):
            self._at = self._end  # so far it was JSON
        elif self._meant:
            self._pass_over()
        else:
            self._at = max(self._at if self._string < 0 else self._string + 1, start + 1)

    def _pass_over(self) -> None:
        """Go to where as many brackets are closed as are open, or to the end."""
        depth = len(self._open)
        while depth and (found := _BRACKET.search(self._text, self._at, self._end)) is not None:
            self._at = found.end()
            depth += (found["open"] is not None) - (found["close"] is not None)
        if depth:
            self._at = self._end

    def _take(self, piece: re.Match[str]) -> bool:
        """Return whether a piece may stand here; note what comes next."""
        kind, expected = piece.lastgroup, self._next
        if kind == "open":
            if expected not in (_VALUE, _VALUE_OR_END):
                return False
            is_object = piece["open"] == "{"
            self._open.append((piece.start("open"), is_object))
            self._next = _KEY_OR_END if is_object else _VALUE_OR_END
            self._comma = -1
            return True
        if kind == "close":
            return self._close(piece)
        if kind == "comma":
            if expected != _COMMA_OR_END:
                return False
            self._comma = piece.start("comma")
            self._next = _KEY_OR_END if self._open[-1][1] else _VALUE_OR_END
            return True
        self._comma = -1
        if kind == "colon":
            self._next = _VALUE
            self._meant = self._meant or expected == _COLON
            return expected == _COLON
        if kind == "string":
            self._note_string(piece)
            if expected == _KEY_OR_END:
                self._next = _COLON
                return True
        if expected not in (_VALUE, _VALUE_OR_END):
            return False
        self._next = _COMMA_OR_END
        return True

    def _close(self, piece: re.Match[str]) -> bool:
        if self._next not in (_KEY_OR_END, _VALUE_OR_END, _COMMA_OR_END):
            return False
        if self._open[-1][1] != (piece["close"] == "}"):
            return False
        if self._comma >= 0:
            self._repairs.append((self._comma, ""))
            self._comma = -1
        self._open.pop()
        self._next = _COMMA_OR_END
        return True

    def _note_string(self, piece: re.Match[str]) -> None:
        self._string = piece.start("string")
        for control in _CONTROL.finditer(self._text, self._string, piece.end()):
            self._repairs.append((control.start(), f"\\u{ord(control[0]):04x}"))

    def _repaired(self, start: int, end: int) -> str:
        written: list[str] = []
        for at, instead in self._repairs:
            written += (self._text[start:at], instead)
            start = at + 1
        return "".join((*written, self._text[start:end]))
