"""Splits: nothing learned from is newer than what is asked about, and every row has one phase."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_corpus import FIRST_DAY, make_corpus, tiny_tables
from tiny_rich import make_rich_corpus

from data_pipeline.corpus import Corpus, PublishedSplit, write_corpus
from data_pipeline.corpus_checks import codes_of, milliseconds
from data_pipeline.errors import DataError
from data_pipeline.splits import (
    MS_PER_DAY,
    Phase,
    SplitConfig,
    phases_by_id,
    split_corpus,
    split_events,
    split_queries,
    split_rows,
)

Events = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@st.composite
def events(draw: st.DrawFn) -> Events:
    """Users' ascending times, with many ties and users without events."""
    users = draw(
        st.lists(st.lists(st.integers(0, 40).map(lambda day: day * MS_PER_DAY)), min_size=1)
    )
    offsets = np.cumsum([0, *(len(user) for user in users)]).astype(np.int64)
    times = [time for user in users for time in sorted(user)]
    return offsets, np.array(times, dtype=np.int64)


def configs(method: str) -> st.SearchStrategy[SplitConfig]:
    shares = st.floats(0, 0.45)
    if method == "leave_last":
        return st.just(SplitConfig(method="leave_last"))
    return st.builds(
        SplitConfig, validation_share=shares, test_share=shares, gap_days=st.floats(0, 10)
    )


@settings(max_examples=300, deadline=None)
@given(events(), configs("global_time"))
def test_global_time_never_learns_from_later_events(data: Events, config: SplitConfig) -> None:
    offsets, time = data
    try:
        split = split_events(offsets, time, config)
    except DataError:
        return  # refused: some phase would be empty
    phase, gap_ms = split.phase_E, config.gap_days * MS_PER_DAY
    assert len(phase) == len(time)
    assert set(phase) <= set(Phase)
    train = time[phase == Phase.TRAIN]
    for asked in (time[phase == Phase.VALIDATION], time[phase == Phase.TEST]):
        if len(asked):
            assert train.max() < asked.min() - gap_ms + 1
    for earlier, later in ((Phase.TRAIN, Phase.VALIDATION), (Phase.VALIDATION, Phase.TEST)):
        before, after = time[phase == earlier], time[phase == later]
        if len(before) and len(after):
            assert before.max() < after.min()
    assert sum(split.card["counts"].values()) == len(time)


@settings(max_examples=200, deadline=None)
@given(events())
def test_leave_last_takes_the_last_two_of_long_enough_users(data: Events) -> None:
    offsets, time = data
    try:
        phase = split_events(offsets, time, SplitConfig(method="leave_last")).phase_E
    except DataError:
        assert np.diff(offsets).max() < 3
        return
    for start, stop in pairwise(offsets):
        expected = [Phase.TRAIN] * (stop - start)
        if stop - start >= 3:
            expected[-2:] = [Phase.VALIDATION, Phase.TEST]
        assert phase[start:stop].tolist() == expected


def by_time(times: list[int], **settings: Any) -> tuple[list[int], dict[str, Any]]:
    time = np.array(times, dtype=np.int64) * MS_PER_DAY
    split = split_events(np.array([0, len(times)]), time, SplitConfig(**settings))
    return split.phase_E.tolist(), split.card


def test_thresholds_are_quantiles_of_event_times() -> None:
    phase, card = by_time(list(range(10)), validation_share=0.2, test_share=0.3)
    assert phase == [0] * 5 + [1] * 2 + [2] * 3
    assert card["train_end"] == 5 * MS_PER_DAY
    assert card["validation_end"] == 7 * MS_PER_DAY
    assert card["counts"] == {"train": 5, "validation": 2, "test": 3, "gap": 0}


def test_gap_lies_before_both_boundaries() -> None:
    phase, _ = by_time(list(range(20)), validation_share=0.2, test_share=0.2, gap_days=1.5)
    assert phase == [0] * 11 + [3] + [1] * 3 + [3] + [2] * 4


def test_gap_of_whole_days_includes_its_first_moment() -> None:
    phase, _ = by_time(list(range(20)), validation_share=0.2, test_share=0.2, gap_days=2)
    assert phase == [0] * 10 + [3] * 2 + [1] * 2 + [3] * 2 + [2] * 4


def test_events_of_one_moment_stay_together() -> None:
    phase, _ = by_time([0, 1, 1, 1, 1, 2, 2, 2, 3, 3], validation_share=0.3, test_share=0.2)
    assert phase == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_no_test_share_means_no_test() -> None:
    phase, card = by_time(list(range(10)), validation_share=0.2, test_share=0)
    assert phase == [0] * 8 + [1] * 2
    assert card["validation_end"] is None


def test_equal_times_cannot_be_split_by_time() -> None:
    with pytest.raises(DataError, match="no event for train") as caught:
        by_time([5] * 10)
    assert "leave_last" in str(caught.value.remedy)


def test_gap_that_swallows_validation_is_refused() -> None:
    with pytest.raises(DataError, match="no event for validation"):
        by_time(list(range(20)), gap_days=5)


def test_hash_changes_with_method_threshold_and_phase() -> None:
    offsets, time = np.array([0, 8, 20]), np.array([*range(8), *range(12)]) * MS_PER_DAY
    hashes = {
        split_events(offsets, time, config).hash
        for config in (
            SplitConfig(validation_share=0.2),
            SplitConfig(validation_share=0.2, test_share=0.3),
            SplitConfig(validation_share=0.2, gap_days=0.001),
            SplitConfig(method="leave_last"),
        )
    }
    assert len(hashes) == 4


def test_hash_is_of_the_phases_too() -> None:
    time = np.zeros(20, dtype=np.int64)  # same counts and no thresholds, other events held out
    config = SplitConfig(method="leave_last")
    one, other = (split_events(np.array([0, cut, 20]), time, config) for cut in (8, 9))
    assert one.card == other.card
    assert one.hash != other.hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 0.6, "test_share": 0.5}, "nothing to train on"),
        ({"method": "leave_last", "gap_days": 1.0}, "gap_days=1.0 has no meaning"),
        ({"method": "by_user", "gap_days": 1.0}, "has no meaning with method=by_user"),
        ({"gap_days": "month"}, "'auto'"),
        ({"method": "random"}, "global_time"),
        ({"gap_days": -1}, "greater than or equal to 0"),
        ({"test_shares": 0.1}, "test_shares"),
        ({"method": "leave_last", "train_end": 5}, "no meaning with method=leave_last"),
        ({"method": "published", "validation_end": 5}, "no meaning with method=published"),
        ({"train_end": "soon"}, r"(?s)this is no moment.*write a date \(2021-08-11\)"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitConfig(**settings)


# --- the gap of its own accord -------------------------------------------------------------------


def test_a_month_is_left_out_where_the_data_span_two_years() -> None:
    def gap(days: range, **settings: Any) -> float:
        return float(by_time(list(days), **settings)[1]["gap_days"])

    assert gap(range(730)) == 0  # one day short of two years
    assert gap(range(731)) == 30
    assert gap(range(214)) == 0  # MovieLens-100K spans seven months
    assert gap(range(731), gap_days=0) == 0
    assert gap(range(731), gap_days=7) == 7
    # A month before the end would leave less than a month of VALIDATION.
    assert gap(range(731), validation_share=0.05) == 0
    assert gap(range(731), validation_share=0) == 0


def test_the_card_has_the_gap_that_was_found() -> None:
    found, given = by_time(list(range(800))), by_time(list(range(800)), gap_days=30)
    assert found == given


# --- at given moments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "milliseconds"),
    [
        ("1970-01-06", 5 * MS_PER_DAY),
        ("1970-01-06T00:00:00.250Z", 5 * MS_PER_DAY + 250),
        ("1970-01-06T01:00:00+01:00", 5 * MS_PER_DAY),
        (str(5 * MS_PER_DAY), 5 * MS_PER_DAY),
        (5 * MS_PER_DAY, 5 * MS_PER_DAY),
        ("1969-12-31", -MS_PER_DAY),
    ],
)
def test_a_moment_is_a_date_in_utc_or_milliseconds(given: Any, milliseconds: int) -> None:
    assert SplitConfig(train_end=given).train_end == milliseconds


def test_given_moments_are_the_boundaries() -> None:
    given = {"train_end": "1970-01-05T12:00:00", "validation_end": "1970-01-09"}
    phase, card = by_time(list(range(10)), **given)
    assert phase == [0] * 5 + [1] * 3 + [2] * 2
    assert (card["train_end"], card["validation_end"]) == (9 * MS_PER_DAY // 2, 8 * MS_PER_DAY)
    assert card["method"] == "global_time"
    phase, _ = by_time(list(range(10)), **given, gap_days=1)
    assert phase == [0] * 4 + [3] + [1] * 2 + [3] + [2] * 2


def test_the_moment_that_is_not_given_follows_from_its_share() -> None:
    phase, card = by_time(list(range(10)), validation_end="1970-01-07", validation_share=0.2)
    assert phase == [0] * 4 + [1] * 2 + [2] * 4
    phase, _ = by_time(list(range(10)), train_end="1970-01-07", test_share=0.2)
    assert phase == [0] * 6 + [1] * 2 + [2] * 2
    phase, card = by_time(list(range(10)), train_end="1970-01-07", test_share=0)
    assert phase == [0] * 6 + [1] * 4
    assert card["validation_end"] is None
    between = "1970-01-06T12:00:00"
    phase, card = by_time(list(range(10)), validation_end=between, validation_share=0)
    assert phase == [0] * 6 + [2] * 4
    assert card["train_end"] == card["validation_end"]


@pytest.mark.parametrize(
    ("settings", "message", "remedy"),
    [
        ({"train_end": "2021-01-01"}, "train_end 2021-01-01T00:00:00.000Z does not", "between"),
        ({"train_end": 0}, "from 1970-01-01T00:00:00.000Z to 1970-01-10T00:00:00.000Z", "between"),
        ({"validation_end": "1970-01-10T00:00:01"}, "validation_end .* does not divide", "between"),
        ({"train_end": "1970-01-08", "validation_end": "1970-01-07"}, "is not before", "order"),
        ({"train_end": "1970-01-07", "validation_end": "1970-01-07"}, "is not before", "order"),
        ({"train_end": "1970-01-10"}, "is not before 1970-01-10.*TEST begins", "test_share 0.1"),
        ({"validation_end": "1970-01-02"}, "leaves no event for train", "moments farther"),
    ],
)
def test_moments_that_do_not_divide_the_events_are_refused(
    settings: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        by_time(list(range(10)), **settings)
    assert remedy in str(caught.value.remedy)


def test_moments_need_times(rich_untimed: Corpus) -> None:
    with pytest.raises(DataError, match="so method global_time has nothing to go by"):
        split_corpus(rich_untimed, SplitConfig(train_end="2017-07-20"))  # type: ignore[arg-type]


def test_the_hash_is_of_the_moments() -> None:
    time = np.arange(20) * 2 * MS_PER_DAY  # the same phases, whichever of two moments cuts
    even, odd = (
        split_events(np.array([0, 20]), time, SplitConfig(train_end=day * MS_PER_DAY))
        for day in (29, 30)
    )
    assert even.phase_E.tolist() == odd.phase_E.tolist()
    assert even.hash != odd.hash


def test_published_moments_are_taken_without_a_gap(tmp_path: Path) -> None:
    tables = tiny_tables()
    first, last = FIRST_DAY, int(tables["events"]["timestamp"].cast("int64").to_numpy().max())
    ends = (first + (last - first) // 2, first + (last - first) * 3 // 4)
    published = PublishedSplit(train_end=ends[0], validation_end=ends[1])
    corpus = write_corpus(tmp_path / "corpus", **tables, published_split=published)
    assert corpus.card.published_split == published  # read from the card in the folder
    split = split_corpus(corpus, SplitConfig(method="published"))
    given = SplitConfig(train_end=ends[0], validation_end=ends[1], gap_days=0)
    assert split.hash == split_corpus(corpus, given).hash
    assert (split.card["train_end"], split.card["validation_end"]) == ends
    assert split.card["gap_days"] == 0
    gap = split_corpus(corpus, SplitConfig(method="published", gap_days=0.5))
    assert gap.card["gap_days"] == 0.5
    assert (gap.phase_E == Phase.GAP).any()


def test_nothing_is_published_of_most_corpora(tiny_corpus: Corpus) -> None:
    with pytest.raises(DataError, match="no published moments") as caught:
        split_corpus(tiny_corpus, SplitConfig(method="published"))
    assert "train_end" in str(caught.value.remedy)


@pytest.mark.parametrize("ends", [(None, None), (2, 1), (1, 1)])
def test_what_is_published_is_in_order(ends: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="at one moment or at two in their order"):
        PublishedSplit(train_end=ends[0], validation_end=ends[1])


# --- by user -------------------------------------------------------------------------------------


def ids(n: int, start: int = 0) -> pa.ChunkedArray:
    names = [f"user {row} ключ" for row in range(start, start + n)]
    return pa.chunked_array([names[: n // 3], names[n // 3 :]], pa.string())


def test_ids_fall_into_phases_by_their_shares() -> None:
    counts = np.bincount(phases_by_id(ids(20_000), 0.2, 0.1)) / 20_000
    assert counts == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_the_phase_of_an_id_is_its_own() -> None:
    """Neither other ids, nor their order, nor a larger VALIDATION moves an id out of TEST."""
    phase = phases_by_id(ids(900), 0.2, 0.1)
    assert phases_by_id(ids(400, start=500), 0.2, 0.1).tolist() == phase[500:].tolist()
    wider = phases_by_id(ids(900), 0.5, 0.1)
    assert ((wider == Phase.TEST) == (phase == Phase.TEST)).all()
    known = phases_by_id(pa.chunked_array([["a", "b", "c"]]), 0.3, 0.3)
    assert known.tolist() == [2, 1, 2]  # the same on every machine


@settings(max_examples=100, deadline=None)
@given(events(), st.floats(0, 0.45), st.floats(0, 0.45))
def test_by_user_keeps_every_user_in_one_phase(
    data: Events, validation_share: float, test_share: float
) -> None:
    offsets, time = data
    config = SplitConfig(method="by_user", validation_share=validation_share, test_share=test_share)
    names = pa.chunked_array([[str(user) for user in range(len(offsets) - 1)]])
    try:
        split = split_events(offsets, time, config, user_ids=names, has_times=False)
    except DataError:
        return  # refused: some phase would be empty
    for start, stop in pairwise(offsets):
        assert len(set(split.phase_E[start:stop].tolist())) <= 1
    assert split.card["method"] == "by_user"
    assert (split.card["train_end"], split.card["gap_days"]) == (None, 0)


def test_by_user_without_enough_users_is_refused() -> None:
    offsets, time = np.array([0, 5]), np.zeros(5, np.int64)
    with pytest.raises(DataError, match="the by_user split leaves no event") as caught:
        split_events(offsets, time, SplitConfig(method="by_user"), user_ids=ids(1))
    assert "more users" in str(caught.value.remedy)


@pytest.mark.parametrize("method", ["global_time", "leave_last"])
def test_methods_that_need_times_say_so(method: Any, rich_untimed: Corpus) -> None:
    with pytest.raises(DataError, match=f"so method {method} has nothing to go by") as caught:
        split_corpus(rich_untimed, SplitConfig(method=method))
    assert "by_user" in str(caught.value.remedy)


def test_auto_goes_by_whether_there_are_times(rich_corpus: Corpus, rich_untimed: Corpus) -> None:
    timed = split_corpus(rich_corpus, SplitConfig())
    assert timed.hash == split_corpus(rich_corpus, SplitConfig(method="global_time")).hash
    untimed = split_corpus(rich_untimed, SplitConfig())
    assert untimed.hash == split_corpus(rich_untimed, SplitConfig(method="by_user")).hash
    assert (timed.card["method"], untimed.card["method"]) == ("global_time", "by_user")


# --- beside the events ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rich_untimed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_rich_corpus(tmp_path_factory.mktemp("untimed") / "corpus", has_times=False)


def of(corpus: Corpus, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """User rows and times of a table."""
    users = codes_of(corpus.column(name, "user_id"), corpus.users["user_id"])
    return users, milliseconds(corpus.column(name, "timestamp"))


@pytest.mark.parametrize("name", ["searches", "tags"])
def test_rows_fall_to_the_side_of_the_cut_on_which_their_time_lies(
    rich_corpus: Corpus, name: str
) -> None:
    split = split_corpus(rich_corpus, SplitConfig(gap_days=3))
    phase = getattr(split, name)
    _, time = of(rich_corpus, name)
    train_end, validation_end = split.card["train_end"], split.card["validation_end"]
    gap = 3 * MS_PER_DAY
    assert time[phase == Phase.TRAIN].max() < train_end - gap
    assert train_end <= time[phase == Phase.VALIDATION].min()
    assert time[phase == Phase.VALIDATION].max() < validation_end - gap
    assert validation_end <= time[phase == Phase.TEST].min()
    assert (phase == Phase.GAP).any()
    if name == "tags":  # what has no time was always known
        assert set(phase[time == -1]) == {Phase.TRAIN}


@pytest.mark.parametrize("name", ["searches", "tags"])
def test_rows_have_the_phase_of_their_user(rich_untimed: Corpus, name: str) -> None:
    split = split_corpus(rich_untimed, SplitConfig())
    phase = getattr(split, name)
    user, _ = of(rich_untimed, name)
    phase_U = phases_by_id(rich_untimed.users["user_id"], 0.1, 0.1)
    assert len(set(phase_U.tolist())) == 3
    expected = [int(phase_U[u]) if u >= 0 else 0 for u in user]
    assert phase.tolist() == expected


def test_leave_last_cuts_each_user_at_the_users_own_last_events(tmp_path: Path) -> None:
    # Without a tie among each user's last events.
    corpus = make_corpus(tmp_path / "corpus", events_per_user=38)
    split = split_corpus(corpus, SplitConfig(method="leave_last"))
    offsets, event_time = corpus.user_offsets_U1, corpus.time_E
    rng = np.random.default_rng(0)
    user = rng.integers(0, len(offsets) - 1, 500).astype(np.int32)
    last = event_time[offsets[user + 1] - 1]
    time = last + rng.integers(-2 * MS_PER_DAY // 24, MS_PER_DAY // 24, 500)
    time[:100] = last[:100]
    found = split_rows(corpus, split, user, time)
    before = event_time[offsets[user + 1] - 2]
    assert found.tolist() == ((time >= before).astype(int) + (time >= last)).tolist()
    assert set(found.tolist()) == {Phase.TRAIN, Phase.VALIDATION, Phase.TEST}
    nobody = split_rows(corpus, split, np.array([-1], np.int32), last[:1] + MS_PER_DAY)
    assert nobody.tolist() == [Phase.TRAIN]


def queries(split: list[str | None], rows: list[int], n: int, **shares: float) -> list[int]:
    names = pa.chunked_array([[f"q{row}" for row in range(n)]])
    column = pa.chunked_array([pa.array(split, pa.string())])
    config = SplitConfig(**shares)  # type: ignore[arg-type]
    return split_queries(names, np.array(rows, np.int32), column, config).tolist()


def test_queries_have_the_phase_that_was_published() -> None:
    found = queries(["train", "test", "validation", "train"], [0, 1, 2, 3], 4)
    assert found == [Phase.TRAIN, Phase.TEST, Phase.VALIDATION, Phase.TRAIN]


def test_a_query_of_two_splits_is_in_the_later() -> None:
    rows, split = [0, 0, 1, 1], ["test", "train", "train", "validation"]
    assert queries(list(split), rows, 2) == [Phase.TEST, Phase.VALIDATION]


def test_without_published_validation_a_share_of_train_is_it() -> None:
    n = 2_000
    split: list[str | None] = ["test" if row % 4 == 0 else "train" for row in range(n)]
    found = np.array(queries(split, list(range(n)), n, validation_share=0.2, test_share=0.2))
    assert (found[::4] == Phase.TEST).all()
    assert (found == Phase.TEST).sum() == n // 4
    assert (found == Phase.VALIDATION).sum() == pytest.approx(0.25 * 0.75 * n, rel=0.15)
    whole = queries(split, list(range(n)), n, validation_share=0, test_share=0.2)
    assert Phase.VALIDATION not in whole


def test_queries_without_a_published_split_go_by_their_ids() -> None:
    n = 3_000
    found = np.array(queries([None] * n, list(range(n)), n, validation_share=0.2, test_share=0.1))
    assert np.bincount(found) / n == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    mixed: list[str | None] = ["train", *[None] * (n - 1)]
    again = queries(mixed, list(range(n)), n, validation_share=0.2, test_share=0.1)
    assert again[1:] == found[1:].tolist()


def test_the_hash_is_of_everything_that_was_split(rich_corpus: Corpus) -> None:
    events = split_events(rich_corpus.user_offsets_U1, rich_corpus.time_E, SplitConfig())
    split = split_corpus(rich_corpus, SplitConfig())
    assert split.phase_E.tolist() == events.phase_E.tolist()
    assert split.hash != events.hash


def test_corpora_of_events_alone_keep_their_hash(tiny_corpus: Corpus) -> None:
    events = split_events(tiny_corpus.user_offsets_U1, tiny_corpus.time_E, SplitConfig())
    split = split_corpus(tiny_corpus, SplitConfig())
    assert split.hash == events.hash
    assert (split.searches, split.tags, split.queries) == (None, None, None)


def test_corpora_without_events_split_their_queries(tmp_path: Path, rich_corpus: Corpus) -> None:
    corpus = write_corpus(
        tmp_path / "corpus",
        name="judged",
        items=rich_corpus.items,
        item_fields=rich_corpus.card.item_fields,
        queries=rich_corpus.table("queries"),
        judgements=rich_corpus.table("judgements"),
    )
    split = split_corpus(corpus, SplitConfig())
    assert len(split.phase_E) == 0
    assert split.queries is not None
    assert len(split.queries) == len(corpus.table("queries"))  # type: ignore[arg-type]
