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
from typing import Any

import pytest

from hub_server import HubServer
from llama_server import LlamaServers
from ollama_server import OllamaServer
from slmclient.drivers import fetch, registry
from test_gguf import STRING, gguf

SLM = [sys.executable, "-m", "slmclient.cli"]
LIMIT = 120  # seconds, for what should take two
REPO = "org/SmolLM2-135M-GGUF"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
WITHOUT_HUB = "import sys\nsys.modules['huggingface_hub'] = None\nfrom slmclient.cli import main\nmain()"
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

    def run(
        *arguments: str, code: int = 0, stdin: str = "", python: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*([sys.executable, "-c", python] if python else SLM), *arguments],
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


# --- GGUF files for an engine that has a form of its own


def test_an_engine_without_files_of_its_own_form_takes_gguf_files_that_it_reads(
    slm: Slm, loopback: HubServer, weights: Path
) -> None:
    listed = {"smollm2-135m-instruct-q8_0.gguf": weights, "smollm2-135m-instruct-q4_k_m.gguf": b"GGUF with Q5_0 in it"}
    loopback.add(SMOLLM2, listed)
    said = slm("pull", "smollm2-135m", "--engine", "openvino")
    assert Path(said.stdout.strip()).name == "smollm2-135m-instruct-q8_0.gguf"
    first, fetching, *_, last = said.stderr.splitlines()
    assert first == ("openvino has no files of smollm2-135m in its own form: GGUF files are taken, which it reads too.")
    assert fetching.startswith("Fetching smollm2-135m (98 MB)")
    assert "SLM_PROVIDER=openvino SLM_MODEL=smollm2-135m slm ask" in last
    loopback.seen.clear()
    question = ("--temperature", "0", "--max-tokens", "16", "What is the capital of Japan?")
    assert "Tokyo" in slm("ask", "-p", "openvino", "-m", "smollm2-135m", *question).stdout
    assert slm("pull", "smollm2-135m", "-e", "openvino", "-q").stderr == ""
    assert loopback.seen == []


def test_another_variant_of_them_is_run_by_its_path_and_fetches_nothing_more(
    slm: Slm, loopback: HubServer, weights: Path
) -> None:
    loopback.add(SMOLLM2, {"smollm2-135m-instruct-q8_0.gguf": b"GGUF", "smollm2-135m-instruct-q4_0.gguf": weights})
    said = slm("pull", "smollm2-135m", "-e", "openvino", "--quantization", "Q4_0")
    assert f"SLM_MODEL={said.stdout.strip()} slm ask" in said.stderr
    assert len([each for each in loopback.seen if each.path.startswith("/content/") and each.method == "GET"]) == 1


def test_where_an_engine_takes_neither_the_error_has_commands_that_work(slm: Slm, loopback: HubServer) -> None:
    said = slm("pull", "phi-4-reasoning", "--engine", "openvino", code=1)
    assert "openvino. Of GGUF files it reads only the architectures llama, qwen2, qwen3." in said.stderr
    commands = re.findall(r"`slm (pull phi-4-reasoning --engine (\w+))`", said.stderr)
    assert {engine for _, engine in commands} == {"llamacpp", "ollama", "onnx", "transformers"}
    assert loopback.seen == []
    loopback.add("unsloth/Phi-4-reasoning-GGUF", {"Phi-4-reasoning-Q4_K_M.gguf": b"GGUF"})
    [command] = [command for command, engine in commands if engine == "llamacpp"]
    assert slm(*command.split()).stdout.endswith("Phi-4-reasoning-Q4_K_M.gguf\n")


def test_a_gguf_file_of_an_architecture_that_the_engine_does_not_read_is_an_error(
    slm: Slm, loopback: HubServer, embedded_elsewhere: dict[str, str]
) -> None:
    loopback.add("org/some-GGUF", {"some-q8_0.gguf": gguf([("general.architecture", STRING, "phi3")])})
    said = slm("pull", "org/some-GGUF", "--engine", "openvino", code=1)
    assert "has the architecture phi3; of GGUF files openvino reads only llama, qwen2, qwen3." in said.stderr
    assert "`slm pull org/some-GGUF --engine llamacpp`, `slm pull org/some-GGUF --engine transformers`" in said.stderr
    assert said.stdout == ""
    assert slm("pull", "org/some-GGUF", "--engine", "llamacpp").stdout.endswith("some-q8_0.gguf\n")
    [listed] = json.loads(slm("models", "--local", "--json", **embedded_elsewhere).stdout)
    assert sorted(listed["engines"]) == ["llamacpp", "transformers"]


# --- what doctor says of it


def doctor(slm: Slm, *arguments: str, code: int = 0, **more: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(slm("doctor", "--json", *arguments, code=code, **more).stdout)
    return report


def test_doctor_shows_where_an_engines_model_is(slm: Slm, weights: Path) -> None:
    path = slm("pull", REPO, "-e", "llamacpp").stdout.strip()
    report = doctor(slm, "-p", "llamacpp", "-m", REPO)
    pull = f"slm pull {REPO} --engine llamacpp"
    assert report["engine_model"] == {"name": REPO, "path": path, "megabytes": 98, "pull": pull}
    assert report["notes"] == []
    said = slm("doctor", "-p", "llamacpp", "-m", REPO).stdout
    assert f"The engine's model\n  {REPO}\n  is here: {path} (98 MB)\n" in said
    by_path = doctor(slm, "-p", "llamacpp", "-m", str(weights))["engine_model"]
    assert by_path == {"name": str(weights), "path": str(weights), "megabytes": 98, "pull": None}


def test_doctor_shows_the_size_of_a_folder(slm: Slm, loopback: HubServer) -> None:
    loopback.add("org/folder", {"genai_config.json": b"{}", "model.onnx": bytes(3_000_000)})
    path = slm("pull", "org/folder", "-e", "onnx").stdout.strip()
    for name in ("org/folder", path):
        found = doctor(slm, "-p", "onnx", "-m", name)["engine_model"]
        assert (found["path"], found["megabytes"]) == (path, 3)


@pytest.mark.parametrize(
    ("options", "more"), [({}, ""), ({"quantization": "Q8_0"}, " --quantization Q8_0")], ids=["plain", "quantization"]
)
def test_doctor_has_the_command_that_fetches_what_is_not_here(
    options: dict[str, str], more: str, slm: Slm, loopback: HubServer
) -> None:
    variables = {"SLM_PROVIDER": "llamacpp", "SLM_MODEL": REPO, "SLM_OPTIONS": json.dumps(options)}
    pull = f"slm pull {REPO} --engine llamacpp{more}"
    report = doctor(slm, **variables)
    assert report["engine_model"] == {"name": REPO, "path": None, "megabytes": None, "pull": pull}
    assert report["notes"] == [f"The first question fetches {REPO}; so does `{pull}`."]
    said = slm("doctor", **variables).stdout
    assert f"The engine's model\n  {REPO}\n  is not here yet: `{pull}` fetches it\n" in said
    assert loopback.seen == []
    offline = doctor(slm, code=1, **variables, SLM_OFFLINE="1")
    assert offline["engine_model"]["pull"] == pull
    [problem] = offline["problems"]
    assert f"`{pull}`" in problem
    header = gguf([("general.architecture", STRING, "llama")])
    loopback.add(REPO, {"a-q4_1.gguf": header, "a-q8_0.gguf": header})
    path = slm(*pull.split()[1:]).stdout.strip()
    assert doctor(slm, **variables)["engine_model"]["path"] == path


@pytest.mark.parametrize(
    ("engine", "options", "more"),
    [
        ("transformers", {"quantization": "int8"}, ""),  # made here, of whatever was fetched
        ("onnx", {"execution_provider": "cuda"}, " --quantization cuda"),
    ],
)
def test_the_command_that_fetches_asks_for_what_the_engine_itself_would(
    slm: Slm, engine: str, options: dict[str, str], more: str
) -> None:
    variables = {"SLM_PROVIDER": engine, "SLM_MODEL": REPO, "SLM_OPTIONS": json.dumps(options)}
    found = doctor(slm, **variables)["engine_model"]
    assert found["pull"] == f"slm pull {REPO} --engine {engine}{more}"


def test_doctor_leaves_it_out_where_there_is_none_to_show(slm: Slm) -> None:
    for arguments in ([], ["-m", "smollm2-135m"], ["-p", "llamacpp", "-m", "smollm2-135m"]):
        assert doctor(slm, *arguments)["engine_model"] is None  # the embedded one has a place of its own
    for arguments in (["-p", "llamacpp"], ["-p", "llamacpp", "-m", "phi-9"], ["-p", "openvino", "-m", "phi-3.5-moe"]):
        assert doctor(slm, *arguments, code=1)["engine_model"] is None
    assert "The engine's model" not in slm("doctor").stdout


def test_doctor_tells_no_maker_of_an_engine_that_it_looked(slm: Slm, weights: Path, tmp_path: Path) -> None:
    """Imported as it is, openvino sends an event, and writes who sent it into the home folder."""
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    assert doctor(slm, "-p", "openvino", "-m", str(weights), **home)["ok"]
    assert not (tmp_path / "intel").exists()


def test_doctor_says_that_an_engine_does_not_read_a_gguf_file(slm: Slm, tmp_path: Path) -> None:
    path = tmp_path / "phi.gguf"
    path.write_bytes(gguf([("general.architecture", STRING, "phi3")]))
    [problem] = doctor(slm, "-p", "openvino", "-m", str(path), code=1)["problems"]
    assert problem == f"{path} has the architecture phi3; of GGUF files openvino reads only llama, qwen2, qwen3."
    assert doctor(slm, "-p", "llamacpp", "-m", str(path))["ok"]


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


def test_without_the_hubs_client_removing_says_what_to_install(
    slm: Slm, embedded_elsewhere: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    path = Path(slm("pull", REPO).stdout.strip())
    install = 'pip install "slmclient[hub]"'
    for yes in ([], ["--yes"]):
        said = slm("remove", REPO, *yes, code=1, python=WITHOUT_HUB, **embedded_elsewhere)
        assert said.stderr == f"Error: Removing {REPO} needs the client of Hugging Face's hub: {install}\n"
    assert path.read_bytes() == weights.read_bytes()
    mine = Path(embedded_elsewhere["SLM_CACHE"]) / "models" / weights.name
    mine.parent.mkdir(parents=True)
    mine.hardlink_to(weights)
    listed = slm("models", "--local", python=WITHOUT_HUB, **embedded_elsewhere)
    assert listed.stdout.splitlines()[0] == "smollm2-135m"
    assert listed.stderr.endswith(f"the cache of Hugging Face's hub was not looked at. That needs {install}\n")
    as_json = slm("models", "--local", "--json", python=WITHOUT_HUB, **embedded_elsewhere)
    assert ([each["name"] for each in json.loads(as_json.stdout)], as_json.stderr) == (["smollm2-135m"], "")
    said = slm("remove", "smollm2-135m", "--yes", python=WITHOUT_HUB, **embedded_elsewhere)
    assert not mine.exists()
    assert said.stderr.startswith("98 MB are free again.\n")
    assert install in said.stderr
    assert install not in slm("models", "--local", **embedded_elsewhere).stderr


def test_the_help_of_pull_names_every_engine(slm: Slm) -> None:
    said = " ".join(slm("pull", "-h").stdout.split())
    assert f"({', '.join(registry.ENGINES)}) or ollama" in said


def test_the_list_of_what_is_here_goes_alone(slm: Slm) -> None:
    assert "--local goes alone" in re.sub(r"[\s│]+", " ", slm("models", "phi-4", "--local", code=2).stderr)
