"""The decoder: from a shape, a folder, a GGUF file or the hub; tree attention and fp32 head.

Stock `transformers` models, changed in two places only: attention runs over trees
(`modeling.tree_attention`) and the output head computes in fp32 (`modeling.head`). Neither shows
in a saved folder.
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from modeling.head import use_fp32_head
from modeling.shape import ModelShape
from modeling.tree_attention import TREE_ATTENTION, register
from modeling.weights import resolve_weights

log = logging.getLogger(__name__)

_Auto: Any = AutoModelForCausalLM  # its methods have no types

_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mixtral": MixtralConfig,
    "qwen3": Qwen3Config,
}
_PROVEN = ("llama", "mixtral", "qwen3")
"""Model types whose packing the tests prove exact; others run, with a warning."""

_LAYERS_WITHOUT_STATE = {"full_attention", "sliding_attention"}


class ParameterCount(NamedTuple):
    """Numbers of weights; a weight that stands under two names counts once."""

    total: int
    trainable: int


def build_backbone(
    shape: ModelShape,
    *,
    vocab_size: int,
    seed: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> PreTrainedModel:
    """Make a decoder with random weights, fp32, the same for the same seed.

    The caller's random numbers do not move.

    Raises:
        ValueError: a special token lies outside of the vocabulary.
    """
    special = {"bos": bos_token_id, "eos": eos_token_id, "pad": pad_token_id}
    for name, token in special.items():
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(
                f"{name}_token_id={token} lies outside of a vocabulary of {vocab_size}"
            )
    config = _config_of(shape, vocab_size)
    register()
    with isolated_seed(seed):
        model: PreTrainedModel = _Auto.from_config(
            config, attn_implementation=TREE_ATTENTION, dtype=torch.float32
        )
    for name, token in special.items():  # afterwards: a padding token would get a row of zeros
        setattr(model.config, f"{name}_token_id", token)
        setattr(model.generation_config, f"{name}_token_id", token)
    return _prepared(model)


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    cache_dir: Path | None = None,
) -> PreTrainedModel:
    """Load a decoder, in eval mode, by the names that `modeling.weights.resolve_weights` knows.

    Only safetensors are read, and no code that comes with a model is ever run.

    Args:
        name_or_path: a folder, a `.gguf` file, `package:NAME` or a hub id.
        dtype: of the weights in memory.
        revision: branch, tag or commit of a hub id.
        cache_dir: where converted GGUF files are kept.

    Raises:
        ValueError: no such model, weights that are broken or incomplete, or an architecture whose
            attention cannot follow trees.
    """
    source = resolve_weights(name_or_path, cache_dir)
    options: dict[str, Any] = {"trust_remote_code": False, "revision": revision or "main"}
    with _readable(source):
        config = AutoConfig.from_pretrained(source, **options)
    check_architecture(config)
    register()
    with _readable(source):
        model, report = _Auto.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            attn_implementation=TREE_ATTENTION,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    absent = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if absent:
        raise ValueError(
            f"the weights of {source} lack {len(absent)} tensors that its config asks for, such as "
            f"{absent[0]}: the files are incomplete or belong to another config"
        )
    return _prepared(model)


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse a model whose layers would let trees or branches see each other.

    Raises:
        ValueError: it is no causal LM, its attention cannot be exchanged, or it has layers that
            carry a state along the row.
    """
    name = config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not getattr(config, "is_decoder", True):
        raise ValueError(
            f"{name} is no causal language model: choose one like {', '.join(_PROVEN)}"
        )
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    layers = set(getattr(config, "layer_types", None) or ()) - _LAYERS_WITHOUT_STATE
    if layers or getattr(model_class, "_is_stateful", False):
        raise ValueError(
            f"{name} has layers that carry a state along the row "
            f"({', '.join(sorted(layers)) or 'recurrent'}), so branches could not be kept apart: "
            f"choose a model of attention layers like {', '.join(_PROVEN)}"
        )
    if not getattr(model_class, "_supports_attention_backend", False):
        raise ValueError(
            f"{name} does not take its attention from transformers' attention interface, so it "
            f"cannot run {TREE_ATTENTION}: choose one like {', '.join(_PROVEN)}"
        )
    if name not in _PROVEN:
        log.warning(
            "%s is not among the architectures whose packing is tested (%s): check it with "
            "modeling.exactness.packing_differences",
            name,
            ", ".join(_PROVEN),
        )


def without_adapters(model: nn.Module) -> Any:
    """The causal LM inside of peft's wrapper, its adapted layers included; or the model itself."""
    causal: Any = model
    return causal.get_base_model() if hasattr(causal, "get_base_model") else causal


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count weights, whole ones even where ZeRO-3 has left this process a part."""
    sizes = [(int(getattr(p, "ds_numel", p.numel())), p.requires_grad) for p in model.parameters()]
    return ParameterCount(sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable))


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Seed torch inside the block and leave the caller's random state as it was."""
    devices = list(range(torch.cuda.device_count())) if _cuda_in_use() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


def _cuda_in_use() -> bool:
    """Whether this process has touched a GPU; asking must not be what touches it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def nearest(name: str, right: Iterable[str]) -> str:
    """A message's tail: what the name may have meant, and all that it could be."""
    right = sorted(right)
    close = difflib.get_close_matches(name, right, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}There are: {', '.join(right)}"


def _config_of(shape: ModelShape, vocab_size: int) -> PreTrainedConfig:
    make: Callable[..., PreTrainedConfig] = _CONFIGS[shape.architecture]
    experts = {
        "num_local_experts": shape.num_local_experts,
        "num_experts_per_tok": shape.num_experts_per_tok,
    }
    return make(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.rms_norm_eps,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **(experts if shape.num_local_experts is not None else {}),
    )


def _prepared(model: PreTrainedModel) -> PreTrainedModel:
    use_fp32_head(model)
    # transformers gives the padding token's row no gradient. A packed row has no padding, and in
    # many tokenizers that token is also the one which ends a text.
    embedding: Any = model.get_input_embeddings()
    embedding.padding_idx = None
    return model


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """Say in our words what reading a model folder or the hub failed of."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"a weights file of {source} is broken or cut off: {error}") from error
    except (OSError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        if Path(source).is_dir():
            raise ValueError(f"the model folder {source} cannot be read: {first_line}") from error
        raise ValueError(
            f"{source} is no local folder, and as a hub id it cannot be loaded: {first_line} Check "
            f"the spelling, the network and your access to it, or give a folder"
        ) from error
