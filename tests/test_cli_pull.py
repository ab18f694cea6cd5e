"""`slm pull`, `slm models --local` and `slm remove`, as a person runs them, against a hub on loopback."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_server import HubServer
from llama_server import LlamaServers
from ollama_server import OllamaServer
from slmclient.drivers import fetch, registry

SLM = [sys.executable, "-m", "slmclient.cli"]
LIMIT = 120  # seconds, for what should take two
REPO = "org/SmolLM2-135M-GGUF"
posix = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")

Slm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def loopback(weights: Path) -> Iterator[HubServer]:
    """A hub that has the real model, and another file of the kind that is no model."""
    with HubServer() as server:
        server.add(REPO, {"SmolLM2-135M-Instruct.Q4_1.gguf": weights, "SmolLM2-135M-Instruct.Q8_0.gguf": b"GGUF no"})
        yield server


@pytest.fixture
def variables(loopback: HubServer, tmp_path: Path) -> dict[str, str]:
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": loopback.url, "HF_TOKEN": "", "HF_HUB_CACHE": ""}
    without = ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, "PYTHONUTF8": "1", **{name: value for name, value in home.items() if value}}


@pytest.fixture
def slm(variables: dict[str, str]) -> Slm:
    """Run `slm`, hold it to its exit code, and return what it wrote."""

    def run(*arguments: str, code: int = 0, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*SLM, *arguments],
            input=stdin,
            env={**variables, **more},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == code, done
        return done

    return run


@pytest.fixture
def embedded_elsewhere(tmp_path: Path) -> dict[str, str]:
    """A cache of the embedded model's own, empty, so that only the hub's models are here."""
    return {"SLM_CACHE": str(tmp_path / "slm"), "SLM_OFFLINE": "1"}


def test_what_was_pulled_answers(slm: Slm, loopback: HubServer, weights: Path) -> None:
    said = slm("pull", REPO, "--engine", "llamacpp")
    path = Path(said.stdout.strip())
    assert path.read_bytes() == weights.read_bytes()
    assert f"Fetching {REPO} (98 MB) from Hugging Face's hub" in said.stderr
    assert f"SLM_PROVIDER=llamacpp SLM_MODEL={REPO} slm ask" in said.stderr
    loopback.seen.clear()
    question = ("--temperature", "0", "What is the capital of Japan?")
    assert "Tokyo" in slm("ask", "-p", "llamacpp", "-m", REPO, *question).stdout
    assert "Tokyo" in slm("ask", *question, SLM_PROVIDER="llamacpp", SLM_MODEL=REPO, HF_HUB_OFFLINE="1").stdout
    assert slm("pull", f"llamacpp:{REPO}").stdout == said.stdout
    assert loopback.seen == []


def test_the_engine_is_found_where_none_is_named(slm: Slm, loopback: HubServer) -> None:
    loopback.add("unsloth/Phi-4-mini-instruct-GGUF", {"Phi-4-mini-instruct-Q4_K_M.gguf": b"GGUF"})
    said = slm("pull", "phi-4-mini")
    assert said.stdout.endswith("Phi-4-mini-instruct-Q4_K_M.gguf\n")
    assert f"SLM_PROVIDER={registry.ENGINES[0]} SLM_MODEL=phi-4-mini slm ask" in said.stderr
    assert "SLM_PROVIDER=llamacpp" in slm("pull", REPO).stderr  # told by its files
    again = slm("pull", "phi-4-mini", "-q")
    assert (again.stdout, again.stderr) == (said.stdout, "")


def test_another_variant_is_run_by_its_path(slm: Slm) -> None:
    slm("pull", REPO)
    said = slm("pull", REPO, "--quantization", "q8_0")
    path = said.stdout.strip()
    assert path.endswith("Q8_0.gguf")
    assert f"SLM_MODEL={path} slm ask" in said.stderr
    assert "has no Q2_K; it has Q4_1, Q8_0" in slm("pull", REPO, "--quantization", "Q2_K", code=1).stderr


def test_where_no_engine_is_installed_the_error_says_what_to_install(variables: dict[str, str]) -> None:
    nothing = "import slmclient.cli.installed as i; i.missing = lambda extra: [extra]"
    command = [sys.executable, "-c", f"{nothing}\nfrom slmclient.cli import main\nmain()", "pull", "phi-4-mini"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert 'llamacpp: pip install "slmclient[llamacpp]"' in done.stderr
    assert "slm pull phi-4-mini --engine llamacpp" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "llamacpp"], "Name the model"),
        (["--quantization", "Q8_0"], "Name the model"),
        (["phi-4-mini", "--from", "x.gguf"], "--from goes alone"),
        (["phi-4-mini", "--engine", "lamacpp"], "Did you mean 'llamacpp'"),
        (["nvidia:phi-4-mini", "--engine", "llamacpp"], "names nvidia, and --engine llamacpp"),
        (["llamacpp"], "is a provider; write llamacpp:MODEL"),
        (["phi-4-mini", "--engine", "xyzzy"], "Known: llamacpp, mlx, ollama, onnx, openvino, transformers."),
    ],
)
def test_a_command_line_that_contradicts_itself(arguments: list[str], message: str, slm: Slm) -> None:
    said = re.sub(r"[\s│]+", " ", slm("pull", *arguments, code=2).stderr)
    assert message in said


def test_the_embedded_model_is_pulled_by_its_name_too(slm: Slm, loopback: HubServer, weights: Path) -> None:
    for arguments in (["smollm2-135m"], ["local:smollm2-135m"], ["smollm2-135m", "--engine", "llamacpp"]):
        assert slm("pull", *arguments).stdout == f"{weights}\n"
    assert loopback.seen == []


def test_a_provider_that_pulls_nothing_says_so(slm: Slm) -> None:
    said = slm("pull", "openai:phi-4-mini", code=1, SLM_BASE_URL="http://127.0.0.1:9/v1", SLM_PROVIDER="openai")
    assert "openai pulls no models" in said.stderr


def test_a_server_fetches_for_itself(slm: Slm, llama_server: LlamaServers) -> None:
    with OllamaServer(llama_server()) as ollama:
        said = slm("pull", "ollama:phi4-mini", OLLAMA_HOST=ollama.url)
        assert ("/api/pull", {"model": "phi4-mini", "stream": True}) in ollama.bodies
    assert said.stdout.startswith("phi4-mini")
    assert "ollama fetches phi4-mini." in said.stderr
    assert "success" in said.stderr
    assert "SLM_PROVIDER=ollama SLM_MODEL=phi4-mini slm ask" in said.stderr
    refused = slm("pull", "ollama:phi4-mini", "--quantization", "Q8_0", code=2).stderr
    assert "ollama has it in the model's name" in re.sub(r"[\s│]+", " ", refused)


def test_what_was_not_pulled_is_fetched_by_the_first_question(slm: Slm, loopback: HubServer) -> None:
    said = slm("ask", "-p", "llamacpp", "-m", REPO, "--temperature", "0", "What is the capital of Japan?")
    assert "Tokyo" in said.stdout
    assert f"Fetching {REPO} (98 MB)" in said.stderr


def test_what_the_hub_refuses_is_an_error_with_the_way_out(slm: Slm, loopback: HubServer) -> None:
    loopback.add("org/gated", {"a-q4_0.gguf": b"GGUF"}, gated=401)
    said = slm("pull", "org/gated", "-e", "llamacpp", code=1)
    assert "accept the licence" in said.stderr
    assert said.stdout == ""
    assert "HF_HUB_OFFLINE forbids" in slm("pull", "org/new", "-e", "llamacpp", code=1, HF_HUB_OFFLINE="1").stderr


@posix
def test_ctrl_c_ends_it_at_once_and_the_next_pull_goes_on(
    variables: dict[str, str], slm: Slm, loopback: HubServer, tmp_path: Path, weights: Path
) -> None:
    loopback.faults.hold = threading.Event()
    with subprocess.Popen([*SLM, "pull", REPO], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        limit = time.monotonic() + LIMIT
        while not (came := sum(each.stat().st_size for each in tmp_path.glob("hf/hub/*/blobs/*.incomplete"))):
            assert time.monotonic() < limit
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=LIMIT)[0] == b""
        assert run.returncode == 130
    loopback.faults.hold.set()
    loopback.faults.hold = None
    loopback.seen.clear()
    assert Path(slm("pull", REPO).stdout.strip()).read_bytes() == weights.read_bytes()
    assert [each.range for each in loopback.seen if each.host == "localhost"] == [f"bytes={came}-"]


@posix
def test_a_terminal_shows_a_bar(variables: dict[str, str], loopback: HubServer) -> None:
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen([*SLM, "pull", REPO], env=variables, stdout=subprocess.PIPE, stderr=theirs) as run:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], LIMIT)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
        assert run.wait(LIMIT) == 0
    os.close(ours)
    assert b"MB" in shown
    assert "━".encode() in shown


@pytest.mark.parametrize("arguments", [["azure:phi-4-mini"], ["phi-4-mini", "--engine", "azure"]])
def test_what_no_provider_fetches_is_said_before_its_settings_are_asked_for(arguments: list[str], slm: Slm) -> None:
    said = slm("pull", *arguments, code=1)
    assert "azure pulls no models" in said.stderr
    assert "Models are pulled for ollama, llamacpp, onnx" in said.stderr


def test_a_path_is_said_to_be_for_no_engine_that_was_not_asked_for(slm: Slm, tmp_path: Path) -> None:
    here = slm("pull", str(tmp_path))
    assert (here.stdout.strip(), here.stderr) == (str(tmp_path), "")
    assert f"SLM_PROVIDER=onnx SLM_MODEL={tmp_path} slm ask" in slm("pull", str(tmp_path), "-e", "onnx").stderr


# --- what is here


def test_what_is_here_is_listed_and_removed(
    slm: Slm, loopback: HubServer, embedded_elsewhere: dict[str, str], weights: Path
) -> None:
    slm("pull", REPO)
    loopback.add("microsoft/Phi-4-mini-instruct", {"config.json": b"{}", "model.safetensors": b"numbers"})
    folder = slm("pull", "microsoft/Phi-4-mini-instruct", "--engine", "llamacpp", code=1)  # it has no GGUF file
    assert "knows" in folder.stderr or "has no" in folder.stderr
    said = slm("models", "--local", **embedded_elsewhere).stdout
    assert said.splitlines()[0] == REPO
    assert re.search(r"gguf +Q4_1 +98 MB  \d{4}-\d\d-\d\d  llamacpp", said)
    [listed] = json.loads(slm("models", "--local", "--json", **embedded_elsewhere).stdout)
    assert (listed["name"], listed["form"], listed["size"]) == (REPO, "gguf", weights.stat().st_size)
    assert listed["engines"]["llamacpp"] is True
    refused = slm("remove", REPO, code=2, **embedded_elsewhere)
    assert "Nothing is removed without --yes" in re.sub(r"[\s│]+", " ", refused.stderr)
    assert Path(listed["path"]).exists()
    assert slm("remove", REPO, "--yes", **embedded_elsewhere).stderr == "98 MB are free again.\n"
    assert not Path(listed["path"]).exists()
    assert slm("models", "--local", "--json", **embedded_elsewhere).stdout == "[]\n"
    assert "There is no model on this machine" in slm("models", "--local", **embedded_elsewhere).stderr
    assert "slm models --local" in slm("remove", REPO, "--yes", code=1, **embedded_elsewhere).stderr


@posix
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_removing_asks_on_a_terminal(
    answer: str, code: int, variables: dict[str, str], embedded_elsewhere: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    import pty

    mine = Path(embedded_elsewhere["SLM_CACHE"]) / "models" / weights.name
    mine.parent.mkdir(parents=True)
    mine.hardlink_to(weights)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SLM, "remove", "smollm2-135m"],
        env={**variables, **embedded_elsewhere},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        _, said = run.communicate(timeout=LIMIT)
        assert run.returncode == code
    os.close(ours)
    assert "smollm2-135m" in said
    assert "98 MB" in said
    assert "for every program that uses it?" in said
    assert mine.exists() == (answer == "n")
    assert weights.stat().st_size == fetch.SMOLLM2.file_bytes


def test_the_list_of_what_is_here_goes_alone(slm: Slm) -> None:
    assert "--local goes alone" in re.sub(r"[\s│]+", " ", slm("models", "phi-4", "--local", code=2).stderr)
