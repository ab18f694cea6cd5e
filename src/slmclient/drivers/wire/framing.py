"""From bytes, cut anywhere, to frames: the data of server-sent events, or the lines of NDJSON. Pure."""

from __future__ import annotations

from slmclient.errors import ResponseFormatError

MAX_FRAME = 8 * 1024 * 1024
"""Longest event taken from a server (bytes)."""

DONE = b"[DONE]"


class EventStream:
    """Splits a byte stream into the data of its events, as the WHATWG standard says, and a little more leniently.

    Taken too: lines ended by LF, CRLF or CR; comments and keep-alives; no space after ``data:``; data of several lines;
    a byte-order mark; a last event that no blank line ends.
    """

    __slots__ = ("_buffer", "_data", "_more", "_size", "_started", "ended")

    def __init__(self) -> None:
        self._buffer: bytes = b""  # a line that has begun
        self._more: list[bytes] = []  # what came of it since: joined at its end, for a copy at each piece is too much
        self._data: list[bytes] = []  # of the event that is not complete yet
        self._size = 0  # of both
        self._started = False
        self.ended = False
        """Whether the end of the stream was fed."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that this piece completes; b"" marks the end and flushes what is left.

        Raises:
            ResponseFormatError: An event grows beyond `MAX_FRAME`.
        """
        buffer = chunk
        if self._buffer:
            ends = b"\n" in chunk or b"\r" in chunk or not chunk or self._buffer[-1:] == b"\r"
            if self._started and not ends:
                self._more.append(chunk)
                self._size += len(chunk)
                self._check_size()
                return []
            buffer = self._whole(chunk)
        if not self._started and buffer:
            if len(buffer) < 3 and chunk and b"\xef\xbb\xbf".startswith(buffer):
                self._buffer = buffer
                return []
            self._started = True
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in buffer:
            # A CR at the very end may be half of a CRLF: it waits for the next piece.
            held = buffer[-1:] == b"\r" and bool(chunk)
            buffer = (buffer[:-1] if held else buffer).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            lines = buffer.split(b"\n")
            self._buffer = lines.pop() + (b"\r" if held else b"")
        else:
            lines = buffer.split(b"\n")
            self._buffer = lines.pop()
        if not chunk:
            self.ended = True
            lines += [self._buffer, b""]
            self._buffer = b""
        frames = self._events(lines)
        self._check_size()
        return frames

    def _whole(self, chunk: bytes) -> bytes:
        """Return the line that has begun, with this piece of it."""
        self._size -= sum(map(len, self._more))
        whole = b"".join((self._buffer, *self._more, chunk))
        self._more.clear()
        return whole

    def _check_size(self) -> None:
        if len(self._buffer) + self._size > MAX_FRAME:
            raise ResponseFormatError(f"The server sent an event of over {MAX_FRAME:,} bytes.")

    def _events(self, lines: list[bytes]) -> list[bytes]:
        frames: list[bytes] = []
        data = self._data
        for line in lines:
            if not line:
                if data:
                    frames.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._size = 0
            elif line[:5] == b"data:":
                value = line[6:] if line[5:6] == b" " else line[5:]
                data.append(value)
                self._size += len(line)
            elif line == b"data":
                data.append(b"")
                self._size += len(line)
            # every other field (event, id, retry) and every comment says nothing to a chat client
        return frames


class LineStream:
    """Splits a byte stream into the JSON texts of its lines (NDJSON); lines without any are left out."""

    __slots__ = ("_begun", "_size", "ended")

    def __init__(self) -> None:
        self._begun: list[bytes] = []  # pieces of a line: joined at its end, for a copy at each piece is too much
        self._size = 0
        self.ended = False
        """Whether the end of the stream was fed."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this piece completes; b"" marks the end and flushes what is left.

        Raises:
            ResponseFormatError: A line grows beyond `MAX_FRAME`.
        """
        lines = chunk.split(b"\n")
        if self._begun and (len(lines) > 1 or not chunk):
            lines[0] = b"".join((*self._begun, lines[0]))
            self._begun, self._size = [], 0
        if not chunk:
            self.ended = True
        elif rest := lines.pop():
            self._begun.append(rest)
            self._size += len(rest)
            if self._size > MAX_FRAME:
                raise ResponseFormatError(f"The server sent a line of over {MAX_FRAME:,} bytes.")
        return [text for line in lines if (text := line.strip())]
