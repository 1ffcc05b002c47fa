"""`brewhouse tasks plan`: walks the mixture of a config or store, and prints what it will ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.console import err, print_table, say

if TYPE_CHECKING:
    from data_pipeline.mixture import Mixture
    from data_pipeline.plan import Plan

STORE_TREES = 256
"""Trees of a plan of a store: there is no run that would say how many."""


def plan_of_store(mixture: Mixture) -> Plan:
    """Plan a run of a few trees."""
    from data_pipeline.plan import make_plan

    return make_plan(mixture, steps=1, global_batch=STORE_TREES)


def plan_of_config(
    source: Path, overrides: Sequence[str], num_procs: int | None, max_trees: int
) -> tuple[Mixture, Plan]:
    """Plan the run of a config, with a progress bar; warn where a step has too few users.

    Args:
        source: the config file.
        overrides: `key=value`.
        num_procs: processes that will train; counts where `global_batch_size` is not given.
        max_trees: a longer run is judged by so many.
    """
    from data_pipeline.plan import make_plan
    from launch.opening import mixture_of_config
    from launch.workers import default_processes
    from train.progress import show_progress

    config, mixture = mixture_of_config(source, overrides)
    batch = config.resolve_batch(num_procs or default_processes()).total
    bar = show_progress(min(config.max_steps * batch, max_trees), "walking trees")
    plan = make_plan(
        mixture,
        steps=config.max_steps,
        global_batch=batch,
        layout=config.attn_layout,
        max_trees=max_trees,
        advance=bar.advance,
    )
    bar.close()
    if plan.fewest_users < config.min_users_per_step:
        err.print(
            f"warning: a step has only {plan.fewest_users} different users, "
            f"min_users_per_step is {config.min_users_per_step}: raise global_batch_size "
            f"(now {batch} trees)",
            style="problem",
        )
    return mixture, plan


def print_plan(plan: Plan, mixture: Mixture) -> None:
    """Print a row per corpus and task, and the sums."""
    content = plan.to_dict()
    codes = {task.name: task.code for task in mixture.tasks}
    rows = [
        (
            *(corpus, codes.get(name, ""), name),
            *(f"{row['targets']:,}", f"{row['tokens']:,}", f"{100 * row['share']:.1f}%"),
        )
        for corpus, part in content["corpora"].items()
        for name, row in part["tasks"].items()
        if row["tokens"]
    ]
    numbers = ("targets", "tokens", "share of targets")
    print_table(("corpus", "code", "task", *numbers), rows, right=numbers)
    if len(content["corpora"]) > 1:
        say("")
        for corpus, part in content["corpora"].items():
            say(
                f"{corpus}: {part['targets']:,} targets, {part['tokens']:,} tokens, "
                f"{100 * part['share']:.1f}% of targets"
            )
    for stage in mixture.config.curriculum:
        say(
            f"until tree {stage.until_tree:,} (step {stage.until_tree / plan.global_batch:,.0f}): "
            f"{stage.history_events} events and {stage.max_trunk_tokens} tokens of trunk at most"
        )
    if mixture.config.user_fraction < 1:
        for corpus, n in mixture.training_users.items():
            say(
                f"{corpus}: {n:,} users are learned from, by user_fraction "
                f"{mixture.config.user_fraction:g}"
            )
    users = content["users_per_step"]
    say(
        f"{plan.trees:,} trees in {plan.steps:,} steps, {content['targets']:,} targets, "
        f"{content['tokens']:,} tokens. "
        f"A tree has {content['tokens_per_tree']:,.0f} tokens, "
        f"{content['targets_per_tree'] - content['history_targets_per_tree']:.1f} targets and "
        f"{content['history_targets_per_tree']:.1f} supervised past actions on average; one prompt "
        f"per target would take {plan.unpacked_tokens:.1f} times the tokens. Longest tree: "
        f"{plan.longest_tree:,} tokens. A step has {users['mean']:.1f} different users, "
        f"{users['fewest']} at least. The row `history` holds the trunks."
    )
    counted = "every tree counted"
    if not plan.exact:
        counted = f"EXTRAPOLATED from {plan.walked:,} of {plan.trees:,} trees (--max-trees)"
    err.print(f"mixture {mixture.fingerprints['mixture']}, {counted}", style="dim")
