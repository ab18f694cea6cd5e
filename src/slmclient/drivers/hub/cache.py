"""What models are on this machine, and how they are removed: those in the hub's cache, and the embedded one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmclient import catalogue
from slmclient.catalogue import forms
from slmclient.drivers import fetch
from slmclient.drivers.hub.choice import Choice, variants
from slmclient.drivers.hub.library import INSTALL, MAIN, cache, files_in, is_installed, library
from slmclient.errors import ConfigurationError, MissingDependencyError, ModelNotFoundError

_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine that some engine can read."""

    name: str
    """What `model` takes: the hub's id of the repository, with its commit where that is not the newest here."""
    portable: str | None
    """Its portable name, where the catalogue knows one."""
    form: str
    """One of `slmclient.catalogue.forms`."""
    variant: str
    """The quantisation, or the folder's name."""
    size: int
    """Bytes."""
    path: Path
    """What an engine opens."""
    used: datetime
    """When its files were last read, as far as the file system notes that."""
    repo: str | None
    """Its repository on the hub; None of the embedded model."""


def local_models(cache_dir: str | None = None) -> list[LocalModel]:
    """Return the models on this machine, by name; those of which a part is missing are none.

    Args:
        cache_dir: Where the embedded model is kept; None is the platform's cache folder.
    """
    found = [*_embedded(cache_dir), *_cached()]
    return sorted(found, key=lambda each: (each.repo is not None, each.name.casefold(), each.variant))


def named(name: str, models: Iterable[LocalModel]) -> list[LocalModel]:
    """Return those of the models that a name means: a portable name or alias, a repository, or one of its commits.

    Raises:
        ModelNotFoundError: None has that name.
        MissingDependencyError: None of those that can be seen has it, and the hub's cache cannot be looked into.
    """
    known = catalogue.find(name)
    portable = known.name if known is not None and "/" not in name else None
    found = [each for each in models if name in (each.name, each.repo) or (portable and each.portable == portable)]
    if not found and not is_installed():
        raise MissingDependencyError(f"Removing {name} needs the client of Hugging Face's hub: {INSTALL}", model=name)
    if not found:
        raise ModelNotFoundError(f"There is no {name} on this machine: `slm models --local` lists what is.", model=name)
    return found


def remove(name: str, *, cache_dir: str | None = None) -> int:
    """Remove a model from this machine: of a repository all that is here, whoever fetched it.

    Args:
        name: A portable name, alias or repository, as `local_models` lists them.
        cache_dir: Where the embedded model is kept.

    Returns:
        How many bytes that freed.

    Raises:
        ModelNotFoundError: Nothing here has that name.
        MissingDependencyError: The hub's cache may have it, and its client is not installed.
        ConfigurationError: It cannot be removed.
    """
    wanted = named(name, local_models(cache_dir))
    ours = [each for each in wanted if each.repo is None]
    repos = {each.repo for each in wanted if each.repo is not None}
    try:
        # What may be refused comes first: all of it goes, or nothing.
        for each in ours:
            _check_ours(each.path, cache_dir)
        plan = _plan(repos) if repos else None
        for each in ours:
            each.path.unlink()
        freed = sum(each.size for each in ours)
        if plan is not None:
            plan.execute()
            freed += int(plan.expected_freed_size)
        return freed
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be removed: {error}.", model=name) from error


def _check_ours(path: Path, cache_dir: str | None) -> None:
    if not path.is_relative_to(fetch.cache_folder(cache_dir)):
        raise ConfigurationError(f"{path} belongs to an installed package: remove that package instead.")


def _plan(repos: set[str]) -> Any:
    """Return what the hub's library would remove: it knows which content is shared with other repositories."""
    scan: Any = library().scan_cache_dir(cache())
    commits = [
        revision.commit_hash
        for repo in scan.repos
        if repo.repo_type == "model" and repo.repo_id in repos
        for revision in repo.revisions
    ]
    return scan.delete_revisions(*commits)


def _embedded(cache_dir: str | None) -> Iterator[LocalModel]:
    path = fetch.cached(fetch.SMOLLM2, cache_dir=cache_dir)
    if path is not None:
        known = catalogue.find(fetch.SMOLLM2.name)
        choice = Choice(forms.GGUF, "", (), "Q4_1")
        yield _model(known.name if known else fetch.SMOLLM2.name, None, choice, path, [path])


def _cached() -> Iterator[LocalModel]:
    try:
        folders = sorted(cache().glob(f"{_PREFIX}*/snapshots/*"))
    except (OSError, MissingDependencyError):
        return
    for snapshot in folders:
        repo = snapshot.parts[-3].removeprefix(_PREFIX).replace("--", "/")
        with suppress(OSError):
            files = files_in(snapshot)
            name = repo if snapshot.name == _main(snapshot.parents[1]) else f"{repo}@{snapshot.name}"
            for form in (forms.GGUF, forms.ONNX, forms.OPENVINO, forms.SAFETENSORS):
                for choice in variants(files, form):
                    read = [snapshot / file.path for file in choice.files]
                    yield _model(name, repo, choice, snapshot / choice.entry, read)


def _main(storage: Path) -> str:
    with suppress(OSError):
        return (storage / "refs" / MAIN).read_text(encoding="ascii").strip()
    return ""


def _model(name: str, repo: str | None, choice: Choice, path: Path, files: list[Path]) -> LocalModel:
    known = catalogue.find(repo or name)
    states = [file.stat() for file in files]
    return LocalModel(
        name=name,
        portable=known.name if known else None,
        form=choice.form,
        variant=choice.variant,
        size=sum(state.st_size for state in states),
        path=path,
        used=datetime.fromtimestamp(max(state.st_atime for state in states), UTC),
        repo=repo,
    )
