"""Probes of an export: real questions with the trainer's own scores.

Shapes: B branches of a tree, M label positions, V vocabulary, P probes, N items.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import nn

from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task
from data_pipeline.tree import Branch, Tree
from modeling.label_scores import label_logits
from train.batch_layout import layout_of
from train.proof import PROBES
from train.sequences import SequenceData
from train.students import FittedStudent

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
REFERENCE: Final = "reference.safetensors"
TOP_K: Final = 10

LIMITS: Final[dict[str, dict[str, float]]] = {
    "float32": {"logit": 1e-4, "relative": 2e-5, "probability": 1e-4},
    # Merging an adapter into bf16 weights rounds each of them to 8 bits.
    "bfloat16": {"logit": 0.1, "relative": 0.02, "probability": 0.05},
}
"""What may differ, by dtype of the exported weights: a logit by `logit` plus `relative` times the
largest logit compared, a probability by `probability`."""


def write_causal_probes(
    folder: Path,
    model: nn.Module,
    store: TokenStore,
    tasks: Sequence[Task],
    trees: Sequence[Tree],
    *,
    dtype: str,
) -> int:
    """Write one probe per branch of the trees; gives how many.

    The scores come from the packed tree path that training uses. The probe itself is one flat
    prompt, trunk and branch in a row, as a user of the export sends it. Text is the tokens decoded;
    where data spells a control token, text cannot tell the two apart, and the probe is left out.

    Raises:
        ValueError: no probe is left, or text does not give a prompt's ids back.
    """
    probes: list[dict[str, Any]] = []
    for tree in trees:
        for branch, logits_mV in _branch_logits(model, tree, len(tasks)):
            probe = _probe(store, tasks[branch.task].name, tree, branch, logits_mV)
            if probe is None:
                log.info("a prompt of %s holds a control token's text", tasks[branch.task].name)
                continue
            probes.append(probe)
    if not probes:
        raise ValueError(
            f"token store {store.folder} gave no question to prove the export with: it has no "
            f"events to ask about, or no task of the run applies to it"
        )
    content = {"schema_version": SCHEMA_VERSION, "limits": LIMITS[dtype], "probes": probes}
    (folder / PROBES).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(probes)


@torch.no_grad()
def _branch_logits(model: nn.Module, tree: Tree, n_tasks: int) -> list[tuple[Branch, torch.Tensor]]:
    """Each branch with its logits at its m label positions, fp32 `[m, V]`."""
    batch = pack([tree], n_tasks)
    counts = [len(branch.answer) for branch in tree.branches]
    positions_M = np.concatenate(
        [
            np.arange(first, first + count)
            for first, count in zip(batch.branch_label_positions_B, counts, strict=True)
        ]
    )
    device = next(model.parameters()).device
    logits_MV = label_logits(
        model,
        torch.from_numpy(batch.tokens_T).to(device),
        torch.from_numpy(batch.positions_T).to(device),
        layout_of(batch),
        torch.from_numpy(positions_M).to(device),
    )
    split = torch.split(logits_MV.float().cpu(), counts)
    return list(zip(tree.branches, split, strict=True))


def _probe(
    store: TokenStore, task: str, tree: Tree, branch: Branch, logits_mV: torch.Tensor
) -> dict[str, Any] | None:
    tokens = [int(token) for token in (*tree.before(branch), *branch.tokens)]
    text = store.encoder.decode(tokens)
    if not _reads_back(store, text, tokens):
        return None
    answer = torch.from_numpy(branch.answer.astype(np.int64))
    probabilities_m = logits_mV.softmax(-1)[torch.arange(len(answer)), answer]
    top = logits_mV[0].topk(min(TOP_K, logits_mV.shape[1]))
    choices = [int(token) for token in branch.choices]
    return {
        "task": task,
        "text": text,
        "tokens": tokens,
        "answer": answer.tolist(),
        "answer_probabilities": probabilities_m.tolist(),
        "choices": choices,
        "choice_logits": logits_mV[0, choices].tolist(),
        "top_tokens": top.indices.tolist(),
        "top_logits": top.values.tolist(),
    }


def _reads_back(store: TokenStore, text: str, tokens: list[int]) -> bool:
    """Whether the text gives the prompt's ids; False where data spells a control token.

    Raises:
        ValueError: it gives others, though no control token is spelled: whoever sends the export
            text would be answered for another prompt than the one that was trained.
    """
    again = list(store.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
    if again == tokens:
        return True
    control = store.encoder.control_ids
    if sum(token in control for token in again) > sum(token in control for token in tokens):
        return False
    raise ValueError(
        f"the tokenizer of {store.folder} turns the text of a prompt into {len(again)} ids, the "
        f"prompt has {len(tokens)}: its pieces do not join as the tokenizer splits text. The text "
        f"begins {text[:80]!r}. Use a tokenizer whose pre-tokenizer splits at newlines and spaces"
    )


def write_student_probes(
    folder: Path, student: FittedStudent, histories: Sequence[npt.NDArray[np.int32]]
) -> int:
    """Write histories, and the student's scores of every item; gives how many."""
    scores_PN = student.item_scores(histories)
    save_file({"scores": scores_PN}, folder / REFERENCE)
    content = {
        "schema_version": SCHEMA_VERSION,
        "limits": LIMITS["float32"],
        "top_k": min(TOP_K, scores_PN.shape[1]),
        "max_length": student.config.max_length,
        "padding_item": student.model.padding_item,
        "histories": [[int(item) for item in history] for history in histories],
    }
    (folder / PROBES).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return len(histories)


def probe_histories(
    data: SequenceData, n: int, max_length: int, seed: int
) -> list[npt.NDArray[np.int32]]:
    """Real histories of test, validation or training time, and the edges: none, one, too long."""
    histories: list[npt.NDArray[np.int32]] = []
    for targets in (data.test, data.validation):
        if len(targets):
            chosen = targets.sample(n, seed)
            histories = data.histories(chosen, slice(None))
            break
    if not histories:
        bounds = zip(data.train_offsets_U1[:-1][:n], data.train_offsets_U1[1:][:n], strict=True)
        histories = [data.train_item_E[start:stop] for start, stop in bounds]
    long = np.resize(data.train_item_E, max_length + 7)
    edges = [np.empty(0, dtype=np.int32), data.train_item_E[:1], long]
    return [*histories[:n], *edges]
