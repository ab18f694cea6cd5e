"""Fenced blocks are found as Markdown means them, in one pass, and nothing in them is run."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient.code_blocks import CodeBlock, code_blocks


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        ("no code", []),
        ("```python\nx = 1\n```", [("python", "x = 1\n")]),
        ("Here:\n\n```Python title=a.py\nx\n```\nand\n~~~\ny\n~~~\n", [("python", "x\n"), ("", "y\n")]),
        ("````md\n```python\nx\n```\n````", [("md", "```python\nx\n```\n")]),
        ("~~~\n```\nx\n```\n~~~", [("", "```\nx\n```\n")]),
        ("```\nx\n`````", [("", "x\n")]),
        ("```\nx\n``", []),
        ("```python\nx = 1", []),
        ("```python\nx\n```\n```python\ncut", [("python", "x\n")]),
        ("1. So:\n   ```js\n   y\n   ```\n", [("js", "   y\n")]),
        ("```c++\nx\n```", [("c++", "x\n")]),
        ("```a`b\nx\n```\ny", []),
        ("use ```inline``` code", []),
        ("```\n``` python\nx\n```", [("", "``` python\nx\n")]),
        ("```python\r\nx\r\n```\r\n", [("python", "x\r\n")]),
        ("```\na\x0c```\n```", [("", "a\x0c```\n")]),
    ],
)
def test_blocks_are_found(text: str, blocks: list[tuple[str, str]]) -> None:
    assert [(block.language, block.code) for block in code_blocks(text)] == blocks


@given(
    st.lists(st.sampled_from(["```", "~~~", "````", "python", "\n", " ", "x", "`", "\r\n"]), max_size=40).map("".join)
)
def test_any_text_is_taken_and_blocks_are_pieces_of_it(text: str) -> None:
    for block in code_blocks(text):
        assert block.code in text


@given(st.text(), st.sampled_from(["", "python", "c++"]))
def test_what_is_fenced_comes_out_as_it_went_in(code: str, language: str) -> None:
    code = code.replace("`", "'").replace("~", "-") + "\n"
    assert code_blocks(f"before\n```{language}\n{code}```\nafter") == (CodeBlock(language, code),)


@pytest.mark.parametrize("piece", ["```a\n", "```" + "x" * 50 + "`\n", "~" * 60 + "\n", " " * 60 + "\n", "```\n~~~\n"])
def test_the_work_grows_with_the_text_alone(piece: str) -> None:
    def calls(times: int) -> int:
        counted = 0

        def count(frame: FrameType, event: str, arg: Any) -> None:
            nonlocal counted
            counted += event == "c_call"

        text = piece * times
        sys.setprofile(count)
        try:
            code_blocks(text)
        finally:
            sys.setprofile(None)
        return counted

    assert calls(2_000) <= 2.1 * calls(1_000)


def test_a_line_is_read_once() -> None:
    """A line that almost is a fence would take for ever, were its signs looked at again from each of them."""
    assert code_blocks("```" + "x" * 100_000 + "`") == ()


def test_a_block_reads_as_its_code() -> None:
    assert str(CodeBlock("python", "x\n")) == "x\n"


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("py", "python"),
        ("python3", "Python"),
        ("python", "py"),
        ("js", "javascript"),
        ("shell", "bash"),
        ("rust", "rust"),
    ],
)
def test_a_language_has_other_names(written: str, asked: str) -> None:
    (block,) = code_blocks(f"```{written}\nx\n```")
    assert block.is_of(asked)
    assert not block.is_of("ruby")
