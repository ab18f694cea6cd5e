"""A run of tools: ask, run what the model calls, tell it what came out, ask again; written once for both clients.

`ToolRun.flow` is a generator of commands and does nothing itself: `run` and `arun` carry them out. Only functions that
were handed in are ever run, by their names, with arguments that fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json, to_json

from slmclient import clock
from slmclient.chat import ChatOptions
from slmclient.errors import APITimeoutError, BadRequestError, ResponseFormatError, ToolRoundsError
from slmclient.messages import Message, ToolCall
from slmclient.reply import Reply
from slmclient.tools import Tool, as_tools

if TYPE_CHECKING:
    from slmclient.conversation import AsyncConversation, Conversation

OnToolCall = Callable[[ToolCall], Any]
"""Is asked before a call is run: None and True let it run, False and a str refuse it; the str tells the model why."""

LONGEST_ERROR = 500
"""Characters of an error that the model is told."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The command to send these messages and bring the reply."""

    messages: tuple[Message, ...]
    options: ChatOptions


@dataclass(frozen=True, slots=True)
class Approve:
    """The command to ask whether a call may be run, and bring what was said."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Run:
    """The command to run a function, and bring what it returned, or `Raised`."""

    tool: Tool[..., Any]
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Raised:
    """What a function raised."""

    error: Exception


Command = Ask | Approve | Run
Flow = Generator[Command, Any, None]


def runnable(things: object) -> dict[str, Tool[..., Any]]:
    """Return the tools to run, by name.

    Raises:
        BadRequestError: There is none, or one that has no function, or a method without its object.
    """
    tools = as_tools(things or ())
    if not tools:
        raise BadRequestError("run_tools needs tools to run: tools=[a_function].")
    for tool in tools:
        if tool.function is None:
            raise BadRequestError(
                f"The tool {tool.name} has no function that could be run. Hand in the function, or "
                "Tool(name, description, parameters, function); or use chat(tools=…), which runs nothing."
            )
        if tool.unbound:
            raise BadRequestError(f"The tool {tool.name} is a method: take it from an object, as in thing.{tool.name}.")
    return {tool.name: tool for tool in tools}


class ToolRun:
    """One run, and how far it has come.

    Args:
        messages: The prompt's.
        options: What `chat` takes besides them, ``tools`` as OpenAI-shaped dicts.
        tools: What may be run, by name.
        max_rounds: Most answers whose calls are run.
        deadline_at: When the run must have ended, by `slmclient.clock.now`.

    Raises:
        BadRequestError: ``max_rounds`` is no number of rounds.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        options: ChatOptions,
        tools: Mapping[str, Tool[..., Any]],
        *,
        max_rounds: int,
        deadline_at: float,
    ) -> None:
        if type(max_rounds) is not int or max_rounds < 1:
            raise BadRequestError(f"max_rounds is a whole number of at least 1, not {max_rounds!r}.")
        self.messages = list(messages)
        """The turns so far: every call in them has its answer."""
        self.reply: Reply | None = None
        """The last answer."""
        self.unfinished = False
        """Whether it holds calls that were not run, as the rounds were over."""
        self.options = options.copy()
        """Those of the next request; a choice of tools that was asked for is not, once it was kept."""
        self._tools = tools
        self._max_rounds = max_rounds
        self._deadline_at = deadline_at
        self._identifiers = {call.id for message in self.messages for call in message.tool_calls}

    def flow(self) -> Flow:
        """Yield the commands of the run."""
        rounds = 0
        while True:
            options: ChatOptions = {**self.options, "deadline": self._left()}
            forced = options.get("tool_choice") not in (None, "auto", "none")
            if forced:  # the answer is a call, which has no format
                options["response_format"] = None
            reply: Reply = yield Ask(tuple(self.messages), options)
            self.reply = reply
            if forced and not reply.tool_calls and self.options.get("response_format") is not None:
                self.options["tool_choice"] = None  # whoever answered took no notice of it: once more, with the format
                continue
            if not reply.tool_calls:
                self.messages.append(reply.to_message())
                return
            if rounds == self._max_rounds:
                self.unfinished = True
                return
            rounds += 1
            calls = [self._with_own_id(call) for call in reply.tool_calls]
            answers: list[Message] = []
            for call in calls:
                text = yield from self._answer(call)
                answers.append(Message.tool(text, call.id))
            self.messages += [reply.to_message().model_copy(update={"tool_calls": tuple(calls)}), *answers]
            if self.options.get("tool_choice") != "none":  # a call that was forced once is not forced for ever
                self.options["tool_choice"] = None

    def _left(self) -> float:
        left = self._deadline_at - clock.now()
        if left <= 0:
            raise APITimeoutError("The rounds and tools of this run took longer than its deadline. Raise deadline=.")
        return left

    def _with_own_id(self, call: ToolCall) -> ToolCall:
        """Return the call with an id that no other has: servers send none, or the same in each answer."""
        name, number = call.id, len(self._identifiers)
        while not name or name in self._identifiers:
            name, number = f"call_{number}", number + 1
        self._identifiers.add(name)
        return call if name == call.id else call.model_copy(update={"id": name})

    def _answer(self, call: ToolCall) -> Generator[Command, Any, str]:
        """Yield the commands of one call; return what the model is told of it."""
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(self._tools)
            return _error(f"There is no tool {call.name[:64]!r}. There are these: {known}.", LONGEST_ERROR + len(known))
        try:
            arguments = tool.arguments(_given(call))
        except ResponseFormatError as error:
            return _error(f"The arguments do not fit: {error}.")
        except Exception as error:  # of a validator of the user's own
            return _error(_named(error))
        refusal = _refusal((yield Approve(call)))
        if refusal is not None:
            return refusal
        outcome: object = yield Run(tool, arguments)
        return _error(_named(outcome.error)) if isinstance(outcome, Raised) else _written(outcome, tool)


def _given(call: ToolCall) -> Mapping[str, Any]:
    """Return the call's arguments.

    Raises:
        ResponseFormatError: They are no JSON object, which `ToolCall` has as an empty one.
    """
    if call.raw.strip() and not call.arguments:
        try:
            parsed = from_json(call.raw)
        except ValueError:
            parsed = None
        if parsed != {}:
            raise ResponseFormatError("they are no JSON object")
    return call.arguments


def _refusal(verdict: object) -> str | None:
    """Return what the model is told where a call must not run; None where it may."""
    if verdict is None or verdict is True:
        return None
    if verdict is False or verdict == "":
        return "Refused: this call was not allowed."
    if isinstance(verdict, str):
        return f"Refused: {_whole(verdict)}"
    raise BadRequestError(
        "on_tool_call returns None or True to let a call run, False or a str (the reason) to refuse it, not a "
        f"{type(verdict).__name__}."
    )


def _written(value: object, tool: Tool[..., Any]) -> str:
    """Return what a function returned as the text that the model gets."""
    if isinstance(value, str):
        return _whole(value)
    if value is None:
        return "done" if tool.silent else "null"
    try:
        return to_json(value).decode()
    except Exception as error:  # of a type that is no JSON, or of a serializer of the user's own
        return _error(f"It has run, but what it returned cannot be told: {_named(error)}")


def _named(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:  # some fail to say what they are
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _error(text: str, longest: int = LONGEST_ERROR) -> str:
    text = _whole(text)
    return f"Error: {text if len(text) <= longest else text[: longest - 1] + '…'}"


def _whole(text: str) -> str:
    """Return the text without half characters (lone surrogates), which no server takes: file names may have them."""
    return text.encode("utf-8", "replace").decode()


def declared(tools: Mapping[str, Tool[..., Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the tools as OpenAI-shaped dicts."""
    return [tool.to_openai() for tool in tools.values()]


def rounds_over(max_rounds: int, talk: Conversation | AsyncConversation) -> ToolRoundsError:
    """Return the error of a run whose model calls tools on and on."""
    called = ", ".join(dict.fromkeys(call.name for call in talk.reply.tool_calls))
    return ToolRoundsError(
        f"After {max_rounds} rounds of tools the model still calls {called[:LONGEST_ERROR]}. The error's conversation "
        'has all turns: send to it with tool_choice="none", or run with a larger max_rounds=.',
        conversation=talk,
        provider=talk.reply.provider,
        model=talk.reply.model,
    )


# --- carrying out the commands


def run(flow: Flow, ask: Callable[[Ask], Reply], approve: OnToolCall | None) -> None:
    """Carry out a run on this thread; what ``ask`` and ``approve`` raise ends it."""
    command = _next(flow, None)
    while command is not None:
        outcome: object
        if isinstance(command, Ask):
            outcome = ask(command)
        elif isinstance(command, Run):
            outcome = _called(command.tool, command.arguments, waiting=True)
        else:
            outcome = approve(command.call) if approve is not None else None
            outcome = _awaited(cast("Awaitable[object]", outcome)) if inspect.isawaitable(outcome) else outcome
        command = _next(flow, outcome)


async def arun(flow: Flow, ask: Callable[[Ask], Awaitable[Reply]], approve: OnToolCall | None) -> None:
    """`run`, for asyncio: functions that are not async run on a thread."""
    import asyncio

    command = _next(flow, None)
    while command is not None:
        outcome: object
        if isinstance(command, Ask):
            outcome = await ask(command)
        elif isinstance(command, Run):
            if _is_async(command.tool):
                outcome = _called(command.tool, command.arguments)
            else:
                outcome = await asyncio.to_thread(_called, command.tool, command.arguments)
            outcome = await _outcome(cast("Awaitable[object]", outcome)) if inspect.isawaitable(outcome) else outcome
        else:
            outcome = approve(command.call) if approve is not None else None
            outcome = await cast("Awaitable[object]", outcome) if inspect.isawaitable(outcome) else outcome
        command = _next(flow, outcome)


def _next(flow: Flow, outcome: object) -> Command | None:
    try:
        return flow.send(outcome)
    except StopIteration:
        return None


def _called(tool: Tool[..., Any], arguments: Mapping[str, Any], *, waiting: bool = False) -> object:
    """Return what a function returns, or `Raised`. An error must not cross threads: asyncio hangs on StopIteration."""
    try:
        outcome = tool(**arguments)
        return _awaited(cast("Awaitable[object]", outcome)) if waiting and inspect.isawaitable(outcome) else outcome
    except Exception as error:
        return Raised(error)


async def _outcome(awaitable: Awaitable[object]) -> object:
    try:
        return await awaitable
    except Exception as error:
        return Raised(error)


def _is_async(tool: Tool[..., Any]) -> bool:
    function: Any = tool.function
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _awaited(awaitable: Awaitable[object]) -> object:
    """Wait, from a thread: in an event loop for this alone; on another thread where a loop runs in this one."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    async def wait() -> object:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1, "slmclient-tool") as pool:
        return pool.submit(copy_context().run, asyncio.run, wait()).result()
