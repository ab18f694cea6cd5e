"""Recipes for `engine_models`: models of the Phi family with random weights, too small to say anything sensible.

They have the family's architecture, its control tokens and its chat template, over the embedded model's vocabulary.
Each function writes a model into the folder ``out``; ``made`` has the paths of what it is made from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from recipes_smollm2 import build_onnx

CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|image_1|>", "<|image_2|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(folder: Path) -> Any:
    """Return the embedded model's tokenizer with the family's control tokens and template."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    words.chat_template = TEMPLATE
    return words


def shape(words: Any, context: int) -> dict[str, Any]:
    """Return the settings of a small model."""
    end = [words.convert_tokens_to_ids(token) for token in ("<|end|>", "<|endoftext|>")]
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.2,  # large enough for answers that differ with the question
        "tie_word_embeddings": False,
        "bos_token_id": end[1],
        "eos_token_id": end,
        "pad_token_id": end[1],
    }


def save(model: Any, words: Any, out: Path) -> None:
    """Write model and tokenizer."""
    model.save_pretrained(out)
    words.save_pretrained(out)


def save_phi3(words: Any, out: Path, context: int) -> None:
    """Write a random Phi-3."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(intermediate_size=128, original_max_position_embeddings=context, **shape(words, context))
    save(Phi3ForCausalLM(config), words, out)


def tiny_phi3(out: Path, made: dict[str, Path]) -> None:
    """Write a random Phi-3 as a Transformers folder."""
    save_phi3(tokenizer(made["smollm2_folder"]), out, 2048)


def tiny_phi3_onnx(out: Path, made: dict[str, Path]) -> None:
    """Convert it for ONNX Runtime GenAI, in full precision."""
    build_onnx(made["tiny_phi3"], out, "fp32")


def tiny_phimoe(out: Path, made: dict[str, Path]) -> None:
    """Write a random Phi MoE of four experts as a Transformers folder."""
    import torch
    from transformers import PhimoeConfig, PhimoeForCausalLM

    torch.manual_seed(0)
    words = tokenizer(made["smollm2_folder"])
    config = PhimoeConfig(intermediate_size=96, num_local_experts=4, num_experts_per_tok=2, **shape(words, 2048))
    save(PhimoeForCausalLM(config), words, out)


def tiny_lora_onnx(out: Path, made: dict[str, Path]) -> None:
    """Give the random Phi-3 a place for an adapter before its last matrix, and write two adapters for it.

    The adapters are `first.onnx_adapter` and `second.onnx_adapter`. Without one, the model answers as it did.
    """
    import numpy
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree(made["tiny_phi3_onnx"], out, dirs_exist_ok=True)
    model = onnx.load(out / "model.onnx")
    graph = model.graph
    last = next(node for node in graph.node if "logits" in node.output)
    size, rank, words = 64, 4, graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    last.output[0] = "logits.plain"
    graph.node.extend(
        [
            helper.make_node("MatMul", [last.input[0], "lora_A"], ["logits.low"]),
            helper.make_node("MatMul", ["logits.low", "lora_B"], ["logits.more"]),
            helper.make_node("Add", ["logits.plain", "logits.more"], ["logits"]),
        ]
    )
    for name, dimensions, symbols in (("lora_A", (size, 0), (size, "rank")), ("lora_B", (0, words), ("rank", words))):
        graph.initializer.append(numpy_helper.from_array(numpy.zeros(dimensions, numpy.float32), name))
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, symbols))
    for old in out.glob("model.onnx*"):
        old.unlink()
    onnx.save(model, out / "model.onnx", save_as_external_data=True, location="model.onnx.data")

    for seed, name in enumerate(("first", "second")):
        random = numpy.random.default_rng(seed)
        shapes = {"lora_A": (size, rank), "lora_B": (rank, words)}
        # An OrtValue may share the array's memory, which must then live until the file is written.
        values = {key: random.normal(size=shape).astype(numpy.float32) for key, shape in shapes.items()}
        adapter = onnxruntime.AdapterFormat()
        adapter.set_adapter_version(1)
        adapter.set_model_version(1)
        adapter.set_parameters({key: onnxruntime.OrtValue.ortvalue_from_numpy(value) for key, value in values.items()})
        adapter.export_adapter(str(out / f"{name}.onnx_adapter"))
