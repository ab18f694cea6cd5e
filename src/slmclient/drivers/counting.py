"""How a server is asked for the tokens of a prompt: three ways, of which a dialect names those worth trying.

``input_tokens``: llama-server's ``/v1/chat/completions/input_tokens`` takes the body of a chat (in builds of 2026; its
README has it). ``tokenize``: vLLM, and NIM 2.x with vLLM inside, take the messages at ``/tokenize``, beside ``/v1``
(vllm-project/vllm, entrypoints/serve/tokenize/protocol.py; NVIDIA's API reference of NIM 2.1.6). ``apply_template``:
llama-server since 2025 renders at ``/apply-template``, and ``/tokenize`` gives the ids of a text.

What a server does not have is asked for once. Every request goes where the chat goes, with the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic_core import to_json

from slmclient.chat import ChatRequest
from slmclient.drivers.steps import (
    HttpRequest,
    HttpResponse,
    Read,
    Steps,
    from_json_or_none,
    read_body,
    read_error_body,
)
from slmclient.drivers.wire import chat_completions
from slmclient.errors import BadRequestError, ModelNotFoundError

if TYPE_CHECKING:
    from slmclient.drivers.http import HttpDriver
    from slmclient.drivers.pump import AsyncPump, SyncPump

T = TypeVar("T")
Counting = Generator["HttpRequest | Read", Any, "int | None"]
"""What `HttpDriver.counting` returns: the commands of asking, and then the tokens, or None."""

_ABSENT = (404, 405, 501)
_UNCLEAR = (400, 403, 413, 415, 422)  # another route of that name, or a gateway that lets only the chat through
_MOST = 10**9  # tokens; what counts more counts something else


class _AbsentError(Exception):
    """The server has no such route, or none that says what it should."""


class Counter:
    """Counts with one server, and remembers how it wants to be asked.

    Args:
        ways: The names of the ways to try, in this order.
    """

    def __init__(self, ways: tuple[str, ...]) -> None:
        self.ways = ways
        """Those that may still work."""

    def counting(self, driver: HttpDriver, request: ChatRequest) -> Counting:
        """Yield the commands that ask; return the tokens of the prompt, or None.

        Raises:
            SLMError: The key was refused, the server is busy or not there, or has no such model.
        """
        named = request.model or driver.default_model
        model = driver.model_id(named) if named else (yield from driver.served_model(request))
        for way in self.ways:
            try:
                tokens = yield from _WAYS[way](driver, request, model)
            except _AbsentError:
                self.ways = tuple(other for other in self.ways if other != way)
                continue
            if tokens is not None:
                self.ways = (way,)
                return tokens
        return None


def found(steps: Generator[Any, Any, T], pump: SyncPump, request: ChatRequest) -> T | None:
    """Return what commands come to; None where the call was cancelled."""
    results: list[T] = []
    for _ in pump.run(_kept(steps, results), request):
        pass
    return results[0] if results else None


async def afound(steps: Generator[Any, Any, T], pump: AsyncPump, request: ChatRequest) -> T | None:
    """`found`, for asyncio."""
    results: list[T] = []
    async for _ in pump.run(_kept(steps, results), request):
        pass
    return results[0] if results else None


def _kept(steps: Generator[Any, Any, T], results: list[T]) -> Steps:
    results.append((yield from steps))


def _input_tokens(driver: HttpDriver, request: ChatRequest, model: str) -> Counting:
    url = driver.url(f"{driver.speech.path}/input_tokens")
    return _number((yield from _asked(driver, request, url, _chat(driver, request, model))), "input_tokens")


def _tokenize(driver: HttpDriver, request: ChatRequest, model: str) -> Counting:
    chat = _chat(driver, request, model)
    said: dict[str, Any] = {
        name: chat[name] for name in ("model", "messages", "tools", "chat_template_kwargs") if name in chat
    }
    return _number((yield from _asked(driver, request, _beside(driver, "/tokenize"), said)), "count")


def _apply_template(driver: HttpDriver, request: ChatRequest, model: str) -> Counting:
    if any(message.images or message.audio for message in request.messages):
        return None  # they are marks in the text there
    url = _beside(driver, "/apply-template")
    rendered = yield from _asked(driver, request, url, _chat(driver, request, model))
    if rendered is None:
        return None
    prompt: Any = rendered.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise _AbsentError
    said = {"content": prompt, "add_special": True, "parse_special": True}
    read = yield from _asked(driver, request, _beside(driver, "/tokenize"), said)
    ids: Any = None if read is None else read.get("tokens")
    if read is not None and not (isinstance(ids, list) and ids):
        raise _AbsentError
    return None if ids is None else len(cast("list[Any]", ids))


_WAYS: Mapping[str, Callable[[HttpDriver, ChatRequest, str], Counting]] = {
    "input_tokens": _input_tokens,
    "tokenize": _tokenize,
    "apply_template": _apply_template,
}


def _chat(driver: HttpDriver, request: ChatRequest, model: str) -> dict[str, Any]:
    return chat_completions.body(replace(request, stream=False), model, driver.speech)


def _beside(driver: HttpDriver, path: str) -> str:
    """Return the URL of a path beside the API, where that is under ``/v1``."""
    base, mark, query = driver.url("").partition("?")
    return f"{base.removesuffix('/v1')}{path}{mark}{query}"


def _asked(
    driver: HttpDriver, request: ChatRequest, url: str, said: Mapping[str, Any]
) -> Generator[Any, Any, Mapping[str, Any] | None]:
    """Yield the commands of a POST; return the object that it brings, or None where it is unclear what is wrong."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", **dict(driver.speech.headers)}
    try:
        content = to_json(said)
    except ValueError:
        raise BadRequestError("The request holds something that JSON cannot say: look at extra, tools, stop.") from None
    response = cast(HttpResponse, (yield HttpRequest("POST", url, headers, content, request.timeout)))
    if response.status == 200:
        payload = from_json_or_none((yield from read_body()))
        if not isinstance(payload, Mapping):
            raise _AbsentError
        return cast("Mapping[str, Any]", payload)
    error = driver.fault(response, str(said.get("model") or "") or None, (yield from read_error_body(request)))
    if isinstance(error, ModelNotFoundError):
        raise error
    if response.status in _ABSENT or 200 < response.status < 400:
        raise _AbsentError
    if response.status in _UNCLEAR:
        return None
    raise error


def _number(payload: Mapping[str, Any] | None, name: str) -> int | None:
    if payload is None:
        return None
    tokens: Any = payload.get(name)
    if type(tokens) is not int or not 0 < tokens < _MOST:
        raise _AbsentError
    return tokens
