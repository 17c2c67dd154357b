"""A serving head in four verbs: decode bytes, preprocess, predict a batch, encode an answer. Plain torch.

idea: LitServe's four verbs, written anew.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from usfm.config import Config
from usfm.data.augment import whole_images
from usfm.data.cleaning.clean import clean
from usfm.data.cleaning.config import CleanConfig
from usfm.data.cleaning.region import content_box, whole
from usfm.data.prepare import shrink
from usfm.data.readers.frames import Box, Frame
from usfm.kinds import PRESENT_ABOVE
from usfm.models.bundle import BundleSpec, load_bundle, read_bundle_spec
from usfm.models.encoder import Encoder
from usfm.models.windows import predict_canvas
from usfm.predict.decode import Decoded, decode
from usfm.predict.render import class_colour, overlay, png_base64

__all__ = ["NOTICE", "Extras", "Predictor", "label_map", "read_spec", "whole_image"]

NOTICE = "Research use only. Not a medical device, not for diagnostic use."


class Extras(Config):
    """What an answer may carry on request.

    Attributes:
        overlay: the image with class colours over it; segmentation only.
        preview: the grey image itself, for clients that cannot draw the file (DICOM).
    """

    overlay: bool = False
    preview: bool = False


def read_spec(bundle_dir: str | Path) -> BundleSpec:
    """What a bundle says of itself, without loading its weights.

    Raises:
        CheckpointError: there is no bundle.
    """
    return read_bundle_spec(Path(bundle_dir))


def whole_image(pixels: npt.NDArray[np.uint8], out_px: int, canvas_px: int) -> torch.Tensor:
    """The evaluation view of training: shrunk as ingest does, on a canvas, the whole image to a square.

    Args:
        pixels: (H, W) uint8.
        out_px: side of the result.
        canvas_px: ingest's longest side and the canvas of training.

    Returns:
        (1, out_px, out_px) float32 in [0, 1].
    """
    stored = shrink(pixels, canvas_px)
    height, width = stored.shape
    canvas = np.zeros((1, canvas_px, canvas_px), np.uint8)
    canvas[0, :height, :width] = stored
    return whole_images(torch.from_numpy(canvas), torch.tensor([height]), torch.tensor([width]), out_px)[0]


class Predictor:
    """One bundle on one device. `canvas_px` is the bundle's own unless it is given.

    An image is cleaned as the training images were; masks come back on the whole image.

    Raises:
        CheckpointError: no bundle there, or damaged.
    """

    def __init__(
        self, bundle_dir: str | Path, device: torch.device | str = "cpu", canvas_px: int | None = None
    ) -> None:
        self.device = torch.device(device)
        self._model: nn.Module
        self._model, self.spec = load_bundle(Path(bundle_dir), self.device)
        self.canvas_px = canvas_px or self.spec.canvas_px
        self._clean = _for_one_image(self.spec.clean)
        self._answer = {
            "segmentation": self._segmentation,
            "classification": self._classification,
            "multilabel": self._multilabel,
            "regression": self._regression,
            "enhancement": self._enhancement,
            "embedding": self._embedding,
        }[self.spec.kind]

    decode = staticmethod(decode)

    def preprocess(self, decoded: Decoded) -> torch.Tensor:
        """What training would see of the image, float32 in [0, 1].

        Returns:
            (1, S, S), the network's square; (1, H, W), the stored image, for a network that slides over it.
        """
        pixels = self._cleaned(decoded)
        if self.spec.stored_px:
            pixels = shrink(pixels, self.spec.stored_px)
        if self.spec.inference.mode == "sliding":
            return torch.from_numpy(shrink(pixels, self.canvas_px))[None].float() / 255
        return whole_image(pixels, self.spec.img_px, self.canvas_px)

    def _cleaned(self, decoded: Decoded) -> npt.NDArray[np.uint8]:
        """The kept part of the image, text painted over where training did so."""
        return decoded.pixels if self._clean is None else clean([_frame(decoded)], self._clean)[0].pixels

    def kept(self, decoded: Decoded) -> Box:
        """The part of the image that the model sees."""
        cropped = self._clean is not None and self._clean.crop
        return content_box([_frame(decoded)]) if cropped else whole(decoded.pixels)

    @torch.inference_mode()
    def predict(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        """One batched forward pass; of a network that slides, its windows over each image.

        Args:
            images: n tensors of `preprocess`.

        Returns:
            n float32 tensors on the CPU: (K, H, W) logits or grey values at the size of `preprocess`, (K,) logits,
            (1,) a number, or (D,) the mean patch token.
        """
        if self.spec.inference.mode == "sliding":
            return [self._slide(image) for image in images]
        batch = torch.stack(images).to(self.device)  # (n, 1, S, S)
        out: torch.Tensor = self._model(batch)
        if isinstance(self._model, Encoder):
            out = out[:, 1:].mean(dim=1)  # (n, 1 + N, D) -> (n, D), without CLS
        return list(out.float().cpu())

    def _slide(self, image: torch.Tensor) -> torch.Tensor:
        """(1, H, W) to (K, H, W)."""
        height, width = image.shape[-2:]
        canvas = image[0].to(self.device)
        return predict_canvas(self._model, canvas, height, width, "sliding", self.spec.inference.overlap).cpu()

    def encode(self, raw: torch.Tensor, decoded: Decoded, extras: Extras | None = None) -> dict[str, Any]:
        """An answer that can be written as JSON, from one output of `predict` and its image."""
        extras = extras or Extras()
        height, width = decoded.pixels.shape
        answer: dict[str, Any] = {
            "model": {key: getattr(self.spec, key) for key in ("name", "version", "kind", "licences")},
            "image": {
                "width": width,
                "height": height,
                "spacing_mm": decoded.spacing_mm,
                "frame": decoded.frame,
                "frames": decoded.frames,
            },
            "notice": NOTICE,
        }
        answer |= self._answer(raw, decoded, extras)
        if extras.preview:
            answer["image_png"] = png_base64(decoded.pixels)
        return answer

    def _segmentation(self, logits: torch.Tensor, decoded: Decoded, extras: Extras) -> dict[str, Any]:
        box = self.kept(decoded)
        part, probability = label_map(logits, (box.height, box.width))
        mask = np.zeros(decoded.pixels.shape, np.uint8)  # what was not looked at is background
        mask[box.top : box.top + box.height, box.left : box.left + box.width] = part
        area = np.bincount(mask.ravel(), minlength=len(self.spec.classes))
        inside = part > 0
        square_mm = None if decoded.spacing_mm is None else decoded.spacing_mm**2
        answer: dict[str, Any] = {
            "mask_png": png_base64(mask),
            "classes": [
                {
                    "index": index,
                    "name": name,
                    "colour": class_colour(index),
                    "area_px": int(area[index]),
                    "area_mm2": None if square_mm is None else float(area[index] * square_mm),
                }
                for index, name in enumerate(self.spec.classes)
            ],
            "mean_foreground_probability": float(probability[inside].mean()) if inside.any() else None,
        }
        if extras.overlay:
            answer["overlay_png"] = png_base64(overlay(decoded.pixels, mask))
        return answer

    def _classification(self, logits: torch.Tensor, _decoded: Decoded, _extras: Extras) -> dict[str, Any]:
        shares = logits.double().softmax(dim=0).tolist()
        top = max(range(len(shares)), key=shares.__getitem__)
        return {
            "probabilities": dict(zip(self.spec.classes, shares, strict=True)),
            "top": {"name": self.spec.classes[top], "probability": shares[top]},
        }

    def _multilabel(self, logits: torch.Tensor, _decoded: Decoded, _extras: Extras) -> dict[str, Any]:
        shares = logits.double().sigmoid().tolist()
        present = [name for name, share in zip(self.spec.classes, shares, strict=True) if share > PRESENT_ABOVE]
        return {"probabilities": dict(zip(self.spec.classes, shares, strict=True)), "present": present}

    def _regression(self, said: torch.Tensor, decoded: Decoded, _extras: Extras) -> dict[str, Any]:
        """A length that scales with size is a share of the kept part's side; in mm it needs the file's spacing."""
        named = {"target": self.spec.target, "unit": self.spec.unit}
        if not self.spec.scales_with_size:
            return named | {"value": float(said[0])}
        box = self.kept(decoded)
        length_px = float(said[0]) * math.sqrt(box.height * box.width)
        if self.spec.unit.startswith("px"):
            return named | {"value": length_px}
        value = None if decoded.spacing_mm is None else length_px * decoded.spacing_mm
        return named | {"value": value, "value_px": length_px}

    def _enhancement(self, restored: torch.Tensor, decoded: Decoded, _extras: Extras) -> dict[str, Any]:
        """What the network changed, at the file's own size, so that detail finer than its input stays."""
        box, seen = self.kept(decoded), self._cleaned(decoded)
        change = (restored - self.preprocess(decoded))[None]  # (1, 1, S, S)
        full = F.interpolate(change, size=seen.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
        whole_file = decoded.pixels.copy()  # what was not looked at stays as it is
        part = np.clip(np.rint(seen + 255 * full), 0, 255).astype(np.uint8)
        whole_file[box.top : box.top + box.height, box.left : box.left + box.width] = part
        return {"enhanced_png": png_base64(whole_file)}

    def _embedding(self, token: torch.Tensor, _decoded: Decoded, _extras: Extras) -> dict[str, Any]:
        return {"length": len(token), "embedding": token.tolist()}


def _frame(decoded: Decoded) -> Frame:
    return Frame(decoded.pixels, decoded.frame, chroma=decoded.chroma, region=decoded.region)


def _for_one_image(config: CleanConfig | None) -> CleanConfig | None:
    """The steps that change an image; a person who asks about a frame gets an answer, whatever it shows."""
    if config is None or not (config.crop or config.text == "mask"):
        return None
    text = "mask" if config.text == "mask" else "off"
    return config.model_copy(update={"text": text, "blank": "off", "doppler": "off", "frozen": "off"})


def label_map(logits: torch.Tensor, size: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Logits (K, S, S) at the image's own size (H, W): class indices uint8, and the winners' probability."""
    full = F.interpolate(logits[None], size=list(size), mode="bilinear", align_corners=False)[0]  # (K, H, W)
    best, winner = full.max(dim=0)
    probability = torch.exp(best - full.logsumexp(dim=0))
    return winner.to(torch.uint8).numpy(), probability.numpy()
