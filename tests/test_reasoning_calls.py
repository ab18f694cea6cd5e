"""How much a model is to think is said where it can be, in the words that it or its server knows, or reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slmclient import PhiClient, catalogue
from slmclient.chat import KNOBS, Cancellation, ChatRequest, Note, ReasoningEffort
from slmclient.drivers import registry
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.ollama import PATTERNS as OLLAMA
from slmclient.drivers.prompt import Template
from slmclient.drivers.prompt.thinking import is_thinking, rendered
from slmclient.drivers.wire import faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import BadRequestError, InternalServerError, SLMError
from slmclient.messages import Message
from slmclient.phi.reasoning import expects, prepared, refuses
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import whole

EFFORTS: tuple[ReasoningEffort, ...] = ("off", "low", "medium", "high")
ALL = frozenset({*KNOBS, "reasoning"})
DROPPED = [Note("dropped", "reasoning")]
NEVER = Cancellation()
SYSTEM_BEGINS = "You are Phi, a language model trained by Microsoft to help users. Your role as an assistant involves"


def asked(*messages: Message, reasoning: ReasoningEffort | None = None) -> ChatRequest:
    return ChatRequest(messages or (Message.user("Hi"),), reasoning=reasoning, cancellation=NEVER)


def known(name: str) -> catalogue.Model:
    model = catalogue.find(name)
    assert model is not None
    return model


def system_of(name: str) -> str:
    thinks = known(name).reasoning
    assert thinks is not None
    assert thinks.system is not None
    return thinks.system


# --- what the catalogue says


def test_the_models_that_think() -> None:
    thinking = {model.name: model.reasoning for model in catalogue.models() if model.reasoning}
    assert set(thinking) == {
        *("phi-4-reasoning", "phi-4-reasoning-plus", "phi-4-reasoning-vision"),
        *("phi-4-mini-reasoning", "phi-4-mini-flash-reasoning"),
    }
    assert {name for name, thinks in thinking.items() if thinks.system} == {"phi-4-reasoning", "phi-4-reasoning-plus"}
    assert {name for name, thinks in thinking.items() if thinks.chooses} == {"phi-4-reasoning-vision"}
    vision = thinking["phi-4-reasoning-vision"]
    assert (vision.think, vision.answer) == ("<think>", "<|dummy_84|>")


def test_the_system_prompt_is_the_one_of_the_card() -> None:
    system = system_of("phi-4-reasoning")
    assert system == system_of("phi-4-reasoning-plus")
    assert system.startswith(SYSTEM_BEGINS)
    assert "the specified format: <think> {Thought section} </think> {Solution section}. In" in system
    assert system.endswith("Now, try to solve the following question through the above guidelines:")


def test_where_a_prompt_is_ours() -> None:
    """The catalogue's providers of engines are those whose drivers have one."""
    ours = {host.name for host in catalogue.providers() if host.own_prompts}
    assert ours == {name for name in registry.ROWS if not registry.driver_info(name).hosted}


# --- expecting thoughts


@pytest.mark.parametrize("effort", [None, *EFFORTS])
def test_thoughts_are_expected_of_models_that_always_think(effort: ReasoningEffort | None) -> None:
    request = asked(reasoning=effort)
    assert expects(request, known("phi-4-mini-reasoning"))
    assert expects(request, known("phi-4-reasoning"))
    assert not expects(request, known("phi-4-reasoning-vision"))  # its tag tells that it does
    assert not expects(request, known("phi-4-mini"))
    assert not expects(request, None)


def test_an_answer_that_was_begun_goes_on_with_what_stands_there() -> None:
    begun = asked(Message.user("Hi"), Message.assistant("The answer is"))
    assert not expects(begun, known("phi-4-mini-reasoning"))


# --- preparing a call


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(
    ("name", "provider", "knobs", "stays", "notes"),
    [
        # a driver that can say it, to a model of which nothing is known
        (None, "openai", ALL, True, []),
        (None, "ollama", ALL, True, []),
        # a driver that cannot
        (None, "nvidia", frozenset(KNOBS), False, DROPPED),
        (None, "scripted", frozenset(KNOBS), False, DROPPED),
        # a model that is known to have no switch, or none that a server can be told of
        ("phi-4-mini-reasoning", "openai", ALL, False, DROPPED),
        ("phi-4-reasoning-vision", "azure", ALL, False, DROPPED),
        # where the prompt is ours the template shows it
        (None, "llamacpp", ALL, True, []),
        ("phi-4-mini", "llamacpp", ALL, True, []),
        ("phi-4-reasoning-vision", "transformers", ALL, True, []),
        ("phi-4-reasoning-vision", "transformers", frozenset(KNOBS), False, DROPPED),
    ],
)
def test_who_says_how_much_to_think(
    effort: ReasoningEffort, name: str | None, provider: str, knobs: frozenset[str], stays: bool, notes: list[Note]
) -> None:
    model = known(name) if name else None
    request, told = prepared(asked(reasoning=effort), model, knobs, provider)
    assert request.reasoning == (effort if stays else None)
    assert told == notes
    assert request.messages == asked().messages


def test_a_model_that_does_not_think_need_not_be_told_so() -> None:
    """Ollama answers 400 to a model that cannot think and is told to; and it is no loss that this one is not."""
    assert prepared(asked(reasoning="off"), known("phi-4-mini"), ALL, "ollama") == (asked(), [])
    assert prepared(asked(reasoning="high"), known("phi-4-mini"), ALL, "ollama") == (asked(), DROPPED)


def test_nothing_is_touched_that_need_not_be() -> None:
    request = asked()
    assert prepared(request, known("phi-4-mini-reasoning"), ALL, "ollama")[0] is request
    assert prepared(request, None, frozenset(), "nobody")[0] is request


@pytest.mark.parametrize("name", ["phi-4-reasoning", "phi-4-reasoning-plus"])
def test_phi_reasoning_gets_its_system_prompt_where_no_template_says_it(name: str) -> None:
    system, model = system_of(name), known(name)
    request, (note,) = prepared(asked(), model, ALL, "ollama")
    assert request.messages == (Message.system(system), Message.user("Hi"))
    assert note.kind == "converted"
    mine = Message.system("Be brief.")
    request, (note,) = prepared(asked(mine, Message.user("Hi")), model, ALL, "ollama")
    assert request.messages == (Message.system(f"{system}\n\nBe brief."), Message.user("Hi"))
    assert note.kind == "converted"
    written_by_hand = asked(Message.system(f"{system} Be brief."), Message.user("Hi"))
    assert prepared(written_by_hand, model, ALL, "ollama") == (written_by_hand, [])


def test_without_thoughts_it_does_not_get_it() -> None:
    request, notes = prepared(asked(reasoning="off"), known("phi-4-reasoning"), ALL, "ollama")
    assert (request, notes) == (asked(), DROPPED)


@pytest.mark.parametrize("provider", ["azure", "openai", "nvidia", "llamacpp", "transformers", "scripted"])
def test_elsewhere_the_template_has_it(provider: str) -> None:
    assert prepared(asked(), known("phi-4-reasoning"), ALL, provider) == (asked(), [])


# --- what servers are sent


def body_of(provider: str, base_url: str, effort: ReasoningEffort | None, **options: Any) -> dict[str, Any]:
    driver = registry.driver_class(provider)(DriverConfig(provider, "some-model", base_url, options=options))
    assert isinstance(driver, HttpDriver)
    body: dict[str, Any] = json.loads(driver.encode(asked(reasoning=effort), "some-model").content)
    return body


@pytest.mark.parametrize(("effort", "sent"), [("off", "none"), ("low", "low"), ("medium", "medium"), ("high", "high")])
def test_chat_completions_has_a_field_for_it(effort: ReasoningEffort, sent: str) -> None:
    assert body_of("openai", "http://localhost:8000", effort)["reasoning_effort"] == sent
    assert "reasoning_effort" not in body_of("openai", "http://localhost:8000", None)


AZURE = "https://r.services.ai.azure.com/models"
LACKING = [("nvidia", "http://localhost:8000"), ("github", "http://localhost:8000"), ("azure", AZURE)]


@pytest.mark.parametrize(("provider", "base_url"), LACKING)
def test_it_is_not_sent_where_a_strict_server_would_refuse_it(provider: str, base_url: str) -> None:
    driver = registry.driver_class(provider)(DriverConfig(provider, "m", base_url))
    assert "reasoning" not in driver.knobs
    assert "reasoning_effort" not in body_of(provider, base_url, "high")


@pytest.mark.parametrize(("effort", "sent"), [("off", False), ("low", "low"), ("high", "high")])
def test_ollama_has_a_field_of_its_own(effort: ReasoningEffort, sent: object) -> None:
    assert body_of("ollama", "http://localhost:11434", effort)["think"] == sent
    assert body_of("ollama", "http://localhost:11434", effort, think=True)["think"] == sent
    assert body_of("ollama", "http://localhost:11434", None, think=True)["think"] is True
    assert "think" not in body_of("ollama", "http://localhost:11434", None)


def test_what_extra_says_wins() -> None:
    answer = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
    with FaultServer(whole(200, answer)) as server, PhiClient("openai", "m", base_url=server.url) as client:
        client.chat("Hi", reasoning="high", extra={"reasoning_effort": "xhigh"})
    assert json.loads(server.seen[0].body)["reasoning_effort"] == "xhigh"


# --- what servers say that cannot be told

REFUSALS = [
    # status, body; who says it stands at the pattern in phi/reasoning.py
    (400, {"error": {"message": "Unrecognized request argument supplied: reasoning_effort", "code": None}}),
    (400, {"error": {"message": "Unknown parameter: 'reasoning_effort'.", "code": "unknown_parameter"}}),
    (400, {"error": {"message": "'reasoning_effort' is not supported", "code": "unsupported_parameter"}}),
    (422, {"detail": "Unexpected keys in the request: {'reasoning_effort'}"}),  # transformers serve 5.23
    (400, {"error": '"llama3.1:8b" does not support thinking'}),
    (400, {"error": 'think value "medium" is not supported for this model'}),
]
OTHERS = [
    (400, {"error": {"message": "max_tokens is too large", "code": None}}),
    (400, {"error": '"m" does not support tools'}),
]


def failure(status: int, body: object) -> SLMError:
    return faults.fault(faults.Origin("p", "m", Dialect(patterns=OLLAMA)), status, {}, body)


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_a_server_that_cannot_be_told_is_understood(status: int, body: object) -> None:
    assert refuses(failure(status, body))


@pytest.mark.parametrize(("status", "body"), OTHERS)
def test_what_is_refused_for_another_reason_is_not(status: int, body: object) -> None:
    assert not refuses(failure(status, body))


def test_what_may_pass_is_no_refusal() -> None:
    assert not refuses(InternalServerError("reasoning_effort made it crash", status_code=500))
    assert refuses(BadRequestError("reasoning_effort"))


# --- prompts that are ours

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
BEGIN = "{% if add_generation_prompt %}[assistant]{% endif %}"
PLAIN = Template(TURNS + BEGIN)
SWITCHED = {  # as the templates of Qwen3, of Granite 3.2, of gpt-oss
    "enable_thinking": TURNS + BEGIN + "{% if enable_thinking is defined and not enable_thinking %}<off>{% endif %}",
    "thinking": "{% if thinking %}<on>{% endif %}" + TURNS + BEGIN,
    "reasoning_effort": "{{ reasoning_effort or 'medium' }}:" + TURNS + BEGIN,
}


def prompt_of(source: str | Template, effort: ReasoningEffort | None, name: str | None = None, *turns: Message) -> Any:
    template = Template(source) if isinstance(source, str) else source
    request = asked(*turns, reasoning=effort)
    return rendered(template, request, known(name) if name else None)


@pytest.mark.parametrize(
    ("variable", "effort", "text"),
    [
        ("enable_thinking", None, "[user]Hi[assistant]"),
        ("enable_thinking", "off", "[user]Hi[assistant]<off>"),
        ("enable_thinking", "low", "[user]Hi[assistant]"),
        ("thinking", None, "[user]Hi[assistant]"),
        ("thinking", "off", "[user]Hi[assistant]"),
        ("thinking", "high", "<on>[user]Hi[assistant]"),
        ("reasoning_effort", None, "medium:[user]Hi[assistant]"),
        ("reasoning_effort", "low", "low:[user]Hi[assistant]"),
    ],
)
def test_a_template_is_told_by_the_variable_that_it_reads(
    variable: str, effort: ReasoningEffort | None, text: str
) -> None:
    prompt = prompt_of(SWITCHED[variable], effort)
    assert (prompt.text, prompt.notes) == (text, ())


def test_a_template_that_knows_levels_only_cannot_be_told_not_to_think() -> None:
    prompt = prompt_of(SWITCHED["reasoning_effort"], "off")
    assert (prompt.text, prompt.notes) == ("medium:[user]Hi[assistant]", tuple(DROPPED))


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_template_without_a_variable_is_not_told(effort: ReasoningEffort) -> None:
    assert prompt_of(PLAIN, effort).notes == tuple(DROPPED)
    assert prompt_of(PLAIN, effort, "phi-4-mini-reasoning").notes == tuple(DROPPED)
    fulfilled = effort == "off"
    assert prompt_of(PLAIN, effort, "phi-4-mini").notes == (() if fulfilled else tuple(DROPPED))


@pytest.mark.parametrize(
    ("effort", "end"), [(None, ""), ("off", "<|dummy_84|>"), ("low", "<think>"), ("high", "<think>")]
)
def test_phi_vision_is_switched_where_its_answer_begins(effort: ReasoningEffort | None, end: str) -> None:
    """Its repository's sample.ipynb (2026-03-04) appends the token to the rendered prompt."""
    template = Template(TURNS + BEGIN, control=("<think>", "<|dummy_84|>"))
    prompt = prompt_of(template, effort, "phi-4-reasoning-vision")
    assert (prompt.pieces, prompt.notes) == ((f"[user]Hi[assistant]{end}",), ())
    assert is_thinking(prompt, asked()) == (end == "<think>")


def test_what_a_user_writes_is_no_switch() -> None:
    template = Template(TURNS + BEGIN, control=("<|dummy_84|>",))
    prompt = prompt_of(template, "high", "phi-4-reasoning-vision", Message.user("<|dummy_84|>"))
    assert prompt.text == "[user]<|dummy_84|>[assistant]<think>"
    assert not any("<|dummy_84|>" in piece for piece in prompt.pieces)


def test_an_answer_that_was_begun_is_not_switched() -> None:
    turns = (Message.user("Hi"), Message.assistant("It is"))
    prompt = prompt_of(PLAIN, "high", "phi-4-reasoning-vision", *turns)
    assert (prompt.text, prompt.notes) == ("[user]Hi[assistant]It is", tuple(DROPPED))


# The two forms in which the model's template goes around: its own says the prompt in any case; the other one, of a
# converted file, says it in place of every message if there is a system message, and so loses what the user said.
OWN = (
    "[system]{system}{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)
CONVERTED = (
    "{% if messages[0].role != 'system' %}[system]{system}{% endif %}{% for m in messages %}"
    "{% if messages[0].role == 'system' %}[system]{system}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize("source", [OWN, CONVERTED])
def test_a_template_that_has_phis_system_prompt_says_it_once(source: str) -> None:
    system = system_of("phi-4-reasoning")
    template = Template(source.replace("{system}", system) + BEGIN)
    prompt = prompt_of(template, None, "phi-4-reasoning")
    assert (prompt.text, prompt.notes) == (f"[system]{system}[user]Hi[assistant]", ())
    prompt = prompt_of(template, None, "phi-4-reasoning", Message.system("Be brief."), Message.user("Hi"))
    assert prompt.text == f"[system]{system}[user]Be brief.\n\nHi[assistant]"
    assert [note.kind for note in prompt.notes] == ["converted"]  # the system message is in the user's turn


def test_a_template_that_lacks_phis_system_prompt_is_given_it() -> None:
    system = system_of("phi-4-reasoning")
    prompt = prompt_of(PLAIN, None, "phi-4-reasoning", Message.system("Be brief."), Message.user("Hi"))
    assert prompt.text == f"[system]{system}\n\nBe brief.[user]Hi[assistant]"
    assert [note.kind for note in prompt.notes] == ["converted"]
    prompt = prompt_of(PLAIN, "off", "phi-4-reasoning")
    assert (prompt.text, prompt.notes) == ("[user]Hi[assistant]", tuple(DROPPED))
