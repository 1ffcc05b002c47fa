"""Answers that are texts: how a model writes them, and how they stand beside the right ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Ids, Question
from modeling.decoding import decode_greedily
from train.evaluation.config import MAX_NEW_TOKENS
from train.evaluation.questions import Asked, answered
from train.evaluation.scores import TargetScores, Texts

_EVERYTHING = 1 << 40
"""More tokens than any trunk has: no event is dropped."""


def write_texts(
    model: torch.nn.Module, store: TokenStore, prompts: Sequence[Ids], max_tokens: int
) -> list[str]:
    """What a model writes behind each prompt, greedily, to the end of the line.

    Raises:
        ValueError: logits are not finite.
    """
    if not prompts:
        return []
    encoder = store.encoder
    texts = decode_greedily(
        model,
        prompts,
        stop_tokens=encoder.line_ends | encoder.control_ids,
        max_new_tokens=MAX_NEW_TOKENS,
        max_tokens=max_tokens,
    )
    return [_line(store, ids.tolist()) for ids in texts]


def right_text(store: TokenStore, question: Question) -> str:
    """The right answer of a text task."""
    return _line(store, store.gather(question.text)[0].tolist())


def answered_by_text(
    store: TokenStore, task: Task, asked: Sequence[Asked], said: Sequence[str]
) -> TargetScores:
    """Put what was said beside what is right."""
    texts = Texts(
        said_N=np.array(said, object),
        right_N=np.array([right_text(store, one.question) for one in asked], object),
        ground_N=np.array([_ground(store, one) for one in asked], object),
    )
    return answered(task, asked, texts=texts)


def _ground(store: TokenStore, one: Asked) -> str:
    """What the model could take words from: the trunk, and the record of what is asked about."""
    style = store.card.styles[0]
    trunk, _ = store.trunk(one.moment, style, _EVERYTHING)
    lines = [store.piece_of(f"line/{style}", item) for item in one.question.candidates]
    return store.encoder.decode(np.concatenate([trunk, store.gather(lines)[0]]))


def _line(store: TokenStore, ids: Sequence[int]) -> str:
    """The first line of a text; a control token, which ends a text, is no part of it."""
    control = store.encoder.control_ids
    plain = [token for token in ids if token not in control]
    return store.encoder.decode(plain).partition("\n")[0].strip()
