"""Proof of an export: reloaded by stock libraries in a fresh process, scores and hashes compared.

    EXPORT/probes.json    prompts or histories with the trainer's own scores
    EXPORT/proof.json     hash of every file, the comparison's result, and the program versions

`proof.json` stands in one canonical form, so that a change of any byte of any file is seen. It
guards against damage and against a wrong export, not against somebody who rewrites all of it.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from data_pipeline.files import sha256_file

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
PROOF: Final = "proof.json"
PROBES: Final = "probes.json"
BASE: Final = "base.json"

Kind = Literal["merged", "adapter", "onnx"]
_SCRIPTS: Final[Mapping[str, str]] = {
    "merged": "causal_lm.py",
    "adapter": "causal_lm.py",
    "onnx": "onnx_student.py",
}
_NEEDS: Final[Mapping[str, str]] = {
    "merged": "transformers",
    "adapter": "peft",
    "onnx": "onnxruntime: pip install 'brewhouse[onnx]'",
}
_TAIL_LINES: Final = 5


class ExportError(ValueError):
    """An export that cannot be made or is not what the trainer had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofResult:
    """What a check found."""

    folder: Path
    kind: str
    passed: bool
    problems: list[str] = field(default_factory=list)
    """Each names the file or the probe; empty when passed."""
    files: int = 0
    """Files whose hash was compared."""
    probes: int = 0
    """Prompts or histories that were scored again."""
    max_logit_difference: float | None = None
    max_probability_difference: float | None = None
    top_k_identical: int | None = None
    """Probes whose best ten come in exactly the same order."""
    tokenizer_identical: int | None = None
    """Probes whose text the tokenizer turned into exactly the same ids."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that did the check."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    def require(self) -> "ProofResult":
        """Itself, if passed.

        Raises:
            ExportError: listing what is wrong.
        """
        if not self.passed:
            listed = "\n  ".join(self.problems)
            raise ExportError(f"{self.folder} is not a faithful export:\n  {listed}")
        return self


def prove(folder: Path, kind: Kind, facts: Mapping[str, Any]) -> ProofResult:
    """Check a finished folder for the first time and write its `proof.json`.

    Args:
        folder: all files of the export but the proof, `probes.json` included.
        kind: which script checks it.
        facts: what else the proof shall say, such as the hash of the trainer's weights.

    Raises:
        ExportError: the fresh process got other scores; nothing is written.
    """
    result = _recompute(folder, kind, base_problems(folder)).require()
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "passed": True,
        "probes": result.probes,
        "max_logit_difference": result.max_logit_difference,
        "max_probability_difference": result.max_probability_difference,
        "top_k_identical": result.top_k_identical,
        "tokenizer_identical": result.tokenizer_identical,
        "versions": result.versions,
        **facts,
        "files": list_files(folder),
    }
    (folder / PROOF).write_text(_canonical(content), encoding="utf-8")
    return result


def check_export(folder: str | Path) -> ProofResult:
    """Check an export again: every file's hash, then every score in a fresh process.

    Never raises for a bad export: the result says what is wrong, naming files.

    Raises:
        ExportError: the folder holds no readable proof, so there is nothing to compare with.
    """
    folder = Path(folder)
    proof, problems = _read_proof(folder)
    problems += file_problems(folder, proof["files"]) + base_problems(folder)
    files = len(proof["files"])
    if problems:  # damaged files are not loaded
        return ProofResult(
            folder=folder, kind=proof["kind"], passed=False, problems=problems, files=files
        )
    result = _recompute(folder, proof["kind"], [])
    return ProofResult(**{**_fields(result), "files": files})


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of every file below a folder, but for the proof."""
    return [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / PROOF
    ]


def file_problems(folder: Path, listed: list[dict[str, Any]]) -> list[str]:
    """Files that are missing, cut, changed or new, each by name."""
    problems = [problem for entry in listed if (problem := _entry_problem(folder, entry))]
    known = {entry["name"] for entry in listed} | {PROOF}
    problems += [
        f"{name} was added after the export was proven"
        for name in sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        if name not in known
    ]
    return problems


def _entry_problem(folder: Path, entry: Mapping[str, Any]) -> str | None:
    path = folder / entry["name"]
    if not path.is_file():
        return f"{entry['name']} is missing"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"{entry['name']} has {size:,} bytes instead of {entry['bytes']:,}"
    if sha256_file(path) != entry["sha256"]:
        return f"{entry['name']} has another content than was proven (SHA-256 differs)"
    return None


def base_problems(folder: Path) -> list[str]:
    """Whether the base model of an adapter is where `base.json` says, and still the same."""
    if not (folder / BASE).is_file():
        return []
    try:
        base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        place, files = base["name_or_path"], base["files"]
    except (ValueError, KeyError) as error:
        return [f"{BASE} cannot be read: {error}"]
    if not files:  # a hub id: pinned by its name, loaded from the hub's own cache
        return []
    if not Path(place).is_dir():
        return [f"the base model {place} that {BASE} names is not there"]
    return [
        f"base model: {problem}"
        for entry in files
        if (problem := _entry_problem(Path(place), entry))
    ]


def _read_proof(folder: Path) -> tuple[dict[str, Any], list[str]]:
    path = folder / PROOF
    if not folder.is_dir():
        raise ExportError(f"{folder} is no folder: give the folder of an export")
    if not path.is_file():
        raise ExportError(f"{path} is missing: without it nothing can be checked; export again")
    try:
        text = path.read_text(encoding="utf-8")
        proof = json.loads(text)
        version, kind = proof["schema_version"], proof["kind"]
        for entry in proof["files"]:
            _check_entry(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} cannot be read ({error}): it is damaged; export again") from None
    if version != SCHEMA_VERSION or kind not in _SCRIPTS:
        raise ExportError(
            f"{path} has schema {version} and kind {kind!r}; this version checks schema "
            f"{SCHEMA_VERSION} and {', '.join(_SCRIPTS)}"
        )
    changed = text != _canonical(proof)
    return proof, [f"{PROOF} has been changed"] if changed else []


def _check_entry(entry: dict[str, Any]) -> None:
    name = Path(entry["name"])
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"file name {entry['name']!r} points out of the export")
    if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
        raise ValueError(f"the entry of {entry['name']!r} is malformed")


def _canonical(content: Mapping[str, Any]) -> str:
    """One text for one content, with the hash of the rest in the last line but one."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    return json.dumps({**body, "sha256": _digest(body)}, indent=1, ensure_ascii=False) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _recompute(folder: Path, kind: str, problems: list[str]) -> ProofResult:
    """Run the kind's script in a process that knows nothing of this one."""
    if problems:
        return ProofResult(folder=folder, kind=kind, passed=False, problems=problems)
    script = Path(__file__).parent / "verify" / _SCRIPTS[kind]
    with tempfile.TemporaryDirectory(prefix="brewhouse-proof-") as empty:
        answer = Path(empty) / "result.json"
        command = [sys.executable, "-I", str(script), str(folder.resolve()), str(answer)]
        # Offline: what is proven is what lies in the folder.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        finished = subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        if not answer.is_file():
            tail = "\n    ".join(finished.stderr.strip().splitlines()[-_TAIL_LINES:])
            said = f"it needs {_NEEDS[kind]}, and said:\n    {tail}"
            reason = f"the fresh process could not load it; {said}"
            return ProofResult(folder=folder, kind=kind, passed=False, problems=[reason])
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return ProofResult(folder=folder, kind=kind, passed=not found["problems"], **found)


def _fields(result: ProofResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ProofResult.__dataclass_fields__}
