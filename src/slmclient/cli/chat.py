"""`slm chat`: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from slmclient.cli.terminal import Answer, complain, footer, is_terminal, say
from slmclient.client import PhiClient
from slmclient.drivers import registry
from slmclient.errors import SLMError

try:
    import readline  # on import it gives `input` its line editing and history
except ImportError:  # Windows
    readline = None  # type: ignore[assignment]

_PROMPT = "> "
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?\s*$")  # /etc/passwd is none
_HELP = """\
/reset        forget the conversation
/save FILE    write it to a file
/load FILE    go on with a saved one
/help         this list
/quit         end (so do Ctrl-D, and Ctrl-C at the empty prompt)
Ctrl-C stops an answer."""


def run(*, provider: str | None, model: str | None, system: str | None, quiet: bool) -> int:
    """Talk until the end of input; return 1 if a turn from a pipe failed."""
    client = PhiClient(provider, model)
    if registry.driver_info(client.provider).weights:  # else nothing is fetched: the hub and the engine stay unimported
        from slmclient.cli.weights import prepare

        prepare(client, provider, model, quiet=quiet)
    chat = _Chat(client, system, quiet=quiet)
    if chat.interactive and not quiet:
        model_name = f" · {client.model}" if client.model else ""
        say(f"{client.provider}{model_name} · Ctrl-C stops an answer, Ctrl-D ends, /help lists more", style="dim")
    while True:
        line = chat.read()
        if line is None or not chat.take(line):
            break
    client.close()  # not in a `with`: after Ctrl-C nobody waits for the engine's next safe point
    return 1 if chat.failed and not chat.interactive else 0


class _Chat:
    """The conversation under way."""

    def __init__(self, client: PhiClient, system: str | None, *, quiet: bool) -> None:
        self.interactive = is_terminal(sys.stdin)
        self.failed = False
        self._client = client
        self._system = system
        self._quiet = quiet
        self._talk = client.conversation(system=system)
        self._commands: dict[str, Callable[[str], bool]] = {
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "help": self._help,
            "quit": lambda _: False,
        }

    def read(self) -> str | None:
        """Return the next line; None at the end."""
        if not self.interactive or not is_terminal(sys.stdout):
            if self.interactive:
                say(_PROMPT, end="")
            return sys.stdin.readline() or None
        while True:
            try:
                return input(_PROMPT)
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print()
                if readline is None or not readline.get_line_buffer().strip():
                    return None  # else what was typed so far is thrown away, as in a shell

    def take(self, line: str) -> bool:
        """Do what a line says; return whether to go on."""
        line = line.strip()
        if not line:
            return True
        command = _COMMAND.match(line)
        try:
            if command is None:
                self._turn(line)
                return True
            name, argument = command[1], (command[2] or "").strip()
            if name in self._commands:
                return self._commands[name](argument)
            say(f"There is no /{name}. /help lists what there is.")
        except SLMError as error:
            complain(error)
        self.failed = True
        return True

    def _turn(self, line: str) -> None:
        answer = Answer()
        try:
            with self._talk.stream(line) as stream:
                answer.show(stream, quiet=self._quiet)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            answer.end_line()
            say("Stopped. This turn is forgotten.", style="dim")
            return
        except SLMError:
            answer.end_line()
            raise
        if not self._quiet:
            footer(stream.reply)

    def _reset(self, _: str) -> bool:
        self._talk = self._client.conversation(system=self._system)
        self._say("Forgotten.")
        return True

    def _save(self, name: str) -> bool:
        if name:
            try:
                self._talk.save(_file(name))
            except OSError as error:
                raise SLMError(f"{name} cannot be written: {error.strerror or error}.") from None
            self._say(f"Saved to {name}.")
        else:
            say("Name a file: /save talk.json")
        return True

    def _load(self, name: str) -> bool:
        if name:
            self._talk = self._client.load_conversation(_file(name))
            self._say(f"Loaded {name}: {len(self._talk.messages)} messages.")
        else:
            say("Name a file: /load talk.json")
        return True

    def _help(self, _: str) -> bool:
        say(_HELP)
        return True

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(text, style="dim")


def _file(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~somebody, and there is no such user
        return Path(name)
