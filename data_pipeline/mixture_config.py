"""What a mixture asks, how often, and of how much history: settings only, nothing is loaded."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(
    frozen=True,
    kw_only=True,
    slots=True,
    config=ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    ),
)
class MixtureConfig:
    """A mixture: a pure function (seed, index) -> tree over tasks and corpora."""

    tasks: dict[str, Weight] = field(default_factory=dict)
    """Task or family name -> weight relative to its fair share. Empty: every trainable task that
    applies, weight 1. A family's weight holds for each of its tasks that has none of its own."""

    store_weights: tuple[Weight, ...] = ()
    """Share of trees of each token store, in the order of `stores`. Empty: by number of training
    events to the power `temperature`."""

    temperature: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Exponent on the number of training events when stores share the trees: 1 in proportion,
    towards 0 all equal."""

    targets_per_tree: Positive = 16
    """Branches behind one trunk."""

    history_events: Positive = 20
    """Events of the trunk at most; the oldest whole events are dropped first."""

    max_trunk_tokens: Positive = 4096
    """Tokens of the trunk at most; the oldest whole events are dropped first."""

    history_loss_weight: Weight = 0.0
    """Weight of each past action of the trunk as a supervised target of its own (layout L1, one
    answer per event); 0 leaves the history unsupervised."""

    history_title_weight: Weight = 0.0
    """Weight of each past item's title as a supervised target: next-item language modelling along
    the trunk; 0 leaves it off."""

    choice_answers: Literal["letter", "name"] = "letter"
    """How a choice among categories or decades is answered: by the option's letter, or by its own
    name where every name is one token. Finding the letter of the right option is a skill of
    pretrained models; a small one from scratch needs far more than minutes to learn it."""

    styles: tuple[Literal["plain", "labelled"], ...] = ("plain",)
    """Verbalisation styles of item records to mix; each tree uses one."""

    def __post_init__(self) -> None:
        if self.tasks and not any(self.tasks.values()):
            raise ValueError("mixture.tasks gives every task weight 0: nothing would be trained")
        if not self.styles:
            raise ValueError("mixture.styles is empty: name at least one of plain, labelled")
