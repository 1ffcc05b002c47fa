"""An export that was damaged, cut, swapped or rewritten fails its check, and says where."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_run import make_tiny_run

from data_pipeline.store import TokenStore
from train.export import ExportJob, export_run
from train.proof import (
    ExportError,
    base_problems,
    check_export,
    file_problems,
    list_files,
    prove,
)


@pytest.fixture(scope="module")
def proven(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_tiny_run(tmp_path_factory.mktemp("proof") / "run", tiny_store)
    return export_run(ExportJob(run=run, to="merged", probes_per_task=1))[0]


@pytest.fixture
def export(proven: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(proven, tmp_path / "moved"))


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_an_export_passes_wherever_it_is_moved(export: Path, proven: Path) -> None:
    result = check_export(export)
    assert result.passed
    assert result.problems == []
    assert result.files == len(list(export.iterdir())) - 1
    assert result.probes == result.top_k_identical == result.tokenizer_identical
    assert result.require() is result
    json.dumps(result.as_dict())


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: flip(f / "model.safetensors", 0.5), "model.safetensors has another content"),
        (lambda f: flip(f / "model.safetensors", 1.0), "model.safetensors has another content"),
        (lambda f: cut(f / "model.safetensors"), r"model.safetensors has [\d,]+ bytes instead of"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: flip(f / "tokenizer.json", 0.7), "tokenizer.json has another content"),
        (lambda f: flip(f / "catalog.json", 0.3), "catalog.json has another content"),
        (lambda f: flip(f / "probes.json", 0.9), "probes.json has another content"),
        (lambda f: flip(f / "README.md", 0.2), "README.md has another content"),
        (lambda f: (f / "code.py").write_text("x"), "code.py was added after"),
    ],
)
def test_a_spoilt_file_is_named(export: Path, spoil: Callable[[Path], None], problem: str) -> None:
    spoil(export)
    result = check_export(export)
    assert not result.passed
    (found,) = result.problems
    assert re.match(problem, found), found
    with pytest.raises(ExportError, match="is not a faithful export"):
        result.require()


def test_every_byte_of_the_proof_counts(export: Path) -> None:
    path = export / "proof.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            problems = check_export(export).problems
        except ExportError as error:
            problems = [str(error)]
        assert problems, place


def test_no_proof_is_no_pass(export: Path, tmp_path: Path) -> None:
    (export / "proof.json").unlink()
    with pytest.raises(ExportError, match=r"proof\.json is missing"):
        check_export(export)
    with pytest.raises(ExportError, match="is no folder"):
        check_export(tmp_path / "nowhere")


def test_a_proof_may_not_point_out_of_the_export(export: Path) -> None:
    proof = json.loads((export / "proof.json").read_text())
    proof["files"][0]["name"] = "../../secret"
    (export / "proof.json").write_text(json.dumps(proof))
    with pytest.raises(ExportError, match="points out of the export"):
        check_export(export)


def test_other_weights_fail_even_with_fresh_hashes(export: Path) -> None:
    path = export / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, path, metadata={"format": "pt"})
    (export / "proof.json").unlink()
    with pytest.raises(ExportError, match=r"probe \d+ \(\w+\): a logit differs by"):
        prove(export, "merged", {})
    assert not (export / "proof.json").exists()


def test_another_tokenizer_fails_even_with_fresh_hashes(export: Path) -> None:
    path = export / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-200]
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"tokenizer: the text of probe \d+ .* gives other ids"):
        prove(export, "merged", {})


def test_weights_that_do_not_load_or_do_not_suffice_fail(export: Path) -> None:
    path = export / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"1 missing_keys, such as model\.layers\.0\.mlp\.up"):
        prove(export, "merged", {})
    cut(path)
    with pytest.raises(ExportError, match="the fresh process could not load it"):
        prove(export, "merged", {})


def test_the_base_of_an_adapter_must_be_there_and_the_same(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    folder.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    assert base_problems(folder) == []
    reference = {"name_or_path": str(base), "files": list_files(base)}
    (folder / "base.json").write_text(json.dumps(reference))
    assert base_problems(folder) == []
    (base / "model.safetensors").write_bytes(b"WEIGHTS")
    assert base_problems(folder) == [
        "base model: model.safetensors has another content than was proven (SHA-256 differs)"
    ]
    shutil.rmtree(base)
    (problem,) = base_problems(folder)
    assert "is not there" in problem
    (folder / "base.json").write_text("{")
    assert "base.json cannot be read" in base_problems(folder)[0]


def test_files_in_subfolders_are_hashed_too(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.bin").write_bytes(b"1")
    listed = list_files(tmp_path)
    assert [entry["name"] for entry in listed] == ["deep/a.bin"]
    (tmp_path / "deep" / "a.bin").write_bytes(b"2")
    assert file_problems(tmp_path, listed) == [
        "deep/a.bin has another content than was proven (SHA-256 differs)"
    ]
