"""From a corpus's tables to the arrays of a token store.

Shape letters are those of `store_tables`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.corpus import Corpus
from data_pipeline.corpus_checks import codes_of, milliseconds
from data_pipeline.corpus_schema import ID_COLUMNS, OPTIONAL_TABLES
from data_pipeline.piece_files import ArrayWriter
from data_pipeline.splits import Split
from data_pipeline.store_card import CategoryField
from data_pipeline.store_tables import (
    Judgements,
    Links,
    Names,
    Queries,
    Searches,
    Table,
    Tags,
)


def tables_of(corpus: Corpus, split: Split) -> dict[str, Table]:
    """Each optional table that the corpus has, as arrays."""
    makers: dict[str, Callable[[Corpus, Split], Table]] = {
        "queries": _queries,
        "judgements": _judgements,
        "searches": _searches,
        "tags": _tags,
        "links": _links,
    }
    return {name: make(corpus, split) for name, make in makers.items() if name in corpus.schemas}


def _queries(corpus: Corpus, split: Split) -> Queries:
    table = corpus.table("queries")
    assert table is not None, "who asks has looked for the table"
    assert split.queries is not None, "queries are split where there are any"
    return Queries(
        ids=Names(table["query_id"].to_pylist()),
        texts=Names(table["text"].to_pylist()),
        phase_Q=split.queries,
    )


def _judgements(corpus: Corpus, split: Split) -> Judgements:
    assert split.queries is not None, "what was judged are queries"
    query_J = _rows(corpus, "judgements", "query_id")
    order, offsets_Q1 = _grouped(query_J, corpus.card.counts["queries"])
    labels, label_J = _labels(corpus.column("judgements", "label"))
    return Judgements(
        query_J=query_J[order],
        item_J=_rows(corpus, "judgements", "item_id")[order],
        grade_J=_numbers(corpus, "judgements", "grade")[order],
        label_J=label_J[order],
        phase_J=split.queries[query_J[order]],
        offsets_Q1=offsets_Q1,
        labels=labels,
    )


def _searches(corpus: Corpus, split: Split) -> Searches:
    assert split.searches is not None, "searches are split where there are any"
    user_S = _rows(corpus, "searches", "user_id")
    times = corpus.column("searches", "timestamp")
    time_S = milliseconds(times)
    actions, action_S = _labels(corpus.column("searches", "action"))
    _, offsets_U1 = _grouped(user_S, len(corpus.users))
    requests = corpus.column("searches", "request_id")
    return Searches(
        user_S=user_S,
        query_S=_rows(corpus, "searches", "query_id"),
        time_S=time_S,
        item_S=_rows(corpus, "searches", "item_id"),
        action_S=action_S,
        position_S=_numbers(corpus, "searches", "position"),
        opens_request_S=opens_request(
            user_S, time_S, requests, has_times=times.null_count < len(times)
        ),
        phase_S=split.searches,
        offsets_U1=offsets_U1,
        actions=actions,
    )


def _tags(corpus: Corpus, split: Split) -> Tags:
    assert split.tags is not None, "tags are split where there are any"
    item_A = _rows(corpus, "tags", "item_id")
    order, offsets_N1 = _grouped(item_A, len(corpus.items))
    column = corpus.column("tags", "tag")
    texts = pc.unique(column)
    return Tags(
        item_A=item_A[order],
        tag_A=codes_of(column, pa.chunked_array([texts]))[order],
        user_A=_rows(corpus, "tags", "user_id")[order],
        time_A=milliseconds(corpus.column("tags", "timestamp"))[order],
        weight_A=_numbers(corpus, "tags", "weight")[order],
        phase_A=split.tags[order],
        offsets_N1=offsets_N1,
        texts=Names(texts.to_pylist()),
    )


def _links(corpus: Corpus, split: Split) -> Links:
    item_L = _rows(corpus, "links", "item_id")
    order, offsets_N1 = _grouped(item_L, len(corpus.items))
    relations, relation_L = _labels(corpus.column("links", "relation"))
    return Links(
        item_L=item_L[order],
        other_L=_rows(corpus, "links", "other_id")[order],
        relation_L=relation_L[order],
        weight_L=_numbers(corpus, "links", "weight")[order],
        offsets_N1=offsets_N1,
        relations=relations,
    )


def _rows(corpus: Corpus, table: str, column: str) -> NDArray[np.int32]:
    """Rows that ids refer to; -1 for a missing id."""
    named = OPTIONAL_TABLES[table].ids[column]
    return codes_of(corpus.column(table, column), corpus.column(named, ID_COLUMNS[named]))


def _numbers(corpus: Corpus, table: str, column: str) -> NDArray[np.float32]:
    """Numbers, NaN where there is none."""
    values: NDArray[np.float32] = pc.fill_null(corpus.column(table, column), np.nan).to_numpy()
    return values


def _labels(column: pa.ChunkedArray) -> tuple[Names, NDArray[np.int16]]:
    """The distinct texts, sorted, and each row's, -1 where there is none."""
    names = sorted(pc.unique(column.drop_null()).to_pylist())
    codes = codes_of(column, pa.chunked_array([names], pa.string()))
    return Names(names), codes.astype(np.int16)


def _grouped(rows: NDArray[np.int32], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that groups rows without changing it within a group, and the groups' offsets."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    return np.argsort(rows, kind="stable"), offsets.astype(np.int64)


# Events


def opens_request(
    user_E: NDArray[np.int32],
    time_E: NDArray[np.int64],
    requests: pa.ChunkedArray,
    *,
    has_times: bool,
) -> NDArray[np.bool_]:
    """Mark rows that no earlier row of their request, or of the same instant, precedes.

    Args:
        user_E: by user.
        time_E: then by time.
        requests: id of each row's request, null where it has none.
        has_times: without, no two rows are known to be of one instant.
    """
    opens = np.ones(len(time_E), bool)
    if has_times:
        opens[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] > time_E[:-1])
    if requests.null_count < len(opens):
        names = pc.unique(requests.drop_null())
        code = codes_of(requests, pa.chunked_array([names])).astype(np.int64)
        key = user_E.astype(np.int64) * (len(names) + 1) + code
        unnamed = code < 0
        key[unnamed] = -1 - np.flatnonzero(unnamed)
        # A row is inside a request when the request began before it and has not ended yet.
        _, inverse = np.unique(key, return_inverse=True)
        rows = np.arange(len(key))
        last = np.zeros(inverse.max() + 1, np.int64)
        np.maximum.at(last, inverse, rows)
        open_until = np.maximum.accumulate(last[inverse])
        opens[1:] &= open_until[:-1] < rows[1:]
    return opens


def save_event_fields(corpus: Corpus, folder: Path) -> None:
    """Write numbers and categories of events, read a bounded number of rows at a time.

    Numbers are float32, NaN where unknown; categories are numbered in the order of their names.
    """
    for spec in corpus.card.event_fields:
        if spec.kind == "number":
            folder.mkdir(exist_ok=True)
            with ArrayWriter(folder / f"{spec.name}.number.npy", np.float32) as numbers:
                for batch in corpus.batches("events", [spec.name]):
                    numbers.append(batch.column(0).to_numpy(zero_copy_only=False))
        elif spec.kind == "category":
            found: set[str] = set()
            for batch in corpus.batches("events", [spec.name]):
                found.update(pc.unique(batch.column(0).drop_null()).to_pylist())
            names = sorted(found)
            place = folder / spec.name
            place.mkdir(parents=True)
            Names(names).save(place / "names.parquet")
            value_set = pa.array(names, pa.string())
            with ArrayWriter(place / "codes_E.npy", np.int32) as codes:
                for batch in corpus.batches("events", [spec.name]):
                    found_rows = pc.index_in(batch.column(0), value_set=value_set)
                    codes.append(pc.fill_null(found_rows, -1).to_numpy(zero_copy_only=False))


# Items


def save_item_fields(corpus: Corpus, folder: Path) -> None:
    """Write numbers, years and categories of items."""
    folder.mkdir()
    for spec in corpus.card.item_fields:
        column = corpus.items[spec.name]
        if spec.kind in ("number", "year"):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64)
            np.save(folder / f"{spec.name}.number.npy", values, allow_pickle=False)
        elif spec.kind in ("category", "categories"):
            found = category_field(column)
            np.save(folder / f"{spec.name}.offsets.npy", found.offsets_N1, allow_pickle=False)
            np.save(folder / f"{spec.name}.codes.npy", found.codes, allow_pickle=False)
            table = pa.table({"name": pa.array(found.names, pa.string())})
            pq.write_table(table, folder / f"{spec.name}.names.parquet")


def category_field(column: pa.ChunkedArray) -> CategoryField:
    """A column of categories, or of lists of them, numbered in the order of their names."""
    flat, lengths = column.drop_null(), pc.is_valid(column)
    if pa.types.is_list(column.type):
        flat = pc.list_flatten(column)
        lengths = pc.fill_null(pc.list_value_length(column), 0)
    names = sorted(pc.unique(flat).to_pylist())
    codes = codes_of(flat, pa.chunked_array([names], pa.string()))
    offsets_N1 = np.concatenate([[0], np.cumsum(lengths.to_numpy().astype(np.int64))])
    return CategoryField(tuple(names), offsets_N1, codes)
