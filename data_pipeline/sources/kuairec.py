"""KuaiRec: watching of short videos, where 1,411 people saw nearly all of 3,327 videos.

    kuairec:big     12,530,806 watches of 7,176 people and 10,728 videos in 2020, recommended ones
    kuairec:small   4,676,570 watches, one of nearly every pair: what people make of any video

A watch has no label but its `watch_ratio`, time watched by length of the video. Long videos have
small ones: compare within one length.

C. Gao et al., "KuaiRec: A Fully-Observed Dataset and Insights for Evaluating Recommender Systems",
CIKM 2022.
"""

import csv
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.sources import convert
from data_pipeline.sources.archives import fetch_archive, open_text
from data_pipeline.sources.assembly import check_counts, first_of_each, listed, repeated
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.profiles import described, known, yes_no
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import csv_tables

log = logging.getLogger(__name__)

_FOLDER = "KuaiRec 2.0/data"
_MATRIX = {
    "user_id": "user_id",
    "item_id": "video_id",
    "duration": "video_duration",
    "timestamp": "timestamp",
    "watch_ratio": "watch_ratio",
}
_WATCHES = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("action", pa.string()),
        ("watch_ratio", pa.float64()),
        ("duration", pa.float64()),
    ]
)
_ITEM_FIELDS = (
    Field(name="category", kind="category"),
    Field(name="subcategory", kind="category"),
    Field(name="topic", kind="category"),
    Field(name="hashtags", kind="categories"),
    Field(name="content_tags", kind="categories"),
    Field(name="duration", kind="number"),
    Field(name="cover_text", kind="text"),
)
_CAPTIONS = pa.schema(
    [
        ("item_id", pa.string()),
        ("caption", pa.string()),
        ("cover_text", pa.string()),
        ("category", pa.string()),
        ("subcategory", pa.string()),
        ("topic", pa.string()),
        ("hashtags", pa.list_(pa.string())),
    ]
)
_CAPTION_COLUMNS = {
    "caption": "caption",
    "cover_text": "manual_cover_text",
    "category": "first_level_category_name",
    "subcategory": "second_level_category_name",
    "topic": "third_level_category_name",
}
_USER_COLUMNS = {
    "active_degree": "user_active_degree",
    "streams_live": "is_live_streamer",
    "posts_videos": "is_video_author",
    "follows": "follow_user_num",
    "followers": "fans_user_num",
    "friends_in_app": "friend_user_num",
    "days_registered": "register_days",
}
_FLAGS = ("streams_live", "posts_videos")
_USER_FIELDS = (
    *(Field(name=name, kind="category") for name in ("active_degree", *_FLAGS)),
    *(
        Field(name=name, kind="number")
        for name in ("follows", "followers", "friends_in_app", "days_registered", "friends")
    ),
)


def _counts() -> dict[str, dict[str, int]]:
    """The publisher's table (kuairec.com)."""
    return {
        "big": {"users": 7_176, "videos": 10_728, "watches": 12_530_806},
        "small": {"users": 1_411, "videos": 3_327, "watches": 4_676_570},
    }


@dataclass(frozen=True, kw_only=True)
class KuaiRec(Source):
    """One of the two matrices of KuaiRec 2.0."""

    name: str = "kuairec"
    licence: str = (
        "CC BY 4.0 by the archive's record (zenodo.org/records/18164998), CC BY-SA 4.0 by the "
        "repository (github.com/chongminggao/KuaiRec): cite Gao et al., 2022"
    )
    homepage: str = "https://kuairec.com"
    variants: tuple[str, ...] = ("big", "small")
    variant: str = ""
    url: str = "https://zenodo.org/records/18164998/files/KuaiRec.zip"
    md5: str | None = "261550d472c48eff4990fb13c0e5bcf7"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_counts)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        names = {
            "events": f"{self.variant}_matrix.csv",
            "categories": "item_categories.csv",
            "captions": "kuairec_caption_category.csv",
            "users": "user_features.csv",
            "friends": "social_network.csv",
        }
        if from_dir is None:  # one download serves both
            names |= {variant: f"{variant}_matrix.csv" for variant in self.variants}
        return fetch_archive(
            self.full_name,
            self.url,
            self.cache(cache_dir),
            members={role: f"{_FOLDER}/{name}" for role, name in names.items()},
            md5=self.md5,
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        with spool_beside(folder) as spool:
            watches = spooled(spool, _WATCHES, _watches(paths["events"]))
            items, users = listed(watches["item_id"]), listed(watches["user_id"])
            found = {"users": len(users), "videos": len(items), "watches": len(watches)}
            published = self.counts[self.variant]
            check_counts(self.full_name, found, published, paths["events"])
            # A few percent of the small matrix: without them, people can be split by time.
            dated = kept(spool, watches, pc.is_valid(watches["timestamp"]).to_numpy())
            events = kept(spool, dated, ~repeated(dated))
            return write_corpus(
                folder,
                name=self.full_name,
                items=_items(paths, items, watches),
                users=_users(paths, users),
                events=events.drop_columns(["duration"]),
                item_fields=_ITEM_FIELDS,
                user_fields=_USER_FIELDS,
                event_fields=(Field(name="watch_ratio", kind="number"),),
                item_noun="video",
                source=f"KuaiRec 2.0 ({self.variant} matrix), {self.homepage}",
                licence=self.licence,
                dropped={
                    "missing_times": len(watches) - len(dated),
                    "duplicates": len(dated) - len(events),
                },
                overwrite=overwrite,
            )


def _watches(path: Path) -> Iterator[pa.Table]:
    """Times are seconds since 1970, with milliseconds; lengths become seconds."""
    for table, origin in csv_tables(path, _MATRIX):
        seconds = convert.to_numbers(table["timestamp"], "timestamp", origin)
        ms = pc.round(pc.multiply(seconds, 1000)).cast(pa.int64())
        duration = convert.to_numbers(table["duration"], "duration", origin)
        yield pa.table(
            {
                "user_id": table["user_id"],
                "item_id": table["item_id"],
                "timestamp": ms.cast(_WATCHES.field("timestamp").type),
                "action": pa.repeat("watched", len(table)),
                "watch_ratio": convert.to_numbers(table["watch_ratio"], "watch_ratio", origin),
                "duration": pc.divide(duration, 1000),
            }
        )


def _items(paths: Paths, ids: pa.Array, watches: pa.Table) -> pa.Table:
    lengths = watches.select(["item_id", "duration"])
    lengths = lengths.filter(pa.array(first_of_each(lengths, ["item_id"])))
    captions = described(ids, _captions(paths["captions"]), "item_id")
    content_tags = described(ids, _content_tags(paths["categories"]), "item_id")
    names = pa.chunked_array([pc.binary_join_element_wise("video", ids, " ")])
    return pa.table(
        {
            "item_id": ids,
            "title": pc.coalesce(captions["caption"], captions["cover_text"], names),
            **{name: captions[name] for name in ("category", "subcategory", "topic", "hashtags")},
            "content_tags": content_tags["content_tags"],
            "duration": described(ids, lengths, "item_id")["duration"],
            "cover_text": captions["cover_text"],
        }
    )


def _captions(path: Path) -> pa.Table:
    """Texts of the videos; a few rows are broken by line ends in them, and left out."""
    found = {}
    n_broken = 0
    with open_text(path) as file:
        for row in csv.DictReader(file):
            item_id = row["video_id"] or ""
            if not item_id.isdigit() or None in row or None in row.values():
                n_broken += 1
                continue
            texts = {name: _text(row[column]) for name, column in _CAPTION_COLUMNS.items()}
            hashtags = _text(row["topic_tag"].strip("[]"))
            names = [] if hashtags is None else [_text(name) for name in hashtags.split(",")]
            found[item_id] = {"item_id": item_id, **texts, "hashtags": [*filter(None, names)]}
    if n_broken:
        log.warning("%s: left out %d rows that line ends broke", path.name, n_broken)
    return pa.Table.from_pylist(list(found.values()), schema=_CAPTIONS)


def _text(value: str) -> str | None:
    text = " ".join(value.strip(" '\"").split())
    return None if text in ("", "UNKNOWN") else text


def _content_tags(path: Path) -> pa.Table:
    """Numbers that stand for what a video shows: "[27, 9]" -> tag 27, tag 9."""
    tables = []
    for table, _ in csv_tables(path, {"item_id": "video_id", "tags": "feat"}):
        numbers = pc.replace_substring_regex(table["tags"], r"[\[\]\s]", "")
        tagged = pc.replace_substring_regex(numbers, r"(\d+)", r"tag \1")
        tables.append(
            pa.table({"item_id": table["item_id"], "content_tags": pc.split_pattern(tagged, ",")})
        )
    return pa.concat_tables(tables)


def _users(paths: Paths, ids: pa.Array) -> pa.Table:
    tables = []
    for table, origin in csv_tables(paths["users"], {"user_id": "user_id", **_USER_COLUMNS}):
        columns = dict(zip(table.column_names, table.columns, strict=True))
        columns["active_degree"] = known(table["active_degree"], "UNKNOWN")
        for name in _USER_COLUMNS:
            if name in _FLAGS:
                flags = convert.to_numbers(table[name], name, origin)
                # -124 stands for a flag that nobody knows.
                is_known = pc.is_in(flags, value_set=pa.array([0.0, 1.0]))
                flags = pc.if_else(is_known, flags, pa.scalar(None, pa.float64()))
                columns[name] = yes_no(pc.equal(flags, 1))
            elif name != "active_degree":
                columns[name] = convert.to_numbers(table[name], name, origin)
        tables.append(pa.table(columns))
    profiles = described(ids, pa.concat_tables(tables), "user_id")
    return profiles.append_column("friends", _friends(paths["friends"], ids))


def _friends(path: Path, ids: pa.Array) -> pa.ChunkedArray:
    """How many friends each has among these people; "[4202, 7126]" is two."""
    tables = [
        pa.table(
            {
                "user_id": table["user_id"],
                "friends": pc.count_substring_regex(table["list"], r"\d+").cast(pa.float64()),
            }
        )
        for table, _ in csv_tables(path, {"user_id": "user_id", "list": "friend_list"})
    ]
    friends = described(ids, pa.concat_tables(tables), "user_id")["friends"]
    return pc.fill_null(friends, 0.0)
