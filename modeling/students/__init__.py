"""Small sequence models that are taught by the backbone, served in its place, or set against it."""

import difflib

from modeling.students.base import Student, StudentShape
from modeling.students.gru4rec import GRU4Rec
from modeling.students.sasrec import SASRec

__all__ = ["GRU4Rec", "SASRec", "Student", "StudentShape", "find_student", "register_student"]

_STUDENTS: dict[str, type[Student]] = {
    student.name: student
    for student in (
        SASRec,
        GRU4Rec,
    )
}


def find_student(name: str) -> type[Student]:
    """The student of that name.

    Raises:
        ValueError: there is none; the message lists the nearest.
    """
    if name not in _STUDENTS:
        near = difflib.get_close_matches(name, _STUDENTS, n=3, cutoff=0.4) or list(_STUDENTS)
        raise ValueError(f"no student is called {name!r}; nearest: {', '.join(near)}")
    return _STUDENTS[name]


def register_student(student: type[Student]) -> None:
    """Add a student of your own. Raises ValueError where its name is taken."""
    if student.name in _STUDENTS:
        raise ValueError(
            f"there is a student called {student.name!r} already: give yours another name"
        )
    _STUDENTS[student.name] = student
