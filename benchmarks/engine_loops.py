"""What is compared: each engine's own loop, and slmclient's, sync and async, on the same loaded model.

A loop is a function that yields once a token. An engine's own is written as its users write one who stream: where the
engine calls back, or writes on a thread, its tokens come through a queue.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

PROMPT = "Write a very long story about a fox."
Run = Callable[[], Iterator[None]]
TOKENS = {"transformers": 16, "mlx": 16}  # of an answer: slow ones write fewer
OPTIONS: dict[str, dict[str, Any]] = {"openvino": {"precision": "f32", "n_threads": 1}}
ON: dict[str, dict[str, Any]] = {  # how an engine is told not to stop early
    "llamacpp": {"ignore_eos": True},
    "onnx": {"min_length": 10_000},
    "transformers": {"min_new_tokens": 16},
    "openvino": {"min_new_tokens": 32},
}


def tokens(engine: str) -> int:
    """Return how many tokens an answer of that engine has here."""
    return TOKENS.get(engine, 32)


# --- the engines' own loops: each takes a loaded model, or loads one


def bare_llamacpp(path: str, loaded: Any = None) -> Run:
    import xllamacpp

    if loaded is None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.n_ctx, parameters.n_parallel, parameters.cache_ram_mib = 4096, 1, 0
        parameters.n_batch = parameters.n_ubatch = 64
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.warmup, parameters.ui, parameters.verbosity = False, False, 0
    server = loaded._server if loaded is not None else xllamacpp.Server(parameters)

    def run() -> Iterator[None]:
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens("llamacpp"), "temperature": 0,
                "stream": True, "ignore_eos": True}  # fmt: skip
        frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: (server.handle_chat_completions(body, frames.put), frames.put(None)))
        thread.start()
        while (frame := frames.get()) is not None:
            if frame["choices"] and frame["choices"][0]["delta"].get("content"):
                yield

    return run


def bare_onnx(path: str, loaded: Any = None) -> Run:
    import onnxruntime_genai as og

    config = og.Config(path)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = loaded._loaded if loaded is not None else og.Model(config)
    tokenizer = og.Tokenizer(model)

    def run() -> Iterator[None]:
        text = tokenizer.apply_chat_template(json.dumps([{"role": "user", "content": PROMPT}]))
        ids = tokenizer.encode(text)
        length = len(ids) + tokens("onnx")
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        stream = tokenizer.create_stream()
        while not generator.is_done():
            generator.generate_next_token()
            stream.decode(generator.get_next_tokens()[0])
            yield

    return run


def bare_transformers(path: str, loaded: Any = None) -> Run:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) if loaded is None else loaded._model

    def run() -> Iterator[None]:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True)
        count = tokens("transformers")
        options = {**inputs, "max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        threading.Thread(target=model.generate, kwargs={**options, "streamer": streamer}).start()
        for _ in streamer:
            yield

    return run


def bare_openvino(path: str, loaded: Any = None) -> Run:
    import openvino_genai

    if loaded is not None:
        pipe = loaded._pipe
    else:
        pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_PRECISION_HINT="f32", INFERENCE_NUM_THREADS=1)
    tokenizer = pipe.get_tokenizer()

    class Streamer(openvino_genai.StreamerBase):  # of tokens: the engine's own, of text, holds the last three back
        def __init__(self) -> None:
            super().__init__()
            self.texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def write(self, token: int | list[int]) -> Any:
            for each in [token] if isinstance(token, int) else token:
                self.texts.put(tokenizer.decode([each]))
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            self.texts.put(None)

    def run() -> Iterator[None]:
        streamer = Streamer()
        config = openvino_genai.GenerationConfig(max_new_tokens=tokens("openvino"), ignore_eos=True)
        threading.Thread(target=pipe.generate, args=(PROMPT, config, streamer)).start()
        while streamer.texts.get() is not None:
            yield

    return run


def bare_mlx(path: str, loaded: Any = None) -> Run:
    from mlx_lm import load, stream_generate

    model, tokenizer = (loaded._model, loaded._words) if loaded is not None else load(path)[:2]

    def run() -> Iterator[None]:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
        for _ in stream_generate(model, tokenizer, ids, max_tokens=tokens("mlx")):
            yield

    return run


# --- an engine without a model: what a token costs it is known, so what a driver adds is seen


def _work(how: str) -> Callable[[], object]:
    """Return what a token costs: ``busy`` computes for about 10 ms without Python's lock, ``idle`` sleeps so long."""
    if how == "idle":
        return lambda: time.sleep(0.01)
    block, tries = bytes(1 << 22), list[float]()
    for _ in range(50):
        began = time.perf_counter()
        zlib.adler32(block)
        tries.append(time.perf_counter() - began)
    large = bytes(int(len(block) * 0.01 / min(tries)))
    return lambda: zlib.adler32(large)


def bare_scripted(path: str, loaded: Any = None) -> Run:
    work = loaded.work if loaded is not None else _work(path)

    def run() -> Iterator[None]:
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def write() -> None:
            for number in range(tokens("scripted")):
                work()
                texts.put(f" word{number}")
            texts.put(None)

        threading.Thread(target=write).start()
        while texts.get() is not None:
            yield

    return run


def _scripted_driver(how: str) -> Any:
    from slmclient.chat import ChatRequest, Start
    from slmclient.drivers.base import DriverInfo
    from slmclient.drivers.engine import Engine, EngineDriver, Outlet
    from slmclient.drivers.engine.answering import Answer, Detokenizer

    class Scripted(Engine):
        def load(self, wanted: Callable[[], bool]) -> None:
            self.work = _work(how)

        def generate(self, request: ChatRequest, emit: Outlet) -> None:
            emit(Start("scripted", "scripted"))
            words = Detokenizer(lambda ids: "".join(f" word{each}" for each in ids))
            answer = Answer(emit, limit=request.sampling["max_tokens"], words=words)
            number = 0
            self.work()
            while answer.token(number):
                number += 1
                self.work()
            answer.end(input_tokens=0)

        def unload(self) -> None:
            pass

    class ScriptedDriver(EngineDriver):
        info: ClassVar[DriverInfo] = DriverInfo("scripted", "-", "-", default_model="scripted")

        def make_engine(self) -> Engine:
            return Scripted()

    return ScriptedDriver()


# --- slmclient's


def driver_of(engine: str, path: str) -> Any:
    """Return the engine's driver; nothing is loaded yet."""
    if engine == "scripted":
        return _scripted_driver(path)
    from slmclient.drivers import registry
    from slmclient.drivers.base import DriverConfig

    return registry.new_driver(DriverConfig(engine, path, options=OPTIONS.get(engine, {})))


def _call(engine: str) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": tokens(engine), "extra": ON.get(engine, {})}


def ours(engine: str, driver: Any) -> Run:
    """Return the loop of a `PhiClient` on that driver."""
    from slmclient import PhiClient

    client = PhiClient(driver=driver)

    def run() -> Iterator[None]:
        with client.stream(PROMPT, **_call(engine)) as stream:
            for _ in stream:
                yield

    return run


def ours_async(engine: str, driver: Any) -> Callable[[], AsyncIterator[None]]:
    """Return the loop of an `AsyncPhiClient` on that driver."""
    from slmclient import AsyncPhiClient

    client = AsyncPhiClient(driver=driver)

    async def run() -> AsyncIterator[None]:
        async with client.stream(PROMPT, **_call(engine)) as stream:
            async for _ in stream:
                yield

    return run


def moments(run: Run) -> tuple[float, float]:
    """Return when the first token came, and when the answer was over.

    Between them lie all tokens but one. When the others come says less: some are given out in twos, or at the end.
    """
    first = 0.0
    for _ in run():
        first = first or time.perf_counter()
    return first, time.perf_counter()


def async_moments(run: Callable[[], AsyncIterator[None]]) -> tuple[float, float]:
    """`moments`, of an asynchronous loop."""

    async def main() -> tuple[float, float]:
        first = 0.0
        async for _ in run():
            first = first or time.perf_counter()
        return first, time.perf_counter()

    return asyncio.run(main())
