"""What the commands write: answers to standard output, everything else to standard error.

Text from models and servers is shown as plain text: no markup in it is read, and a terminal gets none of its control
characters. Colour only on a terminal, and not where NO_COLOR is set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Literal

from slmclient.chat import ReasoningDelta, TextDelta

if TYPE_CHECKING:
    from rich.console import Console

    from slmclient.media import SentImage
    from slmclient.reply import Reply
    from slmclient.stream import ReplyStream

# Everything but tab and newline of C0, DEL and C1: they could move the cursor, set the title, or worse.
_CONTROL = dict.fromkeys([*(code for code in range(32) if code not in (9, 10)), *range(127, 160)])
_ENDINGS = {
    "length": "cut off at the token limit",
    "content_filter": "stopped by the content filter",
    "cancelled": "stopped",
    "error": "broken off",
}
_MOST_CHANGES = 3  # told of pictures, in the one line


class Answer:
    """Writes an answer to standard output, piece by piece."""

    def __init__(self) -> None:
        self._shown = is_terminal(sys.stdout)
        self._mid_line = False

    def write(self, text: str) -> None:
        """Write the next piece, at once."""
        sys.stdout.write(printable(text) if self._shown else text)
        sys.stdout.flush()
        self._mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line that is under way, if one is."""
        if self._mid_line:
            self.write("\n")

    def show(self, stream: ReplyStream, *, quiet: bool) -> None:
        """Write a whole stream; what the model thinks goes to a terminal's standard error, dimmed."""
        thoughts = not quiet and is_terminal(sys.stderr)
        thinking = False
        for event in stream.events():
            if isinstance(event, TextDelta):
                if thinking:
                    say("")
                    thinking = False
                self.write(event.text)
            elif isinstance(event, ReasoningDelta) and thoughts:
                thinking = True
                say(event.text, style="dim", end="")
        self.end_line()


def is_terminal(stream: IO[str] | None) -> bool:
    """Return whether a standard stream is a terminal; a closed one is None."""
    return stream is not None and stream.isatty()


def console(*, error: bool = True) -> Console:
    """Return a console that shows text as it is, and wraps nothing."""
    from rich.console import Console

    class Plain(Console):
        def __init__(self, color_system: Literal["auto"] | None) -> None:
            super().__init__(
                stderr=error, color_system=color_system, markup=False, highlight=False, emoji=False, soft_wrap=True
            )

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # as any other write; rich would end the process with exit code 1

    made = Plain("auto")
    return Plain(None) if made.no_color else made  # rich leaves bold and dim on where NO_COLOR is set


def printable(text: str) -> str:
    """Return text without what could move the cursor, set the title, or worse."""
    return text.translate(_CONTROL)


def say(text: str, *, style: str | None = None, end: str = "\n") -> None:
    """Write to standard error."""
    if style is None or not is_terminal(sys.stderr):  # plain, and so without rich: it takes as long as Typer to import
        print(printable(text), end=end, file=sys.stderr, flush=True)
    else:
        console().print(printable(text), style=style, end=end)


def complain(error: Exception) -> None:
    """Write an error to standard error."""
    from rich.text import Text

    console().print(Text.assemble(("Error: ", "bold red"), printable(str(error))))


def footer(reply: Reply) -> None:
    """Say in one line who answered, how much and how fast, and what was not as asked; before it, of pictures."""
    count = reply.usage.output_tokens
    about = "about " if reply.usage.estimated else ""
    parts = [
        reply.provider,
        reply.model,
        f"{about}{count} token{'' if count == 1 else 's'}",
        f"{reply.timing.total:.1f} s",
    ]
    if reply.finish_reason in _ENDINGS:
        parts.append(_ENDINGS[reply.finish_reason])
    if len(reply.attempts) > 1:
        parts.append(f"{len(reply.attempts)} tries")
    if reply.dropped:
        parts.append(f"left out: {', '.join(reply.dropped)}")
    parts.extend(reply.converted)
    if reply.images:
        say(_changed(reply.images), style="dim")
    say(" · ".join(part for part in parts if part), style="dim")


def _changed(images: Sequence[SentImage]) -> str:
    """Return in one line which pictures were not sent as they were, and what was done to them."""
    alike: dict[str, list[SentImage]] = {}
    for image in images:
        alike.setdefault(", ".join(image.changes), []).append(image)
    parts = [f"{_numbers(those)} {changes}{_sizes(those)}" for changes, those in alike.items()]
    more = len(parts) - _MOST_CHANGES
    return "; ".join(parts[:_MOST_CHANGES]) + ("; other images otherwise" if more > 0 else "")


def _numbers(images: Sequence[SentImage]) -> str:
    numbers = [image.number for image in images]
    if len(numbers) == 1:
        return f"image {numbers[0]}:"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"images {numbers[0]} to {numbers[-1]}:"
    return f"{len(numbers)} images:"


def _sizes(images: Sequence[SentImage]) -> str:
    """Return from which size to which, where that is one for all of them."""
    both = {(image.original_size, image.size) for image in images}
    before, after = both.pop()
    if both or before is None or after is None or before == after:
        return ""
    return f" ({before[0]} × {before[1]} to {after[0]} × {after[1]})"
