import json
from pathlib import Path

import pytest
import yaml

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.errors import ConfigError, DataError


class Inner(Config):
    lr: float = 0.5


class Toy(Config):
    run_dir: str = "runs/toy"
    steps: int = 3
    optim: Inner = Inner()


def never(config: Toy, console: Console) -> None:
    raise AssertionError("a dry run must not run")


def main(argv: list[str], run=never, **options) -> int:
    return job.main(Toy, run, lambda c: {"total": c.steps * 2}, argv, description="a toy", **options)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_prints_config_and_plan_and_touches_nothing(here: Path, capsys) -> None:
    assert main(["--dry-run", "steps=7", "optim.lr=3e-4"]) == 0
    config, plan = capsys.readouterr().out.split("--- plan\n")
    assert yaml.safe_load(config) == {"run_dir": "runs/toy", "steps": 7, "optim": {"lr": 3e-4}}
    assert json.loads(plan) == {"total": 14}
    assert list(here.iterdir()) == []


def test_run_gets_the_resolved_config(here: Path) -> None:
    seen = []
    (here / "toy.yaml").write_text("steps: 5\noptim: {lr: 2}\n")
    assert main(["--config", "toy.yaml", "optim.lr=1"], run=lambda config, _: seen.append(config)) == 0
    assert seen == [Toy(steps=5, optim=Inner(lr=1))]


@pytest.mark.parametrize(("key", "near"), [("stpes", "steps"), ("optim.lrr", "optim.lr")])
def test_an_unknown_key_names_the_nearest(key: str, near: str, capsys) -> None:
    assert main(["--dry-run", f"{key}=1"]) == 2
    assert f"unknown key {key}; did you mean {near}?" in capsys.readouterr().out


def test_a_positional_sets_its_key(capsys) -> None:
    assert main(["--dry-run", "runs/other", "steps=1"], positional="run_dir") == 0
    config = yaml.safe_load(capsys.readouterr().out.split("--- plan\n")[0])
    assert (config["run_dir"], config["steps"]) == ("runs/other", 1)


def test_a_positional_without_a_key_is_refused(capsys) -> None:
    assert main(["--dry-run", "runs/other"]) == 2
    assert "is not of the form key.sub=value" in capsys.readouterr().out


def test_help_exits_0(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "a toy" in capsys.readouterr().out


def test_help_names_the_command_and_explains_every_key_also_inherited_ones(capsys) -> None:
    class Longer(Toy):
        """A toy with another key.

        Attributes:
            seed: of all draws.
        """

        seed: int = 0

    class Longest(Longer):
        """And one more.

        Attributes:
            workers: of Ray,
                one CPU each.
        """

        workers: int = 1

    with pytest.raises(SystemExit):
        job.main(Longest, never, lambda c: {}, ["--help"], description="a toy", command="toy")
    said = capsys.readouterr().out
    assert said.startswith("usage: usfm toy ")
    assert said.endswith("keys:\n    seed: of all draws.\n    workers: of Ray,\n        one CPU each.\n")


def test_an_error_of_ours_is_a_message_without_a_traceback(capsys) -> None:
    def broken(config: Toy, console: Console) -> None:
        raise DataError("shards [a] are missing; run `usfm ingest`")

    assert main([], run=broken) == 2
    captured = capsys.readouterr()
    assert captured.out.strip() == "error: shards [a] are missing; run `usfm ingest`"
    assert "Traceback" not in captured.out + captured.err


def test_an_error_of_the_plan_is_told_too(capsys) -> None:
    def refusing(config: Toy) -> dict:
        raise ConfigError("sizes do not fit")

    assert job.main(Toy, never, refusing, ["--dry-run"], description="a toy") == 2
    assert capsys.readouterr().out.strip() == "error: sizes do not fit"


def test_any_other_error_is_not_hidden() -> None:
    def broken(config: Toy, console: Console) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main([], run=broken)


def test_an_interruption_exits_130(capsys) -> None:
    def stopped(config: Toy, console: Console) -> None:
        raise KeyboardInterrupt

    assert main([], run=stopped) == 130
    assert "interrupted" in capsys.readouterr().out


def test_recipes_are_found_by_name_and_by_path(here: Path) -> None:
    built_in = job.RECIPES / "demo.yaml"
    assert job.recipe_path("demo") == job.recipe_path("demo.yaml") == job.recipe_path(str(built_in)) == built_in
    assert job.recipe_path(None) is None
    assert job.recipe_path("elsewhere/demo.yaml") == Path("elsewhere/demo.yaml")  # a wrong path is not guessed at
    (here / "demo.yaml").touch()
    assert job.recipe_path("demo.yaml") == Path("demo.yaml")  # what is here goes first


def test_a_missing_recipe_is_said(here: Path, capsys) -> None:
    assert main(["--config", "elsewhere/demo.yaml", "--dry-run"]) == 2
    assert "no recipe at elsewhere/demo.yaml" in capsys.readouterr().out


def test_the_jobs_own_recipe_is_the_default(here: Path, capsys) -> None:
    (here / "mine.yaml").write_text("steps: 9\n")
    assert main(["--dry-run"], recipe="mine.yaml") == 0
    assert "steps: 9" in capsys.readouterr().out


def test_the_pretraining_plan_needs_no_shards(tmp_path, monkeypatch, capsys) -> None:
    from ray_jobs import pretrain

    monkeypatch.chdir(tmp_path)
    assert pretrain.main(["--config", "pretrain_tiny", "seed=2", "--dry-run", "workers=1"]) == 0
    said = capsys.readouterr().out
    assert "run `usfm ingest` first" in said
    assert '"hidden_tokens": 22' in said
    assert '"accumulation": 2' in said
    assert list(tmp_path.iterdir()) == []
