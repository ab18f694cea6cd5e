"""Every error that slmclient raises.

    SLMError
    ├── ConfigurationError            what the caller set up cannot work
    │   ├── UnknownProviderError
    │   ├── MissingApiKeyError
    │   └── MissingDependencyError    (also ImportError)
    ├── RetiredError                  gone for good: never retried
    │   ├── ProviderRetiredError
    │   └── ModelRetiredError
    ├── BadRequestError               this request cannot be answered as it is
    │   ├── UnsupportedFeatureError
    │   ├── UnsupportedParameterError
    │   ├── ContextLengthExceededError
    │   └── ContentFilterError
    ├── AuthenticationError           401
    ├── PermissionDeniedError         403
    ├── NotFoundError                 404
    │   └── ModelNotFoundError
    ├── RateLimitError                429, retryable
    ├── InternalServerError           408, 409, 5xx, retryable
    ├── APIConnectionError            no answer (also ConnectionError), retryable
    ├── APITimeoutError               too late (also TimeoutError), retryable
    ├── StreamInterruptedError        the answer broke off; holds what had come
    ├── ContextTruncatedError         the server cut the prompt
    ├── StructuredOutputError         no answer that fits the schema; holds all that came
    ├── ToolRoundsError               tools are called without end; holds the conversation
    ├── ResponseFormatError           an answer that cannot be parsed
    └── EngineError                   an engine in this process failed

Nothing here does I/O or knows a provider. Messages say what happened and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from slmclient.chat import Attempt
    from slmclient.conversation import AsyncConversation, Conversation
    from slmclient.reply import Reply


class SLMError(Exception):
    """Base of every error that leaves slmclient.

    Args:
        message: What happened and what to do next.
        provider: Name of the provider, when one was involved.
        model: The model asked for, as the provider spells it.
        status_code: HTTP status, when a server answered.
        code: The server's own error code, as text.
        request_id: The server's id of the request, for its support desk.
        retry_after: Seconds the server asked to wait.
        body: The server's parsed answer. At hand, but never part of ``str(error)``.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        model: str | None = None,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.model = model
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        self.attempts: tuple[Attempt, ...] = ()
        self.queued = 0.0
        """Seconds that the try waited for the rate limit of one's own."""
        self.hedged: SLMError | None = None
        """Where a second request was sent to another provider, and failed as well: its error."""


class ConfigurationError(SLMError):
    """A setting is missing, contradictory or unsafe. Raised before any I/O."""


class UnknownProviderError(ConfigurationError):
    """No driver has that name."""


class MissingApiKeyError(ConfigurationError):
    """The provider needs a key and none was found; the message names where it was looked for."""


class MissingDependencyError(ConfigurationError, ImportError):
    """An optional package is not installed; the message holds the exact command."""


class RetiredError(SLMError):
    """The provider or the model was switched off. Never retried.

    Args:
        message: What was retired and what to use instead.
        retired_on: The day it went, when known.
        replacement: What to use instead, when known.
        details: As for `SLMError`.
    """

    def __init__(
        self,
        message: str,
        *,
        retired_on: date | None = None,
        replacement: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.retired_on = retired_on
        self.replacement = replacement


class ProviderRetiredError(RetiredError):
    """The whole service is gone."""


class ModelRetiredError(RetiredError):
    """The service is there, this model is not any more."""


class BadRequestError(SLMError):
    """The request cannot be answered as it is (also every other 4xx)."""


class UnsupportedFeatureError(BadRequestError):
    """The driver has no way to say what was asked (images, a prefill, tools …). Raised before any I/O."""


class UnsupportedParameterError(BadRequestError):
    """A parameter that does not exist, or that this driver lacks under ``strict=True``."""


class ContextLengthExceededError(BadRequestError):
    """Prompt and answer do not fit the model's context window.

    Args:
        message: What happened.
        tokens: How many the prompt has, where that is known.
        context: How many prompt and answer may have together, where that is known.
        details: As for `SLMError`.
    """

    def __init__(self, message: str, *, tokens: int | None = None, context: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.tokens = tokens
        self.context = context


class ContentFilterError(BadRequestError):
    """The provider's content filter refused the prompt or the answer."""


class AuthenticationError(SLMError):
    """The key was refused (401)."""


class PermissionDeniedError(SLMError):
    """The key is good, but not for this (403)."""


class NotFoundError(SLMError):
    """Nothing is there (404): a wrong URL, deployment or model."""


class ModelNotFoundError(NotFoundError):
    """The provider does not know that model, or does not grant it to this key."""


class RateLimitError(SLMError):
    """Too many requests or tokens (429).

    Args:
        message: What happened.
        limits: What the server said of its limits: the ``x-ratelimit-…`` headers, without that prefix.
        details: As for `SLMError`.
    """

    retryable = True

    def __init__(self, message: str, *, limits: Mapping[str, str] | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.limits: Mapping[str, str] = dict(limits or {})


class InternalServerError(SLMError):
    """The server failed or is busy (408, 409, 5xx)."""

    retryable = True


class APIConnectionError(SLMError, ConnectionError):
    """No answer came: name, network, TLS, proxy, or a connection that broke before any text."""

    retryable = True


class APITimeoutError(SLMError, TimeoutError):
    """No answer came in time; the message says which of ``timeout`` and ``deadline`` ended it."""

    retryable = True


class StreamInterruptedError(SLMError):
    """The answer broke off after its first text. Never retried: text was already given out.

    Args:
        message: What happened.
        partial: The reply as far as it came; set by the stream that raises this.
        details: As for `SLMError`.
    """

    def __init__(self, message: str, *, partial: Reply | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.partial = partial


class ContextTruncatedError(SLMError):
    """The server silently left out a part of the prompt."""


class StructuredOutputError(SLMError):
    """The model gave no answer that fits ``response_format``.

    Args:
        message: What is wrong with the last one.
        replies: Every answer, in order.
        problems: What is wrong with each of them.
        details: As for `SLMError`.
    """

    def __init__(
        self, message: str, *, replies: Sequence[Reply] = (), problems: Sequence[str] = (), **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.replies = tuple(replies)
        self.problems = tuple(problems)


class ToolRoundsError(SLMError):
    """The model still called tools when ``max_rounds`` were over.

    Args:
        message: What happened.
        conversation: All turns so far; the tools' answers are in it, and it can be gone on with.
        details: As for `SLMError`.
    """

    def __init__(
        self, message: str, *, conversation: Conversation | AsyncConversation | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.conversation = conversation


class ResponseFormatError(SLMError):
    """The answer is not what the protocol says: HTML, broken JSON, no choices, too large."""


class EngineError(SLMError):
    """An engine inside this process failed to load or to generate."""


def bare(error: SLMError) -> SLMError:
    """Return the error without traceback, cause and context: their frames may hold keys and bodies."""
    error.__cause__ = None
    error.__context__ = None
    return error.with_traceback(None)
