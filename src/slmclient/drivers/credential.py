"""Tokens of Entra ID: any azure-core TokenCredential, synchronous or not, and the cache before it.

Credentials that call a program (``az``) or a metadata server take a second or more, and not all of them keep what they
got: so their tokens are kept here, for one scope, and renewed a while before they expire.
"""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from slmclient.drivers.apart import apart
from slmclient.errors import APIConnectionError, AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    import asyncio

RENEWED_BEFORE = 300.0
"""Seconds before its expiry in which a token is renewed, as azure-core does."""

ASYNCHRONOUS = "{name} is asynchronous: use AsyncPhiClient, or give the synchronous credential or function."

_LONGEST_REASON = 300
_UNREACHED = (
    "ServiceRequestError",
    "ServiceResponseError",
    "ServiceRequestTimeoutError",
    "ServiceResponseTimeoutError",
)


class TokenCredential(Protocol):
    """What azure-identity's credentials have in common; ``get_token`` may be asynchronous."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Return an access token: an object with ``token`` and ``expires_on`` (seconds since 1970)."""
        ...


def is_credential(value: object) -> TypeGuard[TokenCredential]:
    """Return whether it is an object with the method of a TokenCredential."""
    return not isinstance(value, type) and callable(getattr(value, "get_token", None))


class TokenCache:
    """One credential's token for one scope. The threads together, and the tasks of each loop, ask for it once.

    Args:
        credential: Any TokenCredential.
        scope: What the token is for, such as ``https://ai.azure.com/.default``.
    """

    def __init__(self, credential: TokenCredential, scope: str) -> None:
        self._credential = credential
        self._scope = scope
        self.asynchronous = inspect.iscoroutinefunction(credential.get_token)
        self._token, self._expires_on = "", 0.0
        self._lock = threading.Lock()
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<TokenCache {self._scope}>"

    def fresh(self) -> str | None:
        """Return the token that is here, unless it expires soon."""
        return self._token if self._lasts(RENEWED_BEFORE) else None

    def token(self) -> str:
        """Return a token; ask the credential if the one that is here expires soon.

        Raises:
            AuthenticationError: The credential failed, and no token is left that still holds.
            APIConnectionError: It could not reach whoever gives tokens.
        """
        with self._lock:
            if self._lasts(RENEWED_BEFORE):
                return self._token
            try:
                return self._kept(self._credential.get_token(self._scope))
            except Exception as error:  # credentials raise what they like
                return self._still_good(error)

    async def atoken(self) -> str:
        """`token`, for asyncio: an asynchronous credential is awaited, any other asked on a thread."""
        import asyncio

        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if self._lasts(RENEWED_BEFORE):
                return self._token
            try:
                if self.asynchronous:
                    answer = self._credential.get_token(self._scope)
                else:
                    answer = await apart(partial(self._credential.get_token, self._scope))
                return self._kept(await answer if inspect.isawaitable(answer) else answer)
            except Exception as error:
                return self._still_good(error)

    def forget(self) -> None:
        """Drop the token: a server refused it."""
        self._expires_on = 0.0

    def _lasts(self, seconds: float) -> bool:
        return self._expires_on - time.time() > seconds

    def _kept(self, answer: Any) -> str:
        if inspect.iscoroutine(answer):
            answer.close()
            raise ConfigurationError(ASYNCHRONOUS.format(name=type(self._credential).__name__))
        token, expires_on = answer.token, float(answer.expires_on)
        if not isinstance(token, str) or not token.strip():
            raise ValueError("its token is empty")
        self._token, self._expires_on = token, expires_on
        return token

    def _still_good(self, error: Exception) -> str:
        """Return the token that is here, if it still holds; else raise what the credential's failure means."""
        if self._lasts(0):
            return self._token
        if isinstance(error, ConfigurationError):
            raise error
        kind, name = type(self._credential).__name__, type(error).__name__
        said = next(iter(str(error).strip().splitlines()), "")[:_LONGEST_REASON].rstrip(".")
        what = f"{kind} gave no token for {self._scope}: {name}{f': {said}' if said else ''}."
        if isinstance(error, (ConnectionError, TimeoutError)) or name in _UNREACHED:
            raise APIConnectionError(f"{what} Whoever gives its tokens could not be reached.") from None
        raise AuthenticationError(
            f"{what} Check that it is signed in (`az login`, or the identity's variables) and may use this resource."
        ) from None
