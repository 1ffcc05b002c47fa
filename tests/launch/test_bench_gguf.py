"""A quantized GGUF file becomes one of fp32 that means the same."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from launch.bench.gguf_f32 import write_f32


def test_weights_and_settings_are_kept(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    quantized = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    source, target = tmp_path / "q8.gguf", tmp_path / "f32.gguf"
    writer: Any = gguf.GGUFWriter(source, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(77)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("blk.0.w", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    write_f32(source, target)

    reader: Any = gguf.GGUFReader(target)
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "llama"
    assert values["llama.context_length"] == 77
    assert values["tokenizer.ggml.tokens"] == ["a", "b"]
    assert values["general.file_type"] == gguf.LlamaFileType.ALL_F32
    [tensor] = reader.tensors
    assert tensor.name == "blk.0.w"
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    expected = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(tensor.data.reshape(4, 64), expected)
    assert np.abs(expected - weights).max() < 0.03  # the quantized numbers, not others
