"""Licences travel: through runs that began from one another, bundles and files."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from shard_factory import VIEW, row, write_small_shards
from test_pretrain import config_of, run
from weight_factory import beit_model, vit_model

from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import write_index, write_shard
from usfm.data.tasks import TaskConfig
from usfm.errors import CheckpointError
from usfm.file_hash import file_sha256
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights.released import released_state
from usfm.models.weights.report import AUTHORS_SHA256
from usfm.train.inheritance import (
    AUTHORS_LICENCE,
    inherited,
    labels_apart_on,
    labels_behind,
    labels_of_tested,
    labels_warning,
)
from usfm.train.rundir import open_run


def shards_of(root: Path, source: str, licence: str) -> Path:
    """Hearts of one source under one licence."""
    rows = [row("heart", "train", n) | {"source": source, "licence": licence} for n in range(24)]
    table = pa.Table.from_pylist(rows, ROW_SCHEMA)
    write_index(root, "made", [write_shard(root, "train/heart/00000.arrow", "train", "heart", table)])
    return root


def run_of(folder: Path, shards: Path, **values) -> Path:
    config = config_of(shards, folder, **values)
    open_run(folder, config, {})
    run(config, stop_after=1)
    return folder


def test_a_run_that_began_from_another_inherits_its_licences(tmp_path: Path) -> None:
    first = run_of(tmp_path / "first", shards_of(tmp_path / "a", "camus", "CC BY-NC-SA 4.0"))
    start = {"source": str(first), "take": "weights"}
    second = run_of(tmp_path / "second", shards_of(tmp_path / "b", "open", "CC BY 4.0"), start=start)
    assert inherited(first).licences == ["CC BY-NC-SA 4.0"]
    whole = inherited(second)
    assert whole.licences == ["CC BY 4.0", "CC BY-NC-SA 4.0"]
    assert whole.trained_on == {"camus": 24, "open": 24}
    assert whole.begun_from == [str(second), str(first)]
    (tmp_path / "a" / "index.json").unlink()  # the first run's data is gone: said, not forgotten
    assert inherited(second).licences == ["CC BY 4.0", "not known (data of first)"]


def test_a_bundle_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, tmp_path).encoder
    spec = BundleSpec(kind="embedding", name="e", encoder=config, licences=["CC0-1.0"], trained_on={"x": 3})
    save_bundle(tmp_path / "bundle", Encoder(config), spec)
    found = inherited(tmp_path / "bundle")
    assert (found.licences, found.trained_on) == (["CC0-1.0"], {"x": 3})
    assert inherited(tmp_path / "bundle" / "model.safetensors") == found
    torch.save({}, tmp_path / "some.pth")
    assert inherited(tmp_path / "some.pth").licences == ["not stated (some.pth)"]
    monkeypatch.setattr("usfm.train.inheritance.file_sha256", lambda path: AUTHORS_SHA256)
    assert inherited(tmp_path / "some.pth").licences == [AUTHORS_LICENCE]
    assert inherited(None).licences == []


def test_a_folder_of_timms_hub_is_a_weight_file_without_a_licence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = inherited(tmp_path)
    assert (found.licences, found.trained_on) == (["not stated (model.safetensors)"], {})


def test_runs_in_a_circle_are_refused(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "a", "camus", "CC0-1.0")
    start = {"source": str(tmp_path / "run"), "take": "weights"}
    open_run(tmp_path / "run", config_of(shards, tmp_path / "run", start=start), {})
    with pytest.raises(CheckpointError, match="is it a circle"):
        inherited(tmp_path / "run")


def test_labels_are_behind_a_fine_tuned_bundle_and_what_began_from_it(tmp_path: Path) -> None:
    encoder = config_of(tmp_path, tmp_path).encoder
    for name, kind in (("encoder", "embedding"), ("head", "classification")):
        classes = ["a", "b"] if name == "head" else []
        spec = BundleSpec(kind=kind, name=name, encoder=encoder, classes=classes)
        save_bundle(tmp_path / name, Encoder(encoder), spec)  # whose weights they are does not matter here
    config_file = tmp_path / "encoder" / "config.json"
    document = json.loads(config_file.read_text())
    del document["usfm"]["labels_behind"], document["usfm"]["labels_apart_on"]  # from before they were kept
    config_file.write_text(json.dumps(document))
    runs = {"plain": None, "first": "head", "second": "first", "lost": "gone"}
    for run_name, source in runs.items():
        start = {"source": str(tmp_path / source), "take": "encoder"} if source else None
        open_run(tmp_path / run_name, config_of(tmp_path, tmp_path / run_name, start=start), {})
    open_run(tmp_path / "sweep", TaskConfig.build(VIEW), {})  # a folder with a config, but of no pre-training

    def behind(*names: str) -> bool | None:
        return labels_behind(str(tmp_path / name) for name in names)

    assert all(behind(name) is True for name in ("head", "head/model.safetensors", "first", "second"))
    assert behind("plain") is False
    assert behind("lost") is behind("gone") is behind("plain", "lost") is None
    assert behind("plain", "gone", "first") is True
    assert labels_behind(["scratch"]) is labels_behind([]) is False
    # an encoder alone says it itself; one from before it did is as the run around it, where there is one
    assert behind("encoder") is None
    for name, expected in (("plain", False), ("second", True), ("lost", None), ("sweep", None)):
        shutil.copytree(tmp_path / "encoder", tmp_path / name / "encoder")
        assert behind(f"{name}/encoder") is behind(f"{name}/encoder/model.safetensors") is expected
    for says in (True, False, None):  # None too: what lies in a run's folder may have another past
        spec = BundleSpec(kind="embedding", name="e", encoder=encoder, labels_behind=says)
        for folder in ("lost", "plain"):
            save_bundle(tmp_path / folder / "encoder", Encoder(encoder), spec)
            assert behind(f"{folder}/encoder") is says


def test_a_weight_file_says_of_labels_what_its_layout_proves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beit = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False).state_dict()
    simmim = {f"encoder.{key}": tensor for key, tensor in beit.items()} | {
        "encoder.mask_token": torch.zeros(1, 1, 96)
    }
    ours = Encoder(EncoderConfig(size="nano", img_px=64, patch_px=16))
    for name, state in {
        "mae": vit_model().state_dict() | {"decoder_blocks.0.attn.qkv.weight": torch.zeros(144, 48)},
        "simmim": simmim | {"decoder.0.weight": torch.zeros(768, 96, 1, 1)},
        "plain": vit_model().state_dict(),
        "released": released_state(ours),
    }.items():
        torch.save(state, tmp_path / f"{name}.pth")
    (tmp_path / "damaged.pth").write_bytes(b"")

    def behind(name: str) -> bool | None:
        return labels_behind([str(tmp_path / f"{name}.pth")])

    # with the decoder of their pre-training beside them, nothing was learnt since
    assert behind("mae") is behind("simmim") is False
    # a classifier's, perhaps; the authors' layout is written from encoders of ours too (`usfm weights released=`)
    assert behind("plain") is behind("released") is behind("damaged") is None
    digest = file_sha256(tmp_path / "released.pth")
    monkeypatch.setattr("usfm.train.inheritance.AUTHORS_SHA256", digest)
    assert behind("released") is False


def test_a_split_keeps_labels_apart_where_bundle_and_task_share_it(tmp_path: Path) -> None:
    write_small_shards(tmp_path / "shards")
    encoder = config_of(tmp_path, tmp_path).encoder
    task = TaskConfig.build({**VIEW, "canvas_px": 64})
    folds, by_source = (task.model_copy(update={"split_by": split_by}) for split_by in ("folds", "source"))
    kept = {"split_by": "split", "shards_fingerprint": "made", "labels_before": False}
    bundles = {
        "apart": kept, "older": {}, "folds": {**kept, "split_by": "folds", "fold": 0},
        "elsewhere": {**kept, "shards_fingerprint": "others"}, "second": {**kept, "labels_before": True},
        "unknown": {**kept, "labels_before": None},
    }  # fmt: skip
    for name, metrics in bundles.items():
        spec = BundleSpec(kind="classification", name="view", encoder=encoder, classes=["a", "b"], metrics=metrics)
        save_bundle(tmp_path / name, Encoder(encoder), spec)
    start = {"source": str(tmp_path / "apart"), "take": "encoder"}
    open_run(tmp_path / "begun", config_of(tmp_path, tmp_path / "begun", start=start), {})
    for name in ("apart", "elsewhere", "second", "unknown", "begun"):  # as `usfm export` writes them
        says = {"labels_behind": labels_behind([str(tmp_path / name)]),
                "labels_apart_on": labels_apart_on(str(tmp_path / name))}  # fmt: skip
        spec = BundleSpec(kind="embedding", name="e", encoder=encoder, **says)
        save_bundle(tmp_path / "exported" / name, Encoder(encoder), spec)
    start = {"source": str(tmp_path / "exported" / "begun"), "take": "encoder"}
    open_run(tmp_path / "third", config_of(tmp_path, tmp_path / "third", start=start), {})
    assert labels_apart_on(str(tmp_path / "third")) == labels_apart_on(str(tmp_path / "apart")) == "made"
    assert labels_apart_on("scratch") is labels_apart_on(str(tmp_path / "gone")) is None

    def learnt(name: str, task: TaskConfig, shards: str = "shards") -> bool | None:
        return labels_of_tested(name if name == "scratch" else str(tmp_path / name), task, str(tmp_path / shards))

    apart = {"apart", "begun", "third", "exported/apart", "exported/begun"}
    expected = {"scratch": False, "unknown": None, "gone": None, **dict.fromkeys(apart, False)}
    exported = [f"exported/{name}" for name in ("elsewhere", "second", "unknown")]
    for name in (*bundles, *apart, *exported, "gone", "scratch"):
        assert learnt(name, task) is expected.get(name, True), name
        in_folds = {"scratch": False, "gone": None}.get(name, True)
        assert learnt(name, folds) is learnt(name, by_source) is learnt(name, task, "no shards") is in_folds, name
    assert labels_warning("x", False) == ""
    assert labels_warning("x", True).startswith("x learnt from labels, which may be of patients that are tested;")
    assert labels_warning("x", None, ["a", "b"]).startswith(
        "x may have learnt from labels (nothing says whether it did), also of patients that are tested in a, b;"
    )
