"""What a cassette must not hold is cut out: keys, in whatever spelling, and addresses that are keys themselves."""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

from slmclient.drivers.base import DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import ConfigurationError

CUT = "***"
"""What stands in the place of what was cut out."""

_DEEPEST = 50  # levels; parsers refuse files with about 200
_KEY_NAMES = r"(?:[a-z]+[-_])*(?:api[-_ ]?key|access[-_]?key|subscription-key|secret|password|signature|cookie)"
_FIELD = re.compile(rf"(?i)(?:proxy-)?authorization|{_KEY_NAMES}|sig|[a-z]+[-_]token|x-(?:amz|goog)-[a-z-]+")
_NAMED = re.compile(  # name=value and name: value in prose, where the value has letters and digits
    rf"(?i)\b((?:proxy-)?authorization|{_KEY_NAMES}|sig|(?:[a-z]+[-_])*token|x-(?:amz|goog)-[a-z-]+)"
    r"""(["']?(?:=|:\s*)["']?(?:(?:bearer|basic)\s+)?)(?=[^\s"'&,;]*\d)(?=[^\s"'&,;]*[a-z])[^\s"'&,;}]{6,}"""
)
_ADDRESS = re.compile(r"""(?i)(https?://[^\s"'<>?#]+)\?([^\s"'<>]+)""")
_SIGNING = re.compile(
    rf"(?i)(?:^|[&;]|u0026)(?:{_KEY_NAMES}|sig|key|auth|code|(?:[a-z]+[-_])*token|x-(?:amz|goog)-[a-z-]+)="
)
_LOGIN = re.compile(r"""(?i)(https?://)[^\s/@"'<>]+@""")
_SHAPES = re.compile(  # of keys whose owner shows: a scheme before it, or the beginning that vendors give them
    r"\b(?:(?i:bearer|basic)\s+(?=\S*\d)[\w.~+/=-]{12,}|(?:sk-|nvapi-|gh[opsu]_|github_pat_|hf_)[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|AKIA[0-9A-Z]{16})"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}")
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SAYS_KEY = re.compile(r"(?i)auth|key|token|secret|cookie|password|signature")


class Word:
    """A text to cut out, of any length and script; shows itself nowhere.

    Args:
        value: The text.

    Raises:
        ConfigurationError: It is no text, or empty.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError("secrets= is a list of texts to cut out; one of them is empty or no text.")
        self._value = value.strip()

    def redact(self, value: str) -> str:
        """Return a text without it."""
        return value.replace(self._value, CUT)

    def __repr__(self) -> str:
        return "Word(…)"


class Redaction:
    """Cuts out what must not be written down.

    Args:
        config: What a driver was given; its key, its proxy's password and its headers are looked for.
        words: What else to cut out.
    """

    def __init__(self, config: DriverConfig, words: Iterable[Word] = ()) -> None:
        given = (config.api_key, config.proxy, *words)
        self._keys: list[Secret | Word] = [secret for secret in given if secret is not None]
        self._keys += [value for name, value in config.headers.items() if _SAYS_KEY.search(name)]
        self._headers = [value for name, value in config.headers.items() if not _SAYS_KEY.search(name)]

    def text(self, value: Any) -> Any:
        """Return what people and models wrote (a JSON value) without keys and signed addresses."""
        return self._walked(value, data=False)

    def data(self, value: Any) -> Any:
        """Return what programs wrote (a JSON value), also without the user's headers and fields named like keys."""
        return self._walked(value, data=True)

    def _walked(self, value: Any, *, data: bool, depth: int = 0) -> Any:
        if isinstance(value, str):
            return self._cut(value, data)
        if not isinstance(value, (Mapping, list, tuple)):
            return value
        if depth > _DEEPEST:
            return "… (too deep to be kept)"
        if isinstance(value, Mapping):
            return {
                self._cut(str(name), data): CUT
                if data and _is_secret(str(name), inner)
                else self._walked(inner, data=data, depth=depth + 1)
                for name, inner in cast("Mapping[Any, Any]", value).items()
            }
        return [self._walked(inner, data=data, depth=depth + 1) for inner in cast("list[Any]", value)]

    def _cut(self, text: str, data: bool) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # half characters are no JSON
        for secret in (*self._keys, *(self._headers if data else ())):
            text = secret.redact(text)
        if self._keys:
            if any(self._is_in(view) for view in _views(text)):
                return CUT  # where it stands in another spelling, nobody knows where it begins
            text = _BASE64.sub(self._cut_base64, text)
        text = _LOGIN.sub(rf"\1{CUT}@", _ADDRESS.sub(_without_signature, text))
        text = _SHAPES.sub(CUT, text)
        return _NAMED.sub(rf"\1\2{CUT}", text) if data else text

    def _is_in(self, text: str) -> bool:
        return any(secret.redact(text) != text for secret in self._keys)

    def _cut_base64(self, found: re.Match[str]) -> str:
        return CUT if any(self._is_in(view) for view in _decoded(found[0])) else found[0]


def _is_secret(name: str, value: object) -> bool:
    if name.lower() == "token":  # a piece of text in log probabilities, a key elsewhere
        return isinstance(value, str) and len(value) >= 16 and " " not in value
    return isinstance(value, str) and bool(value) and _FIELD.fullmatch(name) is not None


def _without_signature(found: re.Match[str]) -> str:
    return f"{found[1]}?{CUT}" if _SIGNING.search(found[2]) else found[0]


def _views(text: str) -> Iterator[str]:
    """Yield a text as it reads once what escapes its signs is taken off: of addresses, pages, and JSON inside JSON."""
    for unescaped in (unquote, html.unescape, _unescaped, _twice(_unescaped)):
        view = unescaped(text)
        if view != text:
            yield view


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def _twice(function: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: function(function(text))


def _decoded(run: str) -> Iterator[str]:
    """Yield what a run of base64's letters may hold, wherever in it the base64 begins."""
    letters = run.replace("-", "+").replace("_", "/")
    for start in range(4):
        piece = letters[start:]
        spare = len(piece) % 4
        piece = piece[:-1] if spare == 1 else piece + "=" * (-spare % 4)
        yield binascii.a2b_base64(piece).decode("latin-1")
