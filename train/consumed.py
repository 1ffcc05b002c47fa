"""What a run consumed against what its mixture planned, per corpus and task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from data_pipeline.mixture import Mixture
from data_pipeline.plan import make_plan
from data_pipeline.store import open_stores
from train.config import load_config
from train.errors import CheckpointError
from train.plugins import load_plugins
from train.run_folder import CONFIG, SUMMARY


def plan_minus_consumed(
    run: str | Path, *, advance: Callable[[int], None] = lambda trees: None
) -> int:
    """Walk the mixture of a run and compare with what `RUN/summary.json` says it consumed.

    The plan is that of the whole run, so one that was stopped early does not meet it.

    Args:
        run: the run's folder.
        advance: told how many trees were just counted.

    Returns:
        Targets and tokens, of all corpora and tasks, by which the two differ; differences do not
        cancel. 0 means that the run consumed exactly its plan.

    Raises:
        CheckpointError: the run has not written what it consumed.
    """
    path = Path(run) / SUMMARY
    try:
        summary = json.loads(path.read_text())
        consumed, global_batch = summary["consumed"], summary["global_batch"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not say what the run consumed. Give the folder of a run that has come "
            "to its end"
        ) from error
    config = load_config(Path(run) / CONFIG)
    load_plugins(config.plugins)
    plan = make_plan(
        Mixture(open_stores(config.stores), config.mixture, seed=config.seed),
        steps=config.max_steps,
        global_batch=global_batch,
        layout=config.attn_layout,
        advance=advance,
    )
    differences = 0
    for corpus in plan.counts.keys() | consumed.keys():
        planned, found = plan.counts.get(corpus, {}), consumed.get(corpus, {})
        for task in planned.keys() | found.keys():
            for what in ("targets", "tokens"):
                ours, theirs = planned.get(task, {}).get(what, 0), found.get(task, {}).get(what, 0)
                differences += abs(ours - theirs)
    return differences
