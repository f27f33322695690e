"""Configurations of LibFewShot become sweep files: what is mapped, what is told, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from dmf.config import METHODS, DataConfig, ExperimentConfig
from dmf.config.recipes import recipe
from dmf.methods import build_method
from dmf.weights import check_weights
from orchestrator.import_config.__main__ import main, text_of
from orchestrator.import_config.configuration import Unmapped, read_configuration
from orchestrator.import_config.translate import CLASSIFIERS, sweep_of
from orchestrator.spec.file import parse_yaml, read_spec, spec_from

ROOT = Path(__file__).resolve().parents[1]
HEADERS = {
    "headers/data.yaml": "data_root: /images/miniImageNet--ravi\nimage_size: 84\naugment: True\naugment_times: 1\n",
    "headers/device.yaml": "device_ids: 0\nn_gpu: 1\nseed: 0\n",
    "headers/misc.yaml": "log_level: info\nlog_name: ~\nsave_part: [emb_func]\n",
    "headers/model.yaml": (
        "epoch: 50\ntest_epoch: 5\npretrain_path: ~\nway_num: 5\nshot_num: 1\nquery_num: 15\ntest_way: ~\n"
        "test_shot: ~\ntest_query: ~\nepisode_size: 1\ntrain_episode: 100\ntest_episode: 600\nbatch_size: 128\n"
    ),
    "headers/optimizer.yaml": """
        optimizer: {name: Adam, kwargs: {lr: 0.001, weight_decay: 5e-4}, other: ~}
        lr_scheduler: {name: StepLR, kwargs: {gamma: 0.5, step_size: 10}}
    """,
    "backbones/Conv64F.yaml": "backbone: {name: Conv64F, kwargs: {is_flatten: True, leaky_relu: False}}\n",
    "backbones/resnet12.yaml": "backbone: {name: resnet12, kwargs: {keep_prob: 0.0, avg_pool: True}}\n",
    "classifiers/Proto.yaml": "classifier: {name: ProtoNet, kwargs: ~}\n",
    "classifiers/R2D2.yaml": "classifier: {name: R2D2, kwargs: ~}\n",
    "classifiers/CAN.yaml": "classifier: {name: CAN, kwargs: {scale_cls: 7, num_class: 64, nFeat: 64, HW: 5}}\n",
    "classifiers/MAML.yaml": "classifier: {name: MAML, kwargs: {inner_param: {lr: 1e-2, iter: 5}, feat_dim: 1600}}\n",
}
"""LibFewShot's folder `config`, for these tests."""
COSINE = """
optimizer: {name: SGD, kwargs: {lr: 0.1, momentum: 0.9, nesterov: True, weight_decay: 0.0005}}
lr_scheduler: {name: CosineAnnealingLR, kwargs: {T_max: 100, eta_min: 0}}
epoch: 100
train_episode: 2000
episode_size: 4
"""
PROTO_NET = """
includes: [headers/data.yaml, headers/optimizer.yaml, classifiers/Proto.yaml, backbones/resnet12.yaml]
epoch: 100
train_episode: 2000
"""
R2D2 = f"includes: [classifiers/R2D2.yaml, backbones/Conv64F.yaml]\n{COSINE}"
CAN = f"""
includes: [classifiers/CAN.yaml]
backbone: {{name: Conv64F, kwargs: {{is_flatten: False, leaky_relu: True, negative_slope: 0.2}}}}
{COSINE}
"""
MAML = "includes: [backbones/Conv64F.yaml, classifiers/MAML.yaml]\n"
RFS = """
includes: [backbones/Conv64F.yaml]
classifier: {name: RFSModel, kwargs: {feat_dim: 1600, num_class: 64, is_distill: False}}
optimizer: {name: SGD, kwargs: {lr: 0.1, momentum: 0.9, weight_decay: 0.0005}}
lr_scheduler: {name: CosineAnnealingLR, kwargs: {T_max: 100, eta_min: 0}}
epoch: 100
"""


def written(place: Path, text: str, where: str = "config/mine.yaml", **files: str) -> Path:
    """A configuration in LibFewShot's folder, with further files of `config` by name."""
    for name, content in {**{f"config/{name}": each for name, each in (HEADERS | files).items()}, where: text}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(textwrap.dedent(content))
    return place / where


def imported(path: Path) -> tuple[ExperimentConfig, dict[str, Any], list[str]]:
    """The training, the sweep as plain data, and what was not mapped."""
    given = read_configuration(path)
    sweep = sweep_of(given, "mine")
    config = spec_from(sweep).resolved[0].config
    assert isinstance(config, ExperimentConfig)
    return config, sweep, [str(each) for each in given.unmapped]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PROTO_NET, "proto_net_resnet12"),
        (R2D2, "r2d2_conv64f"),
        (CAN, "can_conv64f"),
        (RFS, "rfs_conv64f"),
    ],
)
def test_reproduced_trainings_are_the_recipes_of_them(text: str, name: str, tmp_path: Path) -> None:
    """A recipe is from the same kind of file, read by a person. Its validation is ours, and its activation."""
    config, theirs = imported(written(tmp_path, text))[0], recipe(name)
    ours = config.flat()
    aside = {"data.root", *config.unread, *(path for path in ours if "valid" in path)}
    different = {path: (ours.get(path), value) for path, value in theirs.flat().items() if ours.get(path) != value}
    assert {path: values for path, values in different.items() if path not in aside} == {}
    assert ours["model.conv_slope"] == (0.2 if text == CAN else 0.0 if "conv" in name else 0.1)


def test_later_files_replace_whole_settings_of_earlier_ones(tmp_path: Path) -> None:
    text = PROTO_NET + "optimizer: {name: SGD, kwargs: {lr: 0.2}}\n"
    config = imported(written(tmp_path, text))[0]
    assert (config.training.optimiser, config.training.learning_rate) == ("sgd", 0.2)
    assert config.training.momentum == 0 and not config.training.nesterov and config.training.weight_decay == 0
    assert config.training.epochs == 100  # the file's own, not that of the header, which is read without an include


def test_way_shot_episodes_and_seed_of_training_and_tests(tmp_path: Path) -> None:
    more = "way_num: 10\nshot_num: 5\nquery_num: 8\ntest_way: 5\ntest_episode: 200\nseed: 7\ntrain_episode: 203\n"
    config, sweep, _ = imported(written(tmp_path, MAML + more + "episode_size: 10\nval_per_epoch: 3\n"))
    assert dict(config.episodes) == {"way": 10, "shot": 5, "queries": 8}
    assert dict(config.validation) == {"way": 5, "shot": 5, "queries": 8}
    assert (config.training.episodes_per_epoch, config.training.episodes_per_step) == (200, 10)
    assert (config.training.validate_every, config.training.validate_all_from) == (3, 50)
    assert sweep["evaluation"] == {"episodes": 1000, "way": 5, "shot": 5, "queries": 8} and sweep["seeds"] == [7]


def test_inner_loops(tmp_path: Path) -> None:
    config, _, told = imported(written(tmp_path, MAML))
    model = config.model.model_dump()
    assert (model["inner_steps"], model["inner_steps_in_tests"], model["inner_learning_rate"]) == (5, 5, 0.01)
    assert model["classifier_way"] == 5 and not any("test_way" in each for each in told)
    newer = "classifier: {name: ANIL, kwargs: {inner_param: {lr: 0.01, train_iter: 3, test_iter: 10}}}\ntest_way: 10\n"
    config, _, told = imported(written(tmp_path, MAML + newer))
    model = config.model.model_dump()
    assert (model["method"], model["inner_steps"], model["inner_steps_in_tests"]) == ("anil", 3, 10)
    assert model["classifier_way"] is None
    assert "test_way=10: the source's classifier has 5 outputs; here, any number from one start" in told


ARGUMENTS = {
    "MAML": "{inner_param: {lr: 0.01, iter: 5}}",
    "ANIL": "{inner_param: {lr: 0.01, iter: 5}}",
    "FEAT": "{hdim: 64, temperature: 64, temperature2: 32, balance: 10, mode: euclidean}",
    "DMF": "{kernel: 1, groups: 16}",
    "META_FILTER": "{kernel: 1, groups: 16}",
    "Baseline": "{inner_param: {inner_optim: {name: SGD, kwargs: {lr: 0.02}}, inner_train_iter: 50}}",
    "NegNet": "{margin: -0.02, inner_param: {inner_scale_factor: 4.0, inner_margin: 0.0}}",
}
EXPECTED: dict[str, dict[str, Any]] = {
    "FEAT": {"model.temperature": 64.0, "model.auxiliary_temperature": 32.0, "model.auxiliary_weight": 0.1},
    "DMF": {"model.groups": 16, "model.kernel_size": 1},
    "Baseline": {"model.fit_learning_rate": 0.02, "model.fit_momentum": 0.0, "model.fit_passes": 50},
    "BaselinePlus": {"start.head": "weight_norm", "start.head_scale": 2.0},
    "NegNet": {"start.head": "cosine", "start.head_margin": -0.02, "start.head_scale": 30.0, "model.fit_scale": 4.0},
    "RelationNet": {"model.relation_loss": "cross_entropy", "model.relation_momentum": 1.0},
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_is_a_method(name: str, tmp_path: Path) -> None:
    text = f"{MAML}classifier: {{name: {name}, kwargs: {ARGUMENTS.get(name, '~')}}}\n"
    config, _, told = imported(written(tmp_path, text))
    assert config.model.method == CLASSIFIERS[name].method and (config.start is None) == config.model.learns
    assert {path: config.flat()[path] for path in EXPECTED.get(name, {})} == EXPECTED.get(name, {})
    assert any("balance=10" in each for each in told) == (name == "FEAT")
    if config.start is not None:
        assert (config.start.training.batches_per_epoch, config.start.training.batch_size) == (300, 128)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "MAML"])  # MAML's maps are images
def test_only_methods_said_to_take_means_ignore_where_features_are(name: str) -> None:
    torch.manual_seed(0)
    config = METHODS[CLASSIFIERS[name].method]().with_paths({"backbone": "conv64f"})
    model = build_method(config, DataConfig(image_size=28), base_classes=5).eval()
    support, query = torch.rand(1, 3, 2, 64, 3, 3), torch.rand(1, 4, 64, 3, 3)
    moved = [maps.flatten(-2)[..., torch.randperm(9)].unflatten(-1, (3, 3)) for maps in (support, query)]
    with torch.no_grad():
        same = torch.allclose(model.score(support, query), model.score(*moved), rtol=1e-4, atol=1e-5)
    assert same == (CLASSIFIERS[name].reads == "mean")


@pytest.mark.parametrize(
    ("schedule", "milestones"),
    [
        ("{name: StepLR, kwargs: {step_size: 20, gamma: 0.5}}", ((20, 0.5), (40, 0.25))),
        ("{name: MultiStepLR, kwargs: {milestones: [30, 10, 90], gamma: 0.1}}", ((10, 0.1), (30, 0.01))),
        ("{name: StepLR, kwargs: {step_size: 60, gamma: 0.5}}", ()),
        ("{name: StepLR, kwargs: {step_size: 10, gamma: 1.0}}", ()),
        ("{name: LambdaLR, kwargs: {lr_lambda: 'lambda epoch: __import__(\"os\").abort()'}}", ()),
    ],
)
def test_schedules(schedule: str, milestones: tuple[tuple[int, float], ...], tmp_path: Path) -> None:
    config, _, told = imported(written(tmp_path, f"{MAML}lr_scheduler: {schedule}\n"))
    assert config.training.milestones == milestones
    assert config.training.schedule == ("steps" if milestones else "constant")
    assert ("lr_scheduler.name='LambdaLR': there is no such schedule here; the rate is constant instead" in told) == (
        "Lambda" in schedule
    )


def test_a_warm_up_moves_the_milestones(tmp_path: Path) -> None:
    config = imported(written(tmp_path, MAML + "warmup: 5\n"))[0]
    assert config.training.warmup_epochs == 5
    assert [epoch for epoch, _ in config.training.milestones] == [15, 25, 35, 45]


def test_rates_of_parts(tmp_path: Path) -> None:
    other = "optimizer: {name: Adam, kwargs: {lr: 0.01}, other: {emb_func: 0.001, cam_layer: 0.5}}\n"
    config, _, told = imported(written(tmp_path, MAML + other))
    assert config.training.learning_rate == 0.001 and config.training.head_rate_factor == pytest.approx(10)
    assert any(each.startswith("optimizer.other.cam_layer=0.5: ") for each in told)
    config, _, told = imported(written(tmp_path, MAML + other.replace("0.001", "~")))
    assert any(each.startswith("optimizer.other.emb_func=null: it freezes the backbone") for each in told)


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    more = "augment_times: 5\nmixup: {alpha: 0.4}\nnothing: ~\naugment_method: RandAugment\n"
    told = imported(written(tmp_path, CAN + more))[2]
    for start in (
        "augment_times=5: ",
        "augment_method='RandAugment': ",
        "mixup.alpha=0.4: there is no such setting here",
        "classifier.kwargs.num_class, classifier.kwargs.nFeat, classifier.kwargs.HW: they follow from",
        "device_ids, n_gpu, log_level, save_part: where and how a program runs",
    ):
        assert any(each.startswith(start) for each in told), (start, told)
    assert not any("nothing" in each for each in told)


def test_images_that_are_not_known_leave_the_length_of_an_epoch_open(tmp_path: Path) -> None:
    config, _, told = imported(written(tmp_path, RFS + "data_root: data/My Birds\n"))
    assert config.data.name == "my_birds" and config.data.root == str(tmp_path / "data/My Birds")
    assert any("set start.training.batches_per_epoch to it divided by 128" in each for each in told)


def test_weights_to_start_from(tmp_path: Path) -> None:
    path = written(tmp_path, MAML + "pretrain_path: ./results/emb_func_best.pth\n")
    told = imported(path)[2]
    assert "pretrain_path='./results/emb_func_best.pth': there is no such file here" in " ".join(told)
    shapes = json.loads((Path(__file__).parent / "released_numbers/keys_of_backbones.json").read_text())
    (tmp_path / "results").mkdir()
    state = {name: torch.ones(shape) for name, shape in shapes["libfewshot conv64f"].items()}
    torch.save(state, tmp_path / "results/emb_func_best.pth")
    config, _, told = imported(path)
    check_weights(config)
    assert config.weights[0] == str(tmp_path / "results/emb_func_best.pth") and "pretrain" not in " ".join(told)


REFUSED = {
    "an unknown classifier": (
        MAML + "classifier: {name: DN4, kwargs: {n_k: 3}}\n",
        "classifier.name='DN4' has no method here; those that can be imported are ProtoNet, R2D2, ",
    ),
    "an unknown backbone": (
        MAML + "backbone: {name: ViT, kwargs: ~}\n",
        "backbone.name='ViT' has no backbone here; those that can be imported are Conv64F, ",
    ),
    "another optimiser": (
        MAML + "optimizer: {name: RMSprop, kwargs: {lr: 0.1}}\n",
        "optimizer.name='RMSprop' cannot be had here; there are SGD and Adam",
    ),
    "a broken include": (
        "includes: [headers/data.yaml, classifiers/none.yaml]\n",
        "includes 'classifiers/none.yaml', which is not in ",
    ),
    "an include elsewhere": (
        "includes: [../../secrets.yaml]\n",
        "includes '../../secrets.yaml', which is outside LibFewShot's folder config; move it there",
    ),
    "code": (
        MAML + "seed: !!python/object/apply:os.abort []\n",
        "is not valid YAML: could not determine a constructor",
    ),
    "no classifier": ("includes: [backbones/Conv64F.yaml]\n", "gives no classifier.name, neither itself nor in what"),
    "text for a number": (MAML + "way_num: five\n", "way_num='five' is not a whole number from 2; correct it"),
    "a list": ("- includes\n", "holds a list; expected a mapping, such as way_num: 5"),
    "a value that cannot be": (MAML + "test_way: 1\n", "test_way=1 is not a whole number from 2; correct it"),
    "too few groups": (
        "includes: [backbones/Conv64F.yaml]\nclassifier: {name: DMF, kwargs: {groups: 640, kernel: 1}}\n",
        "groups=640 does not divide the 64 channels of conv64f",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, told = REFUSED[case]
    assert main([str(written(tmp_path, text)), "-o", str(tmp_path / "sweep.yaml")]) == 2
    out, error = capsys.readouterr()
    assert told in error and error.startswith("error: ") and not out
    assert not (tmp_path / "sweep.yaml").exists()


def test_a_cycle_of_includes_ends(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        MAML.replace("]", ", loop.yaml, mine.yaml]"),
        **{"loop.yaml": "includes: [mine.yaml, loop.yaml]\nshot_num: 3\n"},
    )
    config, _, told = imported(path)
    assert config.episodes.shot == 3
    assert "loop.yaml, mine.yaml: LibFewShot does not follow the includes of an included file" in told


def test_includes_are_found_around_above_and_where_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "lib", MAML)
    above = written(tmp_path / "lib", MAML, "reproduce/MAML/mine.yaml")
    alone = written(tmp_path / "alone", MAML, "mine.yaml")
    for name in HEADERS:
        (tmp_path / "alone" / "config" / name).unlink()
    assert main([str(above)]) == 0
    assert main([str(alone)]) == 2
    assert (
        "which is not in a folder config around it; name LibFewShot's folder with --config" in capsys.readouterr().err
    )
    assert main([str(alone), "--config", str(tmp_path / "lib" / "config")]) == 0
    monkeypatch.chdir(tmp_path / "lib")
    assert main([str(alone)]) == 0


def test_the_written_file_is_a_sweep_that_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, R2D2 + "mystery: 1\n", "config/R2D2-5-1 (mine).yaml")
    assert main([str(path), "-o", str(tmp_path / "r.yaml")]) == 0
    out, error = capsys.readouterr()
    assert "r2d2 on conv64f" in out and "not mapped: mystery=1: there is no such setting here\n" in error
    assert "# - mystery=1: there is no such setting here\n" in (tmp_path / "r.yaml").read_text()
    spec = read_spec(tmp_path / "r.yaml")
    assert spec.name == "r2d2_5_1_mine" and spec.resolved[0].config == imported(path)[0]


def test_both_names_of_the_command_write_the_same_file(tmp_path: Path) -> None:
    path = written(tmp_path, PROTO_NET)
    modules = ("dmf.import_config", "orchestrator.import_config")
    commands = [[sys.executable, "-m", module, str(path)] for module in modules]
    of_dmf, of_orchestrator = (
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout for command in commands
    )
    assert of_dmf == of_orchestrator and "model.distance: sum" in of_dmf
    refused = subprocess.run([*commands[0], "--name", "a b"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    sweep = imported(written(tmp_path, MAML + 'data_root: "/a\\nname: other # \\e[2J"\n'))[1] | {"name": "1e3"}
    text = text_of(sweep, [Unmapped("x='\nname: other'", "why\x1b[2J\nseeds: [1]")], "a\nb.yaml")
    assert parse_yaml(text, "the text") == sweep
    assert "\x1b" not in text and all(line.startswith("# ") for line in text.split("name: ")[0].splitlines())
