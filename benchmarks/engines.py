"""Engines in the process against their own loops: speed, streaming, first token, loading, warming up, memory, lag.

    python benchmarks/engines.py                                  the models that the tests use, made where they are not
    python benchmarks/engines.py llamacpp=MODEL.gguf onnx=FOLDER  these
    python benchmarks/engines.py --only speed --rounds 5 onnx=FOLDER

Each measurement is a process of its own (`engine_measures.py`). Written: a table, and everything as JSON. The engines
`scripted=busy` and `scripted=idle` have no model: a token costs 10 ms, of computing or of sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import sqrt
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# One thread an engine. Those of OpenMP spin where they wait for each other: beside other work that is what is measured.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PACKAGES = ("slmclient", "xllamacpp", "onnxruntime-genai", "openvino-genai", "transformers", "torch", "mlx", "mlx-lm")
PARTS = {  # what --only names: the measurements, and whether they are repeated
    "speed": (("speed",), True),
    "first": (("first token",), False),
    "load": (("load", "bare load"), True),
    "warm": (("cold call", "warm-up", "async warm-up"), True),
    "memory": (("memory", "bare memory"), False),
    "lag": (("lag",), False),
}
OF_SCRIPTED = ("speed",)
MODELS = {  # of the tests, by engine
    "onnx": "smollm2_onnx_int4",
    "openvino": "smollm2_openvino",
    "transformers": "smollm2_folder",
    "mlx": "smollm2_mlx",
}
BUDGETS = (  # what, the ratio's name, the bound, whether it is the least
    ("tokens/s, sync, of the engine's own loop", "sync / bare", 0.97, True),
    ("tokens/s, async, of sync", "async / sync", 0.95, True),
    ("first token at turn 10, of the same unknown", "kept / unknown", 0.15, False),
    ("models loaded by two clients on one file", "loads", 1, False),
)
CALM, ENOUGH = 0.2, 8
"""Of the rounds of speed only those count in which others kept so few cores busy, if there are that many of them."""
Found = dict[str, Any]


def middle(values: list[float]) -> Found:
    """Return the median, its 95 % interval by the order of the values, and how many there are."""
    values, count = sorted(values), len(values)
    reach = 0.98 * sqrt(count)
    low, high = max(0, int(count / 2 - reach)), min(count - 1, int(count / 2 + reach))
    return {"median": statistics.median(values), "low": values[low], "high": values[high], "count": count}


def ratios(over: list[float], under: list[float]) -> Found:
    return middle([a / b for a, b in zip(over, under, strict=True)])


def added(over: list[float], under: list[float]) -> Found:
    return middle([a - b for a, b in zip(over, under, strict=True)])


def speed(rounds: list[Found]) -> Found:
    """Return what the rounds of `speed` say together; a ratio has both of its sides from one turn."""
    all_: dict[str, list[float]] = {name: [value for each in rounds for value in each[name]] for name in rounds[0]}
    calm = [others < CALM for others in all_["others"]]
    if sum(calm) >= ENOUGH:  # which rounds count does not depend on what came out of them
        all_ = {name: [value for value, counts in zip(all_[name], calm, strict=True) if counts] for name in all_}
    return {
        "rounds": {"made": len(calm), "counted": len(all_["others"]), "others, cores": middle(all_["others"])},
        "tokens/s": {name: middle(all_[name]) for name in ("bare", "sync", "async")},
        "sync / bare": ratios(all_["sync"], all_["bare"]),
        "async / sync": ratios(all_["async"], all_["sync"]),
        "bare / bare": ratios(all_["again"], all_["bare"]),
        "held up µs per token, sync": middle(all_["sync held"]),
        "held up µs per token, async": middle(all_["async held"]),
        "CPU µs per token added, sync": added(all_["sync cpu"], all_["bare cpu"]),
        "CPU µs per token added, async over sync": added(all_["async cpu"], all_["sync cpu"]),
        "CPU µs per token, bare against itself": added(all_["again cpu"], all_["bare cpu"]),
    }


def medians(rounds: list[Any]) -> Any:
    """Return the rounds' median of every number in them."""
    if isinstance(rounds[0], dict):
        return {name: medians([each[name] for each in rounds]) for name in rounds[0]}
    return statistics.median(rounds)


def first_token(found: Found) -> Found:
    """Return the medians and their ratio."""
    warm, cold = statistics.median(found["warm s"]), statistics.median(found["cold s"])
    return {"kept s": warm, "unknown s": cold, "kept / unknown": warm / cold, "prompt tokens": found["prompt tokens"]}


# --- measuring


class FailedError(Exception):
    """A measurement could not be made."""


@contextmanager
def turn(lock: Path | None) -> Iterator[None]:
    """Hold a file's lock meanwhile, for machines on which somebody else measures, too."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def measured(what: str, engine: str, path: str, lock: Path | None) -> Found:
    command = [sys.executable, str(HERE / "engine_measures.py"), what, engine, path]
    with turn(lock):
        run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ONE_THREAD})
    if run.returncode:
        raise FailedError(f"{what}: {(run.stderr.strip().splitlines() or ['no word'])[-1]}")
    found: Found = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def all_of(engine: str, path: str, given: argparse.Namespace) -> Found:
    """Return everything that was asked for of an engine."""
    folded = {"speed": speed, "first token": lambda each: first_token(each[0])}
    found: Found = {}
    for part, (measures, repeated) in PARTS.items():
        if part not in given.only or (engine == "scripted" and part not in OF_SCRIPTED):
            continue
        raw: dict[str, list[Found]] = {measure: [] for measure in measures}
        try:
            for _ in range(given.rounds if repeated else 1):
                for measure in measures:
                    print(f"{engine}: {measure}", file=sys.stderr, flush=True)
                    raw[measure].append(measured(measure, engine, path, given.lock))
        except FailedError as error:  # costs one row
            print(f"{engine}: {error}", file=sys.stderr, flush=True)
            found.setdefault("failed", []).append(str(error))
            continue
        found |= {name: folded.get(name, medians)(each) for name, each in raw.items()}
    return found


def default_models() -> dict[str, str]:
    """Return the models that the tests use, by engine; those that are not here are made, in some minutes."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from engine_models import EngineModels
    from slmclient.drivers import fetch

    cache = os.environ.get("SLM_CACHE")
    weights = fetch.weights_path(fetch.SMOLLM2, cache_dir=cache, offline=False)
    models = EngineModels(fetch.cache_folder(cache) / "test-models", weights, lambda line: print(line, file=sys.stderr))
    return {"llamacpp": str(weights), **{engine: str(models(name)) for engine, name in MODELS.items()}}


def machine() -> Found:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "os": platform.system()}


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


# --- telling


def number(found: Found, digits: int = 2) -> str:
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}–{found['high']:.{digits}f})"


def rows(head: str, lines: list[str]) -> str:
    return "\n".join([f"| {head} |", "| --- " * (head.count("|") + 1) + "|", *lines, ""]) if lines else ""


def table(engines: dict[str, Found]) -> str:
    """Return the tables, each of the engines that have what stands in it."""

    def lines(needs: str, cells: Any) -> list[str]:
        return [f"| `{name}` | {' | '.join(cells(found))} |" for name, found in engines.items() if needs in found]

    def of_speed(found: Found) -> list[str]:
        all_ = found["speed"]
        rates = [f"{all_['tokens/s'][side]['median']:.1f}" for side in ("bare", "sync", "async")]
        kinds = ("sync / bare", "async / sync", "bare / bare")
        held = [all_[f"held up µs per token, {side}"]["median"] for side in ("sync", "async")]
        shares = [f"{each:.0f} ({each * all_['tokens/s']['bare']['median'] / 1e4:.1f} %)" for each in held]
        rounds = all_["rounds"]
        beside = f"{rounds['counted']} of {rounds['made']}, {rounds['others, cores']['median']:.1f}"
        return [*rates, *(number(all_[kind]) for kind in kinds), *shares, beside]

    def of_first(found: Found) -> list[str]:
        all_ = found["first token"]
        return [f"{all_[name]:.{digits}f}" for name, digits in (("prompt tokens", 0), ("unknown s", 2), ("kept s", 2),
                                                                ("kept / unknown", 3))]  # fmt: skip

    def of_load(found: Found) -> list[str]:
        parts = [found["bare load"], *(found["load"][name] for name in ("first", "second", "not shared"))]
        return [*(f"{each['s']:.2f} s, {each['MB']:+.0f} MB" for each in parts), f"{parts[2]['loads']:.0f}",
                f"{parts[1]['others waited s']:.2f} s"]  # fmt: skip

    def of_warm(found: Found) -> list[str]:
        kinds = ((found["cold call"], "first s"), (found["warm-up"], "warm-up s"), (found["warm-up"], "first s"),
                 (found["async warm-up"], "first s"), (found["warm-up"], "next s"))  # fmt: skip
        return [f"{each[name]:.2f} s" for each, name in kinds]

    def of_memory(found: Found) -> list[str]:
        return [f"{found[name]['peak MB']:,.0f} MB" for name in ("bare memory", "memory")]

    def of_lag(found: Found) -> list[str]:
        return [f"{found['lag'][name]:.1f} ms" for name in ("max ms", "p99 ms")]

    tables = (
        ("speed", of_speed, "engine | tokens/s, own loop | sync | async | sync / own loop | async / sync "
                            "| own loop / itself | engine held up, µs a token, sync | async | rounds, cores of others"),
        ("first token", of_first, f"engine | prompt at turn {10}, tokens | unknown, s | kept, s | ratio"),
        ("load", of_load, "engine | own load to the first token | first client, warm | second client on the same file "
                          "| one that does not share | loads of the first two | other threads waited at most"),
        ("cold call", of_warm, "engine | first token, cold | `warm_up()` | first token after it | after the async one "
                               "| of the next call"),
        ("memory", of_memory, "engine | peak memory, own loop | slmclient"),
        ("lag", of_lag, "engine | event loop away at most | p99"),
    )  # fmt: skip
    return "\n".join(filter(None, (rows(head, lines(needs, cells)) for needs, cells, head in tables)))


def budgets(engines: dict[str, Found]) -> list[Found]:
    """Return what each engine has of each budget."""
    judged: list[Found] = []
    for engine, found in engines.items():
        flat = {**found.get("speed", {}), **found.get("first token", {}), **found.get("load", {}).get("second", {})}
        for what, name, bound, least in BUDGETS:
            if name in flat:
                value = flat[name]["median"] if isinstance(flat[name], dict) else flat[name]
                met = value >= bound if least else value <= bound
                judged.append({"engine": engine, "what": what, "bound": bound, "value": value, "met": met})
    return judged


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE=MODEL", help="default: the tests' models, and scripted")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="processes a measurement")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the JSON")
    parser.add_argument("--name", default=f"engines-{datetime.now(UTC):%Y-%m-%d}", help="of the file")
    parser.add_argument("--lock", type=Path, help="a file whose lock each measurement holds")
    return parser.parse_args()


def main() -> None:
    given = parsed()
    pairs = [each.partition("=")[::2] for each in given.engines]
    scripted = [("scripted", "idle"), ("scripted", "busy")]
    engines: dict[str, Found] = {}
    for engine, path in pairs or [*scripted, *default_models().items()]:
        engines[f"{engine} {path}" if engine == "scripted" else engine] = all_of(engine, path, given)
    found = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "rounds": given.rounds,
        "engines": engines,
        "budgets": budgets(engines),
    }
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{given.name}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(engines))
    missed = [each for each in found["budgets"] if not each["met"]]
    for each in missed:
        print(f"over budget: {each['engine']}, {each['what']}: {each['value']:.3f}, bound {each['bound']}")
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
