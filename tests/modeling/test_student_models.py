"""Every student: what a history may and may not change in its scores."""

import pytest
import torch

from modeling.students import (
    GRU4Rec,
    SASRec,
    Student,
    StudentShape,
    find_student,
    register_student,
)
from modeling.students.losses import binary_cross_entropy, cross_entropy

EVERY = pytest.mark.parametrize("kind", [SASRec, GRU4Rec])


def student(kind: type[Student], **changes: object) -> Student:
    torch.manual_seed(3)
    values = {"n_items": 30, "hidden_size": 16, "n_heads": 2, "max_length": 12, **changes}
    return kind(StudentShape(**values)).eval()  # type: ignore[arg-type]


def histories(length: int, rows: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 30, (rows, length), generator=generator)


@EVERY
@pytest.mark.parametrize("padding", [1, 5])
def test_padding_on_the_left_changes_no_score(kind: type[Student], padding: int) -> None:
    model, items_BL = student(kind), histories(7)
    front = torch.full((len(items_BL), padding), model.padding_item)
    padded_BL = torch.cat([front, items_BL], dim=1)
    torch.testing.assert_close(
        model.item_scores(padded_BL), model.item_scores(items_BL), rtol=0, atol=1e-6
    )


@EVERY
def test_a_state_knows_nothing_of_later_events(kind: type[Student]) -> None:
    model, items_BL = student(kind), histories(10)
    changed_BL = items_BL.clone()
    changed_BL[:, 6:] = (changed_BL[:, 6:] + 11) % 30
    before, after = model(items_BL), model(changed_BL)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=1e-6)
    assert (after[:, 6:] - before[:, 6:]).abs().max() > 1e-3


@EVERY
def test_order_and_every_event_count(kind: type[Student]) -> None:
    model, items_BL = student(kind), histories(6)
    scores_BN = model.item_scores(items_BL)
    assert (model.item_scores(items_BL.flip(1)) - scores_BN).abs().max() > 1e-4
    changed_BL = items_BL.clone()
    changed_BL[:, 0] = (changed_BL[:, 0] + 1) % 30
    assert (model.item_scores(changed_BL) - scores_BN).abs().max() > 1e-5


@EVERY
def test_an_empty_history_has_finite_scores_and_gradients(kind: type[Student]) -> None:
    model = student(kind).train()
    scores_BN = model.item_scores(torch.full((2, 3), model.padding_item))
    scores_BN.sum().backward()
    assert torch.isfinite(scores_BN).all()
    for name, weight in model.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name


@EVERY
def test_slate_scores_are_the_same_numbers_as_item_scores(kind: type[Student]) -> None:
    model, items_BL = student(kind), histories(5)
    slate_BS = torch.tensor([[3, 29, 0], [7, 7, 1], [2, 4, 6], [11, 12, 13]])
    expected_BS = model.item_scores(items_BL).gather(1, slate_BS)
    torch.testing.assert_close(model.slate_scores(items_BL, slate_BS), expected_BS)


@EVERY
def test_teacher_vectors_enter_at_the_input_and_stay_frozen(kind: type[Student]) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors_NW = torch.randn(30, 8, generator=generator)
    torch.manual_seed(3)
    shape = StudentShape(n_items=30, hidden_size=16, max_length=12, teacher_width=8)
    model = kind(shape, vectors_NW).eval()
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
        student(SASRec, **values)


def test_teacher_vectors_of_another_catalog_are_refused() -> None:
    shape = StudentShape(n_items=30, teacher_width=8)
    with pytest.raises(ValueError, match=r"shape \(29, 8\); this student needs \(30, 8\)"):
        SASRec(shape, torch.zeros(29, 8))
    with pytest.raises(ValueError, match="teacher_width is 0"):
        SASRec(StudentShape(n_items=30), torch.zeros(30, 8))


@EVERY
def test_an_empty_history_has_one_score_however_long_its_padding(kind: type[Student]) -> None:
    model = student(kind)
    scores = [model.item_scores(torch.full((1, n), model.padding_item)) for n in (1, 4, 12)]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_gru_states_are_those_of_a_loop_over_the_events() -> None:
    model = student(GRU4Rec, n_layers=1)
    assert isinstance(model, GRU4Rec)
    items_BL = histories(5, rows=2)
    padded_BL = torch.cat([torch.full((2, 3), model.padding_item), items_BL], dim=1)
    got_BLD = model(padded_BL)
    torch.testing.assert_close(got_BLD[:, :3], model.beginning.expand(2, 3, -1))
    cell = model.gru
    for row in range(2):
        state_R = torch.zeros(cell.hidden_size)
        for place, item in enumerate(items_BL[row]):
            x_D = model.items(item) * model.shape.hidden_size**0.5
            into = cell.weight_ih_l0 @ x_D + cell.bias_ih_l0
            within = cell.weight_hh_l0 @ state_R + cell.bias_hh_l0
            (r_x, z_x, n_x), (r_h, z_h, n_h) = into.chunk(3), within.chunk(3)
            update_R = torch.sigmoid(z_x + z_h)
            new_R = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
            state_R = (1 - update_R) * new_R + update_R * state_R
            torch.testing.assert_close(got_BLD[row, 3 + place], model.out(state_R))


@EVERY
def test_cross_entropy_is_that_of_torch_over_all_items(kind: type[Student]) -> None:
    model = student(kind)
    inputs_BL, targets_BL = histories(6), histories(7)[:, 1:].clone()
    targets_BL[0, :3] = model.padding_item
    wanted_BL = targets_BL != model.padding_item
    logits_MN = model(inputs_BL)[wanted_BL] @ model.output_vectors().T
    expected = torch.nn.functional.cross_entropy(logits_MN, targets_BL[wanted_BL])
    torch.testing.assert_close(cross_entropy(model, inputs_BL, targets_BL), expected)


def test_binary_cross_entropy_is_a_loop_over_targets_and_their_negatives() -> None:
    model = student(SASRec)
    inputs_BL = torch.tensor([[30, 1, 2], [4, 5, 6]])
    targets_BL = torch.tensor([[30, 2, 3], [5, 6, 7]])
    negatives_MR = torch.tensor([[9, 3], [8, 8], [7, 10], [11, 12], [13, 14]])
    state_BLD = model(inputs_BL)
    places = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    yes, no = [], []
    for (row, column), drawn in zip(places, negatives_MR.tolist(), strict=True):
        score_N = model.items.weight @ state_BLD[row, column]
        yes.append(-torch.sigmoid(score_N[targets_BL[row, column]]).log())
        own = targets_BL[row].tolist()
        no += [-(1 - torch.sigmoid(score_N[item])).log() for item in drawn if item not in own]
    assert len(no) == 8  # 3 and 7 are items of their own windows
    expected = torch.stack(yes).mean() + torch.stack(no).mean()
    got = binary_cross_entropy(model, inputs_BL, targets_BL, negatives_MR)
    torch.testing.assert_close(got, expected)


def test_students_are_found_by_name_and_a_wrong_one_lists_the_nearest() -> None:
    assert find_student("gru4rec") is GRU4Rec
    with pytest.raises(ValueError, match=r"no student is called 'gru4rek'; nearest: gru4rec"):
        find_student("gru4rek")
    with pytest.raises(ValueError, match="a student called 'sasrec' already"):
        register_student(SASRec)
