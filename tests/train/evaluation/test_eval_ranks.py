"""Two real processes give the result of one, and write it once."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks

from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.config import TrainConfig, to_yaml
from train.distributed import DistributedContext
from train.evaluation.against import compare, read_recorded
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.results import Results, read_results
from train.evaluation.run import parse_job, run_evaluation

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
TASKS = ("like", "will_watch", "next_item_title", "pairwise", "impute_genre", "taste_summary")
SETTINGS = [
    *("--resamples", "50", "--baseline-trees", "40"),
    *("--max-targets", "24", "--max-title-targets", "4", "--max-tokens", "1500"),
    *("--calibration-targets", "24", "--baseline-trials", "1"),
]


@pytest.fixture(scope="module")
def run(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint is a model of another seed than the run's own."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    folder.mkdir()
    config = TrainConfig(
        model=SHAPE,
        stores=(str(tiny_store.folder),),
        mixture=MixtureConfig(
            targets_per_tree=8,
            history_events=6,
            tasks=dict.fromkeys(TASKS, 1.0),
        ),
        output_dir=str(folder),
        max_steps=1,
        learning_rate=1e-3,
        seed=4,
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    model = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=5)
    with torch.no_grad():  # sharp, as after training: no two titles as likely but for rounding
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    model.save_pretrained(folder / "model")
    return folder


def numbers(value: object) -> list[float]:
    """Every number of a result, in order."""
    if isinstance(value, dict):
        return [x for part in value.values() for x in numbers(part)]
    if isinstance(value, list):
        return [x for part in value for x in numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


def same_rows(one: Results, two: Results) -> int:
    """Same micro-batches, same resamples: what is left is the rounding of the processor."""
    for a, b in zip(one.rows, two.rows, strict=True):
        a_numbers, b_numbers = numbers(asdict(a)), numbers(asdict(b))
        assert a_numbers == pytest.approx(b_numbers, abs=1e-5), (a.task, a.x)
        assert a.targets_hash == b.targets_hash
    return len(one.rows)


def test_two_processes_equal_one(run: Path, tmp_path: Path) -> None:
    outputs = {size: tmp_path / f"by {size}" for size in (1, 2)}
    commands = {
        size: [*SETTINGS, "--run", str(run), "--output", str(output)]
        for size, output in outputs.items()
    }
    names = ("shots", "cold_items", "summary")
    curves = [*(word for name in names for word in ("--curve", name)), "--task", "like"]
    curves.append("--no-baselines")
    for more in ([], curves):
        run_evaluation(parse_job([*commands[1], *more]), DistributedContext())
        words = ["-m", "train.evaluation.run", *commands[2], *more]
        run_ranks(words, 2, tmp_path / f"ranks{len(more)}.log")
    for output in outputs.values():
        assert (output / "examples.json").is_file()
    recorded = [read_recorded(output / "results.json") for output in outputs.values()]
    for name in names:
        one, two = (read_results(output / f"curve-{name}.json") for output in outputs.values())
        assert same_rows(one, two) >= 2
        assert one.curve == two.curve
    # Every prediction is the same, so that a comparison finds nothing.
    same = compare(*recorded, BootstrapConfig(resamples=50))
    compared = {row.task for row in same.rows}
    for row in same.rows:
        assert row.value == pytest.approx(row.other_value, abs=1e-5)
        assert row.difference.value == pytest.approx(0.0, abs=1e-5)
    one, two = (each.results for each in recorded)
    assert (one.world_size, two.world_size) == (1, 2)
    assert [row.task for row in one.rows if row.tier == "T1"] == [*TASKS]
    assert {row.tier for row in one.rows} == {"T1", "T2a"}, "unseen questions are asked as well"
    assert [row.task for row in one.rows] == [row.task for row in two.rows]
    assert compared == {row.task for row in one.rows}
    same_rows(one, two)
    assert one.corpora == two.corpora
    assert one.model_hash == two.model_hash
    assert one.untrained == "qwen3, random weights of seed 4"
    assert one.rows[0].value != one.rows[0].untrained_value
