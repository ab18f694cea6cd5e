"""Keys, held so that they cannot be printed by accident. Only the pump opens one, on its way to the server."""

from __future__ import annotations

import inspect
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, cast

from slmclient.drivers.apart import apart
from slmclient.drivers.credential import ASYNCHRONOUS, TokenCache, TokenCredential, is_credential
from slmclient.errors import ConfigurationError

_REMEMBERED = 4  # tokens of a provider function that answers may still echo
_SHORTEST_REDACTED = 6  # "EMPTY" and such are dummies; cutting them out of messages would only garble those
_SCHEME = re.compile(r"(bearer|basic|token|api-?key) ", re.IGNORECASE)
_SALT = os.urandom(32)  # of this process: what was hashed with it can be compared, and looked up nowhere


ApiKey = str | Callable[[], str] | Callable[[], Awaitable[str]] | TokenCredential
"""A key, a function that returns one (a token provider, asynchronous or not), or an azure-core TokenCredential."""


@dataclass(frozen=True, slots=True, repr=False)
class _Same:
    """Something by its identity, whatever its own repr would show."""

    thing: object


class Secret:
    """A key, or what gives one. Shows nothing in repr, str, vars or a traceback's locals; does not pickle.

    Args:
        value: The key itself; a callable that returns it (a token provider), asynchronous or not; or a TokenCredential,
            which gives tokens only once it has a scope (`for_scope`). Surrounding white space is cut off: keys read
            from files end in a line break.
        name: What it is, for errors.

    Raises:
        ConfigurationError: The key is empty or holds characters that no header can carry.
    """

    __slots__ = ("_cache", "_credential", "_given_out", "_name", "_open", "_opens_async", "renewable")

    def __init__(self, value: ApiKey, name: str = "api_key") -> None:
        self.renewable = not isinstance(value, str)
        """Whether each request asks for it anew, which may take its time."""
        self._name = name
        self._given_out: deque[str] = deque(maxlen=_REMEMBERED)
        self._credential: TokenCredential | None = None
        self._cache: TokenCache | None = None
        self._opens_async = False
        self._open: Callable[[], Any]
        problem = ""
        if isinstance(value, str):
            problem = _problem(value, name)
            self._open = partial(str, value.strip())
        elif is_credential(value):
            self._credential = value
            self._open = self.check_scope
        elif callable(value):
            self._open = value
            self._opens_async = inspect.iscoroutinefunction(value)
        else:
            problem = f"{name} is a str, a function that returns one or a TokenCredential, not {type(value).__name__}."
        del value  # a traceback shows the locals of its frames
        if problem:
            raise ConfigurationError(problem)

    @property
    def needs_scope(self) -> bool:
        """Whether it is a TokenCredential that was not told yet what its tokens are for."""
        return self._credential is not None and self._cache is None

    def check_scope(self) -> None:
        """Raise a ConfigurationError if it is a TokenCredential without a scope: then it has no token."""
        if self.needs_scope:
            raise ConfigurationError(
                f"{self._name} is a TokenCredential, and this provider has no scope to ask it for: pass a function that"
                " returns a token, such as azure-identity's get_bearer_token_provider(credential, scope)."
            )

    def for_scope(self, scope: str) -> Secret:
        """Return the secret that gives a TokenCredential's tokens for a scope; they are kept until they expire."""
        assert self._credential is not None
        scoped = Secret(self._credential, self._name)
        scoped._cache = TokenCache(self._credential, scope)
        scoped._open, scoped._opens_async = scoped._cache.token, scoped._cache.asynchronous
        return scoped

    def open(self) -> str:
        """Return the key itself. For the pump alone.

        Raises:
            ConfigurationError: It comes from an asynchronous function or credential, or is no key.
        """
        if self._opens_async:
            raise ConfigurationError(ASYNCHRONOUS.format(name=self._name))
        return self._given(self._open())

    def at_hand(self) -> str | None:
        """Return the key if it is here, and None if it has to be asked for, which may take its time. For the pump."""
        fresh = self._cache.fresh() if self._cache is not None else None
        return self._given(fresh) if fresh is not None else None if self.renewable else self.open()

    async def aopen(self) -> str:
        """`open`, for asyncio; what may take its time waits in the loop or on a thread, not in its way."""
        key: object = self.at_hand()
        if key is not None:
            return self._given(key)
        if self._cache is not None:
            return self._given(await self._cache.atoken())
        if self._opens_async:
            return self._given(await self._open())
        key = await apart(self._open)
        return self._given(await key if inspect.isawaitable(key) else key)

    def _given(self, key: object) -> str:
        """Return a key that came, once it is one, and remember it for `redact`."""
        if not self.renewable:
            return cast(str, key)
        problem = ASYNCHRONOUS.format(name=self._name) if inspect.isawaitable(key) else _problem(key, self._name)
        if inspect.iscoroutine(key):
            key.close()
        stripped = cast(str, key).strip() if not problem else ""
        del key
        if problem:
            raise ConfigurationError(problem)
        if stripped not in self._given_out:
            self._given_out.append(stripped)
        return stripped

    def identity(self) -> Hashable:
        """Return what is equal for equal keys, or for the same function or credential, and shows nothing of them."""
        if not self.renewable:
            return blake2b(self._open().encode(), key=_SALT).digest()
        source = self._credential or self._open
        return id(source) if source.__hash__ is None else _Same(source)  # pyright: ignore[reportUnnecessaryComparison]

    def refused(self) -> None:
        """Take note that a server refused the key: a kept token is asked for anew."""
        if self._cache is not None:
            self._cache.forget()

    def redact(self, value: Any) -> Any:
        """Return a parsed JSON value with the key cut out of every string in it."""
        import json  # most calls end without an error

        # A token provider is not asked again only to clean a message: its latest tokens are remembered.
        given = tuple(self._given_out) if self.renewable else (self._open(),)
        # Of "Bearer KEY", given as a header, a server may echo the key alone.
        keys = (*given, *(key.partition(" ")[2].strip() for key in given if _SCHEME.match(key)))
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
