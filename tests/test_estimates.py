"""Estimated costs against hand-computed ones, from records, checkpoints and rates in a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dmf.backbones import conv64f, image_flops, map_shape
from dmf.backbones.config import BackboneConfig
from dmf.config import EvaluationConfig, ExperimentConfig, Pretraining
from dmf.machine.device import device_name
from dmf.records.checkpoints import write_checkpoint
from dmf.records.records import FORMAT, LAST, RECORD, Epoch, EvaluationRecord, Going, Provenance, TrainingRecord
from orchestrator.costs.estimates import UNKNOWN, Cost, estimate
from orchestrator.costs.machine import Machine, at_a_time, shortages
from orchestrator.costs.rates import Calibration, Rates, cost_class, distinct_images, flops_per_image, parameters
from orchestrator.costs.totals import compare, makespan, told, total
from orchestrator.spec.model import Resources
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

CPU = device_name(torch.device("cpu"))
CONFIG = ExperimentConfig().replace(
    data__name="glyphs",
    data__image_size=28,
    data__channels=1,
    model__backbone="conv64f",
    training__device="cpu",
    training__epochs=4,
    training__warmup_epochs=0,
    training__episodes_per_epoch=10,
    training__episodes_per_step=5,
    training__validation_episodes=20,
    training__validate_every=3,
)
"""Validates at epochs 1, 3 and 4; with 8 epochs at 1, 3, 6 and 8."""
TEST = EvaluationConfig(episodes=20, shot=1)
LATER = CONFIG.replace(training__epochs=8, training__seed=1, training__learning_rate=0.1)
NOTHING = Calibration()
HERE = Provenance(data_fingerprint="", image_sizes="", git_commit=None, versions={}, device=CPU, threads=1)


def epoch(number: int, seconds: float, validated: bool) -> Epoch:
    accuracy = 0.5 if validated else None
    return Epoch(epoch=number, loss=1.0, losses={}, learning_rate=0.1, validation_accuracy=accuracy, seconds=seconds)


def a_record(
    config: ExperimentConfig = CONFIG,
    seconds: tuple[float, ...] = (14, 10, 14, 14),
    validated: tuple[int, ...] = (1, 3, 4),
    **more: Any,
) -> TrainingRecord:
    """By default: epochs of 10 s, plus 4 s with a validation; 3 s to start."""
    history = tuple(epoch(number, float(s), number in validated) for number, s in enumerate(seconds, 1))
    fields: dict[str, Any] = {"outcome": "finished", "parameters": 1000, "seconds": sum(seconds) + 3.0} | more
    return TrainingRecord(
        format=FORMAT, **{"key": config.key, "config": config, "history": history, "provenance": HERE} | fields
    )


def an_evaluation(config: ExperimentConfig, seconds: float, test: EvaluationConfig = TEST) -> EvaluationRecord:
    return EvaluationRecord(
        format=FORMAT,
        training_key=config.key,
        evaluation_key=test.key,
        config=test,
        accuracy=0.5,
        ci95=0.1,
        episode_accuracies=(0.5,) * test.episodes,
        bank="",
        data_fingerprint="",
        epoch=1,
        seconds=seconds,
    )


def cost_of(ledger: Ledger, config: ExperimentConfig, calibration: Calibration = NOTHING) -> Cost:
    return estimate([Trial(config, (TEST,))], ledger, calibration)[config.key]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A store with CONFIG trained, and tested in 6 s."""
    found = Ledger(tmp_path)
    found.write_training(a_record())
    found.write_evaluation(an_evaluation(CONFIG, 6.0))
    return found


def test_a_record_of_the_class_is_scaled_by_epochs(ledger: Ledger) -> None:
    """8 x 10 s; 4 validations and a test of 5 s, the middle of 4 and 6; 3 s to start. Equal epochs: 10 % around."""
    cost = cost_of(ledger, LATER)
    assert cost.source == "records"
    assert cost.seconds == pytest.approx(80 + 5 * 5 + 3)
    assert (cost.seconds_low, cost.seconds_high) == (pytest.approx(108 / 1.1), pytest.approx(108 * 1.1))


def test_what_is_scaled_from_a_busy_machine_may_be_far_quicker(tmp_path: Path) -> None:
    """A record whose epochs took 100 times as long: the range begins where a core's FLOPs do, and that is told."""
    large = CONFIG.replace(data__image_size=84, data__channels=3, model__backbone="resnet12", training__seed=7)
    costs = []
    for slow in (1, 100):
        ledger = Ledger(tmp_path / str(slow))
        ledger.write_training(a_record(CONFIG, tuple(slow * s for s in (14, 10, 14, 14))))
        costs.append(cost_of(ledger, large))
    usual, busy = costs
    images = 4 * 3 * 10 * large.images_per_batch // 5 + 80 * 20
    assert usual.seconds and busy.seconds and busy.seconds == pytest.approx(100 * usual.seconds, rel=0.01)
    assert busy.seconds_low == usual.seconds_low, "the same FLOPs"
    assert 0.5 < (busy.seconds_low or 0) / (images * flops_per_image(large) / 5e10) < 3
    assert busy.seconds_high == pytest.approx(2 * busy.seconds)
    assert "a rough guess" in told([busy], 1)[-1] and "--calibrate" in told([busy], 1)[-1]
    assert not any("rough" in line for line in told([cost_of(Ledger(tmp_path / "1"), LATER)], 1))


def test_twice_the_episodes_take_twice_the_time(ledger: Ledger) -> None:
    more = LATER.replace(training__episodes_per_epoch=20, training__validation_episodes=40)
    assert cost_of(ledger, more).seconds == pytest.approx(160 + 4 * 10 + 5 + 3)


def test_the_range_is_that_of_the_epochs(tmp_path: Path) -> None:
    """Eleven epochs of 5 to 15 s: the tenths are 6 and 14 s, the median is 10 s."""
    ledger = Ledger(tmp_path)
    ledger.write_training(a_record(CONFIG.replace(training__epochs=11), tuple(range(5, 16)), validated=()))
    cost = cost_of(ledger, LATER)
    assert cost.seconds is not None and cost.seconds_low == pytest.approx(cost.seconds * 0.6)
    assert cost.seconds_high == pytest.approx(cost.seconds * 1.4)


def test_where_every_epoch_validates_images_forward_and_backward_count_three_times(tmp_path: Path) -> None:
    """Per epoch 10 x 35 images trained on, 20 x 80 validated: 1050 to 1600 of 26.5 s."""
    config = CONFIG.replace(training__validate_every=1)
    ledger = Ledger(tmp_path)
    ledger.write_training(a_record(config, (26.5,) * 4, validated=(1, 2, 3, 4)))
    twice = config.replace(training__seed=1, training__episodes_per_epoch=20)
    validations, test = 4 * 16.0, 16.0
    assert cost_of(ledger, twice).seconds == pytest.approx(4 * 2 * 10.5 + validations + test + 3)


def test_what_was_started_costs_what_is_left(ledger: Ledger) -> None:
    history = (epoch(1, 14.0, True), epoch(2, 10.0, False))
    state = Going(key=LATER.key, threads=1, data="", seconds=30.0, history=history).model_dump(mode="json")
    folder = ledger.folder(LATER.key)
    folder.mkdir(parents=True)
    write_checkpoint(folder / LAST, {"model.weight": torch.zeros(1)}, state)
    cost = cost_of(ledger, LATER)
    assert cost.seconds == pytest.approx(6 * 10 + 3 * 5 + 5 + 3)
    assert cost.earlier_seconds == 30.0


def test_what_is_trained_costs_its_missing_tests_and_what_is_done_nothing(ledger: Ledger) -> None:
    more = TEST.replace(episodes=40)
    cost = estimate([Trial(CONFIG, (TEST, more))], ledger, NOTHING)[CONFIG.key]
    assert (cost.seconds, cost.earlier_seconds) == (pytest.approx(10.0), pytest.approx(55.0 + 6.0))
    assert cost_of(ledger, CONFIG) == Cost(0.0, 0.0, 0.0, None, "done")


def test_other_classes_are_scaled_by_flops_within_a_factor_of_two(ledger: Ledger) -> None:
    same_flops = LATER.replace(model__groups=16)
    cost = cost_of(ledger, same_flops)
    assert (cost.source, cost.bytes) == ("FLOPs", None)
    assert (cost.seconds, cost.seconds_high) == (pytest.approx(108), pytest.approx(216))
    larger = LATER.replace(data__image_size=56)
    ratio = flops_per_image(larger) / flops_per_image(LATER)
    assert cost_of(ledger, larger).seconds == pytest.approx((108 - 3) * ratio + 3)


def test_flops_of_conv64f_by_hand() -> None:
    """Maps of 28, 14, 7 and 3 pixels a side, 3x3 kernels, 1 then 64 input channels, two FLOPs per multiply-add."""
    assert flops_per_image(CONFIG) == 2 * 9 * 64 * (28**2 * 1 + (14**2 + 7**2 + 3**2) * 64)
    assert flops_per_image(CONFIG.replace(model__method="raw_pixels")) == 0
    of_one_position = CONFIG.replace(data__image_size=12)  # statistics of a batch would need more than one
    assert flops_per_image(of_one_position) == 2 * 9 * 64 * (12**2 * 1 + (6**2 + 3**2 + 1) * 64)


@pytest.mark.parametrize(
    "other",
    [
        {"training__threads": 2},
        {"training__precision": "bf16"},
        {"model__method": "raw_pixels"},
    ],
)
def test_other_threads_precision_and_raw_pixels_are_unknown(ledger: Ledger, other: dict[str, Any]) -> None:
    assert cost_of(ledger, LATER.replace(**other)) == UNKNOWN


def test_an_empty_store_knows_nothing(tmp_path: Path) -> None:
    assert cost_of(Ledger(tmp_path), CONFIG) == UNKNOWN
    ledger = Ledger(tmp_path)
    ledger.write_training(a_record(CONFIG, (), outcome="failed"))
    elsewhere = HERE.replace(device="another processor")
    ledger.write_training(a_record(LATER, provenance=elsewhere))
    assert cost_of(ledger, CONFIG) == UNKNOWN


def test_a_record_that_can_not_be_read_is_left_out(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    broken = ledger.folder("0" * 16) / RECORD
    broken.parent.mkdir()
    broken.write_text('{"key": 1}')
    assert cost_of(ledger, LATER).source == "records"
    assert f"estimates leave out {broken.parent}" in caplog.text


def test_a_calibration_is_taken_where_no_record_is_and_gives_memory(tmp_path: Path) -> None:
    rates = Rates(
        cost_class=cost_class(CONFIG),
        device=CPU,
        threads=1,
        config=CONFIG,
        episode_seconds=(1.0, 2.0, 3.0),
        image_seconds=0.01,
        test_episode_seconds=0.5,
        start_seconds=2.0,
        peak_bytes=10_000,
        image_bytes=3,
        parameters=1000,
        images={"val": 1600, "test": 100},
    )
    calibration = Calibration(measured=(rates,))
    cost = cost_of(Ledger(tmp_path), CONFIG, calibration)
    validation, test = CONFIG.replace().training.validation_episodes, 20
    images = {split: distinct_images(TEST.replace(split=split), rates.images) for split in ("val", "test")}
    seconds = 4 * 10 * 2.0 + 3 * (images["val"] * 0.01 + validation * 0.5) + images["test"] * 0.01 + test * 0.5 + 2.0
    assert (cost.source, cost.seconds) == ("calibration", pytest.approx(seconds))
    assert cost.bytes == 10_000 + round(3 * images["val"])
    ledger = Ledger(tmp_path)
    ledger.write_training(a_record())
    after = cost_of(ledger, LATER, calibration)
    assert (after.source, after.bytes) == ("records", cost.bytes)


ALIGNED = CONFIG.with_paths(
    {
        "model.method": "centroid_alignment",
        "model.alignment_iterations": 3,
        "model.related_images": 7,
        "start.head": "arc",
    }
)
FORWARDS = 20 * 3 * 5 * (4 * 7 + 6 * 1)
"""Of 20 5-way 1-shot episodes: related images 3 + 1 times and support images 3 + 3 times an iteration."""


def test_aligning_costs_what_its_images_cost(tmp_path: Path) -> None:
    """From the record of a ProtoNet, by FLOPs alone, and from a record of its own, for other numbers of episodes."""
    ledger = Ledger(tmp_path)
    ledger.write_training(a_record())
    images = {"train": 1000, "val": 1600, "test": 100}
    rates = Rates(
        cost_class="0" * 16,
        device=CPU,
        threads=1,
        config=CONFIG.replace(model__groups=4),
        episode_seconds=(1.0,),
        image_seconds=0.01,
        test_episode_seconds=0.5,
        start_seconds=2.0,
        images=images,
    )
    seen = distinct_images(TEST, images) + images["train"]
    plain = cost_of(Ledger(tmp_path / "empty"), ALIGNED, Calibration(measured=(rates,)))
    assert plain.source == "FLOPs"
    assert plain.seconds == pytest.approx(2.0 + 0.01 * (seen + FORWARDS) + 20 * 0.5)
    few = TEST.replace(episodes=2000, adapted_episodes=20)
    ledger.write_training(a_record(ALIGNED, seconds=()))
    ledger.write_evaluation(an_evaluation(ALIGNED, 60.0))
    other = ALIGNED.replace(training__seed=3)
    twice = Trial(other, (few.replace(adapted_episodes=40),))
    cost = estimate([twice], ledger, Calibration(measured=(rates,)))[other.key]
    seen_twice = distinct_images(few.replace(adapted_episodes=40), images) + images["train"]
    expected = 3.0 + 60.0 * (seen_twice + 2 * FORWARDS) / (seen + FORWARDS)
    assert (cost.source, cost.seconds) == ("records", pytest.approx(expected))


def test_images_drawn_again_are_forwarded_once() -> None:
    """1,600 draws of 1,600 images find all but 1/e of them; if the number is unknown, all count as different."""
    validation = EvaluationConfig(split="val", episodes=20, shot=1)
    assert distinct_images(validation, {"val": 1600}) == pytest.approx(1600 * (1 - 1 / 2.718281828), rel=1e-6)
    assert distinct_images(validation, {}) == 1600


def test_the_cost_class_is_what_costs() -> None:
    for free in (
        {"training__seed": 5},
        {"training__learning_rate": 0.1},
        {"training__epochs": 9},
        {"data__root": "/a"},
    ):
        assert cost_class(CONFIG.replace(**free)) == cost_class(CONFIG), free
    for costly in (
        {"model__groups": 16},
        {"episodes__shot": 5},
        {"data__image_size": 32},
        {"training__precision": "bf16"},
    ):
        assert cost_class(CONFIG.replace(**costly)) != cost_class(CONFIG), costly


def test_trials_start_in_turn_as_others_end() -> None:
    assert makespan([3, 2, 2, 1], 2) == 4  # 3 + 1 beside 2 + 2
    assert makespan([3, 2, 2, 1], 1) == 8
    assert makespan([], 3) == 0


def test_totals_leave_out_what_is_unknown_and_say_so() -> None:
    costs = [Cost(60.0, 50.0, 80.0, None, "records"), Cost(120.0, 60.0, 240.0, None, "FLOPs"), UNKNOWN]
    summed = total(costs, 2)
    assert summed.seconds == (180.0, 110.0, 320.0)
    assert summed.makespan == (120.0, 60.0, 240.0)
    first, sources, unknown = told(costs, 2)
    assert first == "estimated: 3 min (2 min to 5 min) of computing, 2 min (60 s to 4 min) with 2 at a time"
    assert sources == "  1 training from records of the same kind, 1 training from others, scaled by FLOPs"
    assert unknown == "unknown: the cost of 1 of 3 trainings; --calibrate measures it"


def test_estimates_are_compared_with_what_it_took(ledger: Ledger) -> None:
    other = CONFIG.replace(model__groups=16)
    ledger.write_training(a_record(other))
    never = CONFIG.replace(training__seed=9)
    before = {
        CONFIG.key: Cost(122.0, 100.0, 200.0, None, "records"),
        other.key: Cost(90.0, 45.0, 180.0, None, "FLOPs", earlier_seconds=10.0),
        never.key: Cost(5.0, 5.0, 5.0, None, "records"),
    }
    lines = compare(before, ledger).splitlines()
    assert [line.split()[0] for line in lines] == ["trainings", "groups=64", "groups=16", "total"]
    assert [line.split()[-1] for line in lines[1:]] == ["0.50", "0.50", "0.50"]  # 61 / 122, 45 / 90, 106 / 212
    assert compare({never.key: before[never.key]}, ledger) == "no training with an estimate has ended"


@pytest.mark.parametrize(
    ("resources", "machine", "expected"),
    [
        ({}, Machine(8, 1), 4),
        ({"cpu": 3.0}, Machine(8, 1), 2),
        ({"cpu": 9.0}, Machine(8, 1), 1),
        ({"gpu": 0.5}, Machine(64, 1, (1, 1)), 4),
        ({"gpu": 0.4}, Machine(64, 1, (1, 1)), 4),
        ({"gpu": 2.0}, Machine(64, 1, (1, 1, 1)), 1),
        ({"gpu": 0.25}, Machine(4, 1, (1,)), 2),
    ],
)
def test_how_many_run_at_a_time(resources: dict[str, float], machine: Machine, expected: int) -> None:
    trial = Trial(CONFIG.replace(training__threads=2, training__device="auto"), ())
    assert at_a_time([trial], Resources.from_dict(resources), machine) == expected


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    trials = [Trial(CONFIG.replace(training__seed=seed), ()) for seed in (0, 1)]
    costs = {trial.key: Cost(1.0, 1.0, 1.0, 6 * 10**9, "records") for trial in trials}
    assert shortages(trials, costs, Resources(), Machine(2, 16 * 10**9), tmp_path) == ()
    (memory,) = shortages(trials, costs, Resources(), Machine(2, 10 * 10**9), tmp_path)
    assert memory.startswith(
        "with 2 trainings at a time, up to 12.0 GB of memory is needed, but this machine has 10.0 GB"
    )
    on_gpu = [Trial(trial.config.replace(training__device="auto"), ()) for trial in trials]
    gpu = Machine(2, 10 * 10**9, (8 * 10**9,))
    (device,) = shortages(on_gpu, costs, Resources(gpu=0.5), gpu, tmp_path)
    assert device.startswith("a training takes up to 6.0 GB of GPU memory, resources.gpu=0.5 leaves it 4.0 GB")
    needy = shortages(trials, costs, Resources(cpu=3.0), Machine(2, 16 * 10**9), tmp_path)
    assert needy[0].startswith("a trial asks for 3 CPUs, this machine has 2; reduce resources.cpu, or start")
    (greedy,) = shortages(on_gpu, costs, Resources(gpu=2.0), Machine(2, 16 * 10**9, (8 * 10**9,)), tmp_path)
    assert greedy.startswith("a trial asks for 2 GPUs, this machine has 1; reduce resources.gpu, or start")
    million = [Trial(ExperimentConfig(), ())] * 10**6
    unknown = {ExperimentConfig().key: UNKNOWN}
    (disk,) = shortages(million, unknown, Resources(), Machine(2, 10**9), tmp_path / "not" / "there")
    assert disk.startswith("weights and checkpoints of 1,000,000 trainings take up to")
    assert str(tmp_path) in disk and disk.endswith("or keep no weights with keep_weights: false")
    assert shortages(million, unknown, Resources(), Machine(2, 10**9), tmp_path, keep_weights=False) == ()


STATISTICS = 4 * (2 * 64 * 4 + 8)
"""Bytes of the means, variances and counters of Conv64F's four normalisations."""
GALLERY = {
    "model.method": "ideme_net",
    "model.deform_blocks": 4,
    "model.gallery_per_class": 5,
    "start.head": "linear",
    "training.optimiser": "adam",
}


@pytest.mark.parametrize(("keep_weights", "kept"), [(True, 3), (False, 2)])
@pytest.mark.parametrize("method", ["dmf", "ideme_net"])
def test_the_disk_that_a_sweep_takes_by_hand(
    method: str, keep_weights: bool, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trainings, two at a time: kept weights, and two checkpoints of weights and moments per running one."""
    config = CONFIG.with_paths(GALLERY if method == "ideme_net" else {})
    trials = [Trial(config.replace(training__seed=seed), ()) for seed in range(3)]
    costs = {trial.key: UNKNOWN for trial in trials}
    learnt, beside, moments = 4 * parameters(config, 10), STATISTICS, 1
    if method == "ideme_net":  # its network's four normalisations, and 50 images with their mean and deviation
        deformation = sum(2 * channels * 4 + 8 for channels in (32, 64, 64, 16))
        beside, moments = STATISTICS + deformation + 10 * 5 * 28 * 28 + 2 * 4, 2
    needed = kept * (learnt + beside) + 2 * 2 * (learnt + beside + moments * learnt)
    for free, warnings in ((needed, 0), (needed - 1, 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        classes = {"glyphs": 10}
        found = shortages(trials, costs, Resources(), Machine(2, 10**9), tmp_path, keep_weights, classes)
        assert len(found) == warnings


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 12_424_320 + 9 * 640 * 64 + 25 * 18 * 1280 + 641 * 1200),
        ({"model.method": "proto_net"}, 12_424_320 + 1),
        ({"model.method": "proto_net", "model.backbone": "conv64f"}, 112_832 + 1),
        ({"model.alignment": 0, "model.backbone": "conv64f"}, 112_832 + 65 * 1200),
        ({"model.method": "raw_pixels"}, 0),
    ],
)
def test_weights_are_counted_by_hand(values: dict[str, Any], expected: int) -> None:
    assert parameters(ExperimentConfig().with_paths(values)) == expected


class Own(nn.Module):
    """A backbone of one's own: one convolution to the 64 channels of Conv64F, which steps by 4 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 64, 4, stride=4)

    @staticmethod
    def build(config: BackboneConfig, in_channels: int) -> Own:
        return Own(in_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


def test_a_backbone_of_ones_own_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv64f, "Conv64F", Own)
    config = ExperimentConfig().with_paths({"model.method": "proto_net", "model.backbone": "conv64f"})
    config = config.replace(data__image_size=37, data__channels=1)  # no other test counts this one
    assert parameters(config) == 16 * 64 + 64 + 1
    assert image_flops(config.model, 1, 37) == 2 * 16 * 64 * 9 * 9
    assert map_shape(config.model, 1, 37) == (64, 9, 9)


def test_weights_of_a_pre_training_are_counted() -> None:
    assert parameters(Pretraining().replace(model__backbone="conv64f")) == 112_832 + 65 * 1200
