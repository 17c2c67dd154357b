"""The manifests in cluster/ against the code they start; no cluster is asked."""

import importlib
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from ray_jobs.cluster import RAY_ENVIRONMENT
from ray_jobs.pretrain import PretrainJobConfig
from serve_apps.cluster import RAY_ENVIRONMENT as SERVE_ENVIRONMENT
from serve_apps.config import ServeConfig
from usfm.config import load_config

ROOT = Path(__file__).resolve().parents[1]
KUBERAY = ROOT / "cluster" / "kuberay"
FILES = sorted(path.name for path in KUBERAY.glob("*.yaml"))
CLUSTER_FIELDS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}


def resource(name: str) -> dict:
    documents = list(yaml.safe_load_all((KUBERAY / name).read_text(encoding="utf-8")))
    (found,) = [document for document in documents if document["apiVersion"] == "ray.io/v1"]
    return found


def cluster_of(name: str) -> dict:
    spec = resource(name)["spec"]
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def groups(name: str) -> list[dict]:
    cluster = cluster_of(name)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: dict) -> dict:
    (only,) = group["template"]["spec"]["containers"]
    return only


def entrypoint() -> tuple[list[str], PretrainJobConfig]:
    words = shlex.split(resource("rayjob-pretrain.yaml")["spec"]["entrypoint"])
    recipe = ROOT / words[words.index("--config") + 1]
    assert recipe.is_file()
    return words, load_config(PretrainJobConfig, recipe, words[words.index("--config") + 2 :])


def test_kinds() -> None:
    assert [resource(name)["kind"] for name in FILES] == ["RayJob", "RayService"]


@pytest.mark.parametrize("name", FILES)
def test_clusters_have_the_tested_ray_and_a_token(name: str) -> None:
    cluster = cluster_of(name)
    assert set(cluster) == CLUSTER_FIELDS
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", FILES)
def test_switches_are_those_of_the_code_on_every_node(name: str) -> None:
    environments = [{e["name"]: e["value"] for e in container(group)["env"]} for group in groups(name)]
    known = RAY_ENVIRONMENT if "rayjob" in name else SERVE_ENVIRONMENT
    for environment in environments:
        assert environment.items() <= known.items()
        assert environment == environments[0]
        assert "RAY_AUTH_MODE" not in environment  # authOptions sets it


@pytest.mark.parametrize("name", FILES)
def test_mounts_have_their_volumes_and_one_image_is_used(name: str) -> None:
    for group in groups(name):
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container(group)["volumeMounts"]} == volumes == {"shared", "shm"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {container(group)["image"] for group in groups(name)} == {f"usfm-ray:{version}"}


def test_the_job_fits_its_cluster() -> None:
    words, config = entrypoint()
    assert words[:3] == ["python", "-m", "ray_jobs.pretrain"]
    assert config.run_dir.startswith("/shared/")
    assert config.data.shards.startswith("/shared/")
    (workers,) = cluster_of("rayjob-pretrain.yaml")["workerGroupSpecs"]
    limits = container(workers)["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) * workers["replicas"] == config.workers * config.gpus_per_worker
    assert int(limits["cpu"]) > config.cpus_per_worker  # reading needs some too
    assert int(limits["cpu"]) * workers["replicas"] >= config.workers * config.cpus_per_worker + 1


def test_the_service_builds_our_application() -> None:
    serve = yaml.safe_load(resource("rayservice.yaml")["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, attribute = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))
    config = ServeConfig.build(application["args"])
    assert config.bundles
    (workers,) = cluster_of("rayservice.yaml")["workerGroupSpecs"]
    limits, models = container(workers)["resources"]["limits"], len(config.bundles) * config.replicas
    assert models * config.num_gpus_per_model <= int(limits["nvidia.com/gpu"]) * workers["replicas"]
    cpus = models * config.num_cpus_per_model + config.api_replicas * config.num_cpus_per_api
    assert cpus < int(limits["cpu"]) * workers["replicas"]


def test_serve_itself_accepts_the_service_config() -> None:
    from ray.serve.schema import ServeDeploySchema

    text = resource("rayservice.yaml")["spec"]["serveConfigV2"]
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.applications[0].import_path == "serve_apps.app:build"


def test_the_image_copies_what_exists() -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"constraints.txt", "usfm", "ray_jobs", "serve_apps"} <= set(sources)
    assert [word for word in sources if not (ROOT / word).exists()] == []


def test_uploads_leave_out_what_git_ignores() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    not_uploaded = (ROOT / ".rayignore").read_text(encoding="utf-8").splitlines()
    assert {line.strip("/") for line in ignored} | {".git"} <= {line.strip("/") for line in not_uploaded}
