"""Which engine reads which GGUF files: what is said of it as data, with the engine itself as judge."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from slmclient import PhiClient, catalogue
from slmclient.catalogue import forms
from slmclient.drivers import registry
from slmclient.drivers.hub.naming import origin_of
from slmclient.errors import EngineError, ModelNotFoundError

OPENVINO = forms.GGUF_READERS["openvino"]


def renamed(source: Path, target: Path, architecture: str) -> Path:
    """Write a GGUF file again as one of another architecture, with the same tensors."""
    reader = gguf.GGUFReader(source)
    own = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, value in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.quantization_version"):
            inner = value.types[-1] if len(value.types) > 1 else None
            key = name.replace(f"{own}.", f"{architecture}.")
            writer.add_key_value(key, value.contents(), value.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("architecture", [*OPENVINO.architectures, "phi3", "phimoe"])
def test_openvino_reads_the_architectures_that_are_said_of_it(architecture: str, weights: Path, tmp_path: Path) -> None:
    path = renamed(weights, tmp_path / "model.gguf", architecture)
    with PhiClient("openvino", str(path), env_file=False) as client:
        if architecture in OPENVINO.architectures:
            assert client.chat("Hi", max_tokens=1).usage.output_tokens == 1
        else:
            with pytest.raises(EngineError, match=f"Unsupported model architecture '{architecture}'"):
                client.chat("Hi")


def test_the_architecture_of_every_family_is_known(weights: Path) -> None:
    assert set(forms.GGUF_ARCHITECTURES) == {model.family for model in catalogue.models()}
    embedded = gguf.GGUFReader(weights).fields["general.architecture"].contents()
    assert forms.GGUF_ARCHITECTURES["smollm2"] == (embedded,)


def test_every_reader_of_some_gguf_files_has_a_form_of_its_own_first() -> None:
    for name in forms.GGUF_READERS:
        first, *others = registry.driver_info(name).weights
        assert first != forms.GGUF
        assert forms.GGUF in others
    assert registry.driver_info(forms.GGUF_PROVIDER).weights == (forms.GGUF,)


@pytest.mark.parametrize("name", ["smollm2-135m", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_name_leads_to_gguf_files_where_the_engine_has_none_of_its_own(name: str) -> None:
    listed = catalogue.offer("smollm2-135m", "llamacpp")
    assert listed is not None
    found = origin_of("openvino", name)
    assert (found.repo, found.quantization) == (listed.id, "Q8_0")
    assert origin_of("openvino", name, "Q4_0").quantization == "Q4_0"
    assert origin_of("openvino", listed.id).quantization is None  # named as such, it is meant as it is


@pytest.mark.parametrize("name", ["phi-4-mini", "microsoft/Phi-4-mini-instruct"])
def test_files_of_its_own_form_come_first(name: str) -> None:
    assert origin_of("openvino", name).repo == "OpenVINO/Phi-4-mini-instruct-int4-ov"


@pytest.mark.parametrize("provider", ["onnx", "mlx"])
def test_an_engine_that_reads_no_gguf_files_is_led_to_none(provider: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"`slm pull smollm2-135m --engine openvino`"):
        origin_of(provider, "smollm2-135m")


@pytest.mark.parametrize("revision", ["", "@main"])
def test_gguf_files_that_an_engine_is_known_not_to_read_are_not_fetched_for_it(revision: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"`slm pull phi-4-mini --engine openvino` fetches files"):
        origin_of("openvino", f"unsloth/Phi-4-mini-instruct-GGUF{revision}")
    with pytest.raises(ModelNotFoundError, match=r"`slm pull phi-4-reasoning --engine llamacpp`"):
        origin_of("openvino", f"unsloth/Phi-4-reasoning-GGUF{revision}")
    assert origin_of("transformers", "unsloth/Phi-4-reasoning-GGUF").repo == "unsloth/Phi-4-reasoning-GGUF"
