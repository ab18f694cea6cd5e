"""The .env file: where it is looked for, whose it has to be, and how it is read."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmclient import AsyncPhiClient, PhiClient
from slmclient.dotenv_file import read_dotenv_file
from slmclient.environment import Environment
from slmclient.errors import ConfigurationError, SLMError
from slmclient.given import Given
from slmclient.settings import resolve

as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")


def timeout_of(env_file: Any = None) -> float:
    """Return SLM_TIMEOUT as it is found; 60 is the default."""
    return resolve(Given(env_file=env_file)).timeout


def folders(start: Path, *names: str) -> Path:
    """Make folders below each other, each with a .env file that says how deep it is; return the deepest."""
    folder = start
    for depth, name in enumerate(names, 1):
        folder = folder / name
        folder.mkdir(exist_ok=True)
        (folder / ".env").write_text(f"SLM_TIMEOUT={depth}\n")
    return folder


# --- where


def test_the_working_directorys_own_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SLM_TIMEOUT=7\n")
    assert timeout_of() == 7


def test_without_a_project_only_the_working_directory_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in /tmp is anybody's."""
    deepest = folders(tmp_path, "a", "b", "c")
    (deepest / ".env").unlink()
    monkeypatch.chdir(deepest)
    assert timeout_of() == 60
    monkeypatch.chdir(deepest.parent)
    assert timeout_of() == 2


@pytest.mark.parametrize("mark", [".git", "pyproject.toml"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_in_a_project_the_search_ends_at_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, as_folder: bool
) -> None:
    """A worktree's .git is a file."""
    deepest = folders(tmp_path, "above", "project", "package", "module")
    project = tmp_path / "above" / "project"
    (project / mark).mkdir() if as_folder else (project / mark).write_text("")
    monkeypatch.chdir(deepest)
    assert timeout_of() == 4, "the nearest one first"
    (deepest / ".env").unlink()
    assert timeout_of() == 3
    (deepest.parent / ".env").unlink()
    assert timeout_of() == 2, "the root's own counts"
    (project / ".env").unlink()
    assert timeout_of() == 60, "what lies above the project does not"


def test_the_search_ends_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = folders(tmp_path, "users", "ada", "notes")
    monkeypatch.setenv("HOME", str(tmp_path / "users" / "ada"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "users" / "ada"))
    monkeypatch.chdir(deepest)
    assert timeout_of() == 3
    (deepest / ".env").unlink()
    assert timeout_of() == 2
    (tmp_path / "users" / "ada" / ".env").unlink()
    assert timeout_of() == 60


def test_a_folder_of_that_name_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual environments are called .env at times."""
    deepest = folders(tmp_path, "project", "package")
    (tmp_path / "project" / ".git").mkdir()
    (deepest / ".env").unlink()
    (deepest / ".env").mkdir()
    monkeypatch.chdir(deepest)
    assert timeout_of() == 1


# --- whose


@as_root
def test_another_users_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a shared folder anybody may lay a file that sends requests elsewhere."""
    deepest = folders(tmp_path, "project", "package")
    (tmp_path / "project" / ".git").mkdir()
    monkeypatch.chdir(deepest)
    assert timeout_of() == 2
    os.chown(deepest / ".env", 12345, 12345)
    with caplog.at_level(logging.WARNING, "slmclient"):
        assert timeout_of() == 1, "the next one above is ours"
    assert "another user" in caplog.text
    assert str(deepest / ".env") in caplog.text


@as_root
def test_a_link_to_another_users_file_is_not_read(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("SLM_TIMEOUT=7\n")
    (tmp_path / ".env").symlink_to(other)
    assert timeout_of() == 7
    os.chown(other, 12345, 12345)
    assert timeout_of() == 60


# --- env_file=


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
def test_false_reads_none(kind: Any) -> None:
    Path(".env").write_text("SLM_PROVIDER=openai\nSLM_BASE_URL=http://localhost:1\n")
    assert kind().provider == "openai"
    assert kind(env_file=False).provider == "local"
    assert kind(env_file=True).provider == "openai"
    assert kind(env_file=None).provider == "openai"


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_read_instead(tmp_path: Path, as_path: Any) -> None:
    Path(".env").write_text("SLM_TIMEOUT=7\n")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "test.env").write_text("SLM_DEADLINE=8\n")
    found = resolve(Given(env_file=as_path("settings/test.env")))
    assert (found.timeout, found.deadline) == (60, 8)
    assert found.env_file == str(Path("settings/test.env"))


def test_a_path_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in ("nowhere.env", tmp_path):
        with pytest.raises(ConfigurationError, match=f"{Path(path).name}.*cannot be read"):
            PhiClient("local", env_file=path)


# --- how


def read(text: str | bytes) -> dict[str, str]:
    file = Path("read.env")
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return dict(read_dotenv_file(file))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=b\nC=d\n", {"A": "b", "C": "d"}),
        ("A=b\r\nC=d\r\n", {"A": "b", "C": "d"}),
        ("\ufeffA=b\n", {"A": "b"}),
        ("export A=b\n", {"A": "b"}),
        ("# A=b\n\nC=d # why\n", {"C": "d"}),
        ("A='b c'\nD=\"e f\"\n", {"A": "b c", "D": "e f"}),
        ("A=  b  \n", {"A": "b"}),
        ("A=\nB=''\nC\n", {}),
        ("A=b\nA=c\n", {"A": "c"}),
        ("A=blå 東京\n", {"A": "blå 東京"}),
        ("A=${HOME}\nB=$HOME\nC='${A}'\n", {"A": "${HOME}", "B": "$HOME", "C": "${A}"}),
        ("A=https://example.com/v1?x=1\n", {"A": "https://example.com/v1?x=1"}),
        ('A={"n_ctx": 5}\n', {"A": '{"n_ctx": 5}'}),
        ("", {}),
    ],
)
def test_a_file_is_read_as_other_tools_read_it(text: str, values: dict[str, str]) -> None:
    assert read(text) == values


def test_nothing_is_run_or_asked_for() -> None:
    marker = Path("marker")
    assert read(f"A=$(touch {marker})\nB=`touch {marker}`\n")["A"].startswith("$(touch")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"A=\xff\xfe\n", b"\x80"])
def test_a_file_that_is_no_text_is_an_error(content: bytes) -> None:
    Path(".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read"):
        PhiClient("local")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / ".env").open("wb") as sparse:
        sparse.truncate(1 << 40)  # a terabyte that takes no place: reading it would not end
    with pytest.raises(ConfigurationError, match="too large"):
        PhiClient("local")


def test_an_error_shows_nothing_of_the_file() -> None:
    Path(".env").write_bytes(b"NVIDIA_API_KEY=key-0123456789\nA=\xff\n")
    with pytest.raises(ConfigurationError) as caught:
        PhiClient("local")
    assert "key-0123456789" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_process_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SLM_A=file\nSLM_B=file\n")
    monkeypatch.setenv("SLM_A", "process")
    environment = Environment()
    first, second = environment.find("SLM_A"), environment.find("SLM_B")
    assert first is not None
    assert second is not None
    assert (first.value, second.value) == ("process", "file")
    assert environment.find("SLM_C") is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_whatever_the_file_holds_only_slmerrors_leave(content: bytes) -> None:
    Path(".env").write_bytes(content)
    said = ".env"
    try:
        PhiClient("local")
    except SLMError as error:
        said = str(error)
    assert ".env" in said or "SLM_" in said
