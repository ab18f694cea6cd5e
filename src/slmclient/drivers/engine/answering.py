"""From an engine's tokens to the events of an answer, whichever engine it is. Pure.

What must not be seen is held back until it is sure: a character whose bytes are not all there, what may become a stop
string, and the tags around reasoning. Control tokens never become text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from slmclient.chat import Event, Finish, FinishReason, ReasoningDelta, TextDelta, Usage
from slmclient.drivers.engine.room import Outlet
from slmclient.phi.reasoning import ReasoningSplitter, begun

_CUT = "\ufffd"
"""What decoders write for bytes that are no whole character."""

_MOST_HELD = 8  # tokens; no character has more bytes than four, so more of them are no beginning of one

Decode = Callable[[Sequence[int]], str]


def remembering(decode: Decode) -> Decode:
    """Return the same, with the texts of single ids kept: a `Detokenizer` asks for one behind each token."""
    texts: dict[int, str] = {}

    def decoded(ids: Sequence[int]) -> str:
        if len(ids) != 1:
            return decode(ids)
        if (text := texts.get(ids[0])) is None:
            text = texts[ids[0]] = decode(ids)
        return text

    return decoded


class Detokenizer:
    """Turns ids into text, one by one; gives out whole characters only.

    Args:
        decode: The engine's own, for a few ids.
        before: The last ids before the answer, where it goes on in the middle of a text; some tokenizers leave out a
            space at the very beginning.
    """

    def __init__(self, decode: Decode, before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(before)
        self._given = 0  # from here on ids are not given out
        self._known = decode(self._ids) if before else ""
        if before:
            self._given = len(self._ids)

    def add(self, token: int) -> str:
        """Return the text that the token completes, or ""."""
        self._ids.append(token)
        text = self._decode(self._ids)
        held = len(self._ids) - self._given
        if text.endswith(_CUT) and held < _MOST_HELD:
            return ""
        return self._out(text)

    def end(self) -> str:
        """Return what is left, without a character that is not whole."""
        return self._out(self._decode(self._ids)).rstrip(_CUT) if len(self._ids) > self._given else ""

    def _out(self, text: str) -> str:
        new = text[len(self._known) :]
        # Only the ids just given out are needed to decode the next ones as their successors.
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        self._known = self._decode(self._ids)
        return new


class StopStrings:
    """Ends a text before the first stop string in it; holds back what may become one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held: str = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Return the part of the text so far that is sure, once."""
        if not self._strings:
            return text
        text = self._held + text
        found = [(place + len(string), place) for string in self._strings if (place := text.find(string)) >= 0]
        if found:  # the one that is complete first, so that it does not matter how the text is cut
            self.found = True
            self._held = ""
            return text[: min(found)[1]]
        kept = max(begun(text, string) for string in self._strings)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return what was held back and became nothing."""
        held = self._held
        self._held = ""
        return held


class Answer:
    """One answer in the making: takes tokens (or text), gives events, and knows how it ended.

    Args:
        emit: Where the events go.
        limit: Most tokens of the answer.
        stop: Strings that end it.
        thinking: Whether the prompt ends with the tag that opens reasoning.
        ends: Ids that end an answer.
        hidden: Ids of control tokens, which are no text.
        words: Decodes ids; an answer that only takes text needs none.
    """

    def __init__(
        self,
        emit: Outlet,
        *,
        limit: int,
        stop: Sequence[str] = (),
        thinking: bool = False,
        ends: Collection[int] = (),
        hidden: Collection[int] = (),
        words: Detokenizer | None = None,
    ) -> None:
        self._emit = emit
        self._limit = limit
        self._stop = StopStrings(stop)
        self._reasoning = ReasoningSplitter(inside=thinking)
        self._ends = ends
        self._hidden = hidden
        self._words = words
        self.tokens = 0
        """How many the answer has so far."""
        self.reason: FinishReason | None = None
        """Why it ended, once that is known."""

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for more."""
        return self._emit.wanted

    def token(self, token: int) -> bool:
        """Take the next token; return whether the engine is to go on."""
        if token in self._ends:
            self.reason = "stop"
            return False
        self.tokens += 1
        going = self.wanted
        if token not in self._hidden and self._words is not None and (text := self._words.add(token)):
            going = self.text(text)
        if going and self.tokens >= self._limit:
            self.reason = "length"
        return going and self.reason is None

    def text(self, text: str) -> bool:
        """Take the next piece of text; return whether the engine is to go on."""
        return all(self._give(*part) for part in self._reasoning.feed(text)) and self.reason is None

    def _give(self, reasoning: bool, text: str) -> bool:
        if self._stop.found:
            return False
        if not reasoning:
            text = self._stop.feed(text)
            if self._stop.found:
                self.reason = "stop"
        going = self._emit(_delta(reasoning, text)) if text else self._emit.wanted
        return going and not self._stop.found

    def end(self, input_tokens: int, output_tokens: int | None = None, raw: object = None) -> None:
        """Give out what was held back, and the end. An engine that ended by itself came to the answer's end."""
        if not self._stop.found and self._words is not None and (left := self._words.end()):
            self.text(left)
        if not self._stop.found:
            for part in self._reasoning.end():
                self._give(*part)
        if not self._stop.found and (held := self._stop.end()):
            self._emit(TextDelta(held))
        self._emit(Finish(self.reason or "stop", raw))
        used = self.tokens if output_tokens is None else output_tokens
        self._emit(Usage(input_tokens=input_tokens, output_tokens=used))


def _delta(reasoning: bool, text: str) -> Event:
    return ReasoningDelta(text) if reasoning else TextDelta(text)
