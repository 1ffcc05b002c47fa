"""A worker's entry: config -> build -> loop.

    python -m train.run --config CONFIG.yaml [key=value ...]          one process
    deepspeed --module train.run --config CONFIG.yaml [key=value ...]
    torchrun --nproc_per_node 8 -m train.run --config CONFIG.yaml [key=value ...]

Exit code 0: the run is finished. 128 + signal (143 after SIGTERM): it was asked to stop and has
saved a checkpoint. 1: an error, told on standard error and in RUN/logs.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from train.build import build_run
from train.config import TrainConfig, load_config
from train.distributed import DistributedContext, init_distributed
from train.distributed.cores import bind_cores_to_rank
from train.errors import TrainingError
from train.logs import set_up_logs
from train.loop import train
from train.plugins import load_plugins
from train.run_folder import refuse_occupied, remove_run

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m train.run", description="One worker of a run.")
    parser.add_argument("--config", required=True, help="the run's YAML file")
    parser.add_argument("--local_rank", type=int, help="given by launchers; read from LOCAL_RANK")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config, arguments.overrides)
        load_plugins(config.plugins)
        if config.bind_cores_to_rank:
            bind_cores_to_rank()
        context = init_distributed(config.ddp_timeout)
        _prepare_folder(config, context)
        set_up_logs(Path(config.output_dir), context.rank)
        code = run(config, context)
        # A launcher ends all ranks when the first one leaves with a code that is not 0.
        context.barrier()
        context.close()
        return code
    except (ValueError, TrainingError) as error:  # what is told to people; others keep a traceback
        log.error("%s: %s", type(error).__name__, error)
        log.debug("where it came from", exc_info=error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        log.error("no space left: %s. resume_from_checkpoint=true goes on afterwards", error)
    return 1


def run(config: TrainConfig, context: DistributedContext) -> int:
    """Build the run and train it to its end, or to a signal."""
    built = build_run(config, context)
    stopped_by = None
    try:
        stopped_by = train(built.parts, built.state)
        built.finish(stopped_by)
    finally:
        built.close(failed=sys.exc_info()[0] is not None)
    return 0 if stopped_by is None else 128 + stopped_by


def _prepare_folder(config: TrainConfig, context: DistributedContext) -> None:
    """Refuse a folder in use, or empty it; on one rank, before any other writes there."""
    refuse_occupied(config)
    context.barrier()
    if context.is_main and config.overwrite_output_dir:
        remove_run(Path(config.output_dir))
    context.barrier()


if __name__ == "__main__":
    sys.exit(main())
