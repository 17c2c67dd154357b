"""What looks at a pre-training run while it trains; none of it changes the run.

Every `observe.every` steps, on rank 0: panels, gradient norms by part, probes and feature rank; the achieved mix in
every row. Time spent here is `observe_s` of the row and no part of `images_per_s`. The other workers of a DDP run
meanwhile wait at the next all-reduce, so an observation must take less than the process group's timeout (30 minutes
in Ray Train). Weights that are spread over workers (FSDP2) are gathered first, by all of them.

To watch is no reason to stop: what cannot be read or looked at is logged and left out, and the run goes on. A task
that cannot be scored at all is refused before the first step: `check_observing` finds it, and rows whose labels a
task refuses, before any worker starts. A run that goes on, and a worker that starts again hours later, leave out
the task that meets such a row; the other tasks stay.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from usfm.data.probe_set import ProbeSet, load_probe_set
from usfm.data.shard_reader import ShardReader
from usfm.errors import ConfigError, DataError, UsfmError
from usfm.metrics.rank import mean_cosine, rankme
from usfm.models.objective import Objective
from usfm.models.objectives import OBJECTIVES
from usfm.train.checkpoint import gather_weights
from usfm.train.context import WorkerContext
from usfm.train.journal import Journal, rows_until
from usfm.train.observe.check import without_task
from usfm.train.observe.features import extract
from usfm.train.observe.gradients import gradient_norms, parts_of
from usfm.train.observe.panel_figure import panel_figure
from usfm.train.observe.panels import PanelImages, draw_panels, panel_images
from usfm.train.observe.probing import probe
from usfm.train.observe.untouched import is_sharded, untouched
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

__all__ = ["Observers"]

SEED = 0  # of panels and probes: runs with different seeds are looked at with the same images, masks and folds
log = logging.getLogger(__name__)
T = TypeVar("T")


class Observers:
    """The observations of one worker; built after the objective is wrapped."""

    def __init__(
        self,
        config: PretrainConfig,
        plan: PretrainPlan,
        context: WorkerContext,
        objective: Objective,
        start: int,
        unwritten: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Read what is looked at: panel images and probe rows.

        Args:
            config: the run.
            plan: what follows from it.
            context: this worker.
            objective: unwrapped.
            start: step at which the run starts or goes on.
            unwritten: rows up to `start` that the run's file may lack.

        Raises:
            ConfigError: a probe task cannot be scored on its shards.
        """
        self.config, self.plan, self.context, self.objective = config, plan, context, objective
        self.looks = context.rank == 0
        self._norms: dict[str, torch.Tensor] = {}
        self._parts = parts_of(objective)
        self._drawn = dict.fromkeys(plan.rows_by_organ, 0)
        self._panels: PanelImages | None = None
        self._probe: ProbeSet | None = None
        self._failed: set[str] = set()
        if not self.looks:
            return
        for row in rows_until(Path(config.run_dir), start, unwritten):
            self._count(row)
        if 0 < config.observe.every <= plan.total_steps:
            self._read()

    def gradients(self, step: int) -> None:
        """Called with the gradients of the step that leads to `step`, before they are clipped."""
        if self._due(step) and self.config.observe.gradients:
            self._norms = gradient_norms(self._parts)

    def after(self, step: int, row: Mapping[str, Any], journal: Journal) -> dict[str, Any]:
        """Called after `step` steps by all workers; returns what to add to the row (nothing but on rank 0)."""
        began = time.perf_counter()
        self._count(row)
        spread = self._due(step) and is_sharded(self.objective)
        weights = gather_weights(self.objective) if spread else None  # all workers
        if not self.looks:
            return {}
        total = max(1, sum(self._drawn.values()))
        seen: dict[str, Any] = {f"mix/{organ}": count / total for organ, count in self._drawn.items()}
        if self._due(step):
            seen |= {f"grad/{part}": float(norm) for part, norm in self._norms.items()}
            objective = self._tried("copy of the model", step, lambda: self._whole(weights))
            if objective is not None:
                seen |= self._tried("probes", step, lambda: self._scores(objective.encoder)) or {}
                self._tried("panels", step, lambda: self._picture(objective, step, journal))
            seen["observe_s"] = time.perf_counter() - began
        return seen

    def _due(self, step: int) -> bool:
        every = self.config.observe.every
        return every > 0 and step % every == 0

    def _count(self, row: Mapping[str, Any]) -> None:
        for organ, count in row["organ_count"].items():
            self._drawn[organ] = self._drawn.get(organ, 0) + count

    def _read(self) -> None:
        config, observe = self.config, self.config.observe
        canvas_px, cache = config.data.canvas_px, config.data.cache

        def images() -> None:
            reader = ShardReader(config.data.shards, cache)
            self._panels = panel_images(reader, config.data, config.encoder.img_px, observe.panels, SEED)

        def refused(error: DataError) -> None:
            log.warning(without_task(error))

        def rows() -> None:
            if (asked := observe.probe) is not None:
                self._probe = load_probe_set(
                    asked.shards or config.data.shards, asked.tasks, asked.organ, asked.protocol,
                    asked.rows_per_class, canvas_px, cache, refused,
                )  # fmt: skip

        for read in (images, rows) if observe.panels else (rows,):
            try:
                read()
            except ConfigError:
                raise
            except (UsfmError, OSError) as error:  # a lost shard, a damaged image, a storage that is away
                log.warning("observations are incomplete: %s", error)

    def _tried(self, what: str, step: int, look: Callable[[], T]) -> T | None:
        """What `look` returns; None where it raises, which is logged, the first time with its traceback."""
        try:
            return look()
        except Exception as error:  # memory, somebody's solver, a storage: nothing of it is training
            text = "%s of step %d left out, training goes on: %s: %s"
            log.warning(text, what, step, type(error).__name__, error, exc_info=what not in self._failed)
            self._failed.add(what)
            return None

    def _whole(self, weights: dict[str, torch.Tensor] | None) -> Objective:
        """The objective to look at: the one in training, or a copy with the weights that are spread out there."""
        if weights is None:
            return self.objective
        config = self.config
        with untouched(self.objective):  # building draws weights
            plain = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed)
            plain.load_state_dict(weights)
        return plain.to(self.context.device)

    def _scores(self, encoder: Any) -> dict[str, float]:
        asked = self.config.observe.probe
        if asked is None or self._probe is None or len(self._probe) < 2:
            return {}
        features = extract(encoder, self._probe, self.context.device)
        if not np.isfinite(features.pooled).all():
            log.warning("features are not finite; probes are left out")
            return {}
        seen = {"rank/rankme": rankme(features.pooled), "rank/mean_cosine": mean_cosine(features.pooled)}
        for result in probe(self._probe, features, asked, SEED):
            for name, score in result.scores.items():
                seen[f"probe/{result.task.name}/{name}"] = score.value
                if asked.bootstrap:
                    seen[f"probe/{result.task.name}/{name}_low"] = score.low
                    seen[f"probe/{result.task.name}/{name}_high"] = score.high
        return seen

    def _picture(self, objective: Objective, step: int, journal: Journal) -> None:
        if self._panels is None:
            return
        if panels := draw_panels(objective, self._panels, self.context.device):
            images = step * self.config.batch.global_size
            title = f"{Path(self.config.run_dir).name} · step {step:,} · {images:,} images"
            try:
                journal.picture(step, "panels", panel_figure(panels, title))
            except OSError as error:  # a full disk
                log.warning("the panels of step %d were not written: %s", step, error)
