"""Recipes of published trainings: what their sources say, and that nothing departs from them unsaid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, StepLR

from dmf.config import METHODS, RECIPES, ExperimentConfig, OptimisationConfig, recipe, recipes_of
from dmf.training.schedule import learning_rate
from reports import published

Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def rates(settings: OptimisationConfig) -> list[float]:
    """The learning rate in each epoch."""
    return [learning_rate(epoch, 1, settings) for epoch in range(1, settings.epochs + 1)]


def rates_of(scheduler: Scheduler, rate: float, epochs: int, before: bool = False) -> list[float]:
    """The rates that a scheduler of PyTorch gives, if it steps after each epoch or `before` it."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, found = scheduler(optimiser), []
    for _ in range(epochs):
        optimiser.step()
        if before:
            schedule.step()
        found.append(optimiser.param_groups[0]["lr"])
        if not before:
            schedule.step()
    return found


def test_every_method_that_is_published_has_a_recipe() -> None:
    assert {method for method in METHODS if not recipes_of(method)} == {"raw_pixels", "adversarial_alignment"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_departs_from_its_source_as_it_says(name: str) -> None:
    each, config = RECIPES[name], recipe(name)
    assert config.key and each.source
    assert not config.unread.keys() & each.values.keys(), "a value that nothing reads"
    assert published.departures(config, ["model.method"]) == each.differences
    other = config.replace(training__seed=7, training__threads=3, data__root="/elsewhere")
    assert published.departures(other, ["model.method"]) == each.differences
    for shots in (1, 5):
        if name.endswith(f"{shots}shot"):
            assert config.episodes.shot == shots
    if name not in ("released", "paper", "released_tiered", "paper_tiered"):
        assert name.startswith(f"{config.model.method}_{config.model.backbone_name.removesuffix('_can')}")
        assert ("tiered" in name) == (config.data.name == "tiered_imagenet")


@pytest.mark.parametrize(
    ("name", "scheduler", "before"),
    [
        ("proto_net_conv64f_1shot", lambda o: StepLR(o, 20, 0.5), False),
        ("proto_net_resnet12", lambda o: StepLR(o, 10, 0.5), False),
        ("relation_net_resnet12", lambda o: StepLR(o, 20, 0.5), False),
        ("feat_resnet12_1shot", lambda o: StepLR(o, 40, 0.5), False),
        ("feat_conv64f_5shot", lambda o: StepLR(o, 20, 0.5), False),
        ("feat_resnet12_tiered_1shot", lambda o: StepLR(o, 20, 0.5), False),
        ("deepemd_resnet12", lambda o: StepLR(o, 10, 0.5), False),
        (
            "metaoptnet_svm_resnet12",
            lambda o: LambdaLR(o, lambda e: 1.0 if e < 20 else 0.06 if e < 40 else 0.012 if e < 50 else 0.0024),
            True,
        ),
    ],
)
def test_rates_are_those_of_the_sources_schedulers(name: str, scheduler: Scheduler, before: bool) -> None:
    settings = recipe(name).training
    expected = rates_of(scheduler, settings.learning_rate, settings.epochs, before)
    assert rates(settings) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("deepemd_resnet12", lambda o: StepLR(o, 30, 0.2)),
        ("rfs_resnet12", lambda o: MultiStepLR(o, [60, 80], 0.1)),
        ("meta_baseline_resnet12", lambda o: MultiStepLR(o, [90], 0.1)),
        # These change the rate at the start of an epoch that is counted from 1.
        ("feat_resnet12_1shot", lambda o: MultiStepLR(o, [349, 399, 439, 459, 479], 0.1)),
        ("feat_conv64f_1shot", lambda o: MultiStepLR(o, [74, 149, 299], 0.1)),
    ],
)
def test_rates_of_pre_trainings_are_those_of_the_sources_schedulers(name: str, scheduler: Scheduler) -> None:
    start = recipe(name).start
    assert start is not None
    expected = rates_of(scheduler, start.training.learning_rate, start.training.epochs)
    assert rates(start.training) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "absolute"),
    [
        ("can_resnet12", [(60, 0.1), (70, 0.006), (80, 0.0012), (90, 0.00024)]),
        ("can_transductive_resnet12_tiered", [(20, 0.1), (40, 0.01), (60, 0.001), (80, 0.0001)]),
    ],
)
def test_cans_rates_are_its_absolute_ones(name: str, absolute: Sequence[tuple[int, float]]) -> None:
    """CAN's table says until which epoch each rate holds."""
    settings = recipe(name).training
    assert settings.epochs == absolute[-1][0]
    expected = [next(rate for until, rate in absolute if epoch < until) for epoch in range(settings.epochs)]
    assert rates(settings) == pytest.approx(expected, rel=1e-9)


def test_facts_of_the_sources() -> None:
    feat, feat5 = recipe("feat_resnet12_1shot"), recipe("feat_resnet12_5shot")
    assert feat.stage == feat5.stage and feat.key != feat5.key, "one pre-training for both"
    assert (feat.training.learning_rate, feat.training.head_rate_factor) == (2e-4, 10.0)
    assert feat.stage is not None and feat.stage.augmentation.crop == "resized" and feat.augmentation.crop == "none"
    assert feat.stage.validation.way == 16 and feat.stage.training.epochs == 500
    lee, tiered = recipe("metaoptnet_svm_resnet12"), recipe("metaoptnet_svm_resnet12_tiered")
    assert (lee.episodes.shot, tiered.episodes.shot, lee.episodes.queries) == (15, 10, 6)
    assert (lee.training.episodes_per_step, lee.training.episodes_per_epoch) == (8, 8 * 1000)
    assert lee.model.label_smoothing == 0.1 and lee.model.slack_weight == 0.1
    maml = recipe("maml_conv32f").training
    assert maml.epochs * maml.episodes_per_epoch // maml.episodes_per_step == 60_000
    negative = recipe("negative_margin_resnet12_1shot").stage
    assert negative is not None and (negative.model.head, negative.model.head_margin) == ("cosine", -0.02)
    assert (negative.training.optimiser, negative.training.warmup_epochs) == ("adam", 100)
    assert negative.training.batches_per_epoch * negative.training.batch_size == 64 * 600
    baseline = recipe("baseline_conv64f").stage
    assert baseline is not None and baseline.training.batches_per_epoch * baseline.training.batch_size == 64 * 600
    assert recipe("classifier_baseline_resnet12").stage == recipe("meta_baseline_resnet12").stage
    snell = recipe("proto_net_conv64f_5shot")
    assert (snell.episodes.way, snell.episodes.shot, snell.validation.way) == (20, 5, 5)


def test_a_departure_names_the_setting_of_the_nearest_recipe() -> None:
    five = recipe("feat_resnet12_5shot")
    stated = RECIPES["feat_resnet12_5shot"].differences
    short = five.replace(start__training__epochs=20, training__learning_rate=1e-3)
    expected = {"training.learning_rate=0.001", "start.training.epochs=20"}
    assert set(published.departures(short, ["model.method"])) - set(stated) == expected
    again = five.with_paths({"start.augmentation": None})
    assert published.departures(again, ["model.method"]) == ("start.augmentation=the training's", *stated)
    can = recipe("can_resnet12").replace(episodes__shot=5)
    assert published.departures(can, ["model.method"]) == RECIPES["can_resnet12"].differences, "any number of shots"
    few = recipe("metaoptnet_svm_resnet12").replace(episodes__shot=1)
    assert "episodes.shot=1" in published.departures(few, ["model.method"]), "the recipe trains with 15 shots"
    random = ExperimentConfig().with_paths({"model.method": "feat"})
    assert "start=random" in published.departures(random, ["model.method"])
    pixels = ExperimentConfig().with_paths({"model.method": "raw_pixels"})
    assert published.departures(pixels, ["model.method"]) == ("no published recipe of raw_pixels is known",)


def test_a_pre_training_has_an_augmentation_of_its_own_if_it_asks_for_one() -> None:
    plain = ExperimentConfig().with_paths({"model.method": "feat", "start.head": "linear"})
    own = plain.with_paths({"start.augmentation": {"crop": "none", "flip": False}})
    assert plain.stage is not None and own.stage is not None
    assert plain.stage.augmentation == plain.augmentation and own.augmentation == plain.augmentation
    assert own.stage.augmentation.crop == "none" and own.stage.augmentation.color_jitter == 0.4
    assert own.key != plain.key and own.stage.key != plain.stage.key
    assert ExperimentConfig.from_dict(own.model_dump(mode="json")) == own
    with pytest.raises(ValueError, match="start.augmentation.crops: no such parameter"):
        plain.with_paths({"start.augmentation": {"crops": "none"}})
