"""The items that a model may recommend, as the file that lies beside its weights."""

import json
from pathlib import Path
from typing import Any, Final

from data_pipeline.files import fingerprint
from data_pipeline.store import TokenStore

CATALOG: Final = "catalog.json"


def catalog_of(store: TokenStore) -> dict[str, Any]:
    """Item ids and titles in the order of item rows, with the hash that names this catalog."""
    items = [
        {"row": row, "item_id": item_id, "title": title}
        for row, (item_id, title) in enumerate(zip(store.item_ids, store.titles, strict=True))
    ]
    return {
        "schema_version": 1,
        "corpus": store.card.corpus_name,
        "corpus_fingerprint": store.card.corpus_fingerprint,
        "item_noun": store.card.item_noun,
        "n_items": len(items),
        "hash": fingerprint([[item["item_id"], item["title"]] for item in items]),
        "items": items,
    }


def write_catalog(store: TokenStore, folder: Path) -> None:
    """Write `catalog.json` into a folder."""
    text = json.dumps(catalog_of(store), ensure_ascii=False, indent=0)
    (folder / CATALOG).write_text(text + "\n", encoding="utf-8")
