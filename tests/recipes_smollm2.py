"""Recipes for `engine_models`: the embedded model's own weights, in the form that each engine reads.

Each function writes a model into the folder ``out``; ``made`` has the paths of what it is made from.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "generation_config.json")
"""What stands beside the weights in a folder of Hugging Face's form."""


def smollm2_folder(out: Path, made: dict[str, Path]) -> None:
    """Write the weights as a Transformers folder, in full precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = made["weights"].parent, made["weights"].name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # Transformers saves nothing that it takes for quantised, which these weights are no longer.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)


def smollm2_onnx(out: Path, made: dict[str, Path]) -> None:
    """Convert the folder for ONNX Runtime GenAI, in full precision."""
    build_onnx(made["smollm2_folder"], out, "fp32")


def smollm2_onnx_int4(out: Path, made: dict[str, Path]) -> None:
    """Convert the folder for ONNX Runtime GenAI, in 4 bits."""
    build_onnx(made["smollm2_folder"], out, "int4")


def build_onnx(folder: Path, out: Path, precision: str, *options: str) -> None:
    """Run the engine's own converter."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    command += ["-m", str(folder), "-o", str(out), "-p", precision, "-c", str(out.parent / "scratch")]
    subprocess.run([*command, "--extra_options", "hf_token=false", *options], check=True)


def smollm2_openvino(out: Path, made: dict[str, Path]) -> None:
    """Let OpenVINO convert the weights and save what it made of them.

    From the file as it is, it would make coarser weights than the file has. Those of 16 bits it takes as they are: then
    its answers are those of Transformers in full precision, to the letter.
    """
    import openvino_genai

    for name in WORDS:
        shutil.copy(made["smollm2_folder"] / name, out)
    wide = out / "wide.gguf"
    widen(made["weights"], wide)
    openvino_genai.LLMPipeline(wide, "CPU", enable_save_ov_model=True)
    wide.unlink()


def widen(source: Path, target: Path) -> None:
    """Write a GGUF file again with its matrices in 16 bits and all else in 32."""
    import gguf
    import numpy

    reader = gguf.GGUFReader(source)
    fields = reader.fields
    writer = gguf.GGUFWriter(target, fields["general.architecture"].contents())
    written_anyway = ("general.architecture", "general.quantization_version")
    for name, value in fields.items():
        if name.startswith("GGUF.") or name in written_anyway:
            continue
        inner = value.types[-1] if len(value.types) > 1 else None
        content = gguf.LlamaFileType.MOSTLY_F16 if name == "general.file_type" else value.contents()
        writer.add_key_value(name, content, value.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(numpy.float16 if values.ndim == 2 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def smollm2_mlx(out: Path, made: dict[str, Path]) -> None:
    """Add to the folder's config.json what MLX looks for: without it the answers are gibberish."""
    for source in made["smollm2_folder"].iterdir():
        try:
            (out / source.name).hardlink_to(source)  # half a gigabyte that need not stand there twice
        except OSError:
            shutil.copy(source, out)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    path.unlink()
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
