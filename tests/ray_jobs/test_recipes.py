from collections import Counter
from pathlib import Path

import pytest

from ray_jobs.demo import DemoConfig
from ray_jobs.finetune import FinetuneJobConfig
from ray_jobs.ingest import IngestConfig
from ray_jobs.job import RECIPES
from ray_jobs.pretrain import PretrainJobConfig
from ray_jobs.probe import ProbeJobConfig
from ray_jobs.sweep import SweepConfig, trials
from ray_jobs.sweep_config import studies
from usfm.config import Config, load_config
from usfm.masking.patches import hidden_units
from usfm.train.feature_cache import cacheable

JOBS: dict[str, type[Config]] = {
    "cross_source.yaml": SweepConfig,
    "demo.yaml": DemoConfig,
    "finetune_enhance.yaml": FinetuneJobConfig,
    "finetune_fetal_head.yaml": FinetuneJobConfig,
    "finetune_head_circumference.yaml": FinetuneJobConfig,
    "finetune_lung.yaml": FinetuneJobConfig,
    "finetune_usfm_classification.yaml": FinetuneJobConfig,
    "finetune_usfm_segmentation.yaml": FinetuneJobConfig,
    "ingest.yaml": IngestConfig,
    "frozen_probe.yaml": SweepConfig,
    "label_efficiency.yaml": SweepConfig,
    "label_efficiency_classes.yaml": SweepConfig,
    "label_efficiency_classes_small.yaml": SweepConfig,
    "label_efficiency_enhance.yaml": SweepConfig,
    "label_efficiency_small.yaml": SweepConfig,
    "label_efficiency_tiny.yaml": SweepConfig,
    "nerve_vessel.yaml": SweepConfig,
    "nerve_vessel_small.yaml": SweepConfig,
    "pretrain_base.yaml": PretrainJobConfig,
    "pretrain_corpus.yaml": PretrainJobConfig,
    "pretrain_small.yaml": PretrainJobConfig,
    "pretrain_tiny.yaml": PretrainJobConfig,
    "probe_corpus.yaml": ProbeJobConfig,
    "search.yaml": SweepConfig,
    "search_classes_small.yaml": SweepConfig,
    "search_small.yaml": SweepConfig,
}


def load(name: str) -> Config:
    return load_config(JOBS[name], RECIPES / name)


def pretrain_of(name: str) -> PretrainJobConfig:
    config = load(name)
    return config.pretrain if isinstance(config, DemoConfig) else config


def sweep_of(name: str) -> SweepConfig:
    config = load(name)
    return config.sweep if isinstance(config, DemoConfig) else config


def names(*kinds: type[Config]) -> list[str]:
    return [name for name, kind in JOBS.items() if kind in kinds]


def test_every_recipe_has_its_job() -> None:
    assert {path.name for path in RECIPES.iterdir()} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load(name)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(JOBS[name], tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", names(PretrainJobConfig, DemoConfig))
def test_pretraining_sizes_fit(name: str) -> None:
    config = pretrain_of(name)
    lanes = config.batch.lanes(config.workers)  # raises where they do not divide
    assert lanes % config.workers == 0
    assert lanes * config.batch.micro_size == config.batch.global_size
    units, hidden = hidden_units(config.encoder.img_px, config.encoder.patch_px, config.objective.spatial_mask)
    assert 0 < hidden < units**2
    assert config.objective.frequency_mask.removed(config.encoder.img_px) >= 1
    assert config.data.canvas_px >= config.encoder.img_px


def test_the_base_recipe_is_the_papers_size() -> None:
    config = pretrain_of("pretrain_base.yaml")
    assert (config.encoder.size, config.encoder.grid) == ("base", 14)
    assert hidden_units(224, 16, config.objective.spatial_mask) == (7, 30)  # 120 of 196 tokens
    assert config.optim.peak_lr(config.batch.global_size) == pytest.approx(2e-4)
    assert config.batch.lanes(config.workers) == config.workers  # one pass per worker and step


@pytest.mark.parametrize("name", names(SweepConfig, DemoConfig))
def test_sweeps_build_every_trial(name: str) -> None:
    config = sweep_of(name)
    made = {name: trial.config for name, trial in trials(config).items()}
    found = studies(config)
    if config.search is not None and config.search.algorithm == "random":
        assert len(made) == config.search.samples * len(found)
        return
    if config.search is not None:
        assert made == {}  # Optuna's points are not known before
        made = {f"{s.task.name} {s.init}": s.trial(config.fractions[0], config.seeds[0]).config for s in found}
    assert len(made) == sum(len(s.fractions) for s in found) * len(config.seeds)
    assert {trial.fraction for trial in made.values()} == set(config.fractions)
    assert len({trial.run_dir for trial in made.values()}) == len(made)
    for trial in made.values():
        assert trial.batch_size % max(1, config.workers_per_trial) == 0


def test_the_frozen_recipe_is_90_trials_a_task_that_learn_from_the_cache() -> None:
    made = [trial.config for trial in trials(sweep_of("frozen_probe.yaml")).values()]
    assert Counter(config.task.name for config in made) == {"heart_view": 90, "heart_phase": 90, "lung": 90}
    assert all(cacheable(config) for config in made)
    # five seeds, five folds: every patient is tested once in each cell
    assert Counter(config.task.fold for config in made) == dict.fromkeys(range(5), 54)
    assert all((config.task.split_by, config.task.fold) == ("folds", config.seed % 5) for config in made)


@pytest.mark.parametrize(
    ("search", "table"), [("search", "label_efficiency"), ("search_small", "label_efficiency_small")]
)
def test_what_a_search_finds_fits_the_table_that_it_is_for(search: str, table: str) -> None:
    found = [(study.task.name, study.init) for study in studies(sweep_of(f"{search}.yaml"))]
    if search == "search_small":  # of the ViTs alone; the table states the rest
        found.append(("fetal_head", "unet"))
    tuned: dict[str, dict[str, dict[str, float]]] = {}
    for task, init in found:
        tuned.setdefault(task, {})[init] = {"layer_decay": 0.9}
    config = sweep_of(f"{table}.yaml").model_copy(update={"tuned": tuned})
    assert {trial.config.layer_decay for trial in trials(config).values()} == {0.9}


def test_whole_networks_learn_the_tasks_of_the_frozen_heads() -> None:
    assert sweep_of("label_efficiency_classes.yaml").tasks == sweep_of("frozen_probe.yaml").tasks


@pytest.mark.parametrize("name", names(FinetuneJobConfig))
def test_finetuning_starts_from_a_run_that_a_recipe_makes(name: str) -> None:
    config = load(name)
    assert isinstance(config, FinetuneJobConfig)
    assert config.batch_size % config.workers == 0
    assert config.init in {pretrain_of(recipe).run_dir for recipe in names(PretrainJobConfig)}


def test_the_downstream_recipes_are_the_authors() -> None:
    classification, segmentation = (
        load("finetune_usfm_classification.yaml"),
        load("finetune_usfm_segmentation.yaml"),
    )
    assert isinstance(classification, FinetuneJobConfig)
    assert isinstance(segmentation, FinetuneJobConfig)
    assert (classification.optim.lr, segmentation.optim.lr) == (1.25e-3, 3e-4)
    assert (segmentation.img_px, segmentation.rotate90, segmentation.flip_vertical) == (512, 0.5, 0.5)
    assert (classification.head.name, segmentation.head.name) == ("linear", "upernet")
    for config in (classification, segmentation):
        assert (config.layer_decay, config.optim.clip_norm, config.optim.base_batch) == (0.65, 5.0, 512)
