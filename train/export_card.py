"""The README.md of an export: what it is, from which data, how good, and how to load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from data_pipeline.store import StoreCard

CARD: Final = "README.md"
RESULTS: Final = "results.json"

_LOADING: Final[Mapping[str, str]] = {
    "merged": """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder)
task = json.load(open(f"{folder}/tasks.json"))["tasks"]["TASK"]
ids = AutoTokenizer.from_pretrained(folder)(task["example"]["prompt"], return_tensors="pt",
                                            add_special_tokens=False).input_ids
logits = model(ids).logits[0, -1, task["label_token_ids"]]
print(dict(zip(task["labels"], logits.float().softmax(0).tolist())))
""",
    "adapter": """
import json
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder = "."  # this folder; the base model is loaded from where base.json says
model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
task = json.load(open(f"{folder}/tasks.json"))["tasks"]["TASK"]
ids = AutoTokenizer.from_pretrained(folder)(task["example"]["prompt"], return_tensors="pt",
                                            add_special_tokens=False).input_ids
logits = model(input_ids=ids).logits[0, -1, task["label_token_ids"]]
print(dict(zip(task["labels"], logits.float().softmax(0).tolist())))
""",
    "onnx": """
import json, numpy, onnxruntime
folder = "."  # this folder
items = json.load(open(f"{folder}/catalog.json"))["items"]
session = onnxruntime.InferenceSession(f"{folder}/student.onnx")
scores = session.run(["scores"], {"items": numpy.array([[0, 1, 2]])})[0][0]  # rows, oldest first
print([items[row]["title"] for row in numpy.argsort(-scores)[:10]])
""",
}

_WHAT: Final[Mapping[str, str]] = {
    "merged": "A whole causal language model in Hugging Face format.",
    "adapter": "A LoRA adapter in peft format. It needs its base model, which `base.json` names by "
    "place and by hash.",
    "onnx": "A SASRec sequence student distilled from the backbone, in ONNX format.",
}


def export_card(
    kind: str, name: str, store: StoreCard, facts: Mapping[str, Any], metrics: str, task: str | None
) -> str:
    """The text of README.md.

    Args:
        kind: `merged`, `adapter` or `onnx`.
        name: of the export, for the title.
        store: where data, source and licence are from.
        facts: lines of the table "Model", by name.
        metrics: Markdown of the section "Quality".
        task: a label or choice task for the example, if there is one.
    """
    model_rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    loading = _LOADING[kind].strip().replace('"TASK"', json.dumps(task or "like"))
    return f"""# {name}

{_WHAT[kind]} Made by Brewhouse.

## Model

| | |
|---|---|
{model_rows}

## Data

| | |
|---|---|
| corpus | {store.corpus_name} |
| source | {_cell(store.source)} |
| licence of the data | {_cell(store.licence)} |
| split | {store.split.get("method", "unknown")} |
| corpus fingerprint | `{store.corpus_fingerprint}` |

The licence of the data binds what is made of it: read it before you publish or sell this model.

## Quality

{metrics}

## Load it

```python
{loading}
```

`tasks.json` says how each task is phrased and which token ids answer it, `catalog.json` lists the
items. Answers are to be read off the logits, not sampled: `generation_config.json` has no sampling
settings on purpose.

## Check it

`proof.json` holds the hash of every file and what a fresh process with stock libraries computed on
`probes.json`. `brewhouse export check FOLDER` does it again; it fails on one changed byte.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def metrics_of_run(run: Path) -> str:
    """A table of RUN/evaluation/results.json, or a sentence that there is none."""
    path = run / "evaluation" / RESULTS
    if not path.is_file():
        return f"Not evaluated yet: `brewhouse eval RUN` writes `evaluation/{RESULTS}`."
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| corpus | task | n | metric | value | 95% interval | untrained | best baseline |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results.get("rows", []):
        best = _number(row.get("baseline_value"))
        lines.append(
            f"| {row['corpus']} | {row['task']} | {row['n']} | {row['metric']} "
            f"| {_number(row['value'])} | {_number(row['low'])} to {_number(row['high'])} "
            f"| {_number(row.get('untrained_value'))} | {best} {row.get('baseline') or ''} |"
        )
    phase = results.get("phase", "test")
    return f"On the {phase} part of the split, intervals over users:\n\n" + "\n".join(lines)


def metrics_of_student(metrics: Mapping[str, Any]) -> str:
    """The same for a student's metrics.json."""
    lines = [
        "| phase | n | users | NDCG@10 | HR@10 | NDCG@10 taught | untaught | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for phase in ("validation", "test"):
        if phase not in metrics:
            continue
        part = metrics[phase]
        ours, alone = part["with_teacher"], part["without_teacher"]
        kept = part[metrics["kept"]]
        gap = part["difference_ndcg@10"]
        lines.append(
            f"| {phase} | {part['n']} | {part['users']} | {_number(kept['ndcg@10'])} "
            f"| {_number(kept['hr@10'])} "
            f"| {_number(ours['ndcg@10'])} | {_number(alone['ndcg@10'])} "
            f"| {gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f}) |"
        )
    told = (
        f"Two students were fitted from one seed, without and with the teacher; this is the one "
        f"{metrics['kept'].replace('_', ' ')}, which ranks validation better. Whether teaching "
        f"pays: {metrics['verdict']}."
    )
    return f"Ranking: {metrics['ranking']}.\n\n" + "\n".join(lines) + f"\n\n{told}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
