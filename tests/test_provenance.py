"""Which code a number comes from: what changes its hash, and what does not."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.config import ExperimentConfig, Pretraining
from dmf.records import provenance
from dmf.records.provenance import code_hash

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "dmf": ExperimentConfig(),
    "conv64f": ExperimentConfig().replace(model__backbone="conv64f"),
    "proto_net": ExperimentConfig().replace(model__method="proto_net"),
    "started": ExperimentConfig().with_paths({"model.method": "proto_net", "start.head": "cosine"}),
    "stage": Pretraining(),
}
PROGRAM = """
import json, sys
from dmf.records.provenance import code_hash
from dmf.records.records import training_from
configs = {name: training_from(json.dumps(config)) for name, config in json.load(sys.stdin).items()}
print(json.dumps({f"{name} {device}": code_hash(config, device)
                  for name, config in configs.items() for device in ("cpu", "cuda")}))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for part in ("dmf", "csrc"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    return tmp_path


@functools.cache
def hashes(root: Path = ROOT) -> dict[str, str]:
    """`code_hash` of all CONFIGS by device type, computed by the code in `root`."""
    given = json.dumps({name: config.model_dump(mode="json") for name, config in CONFIGS.items()})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, input=given, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def changed(root: Path) -> set[str]:
    """The CONFIGS, each with a device type, for which the code in `root` has another hash."""
    return {name for name, value in hashes(root).items() if value != hashes()[name]}


def edit(path: Path, old: str, new: str) -> None:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))


def of(*names: str) -> set[str]:
    return {f"{name} {device}" for name in names for device in ("cpu", "cuda")}


EVERY, DMF, EPISODIC = of(*CONFIGS), of("dmf", "conv64f"), of("dmf", "conv64f", "proto_net", "started")
PROTO_NET = of("proto_net", "started")


def test_a_copy_has_the_same_hashes(copy: Path) -> None:
    found = hashes()
    assert hashes(copy) == found == {**found, "dmf cpu": code_hash(ExperimentConfig(), "cpu")}
    assert all(len(value) == 16 for value in found.values())
    assert len({found["dmf cpu"], found["dmf cuda"], found["proto_net cpu"]}) == 3
    assert found["proto_net cpu"] == found["proto_net cuda"], "it runs nothing of csrc"


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("dmf/training/schedule.py", "0.5 * (1 + math.cos", "0.4 * (1 + math.cos", EVERY),
        ("dmf/evaluation/evaluate.py", "1.96 * accuracies", "2 * accuracies", EVERY),
        ("dmf/episodes.py", "import torch\n", "import torch\nDRAWN_OTHERWISE = 1\n", EVERY),
        ("dmf/methods/dmf/model.py", "self.", "self. ", DMF),
        ("dmf/methods/proto_net/model.py", "-self.log_scale.exp()", "-2 * self.log_scale.exp()", PROTO_NET),
        ("dmf/training/episodic.py", "math.ceil(", "math.floor(", EPISODIC),
        ("dmf/training/pretraining.py", "loss = F.cross", "loss = 2 * F.cross", of("started", "stage")),
        ("dmf/backbones/conv64f.py", "nn.LeakyReLU(slope)", "nn.LeakyReLU(2 * slope)", of("conv64f")),
        ("dmf/backbones/drop_block.py", "self.rate / self.ramp", "self.rate", EVERY),
        ("csrc/sampling.h", "};", "};  int more;", DMF),
        ("csrc/aligned_score.cu", "}", "}  int more;", {"dmf cuda", "conv64f cuda"}),
        ("csrc/cuda.cuh", "}", "}  int more;", {"dmf cuda", "conv64f cuda"}),
        ("dmf/training/run.py", '"""', '"""Other words. ', set()),
        ("dmf/training/run.py", "import logging\n", "# a remark\n\nimport logging  # another\n", set()),
        ("csrc/sampling.h", "\n", "\n// a remark\n", set()),
        ("dmf/records/records.py", "import Path\n", "import Path, PurePath\n", set()),
        ("dmf/train.py", "import argparse", "import os, argparse", set()),
        ("dmf/data/layouts/layouts.py", "import annotations\n", "import annotations\nANOTHER_LAYOUT = 1\n", set()),
    ],
)
def test_what_makes_numbers_counts_and_words_about_it_do_not(
    copy: Path, name: str, old: str, new: str, expected: set[str]
) -> None:
    edit(copy / name, old, new)
    assert changed(copy) == expected


def test_another_method_changes_no_hash(copy: Path) -> None:
    shutil.copytree(copy / "dmf/methods/proto_net", copy / "dmf/methods/another")
    edit(copy / "dmf/methods/__init__.py", '"dmf": "DMF",', '"dmf": "DMF", "other": "Other",')
    edit(copy / "dmf/config/methods.py", "AnyMethod =", "Another = ProtoNetConfig\nAnyMethod =")
    assert changed(copy) == set()


def test_a_moved_module_changes_no_hash(copy: Path) -> None:
    (copy / "dmf/room").mkdir()
    (copy / "dmf/room/__init__.py").touch()
    for module in ("dmf.machine.precision", "dmf.methods.dmf.meta_filter", "dmf.episodes"):
        path, name = module.replace(".", "/") + ".py", module.rpartition(".")[2]
        (copy / path).rename(copy / f"dmf/room/{name}.py")
        for file in copy.glob("dmf/**/*.py"):
            file.write_text(file.read_text().replace(f"from {module} import", f"from dmf.room.{name} import"))
    assert changed(copy) == set()


def test_the_same_name_from_another_module_counts(copy: Path) -> None:
    (copy / "dmf/other.py").write_text((copy / "dmf/machine/precision.py").read_text())
    edit(copy / "dmf/methods/proto_net/model.py", "from dmf.machine.precision import", "from dmf.other import")
    assert changed(copy) == PROTO_NET


def test_the_modules_are_those_that_a_training_runs() -> None:
    names = {path.stem for path in provenance._modules(provenance._roots(ExperimentConfig()))}
    assert {
        "run",
        "evaluate",
        "model",
        "meta_filter",
        "base",
        "resnet12",
        "drop_block",
        "aligned_score",
        "augment",
        "sets",
    } <= names
    assert not names & {
        "train",
        "released",
        "pretraining",
        "conv64f",
        "config",
        "layouts",
        "cache",
        "glyphs",
        "records",
        "checkpoints",
    }
    sources = {path.name for path in provenance._sources(names, cuda=False)}
    assert sources == {"sampling.h", *(f"{n}.{e}" for n in ("dynamic_sampling", "aligned_score") for e in ("h", "cpp"))}
