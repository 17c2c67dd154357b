"""One self-contained HTML file that shows what a run did. What is missing is left out and named, never made up."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from usfm.data.assemble import QUARANTINE_NAME, read_quarantine
from usfm.data.ledger import LEDGER_JSON
from usfm.data.schema import SPLITS
from usfm.data.shards import ShardIndex
from usfm.errors import UsfmError
from usfm.predict.predictor import NOTICE, read_spec
from usfm.report import figures, panels
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.journal import read_journal

__all__ = ["ReportInputs", "ServeSample", "StageTime", "build_report", "shorten"]

PANEL_ORGANS = 8
QUARANTINE_ROWS = 100
LONG_TEXT, LONG_LIST = 72, 12


@dataclass(frozen=True)
class StageTime:
    """How long one stage of the command took, and what it made."""

    name: str
    seconds: float
    detail: str


@dataclass(frozen=True)
class ServeSample:
    """One request to the running service.

    Attributes:
        url: where it went.
        request: what was sent, for a reader.
        seconds: from sending to the whole answer.
        answer: the JSON of POST /v1/segment.
        image_png: the image that was sent, as PNG or JPEG.
        overlay_png: the answer drawn over it, None if there is none.
    """

    url: str
    request: str
    seconds: float
    answer: dict[str, Any]
    image_png: bytes
    overlay_png: bytes | None = None


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from.

    Attributes:
        title: headline.
        input_note: which input was used, e.g. a corpus folder or the simulator.
        shards: folder that ingest wrote.
        pretrain_run: folder of the pre-training run.
        sweep_dir: folder with results.csv and best/<task>/, None = no sweep.
        serve: one request and its answer, None = nothing was served.
        stages: stages of the command in order.
        command: the command line.
    """

    title: str
    input_note: str
    shards: Path
    pretrain_run: Path
    sweep_dir: Path | None
    serve: ServeSample | None
    stages: list[StageTime]
    command: str


def build_report(inputs: ReportInputs, out: Path) -> Path:
    """Write the report; returns `out`.

    A section whose input is missing or damaged is left out, and the reason stands at the top of the page.
    """
    made: dict[str, Any] = dict.fromkeys(key for key, _, _ in SECTIONS)
    absent: list[tuple[str, str]] = []
    for key, title, build in SECTIONS:
        try:
            made[key] = build(inputs)
        except UsfmError as error:
            absent.append((title, str(error)))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"count": _count, "percent": _percent, "fixed": _fixed, "signed": _signed, "time": _time}
    page = environment.get_template("report.html").render(
        inputs=inputs,
        made=made,
        absent=absent,
        sections=[(key, title) for key, title, _ in SECTIONS if made[key]],
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        environment=_read_json(inputs.pretrain_run / "environment.json"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _data(inputs: ReportInputs) -> dict[str, Any]:
    index = ShardIndex.load(inputs.shards)
    rows: dict[str, dict[str, int]] = {}
    for file in index.files:
        of_split = rows.setdefault(file.organ, dict.fromkeys(SPLITS, 0))
        of_split[file.split] = of_split.get(file.split, 0) + file.rows
    refused = read_quarantine(inputs.shards) if (inputs.shards / QUARANTINE_NAME).is_file() else None
    return {
        "splits": SPLITS,
        "rows": dict(sorted(rows.items())),
        "totals": {split: sum(of[split] for of in rows.values()) for split in SPLITS},
        "megabytes": sum(file.bytes for file in index.files) / 1e6,
        "fingerprint": index.fingerprint,
        "ledger": _read_json(inputs.shards / LEDGER_JSON),
        "refused": None if refused is None else refused[:QUARANTINE_ROWS],
        "refused_count": len(refused or ()),
        "sheet": [(thumb, panels.png_uri(thumb.pixels)) for thumb in panels.contact_sheet(inputs.shards)],
    }


def _mix(inputs: ReportInputs) -> dict[str, Any]:
    plan, journal = _read_json(inputs.pretrain_run / "plan.json"), _journal(inputs)
    if not plan:
        raise UsfmError(f"no plan.json in {inputs.pretrain_run}")
    mix = figures.organ_mix(plan["rows_by_organ"], plan["organ_shares"], journal)
    try:
        same = ShardIndex.load(inputs.shards).fingerprint == plan["shards_fingerprint"]
    except UsfmError:
        same = False
    return {
        "mix": mix,
        "drawn": sum(share.drawn for share in mix),
        "deviation": max(mix, key=lambda share: abs(share.achieved - share.planned)),
        "alpha": panels.run_config(inputs.pretrain_run).data.sampling.alpha,
        "same_shards": same,
        "chart": figures.organ_mix_chart(mix),
    }


def _pretraining(inputs: ReportInputs) -> dict[str, Any]:
    journal, config = _journal(inputs), panels.run_config(inputs.pretrain_run)
    summary = figures.training_summary(journal)
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
        "plan": _read_json(inputs.pretrain_run / "plan.json"),
        "charts": [figures.curve(journal, key, title, unit, summary.window, floor)
                   for key, title, unit, floor in charts],
        "organs": figures.organ_bars(summary.organ_loss, "mean |error| over hidden pixels, normalised grey"),
    }  # fmt: skip


def _panels(inputs: ReportInputs) -> dict[str, Any]:
    rows = panels.reconstruction_panels(inputs.pretrain_run, PANEL_ORGANS, shards=inputs.shards)
    folder = latest_checkpoint(inputs.pretrain_run)
    pictures = [
        [
            ("original", panels.png_uri(panel.original)),
            ("band-stopped", panels.png_uri(panel.stopped)),
            ("encoder sees", panels.png_uri(panel.masked)),
            ("reconstruction", panels.png_uri(panel.reconstruction)),
            ("composite", panels.png_uri(panel.composite)),
            ("spectrum", panels.png_uri(panels.heat(panel.spectrum))),
            ("spectrum, stopped", panels.png_uri(panels.heat(panel.spectrum_stopped))),
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
    trials = figures.read_trials(path)
    by_task = figures.label_efficiency(trials)
    inits = sorted({trial.init for trial in trials}, key=lambda init: (init == "scratch", init))
    tasks = [
        {
            "name": task,
            "kind": next(trial.kind for trial in trials if trial.task == task),
            "points": _in_order(points, inits),
            "chart": figures.label_curve(points, inits),
            "seeds": sorted({seed for point in points for seed in point.seeds}),
            "paired": {
                init: pairs for init in inits
                if init != "scratch" and (pairs := figures.paired_difference(points, init, "scratch"))
            },
        }
        for task, points in by_task.items()
    ]  # fmt: skip
    failed = [trial for trial in trials if trial.status != "ok"]
    return {"tasks": tasks, "failed": failed, "trials": len(trials)}


def _in_order(points: Sequence[figures.Point], inits: Sequence[str]) -> list[figures.Point]:
    return sorted(points, key=lambda point: (point.fraction, inits.index(point.init)))


def _heads(inputs: ReportInputs) -> dict[str, Any]:
    folders = sorted(inputs.sweep_dir.glob("best/*/evaluation.json")) if inputs.sweep_dir else []
    if not folders:
        raise UsfmError("no evaluated head was given (best/<task>/evaluation.json of a sweep)")
    return {"heads": [_head(path.parent, inputs.shards) for path in folders]}


def _head(folder: Path, shards: Path) -> dict[str, Any]:
    evaluation = _read_json(folder / "evaluation.json")
    counts, items = evaluation.get("confusion") or [], evaluation["per_item"]
    head: dict[str, Any] = {
        "name": folder.name, "evaluation": evaluation, "spec": None, "problem": "", "pictures": [], "values": [],
        "confusion": list(zip(evaluation["classes"], counts, figures.row_percentages(counts), strict=True))
        if counts else [],
        "errors": [],
    }  # fmt: skip
    try:
        head["spec"] = read_spec(folder)
        if not counts:
            drawn = panels.contours(folder, shards, items)
            head["pictures"] = [(picture, panels.png_uri(picture.picture)) for picture in drawn]
    except UsfmError as error:
        head["problem"] = str(error)
    if counts:
        wrong = [item for item in items if item["truth"] != item["predicted"]]
        head["errors"] = sorted(wrong, key=lambda item: -item["probability"])[:5]
    else:
        head["values"] = sorted(float(item["value"]) for item in items)
    return head


def _serving(inputs: ReportInputs) -> dict[str, Any]:
    if inputs.serve is None:
        raise UsfmError("nothing was served")
    images = {"sent": inputs.serve.image_png, "answer drawn over it": inputs.serve.overlay_png}
    return {
        "images": [(name, _data_uri(data)) for name, data in images.items() if data],
        "json": json.dumps(shorten(inputs.serve.answer), indent=2, ensure_ascii=False),
    }  # fmt: skip


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"  # what shards hold
    return f"data:image/{kind};base64," + base64.b64encode(image).decode("ascii")


def _limits(inputs: ReportInputs) -> dict[str, Any]:
    ledger = _read_json(inputs.shards / LEDGER_JSON)
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


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON document, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsfmError(f"{path} is not valid JSON ({error})") from None
    return document


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _fixed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
