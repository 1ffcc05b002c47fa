"""Recompute a student's probes: `python -I onnx_student.py EXPORT RESULT.json`.

Imports onnxruntime, numpy and safetensors. `EXPORT/probes.json` holds histories,
`EXPORT/reference.safetensors` the trainer's own scores of every item. Each history is scored
alone, at its own length, and all of them again in one padded batch: both axes must be free.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

FORBIDDEN = {"brewhouse", "data_pipeline", "launch", "modeling", "train", "torch"}


def padded(histories: list[list[int]], length: int, padding: int) -> Any:
    """Right-aligned rows of the newest `length` items."""
    items_BL = np.full((len(histories), length), padding, dtype=np.int64)
    for row, history in enumerate(histories):
        newest = history[-length:]
        if newest:
            items_BL[row, -len(newest) :] = newest
    return items_BL


def compare(
    name: str, scores_BN: Any, reference_BN: Any, content: dict[str, Any], problems: list[str]
) -> tuple[float, int]:
    """Largest difference, and how many rows have the same best items in the same order."""
    if scores_BN.shape != reference_BN.shape:
        problems.append(f"{name}: shape {scores_BN.shape}, expected {reference_BN.shape}")
        return float("inf"), 0
    if not np.isfinite(scores_BN).all():
        problems.append(f"{name}: scores are not finite")
        return float("inf"), 0
    limits, k = content["limits"], content["top_k"]
    gap = float(np.abs(scores_BN - reference_BN).max())
    limit = limits["logit"] + limits["relative"] * float(np.abs(reference_BN).max())
    if not gap <= limit:
        problems.append(f"{name}: a score differs by {gap:.2e}, allowed {limit:.2e}")
    identical = 0
    for row, (ours, theirs) in enumerate(zip(scores_BN, reference_BN, strict=True)):
        best = np.argsort(-ours, kind="stable")[:k]
        expected = np.argsort(-theirs, kind="stable")[:k]
        if np.array_equal(best, expected):
            identical += 1
        elif not (ours[best] - ours[expected] <= 2 * limit).all():
            problems.append(f"{name}: the best {k} items of history {row} differ")
    return gap, identical


def verify(folder: Path) -> dict[str, Any]:
    """Load the export and compare every probe."""
    problems: list[str] = []
    content = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
    reference_BN = load_file(folder / "reference.safetensors")["scores"]
    session = onnxruntime.InferenceSession(
        str(folder / "student.onnx"), providers=["CPUExecutionProvider"]
    )
    histories = content["histories"]
    most, padding = content["max_length"], content["padding_item"]
    alone = [
        session.run(
            ["scores"], {"items": padded([history], min(max(len(history), 1), most), padding)}
        )[0]
        for history in histories
    ]
    together = session.run(["scores"], {"items": padded(histories, most, padding)})[0]
    one, identical = compare("one by one", np.concatenate(alone), reference_BN, content, problems)
    batch, identical_batch = compare("in one batch", together, reference_BN, content, problems)
    foreign = sorted(FORBIDDEN & set(sys.modules))
    if foreign:
        problems.append(f"the check is not independent: it has loaded {', '.join(foreign)}")
    return {
        "problems": problems,
        "probes": len(histories),
        "max_logit_difference": max(one, batch),
        "top_k_identical": min(identical, identical_batch),
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


if __name__ == "__main__":
    result = verify(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
    sys.exit(1 if result["problems"] else 0)
