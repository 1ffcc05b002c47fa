"""`brewhouse train`: check a config, then start the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.console import say, say_next

EPILOG = (
    "Example: `brewhouse train launch/recipes/tiny_movielens.yaml max_steps=100 --num-procs 2`\n\n"
    "On a cluster: `brewhouse train CONFIG.yaml --hostfile hosts` (lines such as `node1 slots=8`); "
    "see launch/guides/train-on-a-cluster.md."
)


def train_command(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML run config.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change keys of the config."),
    ] = None,
    num_procs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine. Default: every GPU; without one, 2."),
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="Hosts and slots, as the deepspeed launcher reads them.")
    ] = None,
    master_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for the workers to meet.")
    ] = None,
) -> None:
    """Train a backbone through DeepSpeed. The run's folder is the config's `output_dir`."""
    from launch.workers import start_training
    from train.config import load_config

    if num_procs is not None and hostfile is not None:
        raise typer.BadParameter("--num-procs is for this machine, --hostfile for several: use one")
    config = load_config(config_file, overrides or [])
    start_training(config, num_procs=num_procs, hostfile=hostfile, master_port=master_port)
    say(f"Run finished: {config.output_dir}")
    say_next(
        f"brewhouse eval {config.output_dir}",
        f"brewhouse train {config_file} resume_from_checkpoint=true max_steps=...   # train longer",
    )
