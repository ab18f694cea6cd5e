"""The forms that model files come in, by the names that drivers use (`DriverInfo.weights`)."""

from __future__ import annotations

GGUF = "gguf"
"""One file, or the numbered parts of one."""

SAFETENSORS = "safetensors"
"""A repository's own folder, with a config.json: what Transformers and MLX read."""

ONNX = "onnx"
"""A folder for ONNX Runtime GenAI."""

OPENVINO = "openvino"
"""A folder that was exported for OpenVINO."""

ONNX_MARKS = ("genai_config.json",)
"""The file that makes a folder one for ONNX Runtime GenAI."""

OPENVINO_MARKS = ("openvino_model.xml", "openvino_language_model.xml")
"""The files of which one makes a folder one for OpenVINO: that of a text model, or of one with vision."""
