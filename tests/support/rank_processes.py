"""Real processes for tests: each rank a Python process, gloo between them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }


class Ranks:
    """The processes of one launch, without a launcher: half the time to the first step."""

    def __init__(self, command: Sequence[str], world_size: int, log: Path) -> None:
        port = free_port()
        self.log = log
        with log.open("wb") as file:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, *command],
                    env=rank_environment(rank, world_size, port),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
                for rank in range(world_size)
            ]

    def wait(self) -> list[int]:
        return [process.wait(TIMEOUT_SECONDS) for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def ranks(command: Sequence[str], world_size: int, log: Path) -> Iterator[Ranks]:
    started = Ranks(command, world_size, log)
    try:
        yield started
    finally:
        started.end()


def run_ranks(command: Sequence[str], world_size: int, log: Path) -> str:
    """Run to a good end; return what was printed."""
    with ranks(command, world_size, log) as started:
        codes = started.wait()
    text = log.read_text()
    assert codes == [0] * world_size, f"exit codes {codes}\n{text}"
    return text


def config_yaml(store: Path, output_dir: Path, changes: Mapping[str, object]) -> str:
    """A run of seconds, as YAML text."""
    values: dict[str, object] = {
        "model": "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
        "num_attention_heads: 4, num_key_value_heads: 2}",
        "stores": f"[{store}]",
        "output_dir": output_dir,
        "mixture": "{targets_per_tree: 6, history_events: 8}",
        "seed": 3,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "global_batch_size": 8,
        "learning_rate": 0.003,
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_steps": 100,
        "ddp_timeout": 120,
    }
    return "".join(f"{key}: {value}\n" for key, value in (values | dict(changes)).items())
