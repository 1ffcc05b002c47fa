"""The catalogue of questions: one file per family, one class per task.

A task of your own registers by `register_task`, from a module named under `plugins:`.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from data_pipeline.described import Described
from data_pipeline.errors import DataError
from data_pipeline.tasks.base import LETTERS, YES_NO, Task
from data_pipeline.tasks.comparison import BestOfList, OddOneOut, Pairwise
from data_pipeline.tasks.domains import CrossDomainLike
from data_pipeline.tasks.explanation import Explanation
from data_pipeline.tasks.impressions import Action, Click, ClickOfList
from data_pipeline.tasks.item_fields import ImputeField, ImputeHeldField
from data_pipeline.tasks.items import ImputeDecade, ImputeGenre, Similar
from data_pipeline.tasks.links import LinkedItems
from data_pipeline.tasks.many_shot import (
    ManyShotEarlyAccess,
    ManyShotHelpful,
    ManyShotReviewRating,
    ManyShotSpoiler,
)
from data_pipeline.tasks.needs import missing
from data_pipeline.tasks.outcomes import Finished, HoursBucket, PlaysAgainstMedian, Recommended
from data_pipeline.tasks.pointwise import (
    AboveItemMean,
    AboveOwnMean,
    ColdItemLike,
    ColdUserLike,
    DemographicsLike,
    Like,
    Rating,
    WillWatch,
)
from data_pipeline.tasks.probes import ProbeAge, ProbeCountry, ProbeGender, ProbeOccupation
from data_pipeline.tasks.reviews import ReviewChoice
from data_pipeline.tasks.search import (
    ComplexQuerySearch,
    PersonalisedSearch,
    QueryCompletion,
    QueryRanking,
    QuerySuggestion,
    SearchMatch,
    SearchMatchSampled,
    SearchRelevance,
    SubstituteDetection,
)
from data_pipeline.tasks.sequence import (
    FavouriteChoice,
    FavouriteTitle,
    NextDecade,
    NextGenre,
    NextItemChoice,
    NextItemTitle,
)
from data_pipeline.tasks.steering import SlateWithNote
from data_pipeline.tasks.tags import TagRelevance, TagSuggestion
from data_pipeline.tasks.taste import FutureDecade, FutureGenre
from data_pipeline.tasks.taste_summary import TasteSummary
from data_pipeline.tasks.timeline import SequenceCompletion, TimeToNext
from data_pipeline.tasks.view import View

__all__ = [
    "LETTERS",
    "YES_NO",
    "Task",
    "View",
    "all_tasks",
    "applicable",
    "register_task",
    "task_named",
]

_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Like(),
        Rating(),
        AboveOwnMean(),
        AboveItemMean(),
        ColdUserLike(),
        DemographicsLike(),
        ColdItemLike(),
        WillWatch(),
        Click(),
        Action(),
        HoursBucket(),
        Finished(),
        Recommended(),
        CrossDomainLike(),
        PlaysAgainstMedian(),
        NextItemChoice(),
        NextItemTitle(),
        NextGenre(),
        NextDecade(),
        FavouriteChoice(),
        FavouriteTitle(),
        SequenceCompletion(),
        TimeToNext(),
        Pairwise(),
        BestOfList(),
        ClickOfList(),
        SlateWithNote(),
        OddOneOut(),
        FutureGenre(),
        FutureDecade(),
        ImputeGenre(),
        ImputeDecade(),
        Similar(),
        TagSuggestion(),
        ReviewChoice(),
        Explanation(),
        TasteSummary(),
        SearchRelevance(),
        SearchMatch(),
        SearchMatchSampled(),
        SubstituteDetection(),
        QueryRanking(),
        ComplexQuerySearch(),
        PersonalisedSearch(),
        QuerySuggestion(),
        QueryCompletion(),
        ImputeField(),
        ImputeHeldField(),
        TagRelevance(),
        LinkedItems(),
        ManyShotHelpful(),
        ManyShotReviewRating(),
        ManyShotSpoiler(),
        ManyShotEarlyAccess(),
        ProbeAge(),
        ProbeGender(),
        ProbeOccupation(),
        ProbeCountry(),
    )
}


def all_tasks() -> Mapping[str, Task]:
    """Return every task by name, in the order of the catalogue."""
    return dict(_TASKS)


def register_task(task: Task) -> None:
    """Add a task of your own. Raises ValueError where its name is taken."""
    if task.name in _TASKS:
        raise ValueError(f"there is a task named {task.name!r} already: give yours another name")
    _TASKS[task.name] = task


def task_named(name: str) -> Task:
    """Return a task. Raises DataError naming the nearest where there is none of this name."""
    if name not in _TASKS:
        near = get_close_matches(name, _TASKS, n=3)
        raise DataError(
            f"there is no task named {name!r}",
            remedy=f"did you mean {', '.join(near)}?" if near else f"choose of {', '.join(_TASKS)}",
        )
    return _TASKS[name]


def applicable(task: Task, store: Described) -> str | None:
    """Return None where the corpus has what the task needs, else what it lacks, as a sentence."""
    return missing(task.needs, store)
