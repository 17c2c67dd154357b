"""Features of a frozen encoder on disk, computed once for all heads, fractions and seeds that learn from them.

One folder per encoder and task, flat, memory-mapped by those who read it:

  index.json              what the features are of, and the SHA-256 of every file; written last
  train-images.npy        (n, 1, S, S) float32, whole images in [0, 1]
  train-target.npy        what the loss takes for each of them
  <split>-normed.npy      (n, 1 + N, D) float32 tokens after the final norm, for train, val and test
  <split>-block-<k>.npy   the same after block k, for every block that one of the heads takes

Of a task in folds every fold takes its rows from one cache: "train" there holds all rows, and nothing else is kept.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.augment import whole_images
from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_folds, load_task
from usfm.errors import DataError
from usfm.file_hash import file_sha256
from usfm.models.encoder import Encoder
from usfm.models.task_model import USFM, TaskModel
from usfm.train.durable import publish_folder
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_views import ImageViews

__all__ = [
    "CachePlan",
    "FeatureCache",
    "cacheable",
    "cached_sets",
    "encoder_digest",
    "fill",
    "prepare",
    "seal",
    "task_key",
]

INDEX = "index.json"
Rows = npt.NDArray[np.int64]


def cacheable(config: FinetuneConfig) -> bool:
    """Whether the encoder sees the same images in every step, so that its features can be kept."""
    whole = config.views == "whole" and config.inference.mode == "whole"
    degraded = config.task.degrade is not None or config.degrade_views is not None
    return config.network == USFM and config.freeze_encoder and whole and not degraded


def cached_sets(shards: str, task: TaskConfig) -> dict[str, LabelledSet]:
    """The rows that a cache of a task holds, by the names of its files.

    Raises:
        UsfmError: as of `usfm.data.tasks.load_task`.
    """
    return {"train": load_folds(shards, task)[0]} if task.split_by == "folds" else load_task(shards, task)


def task_key(task: TaskConfig) -> str:
    """What of a task its cache depends on, as JSON: not on the fold that is tested."""
    return task.model_copy(update={"fold": 0}).model_dump_json()


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256 of an encoder's shape and weights."""
    digest = hashlib.sha256(encoder.config.model_dump_json().encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CachePlan:
    """What a cache holds.

    Attributes:
        encoder: see `encoder_digest`.
        shards: fingerprint.
        task: the task, see `task_key`.
        blocks: blocks (counted from 1) whose tokens are kept beside those after the final norm.
    """

    encoder: str
    shards: str
    task: str
    blocks: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name of the folder; the blocks are not part of it, since more of them serve more heads."""
        named = {**asdict(self), "blocks": None}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    def is_there(self, folder: Path) -> bool:
        """Whether a folder holds all of this, each file with its hash."""
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        same = all(index[name] == getattr(self, name) for name in ("encoder", "shards", "task"))
        if not same or not set(self.blocks) <= set(index["blocks"]):
            return False
        return all(
            (folder / name).exists() and file_sha256(folder / name) == sha256
            for name, sha256 in index["files"].items()
        )


def prepare(
    partial: Path, network: TaskModel, plan: CachePlan, views: ImageViews, sets: Mapping[str, LabelledSet]
) -> None:
    """Make the empty files of a cache; workers `fill` them.

    Args:
        partial: a folder that is not there.
        network: with the frozen encoder.
        plan: what to keep.
        views: of the training rows, for the shape of a target.
        sets: see `cached_sets`.
    """
    partial.mkdir(parents=True)
    one = views.look(np.zeros(1, np.int64), np.zeros(1, np.int64))
    tokens = (1 + network.encoder.config.grid**2, network.encoder.config.width)
    shapes = {"train-images": (np.float32, one.inputs.shape[1:]),
              "train-target": (_numpy_type(one.target), one.target.shape[1:])}  # fmt: skip
    for split in sets:
        shapes |= {f"{split}-{level}": (np.float32, tokens) for level in _levels(plan.blocks)}
    for name, (dtype, shape) in shapes.items():
        count = len(sets[name.partition("-")[0]])
        np.lib.format.open_memmap(partial / f"{name}.npy", "w+", dtype, (count, *shape)).flush()


@torch.inference_mode()
def fill(
    partial: Path,
    network: TaskModel,
    plan: CachePlan,
    views: ImageViews,
    data: LabelledSet,
    split: str,
    rows: Rows,
    device: torch.device,
) -> None:
    """Compute and write the features of some rows of a split; other rows may be written meanwhile by others."""
    network.eval()
    if split == "train":
        seen = views.look(rows, rows)
        images = seen.inputs
        _write(partial, "train-images", rows, images)
        _write(partial, "train-target", rows, seen.target)
    else:
        canvases, high, wide = (torch.from_numpy(of[rows]) for of in (data.image, data.height, data.width))
        images = whole_images(canvases.to(device), high, wide, network.img_px)
    taken, normed = network.encoder.intermediates(images, list(plan.blocks))
    for level, tokens in zip(_levels(plan.blocks), [normed, *taken], strict=True):
        _write(partial, f"{split}-{level}", rows, tokens)


def seal(partial: Path, folder: Path, plan: CachePlan) -> None:
    """Name every file's hash and give the folder its name; whoever finds it finds all of it."""
    hashes = {path.name: file_sha256(path) for path in sorted(partial.glob("*.npy"))}
    document = {**asdict(plan), "files": hashes}
    (partial / INDEX).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    publish_folder(partial, folder)


class FeatureCache:
    """A cache that is read. Files are mapped; rows are copied out of them."""

    def __init__(self, folder: Path) -> None:
        """Open.

        Raises:
            DataError: the folder is no whole cache.
        """
        try:
            self._index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{folder} holds no features: {INDEX} is missing; run the sweep again") from None
        self._folder = folder
        self._files: dict[str, npt.NDArray[Any]] = {}

    def require(self, network: TaskModel) -> None:
        """Refuse a network whose features these are not.

        Raises:
            DataError: another encoder, or blocks that were not kept.
        """
        if encoder_digest(network.encoder) != self._index["encoder"]:
            raise DataError(f"{self._folder} holds the features of another encoder; run the sweep again")
        if lacking := sorted(set(network.head.blocks) - set(self._index["blocks"])):
            raise DataError(f"{self._folder} lacks the tokens of blocks {lacking}; run the sweep again")

    def features(self, split: str, rows: Rows, blocks: Sequence[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Tokens after some blocks, and after the final norm, as `TaskModel.features` gives them."""
        normed, *taken = (self._take(f"{split}-{level}", rows) for level in _levels(blocks))
        return taken, normed

    def images(self, rows: Rows) -> torch.Tensor:
        """Whole training images (B, 1, S, S)."""
        return self._take("train-images", rows)

    def targets(self, rows: Rows) -> torch.Tensor:
        """Training targets, as the loss takes them."""
        return self._take("train-target", rows)

    def _take(self, name: str, rows: Rows) -> torch.Tensor:
        if name not in self._files:
            self._files[name] = np.load(self._folder / f"{name}.npy", mmap_mode="r")
        return torch.from_numpy(self._files[name][rows])


def _levels(blocks: Sequence[int]) -> list[str]:
    return ["normed", *(f"block-{k}" for k in blocks)]


def _numpy_type(tensor: torch.Tensor) -> Any:
    return tensor.cpu().numpy().dtype


def _write(partial: Path, name: str, rows: Rows, values: torch.Tensor) -> None:
    file = np.lib.format.open_memmap(partial / f"{name}.npy", "r+")
    file[rows] = values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
    file.flush()
