"""`slm ask`: one question, one answer."""

from __future__ import annotations

import json
import sys
import threading

from slmclient.chat import ChatOptions
from slmclient.cli.terminal import Answer, footer, is_terminal, say
from slmclient.cli.weights import prepare
from slmclient.client import PhiClient
from slmclient.errors import BadRequestError
from slmclient.reply import Reply

MOST_INPUT = 10_000_000
"""Standard input longer than this is refused (bytes)."""

_PATIENCE = 2.0  # seconds of waiting for standard input until we say so


def whole_prompt(question: str | None) -> str | None:
    """Return the question with standard input behind it; None where there is neither."""
    given = not is_terminal(sys.stdin) or question == "-"
    piped = _standard_input() if given else ""
    if question in (None, "-"):
        return piped if piped.strip() else None
    return f"{question}\n\n{piped}" if piped.strip() else question


def _standard_input() -> str:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the caller: <&-
        return ""
    hint = threading.Timer(_PATIENCE, say, ["Waiting for standard input to end. If there is none: < /dev/null"])
    hint.daemon = True
    if not is_terminal(sys.stdin):
        hint.start()
    try:
        content = sys.stdin.buffer.read(MOST_INPUT + 1)
    finally:
        hint.cancel()
    if len(content) > MOST_INPUT:
        raise BadRequestError(f"Standard input is longer than {MOST_INPUT // 1_000_000} MB, which no model can read.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequestError("Standard input is no UTF-8 text. A picture goes into --image.") from None


def run(
    prompt: str, options: ChatOptions, *, provider: str | None, model: str | None, as_json: bool, quiet: bool
) -> None:
    """Ask, and write the answer."""
    client = PhiClient(provider, model)
    client.stream(prompt, **options)  # never begun: bad input is an error before a model is fetched
    prepare(client, provider, model, quiet=quiet)
    if as_json:
        print(_json(client.chat(prompt, **options)))
    else:
        answer = Answer()
        try:
            with client.stream(prompt, **options) as stream:
                answer.show(stream, quiet=quiet)
        except Exception:
            answer.end_line()
            raise
        if not quiet:
            footer(stream.reply)
    client.close()  # not in a `with`: after Ctrl-C nobody waits for the engine's next safe point


def _json(reply: Reply) -> str:
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    return json.dumps(reply.model_dump(mode="json"), ensure_ascii=plain, indent=2)
