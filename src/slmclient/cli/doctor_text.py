"""The report of `slm doctor` for people."""

from __future__ import annotations

from collections.abc import Iterator

from slmclient.cli.doctor import EngineModel, Extra, LocalModel, Report, origin
from slmclient.cli.probing import lines
from slmclient.cli.terminal import console
from slmclient.environment import DEFAULT, KEYWORD

_SECONDS = ("timeout", "deadline")


def show(report: Report) -> None:
    """Print the report to standard output."""
    from rich.text import Text

    out = console(error=False)
    out.print(f"slmclient {report.version} · Python {report.python} · {report.system}")
    for heading, told in (
        ("Who would answer", list(_answerer(report))),
        ("Settings", list(_settings(report))),
        ("Installed", list(_extras(report.extras))),
        ("The local model", list(_local(report.local_model))),
        ("The engine's model", list(_engine(report.engine_model))),
        ("The server", list(lines(report.server)) if report.server else []),
        ("Notes", report.notes),
    ):
        if told:
            out.print(Text.assemble("\n", (heading, "bold")))
        for line in told:
            out.print(f"  {line}")
    if report.ok:
        chosen = report.settings["provider"].origin == KEYWORD
        out.print(Text.assemble("\n", ("All there", "bold green"), "." if chosen else ': try slm ask "Hello".'))
    else:
        out.print(Text.assemble("\n", ("Problems", "bold red")))
        for line in report.problems:
            out.print(f"  {line}")


def _answerer(report: Report) -> Iterator[str]:
    for name, value, about in (
        ("provider", report.provider, f"{report.title}: {report.state}" if report.title else ""),
        ("model", report.model, ""),
    ):
        setting = report.settings.get(name)
        if setting is not None:
            nothing = "left to the server" if "base_url" in report.settings else "not set"
            yield f"{name:<13}{value or nothing}  ({_why(report, name)})"
            if about:
                yield f"{'':<13}{about}"


def _why(report: Report, name: str) -> str:
    setting = report.settings[name]
    if setting.origin == DEFAULT:
        return f"default: no {name} was named"
    return f"from {origin(setting, report.env_file)}"


def _settings(report: Report) -> Iterator[str]:
    for name, setting in report.settings.items():
        if name in ("provider", "model"):
            continue
        shown = "not set" if setting.value is None else str(setting.value)
        unit = " s" if name in _SECONDS else ""
        yield f"{name:<13}{shown.removesuffix('.0')}{unit}  ({origin(setting, report.env_file)})"
    if report.settings:
        yield f"{'.env file':<13}{report.env_file or 'none read'}"


def _extras(extras: dict[str, Extra]) -> Iterator[str]:
    for name, extra in extras.items():
        packages = ", ".join(f"{package} {version or 'missing'}" for package, version in extra.packages.items())
        yield f"{name:<13}{packages}{'' if extra.complete else f': {extra.install}'}"


def _local(model: LocalModel | None) -> Iterator[str]:
    if model is None:
        return
    yield f"{model.name} ({model.licence})"
    if model.path:
        yield f"is here: {model.path}"
    else:
        yield f"is not here yet: `slm pull` fetches {model.megabytes} MB into {model.cache or 'the cache folder'}"


def _engine(model: EngineModel | None) -> Iterator[str]:
    if model is None:
        return
    yield model.name
    size = "" if model.megabytes is None else f" ({model.megabytes} MB)"
    yield f"is here: {model.path}{size}" if model.path else f"is not here yet: `{model.pull}` fetches it"
