"""Is it the solver or the labels? Logistic regression on the frozen features of a sweep's linear heads.

    python tests/benchmarks/solved_probe.py --config frozen_probe --inits linear untrained --fractions 0.2 1.0

The trials are the sweep's own (rows, fractions, seeds, folds), the features those that its linear head takes: the
mean of the normed patch tokens after the head's LayerNorm. In place of gradient steps that a validation set stops,
scikit-learn solves each trial, with the L2 penalty that is best over grouped folds of the training patients alone.
Prints the mean test score (balanced accuracy) of each point over the seeds, and those of the seeds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ray_jobs.job import RECIPES  # noqa: E402
from ray_jobs.sweep_config import SweepConfig, trials  # noqa: E402
from usfm.config import load_config  # noqa: E402
from usfm.data.augment import whole_images  # noqa: E402
from usfm.data.fractions import fraction_rows  # noqa: E402
from usfm.data.labelled_set import LabelledSet  # noqa: E402
from usfm.data.tasks import load_task  # noqa: E402
from usfm.errors import ConfigError  # noqa: E402
from usfm.metrics.classification import balanced_accuracy  # noqa: E402
from usfm.metrics.probe import Floats, choose_strength, linear_predict  # noqa: E402
from usfm.models.heads.linear import LinearHead  # noqa: E402
from usfm.models.task_model import TaskModel  # noqa: E402
from usfm.train.finetune_config import FinetuneConfig  # noqa: E402
from usfm.train.finetune_network import first_network  # noqa: E402

STRENGTHS = [1e-3, 1e-2, 1e-1, 1.0, 10.0]


def solved_score(config: FinetuneConfig) -> float:
    """Test score of one trial's linear head, solved instead of trained.

    Raises:
        ConfigError: the trial is no classification by a linear head on a frozen encoder that sees whole images.
    """
    network = first_network(config)
    linear = isinstance(network, TaskModel) and isinstance(network.head, LinearHead)
    if not linear or (config.task.kind, config.freeze_encoder, config.views) != ("classification", True, "whole"):
        raise ConfigError(f"{config.run_dir}: no linear head on a frozen encoder that classifies whole images")
    sets = load_task(config.shards, config.task)
    train, test = sets["train"], sets["test"]
    rows = fraction_rows(train, config.task, config.fraction, config.seed)
    fit, labels = _features(network, train)[rows], train.label[rows]
    strength = choose_strength(fit, labels, [train.groups[n] for n in rows], STRENGTHS, config.seed)
    return balanced_accuracy(linear_predict(fit, labels, _features(network, test), strength), test.label)


@torch.inference_mode()
def _features(network: TaskModel, data: LabelledSet) -> Floats:
    """(n, D) what the linear layer of the head takes of each whole image."""
    network.eval()
    canvases, high, wide = (torch.from_numpy(of) for of in (data.image, data.height, data.width))
    _, normed = network.features(whole_images(canvases, high, wide, network.img_px))
    made: Floats = network.head.norm(normed[:, 1:].mean(dim=1)).numpy()
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="name of a recipe, or a YAML file")
    parser.add_argument("--inits", nargs="+", required=True)
    parser.add_argument("--fractions", nargs="+", type=float, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(argv)
    recipe = RECIPES / f"{options.config}.yaml"
    config = load_config(SweepConfig, recipe if recipe.is_file() else options.config, options.overrides)
    scores: dict[tuple[str, str, float], list[float]] = {}
    for trial in trials(config).values():
        if trial.init in options.inits and trial.config.fraction in options.fractions:
            point = (trial.config.task.name, trial.init, trial.config.fraction)
            scores.setdefault(point, []).append(solved_score(trial.config))
    for name, asked, place in (("inits", options.inits, 1), ("fractions", options.fractions, 2)):
        if lacking := set(asked) - {point[place] for point in scores}:
            parser.error(
                f"--{name}: {options.config} has no trials of {', '.join(map(str, lacking))} among those asked for"
            )
    for (task, init, fraction), of in scores.items():
        print(f"{task} {init} {fraction:g}: {np.mean(of):.3f} ({', '.join(f'{one:.3f}' for one in of)})")


if __name__ == "__main__":
    main()
