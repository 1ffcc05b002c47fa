"""What is minimised: each objective turns a model and a micro-batch into a scalar and a tally."""

from train.objectives.base import Objective, ObjectiveOutput, Tally
from train.objectives.label import LabelObjective

__all__ = ["LabelObjective", "Objective", "ObjectiveOutput", "Tally"]
