"""PhiClient and AsyncPhiClient, and what they give out, have the same public face."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from slmclient import AsyncConversation, AsyncPhiClient, AsyncReplyStream, Conversation, PhiClient, ReplyStream

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (PhiClient, AsyncPhiClient),
    (Conversation, AsyncConversation),
    (ReplyStream, AsyncReplyStream),
]
COUNTERPARTS = {
    "close": "aclose",
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
    "__iter__": "__aiter__",
    "PhiClient": "AsyncPhiClient",
    "Conversation": "AsyncConversation",
    "ReplyStream": "AsyncReplyStream",
    "Iterator": "AsyncIterator",
    "Generator": "AsyncGenerator",
}
DUNDERS = {"__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__aiter__", "__init__", "__repr__"}
pairs = pytest.mark.parametrize(("plain", "asynchronous"), PAIRS, ids=lambda kind: kind.__name__)


def public(kind: type[Any]) -> dict[str, Any]:
    """Return the members of our own that users see, inherited ones included."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("slmclient"):
            found |= {name: value for name, value in vars(base).items() if name[0] != "_" or name in DUNDERS}
    return found


def function_of(member: Any) -> Any:
    member = member.fget if isinstance(member, property) else member
    return inspect.unwrap(getattr(member, "__func__", member))


def parameters_of(member: Any) -> list[tuple[str, Any, Any, Any]]:
    signature = inspect.signature(function_of(member))
    return [(each.name, each.kind, each.default, renamed(each.annotation)) for each in signature.parameters.values()]


def renamed(annotation: Any) -> Any:
    """Return an annotation as the asynchronous side writes it."""
    text = str(annotation)
    if text.startswith("Async"):
        return text
    head, bracket, rest = text.partition("[")
    return COUNTERPARTS.get(head.strip("'\""), head) + bracket + rest


@pairs
def test_the_names_are_the_same(plain: type[Any], asynchronous: type[Any]) -> None:
    expected = {COUNTERPARTS.get(name, name) for name in public(plain)}
    assert expected == set(public(asynchronous))


@pairs
def test_the_signatures_are_the_same(plain: type[Any], asynchronous: type[Any]) -> None:
    others = public(asynchronous)
    for name, member in public(plain).items():
        other = others[COUNTERPARTS.get(name, name)]
        assert isinstance(other, property) == isinstance(member, property), name
        assert isinstance(other, classmethod) == isinstance(member, classmethod), name
        assert parameters_of(other) == parameters_of(member), name


@pairs
def test_what_does_io_is_awaited_and_nothing_else_is(plain: type[Any], asynchronous: type[Any]) -> None:
    expected = {
        AsyncPhiClient: {"chat", "run_tools", "count_tokens", "warm_up", "aclose"},
        AsyncConversation: {"send"},
        AsyncReplyStream: {"aclose"},
    }
    awaited = {
        name
        for name, member in public(asynchronous).items()
        if inspect.iscoroutinefunction(function_of(member)) and name not in ("__aenter__", "__aexit__")
    }
    assert awaited == expected[asynchronous]
    assert not any(inspect.iscoroutinefunction(function_of(member)) for member in public(plain).values())


@pairs
def test_each_is_documented(plain: type[Any], asynchronous: type[Any]) -> None:
    for kind in (plain, asynchronous):
        undocumented = [
            name for name, member in public(kind).items() if name[0] != "_" and not function_of(member).__doc__
        ]
        assert undocumented == []
