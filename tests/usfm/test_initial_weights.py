"""Every source that `init=` takes: run, checkpoint, bundle, weight file; fitted to the encoder that is wanted."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shard_factory import VIEW
from torch import nn
from weight_factory import beit_model, images, randomise, vit_model, with_separate_names

from usfm.errors import CheckpointError, ConfigError
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.objectives import ObjectiveConfig, PixelObjective
from usfm.models.task_model import TaskModel
from usfm.models.teacher_objective import TeacherObjective
from usfm.models.weights.resize import resize_positions
from usfm.train.checkpoint import checkpoint_folder, take_snapshot, write_snapshot
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.initial_weights import encoder_config_of, load_encoder, weights_hash
from usfm.train.optim import OptimConfig, make_optimizer
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.rundir import open_run

NANO = EncoderConfig(size="nano", img_px=64, drop_path=0.0, mean=0.3, std=0.2)


def encoder_of(seed: int, **values: object) -> Encoder:
    return randomise(Encoder(NANO.model_copy(update=values)), seed)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, dict[str, Path]]:
    """The same encoder in every place where it can lie."""
    folder = tmp_path_factory.mktemp("sources")
    objective = PixelObjective(NANO, ObjectiveConfig(), seed=0)
    objective.encoder = encoder_of(seed=1)
    run_dir = folder / "run"
    open_run(run_dir, PretrainConfig(encoder=NANO), {})
    optimizer = make_optimizer(objective, OptimConfig())
    write_snapshot(checkpoint_folder(run_dir, 4), take_snapshot(4, objective, optimizer, {"samples": 32}))
    save_bundle(folder / "bundle", objective.encoder, BundleSpec(kind="embedding", name="x", encoder=NANO))
    task = TaskModel(NANO, "classification", 2)
    task.encoder.load_state_dict({k: t for k, t in objective.encoder.state_dict().items() if k != "mask_token"})
    spec = BundleSpec(kind="classification", name="x", classes=["a", "b"], encoder=NANO)
    save_bundle(folder / "task", task, spec)
    return objective.encoder, {
        "run": run_dir,
        "checkpoint": run_dir / "step-00000004",
        "bundle": folder / "bundle",
        "task": folder / "task",
        "file": run_dir / "step-00000004" / "model.safetensors",
        "bundle's file": folder / "bundle" / "model.safetensors",
    }


@pytest.mark.parametrize("place", ["run", "checkpoint", "bundle", "task", "file", "bundle's file"])
def test_every_place_gives_the_same_encoder(sources: tuple[Encoder, dict[str, Path]], place: str) -> None:
    expected, places = sources
    assert encoder_config_of(places[place]) == NANO
    got = encoder_of(seed=2)
    first_token = got.mask_token.detach().clone()
    report = load_encoder(got, places[place])
    assert (report.layout, report.problems) == ("ours", [])
    own = got.state_dict()
    for name, tensor in expected.state_dict().items():
        lost = name == "mask_token" and place == "task"  # a task's model has none: the first values stay
        assert torch.equal(own[name], first_token if lost else tensor), name
    file = places["checkpoint"] if place == "run" else places[place]
    file = file if file.is_file() else file / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(weights_hash(places[place]))


def test_the_averaged_encoder_of_a_teacher_run(sources: tuple[Encoder, dict[str, Path]], tmp_path: Path) -> None:
    trained, places = sources
    run_dir, averaged = tmp_path / "run", encoder_of(seed=5)
    objective = TeacherObjective(NANO, ObjectiveConfig(kind="teacher"), seed=0)
    objective.encoder.load_state_dict(trained.state_dict())
    objective.teacher.load_state_dict({k: t for k, t in averaged.state_dict().items() if k != "mask_token"})
    open_run(run_dir, PretrainConfig(encoder=NANO, objective={"kind": "teacher"}), {})
    optimizer = make_optimizer(objective, OptimConfig())
    write_snapshot(checkpoint_folder(run_dir, 4), take_snapshot(4, objective, optimizer, {"samples": 32}))
    got = encoder_of(seed=2)
    load_encoder(got, run_dir)
    assert all(torch.equal(t, trained.state_dict()[name]) for name, t in got.state_dict().items())
    load_encoder(got, run_dir, averaged=True)
    expected = averaged.state_dict() | {"mask_token": trained.mask_token}
    assert all(torch.equal(t, expected[name]) for name, t in got.state_dict().items())
    with pytest.raises(CheckpointError, match="has no averaged encoder"):
        load_encoder(got, places["run"], averaged=True)


def test_a_folder_of_timms_hub_states_its_normalisation(tmp_path: Path) -> None:
    theirs = vit_model()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    stated = {"architecture": "x", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.1]}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        ours = Encoder(encoder_config_of(source)).eval()
        load_encoder(ours, source)
        mean, std = (torch.tensor(stated["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
        with torch.inference_mode():
            assert torch.allclose(ours(images()), theirs.forward_features((images() - mean) / std), atol=1e-5)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}')
    with pytest.raises(CheckpointError, match=r"states mean \(0.5,\).*takes 3 channels"):
        encoder_config_of(tmp_path)


def test_a_bundle_of_the_first_version_still_loads(
    sources: tuple[Encoder, dict[str, Path]], tmp_path: Path
) -> None:
    """Before timm could read them, bundles had our own names and a flat config.json without the new keys."""
    expected = sources[0]
    save_file(expected.state_dict(), tmp_path / "model.safetensors")
    version = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()[:12]
    (tmp_path / "config.json").write_text(
        '{"kind": "embedding", "name": "old", "classes": [], "canvas_px": 256, "version": "' + version + '", '
        '"encoder": {"size": "nano", "img_px": 64, "patch_px": 16, "drop_path": 0.0, "layer_scale": 0.1, '
        '"mean": 0.3, "std": 0.2, "mask_token": "added"}}'
    )
    got = encoder_of(seed=2)
    load_encoder(got, tmp_path)
    assert all(torch.equal(t, expected.state_dict()[name]) for name, t in got.state_dict().items())


def test_another_image_side_and_normalisation_are_fitted(sources: tuple[Encoder, dict[str, Path]]) -> None:
    expected, places = sources
    larger = encoder_of(seed=2, img_px=96, mean=0.5, std=0.1)
    load_encoder(larger, places["run"])
    own, resized = larger.state_dict(), resize_positions(expected.state_dict(), 6)
    table = "beit.rel_pos_bias.relative_position_bias_table"
    assert own[table].shape == (11**2 + 3, 3)
    assert torch.equal(own[table], resized[table])
    x = images(side=96)
    with torch.inference_mode():  # the same embedding of the same grey value
        theirs = expected.beit.patch_embed.proj((x - 0.3) / 0.2)
        assert torch.allclose(larger.beit.patch_embed.proj((x - 0.5) / 0.1), theirs, atol=1e-4)


def test_a_foreign_file_is_a_start_for_pretraining_and_tasks(tmp_path: Path) -> None:
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    state = {f"encoder.{k}": t for k, t in with_separate_names(theirs.state_dict(), grid=4).items()}
    state |= {"encoder.mask_token": torch.randn(1, 1, 96), "decoder.0.weight": torch.randn(768, 96, 1, 1)}
    path = tmp_path / "simmim.pth"
    torch.save({"model": state}, path)
    config = encoder_config_of(path)
    assert (config.size, config.channels, config.img_px, config.mask_token) == ("nano", 1, 64, "replace")
    objective = PixelObjective(config.model_copy(update={"img_px": 96}), ObjectiveConfig(), seed=0)
    load_encoder(objective.encoder, path)
    assert torch.equal(objective.encoder.mask_token, state["encoder.mask_token"])
    task = TaskModel(config, "segmentation", 2)
    load_encoder(task.encoder, path)
    assert torch.equal(task.encoder.beit.norm.bias, theirs.norm.bias)
    assert weights_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "tiny"}, "size is nano, wanted tiny"),
        ({"patch_px": 8}, "patch_px is 16, wanted 8"),
        ({"positions": "absolute"}, "positions is shared_bias, wanted absolute"),
        ({"layer_scale": None}, "layer_scale is there, wanted absent"),
        ({"final_norm": False}, "final_norm is True, wanted False"),
    ],
)
def test_another_network_is_refused(sources: tuple[Encoder, dict[str, Path]], values: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_encoder(encoder_of(seed=2, **values), sources[1]["run"])


def test_a_lost_or_changed_tensor_is_refused(sources: tuple[Encoder, dict[str, Path]], tmp_path: Path) -> None:
    state = load_file(sources[1]["checkpoint"] / "model.safetensors")
    save_file({k: t for k, t in state.items() if not k.endswith("q_bias")}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"6 keys are unexplained.*q_bias \(missing"):
        load_encoder(encoder_of(seed=2), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is neither a pre-training run nor an exported model nor"):
        load_encoder(encoder_of(seed=2), tmp_path)


def test_a_plain_vit_must_be_converted_first(tmp_path: Path) -> None:
    save_file(vit_model().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="do not say how its input was normalised"):
        encoder_config_of(tmp_path / "vit.safetensors")


def test_finetuning_starts_from_a_file_at_another_side(small_shards: Path, tmp_path: Path) -> None:
    """`init=FILE encoder.img_px=...`; the first step sees the file's weights, fitted."""
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    state = {f"encoder.{key}": tensor for key, tensor in theirs.state_dict().items()}
    save_file(state | {"decoder.0.weight": torch.randn(768, 96, 1, 1)}, tmp_path / "simmim.safetensors")
    encoder = encoder_config_of(tmp_path / "simmim.safetensors").model_dump() | {"img_px": 32}
    config = FinetuneConfig.build({
        "shards": str(small_shards), "run_dir": str(tmp_path / "run"), "task": {**VIEW, "canvas_px": 64},
        "init": str(tmp_path / "simmim.safetensors"), "encoder": encoder, "steps": 1, "batch_size": 8,
        "freeze_encoder": True,
    })  # fmt: skip
    result = finetune(config, PlainContext())
    weights = load_file(Path(result["bundle"]) / "model.safetensors")
    assert torch.equal(weights["encoder.beit.norm.weight"], theirs.norm.weight)
    assert weights["encoder.beit.rel_pos_bias.relative_position_bias_table"].shape == (12, 3)
    assert isinstance(theirs.norm, nn.LayerNorm)
