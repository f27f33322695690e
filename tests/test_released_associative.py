"""Checkpoints of the released Associative Alignment: objects of its classes beside the weights, which run no code."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmf import evaluate
from dmf.backbones.conv4_relu import Conv4ReLU
from dmf.released_associative import folded, load


class Block(nn.Module):
    """Their convolution block, with a bias before the normalisation."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        parts = nn.Conv2d(inside, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)
        self.convBlock = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.convBlock(images)
        return maps


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nConvBlock = nn.Sequential(Block(3), Block(64), Block(64), Block(64))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.nConvBlock(images)
        return maps


@pytest.fixture
def network() -> Theirs:
    torch.manual_seed(0)
    theirs = Theirs()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return theirs.eval()


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def checkpoint(network: Theirs, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """As the released code saves it, with a classifier of a class that is not there when it is read."""
    module = types.ModuleType("heads_of_theirs")
    head = type("clf_Arc", (nn.Linear,), {"__module__": module.__name__})
    module.clf_Arc = head  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    classifier = head(1600, 64)
    optimizer = torch.optim.Adam([*network.parameters(), *classifier.parameters()])
    network.nConvBlock(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 266,
        "state": network.state_dict(),
        "max_acc": np.float64(53.195),
        "base_clf": classifier,
        "optimizer": optimizer,
    }
    path = tmp_path / "5way_1shot_miniImagenet_arcMax_Conv4_bestModel.tar"
    torch.save(content, path, _use_new_zipfile_serialization=request.param)
    del sys.modules[module.__name__]
    return path


def test_the_network_of_a_checkpoint_is_the_same_function_without_biases(checkpoint: Path, network: Theirs) -> None:
    ours = Conv4ReLU(last_pooling=True).eval()
    ours.load_state_dict(load(checkpoint))
    images = torch.randn(3, 3, 84, 84)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_checkpoint_runs_no_code(tmp_path: Path, legacy: bool) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "hostile.tar"
    torch.save({"state": OrderedDict(), "base_clf": Hostile()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="is no released Conv4: missing keys"):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_checkpoint_is_said_in_a_sentence(tmp_path: Path, network: Theirs) -> None:
    path = tmp_path / "file.tar"
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a checkpoint: "):
        load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load(path)
    torch.save({"model": network.state_dict()}, path)
    with pytest.raises(ValueError, match="it has no state dict called 'state'"):
        load(path)
    state = network.state_dict()
    with pytest.raises(ValueError, match="unknown keys extra"):
        folded({**state, "extra": torch.zeros(1)})
    del state["nConvBlock.2.convBlock.1.weight"]
    with pytest.raises(ValueError, match=r"missing keys \['nConvBlock.2.convBlock.1.weight'\]"):
        folded(state)


def test_the_command_tests_a_checkpoint(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "model.novel_steps=5 model.alignment_iterations=1 model.related_images=2 data.image_size=20".split()
    settings += ["data.resize=square", "augmentation.crop=none", "start.augmentation=null", "training.device=cpu"]
    asked = "--dataset glyphs --nExemplars 1 --queries 2 --episodes 3".split()
    said = {}
    for method in ("fine_tuning", "centroid_alignment", "adversarial_alignment"):
        own = settings if method != "fine_tuning" else [settings[0], *settings[3:]]
        command = ["--resume", str(checkpoint), f"model.method={method}", *own, *asked]
        assert evaluate.main(command) == 0
        said[method] = capsys.readouterr().out
    assert all("5-way 1-shot, 3 test episodes" in each for each in said.values())
    assert evaluate.main(["--resume", str(checkpoint), "--dataset", "glyphs"]) == 2
    assert "is not a checkpoint of" in capsys.readouterr().err
