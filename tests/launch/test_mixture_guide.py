"""The guide to mixtures: every YAML of it loads, mixes two stores, and does what is said."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.store import TokenStore
from train.config import TrainConfig, load_config

GUIDE = Path(__file__).resolve().parents[2] / "launch" / "guides" / "mixture.md"
TEXT = GUIDE.read_text(encoding="utf-8")
WHOLE, *PARTS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def loaded(folder: Path, part: str, overrides: tuple[str, ...] = ()) -> TrainConfig:
    """The guide's run with the mixture of one of its blocks."""
    content: dict[str, Any] = yaml.safe_load(WHOLE) | yaml.safe_load(part)
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_config(path, overrides)


@pytest.mark.parametrize("part", [WHOLE, *PARTS])
def test_every_block_is_a_mixture_of_two_stores(
    tmp_path: Path, tiny_store: TokenStore, rich_store: TokenStore, part: str
) -> None:
    config = loaded(tmp_path, part)
    given = yaml.safe_load(part)["mixture"]
    assert config.mixture != MixtureConfig()
    assert set(given) <= set(MixtureConfig.__dataclass_fields__)
    # Past actions are supervised where they differ in one token: the tiny store has ratings only.
    store = tiny_store if config.mixture.history_loss_weight else rich_store
    mixture = Mixture([store, store], config.mixture, seed=config.seed)
    assert bool(mixture[0].branches) == bool(config.mixture.moments_per_tree)
    assert mixture[0].branches or mixture[0].trunk_labels.targets
    assert {mixture[index].corpus for index in range(20)} == {0, 1}


def test_every_setting_of_a_mixture_is_explained() -> None:
    for name in MixtureConfig.__dataclass_fields__:
        if name != "demonstrations":  # of evaluation alone
            assert re.search(rf"\b{name}\b", TEXT), name


def test_the_table_of_shares_is_right() -> None:
    rows = re.findall(r"^\| ([\d.]+)[^|]*\| (\d+)% \| (\d+)% \|$", TEXT, re.MULTILINE)
    assert len(rows) == 3
    for temperature, shop, films in rows:
        sizes = [1_000_000 ** float(temperature), 10_000 ** float(temperature)]
        shares = [round(100 * size / sum(sizes)) for size in sizes]
        assert shares == [int(shop), int(films)]


def test_the_command_line_changes_a_setting(tmp_path: Path) -> None:
    (override,) = re.findall(r"tasks plan shop\.yaml (\S+=\S+)", TEXT)
    assert loaded(tmp_path, WHOLE, (override,)).mixture.temperature == 1.0


def test_caps_and_stages_are_as_long_as_is_said(tmp_path: Path) -> None:
    capped = next(part for part in PARTS if "per_user" in part)
    mixture = loaded(tmp_path, capped).mixture
    assert mixture.caps.per_user == 4 * mixture.targets_per_tree
    staged = next(part for part in PARTS if "curriculum" in part)
    config = loaded(tmp_path, staged)
    (stage,) = config.mixture.curriculum
    assert config.global_batch_size is not None
    assert stage.until_tree == 500 * config.global_batch_size
    assert config.mixture.limits(stage.until_tree - 1) == (20, 1024)
    assert config.mixture.limits(stage.until_tree) == (200, 8192)


def test_layouts_are_those_of_the_table(tmp_path: Path, tiny_store: TokenStore) -> None:
    rows = re.findall(r"^\| (L1|L2|tree): [^|]+\| (\d)[^|]*\| (0|above 0) \|$", TEXT, re.MULTILINE)
    assert [layout for layout, _, _ in rows] == ["L1", "L2", "tree"]
    for layout, moments, weight in rows:
        settings = {
            "moments_per_tree": int(moments),
            "ages": "gaps",
            "history_loss_weight": 0.3 if weight == "above 0" else 0,
        }
        config = loaded(tmp_path, yaml.safe_dump({"mixture": settings}))
        assert config.attn_layout == "L2"
        mixture = Mixture([tiny_store], config.mixture, seed=0)
        trees = [mixture[index] for index in range(20)]
        places = [branch.attach for tree in trees for branch in tree.branches]
        assert bool(places) == (layout != "L1")
        assert any(place is not None for place in places) == (layout == "tree")
        assert any(tree.trunk_labels.targets for tree in trees) == (layout != "L2")
