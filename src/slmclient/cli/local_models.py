"""`slm models --local` and `slm remove`: what is on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import typer
from rich.text import Text

from slmclient.cli import installed
from slmclient.cli.progress import megabytes
from slmclient.cli.terminal import console, is_terminal, say
from slmclient.cli.weights import embedded_config, reads
from slmclient.drivers import hub, registry
from slmclient.drivers.hub import LocalModel


def run(*, as_json: bool) -> None:
    """Print the models that are here, each with the engines that read it."""
    models = _here()
    if as_json:
        print(json.dumps([{**asdict(each), "engines": engines(each)} for each in models], indent=2, default=str))
        return
    out = console(error=False)
    for each in models:
        names = (each.portable or "", each.name if each.name != each.portable else "")
        title = "  ".join(part for part in names if part)
        readers = ", ".join(name if here else f"{name} (not installed)" for name, here in engines(each).items())
        facts = f"{each.form:<12}{each.variant:<10}{megabytes(each.size):>7} MB  {each.used:%Y-%m-%d}"
        out.print(Text.assemble((title, "bold")))
        out.print(f"  {facts}  {readers}")
        out.print(f"  {each.path}", style="dim")
    if not models:
        say("There is no model on this machine. `slm pull` fetches the embedded one, `slm pull NAME` another.")
    _tell_what_was_not_seen()


def engines(model: LocalModel) -> dict[str, bool]:
    """Return the engines of this version that read a model, and whether each is installed."""
    found: dict[str, bool] = {}
    for name in (registry.LOCAL, *registry.ENGINES):
        if name not in registry.ROWS or (name == registry.LOCAL and model.repo is not None):
            continue
        info = registry.driver_info(name)
        if reads(info, model.form, model.path):
            found[name] = not installed.missing(info.extra)
    return found


def remove(name: str, *, yes: bool, quiet: bool) -> int:
    """Remove a model, after asking on a terminal; return the exit code."""
    wanted = hub.named(name, _here())
    if not yes:
        for each in wanted:
            say(f"{each.name}  {each.form} {each.variant}  {megabytes(each.size)} MB  {each.path}")
        if not is_terminal(sys.stdin):
            raise typer.BadParameter("Nothing is removed without --yes where nobody can be asked.", param_hint="--yes")
        if not typer.confirm("Remove this, for every program that uses it?", err=True):
            say("Nothing was removed.")
            return 1
    freed = hub.remove(name, cache_dir=embedded_config().cache_dir)
    if not quiet:
        say(f"{megabytes(freed)} MB are free again.")
        _tell_what_was_not_seen()
    return 0


def _here() -> list[LocalModel]:
    return hub.local_models(embedded_config().cache_dir)


def _tell_what_was_not_seen() -> None:
    if not hub.is_installed():
        command = installed.command("hub")
        say(f"What other tools have in the cache of Hugging Face's hub was not looked at. That needs {command}")
