"""The error tree is what its module's docstring draws, and errors survive what happens to errors."""

from __future__ import annotations

import builtins
import copy
import pickle
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from slmclient import Reply, Usage, errors
from slmclient.chat import Attempt
from slmclient.errors import RetiredError, SLMError, StreamInterruptedError

CLASSES: dict[str, type[SLMError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, SLMError)
}
every_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def drawn() -> dict[str, tuple[str | None, str]]:
    """Return the tree that the docstring draws: class name to the class above it, and what is written beside it."""
    tree: dict[str, tuple[str | None, str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"    ([│ ]*(?:[├└]── )?)([A-Za-z]+Error)\b(.*)", line)
        if found:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            tree[found[2]] = (above[depth - 1] if depth else None, found[3])
    return tree


def test_the_tree_is_exactly_as_drawn() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: kind.__bases__[0].__name__ if kind is not SLMError else None for name, kind in CLASSES.items()
    }


def test_the_drawing_is_that_of_the_design() -> None:
    """A few rows that must never move: programs catch them."""
    tree = drawn()
    assert len(tree) > 20
    assert tree["MissingApiKeyError"][0] == "ConfigurationError"
    assert tree["ModelRetiredError"][0] == "RetiredError"
    assert tree["UnsupportedFeatureError"][0] == "BadRequestError"
    assert tree["ModelNotFoundError"][0] == "NotFoundError"
    assert tree["RateLimitError"][0] == "SLMError"


@every_class
def test_builtin_bases_are_as_drawn(kind: type[SLMError]) -> None:
    also = re.search(r"also (\w+)", drawn()[kind.__name__][1])
    wanted = {getattr(builtins, also[1])} if also else set()
    bases = {base for base in kind.__mro__ if base.__module__ == "builtins"}
    implied = {base for builtin in wanted for base in builtin.__mro__}
    assert bases == implied | {Exception, BaseException, object}


def test_three_errors_can_be_caught_as_pythons_own() -> None:
    with pytest.raises(ImportError):
        raise errors.MissingDependencyError("m")
    with pytest.raises(ConnectionError):
        raise errors.APIConnectionError("m")
    with pytest.raises(TimeoutError):
        raise errors.APITimeoutError("m")


@every_class
def test_retryable_is_as_drawn(kind: type[SLMError]) -> None:
    assert kind.retryable == ("retryable" in drawn()[kind.__name__][1])


def full(kind: type[SLMError]) -> SLMError:
    """Return an error with all of its fields set."""
    more: dict[str, Any] = {}
    if issubclass(kind, RetiredError):
        more = {"retired_on": date(2026, 7, 30), "replacement": "phi-4-mini"}
    if issubclass(kind, StreamInterruptedError):
        usage = Usage(input_tokens=1, output_tokens=2)
        more = {"partial": Reply(text="half", finish_reason="error", usage=usage, provider="azure", model="m")}
    error = kind(
        "What happened.",
        provider="azure",
        model="phi-4-mini",
        status_code=418,
        code="teapot",
        request_id="r-1",
        retry_after=1.5,
        body={"error": {"message": "the prompt was: confidential"}},
        **more,
    )
    error.attempts = (
        Attempt(provider="azure", model="phi-4-mini", began=datetime.now(UTC), seconds=0.5, status_code=418, error="E"),
    )
    return error


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@every_class
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_keeps_every_field(kind: type[SLMError], way: str) -> None:
    """Errors cross process borders: multiprocessing, pytest-xdist, Celery."""
    error = full(kind)
    again = WAYS[way](error)
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "What happened."
    assert again.status_code == 418, "a field that the test relies on is gone"


@every_class
def test_the_servers_body_is_at_hand_but_not_shown(kind: type[SLMError]) -> None:
    error = full(kind)
    assert "confidential" in str(error.body)
    assert "confidential" not in str(error)
    assert "confidential" not in repr(error)


@every_class
def test_a_bare_error_has_all_fields_empty(kind: type[SLMError]) -> None:
    error = kind("What happened.")
    assert str(error) == error.message == "What happened."
    assert error.attempts == ()
    names = ("provider", "model", "status_code", "code", "request_id", "retry_after", "body")
    assert [getattr(error, name) for name in names] == [None] * len(names)


def test_every_class_says_what_it_is() -> None:
    for kind in CLASSES.values():
        assert (kind.__doc__ or "").strip(), kind
        assert kind.__doc__ != kind.__base__.__doc__, f"{kind} has no docstring of its own"  # type: ignore[union-attr]
