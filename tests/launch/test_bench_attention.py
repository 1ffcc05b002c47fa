"""Growth is fitted, exactness is seen to break, predictions are counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor

from launch.bench import attention, predictions
from launch.bench.attention import Scaling, exactness, fitted_exponent
from launch.bench.predictions import VOCABULARY, prediction_metrics
from launch.cli import main
from modeling import tree_attention
from modeling.shape import ModelShape

TINY = ModelShape(
    architecture="llama",
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.2,
)


def test_an_exponent_is_found_again() -> None:
    sizes = np.array([256, 512, 1024, 8192])
    assert fitted_exponent(sizes, 3e-6 * sizes**1.7) == pytest.approx(1.7)
    curve = Scaling("x", (1, 10), (2.0, 200.0), (5.0, 50.0))
    assert (curve.exponent, curve.counted_exponent) == pytest.approx((2.0, 1.0))


def test_tree_attention_is_exact_and_a_leak_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "EXACTNESS_LAYOUTS", attention.EXACTNESS_LAYOUTS[1:])
    metrics = exactness(TINY)
    assert 0.0 < metrics["attention.max_error_fp32"] < 1e-4
    assert 0.0 < metrics["attention.max_gradient_error_fp32"] < 1e-3

    def leaking(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2)

    monkeypatch.setattr(tree_attention, "merge_attention", leaking)
    assert exactness(TINY)["attention.max_error_fp32"] > 1e-2


def test_every_curve_is_measured_and_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(attention.SHAPES, "5m", TINY)
    monkeypatch.setattr(attention, "TARGET_COUNTS", (1, 2))
    monkeypatch.setattr(attention, "LAYER_COUNTS", (1, 2))
    monkeypatch.setattr(attention, "exactness", lambda shape: {})
    output = tmp_path / "plots"
    words = ["bench", "attention", "--trunks", "64,16", "--rounds", "1", "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    metrics = result["metrics"]
    assert metrics["attention.step_seconds_trunk_16"] > 0
    assert metrics["attention.kernel_seconds_trunk_64"] > 0
    # Layers are all the same: counted operations grow with them one for one, but for the head.
    assert metrics["attention.cost_exponent_in_layers_counted"] == pytest.approx(1.0, abs=0.3)
    assert "attention.cost_exponent_in_trunk" in metrics
    assert (output / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_of_one_point_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for trunks in ("256", "256,x", "0,5"):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "attention", "--trunks", trunks])
        assert ended.value.code == 2
    assert "--trunks" in capsys.readouterr().err


def test_the_growth_that_is_counted_for_a_kernel_tends_to_two() -> None:
    long = [1 << 20, 1 << 21]
    flops = [attention._kernel_flops(TINY, length, 1) for length in long]
    assert fitted_exponent(long, flops) == pytest.approx(2.0, abs=0.01)


def test_predictions_are_counted_for_the_models_that_they_name() -> None:
    assert predictions.SHAPES["8b"].n_parameters(VOCABULARY) == 8_030_261_248
    assert predictions.SHAPES["70b"].n_parameters(VOCABULARY) == 70_553_706_496
    found = {(one.model, one.work): one for one in predictions.predictions()}
    tree, single = found["8b", "train_tree"], found["8b", "train_l0"]
    assert (tree.tokens, single.tokens) == (600 + 32 * 40, 32 * 640)
    # Six operations per weight of the layers and token, and attention on top.
    layers = 8_030_261_248 - 2 * VOCABULARY * 4096
    assert tree.flops == pytest.approx(6 * layers * tree.tokens, rel=0.05)
    cold, warm = found["8b", "score_cold_k32"], found["8b", "score_warm_k32"]
    assert cold.flops == pytest.approx(tree.flops / 3)
    trunk = cold.flops - warm.flops
    assert trunk == pytest.approx(2 * layers * 600, rel=0.05)
    assert tree.gpu_seconds == pytest.approx(tree.flops / 989e12)
    assert tree.bound == "compute"
    one = found["8b", "score_warm_k1"]  # forty tokens: the weights take longer to read than to use
    assert one.bound == "memory"
    assert one.gpu_seconds == pytest.approx(2 * 8_030_261_248 / 3.35e12, rel=0.02)


def test_ratios_of_predictions_are_those_of_their_seconds() -> None:
    found = predictions.predictions()
    metrics = prediction_metrics(found)
    seconds = {(one.model, one.work): one.gpu_seconds for one in found}
    assert metrics["predict.h100_70b_train_tree_over_l0"] == pytest.approx(
        seconds["70b", "train_l0"] / seconds["70b", "train_tree"]
    )
    assert metrics["predict.h100_8b_score_warm_over_cold"] > 1.0


def test_the_table_says_that_nothing_ran(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "predict"])
    assert not ended.value.code
    told = capsys.readouterr()
    assert "no GPU was used" in told.err
    assert "score_warm_k1" in told.out


def test_the_guide_shows_what_is_counted_today() -> None:
    guide = (Path(predictions.__file__).parents[1] / "guides" / "benchmarks.md").read_text()
    for one in predictions.predictions():
        row = (
            f"| {one.model} | `{one.work}` | {one.tokens:,} | {one.flops / 1e12:,.1f} | "
            f"{one.n_bytes / 1e9:,.1f} | {one.gpu_seconds:.4f} | {one.bound} |"
        )
        assert row in guide
