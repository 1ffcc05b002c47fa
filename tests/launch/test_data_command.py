"""`brewhouse data list` and what `data fetch` tells about a dataset it gets for the first time."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.store import TokenStore
from launch.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


def test_datasets_are_listed_for_people(run: Run) -> None:
    code, out, err = run("data", "list")
    assert code == 0
    for name in sources.names():
        assert name in out
    assert "enriched" in out
    n_variants = len(sources.find("amazon-2023").variants)
    assert f"and {n_variants - 5} more" in out
    assert "brewhouse data fetch movielens-100k" in err
    code, out, _ = run("data", "list", "amazon-2023")
    assert code == 0
    assert "more" not in out
    assert "Video_Games" in out


def test_datasets_are_listed_for_machines(run: Run) -> None:
    code, out, _ = run("data", "list", "--json")
    assert code == 0
    listed = json.loads(out)["datasets"]
    assert [one["name"] for one in listed] == sources.names()
    assert all(set(one) == {"name", "variants", "licence", "homepage"} for one in listed)
    code, out, _ = run("data", "list", "semanlink", "--json")
    assert [one["name"] for one in json.loads(out)["datasets"]] == ["semanlink"]


def test_an_unknown_dataset_is_not_listed(run: Run) -> None:
    code, _, err = run("data", "list", "semanlinks")
    assert code == 1
    assert "did you mean 'semanlink'" in err


def test_the_licence_comes_before_the_first_download(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREWHOUSE_CACHE", str(tmp_path / "cache"))

    def fails(*_: object, **__: object) -> None:
        raise sources.DataError("there is no network in this test")

    monkeypatch.setattr("data_pipeline.sources.semanlink.fetch_package", fails)
    code, out, err = run("data", "fetch", "semanlink", "--out", tmp_path / "a", "--json")
    assert (code, out) == (1, "")
    assert "Licence: MIT" in err
    assert err.index("Licence") < err.index("no network")
    code, _, err = run("data", "fetch", "semanlink", "--out", tmp_path / "a", "--from", tmp_path)
    assert code == 1
    assert "Licence" not in err


def test_a_variant_names_the_default_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "amazon-2023-Software").mkdir(parents=True)
    (tmp_path / "data" / "amazon-2023-Software" / "mine.txt").touch()
    code, _, err = run("data", "fetch", "amazon-2023:Software")
    assert code == 1
    assert "data/amazon-2023-Software: the folder exists already" in err
    code, _, err = run("data", "fetch", "amazon-2023:Softwares")
    assert code == 1
    assert "one of Software, " in err


def test_one_tokenizer_serves_several_corpora(
    run: Run, tiny_corpus: Corpus, rich_corpus: Corpus, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    corpora = (tiny_corpus.folder, rich_corpus.folder)
    code, out, _ = run("data", "tokenizer", *corpora, "--vocab-size", 1200, "--out", folder)
    assert code == 0
    assert "1,200 tokens" in out
    stores = []
    for number, corpus in enumerate(corpora):
        store = tmp_path / f"store-{number}"
        assert run("data", "build", corpus, "--tokenizer", folder, "--out", store)[0] == 0
        stores.append(TokenStore.open(store))
    assert stores[0].card.tokenizer_fingerprint == stores[1].card.tokenizer_fingerprint
    assert run("data", "tokenizer", *corpora, "--vocab-size", 1200, "--out", folder)[0] == 1


def test_a_store_is_built_with_given_moments(run: Run, tiny_corpus: Corpus, tmp_path: Path) -> None:
    build = ("data", "build", tiny_corpus.folder, "--tokenizer", "train:1024", "--out")
    middle = str(np.datetime64(int(np.median(tiny_corpus.time_E)), "ms"))
    code, out, err = run(*build, tmp_path / "a", "--train-end", middle, "--gap-days", 0.5)
    assert code == 0, err
    assert f"Split by global_time, VALIDATION from {middle}Z, TEST from " in out
    assert "a gap of 0.5 days before each" in out
    assert TokenStore.open(tmp_path / "a").card.split["gap_days"] == 0.5
    code, _, err = run(*build, tmp_path / "b", "--train-end", "2030-01-01")
    assert code == 1
    assert "does not divide the events" in err
    code, _, err = run(*build, tmp_path / "b", "--split", "published")
    assert code == 1
    assert "no published moments" in err
    code, _, err = run("data", "audit", tiny_corpus.folder, "--validation-end", "tomorrow")
    assert code == 1
    assert "this is no moment" in err


def test_published_moments_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.sources.mind.PUBLISHED", {})
    for split, day in (("train", "11/11"), ("dev", "11/15")):
        folder = tmp_path / "files" / f"MINDsmall_{split}"
        folder.mkdir(parents=True)
        seen = f"1\tU1\t{day}/2019 9:05:58 AM\t\tN1-1 N2-0\n"
        (folder / "behaviors.tsv").write_text(seen)
        news = [f"{name}\tnews\tnewsus\tTitle\t\thttps://x/\t[]\t[]\n" for name in ("N1", "N2")]
        (folder / "news.tsv").write_text("".join(news))
    code, out, err = run(
        "data", "fetch", "mind:small", "--from", tmp_path / "files", "--out", tmp_path / "corpus"
    )
    assert code == 0, err
    assert "publisher has TEST from 2019-11-15T00:00:00.000Z: --split published" in out
