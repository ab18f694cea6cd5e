"""Prompts: nobody's text becomes a control token, system messages find a place, and templates are kept on a short lead.

That rendering is byte for byte that of Transformers stands in test_templates_golden.py.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from slmclient.chat import ChatRequest
from slmclient.drivers.prompt import Prompt, Template, builtin, render, takes_tools
from slmclient.drivers.prompt.thinking import is_thinking, rendered
from slmclient.errors import BadRequestError, ConfigurationError, MissingDependencyError, UnsupportedFeatureError
from slmclient.media import Image
from slmclient.messages import Message, Text, ToolCall

quick = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
PIXEL = Image(url="data:image/png;base64,AA==")


def known(name: str) -> Template:
    template = builtin(name)
    assert template is not None
    return template


# --- Control tokens


CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|end|>",
    "<|user|>",
    "<|system|>",
    "<|assistant|>",
    "<s>",
    "</s>",
    "<|e",
    "[X]",
    "s>[",
)

TEMPLATES = {
    "chatml": known("chatml").source,
    "phi-3": known("phi-3").source,
    "phi-4-mini": known("phi-4-mini").source,
    "trims": "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}</s>{% endfor %}",
    "nothing between": "{% for m in messages %}{{ m.content }}{% endfor %}[X]",
    "halves around": "{% for m in messages %}<|im_{{ m.content }}|>{% endfor %}",
    "a half behind": "{% for m in messages %}<|end|>{{ m.content }}end|><s>{{ m.content }}[X]{% endfor %}",
    "takes words out": (
        "{% for m in messages %}<s>{{ m.content | replace('/quiet', '') | replace('cut', '') }}</s>{% endfor %}"
    ),
    "splits and joins": "{% for m in messages %}<s>{{ m.content.split('/quiet') | join('') }}</s>{% endfor %}",
    "looks": (
        "{% for m in messages %}{% if '<|end|>' in m.content %}[X]{% endif %}"
        "{% if m.content.startswith('<s>') %}<s>{% endif %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    ),
    "as JSON": "{% for m in messages %}<s>{{ m | tojson }}{{ m.content | tojson(ensure_ascii=true) }}</s>{% endfor %}",
}  # fmt: skip

fragments = st.sampled_from(
    [*CONTROL, *'<>[aü \n\\"', "<|", "<|im_", "end", "|>", "im_end|>", "/quiet", "cut", "X]", "s>"]
)
texts = st.lists(fragments, max_size=7).map("".join)


def tokenizer(control: Sequence[str]) -> Tokenizer:
    """A real tokenizer, whose every other token is one byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(control))
    return made


ENCODER = tokenizer(CONTROL)


def control_ids(pieces: Sequence[str]) -> list[str]:
    """Return the control tokens that the real tokenizer finds in the pieces, encoded one by one."""
    found = [ENCODER.id_to_token(id) for piece in pieces for id in ENCODER.encode(piece).ids]
    return [token for token in found if token in CONTROL]


def by_hand(source: str, texts: Sequence[str]) -> list[str]:
    """Return the control tokens of the same conversation, were its texts without any."""
    return control_ids(render(Template(source), conversation(["é" if text.strip() else text for text in texts])).pieces)


def conversation(texts: Sequence[str]) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(role=roles[index % 2], content=text) for index, text in enumerate(texts)]


odd_many = st.lists(texts, min_size=1, max_size=3).filter(lambda listed: len(listed) % 2 == 1)


@quick
@pytest.mark.parametrize("name", TEMPLATES)
@given(said=odd_many)
def test_no_text_becomes_a_control_token(name: str, said: list[str]) -> None:
    source = TEMPLATES[name]
    prompt = render(Template(source, CONTROL), conversation(said))
    assert control_ids(prompt.pieces) == by_hand(source, said)
    assert all(prompt.pieces)
    if name != "looks":  # with that one, control tokens change what the template does; it is not let see them
        assert prompt.text == render(Template(source), conversation(said)).text
        assert prompt.notes == ()


@quick
@given(said=odd_many)
def test_a_template_that_looks_for_control_tokens_does_not_see_them_and_the_prompt_says_so(said: list[str]) -> None:
    source = TEMPLATES["looks"]
    prompt = render(Template(source, CONTROL), conversation(said))
    assert prompt.text == "".join(f"<|user|>{text}<|end|>" for text in said)
    same = prompt.text == render(Template(source), conversation(said)).text
    assert [note.kind for note in prompt.notes] == ([] if same else ["converted"])


def test_the_real_tokenizer_does_find_control_tokens_in_uncut_text() -> None:
    """The test above could not fail otherwise."""
    prompt = render(Template(TEMPLATES["chatml"]), [Message.user("a<|im_end|>b")])
    assert control_ids(prompt.pieces) == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|im_start|>"]


@pytest.mark.parametrize(
    ("source", "text", "pieces"),
    [
        ("{{ messages[0].content }}<|end|>", "plain < text", ["plain < text<|end|>"]),
        ("{{ messages[0].content }}<|end|>", "a<|end|>b", ["a<", "|end|>b<|end|>"]),
        ("{{ messages[0].content }}<|end|>", "<|e<|end|>nd|>", ["<|e<", "|end|>nd|><|end|>"]),
        ("{{ messages[0].content }}<|end|>", "<|end", ["<|end<|end|>"]),
        ("{{ messages[0].content }}|>", "<|end", ["<", "|end|>"]),
        ("<|{{ messages[0].content }}", "end|>", ["<", "|end|>"]),
        ("<|{{ messages[0].content }}|>", "end", ["<", "|end|>"]),
        ("{{ messages[0].content }}{{ messages[0].content }}", "|><|end", ["|><", "|end|><|end"]),
        ("<|end|>{{ messages[0].content }}", "x", ["<|end|>x"]),
        ("<|end|>{{ messages[0].content }}", "[", ["<|end|>["]),
    ],
)  # fmt: skip
def test_a_token_is_cut_behind_its_first_character(source: str, text: str, pieces: list[str]) -> None:
    assert list(render(Template(source, ("<|end|>",)), [Message.user(text)]).pieces) == pieces


def test_a_cut_spares_the_templates_own_token_that_overlaps() -> None:
    template = Template("<s>{{ messages[0].content }}", ("<s>", "s>x"))
    assert render(template, [Message.user("x")]).pieces == ("<s>", "x")


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_the_texts_of_all_roles_are_cut(role: Any) -> None:
    messages = [Message.user("U"), Message.user("U")]
    messages.insert(0 if role == "system" else 1, Message(role=role, content="<|im_end|>", tool_call_id="1"))
    prompt = render(known("chatml"), messages)
    assert len(prompt.pieces) == 2
    assert prompt.pieces[0].endswith("<")
    assert prompt.pieces[1].startswith("|im_end|>")


def test_what_stands_in_tools_and_their_calls_is_cut() -> None:
    call = ToolCall(id="1", name="f", arguments={"<|end|>": ["a<|end|>", {"b": "<|end|>"}]}, raw="")
    tool = {"type": "function", "function": {"name": "f", "description": "<|end|>", "parameters": {}}}
    messages = [Message.user("U"), Message(role="assistant", tool_calls=(call,)), Message.tool("x", "1")]
    prompt = render(known("phi-4-mini"), messages, tools=[tool])
    assert len(prompt.pieces) == 5
    assert prompt.text == render(Template(known("phi-4-mini").source), messages, tools=[tool]).text


def test_image_tags_are_the_templates_own_and_those_in_texts_are_not() -> None:
    template = Template(known("phi-3").source, ("<|image_1|>", "<|end|>"))
    prompt = render(template, [Message.user("<|image_1|> what?", PIXEL)], image_tag="<|image_{n}|>\n")
    assert prompt.pieces == ("<|user|>\n<|image_1|>\n<", "|image_1|> what?<|end|>\n<|assistant|>\n")


def test_text_may_hold_private_characters_but_not_all_of_them() -> None:
    private = "".join(map(chr, range(0xE000, 0xF900)))
    text = private[:100] + "\\ue065 <|im_end|> \\ue066"
    assert (
        render(known("chatml"), [Message.user(text)]).text
        == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(BadRequestError, match="private area"):
        render(known("chatml"), [Message.user(private)])


# --- System messages


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
SWALLOWS = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
FIRST_ONLY = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('Only first') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
FOLDED = "the system message was put into the first user turn: the template has no system role"
TOGETHER = "the system messages were put together: the template takes one, at the beginning"


@pytest.mark.parametrize("source", [NO_SYSTEM, SWALLOWS], ids=["refuses", "swallows"])
@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([Message.system("S"), Message.user("U")], "[user]S\n\nU"),
        ([Message.system("S"), Message.user("")], "[user]S"),
        ([Message.system("S"), Message.user("U"), Message.assistant("A")], "[user]S\n\nU[assistant]A"),
        ([Message.system("S"), Message.system("T"), Message.user("U")], "[user]S\n\nT\n\nU"),
        ([Message.user("U"), Message.system("S"), Message.user("V")], "[user]S\n\nU[user]V"),
        ([Message.system("S")], "[user]S"),
        ([Message.system("U"), Message.user("U")], "[user]U\n\nU"),
    ],
)  # fmt: skip
def test_a_system_message_without_a_place_goes_into_the_first_user_turn(
    source: str, messages: list[Message], text: str
) -> None:
    prompt = render(Template(source), messages)
    assert prompt.text == text
    assert [(note.kind, note.detail) for note in prompt.notes] == [("converted", FOLDED)]


def test_a_system_message_stands_before_the_text_of_a_turn_with_images() -> None:
    messages = [Message.system("S"), Message(role="user", content=(PIXEL, Text(text="U")))]
    assert render(Template(NO_SYSTEM), messages, image_tag="<{n}>").text == "[user]<1>S\n\nU"
    messages = [Message.system("S"), Message(role="user", content=(PIXEL,))]
    assert render(Template(NO_SYSTEM), messages, image_tag="<{n}>").text == "[user]<1>S"


def test_several_system_messages_are_put_together_where_only_one_is_taken() -> None:
    messages = [Message.system("S"), Message.user("U"), Message.system("T"), Message.user("V")]
    prompt = render(Template(FIRST_ONLY), messages)
    assert prompt.text == "[system]S\n\nT[user]U[user]V"
    assert [note.detail for note in prompt.notes] == [TOGETHER]


@pytest.mark.parametrize("name", ["chatml", "phi-3", "phi-4", "phi-4-mini"])
def test_where_system_messages_have_a_place_they_stay(name: str) -> None:
    messages = [Message.system("S"), Message.system(""), Message.user("U"), Message.system("T"), Message.user("V")]
    prompt = render(known(name), messages)
    assert prompt.notes == ()
    assert prompt.text.count("system") == 3


def test_a_template_that_refuses_whatever_is_tried_gives_its_own_reason() -> None:
    with pytest.raises(ConfigurationError, match="does not take this conversation: never again"):
        render(Template("{{ raise_exception('never again') }}"), [Message.system("S"), Message.user("U")])


# --- Turns to be continued


@pytest.mark.parametrize("text", ["", "Once", "Once ", "\n", "<|im_end|>", "Once upon\na time"])
def test_a_last_assistant_turn_is_left_open(text: str) -> None:
    prompt = render(known("chatml"), [Message.user("U"), Message.assistant(text)])
    assert prompt.text == f"<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n{text}"
    assert len(prompt.pieces) == (2 if text == "<|im_end|>" else 1)


def test_a_last_assistant_turn_in_parts_is_left_open() -> None:
    source = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}[end]{% endfor %}"
    prompt = render(Template(source), [Message.user("U"), Message.assistant("Once")], parts=True)
    assert prompt.text == "[user]U[end][assistant]Once"


def test_a_template_that_reads_lists_only_gets_lists() -> None:
    """Those of many models that see do: a text given as a string would be left out without a word."""
    source = (
        "{% for m in messages %}{{ m.role }}:"
        "{% for c in m.content | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text }}{% endfor %};{% endfor %}"
    )
    asked = [Message.user("What is this?"), Message.assistant("A wall."), Message.user("And this?", PIXEL)]
    template = Template(source, ("<image>",))
    assert render(template, asked[:1]).text == "user:What is this?;"
    assert render(template, asked).text == "user:What is this?;assistant:A wall.;user:<image>And this?;"
    assert render(template, asked, image_tag="<{n}>").text.endswith("user:<1>And this?;")


def test_a_template_that_leaves_out_the_last_turn_is_refused() -> None:
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(UnsupportedFeatureError, match="the last message must be the user's"):
        render(Template(source), [Message.user("U"), Message.assistant("Once")])


# --- Tools


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
PHI_4_MINI_OF_ITS_MAKERS = (  # in form: tools are read off the system message
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] %}"
    "[system]{{ message['content'] }}[tools]{{ message['tools'] }}"
    "{% else %}[{{ message['role'] }}]{{ message['content'] }}{% endif %}{% endfor %}"
)


def test_tools_are_put_where_the_template_reads_them() -> None:
    listed = '[tools][{"name": "f", "parameters": {}}]'
    template = Template(PHI_4_MINI_OF_ITS_MAKERS)
    assert takes_tools(template)
    assert render(template, [Message.user("U")], tools=[TOOL]).text == f"[system]{listed}[user]U"
    assert render(template, [Message.system("S"), Message.user("U")], tools=[TOOL]).text == f"[system]S{listed}[user]U"
    assert render(template, [Message.user("U")]).text == "[user]U"


def test_tools_without_a_place_are_reported() -> None:
    assert [takes_tools(known(name)) for name in ("phi-3", "phi-4", "phi-4-mini", "chatml")] == [
        False,
        False,
        True,
        True,
    ]
    prompt = render(known("phi-3"), [Message.user("U")], tools=[TOOL])
    assert [note.kind for note in prompt.notes] == ["dropped"]
    assert prompt.text == render(known("phi-3"), [Message.user("U")]).text


def test_a_tools_answer_bears_the_name_of_its_call() -> None:
    source = "{% for m in messages %}{{ m.name }}:{{ m.tool_call_id }};{% endfor %}"
    calls = tuple(ToolCall(id=id, name=name, arguments={}, raw="") for id, name in (("1", "sun"), ("2", "rain")))
    messages = [Message(role="assistant", tool_calls=calls), Message.tool("a", "2"), Message.tool("b", "1")]
    assert render(Template(source), messages).text == ":;rain:2;sun:1;"


# --- Templates from anywhere


DOUBLING = "{{% set n = namespace(s='xx') %}}{{% for a in range(40) %}}{}{{% endfor %}}"
ENDLESS = [
    pytest.param("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", id="loops in loops"),
    pytest.param("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", id="a long text in pieces"),
    pytest.param("{{ 'x' * 10**9 }}", id="times"),
    pytest.param(DOUBLING.format("{% set n.s = n.s + n.s %}"), id="plus"),
    pytest.param(DOUBLING.format("{% set n.s = n.s ~ n.s %}"), id="tilde"),
    pytest.param(DOUBLING.format("{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}"), id="captured"),
    pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="a macro in itself"),
    pytest.param("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", id="a loop in itself"),
    pytest.param("{{ 10 ** (10 ** 9) }}", id="power"),
    pytest.param("{{ '%999999999d' % 1 }}", id="percent"),
    pytest.param("{{ '{:>999999999}'.format(1) }}", id="format"),
    pytest.param("{{ '{:>{}}'.format(1, 999999999) }}", id="format by argument"),
    pytest.param("{{ 'x' | center(999999999) }}", id="center"),
    pytest.param("{{ 'x' | indent(999999999, true) }}", id="indent"),
    pytest.param("{{ 'x'.ljust(999999999) }}", id="ljust"),
    pytest.param("{{ lipsum(999999) }}", id="lipsum"),
    pytest.param("x" * (1024 * 1024 + 1), id="a long template"),
]  # fmt: skip


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_that_would_not_end_is_stopped(source: str) -> None:
    with pytest.raises(ConfigurationError, match="chat template"):
        render(Template(source), [Message.user("U")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update(role='system') }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ raise_exception.__globals__ }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{{ dict.mro() }}",
    ],
)
def test_a_template_gets_at_nothing_of_python(source: str) -> None:
    messages = [Message.user("U")]
    try:
        written = render(Template(source), messages).text
    except ConfigurationError:
        written = ""
    assert written == ""  # refused, or undefined
    assert messages == [Message.user("U")]


def test_numbers_and_braces_in_texts_are_no_formats() -> None:
    text = "{a:123456} %999999d %* {:{}}"
    source = "{{ messages[0].content.strip() }}{{ messages[0].content | indent(2) }}{{ ('%s' % messages[0].content) }}"
    call = ToolCall(id="1", name="f", arguments={"at": 1_700_000_000_000}, raw="")
    assert render(Template(source), [Message.user(text)]).text == text * 3
    source = "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(messages[0].tool_calls[0].function.arguments.at) }}"
    messages = [Message(role="assistant", tool_calls=(call,)), Message.tool("", "1")]
    assert render(Template(source), messages).text == "1700000000000"


def test_a_broken_template_is_named_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"broken in line 2: TemplateSyntaxError"):
        render(Template("x\n{% if %}"), [Message.user("U")])


def test_without_jinja_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *args, **named)

    monkeypatch.delitem(sys.modules, "slmclient.drivers.prompt.sandbox", raising=False)
    monkeypatch.delattr("slmclient.drivers.prompt.sandbox", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install"):
        render(known("phi-3"), [Message.user("U")])


def test_a_prompt_is_a_value() -> None:
    prompt = Prompt(("a", "b"))
    assert prompt.text == "ab"
    assert (prompt.notes, prompt.images) == ((), ())


def test_an_answer_that_is_bound_to_a_format_has_no_thoughts() -> None:
    """Its first character is JSON: a template that can be told so opens no thought, and none is looked for."""
    source = "{{ messages[-1].content }}{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    plain = ChatRequest((Message.user("Hi"),))
    bound = replace(plain, response_format={"type": "json_object"}, reasoning="high")
    assert rendered(Template(source), plain, None).text == "Hi<think>"
    assert is_thinking(rendered(Template(source), plain, None), plain)
    assert rendered(Template(source), bound, None).text == "Hi"
    always = rendered(Template("{{ messages[-1].content }}<think>"), bound, None)
    assert not is_thinking(always, bound)
