"""Exports of a tiny run: stock libraries get the trainer's own scores out of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_run import make_tiny_lora_run, make_tiny_run
from transformers import AutoModelForCausalLM

from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore
from train.distill import DistillConfig, DistillJob, distill
from train.export import ExportJob, export_run, parse_job
from train.export_card import metrics_of_run, metrics_of_student
from train.proof import ExportError, ProofResult
from train.students import FittedStudent, StudentConfig
from train.teacher_cache import TeacherCacheConfig

Exported = tuple[Path, ProofResult]
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def run(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_run(tmp_path_factory.mktemp("export") / "run", tiny_store)


@pytest.fixture(scope="module")
def lora_run(run: Path, tiny_store: TokenStore) -> Path:
    return make_tiny_lora_run(run.parent / "lora", run, tiny_store)


@pytest.fixture(scope="module")
def merged(run: Path) -> Exported:
    return export_run(ExportJob(run=run, to="merged"))


@pytest.fixture(scope="module")
def adapter(lora_run: Path) -> Exported:
    return export_run(ExportJob(run=lora_run, to="adapter"))


@pytest.fixture(scope="module")
def onnx(run: Path) -> Exported:
    pytest.importorskip("onnxscript")
    config = DistillConfig(
        student=StudentConfig(hidden_size=16, epochs=1, max_length=10),
        cache=TeacherCacheConfig(max_moments=4, slate_size=8, shard_size=4),
    )
    distill(DistillJob(run=run, config=config))
    return export_run(ExportJob(run=run, to="onnx"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def snippet(folder: Path) -> str:
    """Run the card's example in a fresh process, inside the export; gives what it printed."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    finished = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_merged_export_is_whole_and_proven(merged: Exported, run: Path) -> None:
    folder, proof = merged
    assert folder == run / "exports" / "merged"
    wanted = {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"}
    wanted |= {"catalog.json", "tasks.json", "README.md", "probes.json", "proof.json"}
    assert wanted <= names(folder)
    assert proof.passed
    assert proof.probes >= 24
    assert proof.tokenizer_identical == proof.top_k_identical == proof.probes
    assert proof.max_logit_difference is not None
    assert proof.max_logit_difference < 1e-4
    saved = json.loads((folder / "proof.json").read_text())
    assert saved["passed"] is True
    assert {entry["name"] for entry in saved["files"]} == names(folder) - {"proof.json"}
    assert list(run.glob("exports/.*")) == []
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # another user may serve it


def test_a_merged_export_decodes_without_sampling_and_keeps_the_vocabulary(
    merged: Exported, tiny_store: TokenStore
) -> None:
    generation = json.loads((merged[0] / "generation_config.json").read_text())
    assert not {"temperature", "top_p", "top_k", "do_sample", "repetition_penalty"} & set(
        generation
    )
    config = json.loads((merged[0] / "config.json").read_text())
    assert config["vocab_size"] == tiny_store.card.vocab_size
    assert "brewhouse_tree" not in (merged[0] / "config.json").read_text()


def test_the_probes_are_real_questions_of_every_task(
    merged: Exported, tiny_store: TokenStore
) -> None:
    probes = json.loads((merged[0] / "probes.json").read_text())["probes"]
    sheet = json.loads((merged[0] / "tasks.json").read_text())["tasks"]
    assert {probe["task"] for probe in probes} == {
        name for name, task in sheet.items() if task["example"]
    }
    spread = [max(p["choice_logits"]) - min(p["choice_logits"]) for p in probes if p["choices"]]
    assert np.median(spread) > 0.1  # a model whose answers are all alike would prove nothing
    for probe in probes:
        assert tiny_store.encoder.decode(probe["tokens"]) == probe["text"]


def test_the_task_sheet_gives_the_tokens_that_answer(
    merged: Exported, tiny_store: TokenStore
) -> None:
    sheet = json.loads((merged[0] / "tasks.json").read_text())["tasks"]
    like = sheet["like"]
    decoded = [tiny_store.encoder.decode([i]).strip() for i in like["label_token_ids"]]
    assert decoded == like["labels"] == ["No", "Yes"]
    assert len(like["instructions"]) >= 3
    assert "{item}" not in json.dumps(like)
    assert like["example"]["prompt"].endswith("Answer:")
    title = sheet["next_item_title"]
    assert title["example"]["prompt"].endswith("Title:")
    assert title["label_token_ids"] == []


def test_the_card_names_the_licence_of_the_data_and_loads_the_model(merged: Exported) -> None:
    text = (merged[0] / "README.md").read_text()
    assert "CC0-1.0" in text
    assert "Not evaluated yet" in text
    printed = snippet(merged[0])
    assert "'Yes'" in printed
    assert "'No'" in printed


def test_an_export_is_not_overwritten_unless_asked(merged: Exported, run: Path) -> None:
    before = (merged[0] / "proof.json").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        export_run(ExportJob(run=run, to="merged"))
    assert (merged[0] / "proof.json").read_bytes() == before


def test_an_adapter_export_is_what_peft_loads(adapter: Exported, run: Path) -> None:
    folder, proof = adapter
    assert proof.passed
    assert "peft" in proof.versions
    assert {"adapter_config.json", ADAPTER, "base.json", "tokenizer.json"} <= names(folder)
    base = json.loads((folder / "base.json").read_text())
    assert base["name_or_path"] == str(run / "checkpoint-1" / "model")
    assert {"model.safetensors", "config.json"} == {entry["name"] for entry in base["files"]}
    assert "'Yes'" in snippet(folder)


def test_a_merged_adapter_equals_the_adapter(lora_run: Path, adapter: Exported, run: Path) -> None:
    folder, proof = export_run(ExportJob(run=lora_run, to="merged"))
    assert proof.passed
    assert "adapter_config.json" not in names(folder)
    ids = torch.tensor([[5, 9, 200, 77]])
    plain = AutoModelForCausalLM.from_pretrained(run / "checkpoint-1" / "model")
    with torch.inference_mode():
        untouched = plain(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        theirs = PeftModel.from_pretrained(plain, adapter[0]).eval()(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - untouched).abs().max() > 1e-2


def test_a_run_without_an_adapter_says_so(run: Path) -> None:
    with pytest.raises(ExportError, match=r"finetuning_type=full and has no adapter.*--to merged"):
        export_run(ExportJob(run=run, to="adapter"))


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_an_adapter_that_changes_nothing_is_refused(
    run: Path, tiny_store: TokenStore, tmp_path: Path, to: str
) -> None:
    idle = make_tiny_lora_run(tmp_path / "idle", run, tiny_store, trained=False)
    with pytest.raises(ExportError, match="every lora_B is zero"):
        export_run(ExportJob(run=idle, to=to))  # type: ignore[arg-type]
    assert not list(idle.glob("exports/*"))


def test_an_adapter_with_empty_tensors_is_refused(
    run: Path, tiny_store: TokenStore, tmp_path: Path
) -> None:
    hollow = make_tiny_lora_run(tmp_path / "hollow", run, tiny_store)
    path = hollow / "checkpoint-1" / "model" / ADAPTER
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({**tensors, first: torch.empty(0)}, path)
    with pytest.raises(ExportError, match=r"1 of \d+ tensors have no elements"):
        export_run(ExportJob(run=hollow, to="adapter"))
    save_file({}, path)
    with pytest.raises(ExportError, match="0 of 0 tensors have no elements"):
        export_run(ExportJob(run=hollow, to="merged"))


def test_a_student_export_scores_like_the_student(onnx: Exported, run: Path) -> None:
    import onnxruntime

    folder, proof = onnx
    assert proof.passed
    assert proof.top_k_identical == proof.probes >= 30
    assert {"student.onnx", "student.json", "reference.safetensors"} <= names(folder)
    session = onnxruntime.InferenceSession(str(folder / "student.onnx"))
    (given,) = session.get_inputs()
    assert given.shape == ["batch", "length"]
    student = FittedStudent.load(run / "students" / "sasrec")
    for batch, length in ((1, 1), (3, 4), (7, 10)):
        items_BL = np.arange(batch * length).reshape(batch, length) % student.model.shape.n_items
        (scores,) = session.run(["scores"], {"items": items_BL})
        np.testing.assert_allclose(scores, student.item_scores(list(items_BL)), atol=1e-4)
    histories = json.loads((folder / "probes.json").read_text())["histories"]
    assert {0, 1} <= {len(history) for history in histories}
    assert max(map(len, histories)) > student.config.max_length
    assert "River" in snippet(folder)


def test_a_run_without_a_student_says_what_to_type(lora_run: Path) -> None:
    with pytest.raises(ExportError, match="brewhouse distill"):
        export_run(ExportJob(run=lora_run, to="onnx"))


def test_an_unknown_format_lists_the_right_ones(run: Path) -> None:
    with pytest.raises(ExportError, match="'gguf'; choose of merged, adapter, onnx"):
        export_run(ExportJob(run=run, to="gguf"))  # type: ignore[arg-type]


def test_the_command_line_reads_into_a_job() -> None:
    job = parse_job(["--run", "r", "--to", "onnx", "--name", "small", "--overwrite"])
    assert (job.to, job.name, job.overwrite, job.dtype) == ("onnx", "small", True, "auto")


def test_rounded_weights_are_proven_with_the_tolerance_of_their_dtype(run: Path) -> None:
    job = ExportJob(run=run, to="merged", name="half", dtype="bfloat16", probes_per_task=1)
    folder, proof = export_run(job)
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert proof.max_logit_difference is not None
    assert 1e-4 < proof.max_logit_difference < 0.5


def test_the_card_shows_the_runs_metrics(tmp_path: Path) -> None:
    row = {"corpus": "tiny", "task": "like", "n": 40, "metric": "auc", "value": 0.71, "low": 0.66}
    row |= {"high": 0.77, "untrained_value": 0.5, "baseline": "popularity", "baseline_value": None}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps({"rows": [row]}))
    text = metrics_of_run(tmp_path)
    assert "| tiny | like | 40 | auc | 0.7100 | 0.6600 to 0.7700 | 0.5000 |  popularity |" in text
    assert "brewhouse eval" in metrics_of_run(tmp_path / "other")


def test_the_students_card_says_which_student_it_is_and_why() -> None:
    phase = {
        "n": 9,
        "users": 4,
        "with_teacher": {"ndcg@10": 0.1, "hr@10": 0.2},
        "without_teacher": {"ndcg@10": 0.3, "hr@10": 0.4},
        "difference_ndcg@10": {"value": -0.2, "low": -0.25, "high": -0.15},
    }
    text = metrics_of_student(
        {"test": phase, "kept": "without_teacher", "verdict": "it hurts", "ranking": "full"}
    )
    assert "| test | 9 | 4 | 0.3000 | 0.4000 | 0.1000 | 0.3000 | -0.2000" in text
    assert "this is the one without teacher" in text
    assert "it hurts" in text
