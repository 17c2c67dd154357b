"""Score features on the tasks of a probe set: who predicted what, and how good that is."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from usfm.data.folds import group_folds
from usfm.data.probe_set import ProbeSet, ProbeTask
from usfm.metrics.intervals import Score, class_scores, mean_score
from usfm.metrics.probe import (
    choose_strength,
    choose_threshold,
    fit_token_map,
    knn_predict,
    linear_predict,
    token_shares,
)
from usfm.metrics.segmentation import overlap
from usfm.rng import stream_key
from usfm.train.observe.config import ProbeConfig
from usfm.train.observe.features import Features

__all__ = ["ProbeResult", "probe"]

TOKENS_TO_FIT = 40_000
ROWS_FOR_THRESHOLD = 60
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProbeResult:
    """One task on one set of features.

    Attributes:
        task: the task.
        fitted: rows behind a fit (of all folds together, each row once).
        scores: name -> value with its interval over patients, e.g. `linear_macro_f1`.
        ids: scored rows, in order.
        groups: their patients.
        truth: (m,) class numbers; all zero for segmentation.
        items: prediction or score of each row: "knn" and "linear" hold class numbers, "linear_dice" and
            "linear_iou" values in [0, 1].
    """

    task: ProbeTask
    fitted: int
    scores: dict[str, Score]
    ids: list[str]
    groups: list[str]
    truth: Ints
    items: dict[str, npt.NDArray[Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the items."""
        counts = np.bincount(self.truth, minlength=len(self.task.classes)).tolist()
        task = self.task
        of_class = dict(zip(task.classes, counts, strict=True)) if task.kind == "classification" else None
        return {
            "kind": task.kind, "protocol": task.protocol, "classes": task.classes, "left_out": task.left_out,
            "unlisted": task.unlisted, "fitted": self.fitted, "scored": len(self.ids),
            "scored_groups": len(set(self.groups)), "scored_by_class": of_class,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }  # fmt: skip


def probe(rows: ProbeSet, features: Features, config: ProbeConfig, seed: int) -> list[ProbeResult]:
    """Fit and score every task; a function of its arguments alone.

    Args:
        rows: tasks and rows.
        features: of exactly these rows.
        config: of the probes.
        seed: of folds and intervals; the same for models that are compared.
    """
    return [_probe_task(rows, task, features, config, seed) for task in rows.tasks]


def _probe_task(rows: ProbeSet, task: ProbeTask, features: Features, config: ProbeConfig, seed: int) -> ProbeResult:
    groups = [rows.groups[n] for n in task.rows]
    rounds = _rounds(task, rows.held_out[task.rows], groups, config, stream_key(seed, "probe folds", task.name))
    ask = _classify if task.kind == "classification" else _segment
    # every scored row is asked once, over all rounds
    answers = [(out, ask(task, features, fit, out, groups, config, seed)) for fit, out in rounds]
    order = np.concatenate([out for out, _ in answers])
    sort = np.argsort(order, kind="stable")
    items = {name: np.concatenate([made[name] for _, made in answers])[sort] for name in answers[0][1]}
    scored = order[sort]
    of_scored, truth = [groups[n] for n in scored], task.labels[scored]
    scores: dict[str, Score] = {}
    for name, values in items.items():
        if task.kind == "classification":
            found = class_scores(values, truth, of_scored, len(task.classes), config.bootstrap, seed)
            scores |= {f"{name}_{score}": value for score, value in found.items()}
        else:
            scores[name] = mean_score(values, of_scored, config.bootstrap, seed)
    ids = [rows.ids[task.rows[n]] for n in scored]
    fitted = len(rounds[0][0]) if len(rounds) == 1 else len(task.rows)
    return ProbeResult(task, fitted, scores, ids, of_scored, truth, items)


def _rounds(
    task: ProbeTask, held_out: npt.NDArray[np.bool_], groups: list[str], config: ProbeConfig, seed: int
) -> list[tuple[Ints, Ints]]:
    """(rows to fit, rows to score) of each round, as positions in the task."""
    if task.protocol == "split":
        return [(np.flatnonzero(~held_out), np.flatnonzero(held_out))]
    of_class = [{g for g, y in zip(groups, task.labels, strict=True) if y == k} for k in set(task.labels.tolist())]
    folds = min(config.folds, *map(len, of_class))
    number = group_folds(task.labels, groups, folds, seed)
    made = [(np.flatnonzero(number != fold), np.flatnonzero(number == fold)) for fold in range(folds)]
    return [(fit, out) for fit, out in made if len(out)]


def _classify(
    task: ProbeTask, features: Features, fit: Ints, out: Ints, groups: list[str], config: ProbeConfig, seed: int
) -> dict[str, npt.NDArray[Any]]:
    pooled = features.pooled[task.rows].astype(np.float64)
    x, y, asked = pooled[fit], task.labels[fit], pooled[out]
    strength = choose_strength(x, y, [groups[n] for n in fit], config.strengths, stream_key(seed, "strength"))
    return {
        "knn": knn_predict(x, y, asked, len(task.classes), config.neighbours, config.temperature),
        "linear": linear_predict(x, y, asked, strength),
    }


def _segment(
    task: ProbeTask, features: Features, fit: Ints, out: Ints, groups: list[str], config: ProbeConfig, seed: int
) -> dict[str, npt.NDArray[Any]]:
    classes = len(task.classes)
    tokens = np.stack([features.tokens[int(task.rows[n])] for n in fit])  # (n, G, G, D)
    grid, width = tokens.shape[2], tokens.shape[3]
    shares = np.stack([token_shares(task.masks[n], classes, grid) for n in fit]).reshape(-1, classes)
    flat = tokens.reshape(-1, width)
    step = -(-len(flat) // TOKENS_TO_FIT)
    token_map = fit_token_map(flat[::step], shares[::step])

    def maps(n: int) -> npt.NDArray[np.float64]:
        """Share of each class at every pixel of the mask, (K, H, W)."""
        predicted = features.tokens[int(task.rows[n])] @ token_map[0] + token_map[1]  # (G, G, K)
        grown = torch.from_numpy(predicted).permute(2, 0, 1)[None]
        return F.interpolate(grown, task.masks[n].shape, mode="bilinear", align_corners=False)[0].numpy()

    # a share of a half never comes where masks are small: the threshold is fitted too
    threshold = choose_threshold(
        [(1 - maps(n)[0], task.masks[n] > 0) for n in fit[:: -(-len(fit) // ROWS_FOR_THRESHOLD)]]
    )
    dice, iou = [], []
    for n in out:
        of_class = maps(n)
        drawn = np.where(1 - of_class[0] > threshold, of_class[1:].argmax(axis=0) + 1, 0)
        each = overlap(drawn, task.masks[n], classes)
        dice.append(each[0])
        iou.append(each[1])
    return {"linear_dice": np.array(dice), "linear_iou": np.array(iou)}
