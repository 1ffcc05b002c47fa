"""How a corpus is compiled into a token store."""

from dataclasses import field
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from data_pipeline.splits import SplitConfig


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class BuildConfig:
    """How a corpus is compiled."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Which events may be learned from, and which are asked about."""

    like_at_least: float | None = None
    """Value from which an event is a like; None: three quarters up the corpus's scale."""

    dislike_at_most: float | None = None
    """Value up to which an event is a dislike; None: one quarter up the corpus's scale."""

    styles: tuple[Literal["plain", "labelled"], ...] = ("plain", "labelled")
    """Verbalisation styles to compile; a mixture chooses among them."""
