"""Brings files of a repository into the cache: resumed where an earlier try ended, and checked by hash.

`huggingface_hub` of today starts each file anew when a process was ended. So the content is fetched here, into the
cache's own place for half a file, with its session, address and headers; its `hf_hub_download` then finds the content
there and only puts the name to it. A file gets its final name when its hash was right: there is never half a file.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from slmclient.drivers.fetch import FetchCancelled
from slmclient.drivers.hub.choice import Choice, NothingFitsError, RepoFile, choose
from slmclient.drivers.hub.faults import Origin, fault, free, no_room
from slmclient.drivers.hub.library import MAIN, cache, is_commit, library, storage
from slmclient.drivers.hub.naming import ways
from slmclient.errors import ModelNotFoundError, ResponseFormatError

log = logging.getLogger("slmclient")

_NAME = "slmclient"  # what the hub is told of who asks
_POLL = 0.1  # seconds between two looks of the caller's thread
_TRIES = 5  # in a row in which nothing came
_SPARE = 16_000_000  # bytes of disk that stay free
_PAUSE = 1.0  # seconds, after the first of them
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(slots=True)
class Meter:
    """How far a fetch is, and whether it is still wanted. Written by the fetching thread, read by the caller's."""

    done: int = 0
    total: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Leave the fetching thread if nobody waits for it any more."""
        if self.stop.is_set():
            raise FetchCancelled


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch."""

    origin: Origin
    forms: tuple[str, ...]
    with_code: bool


def watched(
    work: Callable[[Meter], _T], cancelled: Callable[[], bool], progress: Callable[[int, int | None], None] | None
) -> _T:
    """Return the result of work on a thread of its own, so that it can be left at once, whatever it waits for."""
    meter = Meter()
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(meter))
        except BaseException as error:  # for the other thread to raise
            failures.append(error)

    thread = threading.Thread(target=run, name="slmclient-hub", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            if cancelled():
                raise FetchCancelled("fetching the model was cancelled; what came so far is kept")
            if progress is not None and meter.total:
                progress(meter.done, meter.total)
            thread.join(_POLL)
    finally:
        meter.stop.set()
    if failures:
        raise failures[0] from None
    if progress is not None and meter.total:
        progress(meter.done, meter.total)
    return results[0]


def fetch(wanted: Wanted, meter: Meter) -> tuple[str, Choice]:
    """Return the commit that was fetched, and which of its files.

    Raises:
        SLMError: Whatever went wrong, as `faults` tells it.
        FetchCancelled: The meter says stop.
    """
    origin = wanted.origin
    try:
        hub = library().HfApi(library_name=_NAME)
        info = hub.model_info(origin.repo, revision=origin.revision, files_metadata=True)
        commit = info.sha or ""
        if not is_commit(commit):
            raise ResponseFormatError(f"The hub names no commit of {origin.name}.", provider=origin.provider)
        files = [_file(sibling) for sibling in info.siblings or ()]
        choice = choose(files, wanted.forms, origin.quantization, with_code=wanted.with_code)
        snapshot = storage(origin.repo) / "snapshots" / commit
        missing = [file for file in choice.files if not (snapshot / file.path).exists()]
        _check_room(origin, missing, meter)
        for file in missing:
            _obtain(origin, commit, file, meter)
        _remember(origin, commit)
    except NothingFitsError as error:
        elsewhere = "" if origin.quantization else ways(origin.model, origin.provider)
        text = f"{origin.name} {error}. {elsewhere}".rstrip()
        raise ModelNotFoundError(text, provider=origin.provider, model=origin.model) from None
    except FetchCancelled:
        raise
    except Exception as error:
        raise fault(origin, error) from None
    return commit, choice


def _file(sibling: Any) -> RepoFile:
    large = sibling.lfs
    return RepoFile(sibling.rfilename, sibling.size, large.sha256 if large else None, sibling.blob_id)


def _check_room(origin: Origin, files: list[RepoFile], meter: Meter) -> None:
    """Set the meter to what there is to do, and see that the disk has room for it."""
    total = sum(file.size or 0 for file in files)
    here = sum(min(_size(path), file.size or 0) for file in files if (path := _partial(origin.repo, file)) is not None)
    meter.total, meter.done = total, here
    if free() < total - here + _SPARE:
        raise no_room(origin, f"{(total - here) / 1e9:.1f} GB to fetch")
    if files:
        log.info("fetching %s: %d MB", origin.name, round((total - here) / 1e6))


def _blob(repo: str, file: RepoFile) -> Path | None:
    """Return where the cache keeps a file's content: under its hash. None where the hub gives no hash."""
    name = file.sha256 or file.git_id or ""
    return storage(repo) / "blobs" / name if _HASH.fullmatch(name) else None


def _partial(repo: str, file: RepoFile) -> Path | None:
    blob = _blob(repo, file)
    return blob.with_name(f"{blob.name}.incomplete") if blob else None


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _obtain(origin: Origin, commit: str, file: RepoFile, meter: Meter) -> None:
    """Bring one file into the cache, under its name in the repository."""
    blob = _blob(origin.repo, file)
    if blob is not None and not blob.exists():
        # The lock that its other tools take too: two processes do not fetch the same file.
        lock = cache() / ".locks" / storage(origin.repo).name / f"{blob.name}.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with library("utils").WeakFileLock(lock):
            meter.check()
            if not blob.exists():
                _bring(origin, commit, file, blob, meter)
    meter.check()
    path = Path(library().hf_hub_download(origin.repo, file.path, revision=commit, library_name=_NAME))
    if blob is not None and path.resolve().name != blob.name and not _matches(path, file):
        raise _damaged(origin, file)


def _bring(origin: Origin, commit: str, file: RepoFile, blob: Path, meter: Meter) -> None:
    partial = blob.with_name(f"{blob.name}.incomplete")
    resumed = _size(partial) > 0
    _download(origin.repo, commit, file, partial, meter)
    if resumed and not _matches(partial, file):
        log.warning("what an earlier try left of %s was wrong: it is fetched anew", file.path)
        meter.done -= _size(partial)
        partial.unlink()
        _download(origin.repo, commit, file, partial, meter)
    if not _matches(partial, file):
        partial.unlink()
        raise _damaged(origin, file)
    partial.replace(blob)


def _download(repo: str, commit: str, file: RepoFile, partial: Path, meter: Meter) -> None:
    """Fetch what is missing of a file. Where the connection breaks, go on from there."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            return _stream(repo, commit, file, partial, meter)
        except Exception as error:
            failures = 1 if _size(partial) > before else failures + 1
            if not _is_passing(error) or failures >= _TRIES:
                raise
            log.info("the connection broke (%s): the fetch goes on from %d bytes", type(error).__name__, _size(partial))
            meter.stop.wait(_PAUSE * failures)
            meter.check()


def _stream(repo: str, commit: str, file: RepoFile, partial: Path, meter: Meter) -> None:
    hub, utils = library(), library("utils")
    start = _size(partial)
    if start and start == file.size:
        return
    headers = {**utils.build_hf_headers(library_name=_NAME), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hub.hf_hub_url(repo, file.path, revision=commit)
    timeout = library("constants").HF_HUB_DOWNLOAD_TIMEOUT
    # A redirect to another host is followed without the token: the HTTP library takes it off.
    with hub.get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        utils.hf_raise_for_status(response)
        if start and response.status_code != 206:  # the whole file, whatever was asked for
            meter.done -= start
            start = 0
        with partial.open("ab" if start else "wb") as out:
            for piece in response.iter_bytes():
                meter.check()
                start += len(piece)
                if file.size is not None and start > file.size:
                    raise ResponseFormatError(f"The hub sends more of {file.path} than it said.")
                out.write(piece)
                meter.done += len(piece)
    if file.size is not None and start < file.size:
        raise ConnectionResetError("the answer ended early")


def _is_passing(error: Exception) -> bool:
    """Return whether another try may help."""
    refused: type[Exception] = library("errors").HfHubHTTPError
    if isinstance(error, refused):
        status: int = vars(error)["response"].status_code
        return status in (408, 429) or status >= 500
    # Its base is that of all errors of the HTTP library, which is another one from version to version.
    return isinstance(error, (ConnectionError, TimeoutError, refused.__bases__[0]))


def _matches(path: Path, file: RepoFile) -> bool:
    """Return whether the content is what its hash says: SHA-256 of large files, Git's own of the others."""
    with path.open("rb") as stream:
        if file.sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
        digest = hashlib.sha1(b"blob %d\0" % _size(path), usedforsecurity=False)  # Git's, of small text files
        while piece := stream.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest() == file.git_id


def _damaged(origin: Origin, file: RepoFile) -> ResponseFormatError:
    return ResponseFormatError(
        f"{file.path} of {origin.name} arrived damaged: its hash is not the one that the hub gives. It was thrown "
        f"away; try again: `{origin.command}`. Should it repeat, something on the way (a proxy) changes it.",
        provider=origin.provider,
        model=origin.model,
    )


def _remember(origin: Origin, commit: str) -> None:
    """Note which commit a branch or tag is, once all is there: as every tool of the hub does."""
    if is_commit(origin.revision):
        return
    ref = storage(origin.repo) / "refs" / (origin.revision or MAIN)
    ref.parent.mkdir(parents=True, exist_ok=True)
    written = ref.with_name(f".{uuid4().hex}")
    written.write_text(commit, encoding="ascii")
    written.replace(ref)
