"""The quickstart's stages fit together; the scripts set up what they need or say what lacks."""

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from made_run import make_run
from typer.main import get_command

from launch import quickstart
from launch.cli import app, main
from launch.stages import REPOSITORY, Stage, StageError, StageRunner, matches
from train.config import load_config

# Writes the files that the stage of these words promises, as `plan.json` says.
PROGRAM = """
import json, pathlib, sys
words = " ".join(sys.argv[1:]).removesuffix(" resume_from_checkpoint=true")
with open("calls.log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
plan = json.loads(pathlib.Path("plan.json").read_text())
if words == plan["fails"]:
    sys.exit(1)
for name in plan["files"][words]:
    path = pathlib.Path(name.replace("*", "1"))
    path = path if path.suffix or path.name in ("latest", "finished") else path / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(words)
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """The real stages in an empty folder, with a program that only writes files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "_local_processes", lambda: 2)
    made = quickstart.quickstart_stages()
    Path("program.py").write_text(PROGRAM)
    plan_for("", made)

    def runner(stages: list[Stage], run_dir: Path) -> StageRunner:
        return StageRunner(stages, run_dir, program=(sys.executable, str(tmp_path / "program.py")))

    monkeypatch.setattr(quickstart, "StageRunner", runner)
    monkeypatch.setattr(quickstart, "_say_summary", lambda: None)
    return made


def plan_for(fails: str, stages: list[Stage]) -> None:
    files = {" ".join(stage.argv): stage.outputs for stage in stages}
    Path("plan.json").write_text(json.dumps({"fails": fails, "files": files}))


def calls() -> list[str]:
    return Path("calls.log").read_text().splitlines() if Path("calls.log").exists() else []


def test_the_stages_are_those_of_the_flow(stages: list[Stage]) -> None:
    assert [stage.name for stage in stages] == [
        *(f"fetch-{name}" for name in quickstart.CORPORA),
        *(f"audit-{name}" for name in quickstart.CORPORA),
        "tokenizer",
        *(f"build-{name}" for name in quickstart.CORPORA),
        *("train", "eval", "lora", "distill"),
        *("export-merged", "export-adapter", "export-onnx", "report"),
    ]


def test_every_stage_is_a_command_of_the_command_line(stages: list[Stage]) -> None:
    for stage in stages:
        command: Any = get_command(app)
        words = [*stage.argv, *stage.resume_argv]
        while True:
            context = command.make_context(command.name, list(words))
            if not hasattr(command, "resolve_command"):
                break
            rest = [*getattr(context, "_protected_args", []), *context.args]
            _, command, words = command.resolve_command(context, rest)


def test_inputs_come_from_earlier_stages(stages: list[Stage]) -> None:
    written: list[str] = []
    for stage in stages:
        for name in stage.inputs:
            made_before = any(
                name == output or fnmatch(name, output) or output.startswith(f"{name}/")
                for output in written
            )
            assert made_before or Path(name).is_file(), f"{stage.name} reads {name}"
        written += stage.outputs


def test_stages_depend_on_sources_that_exist(stages: list[Stage]) -> None:
    for stage in stages:
        assert stage.sources
        for source in stage.sources:
            assert matches(source, base=REPOSITORY), f"{stage.name}: {source}"


def test_the_recipes_write_where_the_stages_look(stages: list[Stage]) -> None:
    recipes = {stage.name: load_config(stage.argv[1]) for stage in stages if stage.resume_argv}
    assert recipes["train"].output_dir == quickstart.RUN
    assert recipes["train"].stores == quickstart.STORES
    assert recipes["train"].deepspeed == "zero2"
    lora = recipes["lora"]
    assert lora.output_dir == quickstart.LORA_RUN
    assert (lora.model_name_or_path, lora.finetuning_type) == (quickstart.RUN, "lora")
    assert lora.stores == (quickstart.store_folder(quickstart.FIRST),)


def test_a_second_run_skips_everything_and_fresh_does_it_again(stages: list[Stage]) -> None:
    quickstart.run_quickstart(fresh=False)
    assert len(calls()) == len(stages)
    quickstart.run_quickstart(fresh=False)
    assert len(calls()) == len(stages)
    timings = json.loads(Path(quickstart.RUN, "timings.json").read_text())
    assert list(timings) == [stage.name for stage in stages]
    assert all(timing["skipped"] for timing in timings.values())
    quickstart.run_quickstart(fresh=True)
    assert len(calls()) == 2 * len(stages)


def test_a_training_that_broke_off_goes_on(stages: list[Stage]) -> None:
    train = next(stage for stage in stages if stage.name == "train")
    plan_for(" ".join(train.argv), stages)
    with pytest.raises(StageError, match="stage train ended with exit code 1"):
        quickstart.run_quickstart(fresh=False)
    Path(quickstart.RUN, "latest").write_text("checkpoint-150")
    plan_for("", stages)
    quickstart.run_quickstart(fresh=False)
    assert " ".join([*train.argv, "resume_from_checkpoint=true"]) in calls()
    assert calls().count(" ".join(stages[0].argv)) == 1


def test_an_interrupt_says_how_to_go_on(
    stages: list[Stage], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.stages.run_measured", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["quickstart"])
    assert ended.value.code == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_the_verdict_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path(quickstart.RUN), steps=30, most_tasks=3)
    quickstart._say_summary()
    out = capsys.readouterr().out
    assert "Beats the untrained model beyond the interval on 3 of 3 tasks." in out
    assert "not on above_own_mean" in out


# The scripts


def bash(script: str, *, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": path, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone without an environment, and a python that only says what it was asked to do."""
    clone = tmp_path / "clone"
    (clone / "launch").mkdir(parents=True)
    for name in ("setup_env.sh", "quickstart.sh", "test.sh"):
        shutil.copy(REPOSITORY / "launch" / name, clone / "launch" / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, clone / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "sha256sum", "cut", "dirname", "mkdir", "cp", "chmod"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return clone


def fake_python(
    folder: Path, name: str, *, version: tuple[int, int], has_venv: bool = True
) -> None:
    """Answers the questions of setup_env.sh; `-m venv` makes a fake environment that logs."""
    script = folder / name
    script.write_text(
        f"""#!{shutil.which("bash")}
case "$*" in
    *version_info*) exit {int(version < (3, 11))} ;;
    *ensurepip*) exit {int(not has_venv)} ;;
    --version) echo Python {version[0]}.{version[1]} ;;
    "-m venv"*)
        mkdir -p "${{@: -1}}/bin"
        for tool in python brewhouse; do cp "$0" "${{@: -1}}/bin/$tool"; done ;;
    *) echo "${{0##*/}} $* OMP=$OMP_NUM_THREADS" >>"$LOG"; exit ${{FAIL:-0}} ;;
esac
"""
    )
    script.chmod(0o755)


def test_without_a_python_it_says_what_to_install(clone: Path) -> None:
    tools = clone.parent / "bin"
    fake_python(tools, "python3", version=(3, 9))
    done = bash(f"bash {clone}/launch/quickstart.sh", path=str(tools))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "apt-get install python3" in done.stderr


def test_without_the_venv_module_it_says_what_to_install(clone: Path) -> None:
    tools = clone.parent / "bin"
    fake_python(tools, "python3", version=(3, 11), has_venv=False)
    done = bash(f"bash {clone}/launch/quickstart.sh", path=str(tools))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_it_installs_once_and_hands_over_the_arguments(clone: Path) -> None:
    tools, log = clone.parent / "bin", clone.parent / "log"
    fake_python(tools, "python3.12", version=(3, 12))
    script = f"bash {clone}/launch/quickstart.sh --fresh"
    assert bash(script, path=str(tools), LOG=str(log)).returncode == 0
    lines = log.read_text().splitlines()
    install = next(line for line in lines if "pip install" in line)
    assert f"-c {clone}/constraints.txt -e {clone}[onnx]" in install
    assert lines[-1].startswith("brewhouse quickstart --fresh")

    log.unlink()
    assert bash(script, path=str(tools), LOG=str(log)).returncode == 0
    assert "pip install" not in log.read_text()

    log.unlink()
    with (clone / "constraints.txt").open("a") as file:
        file.write("six==1.17.0\n")
    assert bash(script, path=str(tools), LOG=str(log)).returncode == 0
    assert "pip install" in log.read_text()


def test_a_failed_installation_leaves_no_stamp(clone: Path) -> None:
    tools, log = clone.parent / "bin", clone.parent / "log"
    fake_python(tools, "python3", version=(3, 11))
    done = bash(f"bash {clone}/launch/test.sh", path=str(tools), LOG=str(log), FAIL="1")
    assert done.returncode == 1
    assert not list((clone / ".venv").glob("*.stamp"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "-m pytest -m not slow OMP=1"),
        ("tests/launch -x", "-m pytest -m not slow tests/launch -x OMP=1"),
        ("-m slow", "-m pytest -m slow OMP=1"),
    ],
)
def test_the_test_script_leaves_out_slow_ones_unless_asked(
    clone: Path, arguments: str, expected: str
) -> None:
    tools, log = clone.parent / "bin", clone.parent / "log"
    fake_python(tools, "python3", version=(3, 11))
    done = bash(f"bash {clone}/launch/test.sh {arguments}", path=str(tools), LOG=str(log))
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert any(f"-e {clone}[dev]" in line for line in lines)
    assert lines[-1] == f"python {expected}"


def test_the_scripts_are_executable_and_strict() -> None:
    for name in ("launch/quickstart.sh", "launch/test.sh", ".ci/run"):
        path = REPOSITORY / name
        assert os.access(path, os.X_OK)
        assert "set -euo pipefail" in path.read_text()
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
