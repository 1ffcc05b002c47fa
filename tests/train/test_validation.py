"""Validation of a run on several corpora: a loss of each (corpus, task), and they add up."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from data_pipeline.build import compile_store, train_shared_tokenizer
from data_pipeline.corpus import Corpus
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore, open_stores
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.build import HISTORY, _evaluator
from train.config import TrainConfig
from train.distributed import DistributedContext
from train.objectives import LabelObjective
from train.tracking import JsonlSink, Tracker

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.2,  # losses far enough apart to tell them from each other
)
TASKS = {"like": 1.0, "next_genre": 1.0, "search_match": 1.0, "favourite_title": 1.0}


@pytest.fixture(scope="module")
def stores(
    tiny_corpus: Corpus, rich_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> list[TokenStore]:
    """Two corpora for one tokenizer; only the second has searches."""
    folder = tmp_path_factory.mktemp("two")
    corpora = [tiny_corpus, rich_corpus]
    train_shared_tokenizer(corpora, folder / "tokenizer", 1024)
    for number, corpus in enumerate(corpora):
        compile_store(corpus, folder / "tokenizer", folder / str(number))
    return open_stores([folder / "0", folder / "1"])


@pytest.fixture(scope="module")
def model(stores: list[TokenStore]) -> nn.Module:
    return build_backbone(SHAPE, vocab_size=stores[0].card.vocab_size, seed=1).eval()


def evaluated(stores: list[TokenStore], model: nn.Module, folder: Path) -> dict[str, Any]:
    """The line of metrics.jsonl that a run on these stores writes after three steps."""
    config = TrainConfig(
        model=SHAPE,
        stores=tuple(str(store.folder) for store in stores),
        output_dir=str(folder),
        max_steps=6,
        learning_rate=1e-3,
        per_device_train_batch_size=3,
        eval_strategy="steps",
        eval_max_targets=24,
        mixture=MixtureConfig(tasks=TASKS, history_events=6, targets_per_tree=8),
        seed=5,
    )
    mixture = Mixture(stores, config.mixture, seed=config.seed)
    n_tasks, n_corpora = len(mixture.tasks), len(stores)
    names = (*(task.name for task in mixture.tasks), HISTORY)
    folder.mkdir()
    tracker = Tracker([JsonlSink(folder / "metrics.jsonl")])
    evaluate = _evaluator(
        config,
        mixture,
        partial(pack, n_tasks=n_tasks, n_corpora=n_corpora),
        LabelObjective(n_tasks, n_corpora=n_corpora),
        SimpleNamespace(module=model),  # type: ignore[arg-type]
        tracker,
        names,
        DistributedContext(),
    )
    evaluate(3)
    tracker.close()
    (line,) = (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 3
    found: dict[str, Any] = line["evaluation"]
    return found


def test_each_corpus_and_task_has_its_loss_and_they_add_up(
    stores: list[TokenStore], model: nn.Module, tmp_path: Path
) -> None:
    found = evaluated(stores, model, tmp_path / "run")
    corpora = found["corpora"]
    assert list(corpora) == [store.card.corpus_name for store in stores]
    tiny, rich = corpora.values()
    assert {"like", "next_genre", "favourite_title"} <= set(tiny)
    assert set(tiny) | {"search_match"} == set(rich) == set(found["tasks"])

    parts = [(name, row) for tasks in corpora.values() for name, row in tasks.items()]
    weight = math.fsum(row["weight"] for _, row in parts)
    loss = math.fsum(row["loss"] * row["weight"] for _, row in parts)
    assert found["loss"] == pytest.approx(loss / weight)
    assert found["targets"] == sum(row["targets"] for _, row in parts)
    for name, whole in found["tasks"].items():
        rows = [row for task, row in parts if task == name]
        assert whole["targets"] == sum(row["targets"] for row in rows)
        assert whole["weight"] == pytest.approx(sum(row["weight"] for row in rows))
        mean = sum(row["loss"] * row["weight"] for row in rows) / whole["weight"]
        assert whole["loss"] == pytest.approx(mean)
    # Not one loss under two names: the corpora are asked different questions.
    assert tiny["like"]["loss"] != pytest.approx(rich["like"]["loss"], rel=1e-3)


def test_a_corpus_is_asked_the_same_as_alone(
    stores: list[TokenStore], model: nn.Module, tmp_path: Path
) -> None:
    together = evaluated(stores, model, tmp_path / "both")["corpora"]
    for number, store in enumerate(stores):
        config = MixtureConfig(tasks=TASKS, history_events=6, targets_per_tree=8)
        tasks = Mixture(stores, config, seed=5).tasks
        questions = EvaluationSet(
            store, tasks, phase=Phase.VALIDATION, config=config, seed=5, max_targets=24
        )
        asked = {name: count for name, count in questions.targets.items() if count}
        rows = together[store.card.corpus_name]
        assert {name: row["targets"] for name, row in rows.items()} == asked
        if number == 1:  # it has every task, so a run on it alone is set up alike
            alone = evaluated([store], model, tmp_path / "alone")
            assert "corpora" not in alone
            assert set(alone["tasks"]) == set(rows)
            for name, row in rows.items():
                assert alone["tasks"][name]["loss"] == pytest.approx(row["loss"], rel=1e-5)
