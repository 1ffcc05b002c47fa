"""Small decoders of every architecture that is proven exact, and forests to run them on."""

import torch
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from modeling.tree_attention import register
from modeling.tree_layout import TreeLayout

V = 61
SIZES = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,  # far from uniform outputs, so that a leak shows
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "smollm2": lambda: LlamaConfig(**{**SIZES, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=10, tie_word_embeddings=True),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
}
FOREST = TreeLayout((7, 0, 3, 5, 2, 0), ((3, 9, 2, 1), (4, 2), (), (6,), (11, 1, 30), (5,)))


SCORED_VOCABULARY = 53


def build(name: str, implementation: str = "brewhouse_tree") -> PreTrainedModel:
    register()
    config = CONFIGS[name]()
    if name == "mixtral":
        config._experts_implementation = "eager"  # grouped_mm knows no fp64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return model.eval()


def scored_backbone(dtype: torch.dtype = torch.float32, tied: bool = True) -> PreTrainedModel:
    """A backbone of ours whose logits lie far enough apart for a wrong score to show."""
    shape = ModelShape(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    return build_backbone(shape, vocab_size=SCORED_VOCABULARY, seed=1).to(dtype).eval()


def random_tokens(layout: TreeLayout, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V, (layout.n_tokens,), generator=generator)


@st.composite
def forests(draw: st.DrawFn) -> TreeLayout:
    """One to four trees, with branches attached anywhere along their trunks."""
    trunks = draw(st.lists(st.integers(0, 15), min_size=1, max_size=4))
    branches = [draw(st.lists(st.integers(1, 20), max_size=5)) for _ in trunks]
    attach = [
        [draw(st.sampled_from([trunk, trunk, draw(st.integers(0, trunk))])) for _ in own]
        for trunk, own in zip(trunks, branches, strict=True)
    ]
    if not sum(trunks) and not any(branches):
        trunks[0] = 1
    return TreeLayout(tuple(trunks), tuple(map(tuple, branches)), tuple(map(tuple, attach)))
