"""Engines in the process against their own loops: tokens per second, first token at turn 10, memory, lag of the loop.

    python benchmarks/engines.py llamacpp=MODEL.gguf onnx=FOLDER transformers=FOLDER openvino=MODEL.gguf mlx=FOLDER

Each measurement is a process of its own, ours and the bare engine's by turns, so that a machine that slows down slows
both. Speed is the median of several answers in each, after one that warms up. Printed: the medians, their ratio, and
the ratios of the single rounds. SLM_ROUNDS says how many there are.
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
ANSWERS = 5
ROUNDS = int(os.environ.get("SLM_ROUNDS", "5"))
TURNS = 10
ON = {  # how an engine is told not to stop early
    "llamacpp": {"ignore_eos": True},
    "onnx": {"min_length": 10_000},
    "transformers": {"min_new_tokens": TOKENS},
    "openvino": {"min_new_tokens": TOKENS},
    "mlx": {},
}
OPTIONS: dict[str, dict[str, Any]] = {"openvino": {"precision": "f32"}}


# --- the engines' own loops: each loads a model and returns a function that yields once a token


def bare_llamacpp(path: str) -> Callable[[], Iterator[None]]:
    import queue
    import threading

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel, parameters.cache_ram_mib = 4096, 1, 0
    parameters.n_batch = parameters.n_ubatch = 64
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup, parameters.ui, parameters.verbosity = False, False, 0
    server = xllamacpp.Server(parameters)

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


def bare_onnx(path: str) -> Callable[[], Iterator[None]]:
    import onnxruntime_genai as og

    config = og.Config(path)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = og.Model(config)
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


def bare_transformers(path: str) -> Callable[[], Iterator[None]]:
    import threading

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

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


def bare_openvino(path: str) -> Callable[[], Iterator[None]]:
    import queue
    import threading

    import openvino_genai

    pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_PRECISION_HINT="f32")

    def run() -> Iterator[None]:
        tokens: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Streamer(openvino_genai.StreamerBase):  # type: ignore[misc]
            def write(self, token: Any) -> Any:
                tokens.put(token)
                return openvino_genai.StreamingStatus.RUNNING

            def end(self) -> None:
                tokens.put(None)

        config = openvino_genai.GenerationConfig(max_new_tokens=TOKENS, ignore_eos=True)
        threading.Thread(target=lambda: pipe.generate(PROMPT, config, Streamer())).start()
        while tokens.get() is not None:
            yield

    return run


def bare_mlx(path: str) -> Callable[[], Iterator[None]]:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(path)[:2]

    def run() -> Iterator[None]:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
        for _ in stream_generate(model, tokenizer, ids, max_tokens=TOKENS):
            yield

    return run


def ours(engine: str, path: str) -> Callable[[], Iterator[None]]:
    from slmclient import PhiClient

    client = PhiClient(engine, path, options=OPTIONS.get(engine))

    def run() -> Iterator[None]:
        with client.stream(PROMPT, temperature=0, max_tokens=TOKENS, extra=ON[engine]) as stream:
            for _ in stream:
                yield

    return run


# --- one measurement each, in a process of its own


def speed(run: Callable[[], Iterator[None]]) -> dict[str, float]:
    """Tokens per second after the first, and the process's peak memory."""
    for _ in run():
        pass
    answers = [[time.perf_counter() for _ in run()] for _ in range(ANSWERS)]
    return {
        "tokens/s": statistics.median((TOKENS - 1) / (times[-1] - times[0]) for times in answers),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


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
    if what == "bare":
        return speed(globals()[f"bare_{engine}"](path))
    if what == "ours":
        return speed(ours(engine, path))
    return first_token(engine, path) if what == "first" else lag(engine, path)


def measured(what: str, engine: str, path: str) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, __file__, "--worker", what, engine, path], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{what} {engine}: {run.stderr[-2000:]}")
    found: dict[str, float] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def report(engine: str, path: str) -> None:
    sides: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for side, found in sides.items():
            found.append(measured(side, engine, path))
    print(f"\n{engine}")
    for name in ("tokens/s", "peak MB"):
        bare, mine = (statistics.median(found[name] for found in sides[side]) for side in ("bare", "ours"))
        pairs = zip(sides["ours"], sides["bare"], strict=True)
        each = " ".join(f"{own[name] / other[name]:.3f}" for own, other in pairs)
        print(f"  {name:12} bare {bare:8.1f}   ours {mine:8.1f}   ratio {mine / bare:.3f}  ({each})", flush=True)
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
