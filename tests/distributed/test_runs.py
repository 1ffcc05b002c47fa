"""Whole runs of two processes: killed, stopped and resumed, they equal the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import config_yaml, ranks, run_ranks
from safetensors.torch import load_file
from tiny_corpus import make_corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

import train.build
from data_pipeline.build import compile_store
from data_pipeline.store import TokenStore
from train.config import load_config
from train.distributed import DistributedContext
from train.errors import CheckpointError

KILLED_WORKER = str(Path(__file__).with_name("killed_worker.py"))
STEPS = 14
CHANGES: dict[str, object] = {
    "max_steps": STEPS,
    "save_steps": 3,
    "save_total_limit": 2,
    "eval_strategy": "steps",
    "eval_steps": 7,
    "eval_max_targets": 4,
}

LAUNCH = """
import sys
from pathlib import Path
from launch.workers import start_training
from train.config import load_config

start_training(load_config(sys.argv[1], sys.argv[2:]), num_procs=2)
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_file(
        run / f"checkpoint-{STEPS}" / "model" / "model.safetensors"
    )
    return state


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def steps_done(run: Path) -> int:
    if not (run / "metrics.jsonl").exists():
        return 0
    text = (run / "metrics.jsonl").read_text()
    return max(
        (
            json.loads(line)["step"]
            for line in text.splitlines(keepends=True)
            if line.endswith("\n")
        ),
        default=0,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def written_config(base: Path, store: TokenStore, name: str) -> Path:
    path = base / f"{name}.yaml"
    path.write_text(config_yaml(store.folder, base / name, CHANGES))
    return path


@pytest.fixture(scope="module")
def whole(base: Path, tiny_store: TokenStore) -> Path:
    """The run that nothing interrupts."""
    config = written_config(base, tiny_store, "whole")
    run_ranks(["-m", "train.run", "--config", str(config)], 2, base / "whole.log")
    return base / "whole"


@pytest.fixture(scope="module")
def killed(base: Path, tiny_store: TokenStore) -> Path:
    """The same run, one rank of which was killed while it wrote checkpoint-6."""
    config = written_config(base, tiny_store, "broken")
    with ranks([KILLED_WORKER, "--config", str(config)], 2, base / "killed.log") as started:
        codes = started.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    return base / "broken"


@pytest.fixture(scope="module")
def stopped(base: Path, killed: Path, whole: Path) -> tuple[Path, int, list[str]]:
    """The killed run, resumed through the launcher and stopped by SIGTERM to the command."""
    before = sorted(path.name for path in killed.iterdir())
    command = [
        sys.executable,
        "-c",
        LAUNCH,
        str(base / "broken.yaml"),
        "resume_from_checkpoint=true",
    ]
    with (base / "stopped.log").open("wb") as log:
        # The launcher keeps a number of threads that the shell has set; the others run with one.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            # Step 6 of the killed run stands there until the resumed one drops it.
            wait_until(lambda: steps_done(killed) in (4, 5) or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            code = process.wait(120)
        finally:
            process.kill()
    return killed, code, before


@pytest.fixture(scope="module")
def resumed(base: Path, stopped: tuple[Path, int, list[str]]) -> Path:
    """And resumed once more, to the end."""
    command = [
        "-m",
        "train.run",
        "--config",
        str(base / "broken.yaml"),
        "resume_from_checkpoint=true",
    ]
    run_ranks(command, 2, base / "resumed.log")
    return base / "broken"


def test_a_run_leaves_what_its_folder_promises(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names == {
        *("config.yaml", "metrics.jsonl", "summary.json", "finished", "latest", "logs"),
        *("checkpoint-12", f"checkpoint-{STEPS}"),
    }
    assert {path.name for path in (whole / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    assert [line["step"] for line in metrics(whole) if "loss" in line] == list(range(1, STEPS + 1))
    evaluations = [line["evaluation"] for line in metrics(whole) if "evaluation" in line]
    assert len(evaluations) == 2
    assert evaluations[1]["loss"] < evaluations[0]["loss"]
    assert evaluations[0]["tasks"]["like"]["targets"] == 4
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert len(summary["peak_memory_mb"]) == 2
    provenance = (whole / "config.yaml").read_text().partition("provenance:")[2]
    for word in ("fingerprints", "tokenizer", "torch", "config_fingerprint"):
        assert word in provenance


def test_stock_transformers_loads_the_model_folder(whole: Path, tiny_store: TokenStore) -> None:
    folder = whole / f"checkpoint-{STEPS}" / "model"
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == tiny_store.card.vocab_size == model.config.vocab_size


def test_a_kill_while_writing_leaves_the_checkpoint_before(
    stopped: tuple[Path, int, list[str]],
) -> None:
    _, _, before = stopped
    assert "checkpoint-3" in before
    assert "checkpoint-6" not in before
    assert ".checkpoint-6.partial" in before


def test_sigterm_to_the_command_ends_in_a_checkpoint(
    base: Path, stopped: tuple[Path, int, list[str]]
) -> None:
    run, code, _ = stopped
    log = (base / "stopped.log").read_text()
    assert "going on from" in log
    assert "checkpoint-3" in log
    assert code != 0
    assert "the run was asked to stop and has saved a checkpoint" in log
    assert not (run / "finished").exists() or steps_done(run) == STEPS


def test_a_killed_and_resumed_run_equals_the_uninterrupted_bit_for_bit(
    whole: Path, resumed: Path
) -> None:
    assert losses(resumed) == losses(whole)
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [line["step"] for line in metrics(resumed)]
    assert steps == sorted(steps)
    assert (resumed / "finished").exists()


def run_alone(config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "train.run", "--config", str(config), *overrides],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def test_other_processes_are_refused_with_the_cure(base: Path, resumed: Path) -> None:
    done = run_alone(base / "broken.yaml", "resume_from_checkpoint=true", f"max_steps={STEPS + 1}")
    assert done.returncode == 1
    assert "has world_size 2, this run 1" in done.stderr
    assert "start as many as before" in done.stderr


def test_a_run_is_not_written_over(base: Path, whole: Path) -> None:
    done = run_alone(base / "whole.yaml")
    assert done.returncode == 1
    assert "holds a run already" in done.stderr
    assert "overwrite_output_dir=true" in done.stderr


def test_a_checkpoint_of_another_corpus_is_refused_before_a_model_is_made(
    base: Path,
    whole: Path,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = make_corpus(tmp_path / "corpus", seed=8)
    other = compile_store(corpus, str(tiny_store.tokenizer_folder), tmp_path / "store")
    changes = CHANGES | {"resume_from_checkpoint": whole}
    path = tmp_path / "other.yaml"
    path.write_text(config_yaml(other.folder, tmp_path / "run", changes))
    monkeypatch.setattr(train.build, "make_model", lambda *args, **kwargs: pytest.fail("too late"))
    with pytest.raises(CheckpointError, match="changed: corpus") as caught:
        train.build.build_run(load_config(path), DistributedContext())
    assert "tokenizer (" not in str(caught.value)
    assert f"model_name_or_path={whole / f'checkpoint-{STEPS}'}" in str(caught.value)
