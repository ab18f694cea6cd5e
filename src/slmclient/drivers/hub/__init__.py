"""Models by name: found on this machine, or fetched from Hugging Face's hub into the cache that all its tools share.

What is set in HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT holds: `huggingface_hub` itself reads it.
Nothing that could run code is fetched: no pickles, and Python files only where they are asked for by a commit's id.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from slmclient import catalogue
from slmclient.catalogue import forms
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.hub.cache import LocalModel, local_models, named, remove
from slmclient.drivers.hub.choice import Choice, NothingFitsError, choose
from slmclient.drivers.hub.library import MAIN, files_in, is_commit, is_installed, is_offline, storage
from slmclient.drivers.hub.naming import origin_of
from slmclient.drivers.hub.transfer import Wanted, fetch, watched
from slmclient.errors import ConfigurationError, ModelNotFoundError

__all__ = (
    "LocalModel",
    "Located",
    "gguf_instead",
    "here",
    "is_installed",
    "local_models",
    "locate",
    "model_path",
    "named",
    "pull_command",
    "remove",
)


@dataclass(frozen=True, slots=True)
class Located:
    """A model on this machine."""

    path: Path
    form: str
    """One of `slmclient.catalogue.forms`; "" for a path that the user gave."""
    variant: str = ""
    """Its quantisation or its folder's name."""
    repo: str = ""
    size: int | None = None
    """Bytes, where they are known."""


def model_path(
    config: DriverConfig,
    weights: tuple[str, ...],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int | None], None] | None = None,
    quantization: str | None = None,
    with_code: bool = False,
) -> Path:
    """Return the file or folder of ``config.model``: a path as it is, else from the cache, else fetched.

    Args:
        config: Names the model: a path, a portable name or alias of which the catalogue knows an offer of
            ``config.provider``, or a hub id, ``org/name`` or ``org/name@revision``.
        weights: The forms that the engine reads (`slmclient.catalogue.forms`), best first.
        cancelled: Asked while fetching, in this thread.
        progress: Called with (bytes so far, bytes in all) while fetching, in this thread.
        quantization: Which of several variants; None takes what is here, else the best for most machines.
        with_code: Fetch the repository's Python files too. Needs a commit as the revision.

    Raises:
        ModelNotFoundError: Nothing has that name, or it has none of these forms, or it is not here and fetching is
            forbidden.
        AuthenticationError: It is gated, and there is no token, or none that is good.
        PermissionDeniedError: It is gated, and its licence was not accepted.
        APIConnectionError: The hub cannot be reached.
        ConfigurationError: Not enough room, or `huggingface_hub` is not installed.
        FetchCancelled: ``cancelled()`` returned True (`slmclient.drivers.fetch`). What came so far is kept.
    """
    found = locate(
        config, weights, cancelled=cancelled, progress=progress, quantization=quantization, with_code=with_code
    )
    return found.path


def here(config: DriverConfig, weights: tuple[str, ...], quantization: str | None = None) -> Located | None:
    """Return where a model is on this machine, or None if the first call would fetch it.

    Raises:
        ModelNotFoundError: It is not here, and nothing has that name or fetching is forbidden.
    """
    try:
        return locate(replace(config, offline=True), weights, quantization=quantization)
    except ModelNotFoundError:
        if config.offline or is_offline():
            raise
        origin_of(config.provider, config.model or "")
        return None


def pull_command(config: DriverConfig, quantization: str | None = None) -> str:
    """Return the line that fetches a model.

    Raises:
        ModelNotFoundError: Nothing has that name.
    """
    return origin_of(config.provider, config.model or "", quantization).command


def gguf_instead(config: DriverConfig) -> str | None:
    """Return the repository of GGUF files that a name leads to because the catalogue has no other for its engine."""
    name = config.model or ""
    model = catalogue.find(name)
    offer = forms.gguf_offer(model, config.provider) if model is not None else None
    if offer is None or name == offer.id or _path(name) is not None:
        return None
    return offer.id if origin_of(config.provider, name).repo == offer.id else None


def locate(
    config: DriverConfig,
    weights: tuple[str, ...],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int | None], None] | None = None,
    quantization: str | None = None,
    with_code: bool = False,
) -> Located:
    """Return what `model_path` finds, with its form and variant."""
    name = config.model
    if not name:
        raise ModelNotFoundError(
            f"{config.provider} needs a model: a path, or a name such as phi-4-mini (`slm models`).",
            provider=config.provider,
        )
    if (path := _path(name)) is not None:
        return Located(path, "", size=_size(path))
    origin = origin_of(config.provider, name, quantization)
    if with_code and not is_commit(origin.revision):
        raise ConfigurationError(
            f"Code of {origin.repo} is run only at a commit that you have looked at: write "
            f"{origin.repo}@<the commit's 40 characters>.",
            provider=config.provider,
            model=name,
        )
    wanted = Wanted(origin, weights, with_code)
    here = _cached(wanted)
    if here is not None and (not with_code or any(file.path.endswith(".py") for file in here[1].files)):
        return _located(origin.repo, *here)
    if config.offline or is_offline():
        raise ModelNotFoundError(
            f"{origin.name}{f', {quantization},' if quantization else ''} is not on this machine, and "
            f"{'SLM_OFFLINE' if config.offline else 'HF_HUB_OFFLINE'} forbids fetching it. Where there is a network: "
            f"`{origin.command}`. Or give the path of a file or folder.",
            provider=config.provider,
            model=name,
        )
    return _located(origin.repo, *watched(lambda meter: fetch(wanted, meter), cancelled, progress))


def _cached(wanted: Wanted) -> tuple[str, Choice] | None:
    """Return commit and files of what is here already, if it is whole."""
    folder = storage(wanted.origin.repo)
    commit = wanted.origin.revision or MAIN
    with suppress(OSError, NothingFitsError):
        if not is_commit(commit):
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        files = files_in(folder / "snapshots" / commit)
        return commit, choose(files, wanted.forms, wanted.origin.quantization, with_code=wanted.with_code)
    return None


def _located(repo: str, commit: str, choice: Choice) -> Located:
    path = storage(repo) / "snapshots" / commit / choice.entry
    return Located(path, choice.form, choice.variant, repo, choice.size)


def _path(name: str) -> Path | None:
    """Return the file or folder of a name, if there is one."""
    with suppress(OSError, RuntimeError):  # a name too long for a path; no home folder
        if (path := Path(name).expanduser()).exists():
            return path
    return None


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of the files that stand in a folder: what can be known at a glance."""
    with suppress(OSError):
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        return sum(file.stat().st_size for file in files) or None
    return None
