"""Every recipe, two steps on CPU, two processes: its own tasks, ZeRO stage, LoRA and schedule.

Production sizes cannot run here, so the weights are a few thousand numbers of the same
architecture, built with the store's tokenizer; everything else is the recipe's own.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rank_processes import run_ranks

import launch
from data_pipeline.build import compile_store
from data_pipeline.corpus import Corpus
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone
from modeling.hf_folder import save_hf_folder
from modeling.shape import ModelShape

RECIPES = sorted((Path(launch.__file__).parent / "recipes").glob("*.yaml"))
WORKER = Path(__file__).parent / "every_recipe_worker.py"
ARCHITECTURES = {
    "llama_3_3_70b": "llama",
    "mixtral_8x22b": "mixtral",
    "qwen3_8b": "qwen3",
    "smollm2_135m_full": "llama",
    "smollm2_135m_lora": "llama",
    "quickstart_lora": "qwen3",
}


def small_shape(architecture: str, tied: bool) -> ModelShape:
    experts = (
        {"num_local_experts": 4, "num_experts_per_tok": 2} if architecture == "mixtral" else {}
    )
    return ModelShape(
        architecture=architecture,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        **experts,
    )


def small_folder(store: TokenStore, name: str, folder: Path) -> Path:
    architecture = ARCHITECTURES[name]
    shape = small_shape(architecture, tied="smollm2" in name or "quickstart" in name)
    model = build_backbone(shape, vocab_size=store.card.vocab_size, seed=0)
    folder.mkdir(parents=True)
    save_hf_folder(model.state_dict(), model.config, folder)
    store.encoder.save(folder)
    return folder


def compiled_surfaces(ratings: Corpus, everything: TokenStore, tmp_path: Path) -> list[TokenStore]:
    """Stores for the recipe with the most of them: the first of ratings alone."""
    first = compile_store(ratings, everything.tokenizer_folder, tmp_path / "stores" / "0")
    others = [tmp_path / "stores" / str(number) for number in (1, 2, 3)]
    for folder in others:
        shutil.copytree(everything.folder, folder)
    return [first, *map(TokenStore.open, others)]


def prepared(path: Path, surfaces: list[TokenStore], tmp_path: Path) -> dict[str, Any]:
    """The recipe with what a laptop must change: data, weights, place and length."""
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    n_stores = len(recipe["stores"])
    if "model" in recipe:
        recipe["model"] = {
            **dict(recipe["model"]), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2,
        }  # fmt: skip
    else:
        folder = small_folder(surfaces[0], path.stem, tmp_path / "weights" / path.stem)
        recipe["model_name_or_path"] = str(folder)
    # A batch of two trees per rank, whatever number of GPUs the recipe is for.
    recipe.pop("gradient_accumulation_steps", None)
    return recipe | {
        "stores": [str(store.folder) for store in surfaces[:n_stores]],
        "output_dir": str(tmp_path / "runs" / path.stem),
        "report_to": "none",
        "bf16": False,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "global_batch_size": 4,
        "logging_steps": 1,
        "eval_steps": 2,
        "eval_max_targets": 4,
        "save_steps": 2,
    }


@pytest.fixture(scope="module")
def ran(
    tiny_corpus: Corpus, rich_store: TokenStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    tmp_path = tmp_path_factory.mktemp("recipes")
    configs = tmp_path / "configs"
    configs.mkdir()
    surfaces = compiled_surfaces(tiny_corpus, rich_store, tmp_path)
    for path in RECIPES:
        text = yaml.safe_dump(prepared(path, surfaces, tmp_path))
        (configs / path.name).write_text(text, encoding="utf-8")
    printed = run_ranks([str(WORKER), str(configs)], 2, tmp_path / "log.txt")
    names = [line.split()[1] for line in printed.splitlines() if line.startswith("ran ")]
    return tmp_path / "runs", names


def test_there_is_a_run_of_every_recipe(ran: tuple[Path, list[str]]) -> None:
    _, names = ran
    assert len(RECIPES) >= 7
    assert names == [path.stem for path in RECIPES]


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_a_recipe_learns_and_leaves_a_checkpoint(ran: tuple[Path, list[str]], name: str) -> None:
    run = ran[0] / name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(0 < line["loss"] < 20 and line["grad_norm"] > 0 for line in steps)
    assert (run / "latest").read_text().strip() == "checkpoint-2"
    weights = list((run / "checkpoint-2" / "model").glob("*.safetensors"))
    assert weights
    assert all(path.stat().st_size > 1000 for path in weights)
