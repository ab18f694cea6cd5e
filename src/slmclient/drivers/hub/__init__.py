"""Models by name: found on this machine, or fetched from Hugging Face's hub into the cache that all its tools share.

What is set in HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT holds: `huggingface_hub` itself reads it.
Nothing that could run code is fetched: no pickles, and Python files only where they are asked for by a commit's id.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from slmclient import catalogue
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.hub.cache import LocalModel, local_models, named, remove
from slmclient.drivers.hub.choice import Choice, NothingFitsError, choose
from slmclient.drivers.hub.faults import Origin
from slmclient.drivers.hub.library import MAIN, files_in, is_commit, is_offline, storage
from slmclient.drivers.hub.transfer import Wanted, fetch, watched
from slmclient.errors import ConfigurationError, ModelNotFoundError

__all__ = ("LocalModel", "Located", "local_models", "locate", "model_path", "named", "remove")

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_FILES = (".gguf", ".onnx", ".safetensors", ".xml", ".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Located:
    """A model on this machine."""

    path: Path
    form: str
    """One of `slmclient.catalogue.forms`; "" for a path that the user gave."""
    variant: str = ""
    """Its quantisation or its folder's name."""
    repo: str = ""


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


def here(config: DriverConfig, weights: tuple[str, ...], quantization: str | None = None) -> Path | None:
    """Return where a model is on this machine, or None if the first call would fetch it.

    Raises:
        ModelNotFoundError: It is not here, and nothing has that name or fetching is forbidden.
    """
    try:
        return locate(replace(config, offline=True), weights, quantization=quantization).path
    except ModelNotFoundError:
        if config.offline or is_offline():
            raise
        _origin(config, config.model or "")
        return None


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
    with suppress(OSError, RuntimeError):  # a name too long for a path; no home folder
        if (path := Path(name).expanduser()).exists():
            return Located(path, "")
    origin = _origin(config, name)
    if with_code and not is_commit(origin.revision):
        raise ConfigurationError(
            f"Code of {origin.repo} is run only at a commit that you have looked at: write "
            f"{origin.repo}@<the commit's 40 characters>.",
            provider=config.provider,
            model=name,
        )
    wanted = Wanted(origin, weights, quantization, with_code)
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


def _origin(config: DriverConfig, name: str) -> Origin:
    """Return the repository that a name means for a provider's engine."""
    model, offer = catalogue.find(name), catalogue.offer(name, config.provider)
    match = None if name.lower().endswith(_FILES) else _ID.fullmatch(name)
    # An id of somebody else's offer is meant as it is: an engine may read that too.
    if model is not None and offer is not None and (match is None or name in model.aliases):
        return Origin(config.provider, name, offer.id)
    if match is not None and ".." not in name:
        return Origin(config.provider, name, match[1], match[2])
    raise ModelNotFoundError(_unknown(config.provider, name), provider=config.provider, model=name)


def _unknown(provider: str, name: str) -> str:
    if catalogue.find(name) is not None:
        elsewhere = catalogue.directions(name, provider)
        return f"The catalogue knows no files of {name} for {provider}. {elsewhere} Or give a path.".replace("  ", " ")
    if name.lower().endswith(_FILES) or name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1:
        return (
            f"There is no file or folder {name}. A model by its name is fetched: `slm pull NAME --engine {provider}`."
        )
    return (
        f"There is no model {name!r}: no file or folder has that path, and the catalogue does not know the name "
        f"(`slm models -p {provider}` lists those it knows; `slm pull NAME --engine {provider}` fetches one). A model "
        "on Hugging Face's hub is written org/name."
    )


def _cached(wanted: Wanted) -> tuple[str, Choice] | None:
    """Return commit and files of what is here already, if it is whole."""
    folder = storage(wanted.origin.repo)
    commit = wanted.origin.revision or MAIN
    with suppress(OSError, NothingFitsError):
        if not is_commit(commit):
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        files = files_in(folder / "snapshots" / commit)
        return commit, choose(files, wanted.forms, wanted.quantization, with_code=wanted.with_code)
    return None


def _located(repo: str, commit: str, choice: Choice) -> Located:
    return Located(storage(repo) / "snapshots" / commit / choice.entry, choice.form, choice.variant, repo)
