"""What a report is made from: folders of runs, one served request, the times of the stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ReportInputs", "ServeSample", "StageTime"]


@dataclass(frozen=True)
class StageTime:
    """How long one stage of the command took, and what it made."""

    name: str
    seconds: float
    detail: str


@dataclass(frozen=True)
class ServeSample:
    """One request to the running service.

    Attributes:
        url: where it went.
        request: what was sent, for a reader.
        seconds: from sending to the whole answer.
        answer: the JSON of it.
        image_png: the image that was sent, as PNG or JPEG.
        overlay_png: the answer as a picture: a mask over the image, an enhanced image; None if it is none.
    """

    url: str
    request: str
    seconds: float
    answer: dict[str, Any]
    image_png: bytes
    overlay_png: bytes | None = None


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from.

    Attributes:
        title: headline.
        input_note: which input was used, e.g. a corpus folder or the simulator.
        shards: folder that ingest wrote.
        pretrain_run: folder of the pre-training run.
        sweep_dir: folder with results.csv and best/<task>/, None = no sweep.
        serve: one request and its answer, None = nothing was served.
        stages: stages of the command in order.
        command: the command line.
    """

    title: str
    input_note: str
    shards: Path
    pretrain_run: Path
    sweep_dir: Path | None
    serve: ServeSample | None
    stages: list[StageTime]
    command: str
