"""Fenced code blocks in a text, as Markdown has them: found in one pass, never run. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)([^`]*+)")  # possessive: no line is read twice
_OTHERWISE = {"py": "python", "python3": "python", "js": "javascript", "sh": "bash", "shell": "bash"}
_LINE = re.compile(r"[^\n]*+\n|[^\n]++")


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block: what stands between the fences, and the language that the first one names."""

    language: str
    """In lower case; "" where none is named."""
    code: str
    """With its last new line."""

    def __str__(self) -> str:
        return self.code

    def is_of(self, language: str) -> bool:
        """Return whether that is the block's language; ``py`` is ``python``."""
        return _known(self.language) == _known(language.lower())


def _known(language: str) -> str:
    return _OTHERWISE.get(language, language)


def code_blocks(text: str) -> tuple[CodeBlock, ...]:
    """Return the fenced blocks of a text, in order.

    One that is not closed, as in an answer that was cut, is none. A fence ends with one of the same signs that is at
    least as long.
    """
    blocks: list[CodeBlock] = []
    fence, language, begin, place = "", "", 0, 0
    for line in _LINE.findall(text):
        found = _FENCE.fullmatch(line.rstrip("\r\n"))
        place += len(line)
        if found is None:
            continue
        signs, word, rest = found.groups()
        if not fence:
            fence, language, begin = signs, word, place
        elif signs.startswith(fence) and not word and not rest.strip():
            blocks.append(CodeBlock(language.lower(), text[begin : place - len(line)]))
            fence = ""
    return tuple(blocks)
