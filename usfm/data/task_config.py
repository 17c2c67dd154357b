"""What a labelled task is: its kind, its rows, and what a row's label, mask or pair means."""

from typing import Literal, Self

from pydantic import Field, model_validator

from usfm.config import Config
from usfm.data.degrade import DegradeConfig
from usfm.kinds import TaskKind

__all__ = ["MASK_TARGETS", "TaskConfig"]

MASK_TARGETS = ("mask_perimeter", "mask_area")
LEAST_CLASSES = {"classification": 2, "multilabel": 1, "segmentation": 1}
UNITS = {"mask_perimeter": ("mm", "px"), "mask_area": ("mm2", "px2")}


class TaskConfig(Config):
    """A labelled task.

    Attributes:
        name: short name, used in folders and URLs.
        kind: classification (one class a row), multilabel (any number of them), segmentation, regression (one
            number) or enhancement (the image in high quality).
        organs: organs whose rows are used.
        sources: sources whose rows are used; None = all.
        classes: name -> the labels (classification, multilabel) or mask class names (segmentation) that count as
            it. For segmentation the background comes by itself, and ["*"] stands for every mask class. None for
            regression and enhancement.
        separator: between the names of a multilabel row, and between the `NAME=VALUE` pairs of a regression row.
        target: of regression: the NAME in labels of the form `NAME=VALUE`; or "mask_perimeter" (of the ellipse that
            fits the mask's largest region) or "mask_area".
        unit: of the target, as it is shown; for a target from the mask mm, px, mm2 or px2.
        scales_with_size: the target is a length. The network then predicts it as a share of the view's size,
            sqrt(height x width), so that crops and resizing stay right; in mm that needs the size of a pixel.
        degrade: of enhancement: clean images are made worse by this model, seeded, to make training pairs; None =
            the rows' own pairs.
        measure: of segmentation: also report the ellipse's circumference of the mask in mm.
        unlisted: what becomes of a row whose label no class names, be it a misspelt or an empty one (multilabel: of
            the name alone), or that has no `target` in its label: "refuse" names the first one, "leave_out" counts
            and warns. Of segmentation: of a mask class that no class names; left out, it is background.
        missing: what becomes of a row without the mask, the pair or the pixel size that the task needs. Probes of
            masks (`usfm.data.probe_rows`) take the rows that have one, whatever this says.
        split_by: "split" trains and tests on the splits of ingest; "source" trains on the training and validation
            splits of some sources and tests on every row of others, none of whose labels are seen before; "folds"
            deals the known patients of all splits into folds (`usfm.data.folds`), so that runs of every fold
            together test each of them once. Rows whose patient is not known train.
        folds: of split_by=folds: how many.
        fold: of split_by=folds: the one that is tested, in [0, folds); the next one validates, all others train. A
            sweep sets it (`of_seed`).
        train_sources: of split_by=source.
        test_sources: of split_by=source.
        canvas_px: see `usfm.data.stream.StreamConfig`.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: TaskKind
    organs: list[str] = Field(min_length=1)
    sources: list[str] | None = None
    classes: dict[str, list[str]] = {}
    separator: str = Field(default=";", min_length=1)
    target: str = ""
    unit: str = ""
    scales_with_size: bool = False
    degrade: DegradeConfig | None = None
    measure: Literal["circumference"] | None = None
    unlisted: Literal["leave_out", "refuse"] = "refuse"
    missing: Literal["leave_out", "refuse"] = "refuse"
    split_by: Literal["split", "source", "folds"] = "split"
    folds: int = Field(default=5, ge=3)
    fold: int = Field(default=0, ge=0)
    train_sources: list[str] = []
    test_sources: list[str] = []
    canvas_px: int = Field(default=256, ge=16)

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        least = LEAST_CLASSES.get(self.kind, 0)
        if len(self.classes) < least:
            raise ValueError(f"a {self.kind} task needs at least {least} classes, got {list(self.classes)}")
        if self.classes and not least:
            raise ValueError(f"a {self.kind} task has no classes, got {list(self.classes)}; leave them out")
        owner: dict[str, str] = {}
        for name, labels in self.classes.items():
            if not labels:
                raise ValueError(f"class {name!r} lists no labels; name those that count as it, or leave it out")
            for label in labels:
                if owner.setdefault(label, name) != name:
                    raise ValueError(f"label {label!r} is listed by {owner[label]!r} and {name!r}; give it to one")
        if self.kind == "segmentation":
            if "background" in self.classes:
                raise ValueError("the class 'background' comes by itself; leave it out")
            if "*" in owner and len(owner) > 1:
                raise ValueError(f"'*' stands for every mask class and has to stand alone, got {self.classes}")
        return self

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        if (self.kind == "regression") != bool(self.target):
            raise ValueError(
                f"kind {self.kind} with target {self.target!r}: regression alone has a target, and needs one: the "
                f"NAME of labels like NAME=12.5, or one of {', '.join(MASK_TARGETS)}"
            )
        if self.target in UNITS and self.unit not in UNITS[self.target]:
            raise ValueError(
                f"unit {self.unit!r} of {self.target} has to be one of {', '.join(UNITS[self.target])}"
            )
        if self.target == "mask_area" and self.scales_with_size:
            raise ValueError("scales_with_size is for lengths; mask_area is none")
        for key, kind in (
            ("scales_with_size", "regression"),
            ("degrade", "enhancement"),
            ("measure", "segmentation"),
        ):
            if getattr(self, key) and self.kind != kind:
                raise ValueError(f"{key} is for {kind} tasks, this one is of kind {self.kind}")
        return self

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        train, test = set(self.train_sources), set(self.test_sources)
        if self.split_by != "source" and train | test:
            raise ValueError("train_sources and test_sources are for split_by=source; set that, or use sources")
        if self.split_by == "source" and (not train or not test or train & test or self.sources is not None):
            raise ValueError(
                f"split_by=source needs train_sources and test_sources without a common one, and no sources; got "
                f"{self.train_sources}, {self.test_sources}, {self.sources}"
            )
        return self

    @model_validator(mode="after")
    def _folds_fit(self) -> Self:
        stated = self.fold, self.folds
        if self.split_by != "folds" and stated != (0, 5):
            raise ValueError(
                f"fold {self.fold} and folds {self.folds} are for split_by=folds, this task has "
                f"split_by={self.split_by}; set that, or leave them out"
            )
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of {self.folds} folds; they are 0 to {self.folds - 1}")
        return self

    def of_seed(self, seed: int) -> Self:
        """The task as a sweep's run with this seed has it: with split_by=folds, fold `seed % folds` is tested."""
        return self.model_copy(update={"fold": seed % self.folds}) if self.split_by == "folds" else self

    @property
    def class_names(self) -> list[str]:
        """Names in the order of logits; segmentation starts with the background."""
        return [*(["background"] if self.kind == "segmentation" else []), *self.classes]

    @property
    def needs_mask(self) -> bool:
        """Whether every row has to have a mask."""
        return self.kind == "segmentation" or self.target in MASK_TARGETS

    @property
    def needs_pair(self) -> bool:
        """Whether every row has to have its own high-quality image."""
        return self.kind == "enhancement" and self.degrade is None

    @property
    def needs_spacing(self) -> bool:
        """Whether every row has to say how large its pixels are."""
        in_mm = self.target in MASK_TARGETS and self.unit.startswith("mm")
        return in_mm or (self.scales_with_size and not self.unit.startswith("px"))

    def view_scale(self, side_px: float, spacing_mm: float) -> float:
        """What a network's answer is multiplied by to be the target; 1 unless the target scales with size.

        Args:
            side_px: square root of the view's area, in pixels of the stored image.
            spacing_mm: of a stored pixel; not read for a target in pixels.
        """
        if not self.scales_with_size:
            return 1.0
        return side_px * (spacing_mm if self.needs_spacing else 1.0)
