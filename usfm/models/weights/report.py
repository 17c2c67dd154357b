"""What became of every key of a weight file. Nothing is left out silently: an unexplained key is an error."""

from dataclasses import dataclass, field
from typing import Literal

from usfm.errors import CheckpointError

__all__ = ["AUTHORS_SHA256", "Key", "WeightsReport"]

# USFM_latest.pth of openmedlab/USFM; known
AUTHORS_SHA256 = "d5fdab3edd140e4ca61471bb4087f91cd7ff2ce270db71b9cab30feda881bd17"

Fate = Literal["loaded", "dropped", "missing", "unexpected"]


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: in the file; for a missing one, in our encoder.
        shape: of the tensor; None for what is not one.
        fate: "loaded"; "dropped" on purpose; "missing" in the file; "unexpected" there.
        note: what it became, or why.
    """

    name: str
    shape: tuple[int, ...] | None
    fate: Fate
    note: str


@dataclass(frozen=True)
class WeightsReport:
    """A file's layout and the fate of each of its keys.

    Attributes:
        source: the file.
        layout: a key of `usfm.models.weights.layouts.LAYOUTS`.
        sha256: of the file.
        keys: in the file's order, missing ones last.
    """

    source: str
    layout: str
    sha256: str
    keys: list[Key] = field(default_factory=list)

    @property
    def is_authors_file(self) -> bool:
        """Whether this is the file that the authors of USFM released, bit by bit."""
        return self.sha256 == AUTHORS_SHA256

    @property
    def problems(self) -> list[Key]:
        """Keys that nothing explains."""
        return [key for key in self.keys if key.fate in ("missing", "unexpected")]

    def count(self, fate: Fate) -> int:
        """Keys with this fate."""
        return sum(key.fate == fate for key in self.keys)

    def require_explained(self) -> None:
        """Refuse a file of which a key is missing or unexpected.

        Raises:
            CheckpointError: naming the first three.
        """
        if not self.problems:
            return
        named = "; ".join(f"{key.name} ({key.fate}: {key.note})" for key in self.problems[:3])
        raise CheckpointError(
            f"{self.source} ({self.layout} layout): {len(self.problems)} keys are unexplained, e.g. {named}. "
            "`usfm weights FILE` lists all"
        )
