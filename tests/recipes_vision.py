"""Recipes for `engine_models`: models that really take images in. Their weights are random; other pictures, other text.

Each function writes a model into the folder ``out``; ``made`` has the paths of what it is made from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import recipes_phi
from recipes_smollm2 import build_onnx

LLAVA_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_llava(out: Path, made: dict[str, Path]) -> None:
    """Write a random LLaVA as a Transformers folder."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(made["smollm2_folder"])
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side, patch, image = 32, 8, words.convert_tokens_to_ids("<image>")
    shape = {"num_hidden_layers": 2, "intermediate_size": 128, "initializer_range": 0.2}
    vision = CLIPVisionConfig(
        hidden_size=32, num_attention_heads=2, image_size=side, patch_size=patch, projection_dim=32, **shape
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **shape,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image, vision_feature_select_strategy="default"
    )
    LlavaForConditionalGeneration(config).save_pretrained(out)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    processor.save_pretrained(out)


def tiny_phi3v_onnx(out: Path, made: dict[str, Path]) -> None:
    """Write a random Phi-3-vision for ONNX Runtime GenAI: its text part by the converter, its other two graphs by hand.

    The context is long because an image takes 1,900 tokens or more.
    """
    from onnx import checker, helper, save

    plain = out.parent / "plain"
    recipes_phi.save_phi3(recipes_phi.tokenizer(made["smollm2_folder"]), plain, 16384)
    build_onnx(plain, out, "fp32", "exclude_embeds=true")
    for name, graph in (("embedding", _embedding_graph(plain)), ("vision", _vision_graph(64))):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        checker.check_model(model)
        save(model, out / f"{name}.onnx")
    path = out / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"] |= {"type": "phi3v", "embedding": _EMBEDDING, "vision": _VISION}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    (out / "processor_config.json").write_text(json.dumps(_PROCESSOR), encoding="utf-8")


_EMBEDDING = {
    "filename": "embedding.onnx",
    "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
    "outputs": {"inputs_embeds": "inputs_embeds"},
}
_VISION = {
    "filename": "vision.onnx",
    "config_filename": "processor_config.json",
    "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
    "outputs": {"image_features": "image_features"},
}
_DOMAIN = "com.microsoft.extensions"
_STEPS = (
    {"name": "decode_image", "domain": _DOMAIN, "type": "DecodeImage", "attrs": {"color_space": "BGR"}},
    {"name": "convert_to_rgb", "domain": _DOMAIN, "type": "ConvertRGB"},
    {
        "name": "phi3_image_transform",
        "domain": _DOMAIN,
        "type": "Phi3ImageTransform",
        "attrs": {"num_crops": 4, "num_img_tokens": 144},
    },
)
_PROCESSOR = {"processor": {"name": "image_processing", "transforms": [{"operation": step} for step in _STEPS]}}


def _constant(name: str, value: Any) -> Any:
    import numpy
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy.asarray(value), name)


def _embedding_graph(folder: Path) -> Any:
    """Return the graph that turns token ids into vectors; where an id is negative, the next one of an image stands."""
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file

    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    size, node, value = table.shape[1], helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Less", ["input_ids", "zero"], ["is_image"]),
        node("Where", ["is_image", "zero", "input_ids"], ["ids"]),
        node("Gather", ["table", "ids"], ["of_words"]),
        node("NonZero", ["is_image"], ["places"]),
        node("Transpose", ["places"], ["where"], perm=[1, 0]),
        node("ScatterND", ["of_words", "where", "image_features"], ["inputs_embeds"]),
    ]
    inputs = [
        value("input_ids", TensorProto.INT64, ["batch", "length"]),
        value("image_features", TensorProto.FLOAT, ["image_length", size]),
    ]
    output = value("inputs_embeds", TensorProto.FLOAT, ["batch", "length", size])
    return helper.make_graph(nodes, "embedding", inputs, [output], [_constant("table", table), _constant("zero", [0])])


def _vision_graph(size: int) -> Any:
    """Return the graph that gives as many vectors for each image as the engine wants for its crops, all of one colour.

    For h × w crops these are (h·w + 1)·144 + 1 + (h + 1)·12.
    """
    import numpy
    from onnx import TensorProto, helper

    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("ReduceMean", ["pixel_values", "pixels"], ["colour"], keepdims=0),
        node("MatMul", ["colour", "projection"], ["vector"]),
        node("Div", ["image_sizes", "crop_side"], ["crops"]),
        node("Gather", ["crops", "0"], ["high"], axis=1),
        node("Gather", ["crops", "1"], ["wide"], axis=1),
        node("Mul", ["high", "wide"], ["area"]),
        node("Add", ["area", "1"], ["with_whole"]),
        node("Mul", ["with_whole", "144"], ["patches"]),
        node("Add", ["high", "1"], ["rows"]),
        node("Mul", ["rows", "12"], ["line_ends"]),
        node("Add", ["patches", "line_ends"], ["both"]),
        node("Add", ["both", "1"], ["lengths"]),
        # Which image each of the vectors belongs to: the number of images that have ended before it.
        node("CumSum", ["lengths", "0"], ["ends"]),
        node("ReduceSum", ["lengths", "axis_0"], ["length"], keepdims=0),
        node("Range", ["0", "length", "1"], ["places"]),
        node("Unsqueeze", ["places", "axis_1"], ["column"]),
        node("Unsqueeze", ["ends", "axis_0"], ["row"]),
        node("GreaterOrEqual", ["column", "row"], ["behind"]),
        node("Cast", ["behind"], ["count"], to=TensorProto.INT64),
        node("ReduceSum", ["count", "axis_1"], ["which"], keepdims=0),
        node("Gather", ["vector", "which"], ["image_features"], axis=0),
    ]
    projection = numpy.random.default_rng(0).normal(0, 0.5, (3, size)).astype(numpy.float32)
    numbers: dict[str, Any] = {"0": 0, "1": 1, "12": 12, "144": 144, "crop_side": 336}
    numbers |= {"axis_0": [0], "axis_1": [1], "pixels": [1, 3, 4]}
    inputs = [
        value("pixel_values", TensorProto.FLOAT, ["images", "crops", 3, "height", "width"]),
        value("image_sizes", TensorProto.INT64, ["images", 2]),
    ]
    output = value("image_features", TensorProto.FLOAT, ["image_length", size])
    constants = [_constant("projection", projection), *(_constant(name, number) for name, number in numbers.items())]
    return helper.make_graph(nodes, "vision", inputs, [output], constants)


def tiny_projector(out: Path, made: dict[str, Path]) -> None:
    """Write a random CLIP with a projector to the embedded model's size, as llama.cpp reads it: ``projector.gguf``."""
    import gguf
    import numpy

    size = int(gguf.GGUFReader(made["weights"]).fields["llama.embedding_length"].contents())
    wide, inner, layers, heads, side, patch = 64, 128, 2, 2, 56, 14
    writer = gguf.GGUFWriter(out / "projector.gguf", "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "mlp")
    numbers = {"image_size": side, "patch_size": patch, "embedding_length": wide, "feed_forward_length": inner}
    numbers |= {"projection_dim": size, "block_count": layers, "attention.head_count": heads}
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5] * 3)

    random = numpy.random.default_rng(0)
    tensors = {
        "v.class_embd": (wide,),
        "v.patch_embd.weight": (wide, 3, patch, patch),
        "v.position_embd.weight": ((side // patch) ** 2 + 1, wide),
        "mm.0.weight": (size, wide),
        "mm.2.weight": (size, size),
    }
    for block in (f"v.blk.{number}." for number in range(layers)):
        tensors |= {f"{block}attn_{part}.weight": (wide, wide) for part in ("q", "k", "v", "out")}
        tensors |= {f"{block}ffn_up.weight": (inner, wide), f"{block}ffn_down.weight": (wide, inner)}
    for name, dimensions in tensors.items():
        scale = 0.3 if name.startswith("v.") else dimensions[-1] ** -0.5
        writer.add_tensor(name, random.normal(0, scale, dimensions).astype(numpy.float32))
    in_blocks = [f"v.blk.{number}.{norm}" for number in range(layers) for norm in ("ln1", "ln2")]
    for norm in ("v.pre_ln", "v.post_ln", *in_blocks):
        writer.add_tensor(f"{norm}.weight", numpy.ones(wide, numpy.float32))
        writer.add_tensor(f"{norm}.bias", numpy.zeros(wide, numpy.float32))
    for name, dimensions in tensors.items():
        if name.startswith(("v.blk.", "mm.")):
            writer.add_tensor(name.replace(".weight", ".bias"), numpy.zeros(dimensions[0], numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
