"""Which heads there are for a kind of task, one explicit table; `head.name` is a key of it."""

from collections.abc import Callable

from usfm.config import Config
from usfm.errors import ConfigError
from usfm.kinds import TaskKind
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.attentive import AttentiveHead
from usfm.models.heads.head import Head
from usfm.models.heads.light import LightHead
from usfm.models.heads.linear import LinearHead
from usfm.models.heads.mask_query import MaskQueryHead
from usfm.models.heads.regression import AttentiveRegression, LinearRegression
from usfm.models.heads.restoration import RestorationHead
from usfm.models.heads.upernet import UPerNetHead

__all__ = ["HEADS", "HeadConfig", "default_head", "make_head"]

# the first of each kind is its default
HEADS: dict[TaskKind, dict[str, Callable[[EncoderConfig, int], Head]]] = {
    "classification": {"linear": LinearHead, "attentive": AttentiveHead},
    "multilabel": {"linear": LinearHead, "attentive": AttentiveHead},
    "segmentation": {"light": LightHead, "upernet": UPerNetHead, "mask_query": MaskQueryHead},
    "regression": {"linear": LinearRegression, "attentive": AttentiveRegression},
    "enhancement": {"restoration": RestorationHead},
}


class HeadConfig(Config):
    """Which head stands on the encoder.

    Attributes:
        name: a key of `HEADS` under the task's kind; None = the first there: linear for classes, labels and
            numbers, light for masks, restoration for images. Known for the paper's results: linear and upernet.
    """

    name: str | None = None

    def resolved(self, kind: TaskKind) -> str:
        """The head's name for a kind of task.

        Raises:
            ConfigError: this kind has no such head.
        """
        if self.name is None:
            return default_head(kind)
        if self.name not in HEADS[kind]:
            raise ConfigError(f"head.name={self.name} is no head for {kind}; expected {' or '.join(HEADS[kind])}")
        return self.name


def default_head(kind: TaskKind) -> str:
    """The head that a kind of task gets where none is named."""
    return next(iter(HEADS[kind]))


def make_head(config: HeadConfig, encoder: EncoderConfig, kind: TaskKind, outputs: int) -> Head:
    """Build a head.

    Raises:
        ConfigError: this kind has no such head.
    """
    return HEADS[kind][config.resolved(kind)](encoder, outputs)
