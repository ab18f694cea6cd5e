"""Server-sent events and lines: the same frames however a stream is cut, and those that the standard says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from slmclient.drivers.wire import framing
from slmclient.drivers.wire.framing import DONE, EventStream, LineStream
from slmclient.errors import ResponseFormatError

BOM = b"\xef\xbb\xbf"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=12)
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
spaces = st.sampled_from(["", " "])


@st.composite
def data_lines(draw: st.DrawFn) -> list[str]:
    """One payload as the lines of its data field: JSON in one line, or pretty-printed over several."""
    indent = draw(st.sampled_from([None, None, 1]))
    written = json.dumps(draw(payloads), ensure_ascii=draw(st.booleans()), indent=indent)
    return [f"data:{draw(spaces)}{line}" for line in written.split("\n")]


others = st.one_of(
    texts.map(lambda text: ":" + text),  # a comment, or a keep-alive
    st.tuples(spaces, texts).map(lambda pair: f"event:{pair[0]}{pair[1]}"),
    st.tuples(spaces, texts).map(lambda pair: f"id:{pair[0]}{pair[1]}"),
    st.sampled_from(
        ["retry: 100", "retry:x", "retry", "id", "event", "data", "data:", "datax: 1", "Data: 1", " data: 1"]
    ),
    texts,
)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn, ends: st.SearchStrategy[str] = line_ends, bom: bool = True) -> bytes:
    """A byte stream of events, with everything that servers put around and between their data."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        block = draw(data_lines() | st.just(["data: [DONE]"]) | st.just([]))
        for extra in draw(st.lists(others, max_size=2)):
            block.insert(draw(st.integers(0, len(block))), extra)
        lines += [*block, *draw(st.sampled_from([[""], [""], ["", ""]]))]
    if draw(st.booleans()):  # a last event that no blank line ends, and perhaps not even a line break
        lines += draw(data_lines())
    mixed = draw(st.booleans())
    end = draw(ends)
    stream = "".join(line + (draw(ends) if mixed else end) for line in lines)
    if draw(st.booleans()):
        stream = stream.removesuffix("\n").removesuffix("\r")
    return (BOM if bom and draw(st.booleans()) else b"") + stream.encode()


def pieces(draw: st.DrawFn, stream: bytes) -> Iterator[bytes]:
    """Cut a stream at any set of places."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=len(stream))))
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        if stream[start:end]:
            yield stream[start:end]


def framed(*chunks: bytes) -> list[bytes]:
    """Feed the chunks and the end; return all frames."""
    stream = EventStream()
    frames = [frame for chunk in (*chunks, b"") for frame in stream.feed(chunk)]
    assert stream.ended
    return frames


def by_the_standard(stream: bytes) -> list[bytes]:
    """Read a whole stream as https://html.spec.whatwg.org/#event-stream-interpretation says, a character at a time.

    With one leniency of ours, which the standard forbids and servers need: a last event that no blank line ends.
    """
    characters = list(stream.decode("utf-8"))
    if characters[:1] == ["\ufeff"]:
        del characters[0]
    lines, line = [], ""
    while characters:
        character = characters.pop(0)
        if character == "\r" and characters[:1] == ["\n"]:
            characters.pop(0)
        if character in "\r\n":
            lines.append(line)
            line = ""
        else:
            line += character
    events, data = [], ""
    lines += [line, ""]
    for line in lines:
        if line == "":
            if data != "":
                events.append(data[:-1].encode())
            data = ""
            continue
        field, colon, value = line.partition(":")
        if colon and value[:1] == " ":
            value = value[1:]
        if field == "data":
            data += value + "\n"
    return events


@given(st.data())
def test_frames_are_the_same_however_the_bytes_are_cut(data: st.DataObject) -> None:
    stream = data.draw(streams())
    assert framed(*pieces(data.draw, stream)) == framed(stream)


@given(streams())
def test_frames_are_those_of_the_standard(stream: bytes) -> None:
    assert framed(stream) == by_the_standard(stream)


@given(streams())
def test_frames_come_out_byte_by_byte(stream: bytes) -> None:
    assert framed(*(stream[place : place + 1] for place in range(len(stream)))) == by_the_standard(stream)


@settings(max_examples=50)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_bytes_that_are_no_text_at_all_are_framed_the_same_however_they_are_cut(stream: bytes, place: int) -> None:
    first, second = stream[:place], stream[place:]
    assert framed(*filter(None, (first, second))) == framed(*filter(None, (stream,)))


@given(streams(ends=st.sampled_from(["\n", "\r\n"]), bom=False))
def test_frames_are_those_of_the_openai_sdk(stream: bytes) -> None:
    # The SDK also gives out events without data, and none that no blank line ends.
    ended = stream + b"\n\n"
    theirs: list[Any] = [event.data.encode() for event in SSEDecoder().iter_bytes(iter([ended])) if event.data]
    assert [frame for frame in framed(ended) if frame] == theirs


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b": keep-alive\n\n", []),
        (b"event: ping\n\n", []),
        (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', DONE]),
        (b"data:1\n\n", [b"1"]),
        (b"data:  1\n\n", [b" 1"]),
        (b"data: 1", [b"1"]),
        (b"data: 1\rdata: 2\r\rdata: 3\r", [b"1\n2", b"3"]),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [b"1", b"2"]),
        (b"data: {\ndata: }\n\n", [b"{\n}"]),
        (b"data\ndata\n\n", [b"\n"]),
        (BOM + b"data: 1\n\n", [b"1"]),
        (BOM + BOM + b"data: 1\n\n", []),  # only the first is a mark; the other is a part of a field's name
        (b"data: 1\n\n" + BOM + b"data: 2\n\n", [b"1"]),
        ("data: \u2028\u0085\u000b\n\n".encode(), ["\u2028\u0085\u000b".encode()]),  # no ends of lines here
    ],
)
def test_a_stream_has_these_frames(stream: bytes, frames: list[bytes]) -> None:
    assert framed(stream) == frames
    assert framed(*(stream[place : place + 1] for place in range(len(stream)))) == frames


def test_a_frame_comes_out_as_soon_as_its_blank_line_is_there() -> None:
    stream = EventStream()
    assert stream.feed(b"data: 1\n") == []
    assert stream.feed(b"\n") == [b"1"]
    assert stream.feed(b"data: 2\r\n\r") == []
    assert stream.feed(b"\n") == [b"2"]
    assert not stream.ended


@pytest.mark.parametrize("repeated", [b"x", b"\ndata:x", b": comment ", b"\ndata", b"\ndata:"])
def test_an_event_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, repeated: bytes) -> None:
    """However a server makes it grow: one line, many lines, a comment, empty lines of data."""
    monkeypatch.setattr(framing, "MAX_FRAME", 1000)
    stream = EventStream()
    stream.feed(b"data: ")

    def feed() -> None:
        for _ in range(3000):
            stream.feed(repeated)

    with pytest.raises(ResponseFormatError, match="1,000 bytes"):
        feed()


def test_many_events_that_each_fit_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME", 1000)
    stream = EventStream()
    event = b"data: " + b"x" * 900 + b"\n\n"
    assert [stream.feed(event) for _ in range(5)] == [[b"x" * 900]] * 5


# --- lines


@given(st.lists(payloads, max_size=5), st.data())
def test_lines_are_the_same_however_they_are_cut(values: list[Any], data: st.DataObject) -> None:
    """JSON has no line break in it, so each line is one value; empty lines and a missing last break say nothing."""
    ends = [data.draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n", " \n"])) for _ in values]
    written = "".join(json.dumps(value, ensure_ascii=False) + end for value, end in zip(values, ends, strict=True))
    stream = (written.rstrip() if data.draw(st.booleans()) else written).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    lines = LineStream()
    found = [line for piece in pieces if piece for line in lines.feed(piece)]
    assert not lines.ended
    found += lines.feed(b"")
    assert lines.ended
    assert [json.loads(line) for line in found] == values


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME", 100)
    lines = LineStream()
    assert lines.feed(b"x" * 99 + b"\n" + b"y" * 100) == [b"x" * 99]
    with pytest.raises(ResponseFormatError, match="100 bytes"):
        lines.feed(b"y")
