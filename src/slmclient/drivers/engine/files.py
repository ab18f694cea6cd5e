"""What a model's own files say of it: its name, context, chat template, control tokens. Pure reading, with bounds.

The files come from anywhere and are not trusted: what is of another type than it should be is as good as absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from slmclient.catalogue.forms import GGUF, ONNX, ONNX_MARKS, OPENVINO, OPENVINO_MARKS, READERS, SAFETENSORS
from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.gguf import read_header
from slmclient.errors import ConfigurationError

_LARGEST = 256 * 1024 * 1024  # bytes of a JSON file; a large vocabulary has 35 MB
_LARGEST_TEMPLATE = 1024 * 1024
_MODEL_FILES = ("genai_config.json", "config.json")  # one of them says that a folder holds a model
_MARKS: Mapping[str, tuple[str, ...]] = {  # a folder of that form has one of these
    ONNX: ONNX_MARKS,
    OPENVINO: OPENVINO_MARKS,
    SAFETENSORS: ("*.safetensors",),
    GGUF: ("*.gguf",),
}
_LOOKS: Mapping[str, str] = {
    ONNX: f"a folder with {ONNX_MARKS[0]}",
    OPENVINO: f"a folder with {' or '.join(OPENVINO_MARKS)}, the .bin of the same name, and openvino_tokenizer.xml",
    SAFETENSORS: "a folder with config.json and .safetensors files",
    GGUF: "a .gguf file",
}
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth")
_MOST_NAMED = 5  # files of a folder that holds no model
_SAMPLING: Mapping[str, tuple[type, ...]] = {
    "do_sample": (bool,),
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "repetition_penalty": (int, float),
}
# Tokens that end a turn in the models that know them: for files that name only the one that ends a text.
_TURN_ENDS = ("<|im_end|>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>", "</s>")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's files say. What they do not say is None or empty."""

    path: Path
    name: str
    """For people: the folder's or the file's name, or the name inside a GGUF file."""
    context: int | None = None
    """Tokens, prompt and answer together."""
    template: str | None = None
    """The model's own chat template: Jinja."""
    control: tuple[str, ...] = ()
    """Texts of the control tokens."""
    special: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables that templates use: ``bos_token`` and its kin."""
    end_ids: frozenset[int] = frozenset()
    """Ids of the tokens that end an answer."""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How the model's makers sample from it: ``do_sample``, ``temperature``, ``top_p``, ``top_k``,
    ``repetition_penalty``, those that are given."""
    ids: Mapping[str, int] = field(default_factory=dict[str, int])
    """Ids of the control tokens, as far as the files say them."""
    architecture: str | None = None
    """As the files spell it: ``phi3``, ``llama``, ``phi4mm``."""
    adds_bos: bool = False
    """Whether its tokenizer, left to itself, puts a token before every text."""


def read_gguf(path: Path) -> ModelFiles:
    """Return what a GGUF file says.

    Raises:
        ConfigurationError: The file is not there, is no GGUF file, or is cut off; the message says which.
    """
    header = read_header(path)
    control = (*header.control_tokens, *filter(_looks_like_control, header.added_tokens))
    return ModelFiles(
        path=path,
        name=header.name or path.stem,
        context=header.context_length,
        template=header.template,
        control=control,
        special=header.special,
        end_ids=header.end_ids | {header.ids[text] for text in _TURN_ENDS if text in header.ids},
        ids=header.ids,
        architecture=header.architecture,
        adds_bos=header.adds_bos,
    )


def read_folder(path: Path) -> ModelFiles:
    """Return what a model's folder says: one of Hugging Face's form, or of ONNX Runtime GenAI's.

    Raises:
        ConfigurationError: There is no such folder, no model in it, or a file in it is broken; the message names it.
    """
    _check_folder(path)
    config, engine = _json(path / "config.json"), _mapping(_json(path / "genai_config.json").get("model"))
    generation, tokenizer = _json(path / "generation_config.json"), _json(path / "tokenizer_config.json")
    text_config = _mapping(config.get("text_config"))  # of models that also see
    added, adds_bos = _added(path, tokenizer)
    tokens_map = {**_json(path / "special_tokens_map.json"), **tokenizer}
    special = {name: text for name in tokens_map if name.endswith("_token") and (text := _token(tokens_map[name]))}
    further = tokens_map.get("additional_special_tokens")
    listed = [_token(token) for token in cast("list[Any]", further)] if isinstance(further, list) else []
    control = [text for text, (_, marked) in added.items() if marked or _looks_like_control(text)]
    ends = _ids(generation.get("eos_token_id"))
    if not ends:
        ends = _ids(engine.get("eos_token_id")) or _ids(config.get("eos_token_id") or text_config.get("eos_token_id"))
        ends |= {added[text][0] for text in (*_TURN_ENDS, special.get("eos_token")) if text in added}
    return ModelFiles(
        path=path,
        name=path.absolute().name,
        context=_first_int(
            engine.get("context_length"), *(c.get("max_position_embeddings") for c in (config, text_config))
        ),
        template=_template(path, tokenizer),
        control=tuple(dict.fromkeys(t for t in (*control, *special.values(), *listed) if t and len(t) > 1)),
        special=special,
        end_ids=ends,
        sampling={name: generation[name] for name, kinds in _SAMPLING.items() if type(generation.get(name)) in kinds},
        ids={text: id for text, (id, _) in added.items() if text in control},
        architecture=_architecture(engine.get("type"), config),
        adds_bos=adds_bos,
    )


# --- Forms


def check_form(path: Path, info: DriverInfo, provider: str, making: str = "") -> None:
    """Raise an error unless a path holds a model of a form that an engine reads.

    Args:
        path: A file or folder that is there. Whether a file is what its name says, its reader finds out.
        info: The engine's driver's.
        provider: The provider's name, for the error.
        making: The sentence on how a folder of Hugging Face's form (``{folder}``) is made into one that it reads.

    Raises:
        ConfigurationError: It does not; the message says what is there instead, and how to get what is wanted.
    """
    if not info.weights or not _MARKS.keys() >= set(info.weights):
        return  # a plugin's engine, with a form of its own
    try:
        _check_form(path, info, provider, making)
    except OSError as error:
        raise ConfigurationError(f"The model folder {path} cannot be read: {error}.", provider=provider) from None


def _check_form(path: Path, info: DriverInfo, provider: str, making: str) -> None:
    if any(_marks(path, form) for form in info.weights if form != GGUF) or (GGUF in info.weights and not path.is_dir()):
        return
    looks = "; or ".join(_LOOKS[form] for form in info.weights)
    made = making.format(folder=path if _marks(path, SAFETENSORS) else "FOLDER")
    text = (
        f"{path} is no model for {info.title}, which reads {looks}. {_instead(path, info.weights)} "
        f"`slm pull NAME --engine {info.name}` gets one. {made}"
    )
    raise ConfigurationError(text.rstrip(), provider=provider)


def _instead(path: Path, forms: Sequence[str]) -> str:
    """Return what a path holds that is no model of these forms, and what to do with that."""
    if not path.is_dir():
        if any(_marks(path.parent, form) for form in forms):
            return f"It is a file of one: give the folder, model={str(path.parent)!r}."
        return f"It is a file{f', which {_reader(GGUF)} reads' if path.match(_MARKS[GGUF][0]) else ''}."
    for depth in ("", "*/", "*/*/"):
        for form in forms:
            if found := _marks(path, form, depth):
                return f"There is one in it: model={str(found[0] if form == GGUF else found[0].parent)!r}."
    for form in READERS:
        if found := _marks(path, form):
            return f"It holds {found[0].name}, which {_reader(form)} reads."
    if pickles := sorted(file.name for name in _PICKLES for file in path.glob(name)):
        return f"It holds {pickles[0]}: such files are pickles, which can run code and are not opened."
    names = sorted(file.name for file in path.iterdir())
    more = ", …" if len(names) > _MOST_NAMED else ""
    return f"It holds {', '.join(names[:_MOST_NAMED])}{more}." if names else "It is empty."


def _reader(form: str) -> str:
    return f"PhiClient({READERS[form]!r}, …)"


def _marks(path: Path, form: str, depth: str = "") -> list[Path]:
    """Return the files by which a folder is one of that form; a projector for pictures is no model."""
    return sorted(file for mark in _MARKS[form] for file in path.glob(depth + mark) if "mmproj" not in file.name)


# --- Files


def _check_folder(path: Path) -> None:
    try:
        if not path.is_dir():
            what = "is no folder" if path.exists() else "does not exist"
            raise ConfigurationError(f"The model folder {path} {what}: give the folder that holds config.json.")
        if any((path / name).is_file() for name in _MODEL_FILES):
            return
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The model folder {str(path)!r} cannot be read: {error}.") from None
    raise ConfigurationError(f"There is no model in the folder {path}: no config.json, no genai_config.json.")


def _read(path: Path, largest: int) -> bytes | None:
    """Return a file's bytes, or None if there is none."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise ConfigurationError(f"The model's file {path} cannot be read: {error.strerror or error}.") from None
    if len(content) > largest:
        raise ConfigurationError(
            f"The model's file {path} has more than {largest:,} bytes: it is not what it should be."
        )
    return content


def _json(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file; an empty one if there is no such file."""
    content = _read(path, _LARGEST)
    if content is None:
        return {}
    try:
        value: Any = from_json(content)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"The model's file {path} is broken or cut off: fetch it again.") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"The model's file {path} holds no JSON object: fetch it again.")
    return cast("dict[str, Any]", value)


def _parts(path: Path, *names: str) -> Mapping[str, Any]:
    """Return some of the members of the JSON object in a large file, without making anything of the others.

    A vocabulary takes ten times its size as Python's objects; what is asked for stands before it or behind it.
    """
    content = _read(path, _LARGEST)
    if content is None:
        return {}
    text = content.decode("utf-8", "replace")
    del content
    found: dict[str, Any] = {}
    for name in names:
        # In a vocabulary the same words would be followed by a number.
        begin = re.search(rf'"{name}"\s*:\s*(?=[\[{{])', text)
        if begin is not None:
            try:
                found[name] = json.JSONDecoder().raw_decode(text, begin.end())[0]
            except (ValueError, RecursionError):
                raise ConfigurationError(f"The model's file {path} is broken or cut off: fetch it again.") from None
    whole = text.rstrip().endswith("}")
    return found if found and whole else _json(path)  # which says what is wrong with it


def _template(path: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """Return the chat template: a file of its own, or what the tokenizer's or the processor's settings hold."""
    file = path / "chat_template.jinja"
    content = _read(file, _LARGEST_TEMPLATE)
    if content is not None:
        try:
            # As Python reads a text file: with every kind of line end made the same.
            return content.decode().replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            raise ConfigurationError(f"The model's file {file} is no text: fetch it again.") from None
    given: Any = tokenizer.get("chat_template") or _json(path / "chat_template.json").get("chat_template")
    if isinstance(given, list):
        entries = [_mapping(entry) for entry in cast("list[Any]", given)]
        given = {entry.get("name"): entry.get("template") for entry in entries}
    if isinstance(given, dict):
        given = cast("dict[Any, Any]", given).get("default")
    return given if isinstance(given, str) and given else None


def _added(path: Path, tokenizer: Mapping[str, Any]) -> tuple[dict[str, tuple[int, bool]], bool]:
    """Return the tokens that were added to the vocabulary (text to id, and whether marked as special); and adds_bos."""
    adds_bos = tokenizer.get("add_bos_token") is True
    decoder = _mapping(tokenizer.get("added_tokens_decoder"))
    entries = [{**_mapping(entry), "id": int(id)} for id, entry in decoder.items() if id.isdecimal() and len(id) < 10]
    if not entries:
        whole = _parts(path / "tokenizer.json", "added_tokens", "post_processor")
        listed: Any = whole.get("added_tokens")
        entries = [dict(_mapping(entry)) for entry in cast("list[Any]", listed)] if isinstance(listed, list) else []
        if "add_bos_token" not in tokenizer:
            adds_bos = _begins_with_token(whole.get("post_processor"))
    added: dict[str, tuple[int, bool]] = {}
    for entry in entries:
        text, id = entry.get("content"), entry.get("id")
        if isinstance(text, str) and type(id) is int:
            added[text] = id, entry.get("special") is True
    return added, adds_bos


def _begins_with_token(processor: Any) -> bool:
    """Return whether a tokenizer.json's post processor puts a special token before the text."""
    shape = _mapping(processor)
    steps: Any = shape.get("processors")
    if isinstance(steps, list):
        return any(_begins_with_token(step) for step in cast("list[Any]", steps) if "processors" not in _mapping(step))
    single: Any = shape.get("single")
    first = cast("list[Any]", single)[:1] if isinstance(single, list) else []
    return any("SpecialToken" in _mapping(item) for item in first)


# --- Values


def _looks_like_control(text: str) -> bool:
    """Return whether an added token steers the model though it is not marked so, as Phi-4-mini's ``<|tool|>``."""
    return len(text) > 4 and text.startswith("<|") and text.endswith("|>")


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _token(value: Any) -> str | None:
    """Return the text of a token, which stands there as it is or as an object with settings."""
    text: Any = _mapping(value).get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _ids(value: Any) -> frozenset[int]:
    listed = cast("list[Any]", value) if isinstance(value, list) else [value]
    return frozenset(id for id in listed if type(id) is int and id >= 0)


def _first_int(*values: Any) -> int | None:
    return next((value for value in values if type(value) is int and value > 0), None)


def _architecture(engine_type: Any, config: Mapping[str, Any]) -> str | None:
    classes: Any = config.get("architectures")
    named = cast("list[Any]", classes) if isinstance(classes, list) else []
    return next(
        (text for text in (engine_type, config.get("model_type"), *named) if isinstance(text, str) and text), None
    )
