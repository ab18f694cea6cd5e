"""Keys, held so that they cannot be printed by accident. Only the pump opens one, on its way to the server."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from slmclient.errors import ConfigurationError

_REMEMBERED = 4  # tokens of a provider function that answers may still echo
_SHORTEST_REDACTED = 6  # "EMPTY" and such are dummies; cutting them out of messages would only garble those


class Secret:
    """A key, or a function that returns one. Shows nothing in repr, str, vars or a traceback's locals; does not pickle.

    Args:
        value: The key itself, or a callable that returns it (a token provider). Surrounding white space is cut off:
            keys read from files end in a line break.
        name: What it is, for errors.

    Raises:
        ConfigurationError: The key is empty or holds characters that no header can carry.
    """

    __slots__ = ("_given_out", "_open", "renewable")

    def __init__(self, value: str | Callable[[], str], name: str = "api_key") -> None:
        self.renewable = callable(value)
        """Whether it is a function, asked anew for every request; it may take its time."""
        self._given_out: deque[str] = deque(maxlen=_REMEMBERED)
        self._open: Callable[[], str]
        problem = ""
        if callable(value):
            self._open = partial(_asked, value, name)
        elif isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            problem = _problem(value, name)
            self._open = partial(str, value.strip())
        else:
            problem = f"{name} is a str or a function that returns one, not {type(value).__name__}."
            if hasattr(value, "get_token"):
                problem += " For an azure-identity credential pass get_bearer_token_provider(credential, scope)."
        del value  # a traceback shows the locals of its frames
        if problem:
            raise ConfigurationError(problem)

    def open(self) -> str:
        """Return the key itself. For the pump alone."""
        key = self._open()
        if self.renewable and key not in self._given_out:
            self._given_out.append(key)
        return key

    def redact(self, value: Any) -> Any:
        """Return a parsed JSON value with the key cut out of every string in it."""
        # A token provider is not asked again only to clean a message: its latest tokens are remembered.
        keys = tuple(self._given_out) if self.renewable else (self._open(),)
        forms = tuple(form for key in keys if len(key) >= _SHORTEST_REDACTED for form in (key, json.dumps(key)[1:-1]))
        return _without(value, forms) if forms else value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> Any:
        raise TypeError("a Secret does not pickle")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and not self.renewable and not other.renewable and self.open() == other.open()

    def __hash__(self) -> int:
        return id(type(self))


def _asked(function: Callable[[], str], name: str) -> str:
    key = function()
    problem = _problem(key, name)
    key = key.strip() if not problem else ""
    if problem:
        raise ConfigurationError(problem)
    return key


def _problem(value: object, name: str) -> str:
    """Return what is wrong with a key, without showing it."""
    key = value.strip() if isinstance(value, str) else ""
    if not key:
        return f"{name} is empty."
    if not key.isascii() or not key.isprintable():
        return f"{name} holds characters that a header cannot carry: was it pasted or read whole?"
    return ""


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        for key in keys:
            value = value.replace(key, "***")
        return value
    if isinstance(value, dict):
        return {_without(name, keys): _without(inner, keys) for name, inner in value.items()}  # pyright: ignore
    if isinstance(value, list):
        return [_without(inner, keys) for inner in value]  # pyright: ignore
    return value
