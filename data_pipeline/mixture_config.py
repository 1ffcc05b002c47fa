"""What a mixture asks, how often, and of how much history: settings only, nothing is loaded."""

from dataclasses import field
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_SETTINGS: Final = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


@dataclass(frozen=True, kw_only=True, slots=True, config=_SETTINGS)
class Caps:
    """What keeps heavy users and large corpora from drowning the others.

    Branches count, past actions supervised in a trunk do not.
    """

    per_user: Positive | None = None
    """Targets of one user in an epoch of the corpus at most. An epoch shows so many of the user's
    windows of `targets_per_tree` as fit, one at least (which is then cut short), and the next epoch
    others. A window that no task can ask about is replaced by the next of the epoch. Empty: all."""

    per_corpus: Positive | None = None
    """When stores share the trees by their number of training events, a larger one counts as this
    large. All of its windows still come before any comes again. Empty: as large as it is."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_SETTINGS)
class Stage:
    """A stage of a curriculum: short trunks first."""

    until_tree: Positive
    """Index of the first tree behind this stage. Trees, not steps, so that a tree does not depend
    on the batch size: step s begins with tree s * `global_batch_size`."""

    history_events: Positive
    """As `history_events`, in this stage."""

    max_trunk_tokens: Positive
    """As `max_trunk_tokens`, in this stage."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_SETTINGS)
class MixtureConfig:
    """A mixture: a pure function (seed, index) -> tree over tasks and corpora."""

    tasks: dict[str, Weight] = field(default_factory=dict)
    """Task or family name -> weight relative to its fair share. Empty: every trainable task that
    applies, weight 1. A family's weight holds for each of its tasks that has none of its own."""

    store_weights: tuple[Weight, ...] = ()
    """Share of trees of each token store, in the order of `stores`. Empty: by number of training
    events, or where there are none of rows to ask about, to the power `temperature`."""

    temperature: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Exponent on the number of training events when stores share the trees: 1 in proportion,
    towards 0 all equal."""

    caps: Caps = field(default_factory=Caps)
    """Most targets of a user in one epoch, and the most that a corpus counts for."""

    targets_per_tree: Positive = 16
    """Branches of one trunk, and events of the window that a moment may ask about."""

    moments_per_tree: Count = 1
    """At how many moments of its user a tree asks; they share its branches. 1: where the history
    ends (layout L2). More: also along the history, where a branch sees what is older than its own
    moment and nothing else (layout tree); events with times need `ages: gaps` for that. 0: at none,
    so that only the history's own actions and titles are learned from (layout L1)."""

    ages: Literal["moment", "gaps"] = "moment"
    """What dates an event of the history. `moment`: how long before the moment it was. `gaps`: how
    long after the event before it; the prompt then says behind the history how long ago the last
    one was. With gaps the text of a history does not depend on where it ends."""

    history_events: Positive = 20
    """Events of the trunk at most; the oldest whole events are dropped first."""

    max_trunk_tokens: Positive = 4096
    """Tokens of the trunk at most; the oldest whole events are dropped first."""

    user_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the users that are learned from, to measure what more data would bring: chosen by
    seed and row, so that of one seed a smaller share is a part of a larger one. The statistics of
    the store, questions about items and queries without a user, and all of an evaluation with its
    baselines stay those of everybody."""

    history: Literal["sliding", "latest"] = "sliding"
    """Which moments of a user are learnt from. `sliding`: windows over the whole of a long history,
    shifted anew in each epoch, each with the `history_events` before it (as Netflix's foundation
    model samples them). `latest`: only the last window of the training time, so that a user counts
    the same however long the history."""

    demonstrations: Count = 16
    """Labelled rows of other users before a question of a many-shot task, which only evaluation
    asks; the farthest whole rows are dropped first where `max_trunk_tokens` are fewer."""

    curriculum: tuple[Stage, ...] = ()
    """Stages of rising context length; behind the last one `history_events` and
    `max_trunk_tokens` hold. Evaluation always uses these two."""

    history_loss_weight: Weight = 0.0
    """Weight of each past action of the trunk as a supervised target of its own (layout L1, one
    answer per event); 0 leaves the history unsupervised. In stores whose actions do not differ in
    exactly one token, such as those of a single action, no past action is supervised."""

    history_title_weight: Weight = 0.0
    """Weight of each past item's title as a supervised target: next-item language modelling along
    the trunk; 0 leaves it off."""

    history_window: Positive | None = None
    """Events before its own that each event of the trunk, and each branch, sees (layout L1w,
    Dynamic Target Isolation); None: all. Long histories cost less, and packing is **not exact** any
    more: in a model of several layers a state holds some of what its window should hide; see
    `window_forgetting` of the run. Evaluation asks without a window."""

    choice_answers: Literal["letter", "name"] = "letter"
    """How a choice among categories or decades is answered: by the option's letter, or by its own
    name where every name is one token. Finding the letter of the right option is a skill of
    pretrained models; a small one from scratch needs far more than minutes to learn it."""

    styles: tuple[Literal["plain", "labelled"], ...] = ("plain",)
    """Verbalisation styles of item records to mix; each tree uses one."""

    def __post_init__(self) -> None:
        if self.tasks and not any(self.tasks.values()):
            raise ValueError("mixture.tasks gives every task weight 0: nothing would be trained")
        ends = [stage.until_tree for stage in self.curriculum]
        if sorted(set(ends)) != ends:
            raise ValueError(
                f"mixture.curriculum has stages until trees {ends}: each must end behind the one "
                "before it"
            )
        if self.store_weights and self.caps.per_corpus:
            raise ValueError(
                "mixture.caps.per_corpus bounds the shares that follow from sizes, and "
                "mixture.store_weights gives the shares: keep one"
            )
        supervised = self.history_loss_weight or (
            self.history_title_weight and set(self.styles) == {"plain"}
        )
        if not self.moments_per_tree and not supervised:
            raise ValueError(
                "mixture.moments_per_tree is 0, so that nothing is learned from but the history: "
                "set history_loss_weight, or history_title_weight with styles: [plain]"
            )
        if not self.styles:
            raise ValueError("mixture.styles is empty: name at least one of plain, labelled")

    def limits(self, index: int) -> tuple[int, int]:
        """Return the most events and the most tokens of the trunk of a tree."""
        for stage in self.curriculum:
            if index < stage.until_tree:
                return stage.history_events, stage.max_trunk_tokens
        return self.history_events, self.max_trunk_tokens
