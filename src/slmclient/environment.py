"""The process environment and the ``.env`` file, read as one. The only reader of the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slmclient.dotenv_file import find_dotenv_file, read_dotenv_file

KEYWORD, PROCESS, DOTENV, DEFAULT = "keyword", "environment", ".env file", "default"


@dataclass(frozen=True, slots=True)
class Found:
    """A value and where it came from."""

    value: Any
    origin: str
    """One of keyword, environment, .env file, default."""
    name: str = ""
    """The variable, or the keyword."""

    def __str__(self) -> str:
        return f"{self.origin} {self.name}".strip()


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


class Environment:
    """The process environment and a .env file, read as one, with memory of which said what."""

    def __init__(self, env_file: str | os.PathLike[str] | bool | None = None) -> None:
        self.process: Mapping[str, str] = {name: value for name, value in os.environ.items() if value}
        if env_file is None or isinstance(env_file, bool):
            self.file = None if env_file is False else find_dotenv_file(_working_directory())
        else:
            self.file = Path(env_file)
        self.dotenv: Mapping[str, str] = read_dotenv_file(self.file) if self.file else {}

    def find(self, *names: str) -> Found | None:
        """Return the first of the variables that is set, the process environment before the file."""
        for origin, values in ((PROCESS, self.process), (DOTENV, self.dotenv)):
            for name in names:
                if values.get(name):
                    return Found(values[name], origin, name)
        return None

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy that the process environment names for a URL, if any (HTTPS_PROXY, NO_PROXY and so on)."""
        if not any(name.lower().endswith("_proxy") for name in self.process):
            return None
        import urllib.request  # 10 ms, and few environments name a proxy

        parts = urlsplit(url)
        bypass: Any = vars(urllib.request)["proxy_bypass_environment"]  # typeshed has it for some systems only
        if bypass(parts.netloc):
            return None
        proxies = urllib.request.getproxies_environment()
        return proxies.get(parts.scheme) or proxies.get("all")

    def cache_folder(self) -> str | None:
        """Return where model files are kept, if the environment says: SLM_CACHE, then XDG_CACHE_HOME on Linux."""
        named = self.find("SLM_CACHE")
        if named is not None:
            return str(Path(named.value).expanduser())
        shared = self.process.get("XDG_CACHE_HOME") if sys.platform.startswith("linux") else None
        return str(Path(shared) / "slmclient") if shared else None


def captures_content() -> bool:
    """Return whether spans hold prompts and answers, by the variable of OpenTelemetry's own instrumentations."""
    value = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "")
    return value.strip().lower() in ("true", "span_only", "span_and_event")
