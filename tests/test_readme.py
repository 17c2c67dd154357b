"""The README says what is true: its commands run, its tree exists, its targets are in the Makefile."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from ray_jobs.cli import COMMANDS
from ray_jobs.cli import main as usfm
from ray_jobs.finetune import FinetuneJobConfig
from ray_jobs.ingest import IngestConfig
from ray_jobs.job import recipe_path
from ray_jobs.pretrain import PretrainJobConfig
from usfm.config import load_config
from usfm.data.assemble import assemble
from usfm.data.catalogue import Catalogue
from usfm.data.fragments import process_chunk, row_settings
from usfm.data.simulate import write_archive
from usfm.data.sources.table import list_items
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.rundir import open_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMAND_LINES = [line for line in LINES if line.startswith("usfm ") and line != "usfm doctor"]


def test_make_targets_exist_and_ci_calls_the_same() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in LINES if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in [*targets, "check"]:
        assert re.search(rf"^{target}:", makefile, flags=re.M)
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert ci == ["make check", "make test"]


def test_the_tree_exists_and_is_short_enough() -> None:
    assert len(README.splitlines()) <= 200
    tree = README.split("## The code, in reading order")[1].split("```")[1]
    for name in re.findall(r"[a-z_/]+\.(?:py|html|md)\b", tree):
        assert list(ROOT.glob(f"**/{name}")), f"{name} is in the README's tree but nowhere else"
    for package in ("usfm", "ray_jobs", "serve_apps"):
        for folder in (ROOT / package).iterdir():
            if folder.is_dir() and list(folder.glob("*.py")):
                assert f"{folder.name}/" in tree, f"{folder} is missing in the README's tree"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that every split has heads and hearts."""
    counts = {"fetal_head": 40, "heart": 100, "lung": 6}
    return write_archive(tmp_path_factory.mktemp("archive"), counts, packaged=False).parent


@pytest.fixture(scope="module")
def used_folder(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a user has ingested, pre-trained, fine-tuned and exported a little, without Ray."""
    folder = tmp_path_factory.mktemp("used")
    shards, run_dir = folder / "runs" / "shards", folder / "runs" / "pretrain_tiny"
    config = IngestConfig()
    listed = Catalogue(folder / "catalogue.sqlite", list_items(archive).entries)
    listed.cut(config.items_per_chunk, row_settings(config.prepare))
    for chunk in listed.chunks():
        process_chunk(chunk, shards, config.prepare)
    assemble(
        listed.chunk_keys(),
        shards,
        "readme",
        config.rows_per_shard,
        listed.rejected(),
        prepare=config.prepare,
        split=config.split,
        duplicates=config.duplicates.model_copy(update={"near": False}),  # simulated hearts look alike
    )
    listed.close()

    values = [f"data.shards={shards}", f"run_dir={run_dir}"]
    job = load_config(PretrainJobConfig, recipe_path("pretrain_tiny"), values)
    science, context = job.science(), PlainContext()
    open_run(run_dir, job, {})
    pretrain(science, context, lambda s, p: local_feed(s, p, science, context), stop_after=1)
    assert usfm(["export", str(run_dir)]) == 0

    tuned = folder / "runs" / "finetune_fetal_head"
    values = [f"shards={shards}", f"run_dir={tuned}", f"init={run_dir}", "steps=1"]
    tuning = load_config(FinetuneJobConfig, recipe_path("finetune_fetal_head"), values).science()
    open_run(tuned, tuning, {})
    finetune(tuning, PlainContext())
    (folder / "ray_jobs").mkdir()
    (folder / "ray_jobs" / "recipes").symlink_to(ROOT / "ray_jobs" / "recipes")
    return folder


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_of_the_readme_plans(
    line: str, used_folder: Path, archive: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(used_folder)
    if "optim.lr" in line:  # the folder holds a run with the recipe's own rate
        line += " run_dir=runs/other"
    words = [word.replace("/data/archive", str(archive)) for word in shlex.split(line)]
    assert words[1] in COMMANDS
    assert usfm([*words[1:], "--dry-run"]) == 0, capsys.readouterr().out


def test_the_job_line_names_real_files() -> None:
    line = next(line for line in LINES if line.startswith("ray job submit"))
    words = shlex.split(line)
    words = words[words.index("--") + 1 :]
    assert words[:2] == ["python", "-m"]
    module = importlib.import_module(words[2])
    assert callable(module.main)
    config = load_config(PretrainJobConfig, ROOT / words[words.index("--config") + 1], words[5:])
    assert (config.workers, config.gpus_per_worker) == (8, 1)
