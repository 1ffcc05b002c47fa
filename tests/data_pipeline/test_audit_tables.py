"""The audit of queries, judgements, searches, tags and links, and of corpora without times."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_rich import make_rich_corpus

from data_pipeline.audit import AuditCheck, AuditReport, audit
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.splits import Phase, Split, SplitConfig, split_corpus


def check(report: AuditReport, name: str) -> AuditCheck:
    return next(check for check in report.checks if check.name == name)


@pytest.fixture(scope="module")
def untimed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_rich_corpus(tmp_path_factory.mktemp("untimed") / "corpus", has_times=False)


def judged(folder: Path, judgements: dict[str, Any], texts: list[str] | None = None) -> Corpus:
    n = 200
    texts = texts or [f"query {row}" for row in range(n)]
    return write_corpus(
        folder / "corpus",
        name="judged",
        items=pa.table({"item_id": ["a", "b"], "title": ["A", "B"]}),
        queries=pa.table({"query_id": [str(row) for row in range(len(texts))], "text": texts}),
        judgements=pa.table(judgements),
    )


def every_query(n: int = 200) -> dict[str, Any]:
    return {
        "query_id": [str(row) for row in range(n)] * 2,
        "item_id": ["a"] * n + ["b"] * n,
        "grade": [1.0] * n + [0.0] * n,
    }


# --- what is said --------------------------------------------------------------------------------


def test_tables_are_described(rich_corpus: Corpus) -> None:
    report = audit(rich_corpus, SplitConfig())
    tables = report.tables
    assert tables["queries"] == {"rows": 42, "query_id": 42, "text": 42}
    assert tables["judgements"]["rows"] == 504
    grades = tables["judgements"]["grade"]
    assert set(grades) == {"0", "0.01", "0.1", "1"}
    assert sum(grades.values()) == 504
    assert sum(tables["judgements"]["label"].values()) == 504
    assert "split" not in tables["judgements"]
    assert set(tables["searches"]["action"]) == {"clicked", "skipped"}
    assert tables["searches"]["with_time"] == 892
    assert tables["searches"]["first"].startswith("2017-")
    assert tables["searches"]["first"] < tables["searches"]["last"]
    assert tables["tags"]["with_time"] == 743
    assert len(tables["tags"]["tag"]) == 13
    assert set(tables["links"]["relation"]) == {"similar", "also_bought"}
    assert json.loads(json.dumps(report.to_dict()))["tables"] == tables
    page = report.to_markdown()
    assert "| judgements | what there is |" in page
    actions = tables["searches"]["action"]
    assert list(actions) == ["skipped", "clicked"]
    assert f"| action | skipped {actions['skipped']}, clicked {actions['clicked']} |" in page


def test_plain_corpora_have_no_tables(tiny_corpus: Corpus) -> None:
    report = audit(tiny_corpus, SplitConfig())
    assert report.tables == {}
    assert not any("judge" in found.name or "leakage_" in found.name for found in report.checks)


def test_event_fields_are_known_for_some_events(rich_corpus: Corpus) -> None:
    found = check(audit(rich_corpus, SplitConfig()), "event_fields")
    assert found.level == "ok"
    assert found.measured["recommended"] == pytest.approx(1 - 4800 / 6584)


def test_event_field_that_is_never_known_is_doubted(tmp_path: Path, tiny_corpus: Corpus) -> None:
    nothing = pa.nulls(len(tiny_corpus.events), pa.float64())
    corpus = write_corpus(
        tmp_path / "corpus",
        name="empty-field",
        items=tiny_corpus.items,
        users=tiny_corpus.users,
        item_fields=tiny_corpus.card.item_fields,
        user_fields=tiny_corpus.card.user_fields,
        events=tiny_corpus.events.append_column("hours", nothing),
        event_fields=[Field(name="hours", kind="number")],
    )
    found = check(audit(corpus, SplitConfig()), "event_fields")
    assert (found.level, found.message) == ("warning", "Never known: hours. Leave them out.")


# --- judgements ----------------------------------------------------------------------------------


def test_sound_judgements_have_nothing_to_mend(tmp_path: Path) -> None:
    report = audit(
        judged(tmp_path, every_query()), SplitConfig(validation_share=0.2, test_share=0.2)
    )
    assert [(c.name, c.level) for c in report.checks if "judge" in c.name] == [
        ("judgements", "ok"),
        ("judged_phases", "ok"),
    ]
    assert check(report, "judgements").measured["pairs"] == 400
    assert report.first_event == "unknown"
    assert "It is not known when events happened." in report.to_markdown()


def test_judges_who_do_not_agree_are_counted(tmp_path: Path) -> None:
    rows = every_query()
    rows["query_id"] += ["7", "7", "9"]
    rows["item_id"] += ["a", "a", "b"]
    rows["grade"] += [0.5, 0.0, 1.0]
    found = check(audit(judged(tmp_path, rows), SplitConfig()), "judgements")
    assert found.level == "warning"
    assert found.measured["pairs_with_several_grades"] == 3
    assert found.measured["pairs"] == 400


def test_equal_grades_are_doubted(tmp_path: Path) -> None:
    rows = every_query()
    rows["grade"] = [1.0] * 400
    found = check(audit(judged(tmp_path, rows), SplitConfig()), "judgements")
    assert found.level == "warning"
    assert "All are the same" in found.message


def test_query_published_in_two_splits_is_told(tmp_path: Path) -> None:
    rows = every_query()
    rows["split"] = ["train"] * 100 + ["test"] * 100 + ["train"] * 101 + ["test"] * 98 + [None]
    found = check(audit(judged(tmp_path, rows), SplitConfig()), "judged_phases")
    assert found.level == "warning"
    assert found.measured["queries_in_several_published_splits"] == 1
    assert "all their judgements are in the later one" in found.message


def test_one_text_in_two_phases_is_told(tmp_path: Path) -> None:
    texts = [f"query {row}" for row in range(200)]
    texts[1], texts[150] = "Twin", "twin"
    rows = every_query()
    rows["split"] = (["train"] * 100 + ["test"] * 100) * 2
    found = check(
        audit(judged(tmp_path, rows, texts), SplitConfig(validation_share=0)), "judged_phases"
    )
    assert found.measured["texts_in_two_phases"] == 1
    assert found.level == "warning"
    texts[150] = "another"
    found = check(
        audit(judged(tmp_path / "x", rows, texts), SplitConfig(validation_share=0)), "judged_phases"
    )
    assert (found.level, found.measured["texts_in_two_phases"]) == ("ok", 0)


def test_few_queries_in_a_phase_are_told(tmp_path: Path) -> None:
    found = check(audit(judged(tmp_path, every_query(30)), SplitConfig()), "judged_phases")
    assert found.level == "warning"
    assert "noise" in found.message


# --- leakage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["searches", "tags"])
def test_no_row_comes_after_its_phase(rich_corpus: Corpus, untimed: Corpus, name: str) -> None:
    for corpus in (rich_corpus, untimed):
        found = check(audit(corpus, SplitConfig()), f"leakage_{name}")
        assert (found.level, "none comes after its phase" in found.message) == ("ok", True)


def broken(corpus: Corpus, name: str, row: int, phase: Phase) -> Split:
    split = split_corpus(corpus, SplitConfig())
    phases = getattr(split, name)
    assert phases[row] != phase
    phases[row] = phase
    return split


@pytest.mark.parametrize("name", ["searches", "tags"])
def test_row_after_its_phase_is_an_error(rich_corpus: Corpus, name: str) -> None:
    times = rich_corpus.column(name, "timestamp").cast(pa.int64()).fill_null(0).to_numpy()
    split = broken(rich_corpus, name, int(np.argmax(times)), Phase.TRAIN)
    found = check(audit(rich_corpus, split), f"leakage_{name}")
    assert found.level == "error"
    assert "learned from and not older" in found.message


def test_row_in_another_phase_than_its_user_is_an_error(untimed: Corpus) -> None:
    searches = split_corpus(untimed, SplitConfig()).searches
    assert searches is not None
    row = int(np.flatnonzero(searches == Phase.TEST)[0])
    found = check(audit(untimed, broken(untimed, "searches", row, Phase.TRAIN)), "leakage_searches")
    assert found.level == "error"
    assert found.measured["rows_of_another_phase_than_their_user"] == 1


def test_leave_last_is_told_to_leak(rich_corpus: Corpus) -> None:
    found = check(audit(rich_corpus, SplitConfig(method="leave_last")), "leakage_searches")
    assert found.level == "warning"
    assert "future of other users" in found.message


def test_user_in_two_phases_is_an_error(untimed: Corpus) -> None:
    report = audit(untimed, SplitConfig())
    assert check(report, "leakage").message == "Every user is in one phase."
    split = split_corpus(untimed, SplitConfig())
    split.phase_E[0] = (split.phase_E[0] + 1) % 3
    found = check(audit(untimed, split), "leakage")
    assert (found.level, found.measured["users_in_two_phases"]) == ("error", 1)


# --- without times -------------------------------------------------------------------------------


def test_unknown_times_are_no_mistake(untimed: Corpus) -> None:
    report = audit(untimed, SplitConfig())
    assert (report.first_event, report.last_event, report.days) == ("unknown", "unknown", 0)
    assert report.split is not None
    assert report.split["method"] == "by_user"
    levels = {found.name: found.level for found in report.checks}
    assert levels["time"] == levels["order"] == levels["requests"] == "ok"
    test_E = split_corpus(untimed, SplitConfig()).phase_E == Phase.TEST
    users = len(np.unique(untimed.event_user_E[test_E]))
    expected = users / int(test_E.sum())
    assert check(report, "empty_histories").measured["empty_share"] == pytest.approx(expected)


def test_split_by_time_of_unknown_times_is_a_finding(untimed: Corpus) -> None:
    found = check(audit(untimed, SplitConfig(method="global_time")), "split")
    assert found.level == "error"
    assert "by_user" in found.message


def test_events_sorted_by_value_are_doubted(tmp_path: Path, tiny_corpus: Corpus) -> None:
    events = tiny_corpus.events.sort_by([("user_id", "ascending"), ("value", "descending")])
    place = events.schema.get_field_index("timestamp")
    nothing = pa.nulls(len(events), events.schema.field("timestamp").type)
    corpus = write_corpus(
        tmp_path / "corpus",
        name="sorted",
        items=tiny_corpus.items,
        users=tiny_corpus.users,
        item_fields=tiny_corpus.card.item_fields,
        user_fields=tiny_corpus.card.user_fields,
        events=events.set_column(place, "timestamp", nothing),
    )
    found = check(audit(corpus, SplitConfig()), "order")
    assert found.level == "warning"
    assert found.measured["sorted_by_value_share"] == 1
    assert "Shuffle" in found.message
