"""Cassettes: recorded calls as a file. What is in one, how it is read and written, and which call answers which."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from slmclient import errors
from slmclient.chat import Attempt, Finish, Note, Start, Usage
from slmclient.drivers.base import DriverConfig, Feature
from slmclient.errors import ConfigurationError, SLMError
from slmclient.testing.matching import is_same, not_recorded

_FORMAT = "slmclient.cassette/"
_LARGEST = 64 * 1024 * 1024  # bytes; pictures are not in it
HOW = "slmclient.testing.recording(path), or pytest with --slm-record=all"
"""How a cassette is recorded, for errors."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCallPieces(_Strict):
    """Pieces of a tool call that follow each other."""

    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: tuple[str, ...] = Field(min_length=1)


class Piece(_Strict):
    """An event, or several texts that follow each other. One of the fields is set."""

    start: Start | None = None
    text: tuple[str, ...] | None = None
    reasoning: tuple[str, ...] | None = None
    tool_call: ToolCallPieces | None = None
    usage: Usage | None = None
    finish: Finish | None = None
    note: Note | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a piece is one event")
        return self


class RecordedError(_Strict):
    """An `SLMError`: its class and what it said."""

    type: str
    message: str
    provider: str | None = None
    model: str | None = None
    status_code: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    retired_on: date | None = None
    replacement: str | None = None
    limits: dict[str, str] | None = None
    attempts: tuple[Attempt, ...] = ()
    body: Any = None

    @model_validator(mode="after")
    def _has_class(self) -> Self:
        kind: object = getattr(errors, self.type, None)
        if not (isinstance(kind, type) and issubclass(kind, SLMError)):
            raise ValueError(f"{self.type} is no error of slmclient's")
        return self

    def error(self) -> SLMError:
        """Return the error, anew."""
        kind = cast("type[SLMError]", getattr(errors, self.type))
        own = {"retired_on", "replacement"} if issubclass(kind, errors.RetiredError) else set[str]()
        own |= {"limits"} if issubclass(kind, errors.RateLimitError) else set[str]()
        common = {"provider", "model", "status_code", "code", "request_id", "retry_after", "body"}
        error = kind(self.message, **{name: getattr(self, name) for name in own | common})
        error.attempts = self.attempts
        return error


class Call(_Strict):
    """One call: what was asked, and what came of it."""

    provider: str
    """Who was asked."""
    model: str | None = None
    """The model that the driver was made with; ``request`` has that of the call."""
    request: dict[str, Any]
    events: tuple[Piece, ...] = ()
    error: RecordedError | None = None
    closed: bool = False
    """Whether its reader left before it ended."""

    @property
    def unheard(self) -> bool:
        """Whether its reader left before anything came, like that of a hedge which another one overtook."""
        return self.closed and not any(piece.model_fields_set - {"start", "note"} for piece in self.events)


class RecordedDriver(_Strict):
    """What a driver said of itself."""

    provider: str
    model: str | None = None
    default_model: str | None = None
    features: tuple[Feature, ...] = ()
    knobs: tuple[str, ...] = ()


class _File(_Strict):
    format: Literal["slmclient.cassette/1"]
    drivers: tuple[RecordedDriver, ...]
    calls: tuple[Call, ...]


class Cassette:
    """Recorded calls. `recording` and `replaying` give one, and so does a driver of `record` or `replay`.

    Args:
        path: The file; its folders are made when it is written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        """The file."""
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._drivers: list[RecordedDriver] = []
        self._calls: list[Call | None] = []  # None: under way
        self._used: set[int] = set()
        self._missed: list[ConfigurationError] = []

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return the cassette in a file.

        Raises:
            ConfigurationError: There is none, it is no cassette, or one of a newer version; the message says which.
        """
        cassette = cls(path)
        saved = _read(cassette.path)
        cassette._drivers, cassette._calls = list(saved.drivers), list(saved.calls)
        return cassette

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls, in the order in which they began; those that are under way are not among them."""
        with self._lock:
            return tuple(call for call in self._calls if call is not None)

    @property
    def drivers(self) -> tuple[RecordedDriver, ...]:
        """What was called."""
        return tuple(self._drivers)

    @property
    def unused(self) -> tuple[Call, ...]:
        """The recorded calls that nobody asked for since it was loaded."""
        with self._lock:
            left = (call for number, call in enumerate(self._calls) if number not in self._used)
            return tuple(call for call in left if call is not None and not call.unheard)

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            ConfigurationError: It cannot be written.
        """
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        with self._saving:
            content = _File(format="slmclient.cassette/1", drivers=self.drivers, calls=self.calls)
            text = content.model_dump_json(indent=1, exclude_defaults=True)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(text + "\n", "utf-8", newline="\n")
                temporary.replace(self.path)
            except OSError as error:
                problem = error.strerror or error
                raise ConfigurationError(f"The cassette {self.path} cannot be written: {problem}.") from None
            finally:
                with suppress(OSError):
                    temporary.unlink()

    # --- for the drivers

    def begin(self) -> int:
        """Return the number of a call that begins now."""
        with self._lock:
            self._calls.append(None)
            self._used.add(len(self._calls) - 1)
            return len(self._calls) - 1

    def end(self, number: int, call: Call, driver: RecordedDriver) -> None:
        """Keep the call that was given that number."""
        with self._lock:
            self._calls[number] = call
            if driver not in self._drivers:
                self._drivers.append(driver)

    def driver(self, config: DriverConfig | None) -> RecordedDriver | None:
        """Return the recorded driver that stands in for one that is made so; None where nothing fits."""
        if config is None or len(self._drivers) == 1:
            return self._drivers[0] if self._drivers else None
        likely = [driver for driver in self._drivers if driver.provider == config.provider]
        return next((driver for driver in likely if driver.model == config.model), likely[0] if likely else None)

    def take(self, provider: str, model: str | None, request: dict[str, Any]) -> Call:
        """Return the next call that was the same, and count it as used.

        Raises:
            ConfigurationError: There is none; the message shows the closest, and what differs.
        """
        with self._lock:
            calls = [(number, call) for number, call in enumerate(self._calls) if call is not None]
            same = [
                (number, call)
                for number, call in calls
                if (call.provider, call.model) == (provider, model) and is_same(call.request, request)
            ]
            left = sorted((call.unheard, number) for number, call in same if number not in self._used)
            if left:
                number = left[0][1]
                self._used.add(number)
                return cast(Call, self._calls[number])
            asked = {"provider": provider, "model of the driver": model, **request}
            recorded = [
                {"provider": call.provider, "model of the driver": call.model, **call.request} for _, call in calls
            ]
            missed = ConfigurationError(
                f"{not_recorded(self.path, len(same), asked, recorded)}Record it anew: {HOW}.", provider=provider
            )
            self._missed.append(missed)
            raise missed

    def check(self) -> None:
        """Raise the error for the first call that was asked for and is not here, if there was one.

        Raises:
            ConfigurationError: That call's error: the program under test may have caught it.
        """
        if self._missed:
            raise self._missed[0].with_traceback(None)


def _read(path: Path) -> _File:
    """Return what is in a cassette's file; raise a ConfigurationError if it is none."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"There is no cassette {path}. Record it first: {HOW}.") from None
    except OSError as error:
        raise ConfigurationError(f"The cassette {path} cannot be read: {error.strerror or error}.") from None
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{path} is too large for a cassette: over {_LARGEST:,} bytes.")
    problem = "is no JSON"
    try:
        parsed: object = from_json(content)
        said = cast("dict[str, object]", parsed).get("format") if isinstance(parsed, dict) else None
        problem = "is no cassette"
        if isinstance(said, str) and said.startswith(_FORMAT) and said != f"{_FORMAT}1":
            problem = f"is a cassette of another version ({said[:40]}), which this slmclient does not read"
        return _File.model_validate(parsed)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ConfigurationError(f"{path} {problem}: {where}: {first['msg']}.") from None
    except ValueError:
        raise ConfigurationError(f"{path} {problem}.") from None
