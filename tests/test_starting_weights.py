"""Backbones that start from weights in a file: ours, released ones, plain state dicts; and files that are refused."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dmf.released
from dmf.backbones import BACKBONES, build_backbone
from dmf.backbones.config import CHANNELS, BackboneConfig
from dmf.config import DMFConfig, ExperimentConfig
from dmf.data.sets import images_of
from dmf.records.checkpoints import read_checkpoint, under
from dmf.training.stage import build_stage
from dmf.weights import backbone_weights, check_weights
from orchestrator import archive
from orchestrator.costs.rates import cost_class, flops_per_image, parameters
from orchestrator.spec.plan import labels
from orchestrator.store.archive import Archive
from tests.sites import Site
from tests.tiny import tiny_sweep

CONFIG = ExperimentConfig().replace(
    data__name="glyphs",
    data__image_size=28,
    data__normalisation="half",
    model__method="proto_net",
    model__backbone="conv64f",
    training__device="cpu",
    training__validation_episodes=2,
)
PART = "  - {table: '1', grid: {model.method: [proto_net, classifier_baseline]}}\n"
SPEC = tiny_sweep("tiny", "methods from weights", PART, epochs=2)


def backbone(name: str = "conv64f", channels: int = 3) -> nn.Module:
    torch.manual_seed(7)
    return build_backbone(BackboneConfig(backbone=name), channels)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def starting(path: Path, config: ExperimentConfig = CONFIG) -> ExperimentConfig:
    return config.replace(model__weights=str(path)).resolved()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    counters = ("drop.forwards",)
    names = {name for name in one if not name.endswith(counters)}
    return names <= other.keys() and all(torch.equal(one[name], other[name]) for name in names)


def test_the_key_covers_the_content_and_not_the_place(tmp_path: Path) -> None:
    one = starting(written(tmp_path / "one.safetensors", backbone().state_dict()))
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "copy.safetensors")
    changed = {name: tensor + 1 for name, tensor in backbone().state_dict().items()}
    other = starting(written(tmp_path / "other.safetensors", changed))
    assert one.key == starting(tmp_path / "copy.safetensors").key
    assert len({one.key, other.key, CONFIG.key}) == 3
    assert one.keys((0, 1))[1] == one.replace(training__seed=1).key
    assert ExperimentConfig.from_dict(one.compact()).key == one.key
    told = labels([one, other, CONFIG])
    assert re.fullmatch(r"start=one\.safetensors:[0-9a-f]{8}", told[one.key]) and told[CONFIG.key] == "start=random"
    with pytest.raises(ValueError, match="call `resolved`"):
        _ = one.replace(model__weights=str(tmp_path / "other.safetensors")).key


def test_a_training_of_ours_can_be_started_from(trainings: Path) -> None:
    path = trainings / "ended" / "best.safetensors"
    config = starting(path, CONFIG.replace(data__image_size=20))
    stage = build_stage(config, images_of(config), torch.device("cpu"), None)
    weights = under("model.backbone.", read_checkpoint(path)[0])
    assert len(weights) > 10 and equal(weights, stage.method.backbone.state_dict())
    last = trainings / "stopped" / "last.safetensors"  # it has momenta of the same names
    assert equal(under("model.backbone.", read_checkpoint(last)[0]), backbone_weights(str(last), weights))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_can_be_started_from(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = dmf.released.DMF.build(backbone("resnet12"), DMFConfig(groups=64), 5)
    state = {prefix + name: value for name, value in dmf.released.to_state_dict(model).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "released.pth.tar")
    wanted = model.backbone.state_dict()
    assert equal(wanted, backbone_weights(str(tmp_path / "released.pth.tar"), wanted))
    check_weights(starting(tmp_path / "released.pth.tar", CONFIG.replace(model__backbone="resnet12")))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_starts_from_its_own_state_dict_under_any_prefix(name: str, tmp_path: Path) -> None:
    wanted = backbone(name).state_dict()
    path = written(tmp_path / "x.safetensors", {f"module.encoder.{key}": value for key, value in wanted.items()})
    assert equal(wanted, backbone_weights(str(path), wanted))
    torch.save({"model": {"params": wanted}}, tmp_path / "x.pth")
    assert equal(wanted, backbone_weights(str(tmp_path / "x.pth"), wanted))


def code(path: Path) -> Path:
    torch.save({"net": print}, path)
    return path


def poisoned(tensor: Tensor) -> Tensor:
    return tensor * float("nan") if tensor.is_floating_point() else tensor


def text(path: Path) -> Path:
    path.write_text("not tensors")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda path: path, "cannot be read: No such file or directory"),
    "a folder": (folder, "is not a file; name the file itself"),
    "text": (text, "is not a readable safetensors file"),
    "code": (lambda path: code(path.with_suffix(".pth")), "is not a checkpoint of tensors and numbers only"),
    "another backbone": (
        lambda path: written(path, backbone("conv32f").state_dict()),
        "another model: 20 of its tensors differ, first layers.0.weight: got (32, 3, 3, 3), expected (64, 3, 3, 3)",
    ),
    "another kind of backbone": (
        lambda path: written(path, backbone("resnet12").state_dict()),
        "does not have the backbone's 20 tensors, such as layers.0.weight; it holds ",
    ),
    "grey images": (
        lambda path: written(path, backbone(channels=1).state_dict()),
        "first layers.0.weight: got (64, 1, 3, 3), expected (64, 3, 3, 3)",
    ),
    "NaN": (
        lambda path: written(path, {name: poisoned(tensor) for name, tensor in backbone().state_dict().items()}),
        "tensors hold NaN or infinity, first layers.",
    ),
    "twice": (
        lambda path: written(path, {f"{of}.{n}": t for of in ("a", "b") for n, t in backbone().state_dict().items()}),
        "more than once (a.layers.0.weight, b.layers.0.weight); keep one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_and_a_start_refuse_in_a_sentence_what_does_not_fit(case: str, place: Path) -> None:
    make, told = REFUSED[case]
    path = make(place / "weights.safetensors")
    site = Site(place, SPEC.replace("data.channels: 1", "data.channels: 3"), with_database=False)
    for command in (["--plan"], ["--executor", "local"]):
        assert site.command(*command, f"model.weights={path}") == 2
        assert told in site.said and "Traceback" not in site.said and str(path) in site.said, site.said
    assert not (place / "runs" / "trainings").exists()


def test_what_contradicts_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", backbone().state_dict())
    with pytest.raises(ValueError, match="two ways to begin; leave out one"):
        starting(path).replace(start__head="linear")
    with pytest.raises(ValueError, match="model.weights_sha256 says 0{64}; give the file"):
        CONFIG.replace(model__weights=str(path), model__weights_sha256="0" * 64).resolved()
    with pytest.raises(ValueError, match="no such parameter|not a parameter"):
        CONFIG.replace(model__method="raw_pixels", model__weights=str(path))
    planned = starting(path)
    written(path, {name: tensor + 1 for name, tensor in backbone().state_dict().items()})
    os.utime(path, (1, 1))  # a checksum is kept as long as the file's time and size are the same
    images = images_of(planned)
    with pytest.raises(ValueError, match=r"has the SHA-256 \w+ here, but the training was planned with"):
        build_stage(planned, images, torch.device("cpu"), None)
    path.unlink()
    with pytest.raises(ValueError, match="model.weights=.*cannot be read: No such file"):
        build_stage(planned, images, torch.device("cpu"), None)
    with pytest.raises(ValueError, match="but model.weights names no file"):
        build_stage(
            planned.with_paths({"model.weights": None, "model.weights_sha256": "1" * 64}),
            images,
            torch.device("cpu"),
            None,
        )


def test_a_sweep_starts_all_its_methods_from_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(place / "mine.safetensors", backbone(channels=1).state_dict())
    site = Site(place, SPEC, with_database=True)
    assert site.run("model.weights=mine.safetensors") == 0, site.said
    learnt, fixed = site.trials(f"model.weights={path}")  # another way to name it
    assert site.states(f"model.weights={path}") == ["done", "done"]
    weights = under("model.backbone.", read_checkpoint(site.ledger.folder(fixed.key) / "best.safetensors")[0])
    assert equal(backbone(channels=1).state_dict(), weights)
    trained = under("model.backbone.", read_checkpoint(site.ledger.folder(learnt.key) / "best.safetensors")[0])
    assert not equal(backbone(channels=1).state_dict(), trained)
    path.unlink()  # tests and tables need it no more
    assert archive.main(["export", "tiny", "-o", "tiny.dmfa"]) == 0
    found = Archive("tiny.dmfa").how_ended(learnt.key)
    assert found is not None and found.outcome == "finished"
    assert str(place).encode() not in Path("tiny.dmfa").read_bytes()


def test_a_backbone_without_channels_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CHANNELS, "conv64f")
    with pytest.raises(ValueError, match="backbone=conv64f has no number of channels; add it to CHANNELS of"):
        _ = BackboneConfig(backbone="conv64f").channels


def test_a_plan_counts_a_method_that_starts_from_weights_like_any_other(tmp_path: Path) -> None:
    config = starting(written(tmp_path / "x.safetensors", backbone().state_dict()))
    assert (parameters(config), flops_per_image(config)) == (parameters(CONFIG), flops_per_image(CONFIG))
    assert cost_class(config) == cost_class(CONFIG)
