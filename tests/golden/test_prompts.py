"""Prompts as the model sees them: a change of wording shows as a diff of a file.

To accept a change: UPDATE_GOLDEN=1 pytest tests/golden
"""

import os
from pathlib import Path

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.preview import render_tree
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from data_pipeline.tree import Tree

GOLDEN = Path(__file__).parent / "prompts.txt"
CATALOGUE = Path(__file__).parent / "catalogue.txt"


def one_branch_of_each_task(store: TokenStore) -> str:
    mixture = Mixture([store], MixtureConfig(targets_per_tree=8, history_events=4), seed=0)
    texts: dict[str, str] = {}
    for index in range(600):
        tree = mixture[index]
        for branch in tree.branches:
            name = mixture.tasks[branch.task].name
            if name not in texts:
                single = Tree(corpus=0, moment=tree.moment, trunk=tree.trunk, branches=(branch,))
                spans = render_tree(single, store, mixture.tasks)
                texts[name] = "".join(span.text for span in spans)
    return "\n".join(f"===== {name}\n{texts[name]}" for name in sorted(texts))


def test_prompts_are_what_they_were(tiny_store: TokenStore) -> None:
    text = one_branch_of_each_task(tiny_store)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def one_test_question_of_each_task(store: TokenStore) -> str:
    config = MixtureConfig(history_events=3)
    texts = []
    for name, task in sorted(all_tasks().items()):
        asked = EvaluationSet(store, [task], phase=Phase.TEST, config=config, seed=0, max_targets=1)
        for tree in asked:
            spans = render_tree(tree, store, [task])
            texts.append(f"===== {name}\n" + "".join(span.text for span in spans))
    return "\n".join(texts)


def test_questions_of_a_corpus_with_everything_are_what_they_were(rich_store: TokenStore) -> None:
    text = one_test_question_of_each_task(rich_store)
    if os.environ.get("UPDATE_GOLDEN"):
        CATALOGUE.write_text(text, encoding="utf-8")
    assert text == CATALOGUE.read_text(encoding="utf-8")
