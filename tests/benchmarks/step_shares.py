"""Where the time of a step goes: the same operations as `PretrainStep`, with a mark between the parts.

The backward pass is cut at the same places as the forward pass, so a part's share holds both directions.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from step_material import Trained
from torch import nn

from usfm.data.augment import random_crops
from usfm.data.sample_digest import batch_digest
from usfm.masking.dual import Corrupted
from usfm.masking.frequency import band_stop, choose_bands
from usfm.masking.patches import fill_hidden, patch_mask, upsample_mask
from usfm.train.optim import set_learning_rate

PARTS = ("data_wait", "augment", "masks", "fft", "encoder", "decoder", "loss", "optimizer")


@dataclass
class Marks:
    """Seconds by part; on CUDA by events, which cost the device nothing."""

    device: torch.device
    clock: Callable[[], float] = time.perf_counter
    _marks: list[tuple[str, object]] = field(default_factory=list)

    def start(self) -> None:
        """Before the first part of a step."""
        self._marks = [("", self._now())]

    def end_of(self, part: str) -> None:
        """All since the mark before belongs to this part."""
        self._marks.append((part, self._now()))

    def seconds(self) -> dict[str, float]:
        """Of the step just marked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._marks[:-1], self._marks[1:], strict=True):
            found[part] += before.elapsed_time(after) / 1e3 if self.device.type == "cuda" else after - before  # type: ignore[attr-defined, operator]
        return found

    def _now(self) -> object:
        if self.device.type != "cuda":
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def marked_step(trained: Trained, marks: Marks) -> dict[str, float]:
    """One optimizer step in parts; returns seconds by part."""
    config, objective, step = trained.config, trained.objective, trained.step
    mask, device = objective.mask, marks.device
    lanes = config.batch.lanes(1)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    set_learning_rate(trained.optimizer, 1e-6)
    marks.start()
    for _ in range(lanes):
        _, batch = step.prefetch.take(trained.batches)
        digest = batch_digest(batch)
        marks.end_of("data_wait")
        images = random_crops(batch, config.encoder.img_px, config.crop, config.seed)
        marks.end_of("augment")
        chosen = choose_bands(batch["index"], len(mask.bands), mask.removed, mask.seed)
        tokens = patch_mask(batch["index"], mask.size_px, mask.patch_px, mask.spatial, mask.seed)
        pixels = upsample_mask(tokens, mask.patch_px)
        marks.end_of("masks")
        stopped = band_stop(images, mask.bands, chosen) if mask.removed else images
        marks.end_of("fft")
        filled = fill_hidden(stopped, pixels, mask.spatial, batch["index"], mask.seed)
        marks.end_of("masks")
        corrupted = Corrupted(filled, tokens, chosen, stopped)
        with torch.autocast(device.type, torch.bfloat16, enabled=step.bf16):
            encoded = objective.encoder(corrupted.images, corrupted.tokens)
            marks.end_of("encoder")
            cut = encoded.detach().requires_grad_()
            decoded = objective.decoder(cut[:, 1:]).float()
            marks.end_of("decoder")
            predicted = decoded.detach().requires_grad_()
            out = objective.compare(images, corrupted, predicted)
        (out.loss / lanes).backward()
        sums += torch.stack([out.loss.detach().double(), digest])
        marks.end_of("loss")
        decoded.backward(predicted.grad)
        marks.end_of("decoder")
        encoded.backward(cut.grad)
        marks.end_of("encoder")
        step.prefetch.look_ahead(trained.batches)
        marks.end_of("data_wait")
    norm = nn.utils.clip_grad_norm_(objective.parameters(), config.optim.clip_norm or math.inf)
    torch.cat([sums, norm.double()[None]]).tolist()
    trained.optimizer.step()
    trained.optimizer.zero_grad(set_to_none=True)
    marks.end_of("optimizer")
    trained.taken += 1
    return marks.seconds()
