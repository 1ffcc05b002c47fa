"""Stages are run in order, recognised by content, started over and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launch.processes import run_measured
from launch.stages import Stage, StageError, StageRunner

# Stands in for the CLI: `copy IN OUT`, `slow OUT` (which can be told to fail half-way), `fail`.
PROGRAM = """
import pathlib, sys, time
verb, *rest = sys.argv[1:]
with open("calls.log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if verb == "copy":
    pathlib.Path(rest[1]).write_text(pathlib.Path(rest[0]).read_text().upper())
elif verb == "slow":
    out = pathlib.Path(rest[0])
    half = out.with_suffix(".half")
    if "resume=true" in rest:
        out.write_text(half.read_text() + " second")
    else:
        half.write_text("first")
        sys.exit(3) if pathlib.Path("trip").exists() else out.write_text("first second")
elif verb == "nothing":
    pass
elif verb == "grow":
    block = bytearray(80 * 2**20)
    block[:: 4096] = b"x" * len(block[:: 4096])
    time.sleep(1.0)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    Path("in.txt").write_text("hello")
    return (sys.executable, str(script))


FIRST = Stage(name="first", argv=("copy", "in.txt", "a.txt"), inputs=("in.txt",), outputs=("a.*",))
SECOND = Stage(
    name="second", argv=("copy", "a.txt", "b.txt"), inputs=("a.txt",), outputs=("b.txt",)
)
SLOW = Stage(
    name="slow",
    argv=("slow", "slow.txt"),
    outputs=("slow.txt",),
    resume_argv=("resume=true",),
    resume_when="slow.half",
)


def calls() -> list[str]:
    file = Path("calls.log")
    return file.read_text().splitlines() if file.exists() else []


def run(program: tuple[str, ...], *stages: Stage) -> dict[str, dict[str, float | bool]]:
    before = len(calls())
    timings = StageRunner(stages, Path("run"), program=program).run()
    assert timings == json.loads(Path("run/timings.json").read_text())
    assert len(calls()) - before == sum(not timing["skipped"] for timing in timings.values())
    return timings


def skipped(timings: dict[str, dict[str, float | bool]]) -> list[bool]:
    return [bool(timing["skipped"]) for timing in timings.values()]


def test_finished_stages_are_skipped_and_keep_their_times(program: tuple[str, ...]) -> None:
    first = run(program, FIRST, SECOND)
    assert skipped(first) == [False, False]
    assert Path("b.txt").read_text() == "HELLO"
    again = run(program, FIRST, SECOND)
    assert skipped(again) == [True, True]
    assert again["second"]["seconds"] == first["second"]["seconds"] > 0


def test_content_counts_and_not_the_time_of_a_file(program: tuple[str, ...]) -> None:
    run(program, FIRST, SECOND)
    os.utime("in.txt", (0, 0))
    os.utime("a.txt")
    assert skipped(run(program, FIRST, SECOND)) == [True, True]
    Path("in.txt").write_text("other")
    assert skipped(run(program, FIRST, SECOND)) == [False, False]
    assert Path("b.txt").read_text() == "OTHER"


def test_a_stage_whose_result_stays_equal_does_not_disturb_the_next(
    program: tuple[str, ...],
) -> None:
    run(program, FIRST, SECOND)
    Path("in.txt").write_text("HELLO")  # upper case gives the same result
    assert skipped(run(program, FIRST, SECOND)) == [False, True]


def test_a_changed_command_and_a_lost_output_are_noticed(program: tuple[str, ...]) -> None:
    run(program, FIRST, SECOND)
    Path("b.txt").unlink()
    assert skipped(run(program, FIRST, SECOND)) == [True, False]
    Path("b.txt").write_text("tampered")
    assert skipped(run(program, FIRST, SECOND)) == [True, False]
    changed = replace(SECOND, argv=("copy", "in.txt", "b.txt"))
    assert skipped(run(program, FIRST, changed)) == [True, False]


def test_changed_sources_are_noticed(
    program: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.stages.REPOSITORY", tmp_path)
    source = tmp_path / "package" / "code.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    stage = replace(FIRST, sources=("package",))
    run(program, stage)
    (tmp_path / "package" / "__pycache__").mkdir()
    (tmp_path / "package" / "__pycache__" / "code.pyc").write_text("not a source")
    assert skipped(run(program, stage)) == [True]
    source.write_text("x = 2\n")
    assert skipped(run(program, stage)) == [False]


def test_an_interrupted_stage_is_resumed(
    program: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("trip").touch()
    with pytest.raises(StageError, match="stage slow ended with exit code 3: `brewhouse slow"):
        run(program, FIRST, SLOW, SECOND)
    assert calls()[-1] == "slow slow.txt"  # the stage behind it was not started
    Path("trip").unlink()
    capfd.readouterr()
    assert skipped(run(program, FIRST, SLOW, SECOND)) == [True, False, False]
    assert Path("slow.txt").read_text() == "first second"
    assert "slow slow.txt resume=true" in calls()
    assert "$ brewhouse slow slow.txt resume=true" in capfd.readouterr().err


def test_an_interrupted_stage_of_another_key_is_not_resumed(program: tuple[str, ...]) -> None:
    Path("trip").touch()
    with pytest.raises(StageError):
        run(program, SLOW)
    Path("trip").unlink()
    run(program, replace(SLOW, argv=("slow", "slow.txt", "more")))
    assert calls()[-1] == "slow slow.txt more"


def test_start_over_removes_results_and_records(program: tuple[str, ...]) -> None:
    run(program, FIRST, SECOND)
    StageRunner((FIRST, SECOND), Path("run"), program=program).start_over()
    assert not Path("a.txt").exists()
    assert not Path("b.txt").exists()
    assert Path("in.txt").exists()  # an input is the user's
    assert skipped(run(program, FIRST, SECOND)) == [False, False]


def test_a_stage_must_write_what_it_promises(program: tuple[str, ...]) -> None:
    stage = Stage(name="nothing", argv=("nothing",), outputs=("never.txt",))
    with pytest.raises(StageError, match=r"exit code 0 but did not write never\.txt"):
        run(program, stage)


def test_a_missing_input_is_told(program: tuple[str, ...]) -> None:
    with pytest.raises(StageError, match=r"its input a\.txt does not exist.*--fresh"):
        run(program, SECOND)


def test_a_truncated_record_means_run_again(program: tuple[str, ...]) -> None:
    run(program, FIRST)
    Path("run/stages/first.json").write_text('{"key": "ab')
    assert skipped(run(program, FIRST)) == [False]


def test_commands_are_printed_before_they_run_with_elapsed_and_remaining_time(
    program: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    run(program, FIRST, SECOND)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("[1/2] first  elapsed 0:00, about 0:")
    assert lines[1] == "$ brewhouse copy in.txt a.txt"
    assert lines[2].startswith("[1/2] first  done in 0:0")
    assert lines[3].startswith("[2/2] second")


def test_peak_memory_covers_the_process_tree(program: tuple[str, ...]) -> None:
    # The grandchild takes 80 MB; the shell in between takes next to nothing.
    measured = run_measured(["sh", "-c", " ".join([*program, "grow"]) + "; true"])
    assert measured.exit_code == 0
    assert measured.seconds > 1.0
    assert 80 < measured.peak_mb < 400


def test_an_interrupt_ends_the_child_and_a_second_run_resumes(program: tuple[str, ...]) -> None:
    """The runner in a process of its own, interrupted as by Ctrl-C, leaves no child behind."""
    Path("driver.py").write_text(
        # A background job of a shell inherits an ignored SIGINT; a person's terminal does not.
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from launch.stages import Stage, StageRunner\n"
        "code = 'import pathlib, time; pathlib.Path(\"asleep\").touch(); time.sleep(60)'\n"
        "sleep = (sys.executable, '-c', code)\n"
        "StageRunner([Stage(name='s', argv=())], Path('run'), program=sleep).run()\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "driver.py"], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while not Path("asleep").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(driver.pid).children(recursive=True)
    assert children
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=20) != 0
    assert not any(child.is_running() for child in children)
    record = json.loads(Path("run/stages/s.json").read_text())
    assert record["finished"] is False
    assert record["seconds"] > 0
