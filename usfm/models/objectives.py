"""Pre-training objectives, one explicit table; `objective.kind` is its key."""

from collections.abc import Callable

from usfm.models.encoder import EncoderConfig
from usfm.models.objective import Objective, ObjectiveConfig
from usfm.models.pixel_objective import PixelObjective
from usfm.models.teacher_objective import TeacherObjective

__all__ = ["OBJECTIVES"]

OBJECTIVES: dict[str, Callable[[EncoderConfig, ObjectiveConfig, int], Objective]] = {
    "pixel": PixelObjective,
    "teacher": TeacherObjective,
}
