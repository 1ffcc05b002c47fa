"""Recompute a language model's probes: `python -I causal_lm.py EXPORT RESULT.json`.

Imports transformers, torch, and peft where the export is an adapter. `EXPORT/probes.json` holds
prompts with the trainer's own scores; the result holds the largest differences and what is wrong.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

FORBIDDEN = {"brewhouse", "data_pipeline", "launch", "modeling", "train"}
ADAPTER = "adapter_config.json"


def load_model(folder: Path, problems: list[str], versions: dict[str, str]) -> Any:
    """The model as any user would load it, in fp32."""
    if not (folder / ADAPTER).is_file():
        return _load_whole(str(folder), problems)
    import peft

    versions["peft"] = peft.__version__
    config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    base = _load_whole(config["base_model_name_or_path"], problems)
    model = peft.PeftModel.from_pretrained(base, str(folder))
    _check_adapter(folder, model, peft, problems)
    return model.eval()


def _load_whole(name_or_path: str, problems: list[str]) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name_or_path,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(kind) or ())
        if names:
            problems.append(f"weights of {name_or_path}: {len(names)} {kind}, such as {names[0]}")
    return model.eval()


def _check_adapter(folder: Path, model: Any, peft: Any, problems: list[str]) -> None:
    """Find tensors that are missing or empty, of which peft says little or nothing."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    tensors = load_file(folder / name)
    empty = sorted(key for key, tensor in tensors.items() if tensor.numel() == 0)
    if empty or not tensors:
        problems.append(f"{name}: {len(empty)} of {len(tensors)} tensors have no elements")
    expected = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = sorted(expected - set(tensors))
    if missing:
        problems.append(f"{name}: {len(missing)} tensors are missing, such as {missing[0]}")
    second = [tensor for key, tensor in tensors.items() if "lora_B" in key]
    if second and not any(bool(tensor.any()) for tensor in second):
        problems.append(f"{name}: every lora_B is zero, so the adapter changes nothing")


class Differences:
    """The largest differences so far, and in which probe a limit was passed."""

    def __init__(self, limits: dict[str, float], problems: list[str]) -> None:
        self.limits = limits
        self.problems = problems
        self.logit = 0.0
        self.probability = 0.0
        self.top_k_identical = 0
        self.tokenizer_identical = 0

    def add(self, number: int, probe: dict[str, Any], logits_mV: torch.Tensor) -> None:
        """Compare one probe's logits with the trainer's."""
        where = f"probe {number} ({probe['task']})"
        if not bool(torch.isfinite(logits_mV).all()):
            self.problems.append(f"{where}: logits are not finite")
            return
        tokens = probe["choices"] + probe["top_tokens"]
        theirs = torch.tensor(probe["choice_logits"] + probe["top_logits"])
        ours = logits_mV[0, tokens]
        gap = float((ours - theirs).abs().max())
        limit = self.limits["logit"] + self.limits["relative"] * float(theirs.abs().max())
        self.logit = max(self.logit, gap)
        if not gap <= limit:
            self.problems.append(f"{where}: a logit differs by {gap:.2e}, allowed {limit:.2e}")
        self._add_probabilities(where, probe, logits_mV)
        self._add_order(where, probe, logits_mV[0], limit)

    def _add_probabilities(
        self, where: str, probe: dict[str, Any], logits_mV: torch.Tensor
    ) -> None:
        answer = torch.tensor(probe["answer"])
        logs_m = torch.log_softmax(logits_mV, -1)[torch.arange(len(answer)), answer]
        gap = float((logs_m.exp() - torch.tensor(probe["answer_probabilities"])).abs().max())
        if probe["choices"]:
            theirs = torch.tensor(probe["choice_logits"]).softmax(0)
            ours = logits_mV[0, probe["choices"]].softmax(0)
            gap = max(gap, float((ours - theirs).abs().max()))
        self.probability = max(self.probability, gap)
        if not gap <= self.limits["probability"]:
            self.problems.append(
                f"{where}: a probability differs by {gap:.2e}, "
                f"allowed {self.limits['probability']:.2e}"
            )

    def _add_order(
        self, where: str, probe: dict[str, Any], logits_V: torch.Tensor, limit: float
    ) -> None:
        best = torch.topk(logits_V, len(probe["top_tokens"]))
        if best.indices.tolist() == probe["top_tokens"]:
            self.top_k_identical += 1
            return
        # Two items closer than the tolerance may change places; nothing else may.
        if not bool((best.values - logits_V[probe["top_tokens"]] <= 2 * limit).all()):
            self.problems.append(f"{where}: the order of the best {len(best.indices)} differs")


def _check_text(
    number: int, probe: dict[str, Any], tokenizer: Any, differences: Differences
) -> None:
    ids = tokenizer(probe["text"], add_special_tokens=False)["input_ids"]
    if list(ids) == probe["tokens"]:
        differences.tokenizer_identical += 1
        return
    differences.problems.append(
        f"tokenizer: the text of probe {number} ({probe['task']}) gives other ids than the prompt "
        f"that the model was scored on ({len(ids)} ids, {len(probe['tokens'])} expected)"
    )


def verify(folder: Path) -> dict[str, Any]:
    """Load the export and compare every probe."""
    problems: list[str] = []
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    content = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    model = load_model(folder, problems, versions)
    differences = Differences(content["limits"], problems)
    with torch.inference_mode():
        for number, probe in enumerate(content["probes"]):
            _check_text(number, probe, tokenizer, differences)
            ids = torch.tensor(probe["tokens"])[None]
            logits_mV = model(input_ids=ids, use_cache=False).logits[0, -len(probe["answer"]) :]
            differences.add(number, probe, logits_mV.float())
    foreign = sorted(FORBIDDEN & set(sys.modules))
    if foreign:
        problems.append(f"the check is not independent: it has loaded {', '.join(foreign)}")
    return {
        "problems": problems,
        "probes": len(content["probes"]),
        "max_logit_difference": differences.logit,
        "max_probability_difference": differences.probability,
        "top_k_identical": differences.top_k_identical,
        "tokenizer_identical": differences.tokenizer_identical,
        "versions": versions,
    }


if __name__ == "__main__":
    result = verify(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
    sys.exit(1 if result["problems"] else 0)
