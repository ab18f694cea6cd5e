"""What a process was told to be gone: it is not asked again while there are others to ask."""

from __future__ import annotations

import threading

from slmclient.chat import ChatRequest
from slmclient.errors import ProviderRetiredError, RetiredError, SLMError
from slmclient.policy.candidate import Candidate

_lock = threading.Lock()
_retired: dict[tuple[str, str, str | None], tuple[str, str]] = {}
_MOST_KEPT = 1000


def _places(candidate: Candidate, request: ChatRequest) -> tuple[tuple[str, str, str | None], ...]:
    """Return what stands for a provider, and for its model, at an address."""
    address = candidate.config.base_url or ""
    model = candidate.model_for(request) or candidate.default_model or ""
    return (candidate.name, address, None), (candidate.name, address, model)


def known_reason(candidate: Candidate, request: ChatRequest) -> tuple[str, str] | None:
    """Return the name of the error and what it said, where somebody was told before that this one is gone."""
    with _lock:
        return next((_retired[place] for place in _places(candidate, request) if place in _retired), None)


def remember(candidate: Candidate, request: ChatRequest, error: SLMError) -> None:
    """Keep in mind that a candidate's provider, or its model, is gone, if that is what the error says."""
    if not isinstance(error, RetiredError):
        return
    service, model = _places(candidate, request)
    with _lock:
        if len(_retired) < _MOST_KEPT:
            place = service if isinstance(error, ProviderRetiredError) else model
            _retired[place] = type(error).__name__, f"Known to be retired: {error.message}"
