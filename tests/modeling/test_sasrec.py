"""SASRec: what a history may and may not change in its scores."""

import pytest
import torch

from modeling.students import SASRec, SASRecShape


def student(**changes: object) -> SASRec:
    torch.manual_seed(3)
    values = {"n_items": 30, "hidden_size": 16, "n_heads": 2, "max_length": 12, **changes}
    return SASRec(SASRecShape(**values)).eval()  # type: ignore[arg-type]


def histories(length: int, rows: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 30, (rows, length), generator=generator)


@pytest.mark.parametrize("padding", [1, 5])
def test_padding_on_the_left_changes_no_score(padding: int) -> None:
    model, items_BL = student(), histories(7)
    front = torch.full((len(items_BL), padding), model.padding_item)
    padded_BL = torch.cat([front, items_BL], dim=1)
    torch.testing.assert_close(
        model.item_scores(padded_BL), model.item_scores(items_BL), rtol=0, atol=1e-6
    )


def test_a_state_knows_nothing_of_later_events() -> None:
    model, items_BL = student(), histories(10)
    changed_BL = items_BL.clone()
    changed_BL[:, 6:] = (changed_BL[:, 6:] + 11) % 30
    before, after = model(items_BL), model(changed_BL)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=1e-6)
    assert (after[:, 6:] - before[:, 6:]).abs().max() > 1e-3


def test_order_and_every_event_count() -> None:
    model, items_BL = student(), histories(6)
    scores_BN = model.item_scores(items_BL)
    assert (model.item_scores(items_BL.flip(1)) - scores_BN).abs().max() > 1e-4
    changed_BL = items_BL.clone()
    changed_BL[:, 0] = (changed_BL[:, 0] + 1) % 30
    assert (model.item_scores(changed_BL) - scores_BN).abs().max() > 1e-5


def test_an_empty_history_has_finite_scores_and_gradients() -> None:
    model = student().train()
    scores_BN = model.item_scores(torch.full((2, 3), model.padding_item))
    scores_BN.sum().backward()
    assert torch.isfinite(scores_BN).all()
    for name, weight in model.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name


def test_slate_scores_are_the_same_numbers_as_item_scores() -> None:
    model, items_BL = student(), histories(5)
    slate_BS = torch.tensor([[3, 29, 0], [7, 7, 1], [2, 4, 6], [11, 12, 13]])
    expected_BS = model.item_scores(items_BL).gather(1, slate_BS)
    torch.testing.assert_close(model.slate_scores(items_BL, slate_BS), expected_BS)


def test_teacher_vectors_enter_at_the_input_and_stay_frozen() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors_NW = torch.randn(30, 8, generator=generator)
    torch.manual_seed(3)
    shape = SASRecShape(n_items=30, hidden_size=16, max_length=12, teacher_width=8)
    model = SASRec(shape, vectors_NW).eval()
    with_vectors = model.item_scores(histories(5))
    model.teacher_items.zero_()
    assert (model.item_scores(histories(5)) - with_vectors).abs().max() > 1e-5
    assert "teacher_items" in model.state_dict()
    assert "teacher_items" not in dict(model.named_parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3}, "hidden_size=16 is not divisible by n_heads=3"),
        ({"n_items": 0}, "at least one item"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(**values)


def test_teacher_vectors_of_another_catalog_are_refused() -> None:
    shape = SASRecShape(n_items=30, teacher_width=8)
    with pytest.raises(ValueError, match=r"shape \(29, 8\); this student needs \(30, 8\)"):
        SASRec(shape, torch.zeros(29, 8))
    with pytest.raises(ValueError, match="teacher_width is 0"):
        SASRec(SASRecShape(n_items=30), torch.zeros(30, 8))
