"""Another environment's script is asked line by line, and its failures are told."""

import sys
from pathlib import Path

import pytest
import torch

from launch.bench import peer
from launch.bench.peer import Peer, PeerError

SCRIPT = """
import json, os, sys
settings = json.load(open(sys.argv[1]))
print(json.dumps({"threads": settings["threads"], "path": os.environ.get("PYTHONPATH", "")}))
sys.stdout.flush()
for line in sys.stdin:
    question = json.loads(line)
    if question == "nonsense":
        print("Loading weights: 100%")
    elif question == "die":
        sys.exit("out of luck")
    else:
        print(json.dumps({"twice": question * settings["factor"]}))
    sys.stdout.flush()
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(peer, "SCRIPTS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    (tmp_path / "script.py").write_text(SCRIPT)
    return "script.py"


def test_a_script_answers_until_it_is_left(script: str, tmp_path: Path) -> None:
    with Peer(Path(sys.executable), script, {"factor": 2}, tmp_path / "scratch") as running:
        # Our modules are not on its path, and it uses as many threads as we do.
        assert running.ready == {"threads": torch.get_num_threads(), "path": ""}
        assert [running.ask(n)["twice"] for n in (1, 4)] == [2, 8]
        process = running._process
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("question", "told"), [("nonsense", "Loading weights: 100%"), ("die", "out of luck")]
)
def test_a_failure_is_told_with_the_end_of_its_output(
    script: str, tmp_path: Path, question: str, told: str
) -> None:
    with (
        pytest.raises(PeerError, match=told),
        Peer(Path(sys.executable), script, {"factor": 2}, tmp_path / "scratch") as running,
    ):
        running.ask(question)


def test_a_script_that_does_not_start_is_an_error(script: str, tmp_path: Path) -> None:
    (tmp_path / script).write_text("import no_such_library")
    with pytest.raises(PeerError, match="no_such_library"):
        Peer(Path(sys.executable), script, {}, tmp_path / "scratch")


def test_a_python_that_is_not_there_is_named(script: str, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"nowhere/python cannot be started .*ENV/bin/python"):
        Peer(tmp_path / "nowhere/python", script, {}, tmp_path / "scratch")
