"""What goes wrong in training; each message says what was given, where, why not, and the cure."""


class ConfigError(ValueError):
    """A config, an override or a DeepSpeed JSON that cannot work as written.

    Attributes:
        keys: The dotted config keys that the message is about, the likeliest culprit first.
    """

    def __init__(self, message: str, *, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete or of another run: nothing was loaded from it."""


class TrainingError(RuntimeError):
    """A run that had to stop: losses that are not finite, a lost rank, a full disk."""
