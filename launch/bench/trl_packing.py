"""TRL's `SFTTrainer` with packing, one optimiser step at a time, on prompts that it is given.

Run by `brewhouse bench train --trl-python PYTHON` with the Python of an environment in which TRL is
installed. Reads a settings file, says its versions, then makes one step for every line that it
reads and answers with what the step took. Imports nothing of Brewhouse.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import datasets
import torch
import transformers
import trl


class TimedTrainer(trl.SFTTrainer):  # type: ignore[misc]
    """Waits for a line before each micro-batch and measures it."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one micro-batch, as TRL does it."""
        if not sys.stdin.readline():
            os._exit(0)  # nobody asks any more
        inputs = args[1]
        began = time.perf_counter()
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.measured = {
            "forward_backward_seconds": time.perf_counter() - began,
            "tokens": inputs["input_ids"].numel(),
            "targets": int((inputs["position_ids"] == 0).sum()),
            "labels": int((inputs["labels"] != -100).sum()),
            "rows": inputs["input_ids"].shape[0],
        }
        return loss


class Reporter(transformers.TrainerCallback):
    """Measures the optimiser's part and answers."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.trainer: TimedTrainer | None = None

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Gradients are there and clipped."""
        self.began = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Weights have moved."""
        self.optimizer_seconds = time.perf_counter() - self.began

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Tell what the step took."""
        assert self.trainer is not None
        answer = {**self.trainer.measured, "optimizer_seconds": self.optimizer_seconds}
        self.answers.write(json.dumps(answer) + "\n")


def main(settings: dict[str, Any], answers: Any) -> None:
    """Train on the prompts until nobody asks for another step."""
    torch.set_num_threads(settings["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    config = trl.SFTConfig(
        output_dir=settings["output"],
        max_steps=settings["max_steps"],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        packing=True,
        packing_strategy="bfd",
        max_length=settings["max_length"],
        completion_only_loss=True,
        learning_rate=settings["learning_rate"],
        # Off, or TRL would compute every activation twice: we do not either.
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    reporter = Reporter(answers)
    trainer = TimedTrainer(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list(settings["prompts"]),
        processing_class=transformers.AutoTokenizer.from_pretrained(settings["tokenizer"]),
        callbacks=[reporter],
    )
    reporter.trainer = trainer
    versions = {module.__name__: module.__version__ for module in (trl, transformers, torch)}
    answers.write(json.dumps({**versions, "rows": len(trainer.train_dataset)}) + "\n")
    trainer.train()


if __name__ == "__main__":
    # Answers go to the real standard output; whatever libraries print goes to standard error.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with open(sys.argv[1], encoding="utf-8") as file:
        main(json.load(file), channel)
