"""Transformers in this process: the bare engine's answers, what it refuses, what it leaves as it was, and its end."""

from __future__ import annotations

import gc
import importlib
import io
import json
import logging
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine_models import EngineModels
from slmclient import Image, Message, PhiClient
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.engine import pictures
from slmclient.drivers.transformers import TransformersDriver, loading
from slmclient.errors import (
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    ContextLengthExceededError,
    EngineError,
    MissingDependencyError,
    ModelNotFoundError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.policy.wrapper import innermost

JAPAN, TOKYO = "What is the capital of Japan?", "The capital of Japan is Tokyo."
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Edit = Callable[[Path], None]


def client_of(model: Path | str, **options: Any) -> PhiClient:
    """Return a client on one thread: with more, they wait for each other where the machine has other work.

    Clients of equal options share one loaded model.
    """
    return PhiClient("transformers", str(model), options={"n_threads": 1, **options}, env_file=False)


@pytest.fixture(scope="module")
def client(engine_models: EngineModels) -> Iterator[PhiClient]:
    """The embedded model's weights in full precision."""
    with client_of(engine_models("smollm2_folder")) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(engine_models: EngineModels) -> Path:
    """A random Phi-3."""
    return engine_models("tiny_phi3")


@pytest.fixture(scope="module")
def tiny_client(tiny: Path) -> Iterator[PhiClient]:
    with client_of(tiny) as made:
        yield made


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """Makes a copy of the random Phi-3 and has something done to it."""

    def copy(edit: Edit) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny, folder)
        edit(folder)
        return folder

    return copy


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), encoding="utf-8")


@pytest.fixture(scope="module")
def bare(engine_models: EngineModels) -> Callable[..., str]:
    """Asks Transformers itself, as its own pages show it."""
    import torch
    import transformers

    loaded: dict[Path, tuple[Any, Any]] = {}

    def ask(folder: Path, messages: list[dict[str, str]], seed: int | None = None, **arguments: Any) -> str:
        if folder not in loaded:
            loaded[folder] = (
                transformers.AutoTokenizer.from_pretrained(folder),
                transformers.AutoModelForCausalLM.from_pretrained(folder),
            )
        words, model = loaded[folder]
        inputs = words.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        if seed is not None:
            torch.manual_seed(seed)
        written = model.generate(**inputs, **arguments)[0, inputs["input_ids"].shape[1] :]
        text: str = words.decode(written, skip_special_tokens=True)
        return text

    return ask


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- the bare engine's answers


@pytest.mark.parametrize("prompt", [JAPAN, "Write a haiku about the sea."])
def test_greedy_text_is_the_bare_engines(
    client: PhiClient, bare: Callable[..., str], engine_models: EngineModels, prompt: str
) -> None:
    own = bare(engine_models("smollm2_folder"), user(prompt), do_sample=False, max_new_tokens=16)
    assert client.chat(prompt, temperature=0, max_tokens=16).text == own


def test_it_says_who_answered_and_counts(client: PhiClient) -> None:
    reply = client.chat(JAPAN, temperature=0)
    assert (reply.text, reply.finish_reason) == (TOKYO, "stop")
    assert (reply.provider, reply.model) == ("transformers", "smollm2_folder")
    assert not reply.usage.estimated
    assert reply.dropped == ()


def test_a_mixture_of_experts_writes_as_the_bare_engine(engine_models: EngineModels, bare: Callable[..., str]) -> None:
    folder = engine_models("tiny_phimoe")
    with client_of(folder) as client:
        text = client.chat(JAPAN, temperature=0, max_tokens=24).text
    assert text == bare(folder, user(JAPAN), do_sample=False, max_new_tokens=24).strip("\ufffd")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"temperature": 0.8}, {"temperature": 0.8}),
        ({"temperature": 1.5, "top_p": 0.5}, {"temperature": 1.5, "top_p": 0.5}),
        ({"top_k": 3}, {"top_k": 3}),
        ({"temperature": 1, "extra": {"min_p": 0.1, "typical_p": 0.9}}, {"min_p": 0.1, "typical_p": 0.9}),
        ({"temperature": 1.2, "extra": {"num_beams": 2}}, {"temperature": 1.2, "num_beams": 2}),
    ],
)
def test_a_seed_gives_what_it_gives_the_bare_engine(
    tiny: Path, tiny_client: PhiClient, bare: Callable[..., str], options: Any, arguments: Any
) -> None:
    own = bare(tiny, user(JAPAN), seed=3, do_sample=True, max_new_tokens=12, **arguments)
    texts = [tiny_client.chat(JAPAN, seed=seed, max_tokens=12, **options).text for seed in (3, 4, 3)]
    assert texts[0] == texts[2] == own
    assert texts[1] != own


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"extra": {"num_beams": 3}}, {"num_beams": 3}),
        ({"extra": {"num_beams": 3, "length_penalty": -2.0, "early_stopping": True}},) * 2,
        ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
        ({"extra": {"no_repeat_ngram_size": 1}}, {"no_repeat_ngram_size": 1}),
    ],
)
def test_arguments_of_generate_have_their_effect(
    tiny: Path, tiny_client: PhiClient, bare: Callable[..., str], options: Any, arguments: Any
) -> None:
    own = bare(tiny, user(JAPAN), do_sample=False, max_new_tokens=12, **arguments.get("extra", arguments))
    assert tiny_client.chat(JAPAN, temperature=0, max_tokens=12, **options).text == own


def test_an_option_of_the_driver_holds_for_every_call(tiny: Path, tiny_client: PhiClient) -> None:
    with client_of(tiny, num_beams=3, min_new_tokens=40) as client:
        reply = client.chat(JAPAN, temperature=0, max_tokens=12)
    assert reply.text == tiny_client.chat(JAPAN, temperature=0, max_tokens=12, extra={"num_beams": 3}).text
    assert reply.usage.output_tokens == 12


def test_what_the_models_makers_sample_with_holds_until_the_user_says_otherwise(
    changed: Callable[[Edit], Path], tiny_client: PhiClient
) -> None:
    def own_sampling(folder: Path) -> None:
        settings = {"do_sample": True, "temperature": 1.4, "top_k": 7, "max_length": 30, "eos_token_id": [2]}
        (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")

    with client_of(changed(own_sampling)) as client, unheard() as said:
        plain = client.chat(JAPAN, seed=5, max_tokens=12).text
        greedy = client.chat(JAPAN, temperature=0, max_tokens=12).text
    assert plain == tiny_client.chat(JAPAN, seed=5, temperature=1.4, top_k=7, max_tokens=12).text
    assert greedy == tiny_client.chat(JAPAN, temperature=0, max_tokens=12).text != plain
    assert said == []


# --- the memory of earlier calls


def test_ten_turns_are_the_same_with_and_without_a_memory(
    tiny: Path, tiny_client: PhiClient, bare: Callable[..., str]
) -> None:
    turns: list[dict[str, str]] = []
    for number in range(10):
        turns += user(f"Question {number}: what is {number} and {number}?")
        text = tiny_client.chat(turns, temperature=0, max_tokens=12).text
        assert text == bare(tiny, turns, do_sample=False, max_new_tokens=12).rstrip("\ufffd")
        turns.append({"role": "assistant", "content": text})


def test_a_memory_that_does_not_fit_is_not_used(tiny: Path, tiny_client: PhiClient, bare: Callable[..., str]) -> None:
    for text in ("one two three four", "one two", "one two three five", "six"):
        own = bare(tiny, user(text), do_sample=False, max_new_tokens=6).rstrip("\ufffd")
        assert tiny_client.chat(text, temperature=0, max_tokens=6).text == own


def test_a_sliding_window_changes_nothing_about_that(changed: Callable[[Edit], Path], bare: Callable[..., str]) -> None:
    folder = changed(partial(set_config, sliding_window=32))
    long = " ".join(f"number {each}" for each in range(60))
    with client_of(folder) as client:
        for end in ("one", "two", "three and four"):
            own = bare(folder, user(f"{long} {end}"), do_sample=False, max_new_tokens=12).rstrip("\ufffd")
            assert client.chat(f"{long} {end}", temperature=0, max_tokens=12).text == own


def test_after_an_answer_that_was_left_the_next_is_right(tiny_client: PhiClient) -> None:
    right = tiny_client.chat(JAPAN, temperature=0, max_tokens=12).text
    for _ in range(3):
        with tiny_client.stream("Tell me more.", temperature=0, extra={"min_new_tokens": 500}) as stream:
            next(iter(stream))
        assert tiny_client.chat(JAPAN, temperature=0, max_tokens=12).text == right


# --- what is left as it was


class unheard:
    """Collects what Transformers logs; a warning is an error meanwhile."""

    def __enter__(self) -> list[str]:
        self.said: list[str] = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("transformers").addHandler(self.handler)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("error")
        return self.said

    def __exit__(self, *error: object) -> None:
        self.warnings.__exit__(*error)
        logging.getLogger("transformers").removeHandler(self.handler)


def test_nothing_is_warned_of_logged_or_printed(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with unheard() as said, client_of(tiny, max_waiting=8) as client:
        client.chat(JAPAN, temperature=0, top_p=0.5, top_k=3, max_tokens=4)
        client.chat(JAPAN, temperature=0.7, seed=1, max_tokens=4)
        client.chat(JAPAN, temperature=0, max_tokens=4, extra={"num_beams": 2, "min_new_tokens": 2})
        client.chat("word " * 1500, temperature=0, max_tokens=4)
    assert said == []
    assert capfd.readouterr() == ("", "")


def test_the_programs_own_state_is_untouched(tiny: Path) -> None:
    import torch
    import transformers

    reading_gguf = importlib.import_module("transformers.modeling_gguf_pytorch_utils")  # no attribute of a lazy package

    def state() -> list[Any]:
        logs = transformers.utils.logging
        return [
            torch.random.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            logs.get_verbosity(),
            logs.is_progress_bar_enabled(),
            logs.set_tqdm_hook(None),
            getattr(reading_gguf, "tqdm", None),
        ]

    torch.manual_seed(11)
    before = state()
    with PhiClient("transformers", str(tiny), env_file=False) as client:
        client.chat(JAPAN, temperature=1, max_tokens=4)
        client.chat(JAPAN, temperature=1, seed=3, max_tokens=4)
        client.chat(JAPAN, temperature=1, seed=3, max_tokens=4, extra={"num_beams": 2})
    assert state() == before


def test_two_models_with_a_seed_each_do_not_disturb_each_other(tiny: Path, engine_models: EngineModels) -> None:
    with client_of(tiny) as one, client_of(engine_models("tiny_phimoe")) as other:

        def texts(client: PhiClient, into: list[str]) -> None:
            into += [client.chat(JAPAN, temperature=2, seed=seed, max_tokens=20).text for seed in range(5)]

        alone: list[list[str]] = [[], []]
        together: list[list[str]] = [[], []]
        for place, client in enumerate((one, other)):
            texts(client, alone[place])
        threads = [threading.Thread(target=texts, args=(client, together[n])) for n, client in enumerate((one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone


# --- images


def picture(colour: str, size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    from PIL import Image as Pillow

    with io.BytesIO() as file:
        Pillow.new("RGB", size, colour).save(file, form)
        return file.getvalue()


RED, BLUE = "red", "blue"


@pytest.fixture(scope="module")
def seeing(engine_models: EngineModels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random models whose processors differ: one picture is one run of tokens, or several with tokens between."""
    return {"llava": engine_models("tiny_llava"), "idefics": tiny_idefics(engine_models, tmp_path_factory)}


def tiny_idefics(engine_models: EngineModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(engine_models("smollm2_folder"))
    places = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places]
    words.add_special_tokens({"additional_special_tokens": marks})
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}
    config = transformers.Idefics3Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=2,
        vision_config={"hidden_size": 32, "image_size": 32, "patch_size": 8, **shape},
        text_config=transformers.LlamaConfig(
            vocab_size=len(words), hidden_size=64, max_position_embeddings=4096, eos_token_id=2, **shape
        ),
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    folder = tmp_path_factory.mktemp("models") / "tiny_idefics"
    torch.manual_seed(0)
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=template).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llava", "idefics"])
def test_pictures_are_seen_as_the_bare_engine_sees_them(seeing: dict[str, Path], name: str) -> None:
    import transformers
    from PIL import Image as Pillow

    folder = seeing[name]
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)

    def own(text: str, *colours: str) -> str:
        content = [*({"type": "image"} for _ in colours), {"type": "text", "text": text}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [Pillow.open(io.BytesIO(picture(colour))) for colour in colours] or None
        inputs = processor(text=prompt, images=images, return_tensors="pt")
        written = model.generate(**inputs, do_sample=False, max_new_tokens=10)
        begin = inputs["input_ids"].shape[1]
        return str(processor.tokenizer.decode(written[0, begin:], skip_special_tokens=True)).rstrip("\ufffd")

    with client_of(folder) as client:
        cases = [(), (RED,), (BLUE,), (RED, BLUE), (BLUE, RED), (RED,)]
        texts = [
            client.chat("What is it?", images=[picture(c) for c in colours], temperature=0, max_tokens=10).text
            for colours in cases
        ]
    assert texts == [own("What is it?", *colours) for colours in cases]
    assert len(set(texts)) == len(set(cases))


@pytest.mark.parametrize("name", ["llava", "idefics"])
def test_a_conversation_about_pictures_is_the_same_with_and_without_a_memory(
    seeing: dict[str, Path], name: str
) -> None:
    turns = [Message.user("What is it?", Image(picture(RED)))]
    with client_of(seeing[name]) as warm, client_of(seeing[name], max_waiting=9) as cold:
        for question in ("And now?", Message.user("And this?", Image(picture(BLUE))), "Are you sure?"):
            text = warm.chat(turns, temperature=0, max_tokens=8).text
            cold.chat("Something else.", temperature=0, max_tokens=1)
            assert cold.chat(turns, temperature=0, max_tokens=8).text == text
            turns += [Message.assistant(text), Message.user(question) if isinstance(question, str) else question]


def test_a_mark_of_pictures_in_the_text_is_no_picture(seeing: dict[str, Path]) -> None:
    with client_of(seeing["llava"]) as client:
        alone = client.chat("Is <image> a tag?", temperature=0, max_tokens=8)
        beside = client.chat("Is <image> a tag?", images=[picture(RED)], temperature=0, max_tokens=8)
    assert alone.converted == ()
    assert len(beside.converted) == 1
    assert beside.usage.input_tokens > alone.usage.input_tokens


def test_damaged_and_huge_pictures_are_refused(seeing: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 2000)
    with client_of(seeing["llava"]) as client:
        for content, words in (
            (picture(RED)[:60], "damaged"),
            (b"BM" + bytes(50), "damaged"),
            (picture(RED, (50, 50), "BMP"), "2,500|50 × 50"),
        ):
            with pytest.raises(BadRequestError, match=words):
                client.chat("What is it?", images=[content], max_tokens=2)
        assert client.chat("What is it?", images=[picture(RED)], max_tokens=2).usage.output_tokens == 2


def test_a_model_for_text_takes_no_pictures(tiny_client: PhiClient) -> None:
    with pytest.raises(UnsupportedFeatureError, match="takes no images"):
        tiny_client.chat("What is it?", images=[picture(RED)])


def test_many_pictures_are_cut_into_fewer_crops_each(seeing: dict[str, Path]) -> None:
    """Phi-3.5-vision's processor has ``num_crops``; its own weights need code that is not tried here."""
    with client_of(seeing["llava"]) as client:
        client.warm_up()
        driver: Any = innermost(client._driver)  # type: ignore[attr-defined]
        sight = driver._room.engine._eyes._processor.image_processor
        sight.num_crops = 1
        client.chat("What is it?", images=[picture(RED)], max_tokens=1)
        assert sight.num_crops == 16
        client.chat("What is it?", images=[picture(RED), picture(RED)], max_tokens=1)
        assert sight.num_crops == 4


# --- GGUF, loading


def test_a_gguf_file_that_is_cut_off_says_so(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(weights.read_bytes()[:5_000_000])
    with client_of(path) as client, pytest.raises(ConfigurationError, match=r"cut.gguf is broken or cut off"):
        client.chat(JAPAN)


def test_a_gguf_file_is_unpacked_and_a_deadline_during_that_frees_the_caller(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = set(threading.enumerate())
    with client_of(weights) as client, unheard() as said:
        with pytest.raises(APITimeoutError, match="loading"):
            client.chat(JAPAN, temperature=0, deadline=0.5)
        reply = client.chat(JAPAN, temperature=0, deadline=300)
    assert reply.text == TOKYO
    assert reply.model != weights.stem, "the name inside the file"
    assert said == []
    assert capfd.readouterr() == ("", "")
    assert set(threading.enumerate()) <= threads


def test_a_number_format_is_taken(tiny: Path, tiny_client: PhiClient) -> None:
    with client_of(tiny, dtype="bfloat16", attention="eager", device="cpu") as client:
        reply = client.chat(JAPAN, temperature=0, max_tokens=8)
    assert reply.usage == tiny_client.chat(JAPAN, temperature=0, max_tokens=8).usage


def test_it_runs_in_a_process_of_its_own(tiny: Path, tiny_client: PhiClient) -> None:
    with client_of(tiny, process=True) as client:
        text = client.chat(JAPAN, temperature=0, max_tokens=8).text
    assert text == tiny_client.chat(JAPAN, temperature=0, max_tokens=8).text


# --- bad input


def write(name: str, content: bytes | str, folder: Path) -> None:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, size: int, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:size])


def instead_of_weights(name: str, content: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write(name, content, folder)


def lose_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (partial(cut, "model.safetensors", 5000), "damaged or cut off"),
        (partial(write, "model.safetensors", b"no weights at all"), "damaged or cut off"),
        (partial(instead_of_weights, "pytorch_model.bin", ""), "pickles"),
        (partial(instead_of_weights, "genai_config.json", "{}"), "'onnx'"),
        (partial(instead_of_weights, "openvino_model.xml", ""), "'openvino'"),
        (partial(instead_of_weights, "model.gguf", ""), "model.gguf"),
        (partial(cut, "config.json", 40), "config.json"),
        (partial(cut, "tokenizer.json", 4000), "tokenizer.json|model"),
        (partial(set_config, model_type="nonsense"), "does not know"),
        (lose_a_layer, "down_proj"),
        (partial(set_config, model_type="phi3_v"), "'onnx'"),
        (partial(set_config, model_type="phi4mm"), "Phi-4-multimodal"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_an_error_that_names_it(
    changed: Callable[[Edit], Path], edit: Edit, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = changed(edit)
    with client_of(folder) as client, pytest.raises((ConfigurationError, EngineError), match=words) as caught:
        client.chat(JAPAN)
    assert str(folder) in str(caught.value)


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path, weights: Path) -> None:
    with weights.open("rb") as file:
        begin = file.read(5_000_000)
    (tmp_path / "cut.gguf").write_bytes(begin)
    (tmp_path / "renamed.gguf").write_bytes(b"PK" + bytes(100))
    for name in ("cut.gguf", "renamed.gguf"):
        with client_of(tmp_path / name) as client, pytest.raises(SLMError, match=name):
            client.chat(JAPAN)
    with client_of(tmp_path / "none.gguf") as client, pytest.raises(ModelNotFoundError, match=r"none\.gguf"):
        client.chat(JAPAN)


def test_a_prompt_over_the_context_is_refused_with_exact_numbers(tiny: Path) -> None:
    with client_of(tiny, n_ctx=64) as client:
        with pytest.raises(ContextLengthExceededError) as caught:
            client.chat("word " * 200)
        longest = client.chat(JAPAN, temperature=0, extra={"min_new_tokens": 64})
    assert "64" in str(caught.value)
    assert longest.finish_reason == "length"
    assert longest.usage.input_tokens + longest.usage.output_tokens == 64


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"num_beam": 2}, "Did you mean 'num_beams'"),
        ({"num_beams": "2"}, "num_beams is int"),
        ({"num_beams": True}, "num_beams is int"),
        ({"num_beams": 0}, "num_beams is 1 to 64"),
        ({"max_new_tokens": 3}, "max_tokens="),
        ({"custom_generate": "org/name"}, "custom_generate"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"length_penalty": 2.0}, "num_beams"),
        ({"no_repeat_ngram_size": -1}, "ngram"),
        ({"do_sample": True, "min_p": 4.0}, "min_p"),
        ({"bad_words_ids": [["word"]]}, "bad_words_ids"),
    ],
)
def test_arguments_that_generate_does_not_take_are_named(tiny_client: PhiClient, extra: Any, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        tiny_client.chat(JAPAN, max_tokens=2, extra=extra)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "device is auto"),
        ({"device": "cuda:x"}, "device is auto"),
        ({"dtype": "float8"}, "dtype is auto or float32"),
        ({"dtype": 16}, "dtype is str"),
        ({"attention": "fast"}, "attention is sdpa"),
        ({"n_threads": 0}, "n_threads is 1"),
        ({"num_beams": 100}, "num_beams is 1 to 64"),
        ({"trust_remote_code": 1}, "trust_remote_code is bool"),
        ({"trust_remote_code": True}, "'revision'"),
        ({"trust_remote_code": True, "revision": "main"}, "'revision'"),
        ({"trust_remote_code": True, "revision": COMMIT[:12]}, "'revision'"),
        ({"max_new_tokens": 3}, "max_new_tokens"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TransformersDriver(DriverConfig("transformers", "no/such", options=options))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"device": "cuda"}, ConfigurationError, "no device 'cuda' here"),
        ({"quantization": "int4"}, MissingDependencyError, "pip install bitsandbytes"),
        ({"quantization": "int8"}, MissingDependencyError, "pip install bitsandbytes"),
        ({"attention": "flash_attention_2"}, MissingDependencyError, "pip install flash-attn"),
    ],
)
def test_what_this_machine_lacks_is_said(tiny: Path, options: Any, kind: type[Exception], words: str) -> None:
    with client_of(tiny, **options) as client, pytest.raises(kind, match=words):
        client.chat(JAPAN)


def test_an_older_transformers_is_refused_with_the_command(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(transformers, "__version__", "5.9.1")
    with (
        client_of(tiny, max_waiting=7) as client,
        pytest.raises(MissingDependencyError, match="pip install --upgrade") as caught,
    ):
        client.chat(JAPAN)
    assert "5.9.1" in str(caught.value)
    assert "5.20" in str(caught.value)


# --- a repository's own code

MAPPED = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
CODE = """
import pathlib
from transformers import Phi3Config, Phi3ForCausalLM
pathlib.Path({trace!r}).touch()
class OwnConfig(Phi3Config):
    model_type = "own"
class OwnModel(Phi3ForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_repository_runs_only_when_it_is_trusted_by_commit(
    changed: Callable[[Edit], Path], tiny_client: PhiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.dynamic_module_utils as modules

    def own_code(folder: Path) -> None:
        set_config(folder, model_type="own", auto_map=MAPPED)
        write("own.py", CODE.format(trace=str(tmp_path / "ran")), folder)

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = changed(own_code)
    with client_of(folder) as client, pytest.raises(ConfigurationError, match="trust_remote_code"):
        client.chat(JAPAN)
    assert not (tmp_path / "ran").exists()
    with client_of(folder, trust_remote_code=True, revision=COMMIT) as client:
        text = client.chat(JAPAN, temperature=0, max_tokens=8).text
    assert (tmp_path / "ran").exists()
    assert text == tiny_client.chat(JAPAN, temperature=0, max_tokens=8).text


def test_code_of_yet_another_repository_is_never_fetched(changed: Callable[[Edit], Path]) -> None:
    elsewhere = {name: f"other/repo--{target}" for name, target in MAPPED.items()}
    folder = changed(partial(set_config, model_type="own", auto_map=elsewhere))
    for options in ({}, {"trust_remote_code": True, "revision": COMMIT}):
        with client_of(folder, **options) as client, pytest.raises(ConfigurationError, match="model"):
            client.chat(JAPAN)


@pytest.mark.parametrize(
    ("model", "revision", "expected"),
    [
        ("org/name", None, "org/name"),
        ("org/name", COMMIT, f"org/name@{COMMIT}"),
        ("phi-4-mini", "v1", "microsoft/Phi-4-mini-instruct@v1"),
        (".", COMMIT, "."),
    ],
)
def test_a_revision_goes_with_the_name(model: str, revision: str | None, expected: str) -> None:
    offers = {"phi-4-mini": "microsoft/Phi-4-mini-instruct"}
    assert loading.named(model, revision, offers.get, "transformers") == expected


def test_a_revision_goes_with_nothing_else() -> None:
    for model in ("org/name@main", "nothing-known"):
        with pytest.raises(SLMError, match=model):
            loading.named(model, COMMIT, {}.get, "transformers")


# --- leaving, and the end


def test_a_long_prompt_is_left_in_its_middle(engine_models: EngineModels) -> None:
    driver = TransformersDriver(
        DriverConfig("transformers", str(engine_models("smollm2_folder")), options={"n_threads": 1})
    )
    with PhiClient(driver=driver, max_retries=0) as client:
        client.chat(JAPAN, temperature=0, max_tokens=1)
        assert driver._room is not None
        passes: list[object] = []
        driver._room.engine._model.base_model.register_forward_hook(lambda *args: passes.append(1))  # type: ignore[attr-defined]
        with pytest.raises(APITimeoutError):
            client.chat("word " * 7000, temperature=0, deadline=1.5)
        assert client.chat(JAPAN, temperature=0).text == TOKYO
    assert len(passes) < 7000 // 512, "all of the prompt was read"


def test_memory_and_threads_come_back(tiny: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("memory is read from /proc")

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def round_(number: int) -> None:
        with client_of(tiny) as client:
            client.chat(JAPAN, temperature=0, max_tokens=4)
            with client.stream("More.", extra={"min_new_tokens": 200}) as stream:
                next(iter(stream))
            for _ in range(10):
                client.chat("word " * 100 + str(number), temperature=0.5, max_tokens=2)

    for number in range(3):
        round_(number)
    before, threads = resident(), threading.active_count()
    for number in range(10):
        round_(number)
    size = (tiny / "model.safetensors").stat().st_size
    assert resident() - before < 2 * size, "ten rounds keep more than two models"
    assert threading.active_count() <= threads
