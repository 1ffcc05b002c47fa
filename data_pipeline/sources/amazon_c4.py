"""Amazon-C4: 21,223 long product requests, each written by ChatGPT out of a real five-star review.

The request is synthetic; that the product fits is real: the reviewer said so. One product per
request is known to fit, of a pool of 1,058,417. The reviews themselves are not taken: they answer
the question. The pool has one text per product, its title and description joined; the title is
taken to be what stands before the first full stop, or the first words.

Y. Hou et al., "Bridging Language and Items for Retrieval and Recommendation", arXiv:2403.03952.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_schema import item_schema
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.assembly import check_counts, first_of_each
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.mapping import FileConfig
from data_pipeline.sources.markup import readable, readable_column
from data_pipeline.sources.readers import read_table
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import json_tables

_FIELDS = (Field(name="category", kind="category"), Field(name="description", kind="text"))
_COLUMNS = {
    "item_id": pa.field("item_id", pa.string()),
    "category": pa.field("category", pa.string()),
    "description": pa.field("metadata", pa.string()),
}
_TITLE_WORDS = 24


@dataclass(frozen=True, kw_only=True)
class AmazonC4(Source):
    """Complex product requests with one product each that fits."""

    name: str = "amazon-c4"
    licence: str = (
        "the publisher names no licence: research use with citation of Hou et al., 2024 "
        "(huggingface.co/datasets/McAuley-Lab/Amazon-C4)"
    )
    homepage: str = "https://huggingface.co/datasets/McAuley-Lab/Amazon-C4"
    url: str = "https://huggingface.co/datasets/McAuley-Lab/Amazon-C4/resolve/main"
    # From the dataset's card.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"queries": 21_223, "items": 1_058_417}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        urls = {
            "queries": f"{self.url}/test.csv",
            "items": f"{self.url}/sampled_item_metadata_1M.jsonl",
        }
        return fetch_files(
            self.name, urls, self.cache(cache_dir), from_dir=from_dir, progress=progress
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        columns = {"query_id": "qid", "text": "query", "item_id": "item_id"}
        config = FileConfig(path=str(paths["queries"].absolute()), format="csv")
        asked, origin = read_table(config, columns, Path())
        asked = asked.set_column(1, "text", readable_column(asked["text"]))
        with spool_beside(folder) as spool:
            items = spooled(spool, item_schema(_FIELDS), _items(paths["items"]))
            found = {"queries": len(asked), "items": len(items)}
            check_counts("Amazon-C4", found, self.counts, paths["queries"].parent)
            is_first_N = first_of_each(items, ["item_id"])
            item_origin = Origin(files=(str(paths["items"]),), columns={"description": "metadata"})
            return write_corpus(
                folder,
                name=self.name,
                items=kept(spool, items, is_first_N),
                users=None,
                events=None,
                queries=asked.select(["query_id", "text"]),
                judgements=asked.select(["query_id", "item_id"])
                .append_column("grade", pa.repeat(pa.scalar(1.0, pa.float32()), len(asked)))
                .append_column("split", pa.repeat("test", len(asked))),
                item_fields=_FIELDS,
                item_noun="product",
                source=f"Amazon-C4, {self.homepage}",
                licence=self.licence,
                origins={
                    "items": item_origin.kept(is_first_N),
                    "queries": origin,
                    "judgements": origin,
                },
                overwrite=overwrite,
            )


def _items(path: Path) -> Iterator[pa.Table]:
    for table, _ in json_tables(path, _COLUMNS):
        pairs = [title_and_rest(readable(text or "")) for text in table["description"].to_pylist()]
        ids = table["item_id"].to_pylist()
        titles = [title or item_id for (title, _), item_id in zip(pairs, ids, strict=True)]
        rests = pa.array([rest or None for _, rest in pairs], pa.string())
        yield pa.table(
            {
                "item_id": table["item_id"],
                "title": pa.array(titles, pa.string()),
                "category": table["category"],
                "description": rests,
            }
        )


def title_and_rest(text: str) -> tuple[str, str]:
    """A product's text cut behind its first sentence, or behind as many words as a title has.

    "Comb. Fine teeth for fine hair." -> ("Comb.", "Fine teeth for fine hair.")
    """
    words = text.split(" ")
    for position, word in enumerate(words[:_TITLE_WORDS]):
        # "7.1 Fl Oz. Brush" and "Dr. Brown" are cut too early; what is cut off is not lost.
        if word.endswith((".", "!", "?")) and len(word) > 3:
            return " ".join(words[: position + 1]), " ".join(words[position + 1 :])
    return " ".join(words[:_TITLE_WORDS]), " ".join(words[_TITLE_WORDS:])
