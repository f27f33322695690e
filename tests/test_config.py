"""Configurations: identity, recipes, and mistakes."""

from __future__ import annotations

import math

import pytest

from dmf.config import RECIPES, EvaluationConfig, ExperimentConfig, recipe
from dmf.machine.device import device_of, has_bf16, resolved
from dmf.records.records import Failure


def test_defaults_are_the_released_hyper_parameters() -> None:
    """Identities leave defaults out, so none may ever change; a new field may only be added."""
    config = ExperimentConfig()
    assert config.key == "44136fa355b3678a", "a default changed: old records would be taken for what they are not"
    training = config.training
    assert (training.learning_rate, training.weight_decay, training.momentum) == (0.35, 5e-4, 0.9)
    assert (training.epochs, training.warmup_epochs, training.episodes_per_epoch) == (95, 5, 1200)
    assert (training.global_weight, training.few_shot_weight) == (1.0, 0.5)
    assert (config.model.groups, config.model.alignment, config.model.solver) == (64, "ode", "rk4")
    assert (config.episodes.way, config.episodes.shot, config.episodes.queries) == (5, 1, 6)


def test_identity_is_what_is_trained_not_where() -> None:
    config = ExperimentConfig()
    elsewhere = config.replace(data__root="/elsewhere", training__threads=7, training__device="cpu")
    assert elsewhere.key == config.key
    for path, value in [("model.groups", 160), ("training.seed", 1), ("episodes.shot", 5), ("data.image_size", 64)]:
        assert config.with_paths({path: value}).key != config.key, path


def test_precision_is_chosen_before_there_is_an_identity() -> None:
    auto = ExperimentConfig().replace(training__precision="auto")
    with pytest.raises(ValueError, match="training.precision='auto' is no precision yet"):
        assert auto.key
    chosen = resolved(auto)
    expected = "bf16" if has_bf16(device_of(auto)) else "fp32"
    assert chosen.training.precision == expected
    assert chosen == ExperimentConfig().replace(training__precision=expected)
    assert ExperimentConfig().replace(training__precision="fp32").key == ExperimentConfig().key
    assert ExperimentConfig().replace(training__precision="bf16").key != ExperimentConfig().key


def test_fields_of_dmf_do_not_tell_other_methods_apart() -> None:
    proto_net = ExperimentConfig().replace(model__method="proto_net")
    assert proto_net.replace(model__groups=160, model__alignment=1).key == proto_net.key != ExperimentConfig().key
    assert proto_net.replace(model__last_pooling=True).key != proto_net.key
    unaligned = ExperimentConfig().replace(model__alignment=0)
    assert unaligned.replace(model__groups=160, model__dynamic_sampling=False).key == unaligned.key
    one = ExperimentConfig().replace(model__alignment=1)
    assert one.replace(model__solver="exact").key == one.key != one.replace(model__groups=160).key


def test_identity_does_not_depend_on_how_a_default_was_given() -> None:
    assert ExperimentConfig.from_dict({"model": {"groups": 64}, "data": {}}).key == ExperimentConfig().key


def test_more_episodes_are_another_evaluation_of_the_same_training() -> None:
    config = ExperimentConfig()
    short, long = EvaluationConfig(episodes=600), EvaluationConfig(episodes=2000)
    assert short.key != long.key
    assert short.resolve(config).shot == config.episodes.shot
    assert EvaluationConfig(shot=5).resolve(config).shot == 5


def test_a_copy_is_validated_again() -> None:
    with pytest.raises(ValueError, match="groups=7 does not divide the 640 channels of resnet12"):
        ExperimentConfig().replace(model__groups=7)


@pytest.mark.parametrize(
    "values",
    [
        {"training.seed": 3},
        {"training.learning_rate": 1},
        {"training.learning_rate": float("1e30"), "model.groups": 160},
        {"model.kernel_size": 3, "model.alignment": 2, "data.root": None},
        {"data": {"name": "glyphs"}},
        {"training": {"epochs": 9, "seed": 4}, "model.groups": 160},
    ],
)
def test_a_copy_is_what_validating_the_whole_would_give(values: dict) -> None:
    """Sections that do not change are kept as they are; a section given whole is plain data."""
    config = recipe("paper").replace(data__name="cifar_fs")
    assert config.key != ExperimentConfig().key, "a key is known before the copy is made"
    copy = config.with_paths(values)
    assert copy == config._with_plain(values)
    assert (copy.key, type(copy.training.learning_rate)) == (config._with_plain(values).key, float)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        ExperimentConfig.from_dict({"model": {"group": 64, "alignment": 4}, "training": {"epochs": "3"}})
    message = str(caught.value)
    assert "model.group: no such parameter" in message
    assert "model.alignment" in message
    assert "training.epochs: Input should be a valid integer, got '3'" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.kernel_size": 3, "model.solver": "exact"}, "closed form for kernel_size=1"),
        ({"training.epochs": 5}, "leaves nothing"),
        ({"training.validation_episodes": 1}, "greater than or equal to 2"),
        ({"model.backbone": "conv64f", "model.last_pooling": True, "data.image_size": 15}, "pooled away"),
        ({"training.episodes_per_epoch": 1201}, "no multiple"),
        ({"training.learning_rate": 0.0}, "greater than 0"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate"),
        ({"model.group": 1}, "'model.group' is no parameter; there are method"),
        ({"modell.groups": 1}, "'modell' is no section"),
        ({"model.alignment": True}, "model.alignment: got true, which is no number"),
        ({"model.score_border": False}, "model.score_border: got false, which is no number"),
        ({"model.kernel_size": True}, "model.kernel_size: got true, which is no number"),
        ({"data.channels": True}, "data.channels: got true, which is no number"),
    ],
)
def test_impossible_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentConfig().with_paths(values)


def test_recipes_can_be_built_and_differ() -> None:
    keys = {name: recipe(name).key for name in RECIPES}
    assert len(set(keys.values())) == len(RECIPES)
    with pytest.raises(ValueError, match="there are released, paper, released_tiered"):
        recipe("relased")


def test_the_paper_and_tiered_recipes() -> None:
    paper, tiered = recipe("paper"), recipe("released_tiered")
    model, training = paper.model, paper.training
    assert (model.solver, model.rectified, model.score_border) == ("dopri5", False, 0)
    assert (model.class_weight, model.global_input) == ("pooled", "aligned")
    assert (training.few_shot_weight, training.global_weight, training.nesterov) == (1.0, 0.5, False)
    assert (tiered.data.resize, tiered.augmentation.crop) == ("center_crop", "resized")
    training = tiered.training
    assert (training.epochs, training.warmup_epochs, training.learning_rate) == (85, 5, 0.05)
    assert training.episodes_per_epoch == 13_980


def test_a_config_survives_its_file(tmp_path) -> None:
    config = recipe("paper").replace(training__learning_rate=1e-3)
    config.write(tmp_path / "config.json")
    assert ExperimentConfig.read(tmp_path / "config.json") == config
    (tmp_path / "config.json").write_text('{"model": {"groupz": 3}}')
    with pytest.raises(ValueError, match="config.json.*model.groupz: no such parameter"):
        ExperimentConfig.read(tmp_path / "config.json")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308])
def test_any_float_survives_a_file(value: float, tmp_path) -> None:
    Failure(reason="a loss ran away", last_finite={"loss": value}).write(tmp_path / "failure.json")
    read = Failure.read(tmp_path / "failure.json").last_finite["loss"]
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_seeds_give_the_trainings_that_paths_give() -> None:
    for config in (ExperimentConfig(), ExperimentConfig().replace(training__epochs=7, training__seed=3)):
        seeds = (0, 3, 12)
        configs = config.with_seeds(seeds)
        assert configs == tuple(config.replace(training__seed=seed) for seed in seeds)
        assert [each.key for each in configs] == [config.replace(training__seed=seed).key for seed in seeds]
        assert config.keys(seeds) == tuple(each.key for each in configs) and len(set(config.keys(seeds))) == 3
        assert [ExperimentConfig.from_dict(each.model_dump(mode="json")).key for each in configs] == [
            each.key for each in configs
        ]
