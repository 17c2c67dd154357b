"""What is looked at while a run trains, and how often."""

from pydantic import Field

from usfm.config import Config
from usfm.data.probe_rows import Protocol
from usfm.data.task_config import TaskConfig

__all__ = ["ObserveConfig", "ProbeConfig"]


class ProbeConfig(Config):
    """Probes of the frozen encoder.

    Attributes:
        shards: labelled shards, a folder or a URL; None = those of the run.
        tasks: labelled tasks; for segmentation, tokens are mapped to the shares of the classes in their patch.
        organ: the task "organ", which needs no labels.
        protocol: "split" fits on the training split and scores on val and test; "folds" scores every row by a fit
            on other patients' rows. A task whose split lacks a class takes folds.
        folds: of the second protocol.
        rows_per_class: at most so many rows of a class to fit, and to score.
        neighbours: k of the kNN probe.
        temperature: of its votes.
        strengths: inverse L2 penalties of the linear probe; of several, the best over three grouped folds of the
            rows to fit.
        bootstrap: draws of patients behind an interval.
    """

    shards: str | None = None
    tasks: list[TaskConfig] = []
    organ: bool = True
    protocol: Protocol = "split"
    folds: int = Field(default=5, ge=2)
    rows_per_class: int = Field(default=200, ge=2)
    neighbours: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    strengths: list[float] = Field(default=[0.1], min_length=1)
    bootstrap: int = Field(default=1000, ge=0)


class ObserveConfig(Config):
    """Observations of a run. None of them changes it: losses are the same, bit for bit, with and without.

    Attributes:
        every: steps between observations; 0 = none.
        panels: pictures for at most so many organs; 0 = none.
        gradients: gradient norms by part of the network.
        probe: probes and feature rank; None = neither.
    """

    every: int = Field(default=500, ge=0)
    panels: int = Field(default=8, ge=0)
    gradients: bool = True
    probe: ProbeConfig | None = ProbeConfig()
