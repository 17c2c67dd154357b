"""The sections of a report: each reads what it needs and raises a `UsfmError` that says what is missing."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from upath import UPath

from usfm.data.ledger import LEDGER_JSON
from usfm.data.schema import SPLITS
from usfm.data.shards import ShardIndex
from usfm.errors import ConfigError, UsfmError
from usfm.metrics.item_scores import HIGHER_IS_BETTER, METRIC
from usfm.predict.predictor import NOTICE, read_spec
from usfm.report import figures, numbers
from usfm.report.data_records import quarantine_records
from usfm.report.inputs import ReportInputs
from usfm.report.overlays import contours
from usfm.report.panels import reconstruction_panels, run_config
from usfm.report.pictures import file_uri, heat, png_uri
from usfm.report.samples import contact_sheet
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.journal import read_journal
from usfm.train.rundir import read_config

__all__ = ["SECTIONS", "read_json", "shorten"]

PANEL_ORGANS = 8
LONG_TEXT, LONG_LIST = 72, 12
# what the value of one image is, by the score that selects; `usfm.metrics.items`
ITEM_VALUES = {"dice": "Dice", "auroc": "Share of labels right", "mae": "Absolute error", "psnr": "PSNR in dB"}
UNBOUNDED = (METRIC["regression"], METRIC["enhancement"])


def _data(inputs: ReportInputs) -> dict[str, Any]:
    index = ShardIndex.load(inputs.shards)
    rows: dict[str, dict[str, int]] = {}
    for file in index.files:
        of_split = rows.setdefault(file.organ, dict.fromkeys(SPLITS, 0))
        of_split[file.split] = of_split.get(file.split, 0) + file.rows
    return {
        "splits": SPLITS,
        "rows": dict(sorted(rows.items())),
        "totals": {split: sum(of[split] for of in rows.values()) for split in SPLITS},
        "megabytes": sum(file.bytes for file in index.files) / 1e6,
        "fingerprint": index.fingerprint,
        "ledger": read_json(inputs.shards / LEDGER_JSON),
        "quarantine": quarantine_records(UPath(inputs.shards), (), 0),
        "sheet": [(thumb, png_uri(thumb.pixels)) for thumb in contact_sheet(inputs.shards)],
    }


def _mix(inputs: ReportInputs) -> dict[str, Any]:
    plan, journal = read_json(inputs.pretrain_run / "plan.json"), _journal(inputs)
    if not plan:
        raise UsfmError(f"no plan.json in {inputs.pretrain_run}")
    mix = numbers.organ_mix(plan["rows_by_organ"], plan["organ_shares"], journal)
    try:
        same = ShardIndex.load(inputs.shards).fingerprint == plan["shards_fingerprint"]
    except UsfmError:
        same = False
    return {
        "mix": mix,
        "drawn": sum(share.drawn for share in mix),
        "deviation": max(mix, key=lambda share: abs(share.achieved - share.planned)),
        "alpha": run_config(inputs.pretrain_run).data.sampling.alpha,
        "same_shards": same,
        "chart": figures.organ_mix_chart(mix),
    }


def _pretraining(inputs: ReportInputs) -> dict[str, Any]:
    journal, config = _journal(inputs), run_config(inputs.pretrain_run)
    summary = numbers.training_summary(journal)
    charts = [
        ("loss", "Total loss", "loss", False),
        ("spatial", "Spatial loss, hidden pixels", "mean |error|", False),
        ("frequency", "Frequency loss", "focal frequency loss", False),
        ("lr", "Learning rate", "learning rate", True),
        ("images_per_s", "Throughput", "images/s", True),
        ("data_wait", "Share of a step spent waiting for data", "share", True),
    ]
    return {
        "summary": summary,
        "config": config,
        "plan": read_json(inputs.pretrain_run / "plan.json"),
        "charts": [figures.curve(journal, key, title, unit, summary.window, floor)
                   for key, title, unit, floor in charts],
        "organs": figures.organ_bars(summary.organ_loss, "mean |error| over hidden pixels, normalised grey"),
    }  # fmt: skip


def _panels(inputs: ReportInputs) -> dict[str, Any]:
    rows = reconstruction_panels(inputs.pretrain_run, PANEL_ORGANS, shards=inputs.shards)
    folder = latest_checkpoint(inputs.pretrain_run)
    pictures = [
        [
            ("original", png_uri(panel.original)),
            ("band-stopped", png_uri(panel.stopped)),
            ("encoder sees", png_uri(panel.masked)),
            ("reconstruction", png_uri(panel.reconstruction)),
            ("composite", png_uri(panel.composite)),
            ("spectrum", png_uri(heat(panel.spectrum))),
            ("spectrum, stopped", png_uri(heat(panel.spectrum_stopped))),
        ]
        for panel in rows
    ]
    return {
        "rows": list(zip(rows, pictures, strict=True)),
        "checkpoint": folder.name if folder else "",
        "better": sum(panel.error < panel.error_fill for panel in rows),
    }


def _labels(inputs: ReportInputs) -> dict[str, Any]:
    if inputs.sweep_dir is None:
        raise UsfmError("no sweep was run")
    path = inputs.sweep_dir / "results.csv"
    if not path.is_file():
        raise UsfmError(f"no results.csv in {inputs.sweep_dir}")
    trials = numbers.read_trials(path)
    folds = _folds(inputs.sweep_dir)
    by_task = numbers.label_efficiency(trials)
    inits = sorted({trial.init for trial in trials}, key=lambda init: (init == "scratch", init))
    tasks = [
        {
            "name": task,
            "kind": next(trial.kind for trial in trials if trial.task == task),
            "folds": folds if folds is None else folds.get(task, 0),
            "points": _in_order(points, inits),
            "chart": figures.label_curve(points, inits),
            "seeds": sorted({seed for point in points for seed in point.seeds}),
            "bounded": points[0].metric not in UNBOUNDED,
            "higher": HIGHER_IS_BETTER[points[0].metric],
            "paired": {
                init: pairs for init in inits
                if init != "scratch" and (pairs := numbers.paired_difference(points, init, "scratch"))
            },
        }
        for task, points in by_task.items()
    ]  # fmt: skip
    failed = [trial for trial in trials if trial.status != "ok"]
    return {"tasks": tasks, "failed": failed, "trials": len(trials)}


def _folds(sweep: Path) -> dict[str, int] | None:
    """Folds of a sweep's tasks that have some, by name; None = not known: its config is missing."""
    try:
        stated = read_config(sweep)["tasks"]
    except ConfigError:  # the table of results says enough for the rest of the section
        return None
    return {task["name"]: task["folds"] for task in stated if task.get("split_by") == "folds"}


def _in_order(points: Sequence[numbers.Point], inits: Sequence[str]) -> list[numbers.Point]:
    return sorted(points, key=lambda point: (point.fraction, inits.index(point.init)))


def _heads(inputs: ReportInputs) -> dict[str, Any]:
    folders = sorted(inputs.sweep_dir.glob("best/*/evaluation.json")) if inputs.sweep_dir else []
    if not folders:
        raise UsfmError("no evaluated head was given (best/<task>/evaluation.json of a sweep)")
    return {"heads": [_head(path.parent, inputs.shards) for path in folders]}


def _head(folder: Path, shards: Path) -> dict[str, Any]:
    evaluation = read_json(folder / "evaluation.json")
    counts, items = evaluation.get("confusion") or [], evaluation["per_item"]
    head: dict[str, Any] = {
        "name": folder.name, "evaluation": evaluation, "spec": None, "problem": "", "pictures": [], "values": [],
        "confusion": list(zip(evaluation["classes"], counts, numbers.row_percentages(counts), strict=True))
        if counts else [],
        "errors": [],
    }  # fmt: skip
    try:
        head["spec"] = read_spec(folder)
        if evaluation["metric"] == METRIC["segmentation"]:
            drawn = contours(folder, shards, items)
            head["pictures"] = [(picture, png_uri(picture.picture)) for picture in drawn]
    except UsfmError as error:
        head["problem"] = str(error)
    if counts:
        wrong = [item for item in items if item["truth"] != item["predicted"]]
        head["errors"] = sorted(wrong, key=lambda item: -item["probability"])[:5]
    else:
        ordered = sorted(
            (float(item["value"]) for item in items), reverse=not HIGHER_IS_BETTER[evaluation["metric"]]
        )
        head["values"], head["value_name"] = ordered, ITEM_VALUES[evaluation["metric"]]
    return head


def _serving(inputs: ReportInputs) -> dict[str, Any]:
    if inputs.serve is None:
        raise UsfmError("nothing was served")
    images = {"sent": inputs.serve.image_png, "the answer": inputs.serve.overlay_png}
    return {
        "images": [(name, file_uri(data)) for name, data in images.items() if data],
        "json": json.dumps(shorten(inputs.serve.answer), indent=2, ensure_ascii=False),
    }  # fmt: skip


def _limits(inputs: ReportInputs) -> dict[str, Any]:
    ledger = read_json(inputs.shards / LEDGER_JSON)
    return {"notice": NOTICE, "ledger": ledger, "simulated": _simulated(ledger)}


def _simulated(ledger: Mapping[str, Any]) -> int:
    """Rows that a simulator made, by the name of their source."""
    return sum(entry["rows"] for entry in ledger.get("sources", []) if "simulat" in entry["source"].lower())


SECTIONS: Sequence[tuple[str, str, Callable[[ReportInputs], dict[str, Any]]]] = (
    ("data", "Data", _data),
    ("mix", "Organ mix", _mix),
    ("pretraining", "Pre-training", _pretraining),
    ("panels", "What the encoder sees", _panels),
    ("labels", "Label efficiency", _labels),
    ("heads", "Best heads", _heads),
    ("serving", "Serving", _serving),
    ("limits", "Limits and licences", _limits),
)


def shorten(value: Any) -> Any:
    """JSON for a reader: long strings (images) and long lists are cut, with their length."""
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"{value[: LONG_TEXT // 2]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {key: shorten(inner) for key, inner in value.items()}
    if isinstance(value, list):
        cut = [shorten(inner) for inner in value[:LONG_LIST]]
        return cut if len(value) <= LONG_LIST else [*cut, f"… ({len(value)} values)"]
    return value


def _journal(inputs: ReportInputs) -> list[dict[str, Any]]:
    rows = list(read_journal(inputs.pretrain_run))
    if not rows:
        raise UsfmError(f"no metrics in {inputs.pretrain_run} (metrics.jsonl is missing or empty)")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsfmError(f"{path} is not valid JSON ({error})") from None
    return document
