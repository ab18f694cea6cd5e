"""Conversations: turns that are remembered, undone when they fail, saved and loaded."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmclient import Image, Message, PhiClient, ToolCall
from slmclient.chat import ChatRequest, Finish, ReasoningDelta, TextDelta, ToolCallDelta
from slmclient.errors import (
    BadRequestError,
    RateLimitError,
    SLMError,
    StreamInterruptedError,
    UnsupportedParameterError,
)
from slmclient.testing import ScriptedDriver
from slmclient.testing.hooks import RED
from test_client import Face, Watched, both
from test_messages import messages


def spoken(request: ChatRequest) -> list[tuple[str, str]]:
    """Return the roles and texts of a request."""
    return [(message.role, message.text) for message in request.messages]


# --- remembering


@both
async def test_every_turn_sends_those_before_it(face: Face) -> None:
    driver = ScriptedDriver("Hello Ada.", "Ada.", "You are welcome.")
    talk = face.kind(driver=driver).conversation(system="Be brief.")
    assert (await face.done(talk.send("I am Ada."))).text == "Hello Ada."
    async with face.opened(talk.stream("What is my name?")) as stream:
        assert await face.text(stream) == "Ada."
    await face.done(talk.send(Message.user("Thanks.")))
    whole = [
        ("system", "Be brief."),
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "What is my name?"),
        ("assistant", "Ada."),
        ("user", "Thanks."),
        ("assistant", "You are welcome."),
    ]
    assert [spoken(request) for request in driver.requests] == [whole[:2], whole[:4], whole[:6]]
    assert [(message.role, message.text) for message in talk.messages] == whole


@both
async def test_without_a_system_message_it_begins_empty(face: Face) -> None:
    driver = ScriptedDriver("a")
    talk = face.kind(driver=driver).conversation()
    assert talk.messages == ()
    await face.done(talk.send("?"))
    assert spoken(driver.requests[0]) == [("user", "?")]


@both
async def test_reasoning_is_remembered_and_calls_too(face: Face) -> None:
    script = [
        ReasoningDelta("hm"),
        TextDelta("wait"),
        ToolCallDelta(0, "call_1", "weather", '{"city": "Oslo"}'),
        Finish("tool_calls"),
    ]
    driver = ScriptedDriver(script, "4 degrees.")
    talk = face.kind(driver=driver).conversation()
    await face.done(talk.send("Weather in Oslo?"))
    await face.done(talk.send(Message.tool("4", "call_1")))
    call = ToolCall.parse("call_1", "weather", '{"city": "Oslo"}')
    assert talk.messages[1] == Message(role="assistant", content="wait", reasoning="hm", tool_calls=(call,))
    assert driver.requests[1].messages == talk.messages[:3]


@both
async def test_pictures_stay_in_the_conversation(face: Face) -> None:
    driver = ScriptedDriver("red", "yes")
    talk = face.kind(driver=driver).conversation()
    await face.done(talk.send("Which colour?", images=[RED]))
    await face.done(talk.send("Sure?"))
    assert talk.messages[0] == Message.user("Which colour?", Image(RED))
    assert driver.requests[1].messages[0].images == (Image(RED),)
    assert driver.requests[1].messages[2].images == ()


@both
async def test_two_conversations_on_one_client_do_not_mix(face: Face) -> None:
    driver = ScriptedDriver("a1", "b1", "a2", "b2")
    client = face.kind(driver=driver)
    first, second = client.conversation(system="A"), client.conversation(system="B")
    for turn in ("1", "2"):
        await face.done(first.send(f"ask a{turn}"))
        await face.done(second.send(f"ask b{turn}"))
    assert [message.text for message in first.messages] == ["A", "ask a1", "a1", "ask a2", "a2"]
    assert [message.text for message in second.messages] == ["B", "ask b1", "b1", "ask b2", "b2"]
    assert [message.text for message in driver.requests[3].messages] == ["B", "ask b1", "b1", "ask b2"]


def test_a_conversation_in_each_thread() -> None:
    client = PhiClient(driver=ScriptedDriver(*[lambda request: request.messages[-1].text.upper()] * 60, delay=0.001))
    talks = {name: client.conversation(system=name) for name in "abcdef"}

    def chat(name: str) -> None:
        for turn in range(10):
            talks[name].send(f"{name}{turn}")

    threads = [threading.Thread(target=chat, args=(name,)) for name in talks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name, talk in talks.items():
        turns = [text for turn in range(10) for text in (f"{name}{turn}", f"{name}{turn}".upper())]
        assert [message.text for message in talk.messages] == [name, *turns]


@both
async def test_messages_cannot_be_changed_from_outside(face: Face) -> None:
    talk = face.client("a").conversation(system="Be brief.")
    assert isinstance(talk.messages, tuple)
    held = talk.messages
    await face.done(talk.send("?"))
    assert len(held) == 1
    assert len(talk.messages) == 3


# --- options


@both
async def test_options_hold_for_all_turns_and_a_turn_may_have_its_own(face: Face) -> None:
    driver = ScriptedDriver("a", "b", "c")
    talk = face.kind(driver=driver).conversation(temperature=0.5, max_tokens=80, model="mine")
    await face.done(talk.send("1"))
    await face.done(talk.send("2", temperature=1, seed=7))
    async with face.opened(talk.stream("3", model="other")) as stream:
        await face.text(stream)
    assert [dict(request.sampling) for request in driver.requests] == [
        {"temperature": 0.5, "max_tokens": 80},
        {"temperature": 1, "max_tokens": 80, "seed": 7},
        {"temperature": 0.5, "max_tokens": 80},
    ]
    assert [request.model for request in driver.requests] == ["mine", "mine", "other"]


@both
async def test_a_turn_has_no_system_message_of_its_own(face: Face) -> None:
    driver = ScriptedDriver("a")
    for talk in (face.kind(driver=driver).conversation(), face.kind(driver=driver).conversation(system="a")):
        with pytest.raises(BadRequestError, match="system"):
            await face.done(talk.send("?", system="b"))
    assert driver.requests == []


@both
async def test_an_unknown_option_is_named(face: Face) -> None:
    driver = ScriptedDriver("a")
    with pytest.raises(UnsupportedParameterError, match="temperature"):
        await face.done(face.kind(driver=driver).conversation(tempature=0).send("?"))
    assert driver.requests == []


@pytest.mark.parametrize("system", [5, b"Be brief.", ["Be brief."]])
@both
async def test_a_system_message_is_text(face: Face, system: Any) -> None:
    with pytest.raises(BadRequestError, match="system"):
        await face.done(face.client("a").conversation(system=system).send("?"))


@both
async def test_the_options_given_are_not_changed(face: Face) -> None:
    options: dict[str, Any] = {"system": "Be brief.", "stop": ["END"]}
    await face.done(face.client("a").conversation(**options).send("?", images=[RED]))
    assert options == {"system": "Be brief.", "stop": ["END"]}


# --- turns that fail


@both
async def test_a_turn_that_fails_leaves_the_conversation_as_it_was(face: Face) -> None:
    driver = ScriptedDriver("Hello.", RateLimitError("busy"), [TextDelta("ha"), StreamInterruptedError("cut")], "Ada.")
    talk = face.kind(driver=driver, max_retries=0).conversation(system="Be brief.")
    await face.done(talk.send("I am Ada."))
    before = talk.messages
    with pytest.raises(RateLimitError):
        await face.done(talk.send("What is my name?"))
    assert talk.messages == before
    with pytest.raises(StreamInterruptedError):
        async with face.opened(talk.stream("What is my name?")) as stream:
            await face.text(stream)
    assert talk.messages == before
    await face.done(talk.send("What is my name?"))
    assert spoken(driver.requests[3]) == spoken(driver.requests[1])
    assert talk.messages == (*before, Message.user("What is my name?"), Message.assistant("Ada."))


@both
async def test_bad_input_leaves_the_conversation_as_it_was(face: Face) -> None:
    talk = face.client("a").conversation()
    for prompt, options in (("", {}), ("?", {"temperature": 5}), ("?", {"images": ["missing.png"]})):
        with pytest.raises(BadRequestError):
            await face.done(talk.send(prompt, **options))
        assert talk.messages == ()


@both
async def test_a_turn_that_is_left_early_is_forgotten(face: Face) -> None:
    driver = Watched()
    talk = face.kind(driver=driver).conversation()
    async with face.opened(talk.stream("Tell me a story.")) as stream, aclosing(face.each(stream)) as pieces:
        await anext(pieces)
    assert stream.reply.text
    assert talk.messages == ()
    assert driver.running == 0


@both
async def test_a_turn_that_is_cancelled_is_forgotten(face: Face) -> None:
    talk = face.client(["one ", "two ", "three"], "hello").conversation()
    async with face.opened(talk.stream("?")) as stream:
        async for _ in face.each(stream):
            stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert talk.messages == ()
    await face.done(talk.send("hi"))
    assert [message.text for message in talk.messages] == ["hi", "hello"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@both
async def test_a_turn_whose_block_fails_is_forgotten(face: Face, error: type[BaseException]) -> None:
    driver = Watched()
    talk = face.kind(driver=driver).conversation()
    await face.broken_off(talk.stream("?"), error)
    assert talk.messages == ()
    assert driver.running == 0


@both
async def test_a_turn_that_was_never_read_is_forgotten(face: Face) -> None:
    driver = ScriptedDriver("a")
    talk = face.kind(driver=driver).conversation()
    async with face.opened(talk.stream("?")):
        pass
    assert talk.messages == ()
    assert driver.requests == []


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@both
async def test_an_answer_that_was_cut_by_its_limit_is_remembered(face: Face, reason: Any) -> None:
    """It is what the model said; the caller sees the reason on the reply."""
    talk = face.client([TextDelta("Once upon"), Finish(reason)]).conversation()
    assert (await face.done(talk.send("?"))).finish_reason == reason
    assert [message.text for message in talk.messages] == ["?", "Once upon"]


# --- saving and loading


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@both
async def test_a_saved_conversation_goes_on_elsewhere(face: Face, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(RED)
    script = [ReasoningDelta("hm"), TextDelta("Blåbær 東京 👩‍👩‍👧 \0 \u2028"), ToolCallDelta(0, "1", "f", '{"a":  1}')]
    talk = face.client(script).conversation(system="Vær kort.")
    await face.done(talk.send("Hva er dette? 🇳🇴", images=[picture, "https://example.com/å.png"]))
    talk.save(tmp_path / "talk.json")
    picture.unlink()
    driver = ScriptedDriver("b")
    again = face.kind(driver=driver).load_conversation(str(tmp_path / "talk.json"), temperature=0)
    assert again.messages == talk.messages
    assert again.messages[1].images[0].inline, "the picture is embedded: it opens elsewhere"
    await face.done(again.send("Sikker?"))
    assert driver.requests[0].messages[:-1] == talk.messages
    assert driver.requests[0].sampling == {"temperature": 0}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(messages, max_size=4))
def test_any_messages_survive_saving(tmp_path: Path, turns: list[Message]) -> None:
    client = PhiClient(driver=ScriptedDriver())
    talk = client.conversation()
    talk._messages = list(turns)
    talk.save(tmp_path / "talk.json")
    assert client.load_conversation(tmp_path / "talk.json").messages == tuple(turns)


@both
async def test_a_saved_file_is_json_that_names_its_format(face: Face, tmp_path: Path) -> None:
    talk = face.client("a").conversation(system="Be brief.")
    await face.done(talk.send("?"))
    talk.save("talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert saved["format"] == "slmclient.conversation/1"
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]


@both
async def test_options_and_keys_are_not_saved(face: Face, tmp_path: Path) -> None:
    talk = face.client("a").conversation(temperature=0.123, extra={"user": "ada-lovelace"})
    await face.done(talk.send("?"))
    talk.save(tmp_path / "talk.json")
    text = (tmp_path / "talk.json").read_text(encoding="utf-8")
    assert "0.123" not in text
    assert "ada-lovelace" not in text


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    """The old file or the new one, never half of one. A limit on the size of files stands for the full disk."""
    resource = pytest.importorskip("resource", reason="this system limits no file sizes")
    talk = PhiClient(driver=ScriptedDriver("x" * 100_000)).conversation()
    talk.save(tmp_path / "talk.json")
    before = (tmp_path / "talk.json").read_bytes()
    talk.send("?")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            talk.save(tmp_path / "talk.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "talk.json").read_bytes() == before
    assert names_in(tmp_path) == ["talk.json"], "something was left behind"
    talk.save(tmp_path / "talk.json")
    assert len((tmp_path / "talk.json").read_bytes()) > 100_000


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    talk = PhiClient(driver=ScriptedDriver("a")).conversation(system="Be brief.")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder"):
        talk.save(tmp_path / "folder")
    assert names_in(tmp_path) == ["folder"]
    with pytest.raises(FileNotFoundError):
        talk.save(tmp_path / "missing" / "talk.json")


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    talk = PhiClient(driver=ScriptedDriver("a", "b")).conversation()
    for count in (2, 4):
        talk.send("?")
        talk.save(tmp_path / "talk.json")
        loaded = PhiClient(driver=ScriptedDriver()).load_conversation(tmp_path / "talk.json")
        assert len(loaded.messages) == count
    assert names_in(tmp_path) == ["talk.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"messages": 5}',
        b'{"messages": [{"role": "boss", "content": "?"}]}',
        b'{"format": "slmclient.conversation/2", "messages": []}',
        b'{"format": "slmclient.conversation/1"}',
        b'{"messages": [{"role": "user", "content": [{"type": "image", "url": "/etc/hostname"}]}]}',
        b'{"format": "slmclient.conversation/1", "messages": [{"role": "user", "content": "half',
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
@both
async def test_a_file_that_is_no_saved_conversation_is_refused_by_name(
    face: Face, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(BadRequestError, match=r"other\.json"):
        face.client().load_conversation(tmp_path / "other.json")


@both
async def test_a_file_that_cannot_be_read_is_refused_by_name(face: Face, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadRequestError, match=f"{path.name}.*cannot be read"):
            face.client().load_conversation(path)


@both
async def test_a_file_that_is_too_large_is_refused_before_it_is_read(face: Face, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)  # a terabyte that takes no place: reading it would not end
    with pytest.raises(BadRequestError, match=r"large\.json is too large"):
        face.client().load_conversation(file)


@both
async def test_a_loaded_conversation_has_its_own_system_message(face: Face, tmp_path: Path) -> None:
    """Nothing vanishes: another one beside it would."""
    talk = face.client().conversation(system="one")
    talk.save(tmp_path / "talk.json")
    with pytest.raises(SLMError, match="system"):
        face.client().load_conversation(tmp_path / "talk.json", system="two")
    assert face.client().load_conversation(tmp_path / "talk.json").messages == (Message.system("one"),)


def test_an_option_that_does_not_exist_is_an_error_at_once() -> None:
    client = PhiClient(driver=ScriptedDriver())
    with pytest.raises(UnsupportedParameterError, match="temperature"):
        client.conversation(tempature=0.2)  # type: ignore[call-arg]
    with pytest.raises(UnsupportedParameterError, match="run_tools"):
        client.conversation(max_rounds=3)  # type: ignore[call-arg]
