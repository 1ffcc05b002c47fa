"""Which settings a student is fitted with: short fits are compared on validation, the best goes on.

One round of successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016, section 3): a few epochs tell bad settings from good
ones, and a full fit of each would cost as many times more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from train.sequences import SequenceData
from train.students import FittedStudent, StudentConfig, fit_student

log = logging.getLogger(__name__)

TRIAL_EPOCHS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Settings, and the best validation NDCG@10 of their short fit."""

    config: StudentConfig
    ndcg10: float | None


def tune_student(
    data: SequenceData, configs: Sequence[StudentConfig]
) -> tuple[FittedStudent, list[Trial]]:
    """Fit a student with the best of several settings.

    Args:
        data: sequences and targets of one store.
        configs: settings to try; a single one, or data without validation targets, is not tried.

    Returns:
        The student, fitted in full, and the trials in their order.
    """
    assert configs, "there are settings to try"
    if len(configs) == 1 or not len(data.validation):
        return fit_student(data, configs[0]), []
    trials = []
    for config in configs:
        short = fit_student(data, replace(config, epochs=min(TRIAL_EPOCHS, config.epochs)))
        best = max(record.validation_ndcg10 or 0.0 for record in short.epochs)
        trials.append(Trial(config=config, ndcg10=best))
        log.info("student trial: %s -> NDCG@10 %.4f", config, best)
    chosen = max(trials, key=lambda trial: trial.ndcg10 or 0.0)
    return fit_student(data, chosen.config), trials
