"""Prompts are byte for byte those of Transformers; and the built-in templates write what the model cards say.

The judge is Transformers' own rendering. Nothing here is expected because we once wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from slmclient import catalogue
from slmclient.drivers.engine import files as model_files
from slmclient.drivers.prompt import Template, builtin, render
from slmclient.errors import ConfigurationError
from slmclient.media import Image
from slmclient.messages import Message, Text, ToolCall
from slmclient.phi.templates import NAMES

quick = settings(deadline=None, suppress_health_check=list(HealthCheck))

CONTROL = ("<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<eot>")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
PIXEL = Image(url="data:image/png;base64,AA==")

# Templates of our own that use what those of real models use, feature by feature.
FEATURES = {
    "trim, and bos and eos tokens": (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] | upper }}] {{ m['content'] | trim }} {{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[ASSISTANT]{% endif %}"
    ),
    "a namespace, and the last user turn": (
        "{%- set ns = namespace(last=-1, seen=false) -%}\n"
        "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
        "{%- endfor -%}\n"
        "{%- for m in messages %}\n"
        "    {%- if loop.index0 == ns.last %}>>> {% endif %}\n"
        "    {{- m.role ~ ': ' ~ m.content ~ '\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}\n"
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% if loop.index > 5 %}{% break %}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        "{{ messages[-1].content }}"
    ),
    "lines and indents of the template's own": (
        "{% for m in messages %}\n"
        "    {% if m.role == 'system' %}\n"
        "SYSTEM {{ m.content }}\n"
        "    {% else %}\n"
        "  {{ m.role }} {{ m.content }}\n"
        "    {% endif %}\n"
        "{# a remark #}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}\n"
        "    ASSISTANT\n"
        "{% endif %}\n"
    ),
    "tools and their calls as JSON": (
        "{{ 'none' if tools is none }}{{ documents }}"
        "{% if tools %}TOOLS {{ tools | tojson }}\n{{ tools | tojson(indent=2) }}\n{% for t in tools %}"
        "{{ t.function.name }}({{ t.function.parameters.properties | list | join(', ') }})"
        "{{ t | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}{% endfor %}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if m.tool_calls is defined and m.tool_calls %}{% for c in m.tool_calls %}"
        "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}"
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endif %}"
        "{% if m.tool_call_id %}#{{ m.tool_call_id }}{% endif %}{% endfor %}"
    ),
    "contents as lists or texts": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
        "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% elif 'text' in c %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "generation blocks": (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{% set x = m.content %}"
        "{{ x }}{{ eos_token }}{% endgeneration %}{{ x }}{% else %}{{ m.role }}:{{ m.content }}\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    ),
    "a macro, a filter, and a default": (
        "{%- macro turn(role, text, end='<|end|>') -%}<|{{ role }}|>{{ caller() if caller else '' }}{{ text }}"
        "{{ end }}{%- endmacro -%}"
        "{%- for m in messages if m.role != 'tool' -%}{{ turn(m.role, m.content | replace('\\r', '')) }}"
        "{%- if not loop.last -%}{{ '\\n' * 2 }}{%- endif -%}{%- else -%}nothing{%- endfor -%}"
        "{{ thinking | default('off') }}{{ 'T' if enable_thinking is defined and enable_thinking }}"
        "{{ dict(a=1) }}{{ ('%s-%d' % ('x', 3)) }}{{ 'y' | center(5) }}{{ '{}'.format(messages | length) }}"
    ),
    "looking into what was said": (
        "{% for m in messages %}{% set text = m.content %}"
        "{% if m.role == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}"
        "{% endif %}{% if text.startswith('/quiet') %}{% set text = text.replace('/quiet', '') %}Q{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ text }}<|im_end|>\n{% endfor %}"
    ),
    "the text reversed, cut and measured": (
        "{% for m in messages[::-1] %}{{ m.content | length }} {{ m.content[:4] }}…{{ m.content[-4:] | lower }} "
        "{{ m.content.split('\\n') | first }}{{ m.content | capitalize }}{{ m.content | e }}\n{% endfor %}"
    ),
    "refusing other orders": (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('The system message comes first.') }}{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    ),
}

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
odd = st.sampled_from(
    [*CONTROL, "", " ", "\n", "  \n\t", "/quiet", "</think>", "<|", "|>", "\\", '"', "{{ x }}", "é漢🙂", "<|im_"]
)
texts = st.lists(words | odd, max_size=6).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**12) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    lambda number, arguments: ToolCall(id=f"call_{number}", name="weather", arguments=arguments, raw="{}"),
    st.integers(0, 9),
    st.dictionaries(words, values, max_size=3),
)


@st.composite
def conversations(draw: st.DrawFn, *, tools: bool = False, prefill: bool = False) -> list[Message]:
    """Turn by turn, with a system message or none, and calls of tools if asked for."""
    messages = [Message.system(draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        messages += [Message.user(draw(texts)), Message.assistant(draw(texts))]
        if tools and draw(st.booleans()):
            call = draw(calls)
            messages[-1] = Message(role="assistant", content=draw(texts), tool_calls=(call,))
            messages += [Message.tool(draw(texts), call.id), Message.assistant(draw(texts))]
    messages.append(Message.user(draw(texts)))
    return [*messages, Message.assistant(draw(texts.filter(str.strip)))] if prefill else messages


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather <of> a 'city' & more: °C, 漢.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    },
    {"type": "function", "function": {"name": "no_arguments", "parameters": {"type": "object", "properties": {}}}},
]


@pytest.fixture(scope="module")
def embedded(weights: Path) -> Template:
    """The embedded model's own template."""
    files = model_files.read_gguf(weights)
    assert files.template is not None
    return Template(files.template, files.control, files.special)


@pytest.fixture(scope="module")
def judge() -> PreTrainedTokenizerFast:
    """A tokenizer of Transformers, with nothing in it but two special tokens."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)


def shaped(message: Message, *, parts: bool = False) -> dict[str, Any]:
    """Return a message as Transformers takes it."""
    dict_: dict[str, Any] = {"role": message.role, "content": message.text}
    if parts:
        dict_["content"] = [{"type": "image"}] * len(message.images) + [{"type": "text", "text": message.text}]
    if message.tool_calls:
        dict_["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        dict_ |= {"tool_call_id": message.tool_call_id, "name": "weather"}
    return dict_


def theirs(
    judge: PreTrainedTokenizerFast,
    source: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    parts: bool = False,
    **more: Any,
) -> str:
    prefill = messages[-1].role == "assistant"
    text = judge.apply_chat_template(
        [shaped(message, parts=parts) for message in messages],
        chat_template=source,
        tools=list(tools) or None,
        tokenize=False,
        add_generation_prompt=not prefill,
        continue_final_message=prefill,
        **more,
    )
    assert isinstance(text, str)
    return text


def template(source: str) -> Template:
    return Template(source, CONTROL, SPECIAL)


# --- Byte for byte


@settings(quick, max_examples=40)
@pytest.mark.parametrize("feature", FEATURES)
@given(messages=conversations(tools=True), tools=st.booleans())
def test_every_feature_renders_as_in_transformers(
    judge: PreTrainedTokenizerFast, feature: str, messages: list[Message], tools: bool
) -> None:
    source, listed = FEATURES[feature], TOOLS if tools else []
    ours = render(template(source), messages, tools=listed)
    if any(note.kind == "converted" for note in ours.notes):
        assert feature in MAY_DIFFER
        return
    assert ours.text == theirs(judge, source, messages, tools=listed)


MAY_DIFFER = ("break and continue", "the text reversed, cut and measured")
"""These leave out system messages, which are then put elsewhere, or change the characters of control tokens in texts,
which they are not let see. A note says so. (It never says so of the others.)"""


@settings(quick, max_examples=40)
@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations(tools=True), tools=st.booleans())
def test_the_built_in_templates_render_as_in_transformers(
    judge: PreTrainedTokenizerFast, name: str, messages: list[Message], tools: bool
) -> None:
    chosen, listed = builtin(name), TOOLS if tools else []
    assert chosen is not None
    ours = render(chosen, messages, tools=listed)
    assert ours.text == theirs(judge, chosen.source, messages, tools=listed, **chosen.special)


@settings(quick, max_examples=100)
@given(messages=conversations())
def test_the_embedded_models_own_template_renders_as_in_transformers(
    judge: PreTrainedTokenizerFast, embedded: Template, messages: list[Message]
) -> None:
    ours = render(embedded, messages)
    assert ours.text == theirs(judge, embedded.source, messages, **embedded.special)
    assert not ours.notes


@settings(quick, max_examples=40)
@pytest.mark.parametrize("source", [builtin(name).source for name in NAMES], ids=NAMES)  # type: ignore[union-attr]
@given(messages=conversations(prefill=True))
def test_a_turn_to_be_continued_ends_as_in_transformers(
    judge: PreTrainedTokenizerFast, source: str, messages: list[Message]
) -> None:
    assert render(template(source), messages).text == theirs(judge, source, messages)


@settings(quick, max_examples=100)
@given(messages=conversations(prefill=True))
def test_a_turn_to_be_continued_is_trimmed_where_the_template_trims(
    judge: PreTrainedTokenizerFast, messages: list[Message]
) -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    assert render(template(source), messages).text == theirs(judge, source, messages)


@settings(quick, max_examples=40)
@given(messages=conversations(), pictures=st.integers(0, 3))
def test_contents_in_parts_render_as_in_transformers(
    judge: PreTrainedTokenizerFast, messages: list[Message], pictures: int
) -> None:
    source = FEATURES["contents as lists or texts"]
    messages[-1] = Message.user(messages[-1].text, *[PIXEL] * pictures)
    ours = render(template(source), messages, parts=True)
    assert ours.text == theirs(judge, source, messages, parts=True)
    assert ours.text.count("<image>") == pictures == len(ours.images)


def test_variables_of_the_caller_render_as_in_transformers(judge: PreTrainedTokenizerFast) -> None:
    source = FEATURES["a macro, a filter, and a default"] + "{{ bos_token }}"
    messages = [Message.user("Hi")]
    more = {"enable_thinking": True, "thinking": "on", "bos_token": "<other>"}
    ours = render(template(source), messages, variables=more).text
    assert ours == theirs(judge, source, messages, **more)
    assert ours.endswith("<other>")


def test_the_clock_is_the_one_of_the_wall(judge: PreTrainedTokenizerFast) -> None:
    source = "{{ strftime_now('%d %B %Y %Z') }}|{{ messages[0].content }}"
    days = [datetime.now().astimezone().strftime("%d %B %Y")]
    ours, other = render(template(source), [Message.user("Hi")]).text, theirs(judge, source, [Message.user("Hi")])
    days.append(datetime.now().astimezone().strftime("%d %B %Y"))
    assert ours in [f"{day} |Hi" for day in days]
    assert ours == other or days[0] != days[1]


@pytest.mark.parametrize(
    "source", ["{% for m in %}", "{{ messages.append(1) }}", "{{ nothing.at.all }}", "{% set n = namespace(__x__=1) %}"]
)
def test_what_transformers_cannot_render_is_an_error_here_too(judge: PreTrainedTokenizerFast, source: str) -> None:
    with pytest.raises((TemplateError, TypeError)):
        theirs(judge, source, [Message.user("Hi")])
    with pytest.raises(ConfigurationError):
        render(template(source), [Message.user("Hi")])


def test_a_refusal_says_what_the_template_says(judge: PreTrainedTokenizerFast) -> None:
    source = "{{ raise_exception('Roles must take turns: ' ~ messages[0].role) }}"
    with pytest.raises(Exception, match="Roles must take turns: user"):
        theirs(judge, source, [Message.user("Hi")])
    with pytest.raises(ConfigurationError, match="Roles must take turns: user"):
        render(template(source), [Message.user("Hi")])


# --- The forms of the model cards, as the facts about providers give them


TURNS = [Message.system("S"), Message.user("U1"), Message.assistant("A1"), Message.user("U2")]

PHI_3 = "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\n"
PHI_4 = (
    "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>U1<|im_end|>"
    "<|im_start|>assistant<|im_sep|>A1<|im_end|><|im_start|>user<|im_sep|>U2<|im_end|><|im_start|>assistant<|im_sep|>"
)
PHI_4_MINI = "<|system|>S<|end|><|user|>U1<|end|><|assistant|>A1<|end|><|user|>U2<|end|><|assistant|>"
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("name", "whole", "begun"),
    [
        ("phi-3", PHI_3, "<|user|>\nU<|end|>\n<|assistant|>\nOnce"),
        ("phi-4", PHI_4, "<|im_start|>user<|im_sep|>U<|im_end|><|im_start|>assistant<|im_sep|>Once"),
        ("phi-4-mini", PHI_4_MINI, "<|user|>U<|end|><|assistant|>Once"),
        ("chatml", CHATML, "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nOnce"),
    ],
)
def test_a_built_in_template_writes_the_form_of_its_models(name: str, whole: str, begun: str) -> None:
    chosen = builtin(name)
    assert chosen is not None
    prompt = render(chosen, TURNS)
    assert (prompt.pieces, prompt.notes) == ((whole,), ())
    assert render(chosen, [Message.user("U"), Message.assistant("Once")]).text == begun
    # Whatever it writes between angle brackets and bars is known as a control token.
    assert set(re.findall(r"<\|[^|]*\|>", whole)) <= set(chosen.control)
    assert chosen.special["eos_token"] in chosen.control


def test_there_is_a_built_in_template_for_every_model_of_the_catalogue() -> None:
    named = {model.template for model in catalogue.models() if model.template}
    assert {"phi-3", "phi-4", "phi-4-mini"} <= named <= set(NAMES)
    assert builtin("llama-9") is None


def test_images_stand_before_the_text_by_their_numbers() -> None:
    """Phi-3-vision: ``<|image_1|>`` and a new line before the text, numbered over the whole conversation."""
    chosen = builtin("phi-3")
    assert chosen is not None
    messages = [
        Message.user("What?", PIXEL, PIXEL),
        Message.assistant("Cats."),
        Message(role="user", content=(Text(text="This:"), PIXEL, Text(text="or this?"), PIXEL)),
    ]
    prompt = render(chosen, messages, image_tag="<|image_{n}|>\n")
    assert prompt.text == (
        "<|user|>\n<|image_1|>\n<|image_2|>\nWhat?<|end|>\n<|assistant|>\nCats.<|end|>\n"
        "<|user|>\nThis:<|image_3|>\nor this?<|image_4|>\n<|end|>\n<|assistant|>\n"
    )
    assert len(prompt.images) == 4


@pytest.mark.parametrize("system", [True, False])
def test_phi_4_mini_lists_tools_in_its_system_turn(system: bool) -> None:
    chosen = builtin("phi-4-mini")
    assert chosen is not None
    function = {"name": "time", "parameters": {"type": "object", "properties": {}}}
    call = ToolCall(id="1", name="time", arguments={"zone": "Oslo"}, raw='{"zone": "Oslo"}')
    messages = [
        *([Message.system("S")] if system else []),
        Message.user("U"),
        Message(role="assistant", tool_calls=(call,)),
        Message.tool("noon", "1"),
    ]
    said = "S" if system else ""
    listed = '[{"name": "time", "parameters": {"type": "object", "properties": {}}}]'
    assert render(chosen, messages, tools=[{"type": "function", "function": function}]).text == (
        f"<|system|>{said}<|tool|>{listed}<|/tool|><|end|><|user|>U<|end|>"
        '<|assistant|><|tool_call|>[{"name": "time", "arguments": {"zone": "Oslo"}}]<|/tool_call|><|end|>'
        "<|tool_response|>noon<|end|><|assistant|>"
    )
