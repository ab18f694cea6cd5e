"""The examples run as a reader would run them: as programs of their own, on real models, by environment alone."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine_models import EngineModels
from llama_server import KEY, LlamaServers, RecordingProxy
from ollama_server import OllamaServer
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import whole

EXAMPLES = Path(__file__).parents[1] / "examples"
TOKYO = "The capital of Japan is Tokyo."


def run(program: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(EXAMPLES / program), *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


FIVE: dict[str, dict[str, Any]] = {
    # what its server is, what the environment says, and what has to reach that server
    "github": {
        "server": "/inference",
        "base_url": "/inference",
        "path": "/inference/chat/completions",
        "headers": {"authorization": f"Bearer {KEY}", "x-github-api-version": "2022-11-28"},
        "model": "microsoft/phi-4-mini-instruct",
    },
    "azure (v1)": {
        "server": "/openai",
        "base_url": "/openai/v1",
        "path": "/openai/v1/chat/completions",
        "headers": {"authorization": f"Bearer {KEY}", "api-key": KEY},
        "model": "Phi-4-mini-instruct",
    },
    "azure (models)": {
        "server": "/models",
        "base_url": "/models",
        "path": "/models/chat/completions?api-version=2024-05-01-preview",
        "headers": {"authorization": f"Bearer {KEY}", "api-key": KEY},
        "model": "Phi-4-mini-instruct",
    },
    "nvidia": {  # a container of one's own is served names as they are written
        "server": "",
        "base_url": "/v1",
        "path": "/v1/chat/completions",
        "headers": {"authorization": f"Bearer {KEY}"},
        "model": "phi-4-mini",
    },
    "openai": {
        "server": "",
        "base_url": "/v1",
        "path": "/v1/chat/completions",
        "headers": {"authorization": f"Bearer {KEY}"},
        "model": "phi-4-mini",
    },
}


@pytest.mark.parametrize("case", FIVE)
def test_one_script_gets_its_answer_from_every_hosted_provider(case: str, llama_server: LlamaServers) -> None:
    provider, expected = case.split()[0], FIVE[case]
    with RecordingProxy(llama_server(api_prefix=expected["server"]).url) as proxy:
        done = run(
            "ask.py",
            "What is the capital of Japan?",
            SLM_PROVIDER=provider,
            SLM_BASE_URL=proxy.url + expected["base_url"],
            SLM_API_KEY=KEY,
            SLM_MODEL="phi-4-mini",
        )
        requests = proxy.requests
    assert done.stdout == f"{TOKYO}\n", done.stderr
    assert f"({provider}, smollm2, " in done.stderr  # what the server calls the model that answered
    assert [(request.method, request.path) for request in requests] == [("POST", expected["path"])]
    sent = requests[0]
    assert expected["headers"].items() <= sent.headers.items()
    assert ("api-key" in sent.headers) == (provider == "azure")
    assert sent.json["model"] == expected["model"]
    assert sent.json["messages"] == [{"role": "user", "content": "What is the capital of Japan?"}]
    assert sent.json["stream"] is True


def ask_with_openai(url: str) -> str:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="phi-4-mini",
            messages=[{"role": "user", "content": "What is the capital of Japan?"}],
            temperature=0,
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def ask_with_azure(url: str) -> str:
    from azure.ai.inference import ChatCompletionsClient
    from azure.core.credentials import AzureKeyCredential

    with ChatCompletionsClient(f"{url}/models", AzureKeyCredential(KEY)) as client:
        stream: Any = client.complete(
            model="Phi-4-mini-instruct",
            messages=[{"role": "user", "content": "What is the capital of Japan?"}],
            temperature=0,
            max_tokens=200,
            stream=True,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


SDKS = {"openai": ask_with_openai, "azure (models)": ask_with_azure}


@pytest.mark.parametrize("case", SDKS)
def test_the_vendors_sdk_asks_the_same_and_gets_the_same(case: str, llama_server: LlamaServers) -> None:
    """The SDKs judge our requests: same path and query, same key headers, same body; and the same text comes back."""
    with RecordingProxy(llama_server(api_prefix=FIVE[case]["server"]).url) as proxy:
        theirs_said = SDKS[case](proxy.url)
        ours_said = run(
            "ask.py",
            SLM_PROVIDER=case.split()[0],
            SLM_BASE_URL=proxy.url + FIVE[case]["base_url"],
            SLM_API_KEY=KEY,
            SLM_MODEL="phi-4-mini",
        ).stdout
        theirs, ours = proxy.requests
    assert ours_said == f"{theirs_said}\n" == f"{TOKYO}\n"
    assert (ours.method, ours.path, ours.json) == (theirs.method, theirs.path, theirs.json)
    for name in ("authorization", "api-key", "content-type"):
        assert ours.headers.get(name) == theirs.headers.get(name), name


@pytest.mark.usefixtures("weights")
def test_the_same_script_answers_with_nothing_configured() -> None:
    done = run("ask.py", "What is the capital of Japan?")
    assert done.stdout == f"{TOKYO}\n", done.stderr
    assert "(local, SmolLM2-135M-Instruct-Q4_1, " in done.stderr


def test_the_same_script_runs_any_gguf_file(weights: Path) -> None:
    done = run("ask.py", "What is the capital of Japan?", SLM_PROVIDER="llamacpp", SLM_MODEL=str(weights))
    assert done.stdout == f"{TOKYO}\n", done.stderr
    assert "(llamacpp, " in done.stderr


def test_the_same_script_says_that_github_models_is_gone() -> None:
    done = run("ask.py", SLM_PROVIDER="github", GITHUB_TOKEN="ghp_of_the_environment")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ProviderRetiredError: GitHub Models was switched off on 2026-07-30" in done.stderr


@pytest.mark.usefixtures("weights")
def test_streaming_shows_events_and_is_stopped() -> None:
    done = run("streaming.py")
    assert done.returncode == 0, done.stderr
    assert f"[local answers with SmolLM2-135M-Instruct-Q4_1]\n{TOKYO}\n[finished: stop]" in done.stdout
    assert re.search(r"\[cancelled after \d+\.\d s; [1-9]\d* characters had come\]\n$", done.stdout)


@pytest.mark.usefixtures("weights")
def test_ten_questions_are_answered_at_once_by_the_embedded_model() -> None:
    done = run("ten_at_once.py")
    assert done.returncode == 0, done.stderr
    assert f"Japan: {TOKYO}" in done.stdout
    assert "10 answers" in done.stdout


def test_ten_questions_are_answered_at_once_by_a_server(llama_server: LlamaServers) -> None:
    done = run("ten_at_once.py", SLM_BASE_URL=f"{llama_server().url}/v1", SLM_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert f"Japan: {TOKYO}" in done.stdout


@pytest.mark.usefixtures("weights")
def test_the_conversation_goes_on_after_it_was_loaded() -> None:
    done = run("conversation.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{TOKYO}\nThe capital of Kenya is Nairobi.\n5 messages loaded;")


def test_an_openai_client_is_handed_in(llama_server: LlamaServers) -> None:
    with RecordingProxy(llama_server().url) as proxy:
        done = run("openai_client.py", OPENAI_BASE_URL=f"{proxy.url}/v1", OPENAI_API_KEY=KEY)
        requests = proxy.requests
    assert done.stdout.startswith(f"{TOKYO}\n(smollm2, "), done.stderr
    assert done.stdout.endswith(" tokens)\n1 model; the SDK client is still open\n")
    assert [request.path for request in requests] == ["/v1/models", "/v1/chat/completions", "/v1/models"]
    assert {request.headers["x-team"] for request in requests} == {"examples"}


def test_ollama_fetches_a_model_that_is_not_there_and_answers(llama_server: LlamaServers) -> None:
    with OllamaServer(llama_server(), models=()) as server:
        first, second = (run("with_ollama.py", "phi-3.5-mini", OLLAMA_HOST=server.url) for _ in range(2))
    assert (first.stdout, second.stdout) == (f"{TOKYO}\n", f"{TOKYO}\n"), first.stderr + second.stderr
    assert first.stderr.startswith("pulling manifest\npulling aa (1,000 bytes)\n")
    assert second.stderr.startswith("(ollama, phi3.5, "), "it is there now"


def test_ollama_that_does_not_run_says_how_to_start_it() -> None:
    done = run("with_ollama.py", OLLAMA_HOST=":1")
    assert done.returncode == 1
    assert "APIConnectionError: ollama cannot be reached at 127.0.0.1:1" in done.stderr
    assert "`ollama serve`" in done.stderr


def test_the_onnx_loop_of_the_lessons_runs_again(engine_models: EngineModels) -> None:
    done = run("phi3_onnx_loop.py", SLM_MODEL=str(engine_models("smollm2_onnx_int4")))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for way in ("the likeliest words", "drawn from", "without repeating", "the best of four beams", "beams for every"):
        assert any(re.match(rf"{way}.*: .*\w", line) for line in lines), way
    assert "Tokyo" in lines[0]


def test_the_lessons_phi35_notebook_runs_on_any_engine(engine_models: EngineModels) -> None:
    onnx = str(engine_models("smollm2_onnx_int4"))
    for variables in ({}, {"SLM_PROVIDER": "onnx", "SLM_MODEL": onnx}):
        done = run("phi35_instruct.py", **variables)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert f"({variables.get('SLM_PROVIDER', 'local')}, " in done.stderr
        assert "the same seed, the same answer: yes" in done.stderr


ANSWER = "Here it is:\n```python\nprint('never run')\n```\nRun it."


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A picture of a format that Ollama does not take."""
    path = tmp_path / "chart.bmp"
    Image.new("RGB", (64, 48), "steelblue").save(path)
    return path


def test_the_code_that_draws_a_chart_is_taken_from_the_answer(chart: Path) -> None:
    message = {"role": "assistant", "content": ANSWER}
    with FaultServer(whole(200, {"model": "m", "message": message, "done": True, "done_reason": "stop"})) as server:
        done = run("chart_to_code.py", str(chart), SLM_PROVIDER="ollama", SLM_MODEL="m", OLLAMA_HOST=server.url)
        (seen,) = server.seen
    assert done.stdout == "print('never run')\n", done.stderr
    assert done.stderr == "(image 1: converted from image/bmp)\n"
    (asked,) = json.loads(seen.body)["messages"]
    assert "Python code" in asked["content"]
    (picture,) = asked["images"]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as sent:
        assert (sent.format, sent.size) == ("PNG", (64, 48))


def test_a_chart_and_an_answer_without_code(chart: Path, engine_models: EngineModels) -> None:
    """A real model that sees, and makes nothing of it."""
    done = run("chart_to_code.py", str(chart), SLM_PROVIDER="onnx", SLM_MODEL=str(engine_models("tiny_phi3v_onnx")))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("There is no Python code in the answer:\n"), done.stderr
    assert len(done.stderr) > 100


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Name a picture"),
        (["/nowhere.png"], 1, "BadRequestError: The image '/nowhere.png' cannot be read"),
        (["https://example.com/chart.png"], 1, "UnsupportedFeatureError: local takes no images here."),
    ],
)
def test_a_chart_that_cannot_be_shown(arguments: list[str], code: int, message: str) -> None:
    done = run("chart_to_code.py", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(message)


def test_a_film_is_summarized_from_its_frames(engine_models: EngineModels) -> None:
    done = run("video_summary.py", SLM_PROVIDER="transformers", SLM_MODEL=str(engine_models("tiny_llava")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "(transformers, tiny_llava, 21 frames from 0.0 to 2.9 s)" in done.stderr


def test_the_frames_of_a_film_arrive_in_their_order() -> None:
    message = {"role": "assistant", "content": "Three colours."}
    with FaultServer(whole(200, {"model": "m", "message": message, "done": True, "done_reason": "stop"})) as server:
        done = run("video_summary.py", SLM_PROVIDER="ollama", SLM_MODEL="m", OLLAMA_HOST=server.url)
        (seen,) = server.seen
    assert done.stdout == "Three colours.\n", done.stderr
    frames = json.loads(seen.body)["messages"][0]["images"]
    colours: list[int] = []
    for frame in frames:
        with Image.open(io.BytesIO(base64.b64decode(frame))) as picture:
            parts = picture.convert("RGB").resize((1, 1)).tobytes()
        colours.append(parts.index(max(parts)))
    assert colours == [0] * 7 + [1] * 7 + [2] * 7, "red, green, blue"


def test_a_film_that_is_none() -> None:
    done = run("video_summary.py", __file__)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("BadRequestError: The film "), done.stderr


def test_an_answer_is_recorded_and_replayed_without_its_server(llama_server: LlamaServers, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "capital.json")
    recorded = run("record_replay.py", path, SLM_BASE_URL=f"{llama_server().url}/v1", SLM_API_KEY=KEY)
    assert recorded.stdout == f"{TOKYO}\n", recorded.stderr
    assert recorded.stderr == "(recorded: 1 call in capital.json)\n"
    replayed = run("record_replay.py", path, SLM_PROVIDER="nvidia")
    assert replayed.stdout == f"{TOKYO}\n", replayed.stderr
    assert replayed.stderr == "(replayed from capital.json; 0 calls were not asked for)\n"


def test_errors_are_explained() -> None:
    lines = run("errors.py").stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].endswith("Did you mean 'azure'? A model's name goes into model=.")
    assert lines[3] == "a service that was switched off: gone since 2026-07-30; instead: azure"
    assert lines[4].startswith("a server that is not there: APIConnectionError after 2 tries: ")


@pytest.mark.usefixtures("weights")
def test_there_is_always_an_answer() -> None:
    done = run("fallbacks.py")
    assert done.stdout == f"local: {TOKYO}\nlocal: The capital of Kenya is Nairobi.\n"
    told = "github could not answer (ProviderRetiredError), asking local\n"
    assert done.stderr == 2 * told, "asked once, passed over afterwards"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the plugin of the examples, as a user would, into a folder."""
    folder = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, str(EXAMPLES / "plugin")], check=True, timeout=120)
    return folder


def test_the_plugin_keeps_the_contract(plugin: Path, tmp_path: Path) -> None:
    """It runs from the installed package, in a folder where its source is not."""
    test = tmp_path / "test_plugin.py"
    test.write_bytes((EXAMPLES / "plugin" / "test_slmclient_echo.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        env={**os.environ, "PYTHONPATH": str(plugin)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40  # type: ignore[index]


def test_the_plugin_is_found_by_its_name(plugin: Path) -> None:
    done = run("ask.py", "Is anybody there?", SLM_PROVIDER="echo", PYTHONPATH=str(plugin))
    assert done.stdout == "Is anybody there?\n", done.stderr
    assert "(echo, echo-1, 3 tokens)" in done.stderr
    assert "echo has no temperature" in done.stderr
    wrong = run("ask.py", SLM_PROVIDER="echo", SLM_OPTIONS='{"pausse": 1}', PYTHONPATH=str(plugin))
    assert "ConfigurationError: echo: Unknown option 'pausse'. Did you mean 'pause'?" in wrong.stderr


@pytest.mark.usefixtures("weights")
def test_a_function_is_run_only_after_a_look() -> None:
    done = run("tools.py", "What is the weather in Oslo?")
    lines = done.stdout.splitlines()
    assert lines[0] == "The model asks for weather of Oslo.", done.stderr
    assert lines[1] == "The function says: 4 degrees and rain in Oslo"
    assert lines[2].startswith("The model says: ")


@pytest.mark.usefixtures("weights")
def test_an_answer_comes_as_an_object() -> None:
    done = run("structured.py")
    assert re.fullmatch(r".+, .+ \(by grammar, asked again 0 times\)\n", done.stdout), done.stderr


@pytest.mark.usefixtures("weights")
def test_the_lessons_agent_answers_with_steps() -> None:
    steps = run("agent_steps.py")
    lines = steps.stdout.splitlines()
    assert 2 <= len(lines) <= 4, steps.stderr
    assert all(re.fullmatch(r"\d\. (Blog|Translate|Result): '.*' → '.*'", line) for line in lines), steps.stdout


@pytest.mark.usefixtures("weights")
def test_a_chat_goes_on_when_its_context_is_full() -> None:
    done = run("context.py")
    lines = done.stdout.splitlines()
    assert lines[1] == "too long: 331 tokens of 256", done.stderr
    read = [int(re.findall(r"(\d+) tokens read", line)[0]) for line in lines[2:14]]
    assert read == sorted(read[:8]) + read[8:]
    assert max(read) < 256
    assert lines[13].endswith("8 messages left out")
    assert lines[14] == "the conversation itself has all 25 messages"


@pytest.mark.usefixtures("weights")
def test_a_model_that_does_not_think_tells_no_thoughts() -> None:
    done = run("reasoning.py")
    assert done.stdout.endswith("told no thoughts]\n"), done.stderr


def test_thoughts_are_shown_apart_and_a_thought_that_was_cut_off_is_told() -> None:
    for text, reason, last in (
        ("<think>17 has no divisor.</think>\n\nYes.", "stop", "thought 18 characters and answered 4]"),
        ("17 has no di", "length", "was cut off: raise max_tokens]"),
    ):
        frames = [{"choices": [{"index": 0, "delta": {"content": sign}}]} for sign in text]
        frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
        with FaultServer(whole(200, body.encode(), content_type="text/event-stream")) as server:
            done = run(
                "reasoning.py", SLM_PROVIDER="openai", SLM_MODEL="phi-4-mini-reasoning", SLM_BASE_URL=f"{server.url}/v1"
            )
        assert done.stdout.startswith("[thinks] 17 has no di"), done.stderr
        assert done.stdout.endswith(f"{last}\n"), done.stdout
