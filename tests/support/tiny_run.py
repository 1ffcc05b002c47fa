"""A run folder with one small checkpoint, as training leaves it, made without training."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel

from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone
from modeling.hf_folder import save_hf_folder
from modeling.lora import add_lora, save_adapter
from modeling.shape import ModelShape
from train.checkpoint import STATE, TrainerState
from train.config import TrainConfig, to_yaml
from train.distributed import DistributedContext
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.run import EvaluationJob, run_evaluation

SHAPE = ModelShape(
    architecture="llama",
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,  # logits far enough apart to tell a wrong model
)
MIXTURE = MixtureConfig(history_events=6, targets_per_tree=8)


def make_tiny_run(
    run: Path,
    store: TokenStore,
    *,
    shape: ModelShape = SHAPE,
    mixture: MixtureConfig = MIXTURE,
) -> Path:
    """Write a run of a tiny Llama; gives the run."""
    model = build_backbone(shape, vocab_size=store.card.vocab_size, seed=1, eos_token_id=0)
    folder = _checkpoint(run, store)
    save_hf_folder(model.state_dict(), model.config, folder)
    config = TrainConfig(
        model=shape,
        stores=(str(store.folder),),
        output_dir=str(run),
        max_steps=1,
        learning_rate=1e-3,
        mixture=mixture,
    )
    (run / "config.yaml").write_text(to_yaml(config))
    return run


def make_tiny_lora_run(run: Path, base: Path, store: TokenStore, *, trained: bool = True) -> Path:
    """Write a run of an adapter on the tiny run `base`; gives the run."""
    base_folder = base / "checkpoint-1" / "model"
    model = build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=1, eos_token_id=0)
    adapted = add_lora(model, rank=4, alpha=8, seed=2)
    if trained:
        fill_adapter(adapted)
    folder = _checkpoint(run, store)
    save_adapter(adapted, folder, base=str(base_folder))
    config = TrainConfig(
        model_name_or_path=str(base),
        finetuning_type="lora",
        stores=(str(store.folder),),
        output_dir=str(run),
        max_steps=1,
        learning_rate=1e-3,
        mixture=MIXTURE,
    )
    (run / "config.yaml").write_text(to_yaml(config))
    return run


def fill_adapter(model: PeftModel) -> None:
    """Give every lora_B numbers, as if it had been trained."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=generator)


def _checkpoint(run: Path, store: TokenStore) -> Path:
    folder = run / "checkpoint-1" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "manifest.json").write_text("{}")
    (run / "latest").write_text("checkpoint-1\n")
    shutil.copytree(store.tokenizer_folder, folder, dirs_exist_ok=True)
    return folder


def evaluate_tiny_run(run: Path, *, targets: int, max_targets: int = 30) -> Path:
    """Evaluate a tiny run as if it had learned from so many targets; gives the run."""
    state = TrainerState(step=1, targets=targets, tokens=10 * targets)
    (run / "checkpoint-1" / STATE).write_text(json.dumps(asdict(state)))
    settings = EvaluationConfig(
        max_targets=max_targets,
        calibration_targets=0,
        with_baselines=False,
        max_tokens=2000,
        bootstrap=BootstrapConfig(resamples=100),
    )
    job = EvaluationJob(run=run, tasks=("like", "rating"), settings=settings)
    run_evaluation(job, DistributedContext())
    return run
