"""Curves by name: what happens to the metrics as one thing grows."""

import difflib

from train.evaluation.curves.base import Curve, Ground
from train.evaluation.curves.cold import ColdItems, ColdUsers
from train.evaluation.curves.history import Context, Shots
from train.evaluation.curves.ladder import Ladder
from train.evaluation.curves.many_shot import ManyShot
from train.evaluation.curves.months import Months
from train.evaluation.curves.phrasing import Phrasings
from train.evaluation.curves.summary import Summary

__all__ = ["CURVES", "Curve", "Ground", "find_curve", "register_curve"]

CURVES: dict[str, Curve] = {
    curve.name: curve
    for curve in (
        Shots(),
        Context(),
        Ladder(),
        ColdUsers(),
        ColdItems(),
        Months(),
        Phrasings(),
        ManyShot(),
        Summary(),
    )
}


def find_curve(name: str) -> Curve:
    """The curve of that name.

    Raises:
        ValueError: there is none; the message lists the nearest.
    """
    if name not in CURVES:
        near = difflib.get_close_matches(name, CURVES, n=3) or list(CURVES)
        raise ValueError(f"no curve is called {name!r}; nearest: {', '.join(near)}")
    return CURVES[name]


def register_curve(curve: Curve) -> None:
    """Add a curve of your own. Raises ValueError where its name is taken."""
    if curve.name in CURVES:
        raise ValueError(f"there is a curve called {curve.name!r} already: give yours another name")
    CURVES[curve.name] = curve
