"""Getting a model into memory: which class, device and number format; and what is refused before anything is read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from slmclient.errors import ConfigurationError, EngineError, MissingDependencyError, ModelNotFoundError, SLMError

DTYPES = ("float32", "float16", "bfloat16")
"""The number formats that weights can be held in."""

QUANTIZATIONS = ("int8", "int4")
"""What bitsandbytes makes of the weights while they are loaded; other names choose a file."""

OLDEST = (5, 20)
"""The first version of Transformers that does what is needed here."""

_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
# Their repositories' own code was written for Transformers 4 and does not load in 5 (NVIDIA/Model-Optimizer#2115).
_TOO_OLD = {"phi3_v": "Phi-3-vision and Phi-3.5-vision", "phi4mm": "Phi-4-multimodal"}


def check_folder(path: Path, architecture: str | None, provider: str, trusted: bool) -> None:
    """Raise an error for a folder that cannot be loaded, and say what can be done."""
    if architecture in _TOO_OLD:
        raise ConfigurationError(
            f"{path}: the code of {_TOO_OLD[architecture]} was written for Transformers 4 and does not load in 5. "
            "The ONNX form of the model runs: PhiClient('onnx', model=…), with the folder whose name ends in -onnx, or "
            "by name.",
            provider=provider,
        )
    for name in _WITH_CODE if trusted else ():
        with suppress(OSError, ValueError, AttributeError):
            elsewhere = [
                code for code in _texts(json.loads((path / name).read_bytes()).get("auto_map")) if "--" in code
            ]
            if elsewhere:
                raise ConfigurationError(
                    f"{path / name} takes code from another repository, {elsewhere[0].partition('--')[0]}, at no fixed "
                    "commit: that is not run. Put the files into the folder, and take the prefix off in auto_map.",
                    provider=provider,
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in cast("Mapping[Any, Any]", value).values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in cast("list[Any]", value):
            yield from _texts(part)


def source(path: Path, trusted: bool) -> dict[str, Any]:
    """Return what says to each ``from_pretrained`` where the model is; nothing is asked of the hub there any more."""
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path), "local_files_only": True, "trust_remote_code": trusted}
    return {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }


def placement(torch: Any, engine: Any, options: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """Return where the weights go, and in which format: arguments of ``from_pretrained``.

    Raises:
        ConfigurationError: The machine, or the installed torch, has no such device.
        MissingDependencyError: What the attention or the quantisation needs is not installed.
    """
    device = _device(torch, options.get("device", "auto"), provider)
    kind = device.partition(":")[0]
    asked = options.get("dtype", "auto")
    if asked == "auto":
        asked = "float32" if kind == "cpu" else "bfloat16"
        if kind == "cuda" and not torch.cuda.is_bf16_supported():
            asked = "float16"
    placed: dict[str, Any] = {
        "dtype": getattr(torch, asked),
        "attn_implementation": options.get("attention", "sdpa"),
        "use_safetensors": True,
    }
    if kind != "cpu":
        # Where nobody says which, all GPUs are used, and the processor's memory for what does not fit.
        placed["device_map"] = "auto" if kind == "cuda" and options.get("device", "auto") == "auto" else {"": device}
    if placed["attn_implementation"] == "flash_attention_2":
        _installed("flash_attn", "flash-attn", "options={'attention': 'flash_attention_2'}", provider)
    quantization = options.get("quantization")
    if quantization in QUANTIZATIONS:
        _installed("bitsandbytes", "bitsandbytes", f"options={{'quantization': {quantization!r}}}", provider)
        bits: dict[str, Any] = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True}
        if quantization == "int4":
            bits |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": placed["dtype"]}
        placed["quantization_config"] = engine.BitsAndBytesConfig(**bits)
        placed.setdefault("device_map", {"": device})
    return placed


def _device(torch: Any, asked: str, provider: str) -> str:
    has = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if asked == "auto":
        return next(kind for kind, there in has.items() if there)
    kind, _, number = asked.partition(":")
    if not has[kind]:
        there = ", ".join(name for name, there in has.items() if there)
        raise ConfigurationError(
            f"{provider}: there is no device {asked!r} here; torch {torch.__version__} sees {there}. For a GPU install "
            "the torch that fits it (pytorch.org has the command), or leave the option device out.",
            provider=provider,
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"{provider}: there is no device {asked!r} here; there are {torch.cuda.device_count()}.", provider=provider
        )
    return asked


def _installed(module: str, package: str, what: str, provider: str) -> None:
    if find_spec(module) is None:
        raise MissingDependencyError(f"{what} needs {package}: pip install {package}", provider=provider)


def load_model(engine: Any, path: Path, trusted: bool, placed: Mapping[str, Any], provider: str) -> Any:
    """Return the model, of the class that takes images where there is one.

    Raises:
        EngineError: Weights are missing.
    """
    where = source(path, trusted)
    config = engine.AutoConfig.from_pretrained(**where)
    sees = type(config) in import_module("transformers.models.auto").MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    maker = engine.AutoModelForImageTextToText if sees else engine.AutoModelForCausalLM
    model, told = maker.from_pretrained(**where, **placed, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise EngineError(
            f"{path} lacks {len(missing)} of the model's weights, such as {missing[0]}: without them it would write "
            "nonsense. Fetch the model again.",
            provider=provider,
        )
    return model.eval()


def refusal(path: Path, error: Exception, provider: str) -> SLMError | None:
    """Return the error for what goes wrong in loading and has a known cure; None for anything else."""
    text, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "SafetensorError" or "HeaderTooSmall" in text or "incomplete metadata" in text:
        return EngineError(
            f"The weights in {path} are damaged or cut off: fetch the model again. ({text[:200]})", provider=provider
        )
    if "trust_remote_code" in text:
        return ConfigurationError(
            f"{path} needs Python code of its own repository, which is not run unless you say so. Read it, then give "
            "options={'trust_remote_code': True, 'revision': '<the commit that you read>'}.",
            provider=provider,
        )
    if "architecture" in text.lower() or "model type" in text or "Unrecognized" in text:
        return EngineError(
            f"Transformers {version('transformers')} does not know the model in {path}: a later version may. "
            f"({text[:200]})",
            provider=provider,
        )
    if isinstance(error, ImportError):
        return MissingDependencyError(
            f"The model in {path} needs a package that is not here: {text[:300]}", provider=provider
        )
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return EngineError(
            f"There is not enough memory for {path}. Take a smaller model, options={{'dtype': 'bfloat16'}}, or a "
            f"quantised one. ({text[:200]})",
            provider=provider,
        )
    return None


def named(model: str, revision: str | None, offered: Callable[[str], str | None], provider: str) -> str:
    """Return the name with its revision, as the hub's part of this library writes it."""
    if revision is None or Path(model).expanduser().exists():
        return model
    if "@" in model:
        raise ConfigurationError(f"{model} has a revision already: leave the option revision out.", provider=provider)
    repo = offered(model) or model
    if "/" not in repo:
        raise ModelNotFoundError(
            f"A revision goes with a model on the hub, org/name, not {model!r}.", provider=provider
        )
    return f"{repo}@{revision}"


# --- Progress bars

_lock = threading.Lock()
_quiet: set[int] = set()
_before: list[Any] = []


@contextmanager
def no_bars(engine: Any) -> Generator[None]:
    """Load without progress bars on this thread; other threads keep theirs, and afterwards all is as it was."""
    gguf = import_module("transformers.modeling_gguf_pytorch_utils")
    with _lock:
        if not _quiet:
            _before[:] = [engine.logging.set_tqdm_hook(_bar), gguf.tqdm]
            vars(gguf)["tqdm"] = _gguf_bar  # which takes tqdm's own, without asking the hook
        _quiet.add(threading.get_ident())
    try:
        yield
    finally:
        with _lock:
            _quiet.discard(threading.get_ident())
            if not _quiet:
                hook, vars(gguf)["tqdm"] = _before
                engine.logging.set_tqdm_hook(hook)


def _bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what Transformers is to count with: on a quiet thread something that shows nothing."""
    if threading.get_ident() in _quiet:
        return import_module("transformers.utils.logging").EmptyTqdm(*args, **kwargs)
    return _before[0](factory, args, kwargs) if _before[0] is not None else factory(*args, **kwargs)


def _gguf_bar(*args: Any, **kwargs: Any) -> Any:
    return args[0] if threading.get_ident() in _quiet else _before[1](*args, **kwargs)
