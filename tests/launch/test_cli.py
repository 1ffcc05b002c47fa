"""The command line: start-up, output for people and machines, errors, exit codes."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore
from launch.cli import main
from launch.console import print_json

HEAVY = ("torch", "transformers", "deepspeed", "numpy", "pyarrow", "pydantic", "matplotlib")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Somebody's logs and the mapping for them."""
    lines = ["who,what,when,stars"]
    for user in range(12):
        for k in range(8):
            time = 1_700_000_000 + 1000 * k + user
            lines.append(f"u{user},p{(user * 3 + k) % 9},{time},{1 + (user + k) % 5}")
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    items = ["sku,name,kind", *(f"p{i},Thing {i},{'ab'[i % 2]}" for i in range(9))]
    (tmp_path / "items.csv").write_text("\n".join(items) + "\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        """
name: shop
item_noun: product
events:
  path: events.csv
  columns: {user_id: who, item_id: what, timestamp: when, value: stars}
  timestamp_unit: s
items:
  path: items.csv
  columns: {item_id: sku, title: name}
  fields: {kind: {column: kind, kind: category}}
"""
    )
    return mapping


# Start-up


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = f"import sys, launch.cli; print([m for m in {HEAVY} if m in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "[]"
    # Processor seconds: the machine may be busy with something else.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_help_lists_the_commands_in_order_of_use(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    names = ["quickstart", "data", "tasks", "train", "eval", "distill", "export", "report"]
    places = [out.index(f"│ {name} ") for name in names]
    assert places == sorted(places)


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("brewhouse ")
    assert out.strip().split()[1][0].isdigit()


# Errors


def test_a_data_error_is_one_message_without_traceback(run: Run, tmp_path: Path) -> None:
    code, out, err = run("data", "audit", tmp_path / "nowhere")
    assert code == 1
    assert out == ""
    assert err.startswith("DataError: ")
    assert "nowhere" in err
    assert "Traceback" not in err
    assert "--debug" in err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, tmp_path: Path, place: int) -> None:
    words: list[object] = ["data", "audit", tmp_path / "nowhere"]
    words.insert(place, "--debug")
    code, _, err = run(*words)
    assert code == 1
    assert "Traceback" in err
    assert "DataError" in err


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("data", "fetch"),
        ("data", "fetch", "x", "--unknown"),
        ("eval", "x", "--phase", "y"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert "Usage: brewhouse" in out + err


def test_a_fault_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        return json.loads("{")  # a ValueError from inside a library

    monkeypatch.setattr("data_pipeline.corpus.Corpus.open", fail)
    code, _, err = run("data", "audit", "corpus")
    assert code == 1
    assert "Traceback" in err
    assert "mistake of brewhouse" in err


def test_a_value_error_of_our_own_code_is_meant_for_people(
    run: Run, tiny_store: TokenStore, tmp_path: Path
) -> None:
    code, _, err = run("distill", tmp_path)
    assert code == 1
    assert err.startswith("ValueError: ")
    assert "--store STORE" in err
    assert "Traceback" not in err


def test_a_full_disk_is_no_fault_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "corpus/audit.json")

    monkeypatch.setattr("data_pipeline.corpus.Corpus.open", fail)
    code, _, err = run("data", "audit", "corpus")
    assert code == 1
    assert "Traceback" not in err
    assert "corpus/audit.json" in err
    assert "Free some space" in err


def test_an_unknown_dataset_lists_the_right_ones(run: Run, tmp_path: Path) -> None:
    code, _, err = run("data", "fetch", "movielens-100", "--out", tmp_path / "out")
    assert code == 1
    assert "movielens-100k" in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_task_names_the_nearest(run: Run, tiny_store: TokenStore) -> None:
    code, _, err = run("tasks", "show", "lik", "--store", tiny_store.folder)
    assert code == 1
    assert "did you mean like" in err


def test_a_task_needs_something_to_ask(run: Run, tiny_store: TokenStore) -> None:
    code, _, err = run("tasks", "show", "like")
    assert code == 2
    assert "--store STORE" in err
    both = ("--store", tiny_store.folder, "--corpus", "c")
    code, _, err = run("tasks", "show", "like", *both)
    assert code == 1
    assert "both given" in err


# From logs to prompts


def test_from_somebodys_logs_to_a_prompt(run: Run, shop: Path, tmp_path: Path) -> None:
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    code, out, err = run("data", "import", shop, "--out", corpus)
    assert code == 0, err
    assert "9 items, 12 users, 96 events" in out
    assert f"brewhouse data audit {corpus}" in err

    code, out, err = run("data", "audit", corpus)
    assert code == 0, err
    assert "Audit of shop" in out
    assert json.loads((corpus / "audit.json").read_text())["counts"]["events"] == 96
    assert "Audit of shop" in (corpus / "audit.md").read_text()

    code, out, err = run("data", "build", corpus, "--tokenizer", "train:1024", "--out", store)
    assert code == 0, err
    assert "96 events" in out

    code, out, err = run("tasks", "show", "T01", "--store", store)
    assert code == 0, err
    assert "Questions about products." in out
    assert "Thing " in out
    assert "out of No Yes" in out


def test_what_stands_is_not_overwritten_unasked(run: Run, shop: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    assert run("data", "import", shop, "--out", corpus)[0] == 0
    before = (corpus / "corpus.json").read_bytes()
    code, _, err = run("data", "import", shop, "--out", corpus)
    assert code == 1
    assert "exists already" in err
    assert run("data", "import", shop, "--out", corpus, "--overwrite")[0] == 0
    assert (corpus / "corpus.json").read_bytes() == before


def test_findings_of_level_error_end_with_1(
    run: Run, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.audit.AuditReport.level", property(lambda self: "error"))
    before = (tiny_corpus.folder / "audit.json").exists()
    code, out, err = run("data", "audit", tiny_corpus.folder, "--json")
    assert code == 1
    assert json.loads(out)["level"] == "error"
    assert "mend them" in err
    if not before:
        (tiny_corpus.folder / "audit.json").unlink()
        (tiny_corpus.folder / "audit.md").unlink()


def test_an_unknown_split_names_the_right_ones(run: Run, tiny_corpus: Corpus) -> None:
    code, _, err = run("data", "audit", tiny_corpus.folder, "--split", "random")
    assert code == 2
    shown = " ".join(err.replace("│", " ").split())
    assert "choose auto or global_time or leave_last or by_user" in shown


def test_show_is_what_the_model_sees(run: Run, tiny_store: TokenStore) -> None:
    code, out, _ = run("tasks", "show", "like", "--store", tiny_store.folder, "--json")
    assert code == 0
    tree = json.loads(out)["tree"]
    decode = tiny_store.encoder.decode
    assert decode(tree["trunk"]["tokens"]) == tree["trunk"]["text"]
    for branch in tree["branches"]:
        assert branch["task"] == "like"
        assert decode(branch["tokens"]) == branch["text"]
        assert branch["answer"].strip() in ("Yes", "No")
    _, text, _ = run("tasks", "show", "like", "--store", tiny_store.folder)
    assert tree["trunk"]["text"] in text
    assert tree["branches"][0]["text"] in text
    _, with_ids, _ = run("tasks", "show", "like", "--store", tiny_store.folder, "--tokens")
    assert f"ids {tree['trunk']['tokens']}" in with_ids


def test_a_corpus_is_compiled_once_for_looking(
    run: Run, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREWHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("launch.opening.PREVIEW_TOKENIZER", "train:1024")
    code, _, err = run("tasks", "show", "like", "--corpus", tiny_corpus.folder)
    assert code == 0
    assert "compiling" in err
    code, _, err = run("tasks", "show", "like", "--corpus", tiny_corpus.folder)
    assert code == 0
    assert "compiling" not in err


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("tasks", "list", "--store", "STORE", "--json"), {"tasks"}),
        (("tasks", "plan", "STORE", "--json"), {"fingerprints", "tasks", "tokens_per_tree"}),
        (("data", "preview", "STORE", "--json"), {"corpus", "trunk", "branches"}),
        (("data", "audit", "CORPUS", "--json"), {"counts", "checks", "level"}),
        (("config-schema",), {"properties", "$schema"}),
    ],
)
def test_json_is_one_object_and_nothing_else(
    run: Run,
    tiny_store: TokenStore,
    tiny_corpus: Corpus,
    words: tuple[str, ...],
    keys: set[str],
) -> None:
    folders = {"STORE": tiny_store.folder, "CORPUS": tiny_corpus.folder}
    code, out, _ = run(*(folders.get(word, word) for word in words))
    assert code == 0
    assert keys <= json.loads(out).keys()


def test_the_plan_counts_shares(run: Run, tiny_store: TokenStore) -> None:
    _, out, _ = run("tasks", "plan", tiny_store.folder, "--json")
    plan = json.loads(out)
    assert sum(task["share"] for task in plan["tasks"].values()) == pytest.approx(1.0)
    assert plan["unpacked_over_packed_tokens"] > 1.0


# Train and evaluate: what is handed to the workers


CONFIG = """
model: {architecture: qwen3, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
  num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}
stores: [store]
output_dir: run
max_steps: 2
learning_rate: 1.0e-3
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    return Path("config.yaml")


def test_train_hands_over_the_checked_config(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr("launch.workers.start_training", lambda c, **kw: calls.append((c, kw)))
    code, out, err = run("train", config, "max_steps=7", "--num-procs", 2, "seed=3")
    assert code == 0, err
    ((given, options),) = calls
    assert (given.max_steps, given.seed) == (7, 3)
    assert options == {"num_procs": 2, "hostfile": None, "master_port": None}
    assert "Run finished: run" in out
    assert "brewhouse eval run" in err


def test_a_wrong_key_names_the_nearest(run: Run, config: Path) -> None:
    code, _, err = run("train", config, "lerning_rate=1")
    assert code == 1
    assert err.startswith("ConfigError: ")
    assert "learning_rate" in err


def test_one_machine_or_several(run: Run, config: Path) -> None:
    code, _, err = run("train", config, "--num-procs", 2, "--hostfile", "hosts")
    assert code == 2
    assert "--hostfile for several" in " ".join(err.split())


def test_eval_of_nothing_is_told_before_processes_start(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> int:
        raise AssertionError("no process may start")

    monkeypatch.setattr("launch.evaluating.run_workers", started)
    code, _, err = run("eval", tmp_path)
    assert code == 1
    assert err.startswith("CheckpointError: ")


def test_eval_hands_over_its_options_and_believes_the_file(
    run: Run, tmp_path: Path, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from made_run import results

    from train.evaluation.results import write_results

    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    calls: list[list[str]] = []
    file = folder / "evaluation" / "results-held_out.json"

    def work(module: str, words: list[str], cwd: Path, **_: object) -> int:
        assert (module, cwd) == ("train.evaluation.run", folder)
        calls.append(words)
        os.write(1, b"a notice of the launcher\n")
        if len(calls) == 1:
            write_results(results([]), file)
        return 0

    monkeypatch.setattr("launch.evaluating.run_workers", work)
    options = ("--phrasing", "held_out", "--task", "like", "--max-targets", 5)
    words = ("eval", folder, "--store", tiny_store.folder, *options, "--json")
    code, out, err = run(*words)
    assert code == 0, err
    assert json.loads(out)["rows"] == []
    line = " ".join(calls[0])
    assert f"--run {folder}" in line
    assert "--phase test --phrasing held_out --task like --max-targets 5" in line
    assert f"--store {tiny_store.folder}" in line
    # The second time the workers leave the old file alone: that is no result.
    code, _, err = run(*words)
    assert code == 1
    assert err.startswith("WorkersError: ")


# The console


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), 3: "ü"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": "x", "3": "ü"}
    assert "ü" in text


def test_notices_of_children_do_not_reach_standard_output() -> None:
    code = """if True:
        import subprocess
        from launch.console import standard_output_as_error
        print("first")
        with standard_output_as_error():
            subprocess.run(["echo", "a notice"], check=True)
            print("another")
        print("the result")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "first\nthe result\n"
    assert done.stderr == "a notice\nanother\n"


def test_brackets_in_messages_are_no_markup(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise DataError("a title is [bold]Heat[/bold]")

    monkeypatch.setattr("data_pipeline.corpus.Corpus.open", fail)
    _, _, err = run("data", "audit", "corpus")
    assert "[bold]Heat[/bold]" in err
