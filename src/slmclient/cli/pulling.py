"""`slm pull`: a model fetched before it is needed, to where the engine that will run it looks for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import typer

from slmclient import catalogue
from slmclient.catalogue.forms import gguf_offer
from slmclient.cli import installed, weights
from slmclient.cli.progress import Display
from slmclient.cli.terminal import say
from slmclient.drivers import hub, registry
from slmclient.drivers.base import Driver, DriverConfig, DriverInfo
from slmclient.errors import ModelNotFoundError, UnsupportedFeatureError
from slmclient.given import Given
from slmclient.request import unknown_name
from slmclient.settings import resolve, split


def run(name: str | None, engine: str | None, quantization: str | None, source: Path | None, *, quiet: bool) -> None:
    """Fetch a model, or the embedded one where none is named, and print where it is."""
    if name is None or source is not None:
        if name or engine or quantization:
            what = "--from goes alone." if source else "Name the model: slm pull phi-4-mini --engine NAME."
            raise typer.BadParameter(what, param_hint="NAME")
        print(weights.pull(source, quiet=quiet))
        return
    provider, model = _provider_and_model(name, engine)
    if provider is not None and not _pulls(provider):
        raise UnsupportedFeatureError(
            f"{provider} pulls no models: it has what it serves. Models are pulled for {', '.join(_pullers())}.",
            provider=provider,
            model=model,
        )
    if provider is None and catalogue.offer(model, registry.LOCAL) is not None and quantization is None:
        provider = registry.LOCAL
    if provider is not None and weights.is_embedded(provider, model):
        print(weights.obtain(weights.embedded_config(), quiet=quiet))
    elif provider is not None and registry.driver_info(provider).hosted:
        _refuse_quantization(quantization, provider)
        print(_from_server(provider, model, quiet=quiet))
    else:
        _from_hub(provider, model, quantization, quiet=quiet)


def _provider_and_model(name: str, engine: str | None) -> tuple[str | None, str]:
    """Return who is to run a model: as --engine or the name's own prefix say; None where neither does."""
    provider, model = split(name)
    if provider is not None and model is None:
        raise typer.BadParameter(f"{name!r} is a provider; write {name}:MODEL.", param_hint="NAME")
    if engine is None:
        return provider, model or name
    chosen = registry.canonical(engine)
    if chosen is None:
        raise typer.BadParameter(unknown_name("engine", engine, _pullers()), param_hint="--engine")
    if provider is not None and provider != chosen:
        raise typer.BadParameter(f"{name!r} names {provider}, and --engine {chosen}.", param_hint="--engine")
    return chosen, model or name


def _pulls(provider: str) -> bool:
    """Return whether models can be fetched for a provider: it reads files in this process, or its server fetches."""
    driver = registry.driver_class(provider)
    return bool(driver.info.weights) or driver.pull is not Driver.pull


def _pullers() -> list[str]:
    return [name for name in registry.ROWS if name != registry.LOCAL and _pulls(name)]


def _refuse_quantization(quantization: str | None, provider: str) -> None:
    if quantization is not None:
        raise typer.BadParameter(f"{provider} has it in the model's name.", param_hint="--quantization")


def _from_server(provider: str, model: str, *, quiet: bool) -> str:
    """Have a provider's own server fetch a model, and return what it tells of it."""
    driver = registry.new_driver(resolve(Given(provider=provider, model=model)).driver)
    try:
        with Display(f"{provider} fetches {model}.", quiet=quiet) as display:
            said = driver.pull(model, lambda doing, done, total: display.update(done, total, doing))
    finally:
        driver.close()
    _tell_how_to_run(provider, model, quiet=quiet)
    return said


def _from_hub(provider: str | None, model: str, quantization: str | None, *, quiet: bool) -> None:
    """Find a model in the hub's cache, or fetch it there, and print its path."""
    engines = {name: registry.driver_info(name) for name in ([provider] if provider else _candidates(model))}
    first = next(iter(engines))
    forms = tuple(dict.fromkeys(form for info in engines.values() for form in info.weights))
    config = resolve(Given(provider=first, model=model)).driver
    instead = hub.gguf_instead(config)
    if instead is not None and not quiet:
        say(f"{first} has no files of {model} in its own form: GGUF files are taken, which it reads too.")
    found = weights.from_hub(config, forms, quantization, quiet=quiet)
    readers = [name for name, info in engines.items() if not found.form or weights.reads(info, found.form, found.path)]
    if not readers:
        deaf = next(name for name, info in engines.items() if found.form in info.weights)
        raise UnsupportedFeatureError(_for_others(deaf, model, found), provider=deaf, model=model)
    print(found.path)
    if not found.form and provider is None:  # a path: it is here, and which engine reads it was not looked at
        return
    engine = readers[0]
    _tell_how_to_run(engine, _name_to_run(config, engines[engine], model, found), quiet=quiet)


def _for_others(engine: str, model: str, found: hub.Located) -> str:
    """Return why an engine does not read what was found for it, and which engines do."""
    infos = [registry.driver_info(name) for name in registry.ENGINES]
    others = [info.name for info in infos if weights.reads(info, found.form, found.path)]
    ways = ", ".join(f"`slm pull {model} --engine {name}`" for name in others)
    return f"{weights.refusal(engine, found.path)} Engines that take it: {ways}."


def _candidates(model: str) -> list[str]:
    """Return the best installed engine for a model; for a repository that the catalogue does not know, all of them.

    Raises:
        ModelNotFoundError: None that is installed does; the message says which would, and how to install them.
    """
    engines = [name for name in registry.ENGINES if name in registry.ROWS]
    known = catalogue.find(model)
    if known is not None:
        ids = {offer.provider: offer.id for offer in known.offers if offer.status != "retired"}
        its_own = [name for name in engines if ids.get(name) == model]  # an engine's repository was named
        engines = its_own or [name for name in engines if name in ids or gguf_offer(known, name)]
    here = [name for name in engines if not installed.missing(registry.driver_info(name).extra)]
    if here:
        return here if known is None else here[:1]
    if engines:
        ways = "; ".join(f"{name}: {installed.command(registry.driver_info(name).extra or name)}" for name in engines)
        raise ModelNotFoundError(
            f"No engine that runs {model} is installed. Install one, then pull again: {ways}. To fetch the files all "
            f"the same, name it: slm pull {model} --engine {engines[0]}."
        )
    elsewhere = catalogue.directions(model, registry.LOCAL)
    raise ModelNotFoundError(f"No engine of this version has files of {model}. {elsewhere}".rstrip())


def _name_to_run(config: DriverConfig, info: DriverInfo, model: str, found: hub.Located) -> str:
    """Return what leads an engine to this very file: the name, or the path where the name means another variant."""
    with suppress(ModelNotFoundError):  # another variant is here than the name means, and fetching is forbidden
        named = hub.here(config, info.weights)
        if named is not None and named.path == found.path:
            return model
    return str(found.path)


def _tell_how_to_run(provider: str, model: str, *, quiet: bool) -> None:
    if quiet:
        return
    extra = registry.driver_info(provider).extra
    if installed.missing(extra):
        say(f"It needs its engine: {installed.command(extra or provider)}")
    say(f'Ask it: SLM_PROVIDER={provider} SLM_MODEL={model} slm ask "…"', style="dim")
