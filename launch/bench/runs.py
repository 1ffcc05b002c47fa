"""Real runs that a benchmark starts and looks at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launch.workers import WorkersError, run_workers
from train.config import TrainConfig, to_yaml


def trained(
    config: TrainConfig, what: str, *, num_procs: int = 1, env: Mapping[str, str] | None = None
) -> Path:
    """Train as `brewhouse train` does, quietly, into the config's new output folder; return it.

    Args:
        config: of the run.
        what: named in the error, such as "2 processes under ZeRO-3".
        num_procs: processes.
        env: variables set for them.

    Raises:
        WorkersError: the run failed; the message holds the end of its output.
    """
    run = Path(config.output_dir)
    run.mkdir(parents=True)
    (run / "launch.yaml").write_text(to_yaml(config))
    output = run / "output.log"
    arguments = ["--config", str(run / "launch.yaml")]
    code = run_workers(
        "train.run", arguments, run, num_procs=num_procs, log_file=output, env=env or {}
    )
    if code:
        told = "\n".join(output.read_text().splitlines()[-20:])
        raise WorkersError(f"{what} failed:\n{told}", code)
    return run
