"""The model card of an exported encoder: what it was trained on, how, at what cost, and what it is not for."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usfm.data.ledger import licence_flags
from usfm.models.bundle import BundleSpec, timm_config
from usfm.models.flops import encoder_flops

__all__ = ["RunRecord", "model_card"]

UNKNOWN = "not recorded"
PROBE = ("probe/", "probe_", "rank/")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says of itself.

    Attributes:
        config: config.yaml.
        plan: plan.json; {} = not there.
        environment: environment.json; {} = not there.
        rows: of metrics.jsonl up to the exported checkpoint, in order.
        items: (source, licence) -> rows of the training split that the run could draw.
        begun_from: where the run's first weights came from, the nearest first; empty = random.
        parameters: of the encoder.
        onnx_difference: largest difference of model.onnx from torch; None = no such file.
    """

    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    items: Mapping[tuple[str, str], int]
    parameters: int
    begun_from: Sequence[str] = ()
    onnx_difference: float | None = None


def model_card(spec: BundleSpec, run: RunRecord) -> str:
    """Markdown."""
    encoder = spec.need_encoder()
    parts = [
        f"# {spec.name}",
        f"Ultrasound image encoder, ViT {encoder.size} ({run.parameters:,} parameters), {encoder.img_px} px in "
        f"patches of {encoder.patch_px} px, pre-trained with USFM on Ray. Version {spec.version} (start of the "
        "SHA-256 of `model.safetensors`).",
        "**Research software. Not a medical device; not for diagnosis.**",
        "## Use",
        _usage(spec, run.onnx_difference),
        "## Training data",
        _table(("source", "licence", "flags", "images"), _ledger(run.items)),
        _origin(spec, run.begun_from),
        "The licences bind whoever uses this model. NC: non-commercial; SA: share-alike; ND: no derivatives.",
        "## Organ mix",
        _table(("organ", "images", "planned share", "drawn", "achieved share"), _mix(run.plan, run.rows)),
        "## Masks and objective",
        _table(("setting", "value"), _objective(run.config, run.plan)),
        "## Cost",
        _table(("", ""), _cost(spec, run)),
        "## Probes",
        _probes(run.rows),
        "## Limits",
        "- It was made for research. It has not been validated for any clinical use and is not a medical device.\n"
        "- It knows the organs, devices and patients of the sources above; on others it may fail without a sign.\n"
        "- It takes grey images; Doppler colour and burned-in text were "
        + ("treated as the cleaning settings in `config.json` say." if spec.clean else "left as they were.")
        + "\n- Nothing here measures bias by age, sex, body or origin: the sources mostly do not state them.",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(spec: BundleSpec, begun_from: Sequence[str]) -> str:
    """What the table above leaves out: the data of earlier runs."""
    if not begun_from:
        return "The run began from random weights: it has seen nothing else."
    return (
        f"The run began from {' <- '.join(f'`{source}`' for source in begun_from)}. Licences of all data that the "
        f"weights have seen: {'; '.join(spec.licences)}."
    )


def _usage(spec: BundleSpec, onnx_difference: float | None) -> str:
    encoder = spec.need_encoder()
    lines = [
        "```python",
        "# ours: grey values (B, 1, S, S) in [0, 1]; normalisation is inside",
        "from pathlib import Path",
        "from usfm.models.bundle import load_bundle",
        'encoder, spec = load_bundle(Path("FOLDER"))',
        "tokens = encoder(images)  # (B, 1 + N, D), CLS first",
    ]
    if timm_config(encoder):
        lines += [
            "",
            "# timm: normalise first, see pretrained_cfg",
            "import timm",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
            f"tokens = model.forward_features((images - {encoder.mean}) / {encoder.std})"
            if encoder.channels == 1
            else "tokens = model.forward_features(images)  # three channels, each by its own mean and deviation",
        ]
    if onnx_difference is not None:
        lines += [
            "",
            "# onnxruntime: `images` as for ours, any batch",
            f"# checked against torch: largest difference of a token {onnx_difference:.1e}",
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")',
            '(tokens,) = session.run(["tokens"], {"images": images})',
        ]
    return "\n".join([*lines, "```"])


def _ledger(items: Mapping[tuple[str, str], int]) -> Iterable[Sequence[object]]:
    for (source, licence), count in sorted(items.items()):
        yield source, licence, ", ".join(licence_flags(licence)), f"{count:,}"
    yield "all", "", "", f"{sum(items.values()):,}"


def _mix(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    drawn: Counter[str] = Counter()
    for row in rows:
        drawn.update(row.get("organ_count", {}))
    shares, have = plan.get("organ_shares", {}), plan.get("rows_by_organ", {})
    for organ in sorted(set(shares) | set(drawn)):
        planned = f"{shares[organ]:.4f}" if organ in shares else UNKNOWN
        achieved = f"{drawn[organ] / drawn.total():.4f}" if drawn.total() else UNKNOWN
        yield organ, have.get(organ, UNKNOWN), planned, f"{drawn[organ]:,}", achieved


def _objective(config: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield from _flat("", config.get("objective", {}))
    for name in ("hidden_tokens", "tokens", "band_radii", "bands_removed"):
        yield name, plan.get(name, UNKNOWN)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _cost(spec: BundleSpec, run: RunRecord) -> Iterable[Sequence[object]]:
    rows = [row for row in run.rows if "samples" in row]
    batch = run.config.get("batch", {}).get("global_size", 0)
    seconds, before = 0.0, rows[0]["samples"] - batch if rows else 0  # a run may continue another one
    for row in rows:
        if row.get("images_per_s"):
            seconds += (row["samples"] - before) / row["images_per_s"]
        before = row["samples"]
    workers = _workers(run.config, run.plan)
    device, cpus = run.environment.get("device", UNKNOWN), run.environment.get("cpus")
    yield "images seen, with those of a run that this one continues", f"{before:,}"
    yield "optimizer steps", f"{rows[-1]['step']:,}" if rows else "0"
    yield "seconds in this run's steps, without those lost to interruptions", f"{seconds:,.1f}"
    yield "workers", " to ".join(map(str, sorted(set(workers)))) if workers else UNKNOWN
    yield "device", device
    if device == "cpu":
        yield "CPU core hours, at most", f"{seconds * cpus / 3600:,.3f} ({cpus} cores)" if cpus else UNKNOWN
    elif device != UNKNOWN:
        bound = ", at most" if workers and workers[0] < workers[1] else ""
        yield f"GPU hours{bound}", f"{seconds * workers[1] / 3600:,.2f}" if workers else UNKNOWN
    yield "encoder parameters", f"{run.parameters:,}"
    yield "encoder FLOPs per image, forward", f"{encoder_flops(spec.need_encoder()):,}"


def _workers(config: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[int, int] | None:
    """Fewest and most workers: as configured, else (torchrun) all that would share the lanes as planned."""
    if given := config.get("workers"):
        return (given, given) if isinstance(given, int) else (given[0], given[1])
    lanes, accumulation = plan.get("lanes"), plan.get("accumulation")
    if not lanes or not accumulation:
        return None
    # the plan has accumulation = ceil(lanes / workers), and a worker at least one lane
    most = math.ceil(lanes / (accumulation - 1)) - 1 if accumulation > 1 else lanes
    return math.ceil(lanes / accumulation), most


def _probes(rows: Sequence[Mapping[str, Any]]) -> str:
    """The last row that holds probe scores, every number of it."""
    for row in reversed(rows):
        scores = {name: value for name, value in _flat("", row) if name.startswith(PROBE)}
        if scores:
            table = _table(("probe", "value"), [(name, f"{value:.4g}") for name, value in scores.items()])
            return f"After step {row['step']}, on labelled shards, the encoder untouched.\n\n{table}"
    return "None were made in this run."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
