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

    __slots__ = ("_buffer", "_data", "_size", "_started", "ended")

    def __init__(self) -> None:
        self._buffer: bytes = b""
        self._data: list[bytes] = []  # of the event that is not complete yet
        self._size = 0
        self._started = False
        self.ended = False
        """Whether the end of the stream was fed."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that this piece completes; b"" marks the end and flushes what is left.

        Raises:
            ResponseFormatError: An event grows beyond `MAX_FRAME`.
        """
        buffer = self._buffer + chunk if self._buffer else chunk
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
        if len(self._buffer) + self._size > MAX_FRAME:
            raise ResponseFormatError(f"The server sent an event of over {MAX_FRAME:,} bytes.")
        return frames

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

    __slots__ = ("_buffer", "ended")

    def __init__(self) -> None:
        self._buffer: bytes = b""
        self.ended = False
        """Whether the end of the stream was fed."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this piece completes; b"" marks the end and flushes what is left.

        Raises:
            ResponseFormatError: A line grows beyond `MAX_FRAME`.
        """
        lines = (self._buffer + chunk).split(b"\n")
        self._buffer = lines.pop()
        if not chunk:
            self.ended = True
            lines.append(self._buffer)
            self._buffer = b""
        if len(self._buffer) > MAX_FRAME:
            raise ResponseFormatError(f"The server sent a line of over {MAX_FRAME:,} bytes.")
        return [text for line in lines if (text := line.strip())]
