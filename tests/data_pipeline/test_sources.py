"""The registry: names, variants, and the licence that is shown before the first download."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.base import Paths, Progress, Source


class Plain(Source):
    """A source as a plugin may write it: no dataclass, no variants."""

    name = "plain"
    licence = "anyone may use it"
    homepage = "https://x.org/plain"

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        if from_dir is None:
            self.cache(cache_dir).mkdir(parents=True, exist_ok=True)
        return {}

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        return write_corpus(
            folder,
            name=self.full_name,
            items=pa.table({"item_id": ["a"], "title": ["A"]}),
            users=pa.table({"user_id": ["u"]}),
            events=pa.table(
                {
                    "user_id": ["u"],
                    "item_id": ["a"],
                    "timestamp": pa.array([0], pa.timestamp("ms", "UTC")),
                    "action": ["seen"],
                }
            ),
            overwrite=overwrite,
        )


@dataclass(frozen=True, kw_only=True)
class Varied(Plain):
    name: str = "varied"
    variants: tuple[str, ...] = ("Books", "Beauty", "Toys")
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class Optional(Varied):
    name: str = "optional"
    variants: tuple[str, ...] = ("", "big")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_REGISTERED", {})
    for source in (Plain(), Varied(), Optional()):
        sources.register(source)


def test_every_built_in_source_says_who_it_is() -> None:
    monkeyed = {source.name: source for source in sources.every()}
    assert list(monkeyed) == sources.names()
    for name, source in monkeyed.items():
        assert source.name == name
        assert source.licence.strip()
        assert source.homepage.startswith("http")
        assert len(set(source.variants)) == len(source.variants)
        assert all(":" not in variant and "/" not in variant for variant in source.variants)
        chosen = next((variant for variant in source.variants if variant), "")
        wanted = sources.get(f"{name}:{chosen}" if chosen else name)
        assert wanted.variant == chosen
        assert wanted.full_name == (f"{name}-{chosen}" if chosen else name)


def test_built_in_lines_are_in_order() -> None:
    assert list(sources._BUILT_IN) == sorted(sources._BUILT_IN)


def test_variants_are_chosen_behind_a_colon() -> None:
    assert sources.get("varied:Toys").full_name == "varied-Toys"
    assert sources.get("optional").full_name == "optional"
    assert sources.get("optional:big").full_name == "optional-big"


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("plane", "no dataset 'plane': did you mean 'plain'", "plain"),
        ("varied", "comes in variants, and none is named", "Books, Beauty, Toys"),
        ("varied:Toy", "no variant 'Toy'", "one of Toys, B"),
        ("optional:bigger", "no variant 'bigger'", "one of big"),
        ("plain:big", "plain has no variants", "ask for plain"),
    ],
)
def test_wrong_names_get_the_nearest(name: str, message: str, remedy: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        sources.get(name)
    assert remedy in str(caught.value.remedy)


def test_many_variants_are_not_all_listed() -> None:
    source = Varied(variants=tuple(f"V{number}" for number in range(40)), variant="W")
    with pytest.raises(DataError) as caught:
        source.check_variant()
    assert "and 28 more: brewhouse data list varied" in str(caught.value.remedy)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        sources.register(Plain())


def test_the_licence_is_shown_before_the_first_download(tmp_path: Path) -> None:
    shown: list[str] = []

    def fetch(name: str, folder: str, from_dir: Path | None = None) -> None:
        sources.fetch_corpus(
            name,
            tmp_path / folder,
            cache_dir=tmp_path / "cache",
            from_dir=from_dir,
            notice=lambda source: shown.append(source.licence),
        )

    fetch("varied:Toys", "a", from_dir=tmp_path)
    assert shown == []  # nothing is downloaded
    fetch("varied:Toys", "b")
    fetch("varied:Books", "c")  # of the same dataset
    assert shown == ["anyone may use it"]
    with pytest.raises(DataError, match="exists already"):
        fetch("plain", "a")
    assert len(shown) == 1  # what cannot be written is not fetched
    assert Corpus.open(tmp_path / "c").name == "varied-Books"
