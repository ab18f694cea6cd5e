"""Keys at rest: nothing shows them, nothing but `open` gives them out."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient.drivers.base import DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import ConfigurationError

# What a header can carry; with a beginning that no word, address or number has by chance.
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=62).map(lambda end: "~K" + end)


class Held:
    """Holds a key so that no frame of these tests shows it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Held"

    def is_in(self, text: str) -> bool:
        """Return whether the key stands in the text, as it is or escaped."""
        return any(form in text for form in (self.value, repr(self.value)[1:-1], json.dumps(self.value)[1:-1]))


def shown(error: BaseException) -> str:
    """Return all that a crash report could show of an error: the traceback, with the locals of its frames."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(report.format()) + repr(error) + repr(vars(error))


@given(keys.map(Held))
def test_a_secret_gives_its_key_to_open_and_to_nothing_else(held: Held) -> None:
    for secret in (Secret(held.value), Secret(lambda: held.value)):
        assert secret.open() == held.value
        config = DriverConfig("p", api_key=secret, headers={"X": secret}, proxy=secret)
        ways: list[Callable[[Any], str]] = [repr, str, lambda value: f"{value}", lambda value: repr([value])]
        for way in ways:
            assert not held.is_in(way(secret))
            assert not held.is_in(way(config))
        assert not hasattr(secret, "__dict__")


@given(keys.map(Held), st.sampled_from(["", " ", "\n", "\r\n", "\t "]))
def test_white_space_around_a_key_is_cut_off(held: Held, space: str) -> None:
    assert Secret(space + held.value + space).open() == held.value
    assert Secret(lambda: space + held.value + space).open() == held.value


@given(keys.map(Held))
def test_a_secret_neither_pickles_nor_copies_nor_turns_into_json(held: Held) -> None:
    ways: list[Callable[[Any], object]] = [pickle.dumps, copy.copy, copy.deepcopy, json.dumps]
    for way in ways:
        with pytest.raises(TypeError) as caught:
            way(Secret(held.value))
        assert not held.is_in(shown(caught.value))


@pytest.mark.parametrize("value", ["", " ", "\n\t"])
def test_an_empty_key_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="SLM_API_KEY is empty"):
        Secret(value, "SLM_API_KEY")
    with pytest.raises(ConfigurationError, match="api_key is empty"):
        Secret(lambda: value).open()


@pytest.mark.parametrize("value", [5, None, b"key", ["key"], object()])
def test_what_is_neither_text_nor_a_function_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"api_key is a str, a function .* not {type(value).__name__}"):
        Secret(value)
    with pytest.raises(ConfigurationError, match="api_key is empty"):  # a token provider may return anything
        Secret(lambda: value).open()


@given(keys.map(Held), st.sampled_from(["\n", "\r", "\0", "é", "\u200b", "\x7f", "世"]), st.integers(1, 7))
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(held: Held, bad: str, place: int) -> None:
    """Half of a mangled key is still half a key."""
    pasted = Held(held.value[:place] + bad + held.value[place:])
    for call in (lambda: Secret(pasted.value), lambda: Secret(lambda: pasted.value).open()):
        with pytest.raises(ConfigurationError, match="a header cannot carry") as caught:
            call()
        assert not pasted.is_in(shown(caught.value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(keys, json_values, st.text(max_size=5), st.text(max_size=5))
def test_a_key_is_cut_out_of_what_a_server_says(key: str, value: Any, before: str, after: str) -> None:
    said = {"a": [before + key + after, {key: value, "b": f"Bearer {key}"}], "c": json.dumps({"got": key}), "d": value}
    cleaned = Secret(key).redact(said)
    assert key not in json.dumps(cleaned, ensure_ascii=False)
    assert key not in repr(cleaned)
    assert list(cleaned) == ["a", "c", "d"]
    assert "***" in cleaned["a"][0]


@given(keys, json_values)
def test_what_holds_no_key_stays_as_it_is(key: str, value: Any) -> None:
    if key not in json.dumps(value, ensure_ascii=False) and key not in repr(value):
        assert Secret(key).redact(value) == value


def test_a_dummy_key_does_not_garble_messages() -> None:
    """Servers without keys are given EMPTY, x and such."""
    for dummy in ("x", "EMPTY", "none"):
        assert Secret(dummy).redact({"message": f"max tokens: no {dummy} text"}) == {
            "message": f"max tokens: no {dummy} text"
        }


@given(keys)
def test_a_token_that_was_given_out_is_cut_out_too(key: str) -> None:
    asked: list[int] = []

    def provider() -> str:
        asked.append(1)
        return f"{key}{len(asked)}"

    secret = Secret(provider)
    first, second = secret.open(), secret.open()
    cleaned = secret.redact({"message": f"got {first}, before that {second}"})
    assert first not in cleaned["message"]
    assert second not in cleaned["message"]
    assert len(asked) == 2, "a token provider is not asked only to clean a message"


def test_a_function_is_asked_anew_each_time() -> None:
    tokens = iter(["token-1", "token-2"])
    secret = Secret(lambda: next(tokens))
    assert secret.renewable
    assert [secret.open(), secret.open()] == ["token-1", "token-2"]
    assert not Secret("key").renewable


def test_secrets_compare_by_their_keys() -> None:
    assert Secret("key-1") == Secret("key-1")
    assert Secret("key-1") != Secret("key-2")
    assert Secret("key-1") != "key-1"
    assert Secret(lambda: "key-1") != Secret(lambda: "key-1")
    assert len({Secret("key-1"), Secret("key-1")}) == 1


@given(keys, st.sampled_from(["Bearer ", "bearer ", "Basic ", "ApiKey ", "Token  "]))
def test_of_a_header_with_a_scheme_the_key_alone_is_cut_out_too(key: str, scheme: str) -> None:
    cleaned = Secret(scheme + key, "the header Authorization").redact(["key: " + key, scheme + key])
    assert key not in "".join(cleaned)


def test_of_any_other_header_only_the_whole_is() -> None:
    assert Secret("phi project").redact(["a project", "phi project"]) == ["a project", "***"]
