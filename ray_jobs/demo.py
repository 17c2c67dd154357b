"""The whole path in one command: ingest -> pre-training -> sweep -> serving -> report.

Every stage is the job of its own module with its own config, on one Ray that is started once.
"""

import base64
import importlib
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ray_jobs import export, ingest, job, pretrain, sweep
from ray_jobs.cluster import ClusterConfig, connect
from ray_jobs.console import Console
from usfm.config import Config
from usfm.data.shard_reader import ShardReader
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import UsfmError
from usfm.models.bundle import read_bundle_spec
from usfm.report.page import ReportInputs, ServeSample, StageTime, build_report

__all__ = ["DemoConfig", "main", "plan", "run"]

PRETRAINED = "PRETRAIN"
REQUEST_TIMEOUT_S = 60.0


class DemoConfig(Config):
    """The demo's stages; folders inside them are set by the demo.

    Attributes:
        run_dir: folder of everything that is made.
        ingest: first stage.
        pretrain: second stage.
        sweep: third stage; an initialisation called `PRETRAIN` stands for the second stage's run.
        port: of the HTTP endpoint; 0 = any free one.
        cluster: Ray.
    """

    run_dir: str = "runs/demo"
    ingest: ingest.IngestConfig
    pretrain: pretrain.PretrainJobConfig
    sweep: sweep.SweepConfig
    port: int = 0
    cluster: ClusterConfig = ClusterConfig()


@dataclass(frozen=True)
class _Stages:
    """The stages' configs with the demo's folders in place."""

    ingest: ingest.IngestConfig
    pretrain: pretrain.PretrainJobConfig
    sweep: sweep.SweepConfig
    times: list[StageTime] = field(default_factory=list)

    @classmethod
    def of(cls, config: DemoConfig) -> "_Stages":
        folder = Path(config.run_dir)
        shards = str(folder / "shards")
        data = config.pretrain.data.model_copy(update={"shards": shards})
        pretrained = str(folder / "pretrain")
        inits = {k: pretrained if v == PRETRAINED else v for k, v in config.sweep.inits.items()}
        return cls(
            config.ingest.model_copy(update={"output": shards}),
            config.pretrain.model_copy(update={"run_dir": pretrained, "data": data}),
            config.sweep.model_copy(update={"run_dir": str(folder / "sweep"), "shards": shards, "inits": inits}),
        )


def plan(config: DemoConfig) -> dict[str, Any]:
    """What each stage would do, as far as it can be said before the stage in front of it has run."""
    stages = _Stages.of(config)
    return {
        "ingest": ingest.plan(stages.ingest),
        "pretrain": {"images": (config.pretrain.epoch_samples or 0) * config.pretrain.epochs},
        "sweep": {"trials": len(sweep.trials(stages.sweep))},
        "report": str(Path(config.run_dir) / "report.html"),
    }


def run(config: DemoConfig, console: Console) -> Path:
    """Run what is not done yet; returns the report."""
    stages, folder = _Stages.of(config), Path(config.run_dir)
    began = time.perf_counter()
    with connect(config.cluster, console.verbose):
        read = _timed(stages, "ingest", lambda: ingest.run(stages.ingest, console), lambda r: f"{r.rows} images")
        _timed(stages, "pretrain", lambda: pretrain.run(stages.pretrain, console), str)
        swept = _timed(stages, "sweep", lambda: sweep.run(stages.sweep, console), str)
        encoder = export.run(export.ExportConfig(run_dir=stages.pretrain.run_dir), console)
        bundles = [encoder, *sorted((swept / "best").iterdir())]
        sample = _timed(stages, "serve", lambda: _serve(config, stages, bundles, read.input), lambda s: s.url)
    note = {"simulator": "the built-in simulator and the ultrasound DICOM files inside the package pydicom"}
    inputs = ReportInputs(
        title="Ultrasound foundation model: demo run",
        input_note=note.get(read.input_kind, f"real files: {read.input}"),
        shards=Path(stages.ingest.output),
        pretrain_run=Path(stages.pretrain.run_dir),
        sweep_dir=swept,
        serve=sample,
        stages=stages.times,
        command=f"usfm demo run_dir={config.run_dir}",
    )
    report: Path = _timed(stages, "report", lambda: build_report(inputs, folder / "report.html"), str)
    bundle_names = ",".join(map(str, bundles))
    console.table(f"made in {time.perf_counter() - began:.0f} s", ("what", "where"), [
        ("report", report),
        ("shards, ledger, quarantine", stages.ingest.output),
        ("pre-training run", stages.pretrain.run_dir),
        ("label-efficiency report", swept / "report.html"),
        ("label-efficiency table", swept / "results.csv"),
        ("best heads", swept / "best"),
        ("serve them", f"usfm serve bundles={bundle_names}"),
    ])  # fmt: skip
    return report


def _timed(stages: _Stages, name: str, work: Any, detail: Any) -> Any:
    began = time.perf_counter()
    result = work()
    stages.times.append(StageTime(name, time.perf_counter() - began, str(detail(result))))
    return result


def _serve(config: DemoConfig, stages: _Stages, bundles: Sequence[Path], archive: str) -> ServeSample:
    """Deploy the bundles, send one unseen image, take the answer, undeploy."""
    # by name: the rooms of training and serving do not import each other
    service = importlib.import_module("serve_apps.serve")
    settings = importlib.import_module("serve_apps.config").ServeConfig
    url = service.deploy(settings(bundles=[str(path) for path in bundles], port=config.port))
    try:
        task, verb, asked = _question(config.sweep.tasks, {path.name for path in bundles})
        spec = read_bundle_spec(next(path for path in bundles if path.name == task.name))
        task = task.model_copy(update={"fold": int(spec.metrics.get("fold", task.fold))})
        name, body, shown = _unseen(stages.ingest.output, task, Path(archive))
        began = time.perf_counter()
        # trust_env: a hospital's proxy settings must not catch a request to this very machine
        with httpx.Client(trust_env=False, timeout=REQUEST_TIMEOUT_S) as client:
            answer = client.post(f"{url}/v1/{verb}", params=asked, content=body)
        seconds = time.perf_counter() - began
        if answer.status_code != httpx.codes.OK:
            raise UsfmError(f"POST {url}/v1/{verb} answered {answer.status_code}: {answer.text[:300]}")
        document = answer.json()
        drawn = document.get("overlay_png") or document.get("enhanced_png")
        overlay = base64.b64decode(drawn) if drawn else None
        return ServeSample(f"{url}/v1/{verb}", f"{name} ({len(body):,} bytes)", seconds, document, shown, overlay)
    finally:
        service.undeploy()


def _question(tasks: Sequence[TaskConfig], served: Collection[str]) -> tuple[TaskConfig, str, dict[str, str]]:
    """The served task that is asked (a segmentation if there is one: it can be seen), the verb, its parameters."""
    verbs = importlib.import_module("serve_apps.api").VERBS
    asked = sorted((task for task in tasks if task.name in served), key=lambda task: task.kind != "segmentation")[0]
    verb = next(name for name, kinds in verbs.items() if asked.kind in kinds)
    drawn = {"overlay": "true"} if asked.kind == "segmentation" else {}
    return asked, verb, {"model": asked.name, **drawn}


def _unseen(shards: str, task: TaskConfig, archive: Path) -> tuple[str, bytes, bytes]:
    """Name and bytes of a test image (the source's own file where it is at hand), and a picture of it."""
    wanted = load_task(shards, task)["test"].ids[0]
    reader = ShardReader(shards)
    # a task in folds, or one that tests on other sources, tests rows of all splits of ingest
    whole = task.split_by != "split"
    files = [f for f in reader.index.files if f.organ in task.organs and (whole or f.split == "test")]
    row = next(row for row in reader.table(files).to_pylist() if row["id"] == wanted)
    name = row["id"].removeprefix(row["source"] + "/").rsplit("#", 1)[0]
    original = (archive if archive.is_dir() else archive.parent) / name
    body = original.read_bytes() if original.is_file() else row["image"]
    return name, body, row["image"]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        DemoConfig, run, plan, argv, command="demo", recipe="demo",
        description="The whole path in minutes, with a report.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
