"""Compiled layers compute what the layers did, whatever the row's layout."""

from typing import Any

import pytest
import torch

from modeling.backbone import build_backbone
from modeling.compilation import compile_layers
from modeling.label_scores import label_logits
from modeling.shape import ModelShape
from modeling.tree_attention import register
from modeling.tree_layout import TreeLayout

SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def logits(model: Any, layout: TreeLayout) -> torch.Tensor:
    tokens_T = torch.arange(layout.n_tokens) % 50
    return label_logits(model, tokens_T, layout.positions(), layout, tokens_T[:5])


def test_layers_are_compiled_once_for_all_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic: real(f, dynamic=dynamic, backend=backend)
    )
    torch._dynamo.reset()
    model = build_backbone(SHAPE, vocab_size=50, seed=0)
    names = set(model.state_dict())
    layouts = [TreeLayout((n,), ((3, n + 2), (4,) * n)[:1]) for n in range(5, 12)]
    before = [logits(model, layout) for layout in layouts]
    compile_layers(model)
    try:
        after = [logits(model, layouts[0])]
        first = len(compiled)
        after += [logits(model, layout) for layout in layouts[1:]]
    finally:
        register()
    torch.testing.assert_close(after, before)
    assert first > 0
    assert len(compiled) == first
    assert set(model.state_dict()) == names
