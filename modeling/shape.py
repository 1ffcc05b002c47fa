"""The shape of a decoder built from scratch: numbers only, checked before any tensor exists.

It stands apart from `modeling.backbone` so that a run's config is read and checked without
importing torch.
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Positive = Annotated[int, Field(ge=1)]


@dataclass(
    frozen=True,
    kw_only=True,
    slots=True,
    config=ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    ),
)
class ModelShape:
    """Sizes of a decoder language model; the vocabulary comes from the token store's tokenizer.

    Names are those of the Hugging Face configs of the same architectures.

    Raises:
        ValueError: Sizes that do not fit together, such as heads that do not divide.
    """

    architecture: Literal["qwen3", "llama", "mixtral"] = "qwen3"
    """The decoder family. `mixtral` has sparse experts in place of each dense feed-forward."""

    hidden_size: Positive
    """Width of the residual stream."""

    intermediate_size: Positive
    """Width inside the feed-forward; of one expert, where there are experts."""

    num_hidden_layers: Positive
    """Number of decoder layers."""

    num_attention_heads: Positive
    """Query heads of one layer."""

    num_key_value_heads: Positive
    """Key and value heads of one layer; divides `num_attention_heads`."""

    head_dim: Positive | None = None
    """Width of one head, even. Empty: `hidden_size / num_attention_heads`."""

    max_position_embeddings: Positive = 4096
    """Longest position that rotary embeddings are laid out for, in tokens."""

    rope_theta: Annotated[float, Field(gt=0)] = 1_000_000.0
    """Base of the rotary frequencies."""

    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the mean square in RMSNorm."""

    tie_word_embeddings: bool = True
    """Whether the output head is the input embedding."""

    num_local_experts: Positive | None = None
    """Experts of one layer; `mixtral` only."""

    num_experts_per_tok: Positive | None = None
    """Experts that each token visits; `mixtral` only, at most `num_local_experts`."""

    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            raise ValueError(
                f"num_attention_heads={heads} is no multiple of num_key_value_heads={groups}: "
                "every key-value head serves the same number of query heads. "
                f"Choose a divisor of {heads}."
            )
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} does not divide into num_attention_heads={heads}. "
                "Change one of them or give head_dim."
            )
        if self.head_width % 2:
            raise ValueError(
                f"head_dim={self.head_width} is odd: rotary embeddings turn pairs of numbers. "
                "Give an even head_dim."
            )
        self._check_experts()
        return self

    def _check_experts(self) -> None:
        experts, visited = self.num_local_experts, self.num_experts_per_tok
        if self.architecture != "mixtral":
            if experts is not None or visited is not None:
                raise ValueError(
                    f"num_local_experts={experts} and num_experts_per_tok={visited} are for "
                    f"architecture mixtral; this is {self.architecture}. Remove them."
                )
            return
        if experts is None or visited is None:
            raise ValueError(
                "architecture mixtral needs num_local_experts and num_experts_per_tok, "
                f"got {experts} and {visited}. Mixtral itself has 8 and 2."
            )
        if visited > experts:
            raise ValueError(
                f"num_experts_per_tok={visited} is more than num_local_experts={experts}: "
                "a token cannot visit experts that do not exist."
            )

    @property
    def head_width(self) -> int:
        """Width of one head: `head_dim`, or the hidden size shared among the query heads."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def n_parameters(self, vocab_size: int) -> int:
        """Count the weights of a decoder of this shape; a tied head counts once."""
        width, head = self.hidden_size, self.head_width
        attention = width * head * 2 * (self.num_attention_heads + self.num_key_value_heads)
        if self.architecture == "qwen3":
            attention += 2 * head  # RMSNorm of queries and of keys
        feed_forward = 3 * width * self.intermediate_size
        if self.num_local_experts is not None:
            feed_forward = self.num_local_experts * (feed_forward + width)  # and its router row
        layer = attention + feed_forward + 2 * width
        embeddings = vocab_size * width * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + width
