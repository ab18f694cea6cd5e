"""From a server's error answer to the right `SLMError`: status first, then structured code, then a dialect's patterns.

Pure. The texts that servers send are untrusted: what reaches a message is one short line, without keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

from pydantic_core import from_json

from slmclient import catalogue, errors
from slmclient.drivers.wire import overflow, waits
from slmclient.drivers.wire.dialect import Dialect, FaultPattern

_BY_STATUS: dict[int, type[errors.SLMError]] = {
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    408: errors.InternalServerError,
    409: errors.InternalServerError,
    410: errors.ModelRetiredError,
    429: errors.RateLimitError,
}
_BY_CODE: dict[str, type[errors.SLMError]] = {
    "context_length_exceeded": errors.ContextLengthExceededError,
    "tokens_limit_reached": errors.ContextLengthExceededError,
    "exceed_context_size_error": errors.ContextLengthExceededError,
    "content_filter": errors.ContentFilterError,
    "content_policy_violation": errors.ContentFilterError,
    "responsibleaipolicyviolation": errors.ContentFilterError,
    "unknown_model": errors.ModelNotFoundError,
    "unavailable_model": errors.ModelNotFoundError,
    "model_not_found": errors.ModelNotFoundError,
    "deploymentnotfound": errors.ModelNotFoundError,
    "unsupported_parameter": errors.UnsupportedParameterError,
    "parameter_not_supported": errors.UnsupportedParameterError,
    "github_models_retirement_brownout": errors.ProviderRetiredError,
    "authentication_error": errors.AuthenticationError,
    "rate_limit_exceeded": errors.RateLimitError,
    "ratelimitreached": errors.RateLimitError,
}
_HINTS: dict[type[errors.SLMError], str] = {
    errors.AuthenticationError: "The key was refused: `slm doctor` shows where it comes from.",
    errors.PermissionDeniedError: "The key is known but may not do this: check its permissions and the model's access.",
    errors.NotFoundError: "Check base_url and the model's name.",
    errors.ModelNotFoundError: "Check the model's name; `slm models` lists known ones.",
    errors.ContextLengthExceededError: "Shorten the prompt, or lower max_tokens.",
    errors.RateLimitError: "Wait, or send fewer requests at once.",
    errors.InternalServerError: "It may pass: try again later.",
}
_WAITING = (200, 408, 409, 425, 429, 500, 502, 503, 504, 529)  # where prose may say how long to wait; 200: in a stream
_STATUSES = frozenset(str(status) for status in range(400, 600))
_REQUEST_ID_HEADERS = ("x-request-id", "apim-request-id", "x-ms-request-id", "nvcf-reqid", "x-github-request-id")
_DAY = re.compile(r"\b(20\d\d)-(\d\d)-(\d\d)(?!\d)")
NO_KEY = "No key was sent."
"""How the key hint begins where there was none to send."""

PROVIDER_RETIRED = "Set SLM_PROVIDER to another provider, such as local, which needs no key; `slm models` lists them."
"""What to do where a whole service is gone, and nothing better is known of the model."""

_LIMIT = "x-ratelimit-"
_MOST_LIMITS = 20
_LONGEST_MESSAGE = 300
_MOST_PARTS = 5
_LONGEST_CODE = 100
_READ = 10_000  # characters of a message that are looked at


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answered, for the message."""

    provider: str
    model: str | None
    dialect: Dialect
    key_hint: str = ""
    hosted: bool = True
    """False for an engine in this process, which has no HTTP statuses but uses their numbers."""
    catalogued: bool = True
    """Whether the catalogue knows what is served there: the vendor's own service, no server of one's own."""
    advice: str = ""
    """What to do about this error, where the driver knows better than the status."""


def fault(origin: Origin, status: int, headers: Mapping[str, str], payload: Any) -> errors.SLMError:
    """Return the error for an HTTP answer that is no success.

    Args:
        origin: Who answered.
        status: HTTP status; 200 for an error frame inside a stream.
        headers: With lower-case names.
        payload: The parsed body, or its text where it is no JSON.
    """
    shape = _Shape.of(payload)
    if not shape.codes and (named := _as_code(headers.get("x-ms-error-code"))):
        shape = _Shape(shape.message, (named,))
    pattern = _matching(origin.dialect, status, shape.message)
    kind = getattr(errors, pattern.error) if pattern else _classify(status, shape)
    another = pattern is not None and pattern.error == errors.NotFoundError.__name__  # the prose says what is not there
    retirement = {} if another else _retirement(origin, kind, shape)
    kind = errors.ModelRetiredError if retirement and issubclass(kind, errors.NotFoundError) else kind
    details: dict[str, Any] = {
        "provider": origin.provider,
        "model": origin.model,
        "status_code": status,
        "code": shape.code,
        "request_id": request_id(headers),
        "retry_after": waits.retry_after(headers, shape.message if status in _WAITING else ""),
        "body": payload,
    }
    if issubclass(kind, errors.RetiredError):
        details |= retirement
    if issubclass(kind, errors.RateLimitError):
        details["limits"] = limits(headers)
    if issubclass(kind, errors.ContextLengthExceededError):
        details |= overflow.sizes(payload, shape.message)
    return kind(_sentence(origin, status, shape, kind, pattern, retirement), **details)


def is_fault(frame: Mapping[str, Any]) -> bool:
    """Return whether an answer, or a frame of a stream, is an error."""
    return bool(frame.get("error")) or (frame.get("object") == "error")


def interrupted(error: errors.SLMError, provider: str, model: str | None) -> errors.StreamInterruptedError:
    """Return the error for an answer that broke off after some text."""
    return errors.StreamInterruptedError(
        f"The answer broke off: {error.message}",
        provider=provider,
        model=model,
        status_code=error.status_code,
        code=error.code,
        request_id=error.request_id,
        retry_after=error.retry_after,
        body=error.body,
    )


def service_retired(
    provider: str, service: catalogue.Provider, model: str | None, host: str = ""
) -> errors.ProviderRetiredError:
    """Return the error for a call, not sent, to a service that is gone; ``host`` where an address named it."""
    directions = (catalogue.directions(model, service.name) if model else "") or PROVIDER_RETIRED
    who = f"{service.title} ({host})" if host else service.title
    return errors.ProviderRetiredError(
        f"{who} was switched off on {service.on}; nothing was sent. {directions} "
        "Or set base_url to a server that still speaks its API.",
        provider=provider,
        model=model,
        retired_on=service.on,
        replacement=service.replacement,
    )


def model_retired(provider: str, title: str, name: str, offer: catalogue.Offer) -> errors.ModelRetiredError:
    """Return the error for a call, not sent, of a portable name that a service has retired."""
    directions = catalogue.directions(name, offer.provider)
    return errors.ModelRetiredError(
        f"{title} retired {name}{f' on {offer.on}' if offer.on else ''}; nothing was sent. {directions} To ask it all "
        f"the same, name its own id: model={offer.id!r}.",
        provider=provider,
        model=offer.id,
        retired_on=offer.on,
        replacement=offer.replacement,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the many shapes of error bodies have in common."""

    message: str
    codes: tuple[str, ...]

    @property
    def code(self) -> str | None:
        """The most telling code: a word before a number, which mostly repeats the status."""
        return next((code for code in self.codes if not code.isdecimal()), self.codes[0] if self.codes else None)

    @classmethod
    def of(cls, payload: Any, depth: int = 3) -> _Shape:
        """Return what an error body says, whichever shape it has; ``depth`` bounds JSON inside strings inside JSON."""
        if isinstance(payload, list) and payload:
            payload = cast("list[Any]", payload)[0]
        if not isinstance(payload, Mapping):
            return cls(_as_line(payload), ())
        outer = cast("Mapping[str, Any]", payload)
        inner = outer.get("error")
        body = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else outer
        prose = inner if isinstance(inner, str) else None  # Azure's flat bodies have it beside a message
        said = body.get("message") or prose or body.get("detail") or body.get("title")
        where = body.get("detail") if said is body.get("message") else None  # Azure: which parameter, and its value
        found = cls(
            " ".join(filter(None, (_as_line(said), f"({line})" if (line := _as_line(where)) else ""))),
            tuple(code for code in map(_as_code, _codes(body)) if code),
        )
        if isinstance(said, str) and said.lstrip()[:1] == "{" and depth:  # passed through by a gateway
            try:
                passed = cls.of(from_json(said), depth - 1)
            except ValueError:
                return found
            return cls(passed.message or found.message, passed.codes + found.codes)
        return found


def _codes(body: Mapping[str, Any]) -> list[Any]:
    inner: Any = body.get("innererror")
    deeper = cast("Mapping[str, Any]", inner).get("code") if isinstance(inner, Mapping) else None
    return [body.get("code"), body.get("type"), deeper]


def _as_code(code: Any) -> str | None:
    """Return a code as text: a number, or a word of sensible length that is no address (RFC 7807's about:blank)."""
    if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 1_000_000:
        return str(code)
    if isinstance(code, str) and code.isprintable() and 0 < len(code) <= _LONGEST_CODE and ":" not in code:
        return code
    return None


def _as_line(said: Any, depth: int = 2) -> str:
    """Return what was said as one line without control characters; HTML says nothing."""
    if isinstance(said, list):  # FastAPI: [{"loc": […], "msg": …}]
        parts = cast("list[Any]", said)[:_MOST_PARTS] if depth else []
        return "; ".join(filter(None, (_as_line(part, depth - 1) for part in parts)))
    if isinstance(said, Mapping):
        part = cast("Mapping[str, Any]", said)
        where = part.get("loc")
        steps = cast("list[Any]", where) if isinstance(where, list) else [where]
        place = ".".join(str(step) for step in steps if isinstance(step, (str, int)) and isinstance(where, (str, list)))
        text = next((part[key] for key in ("msg", "message", "input", "value") if isinstance(part.get(key), str)), "")
        return _as_line(f"{place}: {text}" if place else text)
    if not isinstance(said, str) or "<html" in said[:1000].lower():
        return ""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in said[:_READ]).split())


def _classify(status: int, shape: _Shape) -> type[errors.SLMError]:
    for code in shape.codes:
        if code.lower() in _BY_CODE:
            return _BY_CODE[code.lower()]
        if status == 200 and code in _STATUSES:  # a frame that carries the status, which was too late for the head
            return _classify(int(code), shape)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return errors.ResponseFormatError
    return errors.BadRequestError if 400 <= status < 500 else errors.InternalServerError


def _matching(dialect: Dialect, status: int, message: str) -> FaultPattern | None:
    for pattern in dialect.patterns:
        if pattern.status == status and re.search(pattern.pattern, message, re.IGNORECASE):
            return pattern
    return None


def _retirement(origin: Origin, kind: type[errors.SLMError], shape: _Shape) -> dict[str, Any]:
    """Return the date and replacement, for what is retired by its error or by the catalogue; else nothing."""
    offer = catalogue.offer(origin.model, origin.provider) if origin.model and origin.catalogued else None
    known = offer is not None and offer.status == "retired"
    if not issubclass(kind, errors.RetiredError) and not (known and issubclass(kind, errors.NotFoundError)):
        return {}
    service = catalogue.provider(origin.provider) if issubclass(kind, errors.ProviderRetiredError) else None
    written = _DAY.search(shape.message) if issubclass(kind, errors.RetiredError) else None
    try:
        day = date(*map(int, written.groups())) if written else None
    except ValueError:
        day = None
    return {
        "retired_on": day or (service.on if service else offer.on if known and offer else None),
        "replacement": service.replacement if service else offer.replacement if offer else None,
    }


def _sentence(
    origin: Origin,
    status: int,
    shape: _Shape,
    kind: type[errors.SLMError],
    pattern: FaultPattern | None,
    retirement: Mapping[str, Any],
) -> str:
    known = catalogue.find(origin.model) if origin.model and origin.hosted else None
    other = f", that is {known.name}" if known and known.name != origin.model else ""
    who = f"{origin.provider} ({origin.model}{other})" if origin.model else origin.provider
    what = "an error inside the stream" if status == 200 else f"HTTP {status}" if origin.hosted else "an error"
    code = "" if shape.code in (None, str(status)) else f", {shape.code}"
    said = shape.message
    if len(said) > _LONGEST_MESSAGE:
        said = said[:_LONGEST_MESSAGE] + "…"
    sentence = f"{who} answered {what}{code}{f': {said}' if said else ''}"
    keyless = kind is errors.AuthenticationError and origin.key_hint.startswith(NO_KEY)
    hint = _filled(pattern.hint, origin) if pattern else _HINTS.get(kind, "")
    hints = ["" if keyless or retirement else hint]
    if 300 <= status < 400:
        hints.append("Redirects are not followed: set base_url to where the service really is.")
    if kind is errors.AuthenticationError and origin.key_hint:
        hints.append(origin.key_hint)
    if issubclass(kind, errors.RetiredError):
        on, instead = retirement.get("retired_on"), retirement.get("replacement")
        if on or instead or not origin.advice:
            hints.append(f"It is retired{f' since {on}' if on else ''}{f'; use {instead} instead' if instead else ''}.")
        directions = catalogue.directions(origin.model, origin.provider) if origin.model else ""
        hints.append(directions or (PROVIDER_RETIRED if kind is errors.ProviderRetiredError else ""))
    hints.append(origin.advice)
    return " ".join([sentence if sentence.endswith((".", "!", "?", "…")) else sentence + ".", *filter(None, hints)])


def _filled(hint: str, origin: Origin) -> str:
    return hint.replace("{provider}", origin.provider).replace("{model}", origin.model or "MODEL")


def redacted(value: Any, patterns: tuple[str, ...]) -> Any:
    """Return a parsed JSON value with what the patterns find cut out of every string in it."""
    if isinstance(value, str):
        for pattern in patterns:
            value = re.sub(pattern, "***", value)
        return value
    if isinstance(value, Mapping):
        return {name: redacted(inner, patterns) for name, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [redacted(inner, patterns) for inner in cast("list[Any]", value)]
    return value


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's id of the request, by whichever header it came."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), None)


def limits(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what the headers say of rate limits: a name without its ``x-ratelimit-`` to its value, both as sent."""
    said = [(name.removeprefix(_LIMIT), value) for name, value in headers.items() if name.startswith(_LIMIT)]
    return {name: value[:_LONGEST_CODE] for name, value in said[:_MOST_LIMITS]}
