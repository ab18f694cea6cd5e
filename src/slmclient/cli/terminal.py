"""What the commands write: answers to standard output, everything else to standard error.

Text from models and servers is shown as plain text: no markup in it is read, and a terminal gets none of its control
characters. Colour only on a terminal, and not where NO_COLOR is set.
"""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Literal

from slmclient.chat import ReasoningDelta, TextDelta

if TYPE_CHECKING:
    from rich.console import Console

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


class Answer:
    """Writes an answer to standard output, piece by piece."""

    def __init__(self) -> None:
        self._shown = is_terminal(sys.stdout)
        self._mid_line = False

    def write(self, text: str) -> None:
        """Write the next piece, at once."""
        sys.stdout.write(text.translate(_CONTROL) if self._shown else text)
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


def say(text: str, *, style: str | None = None, end: str = "\n") -> None:
    """Write to standard error."""
    console().print(text.translate(_CONTROL), style=style, end=end)


def complain(error: Exception) -> None:
    """Write an error to standard error."""
    from rich.text import Text

    console().print(Text.assemble(("Error: ", "bold red"), str(error).translate(_CONTROL)))


def footer(reply: Reply) -> None:
    """Say in one line who answered, how much and how fast; and what was not as asked."""
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
    say(" · ".join(part for part in parts if part), style="dim")
