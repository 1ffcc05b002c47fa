"""What a run folder holds, read for the report: every part may be missing, and then is named.

Nothing outside the run's folder is read, but for the audit of the corpora behind its token stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from train.evaluation.results import Results, read_results

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The parts of one run; empty where the run has none."""

    folder: Path
    config: Json
    steps: Sequence[Json]
    """Lines of metrics.jsonl."""
    tuned: Mapping[str, tuple[Json, Sequence[Json]]]
    """Runs below this one, such as a LoRA adapter on top: config and lines of metrics.jsonl."""
    results: Mapping[str, Results]
    """File name without ending -> evaluation/results*.json."""
    curves: Mapping[str, Results]
    """File name without ending -> evaluation/curve-*.json."""
    examples: Sequence[Json]
    students: Mapping[str, Json]
    exports: Mapping[str, Json]
    """Path below the run -> content of its proof.json."""
    timings: Json
    audit: Json
    notes: Sequence[str]
    """What is missing or could not be read, and which command writes it."""

    @property
    def has_anything(self) -> bool:
        """Whether there is anything to report about."""
        return bool(self.config or self.steps or self.results)


@dataclass(slots=True)
class _Reader:
    """Reads files and remembers what was missing or damaged."""

    run_dir: Path
    notes: list[str] = field(default_factory=list)

    def json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.notes.append(f"`{self._shown(path)}` could not be read: {error}")
            return None

    def mapping(self, path: Path) -> Json:
        content = self.json(path)
        if content is not None and not isinstance(content, dict):
            self.notes.append(f"`{self._shown(path)}` holds no JSON object and was left out")
        return content if isinstance(content, dict) else {}

    def results(self, path: Path) -> Results | None:
        try:
            return read_results(path)
        except ValueError as error:
            self.notes.append(f"`{self._shown(path)}` was left out: {error}")
            return None

    def lines(self, path: Path) -> list[Json]:
        """Complete lines of a JSONL file; a killed run may leave half a line at its end."""
        if not path.exists():
            return []
        found: list[Json] = []
        bad = 0
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                bad += 1
                continue
            if isinstance(value, dict):
                found.append(value)
        if bad:
            self.notes.append(f"{bad} unreadable line(s) of `{self._shown(path)}` were left out")
        return found

    def yaml(self, path: Path) -> Json:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, yaml.YAMLError) as error:
            self.notes.append(f"`{self._shown(path)}` could not be read: {error}")
            return {}
        return content if isinstance(content, dict) else {}

    def missing(self, present: object, what: str, remedy: str) -> None:
        if not present:
            self.notes.append(f"No {what}: {remedy}")

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.run_dir) if path.is_relative_to(self.run_dir) else path)


def read_run(run_dir: Path, audit_file: Path | None = None) -> RunFiles:
    """Read everything of a run that is there.

    Args:
        run_dir: the run's folder.
        audit_file: audit.json of the corpus; found through the run's token stores when None.
    """
    reader = _Reader(run_dir)
    config = reader.yaml(run_dir / "config.yaml")
    examples = reader.mapping(run_dir / "evaluation" / "examples.json").get("examples", [])
    files = RunFiles(
        folder=run_dir,
        config=config,
        steps=reader.lines(run_dir / "metrics.jsonl"),
        tuned={
            path.parent.name: (reader.yaml(path.parent / "config.yaml"), reader.lines(path))
            for path in sorted(run_dir.glob("*/metrics.jsonl"))
        },
        results=_results(reader, run_dir, "results*.json"),
        curves=_results(reader, run_dir, "curve-*.json"),
        examples=[example for example in examples if isinstance(example, dict)],
        students=_named(reader, run_dir, "students/*/metrics.json"),
        exports=_named(reader, run_dir, "**/exports/*/proof.json"),
        timings=reader.mapping(run_dir / "timings.json"),
        audit=reader.mapping(audit_file or _find_audit(config) or run_dir / "audit.json"),
        notes=reader.notes,
    )
    run = str(run_dir)
    reader.missing(files.config, "config.yaml", "this folder is no run, or was not trained")
    reader.missing(files.audit, "audit of the data", "`brewhouse data audit CORPUS` writes it")
    reader.missing(files.steps, "training metrics", "`brewhouse train CONFIG.yaml` writes them")
    reader.missing(files.results, "evaluation", f"`brewhouse eval {run}` writes it")
    reader.missing(files.students, "student", f"`brewhouse distill {run} --student sasrec`")
    reader.missing(files.exports, "export", f"`brewhouse export {run} --to merged`")
    return files


def _results(reader: _Reader, run_dir: Path, pattern: str) -> dict[str, Results]:
    return {
        path.stem: content
        for path in sorted((run_dir / "evaluation").glob(pattern))
        if (content := reader.results(path))
    }


def _named(reader: _Reader, run_dir: Path, pattern: str) -> dict[str, Json]:
    return {
        path.parent.relative_to(run_dir).as_posix(): content
        for path in sorted(run_dir.glob(pattern))
        if (content := reader.mapping(path))
    }


def _find_audit(config: Json) -> Path | None:
    """The audit that `data audit` left in the corpus folder; stores say where they came from."""
    for store in config.get("stores") or ():
        folder = Path(str(store))
        for corpus in (folder, folder.with_name(folder.name.removesuffix("-store"))):
            if (corpus / "audit.json").is_file():
                return corpus / "audit.json"
    return None
