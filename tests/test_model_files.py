"""What a model's own files say: as other libraries write and read them, and whatever else may stand there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import AutoTokenizer, GenerationConfig, LlavaConfig, Phi3Config, PreTrainedTokenizerFast

from slmclient import PhiClient
from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.files import ModelFiles, check_form, read_folder, read_gguf
from slmclient.errors import ConfigurationError

quick = settings(deadline=None, suppress_health_check=list(HealthCheck))
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model's folder: a file for each argument, JSON where it is no str."""

    def write(**files: Any) -> Path:
        folder = tmp_path / "tiny-phi"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            stem, _, kind = name.rpartition("_")
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{stem}.{kind}").write_text(text, "utf-8")
        return folder

    return write


# --- Folders that Transformers writes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Transformers saves it: a Phi-3 of nothing but settings and a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-phi"
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template="{{ messages }}\n"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("<|tool|>"), AddedToken("hello")])
    tokenizer.save_pretrained(folder)
    Phi3Config(max_position_embeddings=4096, eos_token_id=2, architectures=["Phi3ForCausalLM"]).save_pretrained(folder)
    GenerationConfig(
        eos_token_id=[2, 5], do_sample=True, temperature=0.8, top_k=50, repetition_penalty=1.05
    ).save_pretrained(folder)
    return folder


def test_a_folder_that_transformers_saved_is_read_as_it_reads_it(saved: Path) -> None:
    files, theirs = read_folder(saved), AutoTokenizer.from_pretrained(saved)
    assert files.name == "tiny-phi"
    assert files.path == saved
    assert files.context == 4096
    assert files.template == theirs.chat_template == "{{ messages }}\n"
    assert {name: files.special[name] for name in ("bos_token", "eos_token", "unk_token")} == {
        "bos_token": theirs.bos_token,
        "eos_token": theirs.eos_token,
        "unk_token": theirs.unk_token,
    }
    assert files.end_ids == {2, 5}
    assert files.architecture == "phi3"
    assert files.sampling == {"do_sample": True, "temperature": 0.8, "top_k": 50, "repetition_penalty": 1.05}
    assert not files.adds_bos


def test_control_tokens_are_those_marked_and_those_that_look_so(saved: Path) -> None:
    """``<|tool|>`` of Phi-4-mini is not marked as special; ``<think>`` people may write, to ask for thoughts."""
    assert set(read_folder(saved).control) == {"<s>", "</s>", "<unk>", "<|user|>", "<|end|>", "<|tool|>"}


def test_a_tokenizer_that_begins_every_text_with_a_token_is_known(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="a"))
    for begins in (False, True):
        if begins:
            made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")
        tokenizer.save_pretrained(tmp_path)
        Phi3Config().save_pretrained(tmp_path)
        assert (tokenizer("a").input_ids[0] == 0) is begins
        assert read_folder(tmp_path).adds_bos is begins


def test_a_model_that_sees_has_its_context_in_its_text_part(tmp_path: Path) -> None:
    LlavaConfig(text_config={"model_type": "llama", "max_position_embeddings": 777}).save_pretrained(tmp_path)
    files = read_folder(tmp_path)
    assert files.context == 777
    assert files.architecture == "llava"


# --- Folders as they also come


def test_a_folder_of_onnx_genai_is_read(write: Write) -> None:
    files = read_folder(
        write(
            genai_config_json={
                "model": {"type": "phi3v", "context_length": 8192, "eos_token_id": [32007, 32001], "bos_token_id": 1},
                "search": {"max_length": 8192},
            },
            config_json={"model_type": "phi3_v", "max_position_embeddings": 131072, "eos_token_id": 32000},
            tokenizer_config_json={"chat_template": "T", "bos_token": "<s>", "eos_token": "<|endoftext|>"},
        )
    )
    assert (files.architecture, files.context, files.template) == ("phi3v", 8192, "T")
    assert files.end_ids == {32007, 32001}
    assert read_folder(write(genai_config_json={"model": {"type": "phi3", "eos_token_id": 7}})).end_ids == {7}


def test_a_template_in_a_file_of_its_own_comes_first(write: Write) -> None:
    folder = write(config_json={}, tokenizer_config_json={"chat_template": "in the settings"})
    assert read_folder(folder).template == "in the settings"
    (folder / "chat_template.jinja").write_bytes(b"in a file\r\n\xc3\xa9")
    assert read_folder(folder).template == "in a file\né"


@pytest.mark.parametrize(
    ("given", "template"),
    [
        ("T", "T"),
        ([{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}], "T"),
        ([{"name": "tool_use", "template": "U"}], None),
        ([7, None, "x", {}], None),
        ({"default": "T"}, "T"),
        (7, None),
        ("", None),
        (None, None),
    ],
)
def test_a_template_in_the_settings_is_a_text_or_the_default_of_several(
    write: Write, given: Any, template: Any
) -> None:
    assert read_folder(write(config_json={}, tokenizer_config_json={"chat_template": given})).template == template


def test_a_template_of_the_processor_is_read(write: Write) -> None:
    assert read_folder(write(config_json={}, chat_template_json={"chat_template": "T"})).template == "T"


def test_tokens_are_read_in_their_older_forms(write: Write) -> None:
    files = read_folder(
        write(
            config_json={"architectures": ["PhimoeForCausalLM"]},
            tokenizer_config_json={
                "added_tokens_decoder": {
                    "32000": {"content": "<|endoftext|>", "special": True},
                    "32007": {"content": "<|end|>", "special": True},
                    "32011": {"content": "plain", "special": False},
                    "x": {"content": "<|no id|>", "special": True},
                    "32012": "<|no object|>",
                },
                "additional_special_tokens": ["<|further|>", {"content": "<|other|>"}, 7],
                "eos_token": {"content": "<|endoftext|>", "lstrip": False},
                "pad_token": None,
                "add_bos_token": True,
            },
            special_tokens_map_json={"bos_token": {"content": "<s>"}, "eos_token": "</s>"},
        )
    )
    assert files.special == {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    assert set(files.control) == {"<|endoftext|>", "<|end|>", "<|further|>", "<|other|>", "<s>"}
    assert files.architecture == "PhimoeForCausalLM"
    assert files.adds_bos


def test_without_generation_settings_the_ends_of_a_turn_are_known_by_their_names(write: Write) -> None:
    """Phi-3's config.json names only <|endoftext|>; its turns end with <|end|>."""
    decoder = {
        "32000": {"content": "<|endoftext|>", "special": True},
        "32001": {"content": "<|assistant|>", "special": True},
        "32007": {"content": "<|end|>", "special": True},
    }
    folder = write(config_json={"eos_token_id": 32000}, tokenizer_config_json={"added_tokens_decoder": decoder})
    assert read_folder(folder).end_ids == {32000, 32007}
    folder = write(generation_config_json={"eos_token_id": 32001})
    assert read_folder(folder).end_ids == {32001}


def test_a_folder_that_says_little_is_read(write: Write) -> None:
    folder = write(config_json={})
    assert read_folder(folder) == ModelFiles(path=folder, name="tiny-phi")


def test_a_relative_path_has_a_name_too(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(config_json={}))
    assert read_folder(Path()).name == "tiny-phi"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("eos_token_id", "model", "text_config", "context_length", "type", "max_position_embeddings", "architectures"),
    *("model_type", "temperature", "do_sample", "top_k", "chat_template", "added_tokens_decoder", "added_tokens"),
    *("additional_special_tokens", "bos_token", "post_processor", "add_bos_token", "content", "id", "special"),
]
settings_files = st.dictionaries(
    st.sampled_from(KEYS), json_values | st.dictionaries(st.sampled_from(KEYS), json_values)
)


@settings(quick, max_examples=60)
@given(st.lists(settings_files, min_size=5, max_size=5))
def test_values_of_any_type_are_read_or_left_out(write: Write, contents: list[dict[str, Any]]) -> None:
    names = ("config", "genai_config", "generation_config", "tokenizer_config", "tokenizer")
    files = read_folder(write(**{f"{name}_json": content for name, content in zip(names, contents, strict=True)}))
    assert files.context is None or (type(files.context) is int and files.context > 0)
    assert files.template is None or isinstance(files.template, str)
    assert files.architecture is None or isinstance(files.architecture, str)
    assert all(isinstance(text, str) and len(text) > 1 for text in files.control)
    assert all(isinstance(text, str) for text in files.special.values())
    assert all(type(id) is int and id >= 0 for id in files.end_ids)
    assert all(isinstance(value, (int, float)) for value in files.sampling.values())


# --- What is refused


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "[]", "7", "<html>", "{}x", '{"a": NaN', "[" * 100_000])
@pytest.mark.parametrize("name", ["config", "tokenizer_config", "tokenizer", "generation_config", "special_tokens_map"])
def test_a_broken_file_is_named(write: Write, name: str, content: str) -> None:
    with pytest.raises(ConfigurationError, match="fetch it again") as caught:
        read_folder(write(**{"config_json": {}, f"{name}_json": content}))
    assert f"{name}.json" in str(caught.value)


def test_a_file_that_is_no_text_is_named(write: Write) -> None:
    folder = write(config_json={})
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"chat_template\.jinja is no text"):
        read_folder(folder)
    (folder / "chat_template.jinja").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match=r"chat_template\.jinja has more than"):
        read_folder(folder)


def test_a_missing_folder_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere does not exist"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"file is no folder"):
        read_folder(tmp_path / "file")
    for name in ("a\0b", "a" * 5000):
        with pytest.raises(ConfigurationError):
            read_folder(tmp_path / name)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no config\.json, no genai_config\.json\.$"):
        read_folder(tmp_path)


# --- Folders of another engine's form

HOLDS = {  # the files of a folder by its form: first the one that an error names; and who reads it
    "onnx": (("genai_config.json", "model.onnx", "tokenizer.json"), ("onnx",)),
    "openvino": (("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "config.json"), ("openvino",)),
    "openvino that sees": (("openvino_language_model.xml", "openvino_language_model.bin"), ("openvino",)),
    "safetensors": (("model.safetensors", "config.json"), ("transformers", "mlx")),
    "gguf": (("phi-Q4_K_M.gguf", "mmproj-phi.gguf", "config.json"), ("llamacpp",)),
}
LOOKS = {
    "onnx": "genai_config.json",
    "openvino": "openvino_language_model.xml, the .bin of the same name, and openvino_tokenizer.xml; or a .gguf file",
    "transformers": "config.json and .safetensors files; or a .gguf file",
    "mlx": "config.json and .safetensors files",
    "llamacpp": "a .gguf file",
}
MAKES = {"openvino": "optimum-cli export openvino -m {}", "onnx": "onnxruntime_genai.models.builder -m {}"}


def refusal(engine: str, path: Path) -> str:
    with PhiClient(engine, str(path), env_file=False) as client, pytest.raises(ConfigurationError) as caught:
        client.chat("Hi")
    return str(caught.value)


def filled(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


# A folder with a GGUF file is for nobody: llama.cpp, too, wants the file itself.
FOREIGN = [(one, form) for one in LOOKS for form, (_, readers) in HOLDS.items() if one not in readers or form == "gguf"]


@pytest.mark.parametrize(("engine", "form"), FOREIGN)
def test_a_folder_for_another_engine_is_named_with_what_reads_it(engine: str, form: str, tmp_path: Path) -> None:
    files, readers = HOLDS[form]
    folder = filled(tmp_path / "model", *files)
    said = refusal(engine, folder)
    assert said.startswith(f"{folder} is no model for ")
    assert LOOKS[engine] in said
    if form == "gguf" and engine in ("llamacpp", "openvino", "transformers"):
        assert f"There is one in it: model={str(folder / files[0])!r}." in said
    else:
        assert f"It holds {files[0]}, which PhiClient({readers[0]!r}, …) reads." in said
    assert f"`slm pull NAME --engine {engine}`" in said
    assert MAKES.get(engine, "").format(folder if form == "safetensors" else "FOLDER") in said


@pytest.mark.parametrize("engine", LOOKS)
def test_a_folder_without_a_model_says_what_is_wanted_and_what_is_there(engine: str, tmp_path: Path) -> None:
    folder = filled(tmp_path / "model")
    assert "It is empty." in refusal(engine, folder)
    filled(folder, "config.json", "README.md")
    assert "It holds README.md, config.json." in refusal(engine, folder)
    filled(folder, *"abcd")
    assert "It holds README.md, a, b, c, config.json, …." in refusal(engine, folder)
    filled(folder, "pytorch_model-00001-of-00002.bin")
    assert re.search(r"pytorch_model\S+bin: such files are pickles", said := refusal(engine, folder))
    assert LOOKS[engine] in said


@pytest.mark.parametrize("inside", ["cpu", "cpu/int4"])
@pytest.mark.parametrize(("engine", "form"), [("openvino", "openvino"), ("mlx", "safetensors"), ("llamacpp", "gguf")])
def test_a_folder_above_the_models_says_where_one_is(engine: str, form: str, inside: str, tmp_path: Path) -> None:
    filled(tmp_path / inside, *HOLDS[form][0])
    place = tmp_path / inside / (HOLDS[form][0][0] if form == "gguf" else "")
    assert f"There is one in it: model={str(place)!r}." in refusal(engine, tmp_path)


@pytest.mark.parametrize("weights", [(), ("safetensors", "weights of its own")])
def test_an_engine_with_a_form_of_its_own_is_left_to_look_itself(weights: tuple[str, ...], tmp_path: Path) -> None:
    check_form(tmp_path, DriverInfo(name="own", title="Own", docs="-", weights=weights), "own")


def test_a_file_where_a_folder_is_wanted_is_named_with_what_reads_it(tmp_path: Path) -> None:
    folder = filled(tmp_path / "model", "genai_config.json", "model.onnx", "phi.gguf")
    assert f"give the folder, model={str(folder)!r}" in refusal("onnx", folder / "model.onnx")
    assert "It is a file, which PhiClient('llamacpp', …) reads." in refusal("mlx", folder / "phi.gguf")
    assert "It is a file. `slm pull" in refusal("mlx", folder / "model.onnx")


# --- GGUF files


def test_the_embedded_models_file_says_what_its_own_library_reads(weights: Path) -> None:
    files, fields = read_gguf(weights), gguf.GGUFReader(weights).fields
    assert files.name == fields["general.name"].contents()
    assert files.template == fields["tokenizer.chat_template"].contents()
    assert files.architecture == fields["general.architecture"].contents()
    assert files.context == fields["llama.context_length"].contents()
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    control = {text for text, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL}
    assert set(files.control) == control
    end = fields["tokenizer.ggml.eos_token_id"].contents()
    assert files.special["eos_token"] == tokens[end] == "<|im_end|>"
    # Its base model ends whole texts with <|endoftext|>; llama.cpp stops there as well.
    assert {tokens[id] for id in files.end_ids} == {"<|im_end|>", "<|endoftext|>"}
    assert not files.adds_bos
    assert files.sampling == {}


def test_a_gguf_file_of_a_phi_knows_where_its_turns_end(tmp_path: Path) -> None:
    """As Phi-3's files were converted: the end of a text is named, the end of a turn is not."""
    path = tmp_path / "phi-x.gguf"
    tokens = ["<unk>", "<|endoftext|>", "<|end|>", "<|user|>", "<|tool|>", "<think>", "hello"]
    kinds = gguf.TokenType
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_context_length(4096)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.UNKNOWN, *[kinds.CONTROL] * 3, *[kinds.USER_DEFINED] * 2, kinds.NORMAL])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(0)
    writer.add_sep_token_id(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    files = read_gguf(path)
    assert (files.name, files.architecture, files.context, files.template) == ("phi-x", "phi3", 4096, None)
    assert set(files.control) == {"<unk>", "<|endoftext|>", "<|end|>", "<|user|>", "<|tool|>"}
    assert files.end_ids == {1, 2}
    assert files.special == {"eos_token": "<|endoftext|>", "bos_token": "<unk>", "sep_token": "<|user|>"}
    assert files.adds_bos
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigurationError, match="cut off"):
        read_gguf(path)
