import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train.checkpoint import (
    CheckpointFolder,
    TrainerState,
    check_same_run,
    complete_checkpoints,
    newest_checkpoint,
    read_state,
    resolve_model_folder,
)
from train.distributed import DistributedContext
from train.errors import CheckpointError

FINGERPRINTS = {"corpus/tiny": "aa", "tokenizer": "bb", "tasks": "cc", "mixture": "dd"}


def state(step: int) -> TrainerState:
    return TrainerState(
        step=step, next_index=step * 4, fingerprints=FINGERPRINTS, recent_losses=[0.1, 1 / 3]
    )


def write_parts(folder: Path) -> None:
    for name in ("model/config.json", "model/model.safetensors", "zero/rank-0.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)


def folder_of(run: Path, *, keep: int | None = None) -> CheckpointFolder:
    return CheckpointFolder(run, DistributedContext(), keep=keep)


def save_steps(run: Path, *steps: int, keep: int | None = None) -> CheckpointFolder:
    folder = folder_of(run, keep=keep)
    for step in steps:
        folder.save(state(step), "seed: 0\n", write_parts)
    return folder


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_a_checkpoint_is_whole_and_comes_back(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 10)
    found = folder.find(True)
    assert found is not None
    path, back = found
    assert path == tmp_path / "checkpoint-10"
    assert back == state(10)
    assert (tmp_path / "latest").read_text().strip() == "checkpoint-10"
    manifest = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(manifest) == [
        "config.yaml",
        "model/config.json",
        "model/model.safetensors",
        "trainer_state.json",
        "zero/rank-0.pt",
    ]
    assert manifest["zero/rank-0.pt"]["bytes"] == 14_000
    assert names(tmp_path) == ["checkpoint-10", "latest"]


def test_nothing_to_resume_from_is_no_error(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    assert folder_of(tmp_path).find(False) is None
    assert folder_of(tmp_path / "empty").find(True) is None


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4", "latest"]


def test_a_run_that_went_back_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20, 30)
    folder = save_steps(tmp_path, 15, keep=2)  # it resumed from 10
    found = folder.find(True)
    assert found is not None
    assert found[0].name == "checkpoint-15"
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-15", "latest"]


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(11)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "problem"),
    [
        (truncate, "zero/rank-0.pt", "has 11 bytes instead of 14,000"),
        (flip_a_bit, "model/model.safetensors", "SHA-256 differs"),
        (Path.unlink, "model/config.json", "cannot be read: No such file"),
        (truncate, "manifest.json", "cannot be read"),
    ],
)
def test_a_damaged_newest_is_reported_and_the_one_before_taken(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    name: str,
    problem: str,
) -> None:
    folder = save_steps(tmp_path, 10, 20)
    damage(tmp_path / "checkpoint-20" / name)
    with caplog.at_level(logging.WARNING):
        found = folder.find(True)
    assert found is not None
    assert found[0].name == "checkpoint-10"
    assert "checkpoint-20 is no complete checkpoint" in caplog.text
    assert problem in caplog.text
    with pytest.raises(CheckpointError, match="checkpoint-20 is no complete checkpoint"):
        folder.find(str(tmp_path / "checkpoint-20"))


def test_an_explicit_path_may_be_another_run(tmp_path: Path) -> None:
    save_steps(tmp_path / "old", 10, 20)
    found = folder_of(tmp_path / "new").find(str(tmp_path / "old"))
    assert found is not None
    assert found[0] == tmp_path / "old" / "checkpoint-20"


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 10)
    truncate(tmp_path / "checkpoint-10" / "zero/rank-0.pt")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        folder.find(True)


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 10, keep=1)

    def fill_the_disk(partial: Path) -> None:
        write_parts(partial)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match="no space left on the disk") as caught:
        folder.save(state(20), "", fill_the_disk)
    assert "The checkpoints before it are untouched" in str(caught.value)
    assert names(tmp_path) == ["checkpoint-10", "latest"]
    assert folder.find(True) is not None


def test_a_step_saved_twice_is_replaced(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 10)
    folder.save(replace(state(10), targets=7), "", write_parts)
    assert read_state(tmp_path / "checkpoint-10").targets == 7
    assert names(tmp_path) == ["checkpoint-10", "latest"]


KILLED = """
    import sys, time
    from pathlib import Path
    from train.checkpoint import CheckpointFolder, TrainerState
    from train.distributed import DistributedContext

    def write(folder):
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text("{}")
        if sys.argv[2] == "slow":
            print("writing", flush=True)
            time.sleep(60)

    run = CheckpointFolder(Path(sys.argv[1]), DistributedContext(), keep=2)
    run.save(TrainerState(step=20, next_index=80), "", write)
"""


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    folder = save_steps(tmp_path, 10)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen([*command, "slow"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert ".checkpoint-20.partial" in names(tmp_path)
    found = folder.find(True)
    assert found is not None
    assert found[0].name == "checkpoint-10"

    subprocess.run([*command, "fast"], check=True)  # again: what was left is cleared away
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20", "latest"]


def test_many_kills_at_random_moments_never_lose_the_run(tmp_path: Path) -> None:
    """Kill saves at rising delays, so that every stage is hit, and look after each."""
    folder = save_steps(tmp_path, 1)
    writer = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[3])
        from test_checkpoint import folder_of, state, write_parts
        run = folder_of(Path(sys.argv[1]), keep=1)
        print("ready", flush=True)
        for step in range(int(sys.argv[2]), 10**9):
            run.save(state(step), "", write_parts)
        """
    )
    step = 2
    for attempt in range(4):
        command = [
            sys.executable,
            "-c",
            writer,
            str(tmp_path),
            str(step),
            str(Path(__file__).parent),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.013 * attempt)
            process.send_signal(signal.SIGKILL)
        found = folder.find(True)
        assert found is not None
        path, back = found
        assert back.step >= step - 1, "a finished checkpoint was lost"
        assert newest_checkpoint(tmp_path) == path
        step = back.step + 1


@pytest.mark.parametrize("part", sorted(FINGERPRINTS))
def test_other_data_is_refused_by_name(part: str) -> None:
    saved, now = state(5), state(0)
    now.fingerprints = FINGERPRINTS | {part: "zz"}
    with pytest.raises(CheckpointError) as caught:
        check_same_run(Path("RUN/checkpoint-5"), saved, now)
    text = str(caught.value)
    assert f"{part} ({FINGERPRINTS[part]} there, zz now)" in text
    assert not any(f"{other} (" in text for other in FINGERPRINTS if other != part)
    assert "model_name_or_path=RUN/checkpoint-5" in text


@pytest.mark.parametrize("name", ["seed", "global_batch", "world_size", "zero_stage"])
def test_a_run_that_would_go_on_differently_is_refused(name: str) -> None:
    changed: dict[str, Any] = {name: 3}
    with pytest.raises(CheckpointError, match=rf"{name} \d+, this run 3\."):
        check_same_run(Path("c"), state(5), replace(state(5), **changed))


def test_weights_alone_cannot_be_resumed() -> None:
    with pytest.raises(CheckpointError, match="save_only_model=true"):
        check_same_run(Path("c"), replace(state(5), only_model=True), state(5))


def test_the_same_run_passes() -> None:
    check_same_run(Path("c"), state(5), state(0))


def test_model_folders(tmp_path: Path) -> None:
    save_steps(tmp_path / "run", 10, 20)
    model = tmp_path / "run" / "checkpoint-20" / "model"
    assert resolve_model_folder(tmp_path / "run") == model
    assert resolve_model_folder(model.parent) == model
    assert resolve_model_folder(model) == model
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "adapter_config.json").write_text("{}")
    assert resolve_model_folder(tmp_path / "export") == tmp_path / "export"
    with pytest.raises(CheckpointError, match="is no folder"):
        resolve_model_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resolve_model_folder(tmp_path / "empty")


def test_latest_that_names_nothing_is_mended(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20)
    (tmp_path / "latest").write_text("checkpoint-30\n")
    assert complete_checkpoints(tmp_path)[0].name == "checkpoint-20"
