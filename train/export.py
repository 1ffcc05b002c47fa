"""Write a run as a folder that others load, and prove it: `python -m train.export --run RUN`.

    RUN/exports/merged/     a Hugging Face model; a LoRA adapter is merged into its base
    RUN/exports/adapter/    a peft adapter, and the hashes of the base that it needs
    RUN/exports/onnx/       the student of RUN/students/sasrec

Each holds catalog.json, tasks.json, README.md, probes.json and proof.json beside its weights, and
appears only after a fresh process with stock libraries got the trainer's own scores out of it.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import nn

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.files import atomic_folder, refuse_existing
from data_pipeline.mixture import MixtureConfig, chosen_tasks
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore, open_stores
from data_pipeline.tasks import Task, all_tasks
from data_pipeline.tree import Tree
from modeling.backbone import count_parameters
from modeling.hf_folder import save_hf_folder
from train.catalog import write_catalog
from train.checkpoint import resolve_model_folder
from train.config import TrainConfig
from train.evaluation.models import weights_hash
from train.evaluation.run import find_config
from train.export_card import CARD, export_card, metrics_of_run, metrics_of_student
from train.model_setup import ADAPTER, load_trained
from train.onnx_student import write_onnx
from train.plugins import load_plugins
from train.probes import probe_histories, write_causal_probes, write_student_probes
from train.proof import BASE, ExportError, Kind, ProofResult, list_files, prove
from train.sequences import SequenceData
from train.students import CARD_FILE, FittedStudent
from train.task_sheet import TASKS, student_sheet, task_sheet

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16"]
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportJob:
    """One export as a person asks for it."""

    run: Path
    """A run or a checkpoint."""
    to: Kind
    """Format: merged, adapter or onnx."""
    store: str | None = None
    """Token store of the catalog and the probes; None: the first of the run's config."""
    name: str | None = None
    """Folder name under RUN/exports; None: the format's name."""
    dtype: Dtype = "auto"
    """Of merged weights; `auto` keeps that of the checkpoint or of the adapter's base."""
    probes_per_task: int = 3
    """Questions of each task that the proof compares."""
    seed: int = 0
    """Seed of the choice of probes."""
    overwrite: bool = False
    """Replace an export that is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What is exported, opened."""

    run: Path
    config: TrainConfig | None
    store: TokenStore
    tasks: tuple[Task, ...]
    trees: tuple[Tree, ...]


def export_run(job: ExportJob) -> tuple[Path, ProofResult]:
    """Export and prove; the folder appears whole and proven, or not at all.

    Returns:
        The export's folder and what the proof found.

    Raises:
        ExportError: the run has nothing of this format, or the export does not reproduce it.
        DataError: the folder exists and `overwrite` is false.
    """
    if job.to not in KINDS:
        raise ExportError(f"there is no export format {job.to!r}; choose of {', '.join(KINDS)}")
    run = job.run.parent if job.run.name.startswith("checkpoint-") else job.run
    target = run / "exports" / (job.name or job.to)
    refuse_existing(target, job.overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = _open(job, run)
    write = {"merged": _write_merged, "adapter": _write_adapter, "onnx": _write_student}[job.to]
    with atomic_folder(target, overwrite=job.overwrite) as folder:
        facts = write(job, source, folder)
        write_catalog(source.store, folder)
        _open_to_readers(folder)
        proof = prove(folder, job.to, facts)
    log.info(
        "%s: proven on %d probes, largest logit difference %.1e",
        target,
        proof.probes,
        proof.max_logit_difference or 0.0,
    )
    return target, proof


def _open_to_readers(folder: Path) -> None:
    """Weights are written for the owner alone; whoever may read the card may serve them."""
    mode = (folder / CARD).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _open(job: ExportJob, run: Path) -> _Source:
    config = find_config(job.run)
    load_plugins(config.plugins if config else ())
    folders = [job.store] if job.store else list(config.stores) if config else []
    if not folders:
        raise ExportError(f"{job.run} has no config.yaml that names its stores: give --store STORE")
    stores = open_stores(folders)
    mixture = config.mixture if config else MixtureConfig()
    tasks = tuple(all_tasks()[name] for name in chosen_tasks(stores, mixture))
    trees: tuple[Tree, ...] = ()
    if job.to != "onnx":
        trees = _questions(stores[0], tasks, mixture, job)
    return _Source(run=run, config=config, store=stores[0], tasks=tasks, trees=trees)


def _questions(
    store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig, job: ExportJob
) -> tuple[Tree, ...]:
    """Real questions of the latest part of the split that has any."""
    for phase in (Phase.TEST, Phase.VALIDATION, Phase.TRAIN):
        questions = EvaluationSet(
            store,
            tasks,
            phase=phase,
            config=mixture,
            seed=job.seed,
            max_targets=job.probes_per_task,
        )
        if len(questions):
            return tuple(questions[index] for index in range(len(questions)))
    return ()


def _write_merged(job: ExportJob, source: _Source, folder: Path) -> dict[str, Any]:
    checkpoint = resolve_model_folder(job.run)
    is_adapter = (checkpoint / ADAPTER).is_file()
    if is_adapter:
        _refuse_idle_adapter(checkpoint)
    model = load_trained(checkpoint, dtype=torch.float32).eval()
    dtype = _dtype_of(job, checkpoint)
    # The reference is what training computes: trees, and an adapter beside its base.
    rounded = dtype if is_adapter or job.dtype != "auto" else "float32"
    _write_language_files(source, checkpoint, folder, model, rounded)
    merged: Any = model
    if is_adapter:
        merged = model.merge_and_unload()  # type: ignore[operator]
    state = {name: value.to(_DTYPES[dtype]) for name, value in merged.state_dict().items()}
    save_hf_folder(state, merged.config, folder)
    facts = _facts(source, checkpoint, dtype)
    parameters = {"parameters": f"{count_parameters(merged).total:,}"}
    _write_card(job, source, folder, facts | parameters)
    return facts


def _dtype_of(job: ExportJob, checkpoint: Path) -> str:
    """What merged weights are written in."""
    if job.dtype != "auto":
        return job.dtype
    folder = checkpoint
    if (checkpoint / ADAPTER).is_file():
        folder = Path(_base_of(checkpoint))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:  # a base of the hub: fp32 loses nothing
        return "float32"
    named = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return named if named in _DTYPES else "float32"


def _write_adapter(job: ExportJob, source: _Source, folder: Path) -> dict[str, Any]:
    checkpoint = resolve_model_folder(job.run)
    if not (checkpoint / ADAPTER).is_file():
        raise ExportError(
            f"{job.run} was trained with finetuning_type=full and has no adapter: export it with "
            f"--to merged, or train with finetuning_type=lora"
        )
    _refuse_idle_adapter(checkpoint)
    model = load_trained(checkpoint, dtype=torch.float32).eval()
    _write_language_files(source, checkpoint, folder, model, "float32")
    shutil.copyfile(checkpoint / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    base = _base_of(checkpoint)
    adapter = json.loads((checkpoint / ADAPTER).read_text(encoding="utf-8"))
    _write_json(folder / ADAPTER, adapter | {"base_model_name_or_path": base})
    reference = {
        "name_or_path": base,
        "configured_as": source.config.model_name_or_path if source.config else None,
        "files": _weight_files(Path(base)),
    }
    (folder / BASE).write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    facts = _facts(source, checkpoint, "float32")
    _write_card(job, source, folder, facts | {"base model": f"`{base}`"})
    return facts


def _base_of(checkpoint: Path) -> str:
    config = json.loads((checkpoint / ADAPTER).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ExportError(
            f"{checkpoint / ADAPTER} does not name its base model: set base_model_name_or_path in "
            f"it to the folder or hub id that the adapter was trained on"
        )
    # An export is loaded from anywhere, so a path must not depend on where we stand.
    return str(Path(base).resolve()) if Path(base).is_dir() else str(base)


def _weight_files(folder: Path) -> list[dict[str, Any]]:
    """Config and weights of a local base; a hub id has none here."""
    if not folder.is_dir():
        return []
    return [
        entry
        for entry in list_files(folder)
        if entry["name"] == "config.json" or entry["name"].endswith(".safetensors")
    ]


def _refuse_idle_adapter(checkpoint: Path) -> None:
    """An adapter that holds nothing or changes nothing is a failed run, not a model.

    Raises:
        ExportError: tensors without elements, or every lora_B zero.
    """
    path = checkpoint / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ExportError(f"{path} is missing: the checkpoint is not whole")
    tensors = load_file(path)
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty or not tensors:
        raise ExportError(
            f"{path}: {len(empty)} of {len(tensors)} tensors have no elements, as when ZeRO-3 "
            f"saves without gathering; save the checkpoint again with `brewhouse train`"
        )
    second = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    if second and not any(bool(tensor.any()) for tensor in second):
        raise ExportError(
            f"{path}: every lora_B is zero, so the adapter changes nothing: the run did not train "
            f"it; export a later checkpoint, or check lora_target and learning_rate"
        )


def _write_language_files(
    source: _Source,
    checkpoint: Path,
    folder: Path,
    model: nn.Module,
    rounded_to: str,
) -> None:
    """Tokenizer, task sheet and probes of a language model."""
    tokenizer = checkpoint if (checkpoint / "tokenizer.json").is_file() else None
    for name in TOKENIZER_FILES:
        path = (tokenizer or source.store.tokenizer_folder) / name
        if path.is_file():
            shutil.copyfile(path, folder / name)
    sheet = task_sheet(source.store, source.tasks, source.trees)
    _write_json(folder / TASKS, sheet)
    write_causal_probes(folder, model, source.store, source.tasks, source.trees, dtype=rounded_to)


def _write_student(job: ExportJob, source: _Source, folder: Path) -> dict[str, Any]:
    home = source.run / "students" / "sasrec"
    if not (home / CARD_FILE).is_file():
        raise ExportError(
            f"{source.run} has no student to export: make one first with "
            f"`brewhouse distill {source.run} --student sasrec`"
        )
    student = FittedStudent.load(home)
    card = json.loads((home / CARD_FILE).read_text(encoding="utf-8"))
    if card.get("store_fingerprint") != source.store.fingerprint:
        raise ExportError(
            f"the student in {home} was fitted on token store {card.get('store_fingerprint')}, "
            f"not on {source.store.fingerprint} ({source.store.folder}): name its own with --store"
        )
    write_onnx(student.model, folder / "student.onnx")
    shutil.copyfile(home / CARD_FILE, folder / CARD_FILE)
    sheet = student_sheet(
        padding_item=student.model.padding_item, max_length=student.config.max_length
    )
    _write_json(folder / TASKS, sheet)
    data = SequenceData.from_store(source.store)
    histories = probe_histories(data, 32, student.config.max_length, job.seed)
    write_student_probes(folder, student, histories)
    facts = _facts(source, home, "float32")
    parameters = f"{sum(weight.numel() for weight in student.model.parameters()):,}"
    _write_card(job, source, folder, facts | {"parameters": parameters})
    return facts


def _facts(source: _Source, weights: Path, dtype: str) -> dict[str, Any]:
    """What the proof says besides its numbers."""
    return {
        "run": source.run.name,
        "source_weights": weights_hash(weights),
        "dtype": dtype,
        "corpus": source.store.card.corpus_name,
        "store_fingerprint": source.store.fingerprint,
        "tokenizer_fingerprint": source.store.card.tokenizer_fingerprint,
    }


def _write_card(job: ExportJob, source: _Source, folder: Path, facts: dict[str, Any]) -> None:
    if job.to == "onnx":
        path = source.run / "students" / "sasrec" / "metrics.json"
        metrics = metrics_of_student(json.loads(path.read_text(encoding="utf-8")))
    else:
        metrics = metrics_of_run(source.run)
    sheet = json.loads((folder / TASKS).read_text(encoding="utf-8"))["tasks"]
    labelled = [
        name for name, task in sheet.items() if task.get("example") and task["label_token_ids"]
    ]
    name = f"{source.run.name}: {job.name or job.to}"
    text = export_card(
        job.to, name, source.store.card, facts, metrics, labelled[0] if labelled else None
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_job(arguments: Sequence[str] | None = None) -> ExportJob:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="run or checkpoint")
    parser.add_argument("--to", choices=KINDS, required=True, help="format")
    parser.add_argument("--store", help="token store; default: the first of the run's")
    parser.add_argument("--name", help="folder name under RUN/exports; default: the format's")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="auto")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    given = parser.parse_args(arguments)
    return ExportJob(
        run=given.run,
        to=given.to,
        store=given.store,
        name=given.name,
        dtype=given.dtype,
        overwrite=given.overwrite,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    export_run(parse_job(arguments))


if __name__ == "__main__":
    main()
