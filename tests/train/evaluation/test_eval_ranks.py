"""Two real processes give the result of one, and write it once."""

from pathlib import Path

import pytest
from rank_processes import run_ranks

from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.config import TrainConfig, to_yaml
from train.evaluation.results import Results, read_results

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
COMMAND = [
    *("-m", "train.evaluation.run", "--resamples", "50", "--baseline-trees", "40"),
    *("--max-targets", "24", "--max-title-targets", "4", "--max-tokens", "1500"),
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
            tasks=dict.fromkeys(
                ("like", "pairwise", "will_watch", "next_item_title", "impute_genre"), 1.0
            ),
        ),
        output_dir=str(folder),
        max_steps=1,
        learning_rate=1e-3,
        seed=4,
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    model = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=5)
    model.save_pretrained(folder / "model")
    return folder


def evaluated(run: Path, tmp_path: Path, world_size: int) -> Results:
    output = tmp_path / f"by {world_size}"
    command = [*COMMAND, "--run", str(run), "--output", str(output)]
    run_ranks(command, world_size, tmp_path / f"{world_size}.log")
    assert (output / "examples.json").is_file()
    assert len(list(output.glob("baselines-*.json"))) == 1
    return read_results(output / "results.json")


def test_two_processes_equal_one(run: Path, tmp_path: Path) -> None:
    one, two = (evaluated(run, tmp_path, size) for size in (1, 2))
    assert (one.world_size, two.world_size) == (1, 2)
    assert one.rows == two.rows  # bit for bit: values, intervals, baselines, comparisons
    assert one.corpora == two.corpora
    assert one.model_hash == two.model_hash
    assert [row.task for row in one.rows] == [
        *("like", "will_watch", "next_item_title", "pairwise", "impute_genre"),
    ]
    assert one.untrained == "qwen3, random weights of seed 4"
    like = next(row for row in one.rows if row.task == "like")
    assert like.value != like.untrained_value
