"""Tool calls that a model writes as text, found while the answer comes in. Pure.

Phi-4-mini writes them so: ``<|tool_call|>[{"name": …, "arguments": {…}}]<|/tool_call|>``, and often leaves out the end
tag or the brackets, or says ``parameters``; vLLM's template for it asks for ``functools[…]``; others write
``<tool_call>{…}</tool_call>``, or nothing but JSON. tests/fixtures/tool_calls has what was seen, each with its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from slmclient.chat import Event, Finish, TextDelta, ToolCallDelta
from slmclient.phi import call_json

OPENING = ("<|tool_call|>", "<|tool_calls|>", "<tool_call>", "functools", "functs")
"""What stands before calls."""
CLOSING = ("<|/tool_call|>", "<|/tool_calls|>", "</|tool_call|>", "</tool_call>")
"""What may stand behind them."""
TAGS = tuple(tag for tag in (*OPENING, *CLOSING) if tag.startswith("<"))
"""Those that may be tokens of their own, which an engine then has to show."""

_FENCES = ("```json", "```tool_call", "```")
_MARK = re.compile("|".join(map(re.escape, OPENING)))
_BEGUN = frozenset(mark[:size] for mark in OPENING for size in range(1, len(mark)))
_LONGEST = max(map(len, _BEGUN))
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s,\[\]]*")
_BETWEEN_FENCED = re.compile(r"[\s,\[\]`]*")
_LIST_END = re.compile(r"(?:[\s,]*\])+")
_FIRST = re.compile(r'\{\s*("(?:[^"\\]++|\\.)*+")(?:\s*:\s*("(?:[^"\\]++|\\.)*+"))?', re.DOTALL)

_CUT_OFF = ("cancelled", "error")


class ToolCallReader:
    """Events in, events out: calls of declared tools that stand in the text become ToolCallDelta, each whole.

    A call stands behind a mark of its own, or the answer is nothing but calls, in a fence or without. What names no
    declared tool, has other arguments than an object, or is not complete, is no call and stays text, unchanged; also
    where the answer was cut off. White space around calls is dropped; between two texts it is kept once. Calls that
    the server tells by itself end the reading: then text is text.

    Args:
        tools: Those that may be called, OpenAI-shaped dicts.
        first: How many calls the conversation has had: their ids are ``call_0``, ``call_1`` and so on.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, first: int = 0) -> None:
        self._tools = call_json.declared(tools)
        self._keys = call_json.KEYS | self._tools.keys()
        self._first = first
        self._count = 0
        self._passing = not tools
        self._state: Callable[[ToolCallReader, str, int], int] = ToolCallReader._start
        self._carry = ""
        """The end of the text so far, which may be the beginning of a mark."""
        self._events: list[Event] = []
        self._text: list[str] = []
        self._said = False
        """Whether any text was given out."""
        self._space: list[str] = []
        """White space at the end of the text so far."""
        self._gap: list[str] | None = None
        """White space behind a call; None where text came after the last one."""
        self._block = _Block("")
        self._item = _Item()

    @property
    def passing(self) -> bool:
        """Whether nothing will be changed or held back any more."""
        return self._passing

    def feed(self, event: Event) -> list[Event]:
        """Return what is sure by now."""
        if self._passing:
            return [event]
        if isinstance(event, TextDelta):
            self._read(event.text)
            return self._taken()
        if isinstance(event, (Finish, ToolCallDelta)):
            self._passing = True
            self._end(complete=isinstance(event, Finish) and event.reason not in _CUT_OFF)
            if isinstance(event, Finish) and event.reason == "stop" and self._count:
                event = Finish("tool_calls", event.raw)
            return [*self._taken(), event]
        return [event]

    def _read(self, text: str) -> None:
        text = self._carry + text
        self._carry = ""
        place = 0
        while place < len(text):
            place = self._state(self, text, place)

    def _end(self, *, complete: bool) -> None:
        """Give out what was held back. Nothing but calls is an answer only if it is complete."""
        block = self._block
        if self._state is ToolCallReader._in_item:
            self._say(block.text() + self._item.text())
        elif self._state is ToolCallReader._between:
            if block.waiting and complete and not self._carry:
                self._call(block.waiting)
            else:
                self._leave()
        self._say(self._carry)
        if self._gap is None:
            self._text += self._space

    # --- the states: each takes the text from a place on, and returns the place up to which it came

    def _start(self, text: str, place: int) -> int:
        """Before anything but white space."""
        place = self._spaces(text, place)
        if place == len(text):
            return place
        if text[place] in "[{":
            self._begin(_Block("", bare=True))
            return place
        fence = self._one_of(_FENCES, text, place) if text[place] == "`" else ""
        if fence is None:
            return len(text)
        if fence:
            self._begin(_Block(fence, bare=True, fenced=True))
        else:
            self._state = ToolCallReader._prose
        return place + len(fence)

    def _prose(self, text: str, place: int) -> int:
        """In text."""
        if mark := _MARK.search(text, place):
            self._say(text[place : mark.start()])
            self._begin(_Block(mark[0]))
            return mark.end()
        longest = min(_LONGEST, len(text) - place)
        held = next((size for size in range(longest, 0, -1) if text[-size:] in _BEGUN), 0)
        self._say(text[place : len(text) - held])
        self._carry = text[len(text) - held :]
        return len(text)

    def _between(self, text: str, place: int) -> int:
        """Behind a mark, or between calls."""
        block = self._block
        between = _BETWEEN_FENCED if block.fenced and block.waiting else _BETWEEN
        end = between.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        block.keep(text[place:end])
        if end == len(text):
            return end
        if text[end] == "{" or (text[end] == '"' and block.listed and not block.bare):
            self._item = _Item(text[end])
            self._state = ToolCallReader._in_item
            return end + 1
        tag = self._one_of(CLOSING, text, end) if text[end] == "<" else ""
        if tag is None:
            return len(text)
        if tag:
            self._close(tag)
        else:
            self._leave()
        return end + len(tag)

    def _in_item(self, text: str, place: int) -> int:
        """Inside an object, or a string that may hold one."""
        item, block = self._item, self._block
        place = item.read(text, place)
        if item.broken or (block.bare and item.checked < 2 and not self._may_be_call(item)):
            self._say(block.text() + item.text())
            self._state = ToolCallReader._prose
        elif item.closed:
            self._take(item.text())
        return place

    # --- what they share

    def _begin(self, block: _Block) -> None:
        self._block = block
        self._state = ToolCallReader._between

    def _may_be_call(self, item: _Item) -> bool:
        """Return whether an object that is not complete may become a call, by its first key and that one's value."""
        if item.strings == item.checked:
            return True
        item.checked = item.strings
        first = _FIRST.match(item.text())
        try:
            key = from_json(first[1]) if first else None
            value = from_json(first[2]) if first and first[2] else None
        except ValueError:
            return False
        if item.strings > 1 and key in ("name", "type") and key not in self._tools:
            return value in self._tools if key == "name" else value == "function"
        return key in self._keys

    def _take(self, text: str) -> None:
        """Take an object that is complete: as calls, or as text."""
        block = self._block
        self._state = ToolCallReader._between
        calls = call_json.calls(text, self._tools)
        if block.bare:
            block.keep(text)
            block.waiting += calls
            if not calls:
                self._say(block.text())
                self._state = ToolCallReader._prose
        elif calls:
            block.found = True
            block.text()
            self._call(calls)
        else:
            self._say(block.text() + text)

    def _close(self, tag: str) -> None:
        """End a block with its closing tag."""
        block = self._block
        if block.found or block.waiting:
            self._call(block.waiting)
        else:
            self._say(block.text() + tag)
        self._state = ToolCallReader._prose

    def _leave(self) -> None:
        """End a block before what does not belong to it."""
        block = self._block
        text = block.text()
        if block.found:
            self._say(_LIST_END.sub("", text, count=1) if _LIST_END.match(text) else text)
        else:
            self._say(text)
        self._state = ToolCallReader._prose

    def _one_of(self, marks: Sequence[str], text: str, place: int) -> str | None:
        """Return which of the marks (longer ones first) stands there, or ""; None, and a carry, if that is open."""
        rest = text[place : place + max(map(len, marks))]
        if place + len(rest) == len(text) and any(mark != rest and mark.startswith(rest) for mark in marks):
            self._carry = rest
            return None
        return next((mark for mark in marks if rest.startswith(mark)), "")

    # --- giving out

    def _say(self, text: str) -> None:
        """Give out text; white space at its end is held back."""
        begin = self._spaces(text, 0)
        core = text[begin:].rstrip()
        if not core:
            return
        if self._gap is None:
            self._text += self._space
        elif self._said:
            self._text += self._space or self._gap
        self._text.append(core)
        self._said = True
        self._space, self._gap = [text[begin + len(core) :]] if begin + len(core) < len(text) else [], None

    def _spaces(self, text: str, place: int) -> int:
        """Hold back the white space at a place; return where it ends."""
        end = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        if end > place:
            (self._space if self._gap is None else self._gap).append(text[place:end])
        return end

    def _call(self, calls: Sequence[tuple[str, str]]) -> None:
        """Give out calls."""
        if calls:
            self._put_text()
            self._gap = self._gap or []
        for name, arguments in calls:
            self._events.append(ToolCallDelta(self._count, f"call_{self._first + self._count}", name, arguments))
            self._count += 1

    def _put_text(self) -> None:
        if text := "".join(self._text):
            self._events.append(TextDelta(text))
        self._text = []

    def _taken(self) -> list[Event]:
        self._put_text()
        events, self._events = self._events, []
        return events


class _Block:
    """What stands behind a mark, or is the whole answer so far (``bare``): calls, and what is between them."""

    def __init__(self, mark: str, *, bare: bool = False, fenced: bool = False) -> None:
        self.bare, self.fenced = bare, fenced
        self.listed = False
        """Whether a bracket was opened."""
        self.found = False
        """Whether a call of it was given out."""
        self.waiting: list[tuple[str, str]] = []
        """Calls that are some only if nothing else follows."""
        self._kept = [mark]

    def keep(self, text: str) -> None:
        """Keep what is text unless it belongs to a call."""
        self.listed = self.listed or "[" in text
        self._kept.append(text)

    def text(self) -> str:
        """Return what was kept, once."""
        text = "".join(self._kept)
        self._kept = []
        return text


class _Item:
    """An object, or a string, as far as it has come. Each character is looked at once."""

    _OUTSIDE = re.compile(r'["{}\[\]<]')
    _INSIDE = re.compile(r'["\\]')

    def __init__(self, first: str = "{") -> None:
        self.closed = self.broken = False
        self.strings = self.checked = 0
        self._pieces = [first]
        self._in_string = first == '"'
        self._escaped = False
        self._fresh = not self._in_string
        """Whether the brace was the last that came, but for white space."""
        self._depth = 0 if self._in_string else 1

    def text(self) -> str:
        """Return it."""
        return "".join(self._pieces)

    def read(self, text: str, place: int) -> int:
        """Take the text from a place on; return where it ends, or breaks off because it is no JSON."""
        begin = place
        if self._fresh:
            place = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
            self._fresh = place == len(text)
            self.broken = not self._fresh and text[place] not in '"}'
        seen = self.strings
        while place < len(text) and not (self.closed or self.broken or seen < self.strings <= 2):
            place = self._string(text, place) if self._in_string else self._structure(text, place)
        self._pieces.append(text[begin:place])
        return place

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        sign = self._INSIDE.search(text, place)
        if sign is None:
            return len(text)
        if sign[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.strings += 1
            self.closed = self._depth == 0
        return sign.end()

    def _structure(self, text: str, place: int) -> int:
        sign = self._OUTSIDE.search(text, place)
        if sign is None:
            return len(text)
        if sign[0] == "<":  # no JSON: a tag, which comes too early
            self.broken = True
            return sign.start()
        if sign[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if sign[0] in "[{" else -1
            self.closed = self._depth == 0
        return sign.end()
