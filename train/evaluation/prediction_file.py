"""Predictions of an evaluation, a row per target, beside its results: what a comparison reads.

`results.json` names the file and its hash. Nothing in it needs the token store to be understood:
truth and answer of every target, who it is about, and the hash of what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.files import atomic_write
from train.evaluation.results import SCHEMA_VERSION, Predictions
from train.evaluation.scores import TargetScores, Texts, pad

Key = tuple[str, str]
"""(corpus, task)"""

_COLUMNS = {
    "group": "groups_N",
    "subject": "subjects_N",
    "label": "labels_N",
    "n_choices": "n_choices_N",
    "value": "values_N",
    "better": "better_N",
    "tied": "tied_N",
    "ranked": "ranked_N",
    "label_mass": "label_mass_N",
}
_LISTS = {"probabilities": ("probabilities_NK", 0.0), "gains": ("gains_NK", np.nan)}
_TEXTS = ("said", "right", "ground")
_META = b"brewhouse"


def write_predictions(path: Path, scores: Mapping[Key, TargetScores]) -> Predictions:
    """Write the whole file or nothing; gives what the results say of it."""
    tables = [_table(corpus, task, part) for (corpus, task), part in scores.items()]
    meta = {
        "schema_version": SCHEMA_VERSION,
        "class_values": [
            [corpus, task, part.class_values_K.tolist()] for (corpus, task), part in scores.items()
        ],
    }
    table = pa.concat_tables(tables).replace_schema_metadata({_META: json.dumps(meta).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["corpus", "task"])
    data = sink.getvalue().to_pybytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
    return Predictions.of(path, table.num_rows)


def read_predictions(path: Path) -> dict[Key, TargetScores]:
    """Read what `write_predictions` wrote.

    Raises:
        ValueError: no such file, or of another schema version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read as predictions: {error}; run `brewhouse eval` again"
        ) from error
    meta = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {meta.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}: run `brewhouse eval` again"
        )
    names = list(zip(table["corpus"].to_pylist(), table["task"].to_pylist(), strict=True))
    rows: dict[Key, list[int]] = {(corpus, task): [] for corpus, task, _ in meta["class_values"]}
    for row, name in enumerate(names):
        rows[name].append(row)
    return {
        (corpus, task): _scores(table.take(rows[corpus, task]), values)
        for corpus, task, values in meta["class_values"]
    }


def _table(corpus: str, task: str, scores: TargetScores) -> pa.Table:
    n = len(scores)
    columns: dict[str, Any] = {
        "corpus": pa.array([corpus] * n, pa.string()),
        "task": pa.array([task] * n, pa.string()),
    }
    columns |= {name: pa.array(getattr(scores, field)) for name, field in _COLUMNS.items()}
    for name, (field, _) in _LISTS.items():
        rows_NK = getattr(scores, field)
        width = rows_NK.shape[1]
        rows = [row[: min(k, width)] for row, k in zip(rows_NK, scores.n_choices_N, strict=True)]
        columns[name] = pa.array([row.tolist() for row in rows], pa.list_(pa.float64()))
    for name in _TEXTS:
        said = [None] * n if scores.texts is None else getattr(scores.texts, f"{name}_N").tolist()
        columns[name] = pa.array(said, pa.string())
    columns["request"] = pa.array(
        [None] * n if scores.requests_N is None else scores.requests_N, pa.int64()
    )
    return pa.table(columns)


def _scores(table: pa.Table, class_values: list[float]) -> TargetScores:
    fields: dict[str, Any] = {field: table[name].to_numpy() for name, field in _COLUMNS.items()}
    for name, (field, fill) in _LISTS.items():
        fields[field] = pad(table[name].to_pylist(), fill)
    if _TEXTS[0] in table.column_names and table[_TEXTS[0]].null_count < len(table):
        fields["texts"] = Texts(
            **{f"{name}_N": np.array(table[name].to_pylist(), object) for name in _TEXTS}
        )
    if "request" in table.column_names and table["request"].null_count < len(table):
        fields["requests_N"] = table["request"].to_numpy()
    return TargetScores(class_values_K=np.array(class_values, np.float64), **fields)
