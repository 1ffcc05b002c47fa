"""llama.cpp scoring branches behind a trunk that it keeps in its cache, as asked line by line.

Run by `brewhouse bench score --llamacpp-python PYTHON` with the Python of an environment in which
llama-cpp-python is installed. Reads a settings file, says its version, then scores the branches
that a line asks for and answers with seconds and scores. The trunk is evaluated when a line asks
for a cold start and stays in the key-value cache; every branch goes back to the trunk's end and is
evaluated there. Imports nothing of Brewhouse.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray


class Scorer:
    """A model whose cache holds a trunk."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.trunk: list[int] = settings["trunk"]
        self.branches: list[list[int]] = settings["branches"]
        self.choices: list[list[int]] = settings["choices"]
        longest = max(map(len, self.branches))
        self.llama = llama_cpp.Llama(
            settings["model"],
            n_ctx=len(self.trunk) + longest + 8,
            n_batch=512,
            n_threads=settings["threads"],
            n_threads_batch=settings["threads"],
            verbose=False,
        )

    def encode_trunk(self) -> None:
        """Evaluate the trunk from nothing."""
        self.llama.reset()
        self.llama.eval(self.trunk)

    def probability(self, branch: int) -> float:
        """Of a branch's first choice, among its choices."""
        self.llama.n_tokens = len(self.trunk)  # `eval` drops what the cache holds behind
        self.llama.eval(self.branches[branch])
        pointer = self.llama._ctx.get_logits()
        logits_V: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (self.llama.n_vocab(),))
        chosen_C = logits_V[self.choices[branch]].astype(np.float64)
        weights_C = np.exp(chosen_C - chosen_C.max())
        return float(weights_C[0] / weights_C.sum())


def main(settings: dict[str, Any], answers: Any) -> None:
    """Answer questions until there are none."""
    scorer = Scorer(settings)
    answers.write(json.dumps({"llama_cpp": llama_cpp.__version__}) + "\n")
    scorer.encode_trunk()
    for line in sys.stdin:
        question = json.loads(line)
        began = time.perf_counter()
        if question["cold"]:
            scorer.encode_trunk()
        scores = [scorer.probability(branch) for branch in range(question["branches"])]
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"seconds": seconds, "scores": scores}) + "\n")


if __name__ == "__main__":
    # Answers go to the real standard output; whatever libraries print goes to standard error.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with open(sys.argv[1], encoding="utf-8") as file:
        main(json.load(file), channel)
