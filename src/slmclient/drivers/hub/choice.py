"""Which files of a repository make a model that an engine reads. Pure: a list of names in, a choice out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from slmclient.catalogue.forms import GGUF, ONNX, ONNX_MARKS, OPENVINO, OPENVINO_MARKS, SAFETENSORS

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:IQ|TQ|Q)\d(?:_[A-Z0-9]+)*|BF16|FP?16|FP?32|MXFP4(?:_[A-Z0-9]+)*)(?=$|[-._])", re.IGNORECASE
)
# Four bits first: what most machines have room for and the least that reads well. More bits come before fewer.
_PREFERRED = (
    *("Q4_K_M", "Q4", "Q4_K", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "Q4_1", "Q4_0", "IQ4_XS", "IQ4_NL", "MXFP4"),
    *("Q5_K_M", "Q5", "Q5_K", "Q5_K_S", "Q5_K_L", "Q5_K_XL", "Q5_1", "Q5_0", "Q6_K", "Q6_K_L", "Q8_0", "Q8"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "Q2_K"),
)
_FULL = ("F16", "BF16", "F32")  # after every quantisation, known or not
_GONE = re.compile(r"Q4_0_\d_\d$")  # packed for one processor: llama.cpp reads these no more
_BESIDE_MODELS = ("mmproj", "imatrix")  # GGUF files that are no models

_OTHER_DEVICE = re.compile(
    r"(?:^|[-_/.])(cuda|directml|dml|gpu|migraphx|npu|openvino|qnn|(nvtensor|trt)rtx|vitis(ai)?|webgpu)(?=[-_/.]|$)"
)
_OTHER_FOLDERS = (GGUF, ONNX, OPENVINO, "original")  # in repositories that have a model in several forms
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # opening one can run code
_PLAIN = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".vocab", ".yaml")
_NEEDLESS = (".gguf", ".safetensors", ".h5", ".msgpack", ".py", ".md", ".png", ".jpg", ".jpeg", ".gif", ".pdf")


class NothingFitsError(LookupError):
    """No file of the repository is what the engine reads; the text says why."""


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository."""

    path: str
    size: int | None = None
    sha256: str | None = None
    """Known of large files."""
    git_id: str | None = None
    """Git's id of the content, known of the others."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Files that make a model."""

    form: str
    entry: str
    """What an engine opens: a file's path, or a folder's; "" is the whole repository."""
    files: tuple[RepoFile, ...]
    """What to fetch; last the one without which the others are no model, so that half a fetch is never taken for one.
    """
    variant: str
    """The quantisation or the folder's name; "" where there is but one."""

    @property
    def size(self) -> int:
        """Bytes in all, as far as they are known."""
        return sum(file.size or 0 for file in self.files)


def choose(
    files: Iterable[RepoFile], forms: Sequence[str], quantization: str | None = None, *, with_code: bool = False
) -> Choice:
    """Return what to take of a repository.

    Args:
        files: All that it has.
        forms: What the engine reads, best first.
        quantization: The variant that is wanted: of GGUF files as in their names (``Q8_0``), of folders a part of their
            path (``int4``, ``cuda-fp16``).
        with_code: Take Python files along.

    Raises:
        NothingFitsError: There is nothing of that kind.
    """
    listed = [file for file in files if is_safe(file.path)]
    found = {form: variants(listed, form, with_code=with_code) for form in forms}
    for choices in found.values():
        fitting = [each for each in choices if quantization is None or _is(each, quantization)]
        if fitting:
            exact = [each for each in fitting if each.variant.casefold() == (quantization or "").casefold()]
            return (exact or fitting)[0]
    raise NothingFitsError(_why_not(listed, forms, quantization, found))


def variants(files: Collection[RepoFile], form: str, *, with_code: bool = False) -> list[Choice]:
    """Return every complete model of one form, the best for most machines first."""
    make = _FORMS.get(form)
    return sorted(make(files, with_code), key=_rank) if make else []


def is_safe(path: str) -> bool:
    """Return whether a repository's path stays inside the folder that it is put into, on any system."""
    parts = path.split("/")
    return path.isprintable() and not any(part in ("", ".", "..") or set(part) & set('\\:*?"<>|') for part in parts)


def _ggufs(files: Collection[RepoFile], with_code: bool) -> Iterator[Choice]:
    groups: dict[str, list[RepoFile]] = {}
    for file in sorted(files, key=lambda each: each.path):
        path = PurePosixPath(file.path)
        if path.suffix.lower() == ".gguf" and not any(word in path.name.lower() for word in _BESIDE_MODELS):
            groups.setdefault(_PART.sub("", file.path[: -len(path.suffix)]), []).append(file)
    for stem, parts in groups.items():
        if _whole(parts):
            yield Choice(GGUF, parts[0].path, (*parts[1:], parts[0]), _quantization(PurePosixPath(stem)))


def _quantization(stem: PurePosixPath) -> str:
    for name in (stem.name, stem.parent.name):
        if found := _QUANTIZATION.findall(name):
            return re.sub(r"^FP", "F", found[-1].upper())
    return ""


def _whole(parts: Sequence[RepoFile]) -> bool:
    """Return whether no part of a split model is missing."""
    numbers = [match for part in parts if (match := _PART.search(PurePosixPath(part.path).stem))]
    return not numbers or len(numbers) == int(numbers[0][2])


def _onnx_folders(files: Collection[RepoFile], with_code: bool) -> Iterator[Choice]:
    for folder, mark, inside in _folders(files, ONNX_MARKS):
        if any(file.path.endswith(".onnx") for file in inside):
            kept = [file for file in inside if not _is_other(file, _PICKLES)]
            yield Choice(ONNX, folder, (*kept, mark), PurePosixPath(folder).name)


def _openvino_folders(files: Collection[RepoFile], with_code: bool) -> Iterator[Choice]:
    for folder, mark, inside in _folders(files, OPENVINO_MARKS):
        graphs = {file.path[:-4] for file in (*inside, mark) if file.path.endswith(".xml")}
        # A .bin beside its .xml is plain numbers; any other may be a pickle.
        kept = [file for file in inside if file.path[:-4] in graphs or not _is_other(file, (*_PICKLES, ".onnx"))]
        if graphs <= {file.path[:-4] for file in kept if file.path.endswith(".bin")}:
            yield Choice(OPENVINO, folder, (*kept, mark), PurePosixPath(folder).name)


def _folders(files: Collection[RepoFile], marks: Sequence[str]) -> Iterator[tuple[str, RepoFile, list[RepoFile]]]:
    """Yield each folder that has one of the marks, the mark, and the folder's other files."""
    found: dict[str, RepoFile] = {}
    for file in files:
        parent, _, name = file.path.rpartition("/")
        if name in marks:
            found.setdefault(parent, file)
    for folder, mark in found.items():
        inside = [file for file in files if file is not mark and file.path.rpartition("/")[0] == folder]
        yield folder, mark, inside


def _safetensors(files: Collection[RepoFile], with_code: bool) -> Iterator[Choice]:
    mark = next((file for file in files if file.path == "config.json"), None)
    weights = [file for file in files if "/" not in file.path and file.path.endswith(".safetensors")]
    models = [file for file in weights if not file.path.startswith(("adapter", "consolidated"))]
    if mark is None or not models or not _whole([file for file in models if _PART.search(file.path[:-12])]):
        return
    taken = (*_PLAIN, ".safetensors", *((".py",) if with_code else ()))
    twice = [file for file in weights if file.path.startswith("consolidated")]  # the same weights in another layout
    kept = [
        file
        for file in files
        if file is not mark and file not in twice and PurePosixPath(file.path).suffix.lower() in taken
        if file.path.partition("/")[0] not in _OTHER_FOLDERS
    ]
    yield Choice(SAFETENSORS, "", (*kept, mark), "")


def _is_other(file: RepoFile, suffixes: Sequence[str]) -> bool:
    suffix = PurePosixPath(file.path).suffix.lower()
    return suffix in suffixes or suffix in _NEEDLESS


def _rank(choice: Choice) -> tuple[int, int, int, str]:
    if choice.form == GGUF:
        plain = choice.variant.removeprefix("UD-")
        order = [*_PREFERRED, plain, *_FULL]  # an unknown one stands between
        return bool(_GONE.search(plain)), order.index(plain), choice.variant != plain, choice.entry
    words = set(re.split(r"[-_/.]", choice.entry.lower()))
    device = 0 if "cpu" in words else 2 if _OTHER_DEVICE.search(choice.entry.lower()) else 1
    bits = 0 if "int4" in words else 1 if "int8" in words else 2
    return device, bits, "acc-level-4" not in choice.entry, choice.entry


def _is(choice: Choice, quantization: str) -> bool:
    wanted = quantization.casefold()
    if choice.form == GGUF:
        return choice.variant.casefold().removeprefix("ud-").startswith(wanted) or choice.variant.casefold() == wanted
    return wanted in choice.entry.casefold()


def _why_not(
    files: Sequence[RepoFile], forms: Sequence[str], quantization: str | None, found: Mapping[str, Sequence[Choice]]
) -> str:
    there = [each for choices in found.values() for each in choices]
    if there and quantization is not None:
        names = sorted({each.variant or each.entry or each.form for each in there})
        return f"has no {quantization}; it has {', '.join(names)}"
    wanted = " or ".join(forms)
    suffixes = {PurePosixPath(file.path).suffix.lower() for file in files}
    if suffixes & set(_PICKLES) and not suffixes & {".safetensors", ".gguf", ".onnx", ".xml"}:
        return f"has its weights as pickles only, which can run code and are never fetched; {wanted} is read"
    return f"has no {wanted} model that is whole"


_FORMS: Mapping[str, Callable[[Collection[RepoFile], bool], Iterator[Choice]]] = MappingProxyType(
    {GGUF: _ggufs, ONNX: _onnx_folders, OPENVINO: _openvino_folders, SAFETENSORS: _safetensors}
)
