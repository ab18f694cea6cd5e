"""Makes a call as the JSON on its command line says, tells on stdout how far it is, and ends in some way.

It is as careless as programs are: nothing is closed unless the ending says so.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from slmclient import AsyncPhiClient, PhiClient
from slmclient.policy.hearing import CallEvent

asked: dict[str, Any] = json.loads(sys.argv[1])
settings, options, ending = asked["settings"], asked["options"], asked["ending"]
PROMPT: str = asked["prompt"]
kept: list[Any] = []  # what is still there when the interpreter goes down


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def heard(event: CallEvent) -> None:
    say(f"event {event.kind}")


if asked["listens"]:
    settings["on_event"] = heard


def other_call() -> Any:
    """Take the only slot, where there is one."""
    if "rate_limit" not in settings:
        return None
    texts = iter(PhiClient(**{name: value for name, value in settings.items() if name != "on_event"}).stream(PROMPT))
    next(texts)
    return texts


def read(client: Any, most: int = 1_000_000) -> None:
    stream = client.stream(PROMPT, **options)
    texts = iter(stream)
    kept.extend([stream, texts])
    say("began")
    for number, text in enumerate(texts, 1):
        say(f"text {text.strip()}")
        if number == most:
            return


async def aread(client: Any, most: int = 1_000_000) -> None:
    stream = client.stream(PROMPT, **options)
    texts = aiter(stream)
    kept.extend([stream, texts])
    say("began")
    number = 0
    async for text in texts:
        say(f"text {text.strip()}")
        number += 1
        if number == most:
            return


async def abegin() -> None:
    async with AsyncPhiClient(**settings) as client:
        await aread(client)


async def aleave() -> None:
    async with make(AsyncPhiClient).stream(PROMPT, **options) as stream:
        kept.append(stream)
        async for text in stream:
            say(f"text {text.strip()}")
            return


def make(kind: Any) -> Any:
    client = kind(**settings)
    kept.append(client)
    return client


def run_loop_and_close_it() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(aread(make(AsyncPhiClient), 1))
    loop.close()


def on_a_thread(daemon: bool, asynchronous: bool) -> None:
    def call() -> None:
        if asynchronous:
            asyncio.run(abegin())
        else:
            read(make(PhiClient))

    threading.Thread(target=call, daemon=daemon).start()
    if daemon:
        sys.stdin.readline()  # until the call is where it should be


def main() -> None:
    kept.append(other_call())
    if ending == "sync":
        read(make(PhiClient))
    elif ending == "with":
        with PhiClient(**settings) as client, client.stream(PROMPT, **options) as stream:
            say("began")
            for text in stream:
                say(f"text {text.strip()}")
    elif ending == "async":
        asyncio.run(abegin())
    elif ending == "half read":
        read(make(PhiClient), 1)
    elif ending == "left by a task":
        asyncio.run(aleave())
    elif ending == "loop closed":
        run_loop_and_close_it()
    elif ending == "error":
        read(make(PhiClient), 1)
        raise ZeroDivisionError
    elif ending == "daemon":
        on_a_thread(True, asynchronous=False)
    elif ending == "daemon loop":
        on_a_thread(True, asynchronous=True)
    elif ending == "worker loop":
        on_a_thread(False, asynchronous=True)


main()
