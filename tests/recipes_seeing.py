"""Recipe for `engine_models`: a LLaVA for OpenVINO. Its language part is the embedded model, its eyes are random.

OpenVINO wants the parts of such a model apart. None of this needs the exporter of Hugging Face, which would want an
environment of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def llava_openvino(out: Path, made: dict[str, Path]) -> None:
    """Write the parts: eyes, table of word vectors, language model, tokenizer."""
    import openvino
    from safetensors.numpy import load_file

    plain, seeing = made["smollm2_openvino"], made["tiny_llava"]
    config = json.loads((seeing / "config.json").read_text(encoding="utf-8"))
    language = openvino.Core().read_model(plain / "openvino_model.xml")
    table = load_file(made["smollm2_folder"] / "model.safetensors")["model.embed_tokens.weight"]
    openvino.save_model(_without_table(language, table.shape[1]), out / "openvino_language_model.xml", False)
    openvino.save_model(_table(table), out / "openvino_text_embeddings_model.xml", False)
    eyes = _eyes(config["vision_config"], table.shape[1])
    openvino.save_model(eyes, out / "openvino_vision_embeddings_model.xml", False)
    _tokenizer(seeing, out)

    config["text_config"] = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    images = json.loads((seeing / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    (out / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"):
        shutil.copy(seeing / name, out)
    shutil.copy(plain / "generation_config.json", out)


def _without_table(model: Any, size: int) -> Any:
    """Let a language model take vectors where it took token ids."""
    import openvino
    from openvino import opset13

    ids = next(parameter for parameter in model.get_parameters() if "input_ids" in parameter.output(0).get_names())
    vectors = opset13.parameter([-1, -1, size], openvino.Type.f32, "inputs_embeds")
    vectors.output(0).set_names({"inputs_embeds"})
    vectors.set_friendly_name("inputs_embeds")
    found = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Gather" and _reads(node, ids))
    for reader in found.output(0).get_target_inputs():
        reader.replace_source_output(vectors.output(0))
    # What else looks at the ids wants their number, which is that of the vectors.
    lengths = opset13.reduce_sum(opset13.convert(vectors, "i64"), opset13.constant([2]))
    for reader in ids.output(0).get_target_inputs():
        reader.replace_source_output(lengths.output(0))
    model.add_parameters([vectors])
    model.remove_parameter(ids)
    model.validate_nodes_and_infer_types()
    return model


def _reads(node: Any, source: Any) -> bool:
    """Return whether a node's input comes from ``source``, perhaps converted."""
    given = node.input_value(1).get_node()
    while given.get_type_name() == "Convert":
        given = given.input_value(0).get_node()
    return bool(given.get_friendly_name() == source.get_friendly_name())


def _table(rows: Any) -> Any:
    """Return the model that gives a vector for each id, with one more row for the tag of an image."""
    import numpy
    import openvino
    from openvino import opset13

    ids = opset13.parameter([-1, -1], openvino.Type.i64, "input")
    ids.output(0).set_names({"input"})
    rows = numpy.concatenate([rows, numpy.zeros_like(rows[:1])])
    vectors = opset13.gather(opset13.constant(rows), ids, opset13.constant(0))
    vectors.output(0).set_names({"inputs_embeds"})
    return openvino.Model([vectors], [ids], "table")


def _eyes(shape: dict[str, Any], size: int) -> Any:
    """Return a random CLIP with a projector."""
    import openvino
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    class Eyes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = CLIPVisionModel(CLIPVisionConfig(**shape))
            self.projector = torch.nn.Linear(shape["hidden_size"], size)

        def forward(self, pixel_values: Any) -> Any:
            return self.projector(self.clip(pixel_values).last_hidden_state[:, 1:])

    torch.manual_seed(0)
    side = shape["image_size"]
    model = openvino.convert_model(Eyes().eval(), example_input={"pixel_values": torch.zeros(1, 3, side, side)})
    model.output(0).set_names({"last_hidden_state"})
    return model


def _tokenizer(folder: Path, out: Path) -> None:
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    parts = convert_tokenizer(words, with_detokenizer=True)
    for name, part in zip(("tokenizer", "detokenizer"), parts, strict=True):
        openvino.save_model(part, out / f"openvino_{name}.xml", False)
