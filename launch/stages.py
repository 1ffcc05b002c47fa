"""Run commands as stages: each is printed, measured, recognised when finished, and resumed.

A stage is finished when a record says so and nothing it depends on has changed since: the command,
the content of its inputs, the sources that decide its result, and the content of what it wrote.
Modification times play no part, so a fresh checkout or a copied folder is recognised.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipeline.files import atomic_write, fingerprint, sha256_file
from launch.console import err
from launch.processes import Measured, run_measured
from train.progress import duration

# -P keeps the current folder off sys.path: a stray `launch` or `train.py` there must not be run.
PROGRAM = (sys.executable, "-P", "-m", "launch.cli")
PRIOR_SECONDS = 120.0
"""Weight of the expected times until as much work has been measured on this machine."""
REPOSITORY = Path(__file__).resolve().parents[1]

Verdict = Literal["skip", "resume", "run"]


class StageError(RuntimeError):
    """A stage's command failed, or ended well without writing what it promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One command with what it reads and writes. Paths are relative to the current folder."""

    name: str
    argv: tuple[str, ...]
    """What a user types after `brewhouse`."""
    inputs: tuple[str, ...] = ()
    """Files, folders or glob patterns whose content decides the result."""
    outputs: tuple[str, ...] = ()
    """Files, folders or glob patterns that the command writes; each must match something after."""
    sources: tuple[str, ...] = ()
    """Files or folders of this repository whose code decides the result."""
    resume_argv: tuple[str, ...] = ()
    """Added to the command when an interrupted attempt left `resume_when` behind."""
    resume_when: str = ""
    """The file that says that there is something to resume from."""
    expected_seconds: float = 10.0
    """On two cores; for the estimate of what remains, until it has been measured here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """What is remembered of a stage between invocations."""

    key: str
    finished: bool
    outputs: dict[str, str]
    seconds: float
    peak_mb: float


def hash_paths(patterns: Sequence[str], *, base: Path | None = None) -> dict[str, str]:
    """Content hash of every file that the patterns match: {path below base: sha256}.

    A file from elsewhere goes by its name alone: where a clone lies does not count.
    """
    base = base or Path()
    hashes: dict[str, str] = {}
    for pattern in patterns:
        for path in matches(pattern, base=base):
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            for file in files:
                if file.is_file() and "__pycache__" not in file.parts:
                    name = file.relative_to(base) if file.is_relative_to(base) else file.name
                    hashes[str(name)] = sha256_file(file)
    return hashes


def matches(pattern: str, *, base: Path | None = None) -> list[Path]:
    """Existing paths for a pattern, which may be a plain (also absolute) path."""
    path = (base or Path()) / pattern
    if path.exists():
        return [path]
    if Path(pattern).is_absolute() or not any(mark in pattern for mark in "*?["):
        return []
    return sorted((base or Path()).glob(pattern))


def stage_key(stage: Stage) -> str:
    """Hash of everything that decides the stage's result."""
    for pattern in stage.inputs:
        if not matches(pattern):
            raise StageError(
                f"stage {stage.name}: its input {pattern} does not exist, although the stages "
                "before it are finished. Start over with --fresh."
            )
    return fingerprint(
        {
            "command": list(stage.argv),
            "inputs": hash_paths(stage.inputs),
            "sources": hash_paths(stage.sources, base=REPOSITORY),
        }
    )


class StageRunner:
    """Runs stages in order; keeps their records in `RUN/stages`, times in `RUN/timings.json`."""

    def __init__(
        self, stages: Sequence[Stage], run_dir: Path, *, program: Sequence[str] = PROGRAM
    ) -> None:
        names = [stage.name for stage in stages]
        assert len(set(names)) == len(names), f"stage names must differ: {names}"
        self.stages = tuple(stages)
        self.run_dir = run_dir
        self.program = tuple(program)
        self._start = time.monotonic()

    def run(self) -> dict[str, dict[str, float | bool]]:
        """Run every stage that is not finished. Returns what timings.json holds.

        Raises:
            StageError: a command failed; the stages after it were not started.
        """
        timings: dict[str, dict[str, float | bool]] = {}
        paces: list[tuple[float, float]] = []
        for number, stage in enumerate(self.stages, start=1):
            key = stage_key(stage)
            verdict = self._verdict(stage, key)
            record = self.record(stage)
            if verdict == "skip":
                assert record is not None
                self._announce(number, stage, "already done, skipped")
                timings[stage.name] = _timing(record, skipped=True)
            else:
                self._announce(number, stage, f"{self._clock(number, paces)}")
                measured = self._run_stage(stage, key, verdict)
                record = self._finish(stage, key, measured)
                self._announce(
                    number,
                    stage,
                    f"done in {duration(record.seconds)}, peak {record.peak_mb:,.0f} MB",
                )
                paces.append((record.seconds, stage.expected_seconds))
                timings[stage.name] = _timing(record, skipped=False)
            atomic_write(self.run_dir / "timings.json", json.dumps(timings, indent=2) + "\n")
        return timings

    def start_over(self) -> None:
        """Remove the records and everything that the stages write."""
        for stage in self.stages:
            self._remove_outputs(stage)
        shutil.rmtree(self.run_dir / "stages", ignore_errors=True)
        (self.run_dir / "timings.json").unlink(missing_ok=True)

    def record(self, stage: Stage) -> StageRecord | None:
        """What is remembered of the stage; None when nothing (readable) is."""
        try:
            content = json.loads(self._record_file(stage).read_text(encoding="utf-8"))
            return StageRecord(**content)
        except (OSError, ValueError, TypeError):
            return None

    def _record_file(self, stage: Stage) -> Path:
        return self.run_dir / "stages" / f"{stage.name}.json"

    def _write_record(self, stage: Stage, record: StageRecord) -> None:
        file = self._record_file(stage)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(asdict(record), indent=2) + "\n")

    def _verdict(self, stage: Stage, key: str) -> Verdict:
        record = self.record(stage)
        if record is None or record.key != key:
            return "run"
        if record.finished:
            return "skip" if record.outputs == hash_paths(stage.outputs) else "run"
        return "resume" if stage.resume_when and matches(stage.resume_when) else "run"

    def _run_stage(self, stage: Stage, key: str, verdict: Verdict) -> Measured:
        argv = stage.argv
        before = self.record(stage)
        if verdict == "resume":
            argv = (*argv, *stage.resume_argv)
        else:
            # What an older command or input left behind would be mistaken for this one's result.
            self._remove_outputs(stage)
            before = None
        started = StageRecord(
            key=key,
            finished=False,
            outputs={},
            seconds=before.seconds if before else 0.0,
            peak_mb=before.peak_mb if before else 0.0,
        )
        self._write_record(stage, started)
        err.print(f"$ brewhouse {shlex.join(argv)}", style="next", markup=False, soft_wrap=True)
        start = time.monotonic()
        try:
            measured = run_measured([*self.program, *argv])
        except BaseException:
            # The time of an attempt that is continued later belongs to the stage.
            seconds = started.seconds + time.monotonic() - start
            self._write_record(stage, replace(started, seconds=seconds))
            raise
        if measured.exit_code != 0:
            seconds = started.seconds + measured.seconds
            self._write_record(stage, replace(started, seconds=seconds, peak_mb=measured.peak_mb))
            raise StageError(
                f"stage {stage.name} ended with exit code {measured.exit_code}: "
                f"`brewhouse {shlex.join(argv)}`. Its own message stands above. "
                "Run the same command again after mending it: finished stages are skipped."
            )
        return measured

    def _finish(self, stage: Stage, key: str, measured: Measured) -> StageRecord:
        for pattern in stage.outputs:
            if not matches(pattern):
                raise StageError(
                    f"stage {stage.name} ended with exit code 0 but did not write {pattern}."
                )
        started = self.record(stage)
        record = StageRecord(
            key=key,
            finished=True,
            outputs=hash_paths(stage.outputs),
            seconds=measured.seconds + (started.seconds if started else 0.0),
            peak_mb=max(measured.peak_mb, started.peak_mb if started else 0.0),
        )
        self._write_record(stage, record)
        return record

    @staticmethod
    def _remove_outputs(stage: Stage) -> None:
        for pattern in stage.outputs:
            for path in matches(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _announce(self, number: int, stage: Stage, text: str) -> None:
        err.print(f"[bold]\\[{number}/{len(self.stages)}] {stage.name}[/]  {text}", soft_wrap=True)

    def _clock(self, number: int, paces: Sequence[tuple[float, float]]) -> str:
        """Elapsed time and an estimate of what remains, at the pace measured so far."""
        took, expected = sum(took for took, _ in paces), sum(expected for _, expected in paces)
        pace = (took + PRIOR_SECONDS) / (expected + PRIOR_SECONDS)
        remaining = 0.0
        for stage in self.stages[number - 1 :]:
            known = self.record(stage)
            measured = known.seconds if known and known.finished else 0.0
            remaining += measured or stage.expected_seconds * pace
        elapsed = time.monotonic() - self._start
        return f"elapsed {duration(elapsed)}, about {duration(remaining)} to go"


def _timing(record: StageRecord, *, skipped: bool) -> dict[str, float | bool]:
    return {
        "seconds": round(record.seconds, 2),
        "peak_mb": round(record.peak_mb, 1),
        "skipped": skipped,
    }
