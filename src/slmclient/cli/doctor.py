"""`slm doctor`: what would answer and why, what is installed, what is missing. Never a secret.

No vendor is asked anything; a server of one's own is asked whether it is ready and what it serves.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from urllib.parse import urlsplit

from slmclient.chat import ChatRequest
from slmclient.cli import installed, moving, probing, weights
from slmclient.cli.progress import megabytes
from slmclient.drivers import fetch, hub, registry
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import gguf
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.secret import Secret
from slmclient.environment import DEFAULT, DOTENV, KEYWORD, Environment, Found
from slmclient.errors import ConfigurationError, MissingApiKeyError, SLMError
from slmclient.given import Given
from slmclient.policy.rate import parse_rate_limit
from slmclient.settings import VARIABLES, Settings, of_fallback, resolve

_OURS = "SLM_"
_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting and where it is from."""

    value: str | float | None
    origin: str
    """keyword, environment, .env file or default."""
    name: str
    """The option or the variable."""


@dataclass(frozen=True, slots=True)
class Extra:
    """One pip extra."""

    packages: dict[str, str | None]
    """Package to its version; None where it is not installed."""
    complete: bool
    install: str
    """The command that installs it."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The embedded model's weights."""

    name: str
    licence: str
    megabytes: int
    """What fetching it takes."""
    cache: str | None
    """The folder where it is kept."""
    path: str | None = None
    """Where it is; None where it is not here yet."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """The model that the chosen engine would run out of files, where it is not the embedded one."""

    name: str
    """As it was asked for."""
    path: str | None
    """The file or folder; None where it is not here yet."""
    megabytes: int | None
    """What it takes of the disk, where that is known."""
    pull: str | None
    """The command that fetches it; None of a path."""


@dataclass(slots=True)
class Report:
    """What `slm doctor` found; its fields are the JSON."""

    version: str
    python: str
    system: str
    provider: str | None = None
    title: str | None = None
    state: str | None = None
    """What is to be known of the provider today."""
    model: str | None = None
    settings: dict[str, Setting] = field(default_factory=dict[str, Setting])
    env_file: str | None = None
    """The .env file that was read."""
    extras: dict[str, Extra] = field(default_factory=dict[str, Extra])
    local_model: LocalModel | None = None
    engine_model: EngineModel | None = None
    """None where the provider is no engine, or its model is not known."""
    server: probing.Server | None = None
    """A server of one's own, if that is who would answer."""
    notes: list[str] = field(default_factory=list[str])
    """What is worth knowing."""
    problems: list[str] = field(default_factory=list[str])
    """What keeps a chat from being tried."""
    ok: bool = False


def run(provider: str | None, model: str | None, *, as_json: bool) -> int:
    """Print the report; return the exit code."""
    report = examine(provider, model)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        from slmclient.cli.doctor_text import show

        show(report)
    return 0 if report.ok else 1


def examine(provider: str | None, model: str | None) -> Report:
    """Return what would answer under these options, and what would keep it from doing so."""
    report = Report(installed.version(), platform.python_version(), f"{platform.system()} {platform.machine()}")
    report.extras = {
        extra: Extra(packages, None not in packages.values(), installed.command(extra))
        for extra, packages in installed.extras().items()
    }
    settings = _resolve(report, Given(provider=provider, model=model))
    if settings is not None:
        _describe(report, settings)
    environment = _environment()
    report.local_model = _local_model(environment)
    if settings is not None:
        report.engine_model = _engine_model(settings.driver)
        report.problems.extend(_problems(report, settings))
        report.notes.extend(_later(report, settings))
        if not report.problems:
            _ask_server(report, settings)
    infos = [info for name in registry.names() if (info := _info(name, report)) is not None]
    report.notes.extend(moving.notes(infos, environment))
    report.notes.extend(_unknown_variables(environment))
    fallbacks = {config.provider for config in _fallbacks(settings)}
    report.notes.extend(_unused_keys(report, environment, [info for info in infos if info.name not in fallbacks]))
    report.ok = not report.problems
    return report


def _resolve(report: Report, given: Given) -> Settings | None:
    """Return the settings; neither a missing key nor a fallback's trouble shall keep the others from being shown."""
    found = None
    for fallbacks in ((), None):  # first without them
        try:
            found = _resolve_keyless(report, replace(given, fallbacks=fallbacks), told=fallbacks is None)
        except SLMError as error:
            report.problems.append(str(error))
            said = _environment().find("SLM_FALLBACKS")
            return found and replace(found, origins={**found.origins, **({"fallbacks": said} if said else {})})
    return found


def _resolve_keyless(report: Report, given: Given, *, told: bool) -> Settings:
    """Return the settings, with a key for show where one is missing, which is a problem to tell once."""
    try:
        return resolve(given)
    except MissingApiKeyError as error:
        keyed = replace(given, api_key=Secret("missing"))  # sent nowhere: nothing here is
        try:
            settings = resolve(keyed)
        except SLMError as another:
            raise (another if told else error) from None
        if not told:
            report.problems.append(str(error))
        return replace(settings, origins={**settings.origins, _KEY: Found(None, DEFAULT)})


def _fallbacks(settings: Settings | None) -> list[DriverConfig]:
    found = [fallback.driver for fallback in settings.fallbacks] if settings is not None else []
    return [driver for driver in found if isinstance(driver, DriverConfig)]


def _environment() -> Environment:
    try:
        return Environment()
    except ConfigurationError:  # a .env file that cannot be read: the settings have said so
        return Environment(env_file=False)


def _describe(report: Report, settings: Settings) -> None:
    config = settings.driver
    info = registry.driver_info(config.provider)
    report.provider, report.title, report.state = config.provider, info.title, info.state
    report.model = config.model
    with suppress(SLMError):  # its constructor's complaint is among the problems
        report.model = registry.new_driver(config).default_model
    report.env_file = settings.env_file
    for name, found in settings.origins.items():
        report.settings[name] = Setting(_shown(name, found), found.origin, found.name)
    report.settings["model"] = replace(report.settings["model"], value=report.model)
    if not info.hosted:
        del report.settings["base_url"], report.settings[_KEY]
    cache = report.settings["cache"]
    report.settings["cache"] = replace(cache, value=str(fetch.cache_folder(config.cache_dir)))


def _shown(name: str, found: Found) -> str | float | None:
    """Return what may be shown of a value: of an address no query, of options only the names; both may hold secrets."""
    if found.value is None:
        return None
    if name == _KEY:
        return "set"
    if name == "base_url":
        return urlsplit(str(found.value))._replace(query="", fragment="").geturl()
    if name == "options":
        return ", ".join(sorted(map(str, found.value))) or None
    return found.value if isinstance(found.value, (int, float)) else str(found.value)


def _local_model(environment: Environment) -> LocalModel:
    file = fetch.SMOLLM2
    found = LocalModel(file.title, file.licence, megabytes(file.wheel_bytes), None)
    try:
        cache_dir = environment.cache_folder()
        path = fetch.cached(file, cache_dir=cache_dir)
        return replace(found, cache=str(fetch.cache_folder(cache_dir)), path=str(path) if path else None)
    except (ConfigurationError, RuntimeError):  # no home folder
        return found


def _problems(report: Report, settings: Settings) -> Iterator[str]:
    """Yield what keeps the chosen provider from answering."""
    config = settings.driver
    info = registry.driver_info(config.provider)
    extra = report.extras.get(info.extra or "")
    absent = [name for name, version in extra.packages.items() if version is None] if extra else []
    if extra and absent:
        yield f"{config.provider} needs {', '.join(absent)}: {extra.install}"
    elif extra and not info.hosted:
        yield from filter(None, map(installed.import_problem, extra.packages))
    try:
        driver = registry.new_driver(config)
        if isinstance(driver, HttpDriver):
            driver.refuse_retired(driver.default_model, ChatRequest(()))
        if info.hosted and not config.base_url:
            yield f"{config.provider} has no address: set {' or '.join(('SLM_BASE_URL', *info.url_variables))}."
    except SLMError as error:
        yield str(error)
    if not info.hosted:
        yield from _model_problems(report, settings)
    try:
        if settings.rate_limit is not None:
            parse_rate_limit(settings.rate_limit)
    except SLMError as error:
        yield str(error)
    for fallback in _fallbacks(settings):
        try:
            registry.new_driver(fallback)
        except SLMError as error:
            yield str(of_fallback(error, fallback.provider))


def _model_problems(report: Report, settings: Settings) -> Iterator[str]:
    config = settings.driver
    if config.model is None:
        yield f"{config.provider} needs a model: a path, or a name such as phi-4-mini, in --model or SLM_MODEL."
    elif weights.is_embedded(config.provider, config.model):
        here = report.local_model is not None and report.local_model.path is not None
        if config.offline and not here:
            title, by_hand = fetch.SMOLLM2.title, fetch.SMOLLM2.by_hand
            yield f"{title} is not on this machine, and SLM_OFFLINE forbids fetching it. {by_hand}"
    else:
        try:
            found = _found(config)
            if found is not None and found.path.is_file():
                gguf.read_header(found.path)
                if refusal := weights.refusal(config.provider, found.path):
                    yield refusal
        except SLMError as error:
            yield str(error)


def _engine_model(config: DriverConfig) -> EngineModel | None:
    """Return where the engine's model is, or how it gets here."""
    if not _reads_files(config) or config.model is None:
        return None
    found, pull = None, None
    with suppress(SLMError):  # that is a problem, and told as such
        found = _found(config)
    if found is None or found.form:
        try:
            pull = hub.pull_command(config, _variant(config))
        except SLMError:
            return None
    size = megabytes(found.size) if found is not None and found.size is not None else None
    return EngineModel(config.model, str(found.path.absolute()) if found else None, size, pull)


def _reads_files(config: DriverConfig) -> bool:
    """Return whether who would answer is an engine that takes files by path or name; not the embedded model."""
    return bool(registry.driver_info(config.provider).weights) and not weights.is_embedded(
        config.provider, config.model
    )


def _found(config: DriverConfig) -> hub.Located | None:
    """Return where an engine's model is; None if it would be fetched, or the engine has ways of its own."""
    forms = registry.driver_info(config.provider).weights
    return hub.here(config, forms, _variant(config)) if forms else None


def _variant(config: DriverConfig) -> str | None:
    return registry.driver_class(config.provider).variant(config.options)


def _later(report: Report, settings: Settings) -> Iterator[str]:
    """Yield what a chat may run into although it can be tried."""
    config = settings.driver
    info = registry.driver_info(config.provider)
    if info.hosted and config.api_key is None and config.key_hint:
        yield config.key_hint.replace("No key was sent.", "No key will be sent.")
    local = report.local_model
    if weights.is_embedded(config.provider, config.model) and local and not (local.path or config.offline):
        yield f"The first question fetches the local model ({local.megabytes} MB); so does `slm pull`."
    model = report.engine_model
    if model is not None and model.path is None and not report.problems:
        yield f"The first question fetches {model.name}; so does `{model.pull}`."


def _unknown_variables(environment: Environment) -> Iterator[str]:
    for where, values in (("", environment.process), (f" (in {environment.file})", environment.dotenv)):
        for name in values:
            if name.startswith(_OURS) and name not in VARIABLES:
                close = get_close_matches(name, VARIABLES, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(VARIABLES)}."
                yield f"{name} is set{where} and not used: there is no such variable. {hint}"


def _unused_keys(report: Report, environment: Environment, infos: list[DriverInfo]) -> Iterator[str]:
    used, chosen = report.settings.get(_KEY), report.settings.get("provider")
    variables: dict[str, list[str]] = {}  # the vendors' variables for keys, and whose they are
    for info in infos:
        for name in info.key_variables:
            variables.setdefault(name, []).append(info.name)
    for name, owners in variables.items():
        found = environment.find(name)
        if found is None or (used and used.name == name):
            continue
        if report.provider in owners:
            if not (used and used.value):
                continue  # the driver's own hint says why
            reason = f"{used.name} comes before it"
        elif chosen and chosen.origin == DEFAULT:
            reason = "no provider was named"
        else:
            reason = f"it is for {' or '.join(owners)}"
        where = f" in {environment.file}" if found.origin == DOTENV else ""
        yield f"{name} is set{where} and not used: {reason}."


def _ask_server(report: Report, settings: Settings) -> None:
    """Ask a server of one's own whether it is ready and what it serves."""
    report.server = server = probing.examine(settings, registry.new_driver(settings.driver))
    if server is None:
        return
    if server.problem:
        report.problems.append(server.problem)
    if server.note:
        report.notes.append(server.note)
    if server.models and report.model is None:
        report.model = server.models[0]
        report.settings["model"] = replace(report.settings["model"], value=report.model)
    elif server.lists_model is False:
        report.notes.append(f"The server does not list {report.model!r}; `slm models --served` shows what it lists.")


def _info(provider: str, report: Report) -> DriverInfo | None:
    try:
        return registry.driver_info(provider)
    except ConfigurationError as error:  # a plugin that does not load
        report.notes.append(str(error))
        return None


def origin(setting: Setting, env_file: str | None) -> str:
    """Return in words where a setting came from."""
    if setting.origin == KEYWORD:
        return f"--{setting.name.rstrip('=')}" if setting.name else "--provider"
    if setting.origin == DOTENV:
        return f"{setting.name} in {env_file}"
    return setting.origin if setting.origin == DEFAULT else setting.name
