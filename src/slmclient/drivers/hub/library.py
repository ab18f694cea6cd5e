"""Hugging Face's own library, imported where it is needed, and the layout of its cache, which it documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from slmclient.drivers.hub.choice import RepoFile
from slmclient.errors import MissingDependencyError

MAIN = "main"
"""The revision of one who names none."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


INSTALL = 'pip install "slmclient[hub]"'


def library(part: str = "") -> Any:
    """Return the library, or one of its modules.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return import_module(f"huggingface_hub.{part}" if part else "huggingface_hub")
    except ModuleNotFoundError:
        raise MissingDependencyError(
            f"Models by name need the client of Hugging Face's hub: {INSTALL}. Or give the path of a file or folder."
        ) from None


def is_installed() -> bool:
    """Return whether the library is here: without it, nobody knows what its cache has."""
    try:
        library()
    except MissingDependencyError:
        return False
    return True


def cache() -> Path:
    """Return the folder that all tools of the hub share."""
    return Path(library("constants").HF_HUB_CACHE)


def storage(repo: str) -> Path:
    """Return the cache's folder of one repository."""
    return cache() / f"models--{repo.replace('/', '--')}"


def is_offline() -> bool:
    """Return whether the library was told to ask nobody."""
    return bool(library("constants").HF_HUB_OFFLINE)


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is one for ever: a whole commit id."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def files_in(snapshot: Path) -> Sequence[RepoFile]:
    """Return the files of a snapshot; links to content that is not there are none."""
    return [
        RepoFile(path.relative_to(snapshot).as_posix(), path.stat().st_size)
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    ]
