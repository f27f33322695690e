"""Configurations: identity, recipes and mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dmf.config import METHODS, RECIPES, EvaluationConfig, ExperimentConfig, recipe
from dmf.config.old import key_of_format_1
from dmf.machine.device import device_of, has_bf16
from dmf.records.records import Failure
from orchestrator.spec.file import read_spec

ROOT = Path(__file__).resolve().parents[1]
KEYS_OF_SWEEPS: dict[str, list[str]] = json.loads((ROOT / "tests/keys_of_sweeps.json").read_text())
"""The keys of the trainings of DMF in each shipped sweep, in the file's order."""


def test_defaults_are_the_released_hyper_parameters() -> None:
    """Identities leave defaults out, so a default can never change; new fields can be added."""
    config = ExperimentConfig()
    assert config.key == "44136fa355b3678a", "a default changed: old records would be taken for what they are not"
    training = config.training
    assert (training.learning_rate, training.weight_decay, training.momentum) == (0.35, 5e-4, 0.9)
    assert (training.epochs, training.warmup_epochs, training.episodes_per_epoch) == (95, 5, 1200)
    assert (config.model.global_weight, config.model.few_shot_weight) == (1.0, 0.5)
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
    with pytest.raises(ValueError, match="training.precision='auto' has to be resolved first"):
        assert auto.key
    chosen = auto.resolved()
    expected = "bf16" if has_bf16(device_of("auto")) else "fp32"
    assert chosen.training.precision == expected
    assert chosen == ExperimentConfig().replace(training__precision=expected)
    assert ExperimentConfig().replace(training__precision="fp32").key == ExperimentConfig().key
    assert ExperimentConfig().replace(training__precision="bf16").key != ExperimentConfig().key


def test_only_what_a_training_reads_tells_it_apart() -> None:
    proto_net = ExperimentConfig().replace(model__method="proto_net")
    assert proto_net.key != ExperimentConfig().key
    with pytest.raises(ValueError, match="'model.groups' is not a parameter; the parameters there are method"):
        proto_net.replace(model__groups=160)
    assert proto_net.replace(model__last_pooling=True).key != proto_net.key
    unaligned = ExperimentConfig().replace(model__alignment=0)
    assert unaligned.replace(model__groups=160, model__dynamic_sampling=False).key == unaligned.key
    one = ExperimentConfig().replace(model__alignment=1)
    assert one.replace(model__solver="exact").key == one.key != one.replace(model__groups=160).key
    light = ExperimentConfig().replace(model__backbone="conv64f")
    assert light.replace(model__drop_rate=0.5).key == light.key != light.replace(model__groups=16).key


def test_a_setting_of_another_optimiser_or_schedule_is_not_read() -> None:
    plain = ExperimentConfig().with_paths({"model.method": "feat", "start.head": "linear"})
    for section in ("training", "start.training"):
        adam = plain.with_paths({f"{section}.optimiser": "adam"})
        assert adam.key != plain.key
        assert adam.with_paths({f"{section}.nesterov": False, f"{section}.momentum": 0.0}).key == adam.key
        assert adam.unread[f"{section}.momentum"] == f"{section}.optimiser=adam"
        steps = plain.with_paths({f"{section}.schedule": "steps", f"{section}.milestones": [[3, 0.1]]})
        assert steps.with_paths({f"{section}.learning_rate_floor": 0.5}).key == steps.key
        assert steps.with_paths({f"{section}.milestones": [[3, 0.2]]}).key != steps.key
        assert plain.with_paths({f"{section}.milestones": [[3, 0.2]]}).key == plain.key
        assert plain.with_paths({f"{section}.head_rate_factor": 10.0}).key != plain.key


def test_what_learns_nothing_has_no_seed_and_no_schedule() -> None:
    pixels = ExperimentConfig().replace(model__method="raw_pixels")
    other = pixels.with_paths({"training.seed": 3, "training.epochs": 9, "augmentation.flip": False, "episodes.way": 3})
    assert other.replace(episodes__shot=5).key == pixels.key != pixels.replace(data__image_size=28).key
    assert set(pixels.keys((0, 1, 2))) == {pixels.key} and not pixels.seeded


def test_another_method_keeps_what_both_have() -> None:
    light = ExperimentConfig().replace(model__backbone="conv64f", model__last_pooling=True, model__groups=16)
    proto_net = light.replace(model__method="proto_net")
    assert (proto_net.model.method, proto_net.model.backbone, proto_net.model.last_pooling) == (
        "proto_net",
        "conv64f",
        True,
    )
    assert proto_net.replace(model__method="dmf").model.groups == 64


def test_a_pre_training_is_a_training_that_several_share() -> None:
    base = ExperimentConfig().replace(model__backbone="conv64f")
    with pytest.raises(ValueError, match="baseline needs pre-trained features; set start.head"):
        base.replace(model__method="baseline")
    proto_net = base.with_paths({"model.method": "proto_net", "start.head": "cosine"})
    nearest = base.with_paths({"model.method": "classifier_baseline", "start.head": "cosine"})
    assert proto_net.stage == nearest.stage and proto_net.key != nearest.key
    assert proto_net.replace(start__training__epochs=3).stage.key != proto_net.stage.key
    assert proto_net.replace(start__training__epochs=3).key != proto_net.key, "what it starts from tells it apart"
    assert nearest.replace(training__epochs=9).key == nearest.key, "its own epochs are never trained"
    assert nearest.replace(episodes__shot=5, episodes__way=3).stage.key == nearest.stage.key
    assert len(set(nearest.keys((0, 1)))) == 2 and nearest.replace(training__seed=1).stage.training.seed == 1
    shared = nearest.replace(start__seed=7)
    assert set(shared.keys((0, 1))) == {shared.key} and shared.stage.training.seed == 7
    assert proto_net.with_seeds((0, 1))[1].stage.training.seed == 1
    linear = nearest.replace(start__head="linear")
    assert linear.replace(start__head_scale=3.0).key == linear.key != nearest.key
    with pytest.raises(ValueError, match="raw_pixels has no backbone to pre-train"):
        base.with_paths({"model.method": "raw_pixels", "start.head": "cosine"})
    with pytest.raises(ValueError, match=r"start.training.epochs is set, but .* set start.head to linear or cosine"):
        base.with_paths({"start.training.epochs": 3})


def test_a_classifier_that_goes_on_reads_what_its_pre_training_s_does() -> None:
    asked = {"model.method": "ideme_net", "start.head": "linear"}
    assert ExperimentConfig().with_paths(asked).start is not None
    with pytest.raises(ValueError, match=r"reads the mean of a feature map; got start.flattened=true"):
        ExperimentConfig().with_paths(asked | {"start.flattened": True})


def test_a_configuration_of_format_1_is_read_with_its_key() -> None:
    new = ExperimentConfig().with_paths({"model.groups": 160, "model.few_shot_weight": 1.0, "training.seed": 2})
    old = new.model_dump(mode="json")
    model = {name: value for name, value in old["model"].items() if name != "drop_block_counts_validation"}
    weights = {name: model.pop(name) for name in ("few_shot_weight", "global_weight")}
    old = {name: old[name] for name in ("data", "augmentation", "episodes")} | {
        "model": model,
        "training": old["training"] | weights,
    }
    assert ExperimentConfig.from_dict(old) == new and key_of_format_1(old, 2) == new.key
    pixels = ExperimentConfig.from_dict({**old, "model": {**model, "method": "raw_pixels"}})
    assert pixels.model.method == "raw_pixels" and pixels.key != new.key
    demo = {"name": "glyphs", "root": None, "image_size": 28, "normalisation": "half"}
    small = {"crop_padding": 2, "color_jitter": 0.0, "flip": False, "erasing": 0.0}
    steps = {"epochs": 6, "warmup_epochs": 1, "episodes_per_epoch": 160, "learning_rate": 0.3, "seed": 0}
    steps |= {"few_shot_weight": 1.0, "validation_episodes": 200, "validate_every": 2}
    old = {
        "data": old["data"] | demo,
        "augmentation": old["augmentation"] | small,
        "episodes": old["episodes"],
        "model": model | {"method": "raw_pixels", "backbone": "conv64f", "groups": 16, "score_border": 0},
        "training": old["training"] | steps,
    }
    assert key_of_format_1(old, 0) == "ab158b3df1283ab2", "the key of the shipped demo's raw pixels in format 1"


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
    """Sections that do not change are kept; a section that is given as a whole is plain data."""
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
        ({"model.kernel_size": 3, "model.solver": "exact"}, "works only for kernel_size=1"),
        ({"training.epochs": 5}, "has to be less than epochs=5"),
        ({"training.validation_episodes": 1}, "greater than or equal to 2"),
        ({"model.backbone": "conv64f", "model.last_pooling": True, "data.image_size": 15}, "too small for conv64f"),
        ({"training.episodes_per_epoch": 1201}, "not a multiple"),
        ({"training.schedule": "steps"}, r"schedule=steps needs milestones, such as \[\[20, 0.1\]"),
        ({"training.milestones": [[20, 0.1], [20, 0.01]]}, "the epochs of milestones have to rise, got 20, 20"),
        ({"training.milestones": [[20, 0.1, 3]]}, "training.milestones"),
        ({"training.optimiser": "sdg"}, "training.optimiser: Input should be 'sgd' or 'adam', got 'sdg'"),
        ({"training.learning_rate": 0.0}, "greater than 0"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate"),
        ({"model.group": 1}, "'model.group' is not a parameter; the parameters there are method"),
        ({"modell.groups": 1}, "'modell' is not a section"),
        ({"model.alignment": True}, "model.alignment: got true, which is not a number"),
        ({"model.score_border": False}, "model.score_border: got false, which is not a number"),
        ({"model.kernel_size": True}, "model.kernel_size: got true, which is not a number"),
        ({"data.channels": True}, "data.channels: got true, which is not a number"),
    ],
)
def test_impossible_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentConfig().with_paths(values)


def test_recipes_can_be_built_and_differ() -> None:
    keys = {name: recipe(name).key for name in RECIPES}
    assert len(set(keys.values())) == len(RECIPES)
    with pytest.raises(
        ValueError,
        match=r"base='relased' is not a recipe; did you mean released\? there are released, paper, ",
    ):
        recipe("relased")


def test_the_paper_and_tiered_recipes() -> None:
    paper, tiered = recipe("paper"), recipe("released_tiered")
    model, training = paper.model, paper.training
    assert (model.solver, model.rectified, model.score_border) == ("dopri5", False, 0)
    assert (model.class_weight, model.global_input) == ("pooled", "aligned")
    assert (model.few_shot_weight, model.global_weight, training.nesterov) == (1.0, 0.5, False)
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


def test_a_name_has_one_type_in_all_methods() -> None:
    types: dict[str, set[str]] = {}
    for kind in METHODS.values():
        for name, field in kind.model_fields.items():
            types.setdefault(name, set()).add(f"{field.annotation} {field.metadata}")
    assert {name for name, found in types.items() if len(found) > 1} == {"method"}


@pytest.mark.parametrize("name", KEYS_OF_SWEEPS)
def test_trainings_of_dmf_in_shipped_sweeps_keep_their_keys(name: str) -> None:
    """The keys of seed 0 as format 1 computed them: what a store holds under them is still found."""
    spec = read_spec(ROOT / f"sweeps/{name}.yaml", ["training.precision=fp32"])
    configs = [spec.config_for({})] if spec.search else [each.config for each in spec.resolved]
    of_dmf = [config for config in configs if isinstance(config, ExperimentConfig) and config.model.method == "dmf"]
    keys = [key for config in of_dmf for key in (config.keys((0,)) if not spec.search else (config.key,))]
    assert keys == KEYS_OF_SWEEPS[name]
