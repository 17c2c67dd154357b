"""Bundles with random weights, small enough for a test."""

from pathlib import Path

import torch

from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.task_model import TaskModel

ENCODER = EncoderConfig(size="tiny", img_px=64)


def write_bundles(folder: Path) -> dict[str, Path]:
    """One folder per name: nerve and head (segmentation), lung (classification), tiny (embedding)."""
    torch.manual_seed(0)
    for name, classes in {"nerve": ["background", "nerve", "vessel"], "head": ["background", "head"]}.items():
        spec = BundleSpec(kind="segmentation", name=name, classes=classes, encoder=ENCODER, licences=["CC BY 4.0"])
        save_bundle(folder / name, TaskModel(ENCODER, "segmentation", len(classes)), spec)
    spec = BundleSpec(kind="classification", name="lung", classes=["a", "b", "c", "d"], encoder=ENCODER)
    save_bundle(folder / "lung", TaskModel(ENCODER, "classification", 4), spec)
    save_bundle(folder / "tiny", Encoder(ENCODER), BundleSpec(kind="embedding", name="tiny", encoder=ENCODER))
    return {name: folder / name for name in ("nerve", "head", "lung", "tiny")}
