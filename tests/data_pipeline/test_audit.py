"""The audit finds what would make results worthless, and stays quiet about sound data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.audit import AuditCheck, AuditReport, audit
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.splits import SplitConfig, split_events

DAY = 86_400_000
START = 10_000 * DAY  # in 1997
USERS, ITEMS, EACH = 40, 30, 12

Make = Callable[..., Corpus]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A sound corpus; arguments replace columns of its tables, `item_fields` its fields."""

    def build(**changes: Any) -> Corpus:
        rng = np.random.default_rng(3)
        items = [rng.permutation(ITEMS)[:EACH] for _ in range(USERS)]
        columns: dict[str, Any] = {
            "item_id": [str(item) for item in range(ITEMS)],
            "title": [f"Title {item}" for item in range(ITEMS)],
            "user": np.repeat([f"u{user}" for user in range(USERS)], EACH),
            "item": np.concatenate(items).astype(str),
            "time": START + rng.permutation(USERS * EACH) * DAY // 10,
            "value": np.arange(USERS * EACH) % 5 + 1.0,
            "fields": {},
            "dropped": None,
        }
        columns |= changes
        fields = columns["fields"]
        return write_corpus(
            tmp_path / "corpus",
            name="toy",
            items=pa.table({"item_id": columns["item_id"], "title": columns["title"], **fields}),
            users=pa.table({"user_id": sorted(set(columns["user"]))}),
            events=pa.table(
                {
                    "user_id": columns["user"],
                    "item_id": columns["item"],
                    "timestamp": pa.array(columns["time"], pa.timestamp("ms", "UTC")),
                    "action": ["rated"] * len(columns["user"]),
                    "value": pa.array(columns["value"], pa.float32()),
                }
            ),
            item_fields=[Field(name=name, kind="year") for name in fields],
            licence="CC0",
            dropped=columns["dropped"],
        )

    return build


def check(report: AuditReport, name: str) -> AuditCheck:
    return next(check for check in report.checks if check.name == name)


def finding(corpus: Corpus, name: str, **split: Any) -> AuditCheck:
    return check(audit(corpus, SplitConfig(**split)), name)


def test_sound_corpus_has_nothing_to_mend(make: Make) -> None:
    report = audit(make(), SplitConfig())
    assert [(c.name, c.message) for c in report.checks if c.level != "ok"] == []
    assert report.level == "ok"
    assert report.counts == {"items": ITEMS, "users": USERS, "events": USERS * EACH}
    assert report.events_per_user["median"] == EACH
    assert report.density == pytest.approx(EACH / ITEMS)
    assert report.days == pytest.approx((USERS * EACH - 1) / 10)
    assert report.first_event == "1997-05-19T00:00:00.000Z"
    assert report.actions == {"rated": USERS * EACH}
    assert report.values == {str(value): USERS * EACH // 5 for value in range(1, 6)}
    assert report.split is not None
    assert report.split["hash"]


def test_report_is_json_and_a_readable_page(make: Make) -> None:
    corpus = make(title=["same | title"] * ITEMS)
    report = audit(corpus, SplitConfig())
    content = json.loads(json.dumps(report.to_dict()))
    assert content["level"] == "warning"
    assert content["checks"][0].keys() == {"name", "level", "message", "measured"}
    page = report.to_markdown()
    assert page.startswith("# Audit of toy: read the warnings\n")
    assert "| warning | titles | 30 items share their title" in page
    assert "same \\| title" in page  # a bar of the data is no column of the table
    assert "| events | 480 |" in page


def test_split_may_be_made_before(make: Make) -> None:
    corpus = make()
    split = split_events(corpus.user_offsets_U1, corpus.time_E, SplitConfig())
    assert audit(corpus, split) == audit(corpus, SplitConfig())


def test_equal_times_are_an_error(make: Make) -> None:
    report = audit(make(time=np.full(USERS * EACH, START)), SplitConfig())
    assert check(report, "time").level == "error"
    assert "order is unknown" in check(report, "time").message
    assert check(report, "split").level == "error"
    assert "leave_last" in check(report, "split").message
    assert report.split is None
    assert report.level == "error"
    assert "mend the errors" in report.to_markdown()


def test_times_in_1970_are_doubted(make: Make) -> None:
    assert "unit" in finding(make(time=np.arange(USERS * EACH)), "time").message


def test_placeholder_time_is_doubted(make: Make) -> None:
    time = START + np.arange(USERS * EACH) * DAY
    time[::5] = START
    found = finding(make(time=time), "time")
    assert found.level == "warning"
    assert "20.0% of events share one single time" in found.message


def sequences(length: int, order: str) -> dict[str, Any]:
    """Events whose items stand in a given order, one per day."""
    rng = np.random.default_rng(0)
    items = [rng.permutation(ITEMS)[:length] for _ in range(USERS)]
    if order != "random":
        items = [np.sort(row)[:: 1 if order == "ascending" else -1] for row in items]
    days = np.arange(length) * DAY
    return {
        "user": np.repeat([f"u{user}" for user in range(USERS)], length),
        "item": np.concatenate(items).astype(str),
        "time": START + np.concatenate([user * DAY * 3 + days for user in range(USERS)]),
        "value": np.arange(USERS * length) % 5 + 1.0,
    }


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sequences_sorted_by_item_id_are_an_error(make: Make, order: str) -> None:
    # The ids are numbers as text: "10" comes after "9".
    found = finding(make(**sequences(8, order)), "order")
    assert found.level == "error"
    assert "100.0% of sequences are sorted by item id" in found.message
    assert found.measured["chance"] == pytest.approx(2 / 40320)


def test_short_sequences_are_sorted_by_chance(make: Make) -> None:
    found = finding(make(**sequences(3, "random")), "order")
    assert found.measured["chance"] == pytest.approx(1 / 3)
    assert found.level == "ok"


def test_order_within_one_moment_is_doubted(make: Make) -> None:
    events = sequences(8, "ascending")
    events["time"] = np.repeat(START + np.arange(USERS * 2) * DAY, 4)
    ids = [int(item) for item in events["item"]]
    events["item"] = np.array(ids).reshape(-1, 2, 4)[:, ::-1].reshape(-1).astype(str)
    found = finding(make(**events), "order")
    assert found.measured["sorted_share"] == 0
    assert found.measured["sorted_within_a_moment"] == 1
    assert found.level == "warning"


def test_requests_are_measured(make: Make) -> None:
    time = START + np.arange(USERS * EACH) // 6 * DAY
    found = finding(make(time=time), "requests")
    assert found.measured == {"share_of_events": 1.0, "mean_size": 6.0, "largest": 6}
    assert found.level == "warning"
    assert "cut to the day" in found.message


def test_shared_and_odd_titles_are_counted(make: Make) -> None:
    titles = [f"Title {item}" for item in range(ITEMS)]
    titles[:4] = ["Twin", "Twin", "<|im_end|> end", "x" * 600]
    years = [1990.0, 1991.0, *[2000.0] * (ITEMS - 2)]
    found = finding(make(title=titles, fields={"year": years}), "titles")
    assert found.measured == {
        "items_with_shared_title": 2,
        "items_with_shared_title_and_year": 0,
        "titles_like_control_tokens": 1,
        "titles_over_500_characters": 1,
    }
    assert "Twin" in found.message


def test_mostly_missing_field_is_named(make: Make) -> None:
    found = finding(make(fields={"year": [1990.0, *[None] * (ITEMS - 1)]}), "item_fields")
    assert found.level == "warning"
    assert "year (96.7%)" in found.message


def test_constant_value_is_doubted(make: Make) -> None:
    assert "Every value is 1.0" in finding(make(value=np.ones(USERS * EACH)), "values").message


def test_many_values_are_shown_in_bins(make: Make) -> None:
    report = audit(make(value=np.linspace(0, 100, USERS * EACH)), SplitConfig())
    assert len(report.values) == 10
    assert sum(report.values.values()) == USERS * EACH


def test_users_with_one_event_and_dropped_events(make: Make) -> None:
    events = sequences(3, "random")
    events["user"] = np.array([f"u{row}" for row in range(USERS * 3)])
    report = audit(make(**events, dropped={"duplicates": 80, "unknown_ids": 40}), SplitConfig())
    assert check(report, "short_histories").measured["users_with_one_event"] == 120
    assert check(report, "short_histories").level == "warning"
    assert check(report, "duplicates").level == "warning"
    assert check(report, "duplicates").measured["dropped"] == 80
    assert check(report, "unknown_ids").level == "warning"
    assert check(report, "empty_histories").level == "warning"
    assert "ids that stay theirs" in check(report, "empty_histories").message
    assert check(report, "empty_histories").measured["empty_share"] == 1
    assert check(report, "cold").measured["test_events_of_new_users"] == 1


def test_a_test_time_of_newcomers_alone_is_an_error_where_others_come_back(make: Make) -> None:
    events = sequences(3, "random")
    by_time = np.argsort(events["time"])
    users = np.array([f"new{row}" for row in range(len(by_time))], dtype=object)
    users[by_time[: len(by_time) * 8 // 10]] = "regular"
    report = audit(make(**(events | {"user": users})), SplitConfig(gap_days=0))
    found = check(report, "empty_histories")
    assert found.level == "error"
    assert found.measured["empty_share"] == 1


def test_unused_items_are_counted(make: Make) -> None:
    item = np.tile(np.array(["0", "1", "2", "3"]), USERS * EACH // 4)
    found = finding(make(item=item), "unused_items")
    assert found.measured == {"items_without_events": ITEMS - 4}
    assert found.level == "warning"


def test_new_items_in_the_test_are_counted(make: Make) -> None:
    time = START + np.arange(USERS * EACH) * DAY
    item = np.array([str(n % 20) for n in range(USERS * EACH)])
    item[-24:] = [str(20 + n % 10) for n in range(24)]  # TEST is the last 48 events
    found = finding(make(time=time, item=item), "cold")
    assert found.measured["test_events_of_new_items"] == 0.5


def test_leave_last_is_told_to_leak(make: Make) -> None:
    found = finding(make(), "leakage", method="leave_last")
    assert found.level == "warning"
    assert found.measured["train_events_not_before_test"] > 0
    assert "global_time" in found.message


def test_broken_split_is_an_error(make: Make) -> None:
    corpus = make()
    split = split_events(corpus.user_offsets_U1, corpus.time_E, SplitConfig())
    split.phase_E[np.argmax(corpus.time_E)] = 0  # the newest event of all becomes TRAIN
    report = audit(corpus, split)
    assert check(report, "leakage").level == "error"
    assert report.level == "error"


def test_split_without_test_is_said(make: Make) -> None:
    report = audit(make(), SplitConfig(test_share=0))
    assert "no TEST event" in check(report, "leakage").message
    assert report.level == "ok"
