import json
import re
from pathlib import Path

import pytest

from data_pipeline.tasks import all_tasks
from launch.commands.config import config_schema_command
from train.config import load_config, to_yaml
from train.config_checks import ZERO_PRESETS
from train.distributed.zero_config import deepspeed_config, template

RECIPES = Path(__file__).resolve().parents[2] / "launch" / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
# hidden size, parameters, ranks that the comment on top speaks of
SIZES = {
    "llama_3_3_70b.yaml": (8192, 70_553_706_496, 8),
    "mixtral_8x22b.yaml": (6144, 140_630_071_296, 16),
    "quickstart.yaml": (128, 2_100_000, 2),
    "quickstart_lora.yaml": (128, 2_100_000, 2),
    "qwen3_8b.yaml": (4096, 8_190_735_360, 8),
    "smollm2_135m_full.yaml": (576, 134_515_008, 1),
    "smollm2_135m_lora.yaml": (576, 134_515_008, 1),
    "tiny_movielens.yaml": (128, 1_800_000, 2),
}


def test_every_recipe_is_tested() -> None:
    assert sorted(SIZES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_strictly_and_derives_a_deepspeed_config(name: str, tmp_path: Path) -> None:
    config = load_config(RECIPES / name)
    hidden_size, n_parameters, ranks = SIZES[name]
    for world_size in (1, 2, ranks):
        settings = deepspeed_config(
            config,
            world_size=world_size,
            device_type="cuda",
            bf16=True,
            hidden_size=hidden_size,
            n_parameters=n_parameters,
        )
        assert settings["train_batch_size"] == config.global_batch_size
    saved = tmp_path / name
    saved.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(saved) == config


@pytest.mark.parametrize("name", NAMES)
def test_recipe_says_on_top_what_it_takes(name: str) -> None:
    top = re.match(r"(?:#.*\n)+", (RECIPES / name).read_text("utf-8"))
    assert top is not None
    for word in ("Hardware", "Time", "Expect", "Command"):
        assert re.search(rf"^# {word}:  ?\S", re.sub(" +", " ", top[0]), re.MULTILINE), word
    assert f"brewhouse train launch/recipes/{name}" in top[0]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_tasks_that_exist(name: str) -> None:
    tasks = all_tasks()
    known = set(tasks) | {task.family for task in tasks.values()}
    assert set(load_config(RECIPES / name).mixture.tasks) <= known


@pytest.mark.parametrize("name", ["quickstart.yaml", "tiny_movielens.yaml"])
def test_small_recipe_has_the_size_it_says(name: str) -> None:
    shape = load_config(RECIPES / name).model
    assert shape is not None
    body = shape.n_parameters(vocab_size=0)
    said = re.search(r"([0-9.]+) million weights", (RECIPES / name).read_text())
    assert said is not None
    assert float(said[1]) == round(body / 1e6, 1)


def test_deepspeed_files_are_the_presets() -> None:
    files = {path.name for path in (RECIPES / "deepspeed").iterdir()}
    assert files == {f"ds_{name.replace('zero', 'z')}.json" for name in ZERO_PRESETS}
    for preset in ZERO_PRESETS:
        path = RECIPES / "deepspeed" / f"ds_{preset.replace('zero', 'z')}.json"
        assert json.loads(path.read_text("utf-8")) == template(preset)


def test_schema_command_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    config_schema_command()
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["max_steps"]["type"] == "integer"
    for name in NAMES:
        keys = set(re.findall(r"^(\w+):", (RECIPES / name).read_text("utf-8"), re.MULTILINE))
        assert keys <= set(schema["properties"])
