"""What went wrong between us and the hub, as errors that say what to do. None holds a token, a header or an address."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from slmclient.drivers.hub.library import cache, library
from slmclient.errors import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    InternalServerError,
    ModelNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SLMError,
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for which repository: what every error names."""

    provider: str
    model: str
    """As the user wrote it."""
    repo: str
    revision: str | None = None
    quantization: str | None = None
    """The variant that is wanted; None leaves it to us."""

    @property
    def name(self) -> str:
        """The repository and its revision, for people; with the name that led there."""
        full = f"{self.repo}@{self.revision}" if self.revision else self.repo
        return full if self.model == full else f"{self.model} ({full})"

    @property
    def command(self) -> str:
        """The line that fetches it."""
        chosen = f" --quantization {self.quantization}" if self.quantization else ""
        return f"slm pull {self.model} --engine {self.provider}{chosen}"


def fault(origin: Origin, error: Exception) -> SLMError:
    """Return the error to raise for whatever `huggingface_hub`, its HTTP library or the disk raised."""
    if isinstance(error, SLMError):
        return error
    details: dict[str, Any] = {"provider": origin.provider, "model": origin.model}
    errors: Any = library("errors")
    host = urlsplit(str(library("constants").ENDPOINT)).hostname or "the hub"
    status: int = vars(error)["response"].status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.GatedRepoError):
        return _gated(origin, status)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{origin.repo} at {host} has no revision {origin.revision}.", **details)
    if isinstance(error, (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError)):
        return ModelNotFoundError(
            f"{host} has no model {origin.name}, or it is private and there is no token that opens it (HF_TOKEN). "
            "If a file or folder was meant: it does not exist.",
            **details,
        )
    if status:
        return _refused(origin, host, status)
    if isinstance(error, OSError) and error.errno in _FULL:
        return no_room(origin, str(error.strerror))
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return ConfigurationError(
            f"The model cache {cache()} cannot be used: {error.strerror}. "
            "Set HF_HUB_CACHE to a folder that can be written.",
            **details,
        )
    return APIConnectionError(
        f"{origin.name} could not be fetched from {host} ({type(error).__name__}). Check the network, or fetch it "
        f"elsewhere and give its path. What came so far is kept: `{origin.command}` goes on from there.",
        **details,
    )


def free() -> int:
    """Return how many bytes the cache's disk has left."""
    there = next(folder for folder in (cache(), *cache().parents) if folder.exists())
    return shutil.disk_usage(there).free


def no_room(origin: Origin, reason: str) -> ConfigurationError:
    """Return the error of a disk that is too small."""
    return ConfigurationError(
        f"Not enough room in {cache()} for {origin.name} ({reason}): {free() / 1e9:.1f} GB free. Free some "
        "(`slm models --local` and `slm remove`), or set HF_HUB_CACHE to a folder on another disk.",
        provider=origin.provider,
        model=origin.model,
    )


def _gated(origin: Origin, status: int) -> SLMError:
    page = f"the page of {origin.repo} on the hub"
    if status == 403:
        return PermissionDeniedError(
            f"The owner of {origin.name} has not let this token in: accept the licence on {page}, with the account "
            "that HF_TOKEN belongs to.",
            provider=origin.provider,
            model=origin.model,
            status_code=status,
        )
    return AuthenticationError(
        f"{origin.name} is gated: accept the licence on {page}, then set HF_TOKEN to a token of that account.",
        provider=origin.provider,
        model=origin.model,
        status_code=status,
    )


def _refused(origin: Origin, host: str, status: int) -> SLMError:
    details: dict[str, Any] = {"provider": origin.provider, "model": origin.model}
    if status == 401:
        text = f"{host} refused the token for {origin.name}: set HF_TOKEN to one that is good, or unset it."
        return AuthenticationError(text, status_code=status, **details)
    if status == 403:
        text = f"{host} does not let this token read {origin.name}: see its page on the hub."
        return PermissionDeniedError(text, status_code=status, **details)
    if status == 429:
        text = f"{host} takes no more requests for now. Wait, or set HF_TOKEN: accounts have higher limits."
        return RateLimitError(text, status_code=status, **details)
    kind = InternalServerError if status in (408, 409) or status >= 500 else BadRequestError
    return kind(
        f"{host} answered {status} when asked for {origin.name}. Try again later: `{origin.command}`.",
        status_code=status,
        **details,
    )
