"""How far long work is, on standard error: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slmclient.cli.terminal import console, is_terminal, printable, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_EVERY = 3.0  # seconds between two lines where there is no terminal


class Display:
    """Shows one fetch. Nothing where nothing is fetched, and nothing at all where it is to be quiet."""

    def __init__(self, announcement: str, *, quiet: bool = False) -> None:
        """Make a display that begins with an announcement, in which ``{size}`` stands for what is fetched."""
        self._announcement = announcement
        self._quiet = quiet
        self._begun = False
        self._doing = ""
        self._bar: tuple[Progress, TaskID] | None = None
        self._last = time.monotonic()

    def begin(self, total: int | None) -> None:
        """Say once what is fetched."""
        if self._begun or self._quiet:
            return
        self._begun = True
        say(self._announcement.replace("{size}", f"{megabytes(total)} MB" if total else "size unknown"))
        if is_terminal(sys.stderr):
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            progress = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console(), transient=True)
            progress.start()
            self._bar = progress, progress.add_task("", total=total)

    def update(self, done: int, total: int | None, doing: str = "") -> None:
        """Take the number of bytes so far, of how many, and what is going on where that is not plain fetching."""
        self.begin(total)
        if self._quiet:
            return
        if doing != self._doing:
            self._doing = doing
            say(doing, style="dim")
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=done, total=total)
        elif total and time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            say(f"{megabytes(done)} of {megabytes(total)} MB")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()


class Reading:
    """Shows how far something is read. Nothing where that does not take long, and nothing where it is to be quiet."""

    def __init__(self, doing: str, *, quiet: bool = False) -> None:
        self._doing = doing
        self._quiet = quiet
        self._bar: tuple[Progress, TaskID] | None = None
        self._last = time.monotonic()

    def update(self, fraction: float) -> None:
        """Take how much is done, from 0 to 1."""
        if self._quiet:
            return
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=fraction)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            if is_terminal(sys.stderr):
                self._begin()
                self.update(fraction)
            else:
                say(f"{self._doing}: {fraction:.0%}")

    def _begin(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=console(), transient=True)
        progress.start()
        self._bar = progress, progress.add_task(printable(self._doing), total=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()


def megabytes(count: int) -> int:
    """Return a number of bytes as people read it."""
    return round(count / 1e6)
