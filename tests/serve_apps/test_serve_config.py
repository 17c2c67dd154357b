import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bundle_factory import write_bundles

from serve_apps.config import ServeConfig, served_specs
from serve_apps.serve import free_port, main, plan
from usfm.errors import CheckpointError, ConfigError, EnvironmentProblem


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


def test_text_arguments_of_serve_run_are_understood() -> None:
    config = ServeConfig.build({"bundles": "a, b", "port": "9000", "num_gpus_per_model": "0.5"})
    assert (config.bundles, config.port, config.num_gpus_per_model) == (["a", "b"], 9000, 0.5)


def test_a_misspelt_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean max_body_mb"):
        ServeConfig.build({"max_bodi_mb": 3})


def test_a_batch_that_could_never_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_batch_size 64 is above max_ongoing_requests 32"):
        ServeConfig.build({"max_batch_size": 64})


def test_bundles_are_checked_before_anything_starts(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bundles is empty"):
        served_specs(ServeConfig())
    with pytest.raises(CheckpointError, match="no model bundle at"):
        served_specs(ServeConfig(bundles=[str(tmp_path)]))
    with pytest.raises(ConfigError, match="both segmentation 'nerve'"):
        served_specs(ServeConfig(bundles=[str(bundles["nerve"])] * 2))


def test_the_plan_names_models_and_licences(bundles: dict[str, Path]) -> None:
    models = plan(ServeConfig(bundles=[str(bundles["head"]), str(bundles["lung"])]))["models"]
    assert [(m["name"], m["kind"], m["classes"]) for m in models] == [
        ("head", "segmentation", ["background", "head"]),
        ("lung", "classification", ["a", "b", "c", "d"]),
    ]
    assert models[0]["licences"] == ["CC BY 4.0"]
    assert len(models[0]["version"]) == 12


def test_dry_run_prints_config_and_models(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "serve.yaml"
    recipe.write_text(f"bundles: [{bundles['tiny']}]\nport: 8123\n")
    assert main(["--config", str(recipe), "--dry-run", "port=9000"]) == 0
    config, models = capsys.readouterr().out.split("--- plan\n")
    assert yaml.safe_load(config)["port"] == 9000
    assert json.loads(models)["models"][0]["kind"] == "embedding"


def test_user_errors_end_with_status_2_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run"]) == 2
    assert main(["bundels=[x]"]) == 2
    err = capsys.readouterr().err
    assert "bundles is empty" in err
    assert "did you mean bundles" in err
    assert "Traceback" not in err


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=rf"127.0.0.1:{port} .*port=0"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0


def test_importing_the_entry_starts_no_ray_and_never_meets_ray_jobs() -> None:
    code = (
        "import sys, serve_apps.serve, serve_apps.api; assert 'ray' not in sys.modules;"
        "import serve_apps.app, ray; assert not ray.is_initialized();"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'ray_jobs']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_build_takes_the_text_arguments_of_serve_run(bundles: dict[str, Path]) -> None:
    from ray import serve

    from serve_apps.app import build

    assert isinstance(
        build({"bundles": f"{bundles['nerve']},{bundles['tiny']}", "port": "9000"}), serve.Application
    )
    with pytest.raises(ConfigError, match="bundles is empty"):
        build({})


def test_switches_that_training_also_sets_have_the_same_value() -> None:
    from ray_jobs import cluster as training
    from serve_apps import cluster as serving

    common = training.RAY_ENVIRONMENT.keys() & serving.RAY_ENVIRONMENT.keys()
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED" in common
    assert {k: training.RAY_ENVIRONMENT[k] for k in common} == {k: serving.RAY_ENVIRONMENT[k] for k in common}
