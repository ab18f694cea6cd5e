"""The numbers in errors of a context that is too small, as real servers word them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_server import KEY, LlamaServers
from slmclient import PhiClient
from slmclient.drivers.wire import faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.drivers.wire.overflow import sizes
from slmclient.errors import ContextLengthExceededError
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import whole

# Who says it, and where it was seen; the sentence; the prompt's tokens and the context, as far as it tells them.
SEEN: dict[str, tuple[str, int | None, int | None]] = {
    "OpenAI (oleteacher in dirk1983/deepseek#11, 2023)": (
        "This model's maximum context length is 4096 tokens. However, you requested 4222 tokens (1222 in the messages, "
        "3000 in the completion). Please reduce the length of the messages or completion.",
        1222,
        4096,
    ),
    "Azure OpenAI (microsoft/kernel-memory#278, 2024)": (
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 5818 tokens. Please "
        "reduce the length of the messages.",
        5818,
        4096,
    ),
    "Azure OpenAI with tools (Azure/azure-functions-openai-extension#113, 2024)": (
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 4109 tokens (4046 in "
        "the messages, 63 in the functions). Please reduce the length of the messages or functions.",
        4109,
        4096,
    ),
    "azure-ai-inference (Azure/azure-sdk-for-python#40986, 2025)": (
        "This model's maximum context length is 128000 tokens. However, you requested 1124171 tokens (124171 in the "
        "messages, 1000000 in the completion). Please reduce the length of the messages or completion.",
        124171,
        128000,
    ),
    "vLLM 0.9 and 0.10 (andrewcho-dev/opsconductor-ng, 2025)": (
        "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
        "tokens and your request has 2778 input tokens (8000 > 4096 - 2778). None",
        2778,
        4096,
    ),
    "vLLM, the prompt alone (whois-api-llc/web-categorization-v2, 2025)": (
        "This model's maximum context length is 1536 tokens. However, your request has 4176 input tokens. Please "
        "reduce the length of the input messages.",
        4176,
        1536,
    ),
    "vLLM, renderers/params.py of early 2026, where it read all": (
        "You passed 9000 input tokens and requested 1000 output tokens. However, the model's context length is only "
        "4096 tokens, resulting in a maximum input length of 3096 tokens. Please reduce the length of the input.",
        9000,
        4096,
    ),
    "the same, where it stopped one token over what is left": (
        "You passed 3097 input tokens and requested 1000 output tokens. However, the model's context length is only "
        "4096 tokens, resulting in a maximum input length of 3096 tokens. Please reduce the length of the input.",
        None,
        4096,
    ),
    "the same, which did not even begin to read": (
        "You passed 100000 input characters and requested 1000 output tokens. However, the model's context length is "
        "only 4096 tokens, resulting in a maximum input length of 3096 tokens (at most 80496 characters).",
        None,
        4096,
    ),
    "vLLM 0.22, a bound that it reckoned back from max_tokens": (
        "This model's maximum context length is 131072 tokens. However, you requested 65536 output tokens and your "
        "prompt contains at least 65537 input tokens, for a total of at least 131073 tokens. Please reduce the length "
        "of the input prompt or the number of requested output tokens.",
        None,
        131072,
    ),
    "vLLM 0.22, counted": (
        "This model's maximum context length is 131072 tokens. However, you requested 65536 output tokens and your "
        "prompt contains 100000 input tokens, for a total of 165536 tokens. Please reduce the length of the input "
        "prompt or the number of requested output tokens.",
        100000,
        131072,
    ),
    "SGLang, tokenizer_manager.py": (
        "Requested token count exceeds the model's maximum context length of 131072 tokens. You requested a total of "
        "140000 tokens: 123616 tokens from the input messages and 16384 tokens for the completion. Please reduce the "
        "number of tokens in the input messages or the completion to fit within the limit.",
        123616,
        131072,
    ),
    "SGLang and Together, the prompt alone": (
        "The input (516368 tokens) is longer than the model's context length (262144 tokens).",
        516368,
        262144,
    ),
    "llama.cpp, as this repository's tests see it": (
        "request (631 tokens) exceeds the available context size (512 tokens), try increasing it",
        631,
        512,
    ),
    "Ollama 0.33 (server/routes.go)": ("the input length exceeds the context length", None, None),
    "GitHub Models and Azure, tokens_limit_reached": (
        "Request body too large for phi-4 model. Max size: 8000 tokens.",
        None,
        8000,
    ),
    "Mistral": (
        "Prompt contains 235396 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
        235396,
        131072,
    ),
}


@pytest.mark.parametrize("who", SEEN)
def test_the_numbers_of_a_sentence_are_those_of_the_prompt_and_the_context(who: str) -> None:
    said, tokens, context = SEEN[who]
    wanted = {"tokens": tokens, "context": context}
    assert sizes({}, said) == {name: number for name, number in wanted.items() if number is not None}


ON_THE_WIRE = [who for who in SEEN if who.startswith(("vLLM", "the same", "SGLang"))]


@pytest.mark.parametrize("provider", ["openai", "nvidia"])
@pytest.mark.parametrize("who", ON_THE_WIRE)
def test_servers_that_say_it_in_prose_alone_give_the_right_error(provider: str, who: str) -> None:
    said, tokens, context = SEEN[who]
    body = {"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}}
    with (
        FaultServer(whole(400, body)) as server,
        PhiClient(provider, "m", base_url=f"{server.url}/v1", max_retries=0) as client,
        pytest.raises(ContextLengthExceededError) as caught,
    ):
        client.chat("Hi")
    assert (caught.value.tokens, caught.value.context) == (tokens, context)


def test_a_code_alone_is_enough() -> None:
    origin = faults.Origin("somebody", "m", Dialect())
    error = faults.fault(origin, 400, {}, {"error": {"code": "context_length_exceeded", "message": "Too long."}})
    assert isinstance(error, ContextLengthExceededError)
    assert (error.tokens, error.context) == (None, None)


def test_a_real_llama_server_tells_both_numbers(llama_server: LlamaServers) -> None:
    server = llama_server(n_ctx=512, n_parallel=1)
    with (
        PhiClient("openai", "smollm2", base_url=f"{server.url}/v1", api_key=KEY) as client,
        pytest.raises(ContextLengthExceededError) as caught,
    ):
        client.chat("word " * 600)
    assert caught.value.context == 512
    assert caught.value.tokens is not None
    assert caught.value.tokens > 600


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "text",
        {"error": "text"},
        {"error": {"n_ctx": "512", "n_prompt_tokens": -3}},
        {"error": {"n_ctx": True, "n_prompt_tokens": 2.5}},
        {"error": {"n_ctx": 10**30}},
    ],
)
def test_fields_that_hold_no_numbers_tell_nothing(payload: Any) -> None:
    found = sizes(payload, "")
    assert found in ({}, {"context": 512})


@given(st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_whatever_a_server_says_is_read_without_an_accident(said: str, payload: Any) -> None:
    found = sizes({"error": payload}, said)
    assert all(type(number) is int and number > 0 for number in found.values())


def test_a_sentence_of_numbers_alone_is_looked_at_only_so_far() -> None:
    assert sizes({}, "1," * 1_000_000) == {}
    assert sizes({}, "9" * 1_000_000 + " in the messages") == {}
