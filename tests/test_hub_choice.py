"""Which files of a repository are taken: by the layouts of real ones, as public code and their pages name them."""

from __future__ import annotations

import pytest

from slmclient.drivers.hub.choice import NothingFitsError, RepoFile, choose, is_safe, variants

BARTOWSKI = [
    ".gitattributes",
    *(f"Phi-3.5-mini-instruct-{q}.gguf" for q in ("IQ2_M", "IQ4_XS", "Q2_K", "Q3_K_L", "Q4_0", "Q4_0_4_4", "Q4_K_L")),
    *(f"Phi-3.5-mini-instruct-{q}.gguf" for q in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "f32")),
    "Phi-3.5-mini-instruct.imatrix",
    "README.md",
]
MICROSOFT = ["Phi-3-mini-4k-instruct-fp16.gguf", "Phi-3-mini-4k-instruct-q4.gguf", "README.md", "config.json"]
PHI_4 = ["phi-4-IQ2_S.gguf", "phi-4-Q4_K.gguf", "phi-4-Q8_0.gguf", "phi-4-bf16.gguf"]
UNSLOTH = ["Phi-4-mini-instruct-Q2_K.gguf", "Phi-4-mini-instruct-Q4_K_M.gguf", "Phi-4-mini-instruct.BF16.gguf"]
DYNAMIC = ["a-UD-Q4_K_XL.gguf", "a-UD-IQ1_S.gguf", "a-Q4_K_M.gguf", "a-BF16/a-BF16-00001-of-00001.gguf"]
SPLIT = [
    "Phi-3.5-MoE-instruct-Q2_K.gguf",
    *(f"Phi-3.5-MoE-instruct-Q8_0/Phi-3.5-MoE-instruct-Q8_0-0000{part}-of-00002.gguf" for part in (2, 1)),
]
VISION = ["mmproj-model-f16.gguf", "llava-phi-3-mini-int4.gguf"]

CPU = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
INSIDE = [
    "added_tokens.json",
    "configuration_phi3.py",
    "genai_config.json",
    "merges.txt",
    "model.onnx",
    "model.onnx.data",
]
PHI_4_MINI_ONNX = [
    "README.md",
    "config.json",
    *(f"{folder}/{file}" for folder in ("gpu/gpu-int4-rtn-block-32", CPU, "npu/qnn-int4") for file in INSIDE),
]
PHI_3_MINI_ONNX = [
    f"{folder}/{file}"
    for folder in (
        "cpu_and_mobile/cpu-int4-rtn-block-32",
        CPU,
        "cuda/cuda-fp16",
        "directml/directml-int4-awq-block-128",
    )
    for file in INSIDE
]
PHI_3_MEDIUM_ONNX = [f"cpu-int4-rtn-block-32-acc-level-4/{file}" for file in INSIDE]
MULTIMODAL_ONNX = [f"gpu/gpu-int4-rtn-block-32/{file}" for file in (*INSIDE, "vision_processor.json")]

PHI_3_MINI = [
    *(".gitattributes", "CODE_OF_CONDUCT.md", "LICENSE", "README.md", "added_tokens.json", "config.json"),
    *("configuration_phi3.py", "generation_config.json", "modeling_phi3.py", "sample_finetune.py"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "figures/eval.png"),
]
MANY_FORMS = [
    *("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "tokenizer.json"),
    *("onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.xml", "openvino/openvino_model.bin"),
    *("original/consolidated.00.pth", "original/params.json", "consolidated.safetensors"),
]
ADAPTERS = [
    "config.json",
    "model.safetensors",
    "speech-lora/adapter_model.safetensors",
    "speech-lora/adapter_config.json",
]
OPENVINO = [
    *("config.json", "openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_tokenizer.bin"),
    *("openvino_detokenizer.xml", "openvino_detokenizer.bin", "README.md", "tokenizer.json"),
]


def files(paths: list[str]) -> list[RepoFile]:
    return [RepoFile(path) for path in paths]


@pytest.mark.parametrize(
    ("paths", "quantization", "entry"),
    [
        (BARTOWSKI, None, "Phi-3.5-mini-instruct-Q4_K_M.gguf"),
        (BARTOWSKI, "Q8_0", "Phi-3.5-mini-instruct-Q8_0.gguf"),
        (BARTOWSKI, "q5", "Phi-3.5-mini-instruct-Q5_K_M.gguf"),
        (BARTOWSKI, "Q4_0", "Phi-3.5-mini-instruct-Q4_0.gguf"),
        (BARTOWSKI, "F32", "Phi-3.5-mini-instruct-f32.gguf"),
        (MICROSOFT, None, "Phi-3-mini-4k-instruct-q4.gguf"),
        (MICROSOFT, "F16", "Phi-3-mini-4k-instruct-fp16.gguf"),
        (PHI_4, None, "phi-4-Q4_K.gguf"),
        (UNSLOTH, None, "Phi-4-mini-instruct-Q4_K_M.gguf"),
        (UNSLOTH, "bf16", "Phi-4-mini-instruct.BF16.gguf"),
        (DYNAMIC, None, "a-Q4_K_M.gguf"),
        (DYNAMIC, "UD-Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        (SPLIT, "Q8_0", "Phi-3.5-MoE-instruct-Q8_0/Phi-3.5-MoE-instruct-Q8_0-00001-of-00002.gguf"),
        (VISION, None, "llava-phi-3-mini-int4.gguf"),
        (["smollm2-135m-instruct-q8_0.gguf"], None, "smollm2-135m-instruct-q8_0.gguf"),
        (["a-f16.gguf", "a.gguf"], None, "a.gguf"),
        (["a-Q4_0_4_4.gguf", "a-f16.gguf"], None, "a-f16.gguf"),
    ],
)
def test_of_gguf_files_one_is_taken(paths: list[str], quantization: str | None, entry: str) -> None:
    assert choose(files(paths), ("gguf",), quantization).entry == entry


def test_a_split_model_is_taken_with_all_parts_and_the_first_comes_last() -> None:
    """The first part is what an engine opens: half a fetch does not have it."""
    taken = choose(files(SPLIT), ("gguf",), "Q8_0").files
    assert [file.path[-19:] for file in taken] == ["-00002-of-00002.gguf"[1:], "-00001-of-00002.gguf"[1:]]
    assert choose(files(SPLIT[:2]), ("gguf",)).variant == "Q2_K"
    with pytest.raises(NothingFitsError, match="has no Q8_0; it has Q2_K"):
        choose(files(SPLIT[:2]), ("gguf",), "Q8_0")  # part 1 is missing


@pytest.mark.parametrize(
    ("paths", "quantization", "folder"),
    [
        (PHI_4_MINI_ONNX, None, CPU),
        (PHI_4_MINI_ONNX, "gpu", "gpu/gpu-int4-rtn-block-32"),
        (PHI_4_MINI_ONNX, "qnn", "npu/qnn-int4"),
        (PHI_3_MINI_ONNX, None, CPU),
        (PHI_3_MINI_ONNX, "int4", CPU),
        (PHI_3_MINI_ONNX, "cuda-fp16", "cuda/cuda-fp16"),
        (PHI_3_MEDIUM_ONNX, None, "cpu-int4-rtn-block-32-acc-level-4"),
        (MULTIMODAL_ONNX, None, "gpu/gpu-int4-rtn-block-32"),
        (INSIDE, None, ""),
    ],
)
def test_of_onnx_folders_the_one_for_the_processor_is_taken(
    paths: list[str], quantization: str | None, folder: str
) -> None:
    choice = choose(files(paths), ("onnx",), quantization)
    prefix = f"{folder}/" if folder else ""
    assert choice.entry == folder
    assert {file.path for file in choice.files} == {
        f"{prefix}{name}"
        for name in ("added_tokens.json", "genai_config.json", "merges.txt", "model.onnx", "model.onnx.data")
    } | ({f"{prefix}vision_processor.json"} if paths is MULTIMODAL_ONNX else set())
    assert choice.files[-1].path == f"{prefix}genai_config.json"


@pytest.mark.parametrize("with_code", [False, True])
def test_of_a_safetensors_repository_all_is_taken_but_other_forms_and_code(with_code: bool) -> None:
    taken = [file.path for file in choose(files(PHI_3_MINI), ("safetensors",), with_code=with_code).files]
    code = {"configuration_phi3.py", "modeling_phi3.py", "sample_finetune.py"} if with_code else set()
    assert set(taken) == code | {
        *("added_tokens.json", "config.json", "generation_config.json", "model-00001-of-00002.safetensors"),
        *("model-00002-of-00002.safetensors", "model.safetensors.index.json", "special_tokens_map.json"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
    assert taken[-1] == "config.json"


def test_of_a_repository_with_many_forms_each_engine_gets_its_own() -> None:
    listed = files(MANY_FORMS)
    safetensors = choose(listed, ("safetensors", "gguf"))
    assert {file.path for file in safetensors.files} == {"config.json", "model.safetensors", "tokenizer.json"}
    openvino = choose(listed, ("openvino", "gguf"))
    assert (openvino.entry, [file.path for file in openvino.files]) == (
        "openvino",
        ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
    )


def test_adapters_beside_the_model_come_along() -> None:
    taken = {file.path for file in choose(files(ADAPTERS), ("safetensors",)).files}
    assert taken == set(ADAPTERS)


def test_an_openvino_folder_needs_the_numbers_beside_each_graph() -> None:
    """Its .bin files are plain numbers, no pickles."""
    choice = choose(files([*OPENVINO, "training_args.bin", "pytorch_model.bin"]), ("openvino",))
    assert {file.path for file in choice.files} == set(OPENVINO) - {"README.md"}
    assert choice.files[-1].path == "openvino_model.xml"
    without = [path for path in OPENVINO if path != "openvino_tokenizer.bin"]
    assert variants(files(without), "openvino") == []


def test_the_form_that_an_engine_likes_best_wins() -> None:
    both = files([*UNSLOTH, *PHI_3_MINI])
    assert choose(both, ("safetensors", "gguf")).form == "safetensors"
    assert choose(both, ("gguf", "safetensors")).form == "gguf"
    assert choose(both, ("safetensors", "gguf"), "Q2_K").form == "gguf"  # only that has the variant


@pytest.mark.parametrize(
    ("paths", "forms", "message"),
    [
        (["config.json", "pytorch_model.bin", "modeling.py"], ("safetensors", "gguf"), "pickles only"),
        (["model.pth"], ("gguf",), "pickles only"),
        (["README.md"], ("onnx",), "has no onnx model that is whole"),
        (["model-00001-of-00002.safetensors", "config.json"], ("safetensors",), "no safetensors model that is whole"),
        (["adapter_model.safetensors", "config.json"], ("safetensors",), "no safetensors model that is whole"),
        (["mmproj-f16.gguf"], ("gguf",), "no gguf model"),
    ],
)
def test_where_nothing_fits_the_error_says_why(paths: list[str], forms: tuple[str, ...], message: str) -> None:
    with pytest.raises(NothingFitsError, match=message):
        choose(files(paths), forms)


def test_a_variant_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(NothingFitsError, match=r"has no Q3_K_M; it has BF16, Q2_K, Q4_K_M"):
        choose(files(UNSLOTH), ("gguf",), "Q3_K_M")


@pytest.mark.parametrize(
    "path",
    ["../a.gguf", "/a.gguf", "a/../../b.gguf", "C:/a.gguf", "a\\b.gguf", "a//b.gguf", "./a.gguf", "a\n.gguf", ""],
)
def test_a_path_that_leads_elsewhere_is_never_taken(path: str) -> None:
    assert not is_safe(path)
    with pytest.raises(NothingFitsError):
        choose(files([path]), ("gguf",))
