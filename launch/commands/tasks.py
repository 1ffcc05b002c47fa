"""`brewhouse tasks`: the catalogue of questions, and what each looks like to the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.console import print_json, print_table, say, say_next

if TYPE_CHECKING:
    from data_pipeline.store import TokenStore
    from data_pipeline.tasks.base import Task
    from data_pipeline.tree import Tree

_TARGETS_PER_TREE = 16
"""No tree of an evaluation has more targets of one task."""

app = typer.Typer(
    help="The catalogue of questions: list them, show their prompts, plan a mixture.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CorpusDir = Annotated[
    Path | None, typer.Option("--corpus", help="Corpus to ask (compiled for a small tokenizer).")
]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Token store to ask.")]


CorpusDirs = Annotated[
    list[Path] | None,
    typer.Option("--corpus", help="Corpus to ask, or its token store; may be given several times."),
]
StoreDirs = Annotated[
    list[Path] | None, typer.Option("--store", help="Token store to ask; may be repeated.")
]


@app.command("list", epilog="Example: `brewhouse tasks list --store data/movielens-100k-store`")
def list_command(
    corpus_dirs: CorpusDirs = None, store_dirs: StoreDirs = None, as_json: Json = False
) -> None:
    """List every task; with corpora or stores also to which it applies, or why not."""
    from data_pipeline.tasks import all_tasks, applicable

    stores = _open_all(corpus_dirs or [], store_dirs or [])
    rows = []
    for task in sorted(all_tasks().values(), key=lambda task: task.code):
        row = _task_dict(task)
        if stores:
            reasons = {name: applicable(task, store) for name, store in stores.items()}
            row |= {
                "corpora": [name for name, reason in reasons.items() if reason is None],
                "not_applicable": {n: reason for n, reason in reasons.items() if reason},
            }
        rows.append(row)
    if as_json:
        print_json({"tasks": rows, "corpora": list(stores)})
        return
    _print_tasks(rows, list(stores))
    given = [f"--corpus {f}" for f in corpus_dirs or []] + [
        f"--store {f}" for f in store_dirs or []
    ]
    say_next(f"brewhouse tasks show {rows[0]['name']} {given[0] if given else '--corpus CORPUS'}")


def _open_all(corpus_dirs: list[Path], store_dirs: list[Path]) -> dict[str, TokenStore]:
    """Stores by the names of their corpora; the second of a name is `NAME (2)`."""
    from data_pipeline.store_card import CARD_FILE
    from launch.opening import open_or_compile

    is_store = {folder: (folder / CARD_FILE).is_file() for folder in corpus_dirs}
    opened = [
        *(open_or_compile(*((None, f) if is_store[f] else (f, None))) for f in corpus_dirs),
        *(open_or_compile(None, folder) for folder in store_dirs),
    ]
    found: dict[str, TokenStore] = {}
    for store in opened:
        assert store is not None, "a folder was named"
        name = store.card.corpus_name
        same = sum(other.card.corpus_name == name for other in found.values())
        found[f"{name} ({same + 1})" if same else name] = store
    return found


def _task_dict(task: Task) -> dict[str, Any]:
    return {
        "code": task.code,
        "name": task.name,
        "family": task.family,
        "tier": task.tier,
        "trained": task.tier == "T1",
        "only_if_named": task.only_if_named,
        "kind": task.kind,
        "metric": task.metric,
        "labels": list(task.labels),
        "history": task.history,
        "needs": sorted(task.needs),
        "phrasings": {
            "train": list(task.instructions),
            "held_out": list(task.held_out_instructions),
        },
        "baselines": list(task.baselines),
    }


def _print_tasks(rows: list[dict[str, Any]], corpora: list[str]) -> None:
    columns = ["code", "name", "family", "tier", "kind", "metric"]
    table = [[row[column] for column in columns] for row in rows]
    for cells, row in zip(table, rows, strict=True):
        cells.append(_where(row, corpora) if corpora else ", ".join(row["needs"]))
    last = "applies" if corpora else "needs"
    print_table([*columns, last], table, fold=[last])
    for name in corpora:
        applying = [row for row in rows if name in row["corpora"]]
        trained = sum(row["trained"] for row in applying)
        say(
            f"{len(applying)} of {len(rows)} tasks apply to {name}: {trained} may be trained on, "
            f"{len(applying) - trained} are for evaluation only."
        )


def _where(row: dict[str, Any], corpora: list[str]) -> str:
    """Where a task applies and, of one corpus, why it does not."""
    if len(corpora) == 1:
        reason = row["not_applicable"].get(corpora[0])
        return f"no: {reason}" if reason else "yes"
    if row["corpora"]:
        return ", ".join(row["corpora"])
    return "no: " + "; ".join(dict.fromkeys(row["not_applicable"].values()))


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
    tree = _tree_of(task, store, branches, index)
    if as_json:
        print_json({**_task_dict(task), "tree": tree_dict(tree, store, [task])})
        return
    _print_task(task)
    print_tree(tree, store, [task], tokens=tokens)
    where = f"--store {store_dir}" if store_dir else f"--corpus {corpus_dir}"
    say_next(f"brewhouse tasks show {task.name} {where} --index {index + 1}")


def _cannot_ask(task: Task, store: TokenStore, reason: str) -> None:
    from data_pipeline.errors import DataError

    raise DataError(
        f"task {task.name} does not apply to {store.card.corpus_name}: {reason}",
        remedy="`brewhouse tasks list --store STORE` says which do",
    )


def _tree_of(task: Task, store: TokenStore, branches: int, index: int) -> Tree:
    """A tree of the training, or of the test where the task is for evaluation only."""
    from data_pipeline.errors import DataError
    from data_pipeline.evaluation_set import EvaluationSet
    from data_pipeline.mixture import Mixture
    from data_pipeline.mixture_config import MixtureConfig
    from data_pipeline.splits import Phase

    if task.tier == "T1":
        config = MixtureConfig(tasks={task.name: 1.0}, targets_per_tree=branches)
        return Mixture([store], config, seed=0)[index]
    trees = EvaluationSet(
        store,
        [task],
        phase=Phase.TEST,
        config=MixtureConfig(),
        seed=0,
        max_targets=_TARGETS_PER_TREE * (index + 1),
    )
    if index >= len(trees):
        raise DataError(
            f"the test phase of {store.card.corpus_name} has {len(trees)} examples of task "
            f"{task.name}",
            value=index,
            remedy="give a smaller --index" if len(trees) else "choose another task",
        )
    tree = trees[index]
    return replace(tree, branches=tree.branches[:branches])


def _print_task(task: Task) -> None:
    say(f"{task.code} {task.name}, family {task.family}, tier {task.tier}, metric {task.metric}")
    written = {"title": "the title of an item", "text": "a text of one line"}
    say(f"answers: {written.get(task.kind) or ' / '.join(task.labels)}")
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
        users = {"training_users": mixture.training_users}
        print_json({"fingerprints": mixture.fingerprints, **users, **plan.to_dict()})
        return
    print_plan(plan, mixture)
    say_next(f"brewhouse train {source}" if source.is_file() else "brewhouse train CONFIG.yaml")


@app.command("audit", epilog="Example: `brewhouse tasks audit --store data/movielens-100k-store`")
def audit_command(
    store_dirs: StoreDirs = None, corpus_dirs: CorpusDirs = None, as_json: Json = False
) -> None:
    """Look for tasks that give their answer away, and phrasings that are not kept back.

    Without a store only phrasings are looked at. Ends with exit code 1 when something is found.
    """
    from data_pipeline.task_audit import audit_phrasings, audit_tasks
    from data_pipeline.tasks import all_tasks

    tasks = list(all_tasks().values())
    stores = _open_all(corpus_dirs or [], store_dirs or [])
    found = [("", leak) for leak in audit_phrasings(tasks)]
    for name, store in stores.items():
        found += [(name, leak) for leak in audit_tasks(store, tasks)]
    if as_json:
        leaks = [
            {"corpus": corpus, "task": leak.task, "kind": leak.kind, "message": leak.message}
            for corpus, leak in found
        ]
        print_json({"tasks": len(tasks), "corpora": list(stores), "leaks": leaks})
    else:
        for corpus, leak in found:
            say(f"{f'{corpus}/' if corpus else ''}{leak.task}: {leak.message}")
        where = f" on {', '.join(stores)}" if stores else ""
        say(f"{len(found)} leaks found in {len(tasks)} tasks{where}.")
        if not stores:
            say_next("brewhouse tasks audit --store STORE   # their questions as well")
    if found:
        raise typer.Exit(1)
