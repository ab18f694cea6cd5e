"""What a docstring says of a function and its parameters: Google's, NumPy's and Sphinx's way of writing. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_PARAMETERS = ("args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters")
_SECTIONS = frozenset(
    (
        *_PARAMETERS,
        *("return", "returns", "yield", "yields", "raise", "raises", "warns", "example", "examples", "note", "notes"),
        *("see also", "references", "attributes", "todo", "warning", "warnings"),
    )
)
_ENTRY = re.compile(r"(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?$")  # city (str, optional): The town.
_NAMES = re.compile(r"(\w+(?:\s*,\s*\w+)*)\s*(?::.*)?$")  # city, country : str
_FIELD = re.compile(r":(\w+)\s*([^:]*):\s*(.*)$")  # :param str city: The town.
_FIELDS = ("param", "parameter", "arg", "argument", "key", "keyword")


def read(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of its function, and of each parameter.

    Args:
        docstring: As it stands in the source.

    Returns:
        The text before the first section, and the parameters' descriptions by name, each on one line.
    """
    reading = _Reading()
    lines = inspect.cleandoc(docstring or "").splitlines()
    for number, line in enumerate(lines):
        reading.line(line.rstrip(), lines[number + 1 : number + 2])
    text = "\n".join(reading.about).strip()
    return text, {name: " ".join(pieces) for name, pieces in reading.parameters.items() if pieces}


class _Reading:
    """Reads line by line: where it stands decides what a line is."""

    def __init__(self) -> None:
        self.about: list[str] = []
        self.parameters: dict[str, list[str]] = {}
        self._section: str | None = None  # None before the first one
        self._indent: int | None = None  # of the section's entries; None before the first one
        self._current: list[list[str]] = []  # what a line that goes on is added to

    def line(self, line: str, following: Sequence[str]) -> None:
        text = line.strip()
        if line[:1].strip():
            if self._begins(text, following):
                return
            if self._section is None:
                self.about.append(line)
                return
        elif self._section is None:
            self.about.append(line)
        if text and self._section in ("google", "numpy", "field"):
            self._entry(text, len(line) - len(line.lstrip()))

    def _begins(self, text: str, following: Sequence[str]) -> bool:
        """Return whether an unindented line begins a section, underlines its title, or is a field."""
        field = _FIELD.match(text)
        title = text.removesuffix(":").strip().lower()
        underlined = bool(following and re.fullmatch(r"-{3,}", following[0].strip()))
        if field:
            words = field[2].split()
            self._section, self._current = "field", []
            if field[1] in _FIELDS and words:
                self._open(words[-1:], field[3])
        elif title in _SECTIONS and (underlined or text.endswith(":")):
            self._section = ("numpy" if underlined else "google") if title in _PARAMETERS else "other"
            self._indent, self._current = None, []
        elif not re.fullmatch(r"-{3,}", text) or self._section is None:
            return False
        return True

    def _entry(self, text: str, indent: int) -> None:
        """Take a line of the parameters: the next of them, or more of the last."""
        if self._section != "field":
            self._indent = indent if self._indent is None else self._indent
        if self._section == "google" and indent <= (self._indent or 0) and (entry := _ENTRY.match(text)):
            self._open([entry[1]], entry[2] or "")
        elif self._section == "numpy" and indent <= (self._indent or 0) and (names := _NAMES.match(text)):
            self._open(re.split(r"\s*,\s*", names[1]), "")
        else:
            for pieces in self._current:
                pieces.append(text)

    def _open(self, names: Sequence[str], text: str) -> None:
        self._current = [self.parameters.setdefault(name, []) for name in names]
        if text.strip():
            for pieces in self._current:
                pieces.append(text.strip())
