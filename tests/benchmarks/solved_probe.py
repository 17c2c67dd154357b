"""Is it the solver or the labels? Logistic regression on the frozen features of a sweep's linear heads.

    python tests/benchmarks/solved_probe.py --config frozen_probe --inits linear untrained --fractions 0.2 1.0

The trials are the sweep's own (rows, fractions, seeds, folds), the features those that its linear head takes: the
mean of the normed patch tokens after the head's LayerNorm. In place of gradient steps that a validation set stops,
scikit-learn solves each trial, with the L2 penalty that is best over grouped folds of the training patients alone.
Prints the mean test score (balanced accuracy) of each point over the seeds, and those of the seeds. Exit status: 0
all are solved, 1 the sweep or a trial is refused (the reason is said), 2 the command line, or names of no trial.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ray_jobs.console import Console  # noqa: E402
from ray_jobs.job import recipe_path  # noqa: E402
from ray_jobs.sweep_config import SweepConfig, Trial, trials  # noqa: E402
from usfm.config import load_config  # noqa: E402
from usfm.data.augment import whole_images  # noqa: E402
from usfm.data.fractions import fraction_rows  # noqa: E402
from usfm.data.labelled_set import LabelledSet  # noqa: E402
from usfm.data.tasks import load_task  # noqa: E402
from usfm.errors import ConfigError, UsfmError  # noqa: E402
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 = refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="name of a recipe, or a YAML file")
    parser.add_argument("--inits", nargs="+", required=True)
    parser.add_argument("--fractions", nargs="+", type=float, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(argv)
    try:
        planned = [*trials(load_config(SweepConfig, recipe_path(options.config), options.overrides)).values()]
        asked = [t for t in planned if t.init in options.inits and t.config.fraction in options.fractions]
        for among, said in ((planned, ""), (asked, " among those asked for")):
            if lacking := _lacking(options.inits, options.fractions, among):
                parser.error(f"{options.config} has no trials of {lacking}{said}")
        _solve(asked)
    except UsfmError as error:
        Console().error(str(error))
        return 1
    return 0


def _lacking(inits: Sequence[str], fractions: Sequence[float], among: Iterable[Trial]) -> str:
    """What has no trial, as one would ask for it; "" if nothing."""
    there = {value for trial in among for value in (trial.init, trial.config.fraction)}
    named = (("--inits", inits), ("--fractions", fractions))
    return " ".join(f"{option} {value}" for option, values in named for value in values if value not in there)


def _solve(asked: Iterable[Trial]) -> None:
    scores: dict[tuple[str, str, float], list[float]] = {}
    for trial in asked:
        point = (trial.config.task.name, trial.init, trial.config.fraction)
        scores.setdefault(point, []).append(solved_score(trial.config))
    for (task, init, fraction), of in scores.items():
        print(f"{task} {init} {fraction:g}: {np.mean(of):.3f} ({', '.join(f'{one:.3f}' for one in of)})")


if __name__ == "__main__":
    sys.exit(main())
