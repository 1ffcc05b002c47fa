"""Cores are shared among the ranks of a host: each a part of its own, none left out."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.distributed import cores
from train.distributed.cores import bind_cores_to_rank, one_per_core, share_of_cores


@given(available=st.sets(st.integers(0, 200), min_size=1), ranks=st.integers(1, 40))
def test_shares_are_apart_and_whole(available: set[int], ranks: int) -> None:
    numbers = sorted(available)
    shares = [share_of_cores(numbers, rank, ranks) for rank in range(ranks)]
    assert all(shares)
    assert sorted({core for share in shares for core in share}) == numbers
    if len(numbers) >= ranks:
        assert sum(map(len, shares)) == len(numbers)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_hardware_threads_of_one_core_count_once(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu in range(8):
        os.makedirs(f"{tmp_path}/cpu{cpu}")
        with open(f"{tmp_path}/cpu{cpu}/siblings", "w") as file:
            file.write(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(cores, "_SIBLINGS", f"{tmp_path}/cpu{{}}/siblings")
    assert one_per_core(range(8)) == [0, 1, 2, 3]
    assert one_per_core([2, 6, 7]) == [2, 7]


@pytest.mark.parametrize("name", ["LOCAL_SIZE", "LOCAL_WORLD_SIZE"])
def test_a_rank_binds_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[list[int]] = []
    threads: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, mine: bound.append(list(mine)), raising=False
    )
    monkeypatch.setattr(cores, "_SIBLINGS", "/nowhere/{}")
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert bind_cores_to_rank({"LOCAL_RANK": "1", name: "2"}) == [3, 4, 5]
    assert (bound, threads) == ([[3, 4, 5]], [3])
