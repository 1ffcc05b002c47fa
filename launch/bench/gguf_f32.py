"""A quantized GGUF file written with fp32 weights, so that llama.cpp computes with our numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_f32(source: Path, target: Path) -> None:
    """Copy a GGUF file with every tensor in fp32: what the quantized numbers mean exactly."""
    reader: Any = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer: Any = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        # The writer makes these itself.
        if name == "general.architecture" or name.startswith("GGUF."):
            continue
        kind, *inner = field.types
        if name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
            continue
        writer.add_key_value(name, field.contents(), kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
