"""Engines in the process against their own loops: tokens per second, first token at turn 10, memory, lag of the loop.

    python benchmarks/engines.py llamacpp=MODEL.gguf onnx=FOLDER transformers=FOLDER openvino=MODEL.gguf mlx=FOLDER

Each measurement is a process of its own. For speed it has one loaded model, with which our driver and the engine's own
loop write answers by turns. Printed: the medians, and the ratio of each round; SLM_ROUNDS says how many there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PROMPT = "Write a very long story about a fox."
TOKENS = 96
ANSWERS = 9
ROUNDS = int(os.environ.get("SLM_ROUNDS", "5"))
TURNS = 10
ON = {  # how an engine is told not to stop early
    "llamacpp": {"ignore_eos": True},
    "onnx": {"min_length": 10_000},
    "transformers": {"min_new_tokens": TOKENS},
    "openvino": {"min_new_tokens": TOKENS},
    "mlx": {},
}
Run = Callable[[], Iterator[None]]
OPTIONS: dict[str, dict[str, Any]] = {"openvino": {"precision": "f32"}}


# --- the engines' own loops: each takes a loaded model, or loads one, and returns a function that yields once a token


def bare_llamacpp(path: str, loaded: Any = None) -> Run:
    import queue
    import threading

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
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS, "temperature": 0,
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
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + TOKENS, min_length=len(ids) + TOKENS, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        stream = tokenizer.create_stream()
        while not generator.is_done():
            generator.generate_next_token()
            stream.decode(generator.get_next_tokens()[0])
            yield

    return run


def bare_transformers(path: str, loaded: Any = None) -> Run:
    import threading

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) if loaded is None else loaded._model

    def run() -> Iterator[None]:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True)
        options = {**inputs, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
        threading.Thread(target=model.generate, kwargs={**options, "streamer": streamer}).start()
        for _ in streamer:
            yield

    return run


def bare_openvino(path: str, loaded: Any = None) -> Run:
    import queue
    import threading

    import openvino_genai

    if loaded is not None:
        pipe = loaded._pipe
    else:
        pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_PRECISION_HINT="f32")

    def run() -> Iterator[None]:
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def write(text: str) -> Any:
            texts.put(text)
            return openvino_genai.StreamingStatus.RUNNING

        config = openvino_genai.GenerationConfig(max_new_tokens=TOKENS, ignore_eos=True)
        threading.Thread(target=lambda: (pipe.generate(PROMPT, config, write), texts.put(None))).start()
        while texts.get() is not None:
            yield

    return run


def bare_mlx(path: str, loaded: Any = None) -> Run:
    from mlx_lm import load, stream_generate

    model, tokenizer = (loaded._model, loaded._words) if loaded is not None else load(path)[:2]

    def run() -> Iterator[None]:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
        for _ in stream_generate(model, tokenizer, ids, max_tokens=TOKENS):
            yield

    return run


def ours(engine: str, path: str) -> tuple[Run, Any]:
    """Return our loop, and a function that returns the loaded engine behind it."""
    from slmclient import PhiClient
    from slmclient.drivers import registry
    from slmclient.drivers.base import DriverConfig

    driver: Any = registry.new_driver(DriverConfig(engine, path, options=OPTIONS.get(engine, {})))
    client = PhiClient(driver=driver)

    def run() -> Iterator[None]:
        with client.stream(PROMPT, temperature=0, max_tokens=TOKENS, extra=ON[engine]) as stream:
            for _ in stream:
                yield

    return run, lambda: driver._room.engine


# --- one measurement each, in a process of its own


def speed(engine: str, path: str) -> dict[str, float]:
    """Tokens per second after the first, ours and the engine's own loop by turns on the same loaded model.

    A model that is loaded twice is not equally fast twice: where its pages lie makes up to a tenth.
    """
    mine, loaded = ours(engine, path)
    runs = {"ours": mine}
    for _ in mine():
        pass
    runs["bare"] = globals()[f"bare_{engine}"](path, loaded())
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    for answer in range(ANSWERS + 1):
        for side in sorted(runs, reverse=bool(answer % 2)):
            times = [time.perf_counter() for _ in runs[side]()]
            if answer:  # the first warms up
                found[side].append((len(times) - 1) / (times[-1] - times[0]))
    return {side: statistics.median(each) for side, each in found.items()}


def memory(run: Run) -> dict[str, float]:
    """The process's peak memory after three answers."""
    for _ in range(3):
        for _ in run():
            pass
    return {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def first_token(engine: str, path: str) -> dict[str, float]:
    """Seconds to the first token at turn 10: with the cache, and after another conversation took its place."""
    from slmclient import PhiClient

    with PhiClient(engine, path, options=OPTIONS.get(engine)) as client:
        talk = client.conversation(temperature=0, max_tokens=24)
        for number in range(TURNS - 1):
            talk.send(f"Tell me more about foxes, part {number}: what do they eat, where do they live?")
        turns = [*talk.messages, {"role": "user", "content": "And in winter?"}]

        def measure() -> float:
            began = time.perf_counter()
            with client.stream(turns, temperature=0, max_tokens=2) as stream:
                next(iter(stream))
            return time.perf_counter() - began

        warm = measure()
        client.chat("Something else entirely: " + "stone " * 20, temperature=0, max_tokens=2)
        return {"warm s": warm, "cold s": measure()}


def lag(engine: str, path: str) -> dict[str, float]:
    """How long the event loop was away while a prompt of about 600 tokens was read and an answer written."""
    from slmclient import AsyncPhiClient

    async def main() -> dict[str, float]:
        lags: list[float] = []

        async def tick() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                lags.append(time.perf_counter() - began - 0.001)

        async with AsyncPhiClient(engine, path, options=OPTIONS.get(engine)) as client:
            await client.chat("Hi", max_tokens=2)
            ticking = asyncio.create_task(tick())
            await client.chat("fox and hen " * 200 + PROMPT, temperature=0, max_tokens=TOKENS, extra=ON[engine])
            ticking.cancel()
        lags.sort()
        return {"lag max ms": lags[-1] * 1000, "lag p99 ms": lags[int(len(lags) * 0.99)] * 1000}

    return asyncio.run(main())


def worker(what: str, engine: str, path: str) -> dict[str, float]:
    if what == "bare memory":
        return memory(globals()[f"bare_{engine}"](path))
    if what == "our memory":
        return memory(ours(engine, path)[0])
    return {"speed": speed, "first": first_token, "lag": lag}[what](engine, path)


def measured(what: str, engine: str, path: str) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, __file__, "--worker", what, engine, path], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{what} {engine}: {run.stderr[-2000:]}")
    found: dict[str, float] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def report(engine: str, path: str) -> None:
    print(f"\n{engine}")
    rounds = [measured("speed", engine, path) for _ in range(ROUNDS)]
    bare, mine = (statistics.median(found[side] for found in rounds) for side in ("bare", "ours"))
    ratios = sorted(found["ours"] / found["bare"] for found in rounds)
    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
    print(
        f"  tokens/s     bare {bare:8.1f}   ours {mine:8.1f}   ratio {statistics.median(ratios):.3f}  ({each})",
        flush=True,
    )
    bare, mine = (measured(f"{side} memory", engine, path)["peak MB"] for side in ("bare", "our"))
    print(f"  peak MB      bare {bare:8.1f}   ours {mine:8.1f}   ratio {mine / bare:.3f}", flush=True)
    first = measured("first", engine, path)
    ratio = first["warm s"] / first["cold s"]
    print(f"  turn {TURNS}      cold {first['cold s']:8.3f} s ours {first['warm s']:8.3f} s ratio {ratio:.3f}")
    away = measured("lag", engine, path)
    print(f"  loop lag     max {away['lag max ms']:.0f} ms, p99 {away['lag p99 ms']:.1f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(*sys.argv[2:5])))
    else:
        for argument in sys.argv[1:]:
            name, _, where = argument.partition("=")
            report(name, where)
