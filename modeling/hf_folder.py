"""Writing a Hugging Face model folder that stock `transformers` reloads to the same numbers."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

_Auto: Any = AutoModelForCausalLM  # its methods have no types


def save_hf_folder(
    state: Mapping[str, torch.Tensor], config: PreTrainedConfig, folder: Path
) -> None:
    """Write weights, config and a plain generation config into `folder`.

    A tied head may be given or left out. `generation_config.json` holds the special tokens alone:
    sampling defaults of the base model would change what the tuned model decodes. Whoever needs
    the folder to appear whole gives a temporary one and renames it.

    Args:
        state: every weight by its name in `model.state_dict()`, whole and on one process.
        config: the model's config; neither changed nor kept.
        folder: made if it does not exist.

    Raises:
        ValueError: tensors without elements, missing or unknown names, shapes that do not fit the
            config, or a tied head that differs from the embedding.
    """
    refuse_empty(state)
    config = copy.deepcopy(config)
    config._name_or_path = ""  # the folder it once came from means nothing where it goes
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights given are plain numbers
    with torch.device("meta"):
        model: PreTrainedModel = _Auto.from_config(config, attn_implementation="sdpa")
    model.load_state_dict(_checked(state, model), strict=False, assign=True)
    model.tie_weights()
    hollow = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not hollow, f"weights that nobody gave: {hollow}"
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.save_pretrained(folder)


def refuse_empty(state: Mapping[str, torch.Tensor]) -> None:
    """Stop before tensors are written that hold nothing, as partitioned weights do.

    Raises:
        ValueError: there is no tensor, or one has no elements.
    """
    empty = [name for name, tensor in state.items() if tensor.numel() == 0]
    if empty or not state:
        raise ValueError(
            f"{len(empty)} of {len(state)} tensors to be saved have no elements ({_some(empty)}): "
            f"under ZeRO-3 a process holds only its part; gather the weights first"
        )


def _checked(state: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state in the model's names and memory layout, a tied weight under one name alone."""
    given = dict(state)
    for tied, source in model.all_tied_weights_keys.items():
        if tied not in given:
            continue
        weight = given.pop(tied)
        if not torch.equal(given.setdefault(source, weight), weight):
            raise ValueError(
                f"{tied} and {source} are tied in the config but hold different numbers: set "
                f"tie_word_embeddings to false, or save what the model computes with"
            )
    expected = model.state_dict()
    missing = expected.keys() - given.keys() - model.all_tied_weights_keys.keys()
    unknown = given.keys() - expected.keys()
    if missing or unknown:
        raise ValueError(
            f"the weights do not make a {type(model).__name__}: {len(missing)} are missing "
            f"({_some(missing)}), {len(unknown)} are unknown ({_some(unknown)})"
        )
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}; the config wants "
                f"{list(expected[name].shape)}"
            )
    return {name: tensor.detach().contiguous() for name, tensor in given.items()}


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "") if listed else "none"
