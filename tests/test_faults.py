"""From error answers, in every shape that servers were seen to send, to the error that a caller gets."""

import json
import re
from datetime import date
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slmclient import catalogue, errors
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.github import GitHubDriver
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.steps import HttpResponse
from slmclient.drivers.wire.dialect import Dialect
from slmclient.drivers.wire.faults import Origin, fault, request_id
from slmclient.errors import SLMError

LONGEST = 1000  # characters of a message: one that a terminal or a log line can take

ADDRESSES = {
    "azure": "https://res.openai.azure.com/openai/v1",
    "github": "http://127.0.0.1:9",
    "nvidia": "https://integrate.api.nvidia.com/v1",
    "openai": "http://127.0.0.1:9/v1",
}
DRIVERS: dict[str, type[HttpDriver]] = {
    "azure": AzureDriver,
    "github": GitHubDriver,
    "nvidia": NvidiaDriver,
    "openai": OpenAIDriver,
}


def answered(
    provider: str, status: int, payload: Any, headers: dict[str, str] | None = None, model: str | None = "the-model"
) -> SLMError:
    """Return the provider's own driver's error for an answer; text and bytes are the body as it is."""
    driver = DRIVERS[provider](DriverConfig(provider=provider, base_url=ADDRESSES[provider], key_hint="A hint."))
    body = payload if isinstance(payload, (str, bytes)) else json.dumps(payload)
    error = driver.fault(HttpResponse(status, headers or {}), model, body.encode() if isinstance(body, str) else body)
    assert_presentable(error)
    assert error.provider == provider
    assert error.model == model
    assert error.status_code == status
    return error


def assert_presentable(error: SLMError) -> None:
    """The message is one line that can be printed, and not too long; str() is the message."""
    assert str(error) == error.message
    assert len(error.message) <= LONGEST
    assert not re.search(r"[\r\n\v\f\x00-\x1f\x7f\u2028\u2029\x85]", error.message)
    assert error.message.strip() == error.message != ""


# --- status

BY_STATUS = [
    (300, errors.ResponseFormatError, False),
    (302, errors.ResponseFormatError, False),
    (307, errors.ResponseFormatError, False),
    (400, errors.BadRequestError, False),
    (401, errors.AuthenticationError, False),
    (402, errors.BadRequestError, False),
    (403, errors.PermissionDeniedError, False),
    (404, errors.NotFoundError, False),
    (405, errors.BadRequestError, False),
    (408, errors.InternalServerError, True),
    (409, errors.InternalServerError, True),
    (410, errors.ModelRetiredError, False),
    (413, errors.BadRequestError, False),
    (415, errors.BadRequestError, False),
    (422, errors.BadRequestError, False),
    (429, errors.RateLimitError, True),
    (500, errors.InternalServerError, True),
    (502, errors.InternalServerError, True),
    (503, errors.InternalServerError, True),
    (504, errors.InternalServerError, True),
    (529, errors.InternalServerError, True),
]


@pytest.mark.parametrize("payload", [b"", {}, {"error": {"message": "No."}}, {"error": "No."}, "No.", [], None])
@pytest.mark.parametrize(("status", "kind", "retryable"), BY_STATUS)
def test_the_status_chooses_the_class(status: int, kind: type[SLMError], retryable: bool, payload: Any) -> None:
    error = answered("openai", status, payload)
    assert type(error) is kind
    assert error.retryable is retryable
    assert "openai" in error.message
    assert str(status) in error.message
    assert "the-model" in error.message


def test_every_error_that_a_server_can_cause_has_a_status_or_a_code_above() -> None:
    """The rest of the tree is raised elsewhere, and its retryable is what the tree's docstring says."""
    retryable = {
        errors.RateLimitError, errors.InternalServerError, errors.APIConnectionError, errors.APITimeoutError,
    }  # fmt: skip
    tree = {
        kind for name in vars(errors) if isinstance(kind := getattr(errors, name), type) and issubclass(kind, SLMError)
    }
    assert {kind for kind in tree if kind.retryable} == retryable
    assert issubclass(errors.APIConnectionError, ConnectionError)
    assert issubclass(errors.APITimeoutError, TimeoutError)
    assert issubclass(errors.MissingDependencyError, ImportError)


def test_a_redirect_says_what_to_do() -> None:
    assert "Redirects are not followed: set base_url" in answered("openai", 307, b"").message


def test_a_refused_key_says_where_it_came_from() -> None:
    assert "A hint." in answered("openai", 401, {"error": {"message": "No."}}).message
    assert "A hint." not in answered("openai", 403, {"error": {"message": "No."}}).message


# --- structured codes

BY_CODE = [
    ("context_length_exceeded", errors.ContextLengthExceededError),
    ("tokens_limit_reached", errors.ContextLengthExceededError),
    ("exceed_context_size_error", errors.ContextLengthExceededError),
    ("content_filter", errors.ContentFilterError),
    ("content_policy_violation", errors.ContentFilterError),
    ("ResponsibleAIPolicyViolation", errors.ContentFilterError),
    ("unknown_model", errors.ModelNotFoundError),
    ("unavailable_model", errors.ModelNotFoundError),
    ("model_not_found", errors.ModelNotFoundError),
    ("DeploymentNotFound", errors.ModelNotFoundError),
    ("unsupported_parameter", errors.UnsupportedParameterError),
    ("parameter_not_supported", errors.UnsupportedParameterError),
    ("github_models_retirement_brownout", errors.ProviderRetiredError),
    ("RateLimitReached", errors.RateLimitError),
    ("something_new", errors.BadRequestError),
]


@pytest.mark.parametrize("field", ["code", "type"])
@pytest.mark.parametrize(("code", "kind"), BY_CODE)
def test_a_structured_code_refines_the_status(code: str, kind: type[SLMError], field: str) -> None:
    for payload in ({"error": {field: code, "message": "Why."}}, {field: code, "message": "Why."}):
        error = answered("openai", 400, payload)
        assert type(error) is kind
        assert error.code == code
        assert "Why." in error.message


def test_gone_is_the_model_unless_the_code_says_the_provider() -> None:
    """410 is never retried."""
    model = answered("github", 410, {"error": {"code": "model_gone", "message": "Gone."}})
    assert type(model) is errors.ModelRetiredError
    provider = answered(
        "github",
        410,
        {
            "error": {
                "code": "github_models_retirement_brownout",
                "message": "GitHub Models is temporarily unavailable as part of a scheduled retirement brownout.",
            }
        },
    )
    assert type(provider) is errors.ProviderRetiredError
    assert not model.retryable
    assert not provider.retryable
    assert "retired" in provider.message


@pytest.mark.parametrize("code", [400, "400", None, True, "", [], {}, 1.5])
def test_a_code_that_says_nothing_changes_nothing(code: Any) -> None:
    error = answered("openai", 400, {"error": {"code": code, "message": "Why."}})
    assert type(error) is errors.BadRequestError


# --- what providers were seen to send


def test_github_says_how_long_its_rate_limit_lasts() -> None:
    headers = {
        "retry-after": "0",
        "x-ratelimit-timeremaining": "37",
        "x-ratelimit-type": "UserByModelByMinute",
        "x-ms-error-code": "RateLimitReached",
        "x-ratelimit-limit-requests": "10",
        "x-github-request-id": "AB12:34",
    }
    text = "Rate limit of 10 per 60s exceeded for UserByModelByMinute. Please wait 37 seconds before retrying."
    error = answered("github", 429, {"error": {"code": "RateLimitReached", "message": text, "details": text}}, headers)
    assert type(error) is errors.RateLimitError
    assert error.retryable
    assert error.retry_after == 37.0
    assert error.code == "RateLimitReached"
    assert error.request_id == "AB12:34"
    assert text in error.message


def test_github_refuses_a_prompt_that_is_too_long() -> None:
    text = "Request body too large for phi-4 model. Max size: 8000 tokens."
    error = answered("github", 413, {"error": {"code": "tokens_limit_reached", "message": text}})
    assert type(error) is errors.ContextLengthExceededError
    assert text in error.message
    assert "Shorten the prompt" in error.message


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "unknown_model", errors.ModelNotFoundError),
        (404, "unknown_model", errors.ModelNotFoundError),
        (400, "unavailable_model", errors.ModelNotFoundError),
        (401, "unauthorized", errors.AuthenticationError),
        (403, "no_access", errors.PermissionDeniedError),
    ],
)
def test_github_names_what_is_wrong(status: int, code: str, kind: type[SLMError]) -> None:
    assert type(answered("github", status, {"error": {"code": code, "message": "It is so."}})) is kind


def test_vllm_sends_a_flat_error_with_the_status_as_its_code() -> None:
    text = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
    payload = {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}
    for provider in ("openai", "nvidia"):
        error = answered(provider, 400, payload)
        assert type(error) is errors.ContextLengthExceededError
        assert error.code == "BadRequestError"
        assert text in error.message
    plain = answered("openai", 400, {**payload, "message": "temperature must be non-negative"})
    assert type(plain) is errors.BadRequestError


@pytest.mark.parametrize("provider", ["openai", "azure"])
def test_vllm_without_a_tool_parser_takes_no_tools(provider: str) -> None:
    text = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    payload = {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}
    assert type(answered(provider, 400, payload)) is errors.UnsupportedFeatureError


def test_azure_names_the_parameter_that_it_does_not_take() -> None:
    payload = {
        "status": 422,
        "code": "parameter_not_supported",
        "detail": {"loc": ["body", "response_format"], "input": "json_object"},
        "message": "One of the parameters contain invalid values.",
    }
    error = answered("azure", 422, payload)
    assert type(error) is errors.UnsupportedParameterError
    assert error.code == "parameter_not_supported"
    assert "One of the parameters contain invalid values." in error.message


@pytest.mark.parametrize(
    ("detail", "parts"),
    [
        ({"loc": ["body", "top_k"], "input": "4"}, ["body.top_k: 4"]),
        ([{"loc": ["body", "top_k"], "input": "4"}], ["body.top_k: 4"]),
        (
            [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a valid string"},
             {"loc": ["body", "n"], "value": "2"}],
            ["body.messages.0.content: Input should be a valid string", "body.n: 2"],
        ),
        ("Extra inputs are not permitted", ["Extra inputs are not permitted"]),
        ({"loc": 5, "msg": "odd"}, ["odd"]),
        ({"loc": "body", "msg": "odd"}, ["body: odd"]),
    ],
)  # fmt: skip
def test_a_422_says_where(detail: Any, parts: list[str]) -> None:
    error = answered("azure", 422, {"status": 422, "code": "invalid_input", "detail": detail})
    assert type(error) is errors.BadRequestError
    for part in parts:
        assert part in error.message


@pytest.mark.parametrize(
    "payload",
    [
        {
            "status": 400,
            "code": "content_filter",
            "message": "The response was filtered",
            "param": "messages",
            "type": None,
        },
        {
            "error": {
                "code": "content_filter",
                "message": "The response was filtered",
                "innererror": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
                },
            }
        },
        {"error": {"message": "The response was filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    ],
    ids=["flat", "nested", "inner code only"],
)
def test_azures_content_filter_is_told_apart(payload: Any) -> None:
    error = answered("azure", 400, payload)
    assert type(error) is errors.ContentFilterError
    assert not error.retryable
    assert "The response was filtered" in error.message
    assert error.body == payload  # the categories are at hand


def test_azure_without_such_a_deployment_names_both_names() -> None:
    payload = {
        "error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}
    }
    error = answered("azure", 404, payload, model="Phi-4-mini-instruct")
    assert type(error) is errors.ModelNotFoundError
    for part in ("Phi-4-mini-instruct", "phi-4-mini", "deployment"):
        assert part in error.message


def test_azure_at_the_wrong_path_says_the_right_one() -> None:
    text = "Missing required query parameter: api-version"
    error = answered("azure", 404, {"error": {"code": "404", "message": text}})
    assert type(error) is errors.NotFoundError
    assert "/openai/v1" in error.message


PHI_3 = [
    (model.name, offer)
    for model in catalogue.models()
    for offer in model.offers
    if offer.provider == "azure" and offer.status == "retired"
]


@pytest.mark.parametrize(("name", "offer"), PHI_3, ids=[name for name, _ in PHI_3])
@pytest.mark.parametrize("code", ["DeploymentNotFound", "404", None])
def test_a_404_for_a_model_that_was_retired_says_so(name: str, offer: catalogue.Offer, code: str | None) -> None:
    for model in (name, offer.id):
        error = answered("azure", 404, {"error": {"code": code, "message": "Not there."}}, model=model)
        assert type(error) is errors.ModelRetiredError
        assert error.retired_on == date(2025, 8, 30)
        assert error.replacement == offer.replacement
        assert "2025-08-30" in error.message
        if offer.replacement:
            assert f"use {offer.replacement} instead" in error.message


def test_what_the_catalogue_calls_retired_may_still_answer_other_errors() -> None:
    """It never overrules the server: only what is not there is called retired."""
    for status, kind in (
        (401, errors.AuthenticationError),
        (429, errors.RateLimitError),
        (400, errors.BadRequestError),
    ):
        assert type(answered("azure", status, {"error": {"message": "No."}}, model="Phi-3-mini-4k-instruct")) is kind


def test_a_404_for_a_model_that_is_not_retired_stays_one() -> None:
    assert type(answered("openai", 404, b"", model="Phi-3-mini-4k-instruct")) is errors.NotFoundError
    assert type(answered("azure", 404, b"", model="Phi-4-mini-instruct")) is errors.NotFoundError


def test_nvidia_says_when_a_model_reached_its_end() -> None:
    text = "The model 'microsoft/phi-9' has reached its end of life on 2026-08-14T00:00:00Z and is no longer available."
    payload = {"type": "about:blank", "title": "Gone", "status": 410, "detail": text}
    error = answered("nvidia", 410, payload, model="microsoft/phi-9")
    assert type(error) is errors.ModelRetiredError
    assert error.retired_on == date(2026, 8, 14)
    assert text in error.message


def test_a_day_that_does_not_exist_is_no_date() -> None:
    error = answered("nvidia", 410, {"status": 410, "detail": "reached its end of life on 2026-02-31"})
    assert isinstance(error, errors.ModelRetiredError)
    assert error.retired_on is None


def test_nvidia_lists_models_that_it_does_not_grant_and_the_account_stays_out_of_the_message() -> None:
    function, account = "9b96341b-9791-4db9-a00d-4e43aa192a39", "Zx8-qPr7LkT2v"
    detail = f"Function '{function}': Not found for account '{account}'"
    error = answered("nvidia", 404, {"status": 404, "title": "Not Found", "detail": detail})
    assert type(error) is errors.ModelNotFoundError
    assert account not in error.message
    assert function in error.message
    assert "listed is not being granted" in error.message


@pytest.mark.parametrize("body", ["404 page not found", "404 page not found\n", '"404 page not found"'])
def test_a_plain_text_404_is_shown(body: str) -> None:
    error = answered("nvidia", 404, body)
    assert isinstance(error, errors.NotFoundError)
    assert "404 page not found" in error.message


def test_nvidias_rate_limit_says_nothing_of_when() -> None:
    error = answered("nvidia", 429, {"status": 429, "title": "Too Many Requests"})
    assert type(error) is errors.RateLimitError
    assert error.retry_after is None
    assert "Too Many Requests" in error.message


def test_ollama_says_its_error_as_text() -> None:
    error = answered("openai", 404, {"error": 'model "phi9"\nnot found, try pulling it first'})
    assert isinstance(error, errors.NotFoundError)
    assert 'model "phi9" not found, try pulling it first' in error.message


@pytest.mark.parametrize(
    "inner",
    [
        {"error": {"code": "context_length_exceeded", "message": "Too long."}},
        {"code": "context_length_exceeded", "message": "Too long."},
        {"message": json.dumps({"code": "context_length_exceeded", "message": "Too long."})},
    ],
)
def test_an_error_inside_a_string_inside_an_error_is_found(inner: Any) -> None:
    for payload in ({"error": {"message": json.dumps(inner)}}, {"error": json.dumps(inner)}):
        error = answered("openai", 400, payload)
        assert type(error) is errors.ContextLengthExceededError
        assert "Too long." in error.message
        assert "{" not in error.message


def test_what_a_string_inside_does_not_say_the_error_around_it_does() -> None:
    error = answered("openai", 400, {"error": {"code": "content_filter", "message": '{"message": "Filtered."}'}})
    assert type(error) is errors.ContentFilterError
    assert "Filtered." in error.message
    error = answered("openai", 400, {"error": {"code": "content_filter", "message": '{"severity": "high"}'}})
    assert type(error) is errors.ContentFilterError


def test_html_is_not_shown() -> None:
    error = answered("openai", 502, "<!DOCTYPE html>\n<html><body><h1>Bad Gateway</h1></body></html>")
    assert type(error) is errors.InternalServerError
    assert "<" not in error.message
    assert error.body.startswith("<!DOCTYPE html>")


def test_the_first_of_a_list_of_errors_counts() -> None:
    error = answered("openai", 400, [{"error": {"code": "content_filter", "message": "Filtered."}}])
    assert type(error) is errors.ContentFilterError


# --- an error frame inside a stream, which has status 200


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"error": {"object": "error", "message": "It broke.", "type": "internal_error"}}, errors.InternalServerError),
        ({"error": {"message": "Slow down.", "code": 429}}, errors.RateLimitError),
        ({"error": {"message": "Slow down.", "code": "429"}}, errors.RateLimitError),
        ({"object": "error", "message": "Too long.", "type": "BadRequestError", "code": 400}, errors.BadRequestError),
        ({"error": {"message": "Filtered.", "code": "content_filter"}}, errors.ContentFilterError),
        ({"error": "It broke."}, errors.InternalServerError),
        ({"error": {"message": "Odd.", "code": "200"}}, errors.InternalServerError),
        ({"error": {"message": "Odd.", "code": "0200"}}, errors.InternalServerError),
        ({"error": {"message": "Odd.", "code": "²"}}, errors.InternalServerError),
        ({"error": {"message": "Odd.", "code": "9" * 5000}}, errors.InternalServerError),
    ],
)
def test_an_error_inside_a_stream_is_classed_by_its_code(payload: Any, kind: type[SLMError]) -> None:
    error = answered("openai", 200, payload)
    assert type(error) is kind
    assert "inside the stream" in error.message


# --- waiting


@pytest.mark.parametrize(
    "name", ["x-request-id", "apim-request-id", "x-ms-request-id", "nvcf-reqid", "x-github-request-id"]
)
def test_the_requests_id_is_kept(name: str) -> None:
    assert request_id({name: "r-1", "other": "x"}) == "r-1"
    assert answered("openai", 500, b"", {name: "r-1"}).request_id == "r-1"
    assert request_id({}) is None


# --- anything else

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = ("message", "code", "type", "detail", "title", "status", "innererror", "loc", "msg", "input", "param")
error_like = st.recursive(
    json_values | st.sampled_from(["0200", "²", "٣", "400", "content_filter", '{"error": 1}', "a\nb", "x" * 9999]),
    lambda inner: (
        st.fixed_dictionaries({}, optional=dict.fromkeys((*_NAMES, "error"), inner)) | st.lists(inner, max_size=2)
    ),
    max_leaves=12,
)
statuses = st.sampled_from([200, 301, 400, 401, 404, 410, 422, 429, 500, 503])


@settings(max_examples=400)
@given(st.sampled_from(sorted(DRIVERS)), statuses, error_like | json_values)
@example("azure", 422, {"detail": [{"loc": 5, "msg": "odd"}]})
@example("openai", 200, {"error": {"code": "0200"}})
@example("openai", 400, {"error": {"code": "x" * 9999, "message": "m"}})
@example("openai", 400, {"error": {"code": "a\nb", "message": "m"}})
@example("openai", 400, {"error": "a\nb"})
def test_any_json_at_all_is_an_error_with_a_message_and_never_another_exception(
    provider: str, status: int, payload: Any
) -> None:
    error = answered(provider, status, payload)
    assert error.code is None or isinstance(error.code, str)


@given(statuses, st.binary(max_size=200))
def test_any_bytes_at_all_are_an_error_with_a_message(status: int, body: bytes) -> None:
    answered("openai", status, body)


def test_the_message_is_short_and_the_body_stays_at_hand() -> None:
    payload = {"error": {"message": "word\n" * 5000 + "SECRET-TAIL", "details": "INTERNAL"}}
    error = answered("openai", 400, payload)
    assert "word word" in error.message
    assert "SECRET-TAIL" not in str(error)
    assert "INTERNAL" not in str(error)
    assert "INTERNAL" not in repr(error)
    assert error.body == payload


def test_an_error_of_an_engine_speaks_of_no_http() -> None:
    origin = Origin("local", "some-model", Dialect(), hosted=False)
    error = fault(
        origin, 400, {}, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "Too long."}}
    )
    assert type(error) is errors.ContextLengthExceededError
    assert "HTTP" not in error.message
    assert_presentable(error)
