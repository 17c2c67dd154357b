"""Train, validation or test: a pure function of the patient group, so adding data moves nobody."""

import hashlib
from typing import Self

from pydantic import Field, model_validator

from usfm.config import Config

__all__ = ["SplitConfig", "split_of"]


class SplitConfig(Config):
    """Fractions of patient groups (not of images).

    Attributes:
        val: expected fraction of groups in validation.
        test: expected fraction of groups in test.
        seed: another seed is another split.
    """

    val: float = Field(default=0.1, ge=0.0, lt=1.0)
    test: float = Field(default=0.2, ge=0.0, lt=1.0)
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val {self.val} + test {self.test} leave nothing to train on; their sum must be below 1"
            )
        return self


def split_of(group: str, config: SplitConfig) -> str:
    """The split of a patient group: a hash of (seed, group) against the fractions.

    Every image of a group gets the same answer, on every machine, whatever else the archive holds. Rows
    whose group is not known ("") always go to "train": a group that is not known cannot be proven disjoint
    from another, so such rows may not measure anything.

    Args:
        group: the group's key, "<source>/<group>", or "".
        config: fractions and seed.

    Returns:
        "train", "val" or "test".
    """
    if not group:
        return "train"
    digest = hashlib.blake2b(f"{config.seed}\x1f{group}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "little") / 2**64
    if position < config.test:
        return "test"
    return "val" if position < config.test + config.val else "train"
