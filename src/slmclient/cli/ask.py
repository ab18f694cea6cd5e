"""`slm ask`: one question, one answer."""

from __future__ import annotations

import json
import sys
import threading

from slmclient.chat import ChatOptions
from slmclient.cli import media
from slmclient.cli.media import Enclosed
from slmclient.cli.terminal import Answer, footer, is_terminal, say
from slmclient.client import PhiClient
from slmclient.drivers import registry
from slmclient.errors import BadRequestError
from slmclient.media import Audio, Image
from slmclient.reply import Reply

MOST_INPUT = 10_000_000
"""Text from standard input that is longer is refused (bytes)."""

_PATIENCE = 2.0  # seconds of waiting for standard input until we say so


def whole_prompt(question: str | None) -> tuple[str | None, Image | Audio | None]:
    """Return the question with standard input behind it, or None where there is neither; and its picture or sound."""
    given = not is_terminal(sys.stdin) or question == "-"
    content = _standard_input() if given else b""
    found = media.piped_media(content)
    piped = "" if found else _text(content)
    if question in (None, "-"):
        return piped if piped.strip() else None, found
    return f"{question}\n\n{piped}" if piped.strip() else question, found


def _standard_input() -> bytes:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the caller: <&-
        return b""
    hint = threading.Timer(_PATIENCE, say, ["Waiting for standard input to end. If there is none: < /dev/null"])
    hint.daemon = True
    if not is_terminal(sys.stdin):
        hint.start()
    try:
        content = sys.stdin.buffer.read(MOST_INPUT + 1)
        if len(content) > MOST_INPUT and media.is_media(content):
            content += sys.stdin.buffer.read(media.MOST_PIPED - MOST_INPUT)
    finally:
        hint.cancel()
    if len(content) > media.MOST_PIPED:
        raise BadRequestError(
            f"The picture or sound on standard input has more than {media.MOST_PIPED:,} bytes. Make it smaller."
        )
    if len(content) > MOST_INPUT and not media.is_media(content):
        raise BadRequestError(f"Standard input is longer than {MOST_INPUT // 1_000_000} MB, which no model can read.")
    return content


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequestError(
            "Standard input is no UTF-8 text, and neither a PNG, JPEG, GIF, WebP or BMP picture nor WAV or MP3 sound. "
            "A film goes into --video."
        ) from None


def run(
    prompt: str,
    options: ChatOptions,
    enclosed: Enclosed,
    *,
    provider: str | None,
    model: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask, and write the answer."""
    client = PhiClient(provider, model)
    images = enclosed.pictures()
    options["audio"] = enclosed.sounds()
    options["images"] = [*images, Image(media.STAND_IN)] if enclosed.videos else images
    client.stream(prompt, **options)  # never begun: bad input is an error before a model is fetched
    options["images"] = [*images, *enclosed.films(quiet=quiet)]
    if registry.driver_info(client.provider).weights:  # else nothing is fetched: the hub and the engine stay unimported
        from slmclient.cli.weights import prepare

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
