"""The ``.env`` file: found near the working directory, read as data, never exported."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from slmclient.errors import ConfigurationError

NAME = ".env"
_PROJECT_MARKS = (".git", "pyproject.toml")
_LARGEST = 1024 * 1024  # bytes


def find_dotenv_file(start: Path | None) -> Path | None:
    """Return the nearest ``.env``: in ``start``, or above it up to the project's root or the home folder.

    Where neither is above, only ``start`` itself is looked at. Only files of the user's own count.
    """
    if start is None:
        return None
    folders = [start, *start.parents]
    home = Path.home()
    end = next((n for n, folder in enumerate(folders) if folder == home or _is_project(folder)), 0)
    for folder in folders[: end + 1]:
        file = folder / NAME
        if file.is_file() and _is_own(file):
            return file
    return None


def read_dotenv_file(file: Path) -> Mapping[str, str]:
    """Return the file's values. ``${NAME}`` is not expanded: a file must not get at keys of the process environment.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    from dotenv import dotenv_values  # its import costs as much as all of this module

    try:
        if file.stat().st_size > _LARGEST:
            raise ConfigurationError(f"{file} is too large to be a .env file.")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The env_file {file} cannot be read: {type(error).__name__}.") from None
    return {name: value for name, value in dotenv_values(stream=StringIO(text), interpolate=False).items() if value}


def _is_project(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _PROJECT_MARKS)


def _is_own(file: Path) -> bool:
    if not hasattr(os, "getuid") or file.stat().st_uid == os.getuid():
        return True
    logging.getLogger("slmclient").warning("%s belongs to another user and is not read.", file)
    return False
