"""`brewhouse tasks`: the catalogue of questions, and what each looks like to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.console import print_json, print_table, say, say_next

if TYPE_CHECKING:
    from data_pipeline.mixture import Mixture
    from data_pipeline.store import TokenStore
    from data_pipeline.tasks.base import Task

app = typer.Typer(
    help="The catalogue of questions: list them, show their prompts, plan a mixture.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CorpusDir = Annotated[
    Path | None, typer.Option("--corpus", help="Corpus to ask (compiled for a small tokenizer).")
]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Token store to ask.")]


@app.command("list", epilog="Example: `brewhouse tasks list --store data/movielens-100k-store`")
def list_command(
    corpus_dir: CorpusDir = None, store_dir: StoreDir = None, as_json: Json = False
) -> None:
    """List every task; with a corpus or store also whether it applies, or why not."""
    from data_pipeline.tasks import all_tasks, applicable
    from launch.opening import open_or_compile

    store = open_or_compile(corpus_dir, store_dir)
    rows = []
    for task in sorted(all_tasks().values(), key=lambda task: task.code):
        row = _task_dict(task)
        if store is not None:
            reason = applicable(task, store)
            row |= {"applies": reason is None, "reason": reason}
        rows.append(row)
    if as_json:
        print_json({"tasks": rows})
        return
    _print_tasks(rows, with_store=store is not None)
    option = f"--store {store_dir}" if store_dir else f"--corpus {corpus_dir or 'CORPUS'}"
    say_next(f"brewhouse tasks show {rows[0]['name']} {option}")


def _task_dict(task: Task) -> dict[str, Any]:
    return {
        "code": task.code,
        "name": task.name,
        "family": task.family,
        "tier": task.tier,
        "kind": task.kind,
        "metric": task.metric,
        "labels": list(task.labels),
        "needs": sorted(task.needs),
        "phrasings": len(task.instructions),
        "held_out_phrasings": len(task.held_out_instructions),
        "baselines": list(task.baselines),
    }


def _print_tasks(rows: list[dict[str, Any]], *, with_store: bool) -> None:
    columns = ["code", "name", "family", "tier", "kind", "metric"]
    table = [[row[column] for column in columns] for row in rows]
    for cells, row in zip(table, rows, strict=True):
        if with_store:
            cells.append("yes" if row["applies"] else f"no: {row['reason']}")
        else:
            cells.append(", ".join(row["needs"]))
    last = "applies" if with_store else "needs"
    print_table([*columns, last], table, fold=[last])
    if with_store:
        say(f"{sum(row['applies'] for row in rows)} of {len(rows)} tasks apply.")


@app.command(
    "show", epilog="Example: `brewhouse tasks show like --store data/movielens-100k-store`"
)
def show_command(
    name: Annotated[str, typer.Argument(metavar="TASK", help="Name or code, as `tasks list`.")],
    corpus_dir: CorpusDir = None,
    store_dir: StoreDir = None,
    index: Annotated[int, typer.Option(help="Which example.", min=0)] = 0,
    branches: Annotated[int, typer.Option(help="Branches to show.", min=1)] = 2,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show the token ids too.")] = False,
    as_json: Json = False,
) -> None:
    """Show a task in colour, exactly as the model sees it: trunk, branches, labels, tokens."""
    from data_pipeline.tasks import applicable
    from launch.opening import find_task, open_or_compile
    from launch.prompt_view import print_tree, tree_dict

    task = find_task(name)
    store = open_or_compile(corpus_dir, store_dir)
    if store is None:
        raise typer.BadParameter("name what to ask: --corpus CORPUS or --store STORE")
    reason = applicable(task, store)
    if reason is not None:
        _cannot_ask(task, store, reason)
    mixture = _mixture_of(task, store, branches)
    tree = mixture[index]
    if as_json:
        print_json({**_task_dict(task), "tree": tree_dict(tree, store, mixture.tasks)})
        return
    _print_task(task)
    print_tree(tree, store, mixture.tasks, tokens=tokens)
    where = f"--store {store_dir}" if store_dir else f"--corpus {corpus_dir}"
    say_next(f"brewhouse tasks show {task.name} {where} --index {index + 1}")


def _cannot_ask(task: Task, store: TokenStore, reason: str) -> None:
    from data_pipeline.errors import DataError

    raise DataError(
        f"task {task.name} does not apply to {store.card.corpus_name}: {reason}",
        remedy="`brewhouse tasks list --store STORE` says which do",
    )


def _mixture_of(task: Task, store: TokenStore, branches: int) -> Mixture:
    from data_pipeline.mixture import Mixture
    from data_pipeline.mixture_config import MixtureConfig

    config = MixtureConfig(tasks={task.name: 1.0}, targets_per_tree=branches)
    return Mixture([store], config, seed=0)


def _print_task(task: Task) -> None:
    say(f"{task.code} {task.name}, family {task.family}, tier {task.tier}, metric {task.metric}")
    say(f"answers: {' / '.join(task.labels) if task.kind != 'title' else 'the title of an item'}")
    for kind, instructions in (
        ("trained", task.instructions),
        ("held out", task.held_out_instructions),
    ):
        for instruction in instructions:
            say(f"  {kind}: {instruction}")
    say("")


@app.command("plan", epilog="Example: `brewhouse tasks plan launch/recipes/tiny_movielens.yaml`")
def plan_command(
    source: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A training config, or a token store.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change keys of the config."),
    ] = None,
    num_procs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that will train; as `brewhouse train`."),
    ] = None,
    max_trees: Annotated[
        int, typer.Option(min=1, help="A longer run is extrapolated from so many trees.")
    ] = 200_000,
    as_json: Json = False,
) -> None:
    """Say what a run will consume: targets, tokens and share of each corpus and task.

    Every tree of the run is walked, so the numbers are exact: RUN/summary.json will say the same.
    """
    from launch.mixture_plan import plan_of_config, plan_of_store, print_plan
    from launch.opening import open_mixture

    if source.is_file():
        mixture, plan = plan_of_config(source, overrides or [], num_procs, max_trees)
    else:
        mixture, _ = open_mixture(source)
        plan = plan_of_store(mixture)
    if as_json:
        print_json({"fingerprints": mixture.fingerprints, **plan.to_dict()})
        return
    print_plan(plan, mixture)
    say_next(f"brewhouse train {source}" if source.is_file() else "brewhouse train CONFIG.yaml")
