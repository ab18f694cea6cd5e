"""The models that the tests of engines run: each loads in its bare engine and answers; pictures make a difference."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine_models import EngineModels

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "The capital of France is Paris."  # what the same weights say in llama.cpp, too
PHI3_QUESTION = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
ADAPTERS = ("first", "second")


def picture(colour: str) -> Any:
    from PIL import Image

    return Image.new("RGB", (48, 48), colour)


def png(colour: str) -> bytes:
    file = io.BytesIO()
    picture(colour).save(file, "PNG")
    return file.getvalue()


def transformers_ids(folder: Path, question: str, length: int = 12) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = words(question, return_tensors="pt", add_special_tokens=False)
    written = model.generate(**asked, max_new_tokens=length, do_sample=False)
    ids: list[int] = written[0][asked["input_ids"].shape[1] :].tolist()
    return ids


class Onnx:
    """A folder in ONNX Runtime GenAI."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self.engine = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(folder))
        self.words = onnxruntime_genai.Tokenizer(self.model)

    def ids(self, question: str, length: int = 12, prepare: Callable[[Any], None] | None = None) -> list[int]:
        asked = self.words.encode(question)
        generator = self.generator(len(asked) + length)
        if prepare is not None:
            prepare(generator)
        generator.append_tokens(asked)
        return list(self.written(generator))

    def generator(self, longest: int) -> Any:
        settings = self.engine.GeneratorParams(self.model)
        settings.set_search_options(max_length=longest, do_sample=False)
        return self.engine.Generator(self.model, settings)

    @staticmethod
    def written(generator: Any) -> Iterator[int]:
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def test_the_same_weights_answer_in_every_engine(engine_models: EngineModels) -> None:
    import openvino_genai
    from mlx_lm import generate, load
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(engine_models("smollm2_folder"))
    said = {"transformers": words.decode(transformers_ids(engine_models("smollm2_folder"), QUESTION), True)}

    onnx = Onnx(engine_models("smollm2_onnx"))
    said["onnx"] = onnx.words.decode(onnx.ids(QUESTION))

    openvino = openvino_genai.LLMPipeline(engine_models("smollm2_openvino"), "CPU", INFERENCE_PRECISION_HINT="f32")
    said["openvino"] = openvino.generate(QUESTION, max_new_tokens=12, do_sample=False, apply_chat_template=False)

    model, mlx_words = load(str(engine_models("smollm2_mlx")))
    said["mlx"] = generate(model, mlx_words, mlx_words.encode(QUESTION, add_special_tokens=False), max_tokens=12)

    assert {engine: str(text).strip() for engine, text in said.items()} == dict.fromkeys(said, ANSWER)


def test_four_bits_still_know_the_capitals(engine_models: EngineModels) -> None:
    onnx = Onnx(engine_models("smollm2_onnx_int4"))
    assert "Paris" in onnx.words.decode(onnx.ids(QUESTION))
    assert "Tokyo" in onnx.words.decode(onnx.ids(QUESTION.replace("France", "Japan")))


def test_the_random_phi3_writes_the_same_tokens_in_both_engines(engine_models: EngineModels) -> None:
    onnx = Onnx(engine_models("tiny_phi3_onnx"))
    first = onnx.ids(PHI3_QUESTION)
    assert first == transformers_ids(engine_models("tiny_phi3"), PHI3_QUESTION)
    assert first != onnx.ids(PHI3_QUESTION.replace("France", "Japan"))


@pytest.mark.parametrize("name", ["tiny_phi3", "tiny_phimoe"])
def test_the_phi_models_know_the_control_tokens_of_their_family(engine_models: EngineModels, name: str) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(engine_models(name))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == PHI3_QUESTION
    assert len(words.encode("<|user|><|end|><|assistant|>")) == 3
    assert len(transformers_ids(engine_models(name), PHI3_QUESTION)) == 12


def test_an_adapter_changes_what_the_model_writes(engine_models: EngineModels) -> None:
    folder = engine_models("tiny_lora_onnx")
    onnx = Onnx(folder)
    adapters = onnx.engine.Adapters(onnx.model)
    for name in ADAPTERS:
        adapters.load(str(folder / f"{name}.onnx_adapter"), name)
    first, second = (
        onnx.ids(PHI3_QUESTION, prepare=lambda generator, name=name: generator.set_active_adapter(adapters, name))  # type: ignore[misc]
        for name in ADAPTERS
    )
    plain = Onnx(engine_models("tiny_phi3_onnx")).ids(PHI3_QUESTION)
    assert onnx.ids(PHI3_QUESTION) == plain
    assert len({str(ids) for ids in (plain, first, second)}) == 3


def test_llava_sees_the_picture(engine_models: EngineModels) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(engine_models("tiny_llava"))
    model = AutoModelForImageTextToText.from_pretrained(engine_models("tiny_llava"))
    question = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        add_generation_prompt=True,
    )

    def say(*colours: str) -> str:
        tags = question.replace("<image>", "<image>" * len(colours))
        asked = processor(text=tags, images=[picture(colour) for colour in colours], return_tensors="pt")
        return str(model.generate(**asked, max_new_tokens=8, do_sample=False)[0][asked["input_ids"].shape[1] :])

    assert len({say("red"), say("blue"), say("red", "blue"), say("blue", "red")}) == 4


def test_openvino_sees_the_picture(engine_models: EngineModels) -> None:
    import numpy
    import openvino
    import openvino_genai

    pipeline = openvino_genai.VLMPipeline(engine_models("llava_openvino"), "CPU", INFERENCE_PRECISION_HINT="f32")
    settings = {"max_new_tokens": 8, "do_sample": False, "apply_chat_template": False}

    def say(question: str, *colours: str) -> str:
        images = [openvino.Tensor(numpy.array(picture(colour))[None]) for colour in colours]
        tags = question.replace("\nWhat", "\n" + "<image>" * len(colours) + "What")
        return str(pipeline.generate(tags, images=images, **settings).texts[0])

    assert say(QUESTION) == ANSWER
    ways: list[tuple[str, ...]] = [("red",), ("blue",), ("red", "blue"), ("blue", "red")]
    vague = QUESTION.replace("the capital of France", "this")
    assert len({say(vague, *colours) for colours in ways}) == len(ways)


def test_phi3_vision_sees_the_picture(engine_models: EngineModels) -> None:
    onnx = Onnx(engine_models("tiny_phi3v_onnx"))
    processor = onnx.model.create_multimodal_processor()

    def say(*colours: str) -> str:
        tags = "".join(f"<|image_{number}|>\n" for number in range(1, len(colours) + 1))
        images = onnx.engine.Images.open_bytes(*map(png, colours))
        inputs = processor(PHI3_QUESTION.replace("What", f"{tags}What"), images=images)
        generator = onnx.generator(8192)
        generator.set_inputs(inputs)
        return str([token for token, _ in zip(onnx.written(generator), range(8), strict=False)])

    assert len({say("red"), say("blue"), say("red", "blue"), say("blue", "red")}) == 4


def test_the_projector_lets_llama_cpp_see(engine_models: EngineModels, weights: Path) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.mmproj.path = str(engine_models("tiny_projector") / "projector.gguf")
    parameters.n_ctx, parameters.n_parallel = 1024, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_ram_mib = parameters.verbosity = 0
    parameters.ui = parameters.warmup = False
    server = xllamacpp.Server(parameters)

    def say(colour: str) -> str:
        answers: list[Any] = []
        url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 12}
        server.handle_chat_completions(body, answers.append)
        return str(answers[-1]["choices"][0]["message"]["content"])

    assert say("red") != say("blue")
    assert say("red") == say("red")


def test_what_is_made_once_is_kept_and_what_changes_is_made_anew(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    first = EngineModels(tmp_path, weights, said.append)("tiny_projector")
    assert EngineModels(tmp_path, weights, said.append)("tiny_projector") == first
    assert [line.split()[0] for line in said] == ["making", "made"]
    assert [file.name for file in first.iterdir()] == ["projector.gguf"]

    monkeypatch.setattr("engine_models.version", lambda package: "1000")
    os.utime(first.parent, (0, 0))
    second = EngineModels(tmp_path, weights, said.append)("tiny_projector")
    assert second != first
    assert list(tmp_path.glob("*/*")) == [second]  # what nobody asked for in a long time is gone


def test_two_at_once_make_one(weights: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as both:
        first, second = both.map(lambda _: EngineModels(tmp_path, weights)("tiny_projector"), range(2))
    assert first == second
    assert list(tmp_path.glob("*/*")) == [first]


def test_a_recipe_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    models = EngineModels(tmp_path / "models", tmp_path / "missing.gguf")
    with pytest.raises(RuntimeError, match=r"(?s)tiny_projector could not be made.*missing\.gguf"):
        models("tiny_projector")
    assert not list((tmp_path / "models").glob("*/*"))
