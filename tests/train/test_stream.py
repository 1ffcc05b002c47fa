"""The stream of micro-batches: shares of a step, dealt by cost, by threads and by processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_plugins import ODD_ROW

from data_pipeline.balance import Cost
from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import NOBODY, Branch, Question, Tree
from train.assembly import Assembler, Recipe, assembler_of
from train.assembly_process import AssemblyProcess
from train.errors import TrainingError
from train.stream import BatchStream, Share, StepBatches, pinned

COST = Cost(per_token=1.0, per_pair=0.1)
CONFIG = MixtureConfig(targets_per_tree=5, history_events=6)


def tree(index: int) -> Tree:
    """A tree whose one label token is its index, of a length that the index decides."""
    trunk = np.arange(2 + index * 7919 % 31, dtype=np.int32)
    branch = Branch(
        task=index % 2,
        subject=0,
        phrasing=0,
        tokens=trunk[:2],
        answer=np.array([index], np.int32),
        choices=np.array([], np.int32),
        question=Question(label=0),
    )
    return Tree(corpus=0, moment=NOBODY, trunk=trunk, branches=(branch,))


class Endless:
    """Trees by index, and what was asked for."""

    def __init__(self, make: Callable[[int], Tree] = tree) -> None:
        self.asked: list[int] = []
        self.make = make

    def __getitem__(self, index: int) -> Tree:
        self.asked.append(index)
        return self.make(index)


class Meeting:
    """Sums arrays over threads that stand for ranks."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=20)
        self.values: dict[int, np.ndarray] = {}

    def sum_of(self, rank: int, values: np.ndarray) -> np.ndarray:
        self.values[rank] = values
        self.barrier.wait()
        total = np.sum(list(self.values.values()), axis=0)
        self.barrier.wait()
        return total


def over_ranks(
    share: Share, steps: Sequence[int], **settings: Any
) -> tuple[list[list[StepBatches]], list[Endless]]:
    """What every rank takes at every step, and the trees that each asked for."""
    meeting = Meeting(share.world_size)
    trees = [Endless() for _ in range(share.world_size)]

    def of(rank: int) -> list[StepBatches]:
        stream = BatchStream(
            [Assembler(trees[rank], partial(pack, n_tasks=2))],
            replace(share, rank=rank),
            cost=COST,
            sum_over_ranks=partial(meeting.sum_of, rank),
            **settings,
        )
        with closing(stream):
            return [stream.take(step) for step in steps]

    with ThreadPoolExecutor(share.world_size) as threads:
        return list(threads.map(of, range(share.world_size))), trees


def share_of(world_size: int, size: int, micro: int, rank: int = 0) -> Share:
    return Share(rank=rank, world_size=world_size, trees_per_micro_batch=size, micro_batches=micro)


SPLITS = [(1, 8, 1), (1, 2, 4), (2, 4, 1), (2, 1, 4), (4, 2, 1), (8, 1, 1)]


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize(("world_size", "size", "micro"), SPLITS)
def test_a_step_has_the_same_targets_on_any_number_of_ranks(
    world_size: int, size: int, micro: int, balance: bool
) -> None:
    ranks, _ = over_ranks(share_of(world_size, size, micro), (0, 7), balance=balance, prefetch=0)
    for number, step in enumerate((0, 7)):
        seen: Counter[int] = Counter()
        for taken in (rank[number] for rank in ranks):
            assert [batch.n_trees for batch in taken.batches] == [size] * micro
            for batch, trees in zip(taken.batches, taken.trees, strict=True):
                assert batch.label_tokens_M.tolist() == trees
                seen.update(trees)
        assert seen == Counter(range(step * 8, step * 8 + 8))


def test_balance_evens_out_what_strides_do_not() -> None:
    ranks, _ = over_ranks(share_of(2, 4, 2), range(5))
    for taken in ranks[0]:
        assert 1 <= taken.imbalance <= taken.imbalance_strided
    assert np.mean([taken.imbalance for taken in ranks[0]]) < 1.02
    assert np.mean([taken.imbalance_strided for taken in ranks[0]]) > 1.1
    for one, other in zip(*ranks, strict=True):  # all ranks came to the same split
        assert (one.imbalance, one.imbalance_strided) == (other.imbalance, other.imbalance_strided)


def test_without_balance_each_rank_takes_its_stride_and_says_what_it_costs() -> None:
    ranks, trees = over_ranks(share_of(2, 2, 2), (3,), balance=False, prefetch=0)
    assert ranks[1][0].trees == [[25, 27], [29, 31]]
    assert ranks[1][0].imbalance == ranks[1][0].imbalance_strided > 1
    assert trees[1].asked == [25, 27, 29, 31]  # nothing is assembled twice


def test_prefetched_batches_are_the_ones_asked_for() -> None:
    steps = (0, 1, 2, 10, 11, 3)  # jumps as a resume does
    (ahead, _), _ = over_ranks(share_of(2, 2, 2), steps, prefetch=3)
    (plain, _), _ = over_ranks(share_of(2, 2, 2), steps, prefetch=0)
    assert [taken.trees for taken in ahead] == [taken.trees for taken in plain]
    assert all(map(same, ahead, plain))


def same(one: StepBatches, other: StepBatches) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for a, b in zip(one.batches, other.batches, strict=True)
        for field in fields(MicroBatch)
    )


def test_the_next_step_is_assembled_in_a_thread_meanwhile() -> None:
    trees, packed, threads = Endless(), list[int](), set[str]()

    def packing(part: Sequence[Tree]) -> MicroBatch:
        threads.add(threading.current_thread().name)
        packed.extend(int(tree.branches[0].answer[0]) for tree in part)
        return pack(part, 2)

    with closing(
        BatchStream([Assembler(trees, packing)], share_of(1, 2, 1), cost=COST, prefetch=2)
    ) as ahead:
        ahead.take(0)
        deadline = time.monotonic() + 5
        while len(packed) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert packed == [0, 1, 2, 3, 4, 5]
        assert trees.asked[:8] == list(range(8))  # measured one step further, each once
    assert all(name.startswith("assemble") for name in threads)


def test_an_error_in_the_thread_reaches_the_loop() -> None:
    def broken(part: Sequence[Tree]) -> MicroBatch:
        raise ValueError("this tree is bad")

    with (
        closing(BatchStream([Assembler(Endless(), broken)], share_of(1, 1, 1), cost=COST)) as ahead,
        pytest.raises(ValueError, match="this tree is bad"),
    ):
        ahead.take(0)


def test_waiting_is_what_assembly_takes() -> None:
    def slow(index: int) -> Tree:
        time.sleep(0.02)
        return tree(index)

    assembler = Assembler(Endless(slow), partial(pack, n_tasks=2))
    with closing(BatchStream([assembler], share_of(1, 2, 1), cost=COST)) as ahead:
        assert ahead.take(0).waited >= 0.04
        time.sleep(0.5)
        assert ahead.take(1).waited < 0.02


def test_histories_that_were_cut_short_are_told_once_with_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def cut(index: int) -> Tree:
        return replace(tree(index), dropped_events=3 if index % 4 == 2 else 0)

    assembler = Assembler(Endless(cut), partial(pack, n_tasks=2))
    caplog.set_level("INFO")
    with closing(BatchStream([assembler], share_of(1, 2, 2), cost=COST)) as ahead:
        taken = [ahead.take(step) for step in range(3)]
    assert [(t.dropped_events, t.shortened_trees) for t in taken] == [(3, 1)] * 3
    (record,) = caplog.records
    assert "step 1: 1 of 4 trunks were too long, and 3 of their oldest events" in record.message


def test_a_step_of_too_few_users_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def owned(index: int) -> Tree:
        return replace(tree(index), moment=replace(NOBODY, user=index // 2 % 3 - 1))

    assembler = Assembler(Endless(owned), partial(pack, n_tasks=2))
    with closing(BatchStream([assembler], share_of(1, 2, 2), cost=COST, min_users=2)) as ahead:
        assert [ahead.take(step).users for step in range(3)] == [1, 1, 2]
    (record,) = caplog.records
    assert "step 1 has 1 different users in its 4 trees, but min_users_per_step=2" in record.message


def test_pinned_arrays_are_the_same_in_other_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    batch = pack([tree(1), tree(2)], n_tasks=2)
    copy = pinned(batch)
    for field in fields(MicroBatch):
        one, other = getattr(batch, field.name), getattr(copy, field.name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
        assert not np.shares_memory(one, other)


# --- processes


def recipe(store: TokenStore, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "stores": (str(store.folder),),
        "mixture": CONFIG,
        "seed": 1,
        "plugins": (),
        "layout": "L2",
        "context_length": None,
    }
    return Recipe(**(values | changes))


@contextmanager
def processes(recipe: Recipe, n: int) -> Iterator[tuple[BatchStream, list[AssemblyProcess]]]:
    started = [AssemblyProcess(recipe) for _ in range(n)]
    with closing(BatchStream(started, share_of(1, 2, 2), cost=COST, prefetch=2)) as stream:
        yield stream, started


def gone(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # An orphan whose new parent does not wait for it stays as a zombie.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_processes_assemble_the_same_bit_for_bit(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], CONFIG, seed=1)
    here = BatchStream([assembler_of(mixture, "L2")], share_of(1, 2, 2), cost=COST)
    expected = [here.take(step) for step in (0, 1, 2, 7)]
    here.close()
    with processes(recipe(tiny_store), 2) as (stream, started):
        for one in expected:
            step = min(one.trees[0] + one.trees[1]) // 4
            found = stream.take(step)
            assert found.trees == one.trees
            assert same(found, one)
        # The terminal or a scheduler signals them too; the run decides when it ends.
        for process in started:
            process._process.send_signal(signal.SIGINT)
            process._process.send_signal(signal.SIGTERM)
        assert stream.take(8).batches
    assert all(gone(process._process.pid) for process in started)


def test_a_killed_process_is_an_error_at_once(tiny_store: TokenStore) -> None:
    with processes(recipe(tiny_store), 1) as (stream, (process,)):
        stream.take(0)
        process._process.kill()
        process._process.wait()
        began = time.monotonic()
        with pytest.raises(TrainingError, match=r"was ended by SIGKILL.*dataloader_num_workers"):
            stream.take(9)
        assert time.monotonic() - began < 1


def test_errors_of_a_process_arrive_whole(tiny_store: TokenStore, tmp_path: Path) -> None:
    with (
        processes(recipe(tiny_store, stores=(str(tmp_path),)), 1) as (stream, _),
        pytest.raises(DataError, match="this is no token store") as caught,
    ):
        stream.take(0)
    assert caught.value.file == str(tmp_path / "store.json")
    assert "brewhouse data build" in str(caught.value.remedy)
    assert "open_stores" in caught.value.__notes__[0]  # where over there


def test_a_process_knows_the_tasks_of_plugins(tiny_store: TokenStore, tmp_path: Path) -> None:
    plugin = tmp_path / "odd_row.py"
    plugin.write_text(ODD_ROW)
    own = MixtureConfig(tasks={"odd_row": 1.0}, targets_per_tree=3, history_events=4)
    with processes(recipe(tiny_store, mixture=own, plugins=(str(plugin),)), 1) as (stream, _):
        assert stream.take(0).batches[0].targets_K[0] > 0


ORPHANER = """
import os, signal, sys
from data_pipeline.mixture_config import MixtureConfig
from train.assembly import Recipe
from train.assembly_process import AssemblyProcess

recipe = Recipe(
    stores=(sys.argv[1],), mixture=MixtureConfig(), seed=1, plugins=(), layout="L2",
    context_length=None,
)
process = AssemblyProcess(recipe)
process.measure(0, [0, 1])
print(process._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_does_not_outlive_a_killed_run(tiny_store: TokenStore) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANER, str(tiny_store.folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))
