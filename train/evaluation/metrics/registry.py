"""Metrics by name: function, direction, level."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from train.evaluation.metrics import labels, ranking, sets, texts, values
from train.evaluation.metrics.base import Metric, mean_of

SAMPLED = "sampled_"
_DEPTHS = (1, 3, 5, 10, 20, 50, 100)
_SET_SIZES = (1, 3, 5)
_IMPRESSION_DEPTHS = (5, 10)
IMPRESSION_METRICS = ("impression_mrr", *(f"impression_ndcg@{k}" for k in _IMPRESSION_DEPTHS))
"""What is reported of tasks that ask what was shown together."""

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        Metric("auc", True, labels.auc),
        Metric("macro_auc", True, labels.macro_auc),
        Metric("gauc", True, mean_of(labels.user_auc), level="per_user"),
        Metric("logloss", False, mean_of(labels.log_loss)),
        Metric("ece", False, labels.expected_calibration_error),
        Metric("accuracy", True, mean_of(labels.accuracy)),
        Metric("f1", True, labels.positive_f1),
        Metric("macro_f1", True, labels.macro_f1),
        Metric("micro_f1", True, labels.micro_f1),
        Metric("rmse_expected", False, mean_of(values.squared_error, np.sqrt)),
        Metric("mae_expected", False, mean_of(values.absolute_error)),
        Metric("qwk", True, values.quadratic_weighted_kappa),
        Metric("spearman", True, values.spearman),
        Metric("mrr", True, mean_of(ranking.reciprocal_rank)),
        Metric("ndcg", True, mean_of(ranking.ndcg(None))),
        Metric("impression_mrr", True, mean_of(ranking.impression_mrr), level="per_impression"),
        *(
            Metric(
                f"impression_ndcg@{k}",
                True,
                mean_of(ranking.impression_ndcg(k)),
                level="per_impression",
            )
            for k in _IMPRESSION_DEPTHS
        ),
        Metric("note_kept", True, mean_of(ranking.note_kept)),
        Metric("note_rest_ndcg", True, mean_of(ranking.note_rest_ndcg)),
        *(Metric(f"hr@{k}", True, mean_of(ranking.hit_rate(k))) for k in _DEPTHS),
        *(Metric(f"ndcg@{k}", True, mean_of(ranking.ndcg(k))) for k in _DEPTHS),
        *(Metric(f"recall@{k}", True, mean_of(sets.recall(k))) for k in _DEPTHS),
        Metric("set_f1", True, mean_of(sets.set_f1(None))),
        Metric("jaccard", True, mean_of(sets.jaccard(None))),
        *(Metric(f"set_f1@{k}", True, mean_of(sets.set_f1(k))) for k in _SET_SIZES),
        *(Metric(f"jaccard@{k}", True, mean_of(sets.jaccard(k))) for k in _SET_SIZES),
        *(Metric(name, True, mean_of(of_text)) for name, of_text in texts.TEXT_METRICS.items()),
    ]
}


def find_metric(name: str) -> Metric:
    """The metric called `name`; "sampled_" in front marks sampled negatives, the formula is one.

    Raises:
        ValueError: no metric has that name; the message lists the nearest.
    """
    plain = name.removeprefix(SAMPLED)
    if plain not in METRICS:
        near = difflib.get_close_matches(plain, METRICS, n=3, cutoff=0.4) or sorted(METRICS)
        raise ValueError(f"no metric is called {name!r}; nearest: {', '.join(near)}")
    return replace(METRICS[plain], name=name)


def register_metric(metric: Metric) -> None:
    """Add a metric of your own. Raises ValueError where its name is taken or says "sampled_"."""
    if metric.name in METRICS:
        raise ValueError(
            f"there is a metric called {metric.name!r} already: give yours another name"
        )
    if metric.name.startswith(SAMPLED):
        raise ValueError(
            f"{metric.name!r}: a task puts {SAMPLED!r} in front where its candidates are sampled; "
            "register the formula without it"
        )
    METRICS[metric.name] = metric


def secondary_metrics(
    kind: str, headline: str, labels: int, gains: bool, shown: bool = False
) -> tuple[str, ...]:
    """What to report beside the headline metric, by the shape of the task.

    Args:
        kind: the task's.
        headline: name of its metric.
        labels: how many answers it has.
        gains: whether its choices have graded relevance.
        shown: whether it asks what was shown, item by item.
    """
    plain = headline.removeprefix(SAMPLED)
    if kind == "title":
        names = ["hr@1", "hr@10", "hr@50", "ndcg@10", "mrr"]
    elif kind == "text":
        names = ["rouge_l"] if plain == "fact_f1" else ["rouge_l", "grounded_share"]
    elif plain.startswith(("set_f1", "jaccard")):
        names = ["set_f1", "jaccard"]
    elif plain == "note_kept":
        names = ["note_rest_ndcg", "ndcg", "accuracy", "logloss", "ece"]
    elif kind == "choice":
        names = ["accuracy", "mrr", "logloss", "ece", *(["ndcg"] if gains else [])]
    elif labels == 2:
        names = ["auc", "gauc", "f1", "accuracy", "logloss", "ece"]
        names += IMPRESSION_METRICS if shown else ()
    elif plain in ("rmse_expected", "mae_expected", "qwk"):
        names = ["rmse_expected", "mae_expected", "qwk", "accuracy", "logloss", "ece"]
    else:
        names = ["accuracy", "macro_f1", "logloss", "ece"]
    prefix = SAMPLED if headline.startswith(SAMPLED) else ""
    return tuple(prefix + name for name in names if prefix + name != headline)
