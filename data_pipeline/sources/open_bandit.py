"""Open Bandit, small: 60,000 impressions of a fashion shop with clicks, positions and propensities.

A week of November 2019 in three campaigns, each served by chance (`random`) and by Bernoulli
Thompson sampling (`bts`): 10,000 impressions each. It is for plumbing, calibration and
propensities: with 287 clicks no fine difference of AUC is more than noise.

An impression is one item shown at one of three positions, `clicked` or `skipped`. Nobody is named:
every impression is a user of its own with four hashed features. Hashes are cut to six digits.
Items have no names either, and their categories are hashed anew in every file: those of the
`random` files are taken. (The same items have equal categories in the `bts` files.)

Y. Saito et al., "Open Bandit Dataset and Pipeline", NeurIPS 2021 Datasets and Benchmarks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_checks import first
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources import convert
from data_pipeline.sources.assembly import check_counts
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.packages import fetch_package
from data_pipeline.sources.streams import csv_tables

POLICIES = ("random", "bts")
CAMPAIGNS = ("all", "men", "women")
_IN_WHEEL = "obp/dataset/obd"
_CATEGORIES = tuple(f"category_{number}" for number in (1, 2, 3))
_FEATURES = tuple(f"feature_{number}" for number in range(4))
_ITEM_FIELDS = (
    Field(name="campaign", kind="category"),
    *(Field(name=name, kind="category") for name in _CATEGORIES),
    Field(name="score", kind="number"),
)
_USER_FIELDS = (
    *(Field(name=name, kind="category") for name in _FEATURES),
    Field(name="past_clicks", kind="number"),
)
_EVENT_FIELDS = (
    Field(name="position", kind="number"),
    Field(name="propensity", kind="number"),
    Field(name="affinity", kind="number"),
    Field(name="policy", kind="category"),
)
_ITEM_COLUMNS = {
    "item": "item_id",
    "score": "item_feature_0",
    **{f"category_{number}": f"item_feature_{number}" for number in (1, 2, 3)},
}
_COLUMNS = {
    "row": "",
    "timestamp": "timestamp",
    "item": "item_id",
    "position": "position",
    "click": "click",
    "propensity": "propensity_score",
    **{f"feature_{number}": f"user_feature_{number}" for number in range(4)},
}
_HASH_DIGITS = 6
_REMEDY = "is it the file of obp 0.4.1? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class OpenBandit(Source):
    """Impressions with clicks, positions and propensities."""

    name: str = "open-bandit"
    licence: str = (
        "the copy in the package obp names no licence of the data; the package is Apache-2.0 "
        "(github.com/st-tech/zr-obp), the publisher asks for citation (research.zozo.com/data.html)"
    )
    homepage: str = "https://research.zozo.com/data.html"
    sha256: str = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
    # As counted in the package's files.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"impressions": 60_000, "items": 160, "clicks": 287}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        members = {
            f"{policy} {campaign}": f"{_IN_WHEEL}/{policy}/{campaign}/{campaign}.csv"
            for policy in POLICIES
            for campaign in CAMPAIGNS
        }
        members |= {
            f"items {campaign}": f"{_IN_WHEEL}/random/{campaign}/item_context.csv"
            for campaign in CAMPAIGNS
        }
        return fetch_package(
            "obp==0.4.1",
            self.cache(cache_dir),
            members=members,
            sha256=self.sha256,
            from_dir=from_dir,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        items = [_items(paths[f"items {campaign}"], campaign) for campaign in CAMPAIGNS]
        impressions = [
            table
            for policy in POLICIES
            for campaign, known in zip(CAMPAIGNS, items, strict=True)
            for table in _impressions(paths[f"{policy} {campaign}"], policy, campaign, len(known))
        ]
        events = pa.concat_tables(impressions)
        found = {
            "impressions": len(events),
            "items": sum(map(len, items)),
            "clicks": pc.sum(pc.equal(events["action"], "clicked")).as_py(),
        }
        check_counts(self.name, found, self.counts, paths["items all"].parents[2])
        profile = [name.name for name in _USER_FIELDS]
        return write_corpus(
            folder,
            name=self.name,
            items=pa.concat_tables(items),
            users=events.select(["user_id", *profile]),
            events=events.drop_columns(profile),
            item_fields=_ITEM_FIELDS,
            user_fields=_USER_FIELDS,
            event_fields=_EVENT_FIELDS,
            item_noun="fashion item",
            source=f"Open Bandit Dataset, small, {self.homepage}",
            licence=self.licence,
            origins={"events": Origin(files=(str(paths["items all"].parents[2]),))},
            overwrite=overwrite,
        )


def _items(path: Path, campaign: str) -> pa.Table:
    tables = []
    for table, origin in csv_tables(path, _ITEM_COLUMNS):
        ids = [f"{campaign}-{item}" for item in table["item"].to_pylist()]
        columns: dict[str, object] = {
            "item_id": ids,
            "title": [f"item {item_id}" for item_id in ids],
            "campaign": [campaign] * len(ids),
            "score": convert.to_numbers(table["score"], "score", origin),
        }
        columns |= {name: _shortened(table[name]) for name in _CATEGORIES}
        tables.append(pa.table(columns).select(item_schema(_ITEM_FIELDS).names))
    return pa.concat_tables(tables).cast(item_schema(_ITEM_FIELDS))


def _impressions(path: Path, policy: str, campaign: str, n_items: int) -> Iterator[pa.Table]:
    """Events with the features of their users beside them."""
    affinities = {f"affinity_{item}": f"user-item_affinity_{item}" for item in range(n_items)}
    for table, origin in csv_tables(path, {**_COLUMNS, **affinities}):
        numbers = {
            name: convert.to_numbers(table[name], name, origin)
            for name in ("item", "position", "click", "propensity", *affinities)
        }
        _check(numbers, n_items, table, origin)
        affinity_EN = np.stack([numbers[name].to_numpy() for name in affinities], axis=1)
        item_E: npt.NDArray[np.int64] = numbers["item"].to_numpy().astype(np.int64)
        ids = pc.binary_join_element_wise(policy, campaign, table["row"], "-")
        yield pa.table(
            {
                "user_id": ids,
                "item_id": pc.binary_join_element_wise(campaign, table["item"], "-"),
                "timestamp": convert.to_times(table["timestamp"], "iso", origin),
                "action": pc.if_else(pc.equal(numbers["click"], 1), "clicked", "skipped"),
                "request_id": ids,
                "position": numbers["position"],
                "propensity": numbers["propensity"],
                "affinity": affinity_EN[np.arange(len(item_E)), item_E],
                "policy": pa.repeat(policy, len(item_E)),
                **{name: _shortened(table[name]) for name in _FEATURES},
                "past_clicks": affinity_EN.sum(axis=1),
            }
        )


def _check(
    numbers: Mapping[str, pa.ChunkedArray], n_items: int, table: pa.Table, origin: Origin
) -> None:
    known = {
        "item": pa.array(np.arange(n_items, dtype=np.float64)),
        "position": pa.array([1.0, 2.0, 3.0]),
        "click": pa.array([0.0, 1.0]),
    }
    is_right = {name: pc.is_in(numbers[name], value_set=values) for name, values in known.items()}
    propensity = numbers["propensity"]
    is_right["propensity"] = pc.and_(pc.greater(propensity, 0), pc.less_equal(propensity, 1))
    for name, right in is_right.items():
        row = first(pc.invert(pc.fill_null(right, False)))
        if row is not None:
            value = table[name][row].as_py()
            file, file_row = origin.locate(row)
            raise DataError(
                "the value is none that an impression can have",
                file=file,
                row=file_row,
                column=_COLUMNS[name],
                value=value,
                remedy=_REMEDY,
            )


def _shortened(hashes: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(hashes, 0, _HASH_DIGITS)
