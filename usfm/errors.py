"""Every error this project raises on purpose.

UsfmError
├── ConfigError          a recipe, an override or a combination of values is wrong
├── DataError            data on disk is not what it should be
│   ├── UnreadableFile   one input file cannot be used; ingest quarantines it with the reason
│   │   └── ImageTooLarge    its header states more pixels than are accepted
│   ├── NoSuchFrame      a file has fewer frames than the number asked for
│   └── ShardError       shards or their index are missing, stale or damaged
├── CheckpointError      a checkpoint or a weight file does not fit
├── NonFiniteLoss        training met NaN or infinity and stopped before the step
├── NonFiniteAnswer      a network answered NaN or infinity; it has no score
├── RunTakenOver         the same job was submitted again and goes on in its folder
└── EnvironmentProblem   the machine lacks something (a port, a package, disk space)

Each message says what was got, what was expected and what to do.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EnvironmentProblem",
    "ImageTooLarge",
    "NoSuchFrame",
    "NonFiniteAnswer",
    "NonFiniteLoss",
    "RunTakenOver",
    "ShardError",
    "UnreadableFile",
    "UsfmError",
]


class UsfmError(Exception):
    """Root of the tree; the command line prints it without a traceback."""


class ConfigError(UsfmError):
    """A recipe, an override or a combination of values is wrong."""


class DataError(UsfmError):
    """Data on disk is not what it should be."""


class UnreadableFile(DataError):
    """One input file cannot be used; ingest quarantines it and goes on."""


class ImageTooLarge(UnreadableFile):
    """The header states more pixels than are accepted."""


class NoSuchFrame(DataError):
    """The file has fewer frames than the number asked for."""


class ShardError(DataError):
    """Shards or their index are missing, stale or damaged."""


class CheckpointError(UsfmError):
    """A checkpoint or a weight file does not fit what it is loaded into."""


class NonFiniteLoss(UsfmError):
    """Training met a NaN or an infinity; the step was refused and the batch's ids were saved."""


class NonFiniteAnswer(UsfmError):
    """A network that is scored answered NaN or an infinity; the items that it does answer are no score of it."""


class RunTakenOver(UsfmError):
    """The same job was submitted again; that submission goes on in the run's folder, this one ends."""


class EnvironmentProblem(UsfmError):
    """The machine lacks something that the command needs."""
