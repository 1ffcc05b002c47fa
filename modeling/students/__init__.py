"""Small sequence models that are taught by the backbone and served in its place."""

from modeling.students.sasrec import SASRec, SASRecShape

__all__ = ["SASRec", "SASRecShape"]
