"""What a layout says of itself."""

import pytest
import torch

from modeling.tree_layout import TreeLayout


def test_positions_restart_at_the_end_of_the_trunk() -> None:
    layout = TreeLayout.from_arrays([3, 0], torch.tensor([2, 1]), torch.tensor([2, 1, 4]))
    assert layout == TreeLayout((3, 0), ((2, 1), (4,)))
    assert layout.positions().tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 3]
    assert layout.positions().dtype == torch.int64
    assert layout.n_tokens == 10
    assert layout.longest_path == 5


def test_dense_mask_by_hand() -> None:
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],  # branch of two
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # branch of one
        [0, 0, 0, 0, 0, 1],  # the next tree
    ]
    assert TreeLayout((2, 1), ((2, 1), ())).dense_mask().int().tolist() == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([3], [2], [1]), "1 counts that sum to 2, 1 branches"),
        (([3, 1], [1], [1]), "2 trunks, 1 counts"),
        (([3], [1], [0]), "tree 0 has a branch of 0 tokens"),
        (([-1], [1], [2]), "tree 0 has a trunk of -1 tokens"),
        (([0], [0], []), "0 tokens"),
    ],
)
def test_an_impossible_layout_is_refused(arrays: tuple[list[int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeLayout.from_arrays(*arrays)


def test_attached_branches_start_where_they_are_attached() -> None:
    layout = TreeLayout.from_arrays([3, 1], [2, 1], [2, 1, 2], attach=[1, 3, 0])
    assert layout.positions().tolist() == [0, 1, 2, 1, 2, 3, 0, 0, 1]
    assert layout.longest_path == 4
    assert layout.attention_pairs == int(layout.dense_mask().sum())


def test_dense_mask_of_attached_branches_by_hand() -> None:
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],  # attached behind the first token, a branch of two
        [1, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],  # sees nothing of the trunk
    ]
    assert TreeLayout((2,), ((2, 1),), ((1, 0),)).dense_mask().int().tolist() == expected


def test_cached_tokens_are_not_in_the_row() -> None:
    layout = TreeLayout((5, 3), ((2,), (1,)), cached_lengths=(4, 3))
    assert layout.n_tokens == 1 + 2 + 0 + 1
    assert layout.positions().tolist() == [4, 5, 6, 3]
    with pytest.raises(ValueError, match="cached trunks has no mask"):
        layout.dense_mask()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attach": ((1,),)}, "one trunk length for every branch"),
        ({"attach": ((1, 5),)}, "tree 0 has a branch attached behind token 5"),
        ({"attach": ((-1, 2),)}, "attach lies within 0 to 4"),
        ({"cached_lengths": (5,)}, "5 cached tokens of a trunk of 4"),
        ({"cached_lengths": (1, 2)}, "one length for every tree"),
    ],
)
def test_impossible_attachments_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeLayout((4,), ((2, 1),), **fields)
