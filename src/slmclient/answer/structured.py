"""Answers that have to be something: each is checked, and one that does not fit is asked for again, with its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slmclient.answer.asking import Asking
from slmclient.chat import ChatRequest, Note, Usage
from slmclient.errors import ContextLengthExceededError, ContextTruncatedError, SLMError, StructuredOutputError
from slmclient.json_text import first_value
from slmclient.messages import Message
from slmclient.output import Output
from slmclient.phi import schema_prompt
from slmclient.reply import Reply, Timing

_MOST_SHOWN = 4000  # characters of its own answer that a model is shown
_ENDS = {
    "length": "Raise max_tokens, or bound the lists and texts of the schema (maxItems, maxLength).",
    "content_filter": "The provider's content filter ended it.",
}


def structured(request: ChatRequest, notes: Sequence[Note], output: Output, most: int) -> Asking:
    """Ask, and ask again, until the answer fits.

    A model is shown its last answer and what is wrong with it; earlier ones are left out, since small models have
    little room. An answer that was cut off, filtered or cancelled, or that calls tools, is not asked for again.

    Args:
        request: The call, with its ``response_format``.
        notes: What the reply is told of it.
        output: What the answer has to be.
        most: How often to ask again.

    Returns:
        The last reply, with the value in ``parsed``; usage, time and attempts are those of all requests.

    Raises:
        StructuredOutputError: No answer fits.
    """
    replies: list[Reply] = []
    problems: list[str] = []
    asked = request
    while True:
        try:
            reply = yield asked, notes
        except (ContextLengthExceededError, ContextTruncatedError):
            if not replies:
                raise
            raise unfit(replies, problems, "There is no room in the model's context to ask again.") from None
        except SLMError as error:
            error.attempts = (*(attempt for reply in replies for attempt in reply.attempts), *error.attempts)
            raise
        replies.append(reply)
        if reply.finish_reason == "cancelled" or reply.tool_calls:
            return _of_all(replies, None)
        value, problem = read(asked, output, reply, again=len(replies) > 1)
        if problem is None:
            return _of_all(replies, value)
        problems.append(problem)
        if reply.finish_reason != "stop" or len(replies) > most:
            raise unfit(replies, problems)
        asked = _asked_again(request, (asked.prefill or "") + reply.text, problem)


def read(request: ChatRequest, output: Output, reply: Reply, *, again: bool = False) -> tuple[Any, str | None]:
    """Return the value that a reply holds, and None; or None and what is wrong with it.

    Args:
        request: The call; where it began the answer, the reply goes on with that.
        output: What the answer has to be.
        reply: The model's answer.
        again: Whether it was asked again, and so was shown the form to fill in.
    """
    text = (request.prefill or "") + reply.text
    if reply.finish_reason == "length" and first_value(text) is None:  # a number may be half of one
        return None, "it was cut off before the JSON was complete"
    blank = schema_prompt.blank(request.response_format or {}) if again or reply.structured == "prompt" else None
    return output.parse(text, blank)


def unfit(replies: Sequence[Reply], problems: Sequence[str], why: str = "") -> StructuredOutputError:
    """Return the error that says that no answer fits.

    Args:
        replies: The answers, in order.
        problems: What is wrong with each of them.
        why: Why it is not asked for again, where the last reply does not say so.
    """
    last = replies[-1]
    advice = why or _ENDS.get(
        last.finish_reason,
        "Make the schema simpler, name its parts in the prompt, or use a larger model; error.replies has the answers.",
    )
    tries = "" if len(replies) == 1 else f" in {len(replies)} tries"
    error = StructuredOutputError(
        f"{last.provider} ({last.model}) gave no answer that fits response_format{tries}: {problems[-1]}. {advice}",
        replies=replies,
        problems=problems,
        provider=last.provider,
        model=last.model,
        request_id=last.request_id,
    )
    error.attempts = tuple(attempt for reply in replies for attempt in reply.attempts)
    return error


def _asked_again(request: ChatRequest, text: str, problem: str) -> ChatRequest:
    """Return the call with an answer, and what is wrong with it, as its last turns."""
    before = request.messages if request.prefill is None else request.messages[:-1]
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    wanted = request.response_format or {}
    told = (f"This is wrong: {problem}.", schema_prompt.instruction(wanted), schema_prompt.form(wanted))
    # The schema once more: a server may have taken it and told the model nothing.
    turns = (Message.assistant(shown if shown.strip() else "…"), Message.user("\n\n".join(dict.fromkeys(told))))
    question = max((place for place, message in enumerate(before) if message.role == "user"), default=0)
    choice = "none" if request.tools else request.tool_choice  # it has answered: now it may be bound to the format
    kept = len(before) - question + len(turns)
    return replace(request, messages=(*before, *turns), tool_choice=choice, kept=kept)


def _of_all(replies: Sequence[Reply], parsed: Any) -> Reply:
    """Return the last reply, with what all of them cost."""
    last, reasks = replies[-1], len(replies) - 1
    if not reasks:
        return last.model_copy(update={"parsed": parsed})
    before = sum(reply.timing.total for reply in replies[:-1])
    first = last.timing.first_token
    return last.model_copy(
        update={
            "parsed": parsed,
            "reasks": reasks,
            "usage": Usage(
                input_tokens=sum(reply.usage.input_tokens for reply in replies),
                output_tokens=sum(reply.usage.output_tokens for reply in replies),
                estimated=any(reply.usage.estimated for reply in replies),
            ),
            "attempts": tuple(attempt for reply in replies for attempt in reply.attempts),
            "timing": Timing(first_token=None if first is None else before + first, total=before + last.timing.total),
        }
    )
