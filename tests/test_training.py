"""Training on the embedded glyphs: schedule, exact resumption, divergence, checkpoints; and evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmf.backbones import image_flops
from dmf.config import EvaluationConfig, ExperimentConfig, TrainingConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, open_data
from dmf.draws import derived_seed
from dmf.episodes import Episode
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import episode_accuracies, evaluate_folder, load_trained, mean_and_ci95
from dmf.machine.clock import Clock
from dmf.machine.precision import autocast
from dmf.methods import build_method
from dmf.records.checkpoints import read_checkpoint, read_checkpoint_of, write_checkpoint
from dmf.records.records import BEST, LAST, RECORD, Epoch, Going, Kept
from dmf.training.optimiser import build_optimiser, set_rate
from dmf.training.run import Run, close, train
from dmf.training.schedule import best_of, learning_rate, validates
from dmf.training.streams import DROPOUT

TINY = ExperimentConfig.from_dict(
    {
        "data": {"name": "glyphs", "image_size": 20, "normalisation": "half"},
        "augmentation": {"crop_padding": 2},
        "episodes": {"queries": 3},
        "model": {"backbone": "conv64f", "groups": 8},
        "training": {
            "epochs": 4,
            "warmup_epochs": 1,
            "episodes_per_epoch": 8,
            "episodes_per_step": 2,
            "learning_rate": 0.05,
            "validation_episodes": 20,
            "validate_every": 2,
            "device": "cpu",
        },
    }
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSet:
    return open_data(TINY.data, cache_dir=tmp_path_factory.mktemp("cache"))


def unread_fingerprint(unread: DataSet, data: DataSet) -> DataSet:
    """A data set without a test split, but with a fingerprint."""

    class WithoutTest(DataSet):
        fingerprint = data.fingerprint

    return WithoutTest(
        unread.name, unread.layout, unread.image_sizes, unread.doubts, unread.train, unread.val, unread.test
    )


def curve(history) -> list[tuple]:
    """A history without its times."""
    return [(e.epoch, e.loss, e.losses, e.learning_rate, e.validation_accuracy) for e in history]


def stopped_after(epoch: int):
    def on_epoch(done: Epoch) -> None:
        if done.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


ADAM = TINY.with_paths(
    {
        "training.optimiser": "adam",
        "training.learning_rate": 1e-3,
        "training.schedule": "steps",
        "training.milestones": [[2, 0.5]],
        "training.head_rate_factor": 10.0,
    }
)


@pytest.mark.parametrize(
    "config", [TINY, TINY.replace(model__backbone="resnet12"), TINY.replace(training__precision="bf16"), ADAM]
)
def test_stopped_after_any_epoch_and_resumed_gives_the_same_bits(
    tmp_path: Path, data: DataSet, config: ExperimentConfig
) -> None:
    """ResNet-12 has dropout, DropBlock and its ramp; Conv64F has none of them."""
    config = config.replace(
        training__epochs=3, training__episodes_per_epoch=4, training__validation_episodes=2, model__drop_block_ramp=10
    )
    whole = train(config, data, tmp_path / "whole")
    for stop in (1, 2):
        folder = tmp_path / f"stopped after {stop}"
        with pytest.raises(KeyboardInterrupt):
            train(config, data, folder, stopped_after(stop))
        torch.manual_seed(stop)  # what else the process has drawn must not matter
        heard: list[Epoch] = []
        resumed = train(config, data, folder, heard.append)
        assert [epoch.epoch for epoch in heard] == list(range(stop + 1, 4))
        assert curve(resumed.history) == curve(whole.history)
        for name in (LAST, "best.safetensors"):
            ours, theirs = read_checkpoint(folder / name)[0], read_checkpoint(tmp_path / "whole" / name)[0]
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_cpu_time_is_that_of_all_starts(tmp_path: Path, data: DataSet) -> None:
    clock = Clock()
    time.sleep(0.2)
    assert 0.0 <= clock.cpu_seconds < clock.seconds, "waiting takes no CPU time"
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path, stopped_after(1))
    tensors, state = read_checkpoint(tmp_path / LAST)
    write_checkpoint(tmp_path / LAST, tensors, state | {"cpu_seconds": 1e6})
    assert 1e6 < (train(TINY, data, tmp_path).cpu_seconds or 0.0) < 1.5e6
    write_checkpoint(tmp_path / LAST, tensors, state | {"cpu_seconds": None})
    assert train(TINY, data, tmp_path).cpu_seconds is None, "an older checkpoint does not say it"


def test_a_checkpoint_of_adam_is_not_one_of_sgd(tmp_path: Path, data: DataSet) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ADAM, data, tmp_path, stopped_after(1))
    tensors, state = read_checkpoint(tmp_path / LAST)
    kinds = {name.partition(".")[0] for name in tensors}
    assert kinds == {"model", "exp_avg", "exp_avg_sq", "step"}
    write_checkpoint(tmp_path / LAST, tensors | {"momentum.x": torch.ones(1)}, state)
    with pytest.raises(ValueError, match=r"1 of its tensors differ, first momentum.x: got \(1,\), expected nothing"):
        train(ADAM, data, tmp_path)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_steps_are_those_of_the_optimiser_by_hand(optimiser: str) -> None:
    """Two steps of a backbone and a head with a rate of its own, by the formulas of SGD and Adam in plain floats."""
    settings = TrainingConfig(
        optimiser=optimiser, momentum=0.8, nesterov=False, weight_decay=0.1, head_rate_factor=10.0, learning_rate=0.01
    )
    module = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1, bias=False), "head": torch.nn.Linear(1, 1)})
    made = build_optimiser(module.double(), settings)
    expected = {name: parameter.item() for name, parameter in module.named_parameters()}
    first, second = dict.fromkeys(expected, 0.0), dict.fromkeys(expected, 0.0)
    for step in (1, 2):
        set_rate(made, 0.01 / step)
        for number, (name, parameter) in enumerate(module.named_parameters()):
            rate = 0.01 / step * (1 if name == "backbone.weight" else 10)
            parameter.grad = torch.full_like(parameter, step + number)
            gradient = step + number + 0.1 * expected[name]
            if optimiser == "sgd":
                first[name] = 0.8 * first[name] + gradient
                expected[name] -= rate * first[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                corrected = math.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
                expected[name] -= rate * first[name] / (1 - 0.9**step) / corrected
        made.step()
    assert {name: parameter.item() for name, parameter in module.named_parameters()} == pytest.approx(
        expected, rel=1e-12
    )


def test_best_weights_never_belong_to_an_epoch_that_is_trained_again(
    tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill between an epoch's two files, the checkpoint has the epoch, and resuming keeps its weights."""
    config = TINY.replace(training__epochs=3, training__validate_every=3)
    whole = train(config, data, tmp_path / "whole")

    def killed(self: Run, epoch: int) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "keep_best", killed)
        train(config, data, folder)
    assert len(read_checkpoint_of(Going, folder / LAST)[1].history) == 1 and not (folder / BEST).exists()
    resumed = Run(config, data, folder)
    tensors, kept = read_checkpoint_of(Kept, folder / BEST)
    assert kept.epoch == resumed.epochs_done == 1
    assert all(
        torch.equal(tensors[f"model.{name}"], value) for name, value in resumed.stage.module.state_dict().items()
    )
    assert curve(train(config, data, folder).history) == curve(whole.history)


def test_bf16_computes_maps_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path, data: DataSet) -> None:
    config = TINY.replace(training__precision="bf16")
    run = Run(config, data, tmp_path / "run")
    with autocast(run.device, "bf16"):
        assert run.stage.method.maps(torch.rand(1, 3, 28, 28)).dtype == torch.bfloat16
    record, exact = train(config, data, tmp_path / "bf16"), train(TINY, data, tmp_path / "fp32")
    assert curve(record.history) != curve(exact.history)
    for rounded, epoch in zip(record.history, exact.history, strict=True):
        assert rounded.loss == pytest.approx(epoch.loss, rel=0.05)
    weights = read_checkpoint(tmp_path / "bf16" / LAST)[0]
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())


def test_seeds(tmp_path: Path, data: DataSet) -> None:
    first, again = (train(TINY, data, tmp_path / name) for name in "ab")
    other = train(TINY.replace(training__seed=1), data, tmp_path / "c")
    assert curve(first.history) == curve(again.history)
    assert curve(first.history) != curve(other.history)


def test_the_first_step_is_nesterov_on_the_weighted_losses(tmp_path: Path, data: DataSet) -> None:
    """One step by hand: from zero momentum, Nesterov moves by (1 + momentum) * lr * (gradient + decay)."""
    config = TINY.replace(
        model__score_border=0,
        training__epochs=1,
        training__warmup_epochs=0,
        training__episodes_per_epoch=2,
        training__learning_rate=0.01,
        training__learning_rate_floor=1.0,
    )
    settings = config.training
    before = Run(config, data, tmp_path / "before")
    torch.manual_seed(derived_seed(settings.seed, DROPOUT, 0))
    stage = before.stage
    losses = stage.method.train().losses(stage.episode(0, stage.read(0))).parts
    (1.0 * losses["global"] + 0.5 * losses["few_shot"]).backward()
    record = train(config, data, tmp_path / "after")
    assert record.history[0].loss == pytest.approx((losses["global"] + 0.5 * losses["few_shot"]).item(), rel=1e-6)
    weights = read_checkpoint(tmp_path / "after" / LAST)[0]
    for name, parameter in before.stage.module.named_parameters():
        step = parameter.grad + settings.weight_decay * parameter
        expected = parameter - settings.learning_rate * (step + settings.momentum * step)
        torch.testing.assert_close(weights[f"model.{name}"], expected.detach(), rtol=1e-5, atol=1e-7)


def test_models_are_selected_without_the_test_split(tmp_path: Path, data: DataSet) -> None:
    unread = replace(data, test=None)
    assert curve(train(TINY, unread_fingerprint(unread, data), tmp_path).history)


def test_threads_are_those_that_a_run_began_with(tmp_path: Path, data: DataSet, caplog) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY.replace(training__threads=2), data, tmp_path, stopped_after(2))
    record = train(TINY.replace(training__threads=1), data, tmp_path)
    assert record.provenance.threads == 2
    assert "resumed with 2 threads" in caplog.text


def test_learning_is_real(tmp_path: Path, data: DataSet) -> None:
    """A few steps on glyphs beat raw pixels on classes of other scripts."""
    config = TINY.replace(
        augmentation={"crop": "none", "color_jitter": 0.0, "flip": False, "erasing": 0.0},
        model__score_border=0,
        model__few_shot_weight=1.0,
        training__epochs=3,
        training__episodes_per_epoch=160,
        training__episodes_per_step=4,
        training__learning_rate=0.2,
    )
    record = train(config, data, tmp_path)
    evaluation = EvaluationConfig(episodes=200)
    ours = evaluate_folder(tmp_path, config, evaluation, data)
    floor_config = config.replace(model__method="raw_pixels")
    learns_nothing = train(floor_config, data, tmp_path / "floor")
    assert learns_nothing.parameters == 0 and learns_nothing.image_flops is None
    assert record.image_flops == image_flops(config.model, config.data.channels, config.data.image_size)
    floor = evaluate_folder(tmp_path / "floor", floor_config, evaluation, data)
    assert ours.bank == floor.bank
    assert ours.accuracy - ours.ci95 > floor.accuracy + floor.ci95
    assert record.history[-1].loss < record.history[0].loss


def test_a_loss_that_is_not_finite_ends_as_diverged(tmp_path: Path, data: DataSet) -> None:
    record = train(TINY.replace(training__learning_rate=1e18, training__warmup_epochs=0), data, tmp_path)
    assert record.outcome == "diverged"
    assert record.failure.step is not None and 1 < record.failure.step <= 16
    assert set(record.failure.last_finite) == {"loss", "few_shot", "global"}
    assert all(math.isfinite(value) for value in record.failure.last_finite.values())


def test_an_epoch_that_begins_not_finite_tells_the_last_means(tmp_path: Path, data: DataSet, monkeypatch) -> None:
    def stop(done: Epoch) -> None:
        if done.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path, stop)
    tensors, state = read_checkpoint(tmp_path / LAST)
    write_checkpoint(
        tmp_path / LAST, {name: x * float("nan") if x.is_floating_point() else x for name, x in tensors.items()}, state
    )
    record = train(TINY, data, tmp_path)
    assert (record.outcome, record.failure.step) == ("diverged", 5)
    assert record.failure.last_finite == {"loss": record.history[0].loss, **record.history[0].losses}


def test_records_and_checkpoints(tmp_path: Path, data: DataSet) -> None:
    record = train(TINY, data, tmp_path)
    assert (tmp_path / LAST).is_file()
    close(tmp_path, record)
    assert not (tmp_path / LAST).exists()
    assert type(record).read(tmp_path / RECORD) == record
    assert record.best_epoch in (1, 2, 4) and record.parameters > 100_000
    _, epoch = load_trained(tmp_path, TINY, data)
    assert epoch == record.best_epoch
    with pytest.raises(ValueError, match="belongs to training"):
        load_trained(tmp_path, TINY.replace(training__seed=9), data)


def test_a_folder_of_another_training_is_refused(tmp_path: Path, data: DataSet) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path, stopped_after(1))
    with pytest.raises(ValueError, match="use another folder for this training"):
        train(TINY.replace(model__groups=16), data, tmp_path)
    (tmp_path / LAST).unlink()
    with pytest.raises(ValueError, match="use another folder for this training"):
        train(TINY.replace(model__groups=16), data, tmp_path)


def test_other_images_at_the_root_are_refused(tmp_path: Path, data: DataSet) -> None:
    """The root is not part of a training's identity, but its images have to match the checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path, stopped_after(1))
    others = replace(data, train=replace(data.train, fingerprint="another"))
    with pytest.raises(ValueError, match="trained on other images of 'glyphs'"):
        train(TINY, others, tmp_path)


def test_a_broken_checkpoint_is_named(tmp_path: Path, data: DataSet) -> None:
    tmp_path.joinpath(LAST).write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match="last.safetensors is not a readable checkpoint"):
        train(TINY, data, tmp_path)


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch) -> None:
    write_checkpoint(tmp_path / "c", {"x": torch.ones(2)}, {"epoch": 1})

    def killed(*_arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c", {"x": torch.zeros(2)}, {"epoch": 2})
    tensors, state = read_checkpoint(tmp_path / "c")
    assert state == {"epoch": 1} and torch.equal(tensors["x"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_flipped_bit_is_found_wherever_weights_are_read(tmp_path: Path, data: DataSet) -> None:
    train(TINY, data, tmp_path)
    for name in (BEST, LAST):
        path = tmp_path / name
        content = bytearray(path.read_bytes())
        content[-1000] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged: its tensors are not those that were written"):
            read_checkpoint(path)
    with pytest.raises(ValueError, match="is damaged"):
        evaluate_folder(tmp_path, TINY, EvaluationConfig(episodes=2), data)
    with pytest.raises(ValueError, match="is damaged"):
        train(TINY, data, tmp_path)


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_checkpoint(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2)}, {"epoch": 1, "key": "k"})
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


def test_learning_rate_warms_up_then_falls_along_a_cosine() -> None:
    settings = TrainingConfig(learning_rate=0.35, epochs=95, warmup_epochs=5)
    steps = 300
    assert learning_rate(1, steps, settings) == pytest.approx(0.35 / 1500)
    assert learning_rate(1500, steps, settings) == pytest.approx(0.35)
    assert learning_rate(1500 + 45 * steps, steps, settings) == pytest.approx(0.175)
    assert learning_rate(95 * steps, steps, settings) == pytest.approx(0.35e-5)
    assert learning_rate(1, steps, TrainingConfig(warmup_epochs=0)) < 0.35


def test_a_constant_rate_and_steps() -> None:
    def rates(**settings: object) -> list[float]:
        whole = TrainingConfig().replace(learning_rate=0.1, epochs=4, **settings)
        return [learning_rate(step, 2, whole) for step in range(1, 9)]

    assert rates(schedule="constant", warmup_epochs=0) == [0.1] * 8
    assert rates(schedule="constant", warmup_epochs=1) == [0.05] + [0.1] * 7
    steps = rates(schedule="steps", milestones=[[1, 0.5], [3, 0.06]], warmup_epochs=0)
    assert steps == pytest.approx([0.1] * 2 + [0.05] * 4 + [0.006] * 2)


def test_released_validation_epochs() -> None:
    epochs = [epoch for epoch in range(1, 96) if validates(epoch, TrainingConfig())]
    assert epochs == [1, 10, 20, 30, 40, 50, *range(60, 96)]
    assert len(epochs) == 42


def test_the_first_of_equal_epochs_is_kept() -> None:
    def epoch(number: int, accuracy: float | None) -> Epoch:
        return Epoch(epoch=number, loss=0.0, losses={}, learning_rate=0.1, validation_accuracy=accuracy, seconds=0.0)

    assert best_of([epoch(1, 0.4), epoch(2, None), epoch(3, 0.6), epoch(4, 0.6)]).epoch == 3
    assert best_of([epoch(1, None)]) is None


def test_interval_by_hand() -> None:
    mean, ci95 = mean_and_ci95(np.array([0.2, 0.4, 0.6, 0.8]))
    assert mean == pytest.approx(0.5)
    assert ci95 == pytest.approx(1.96 * math.sqrt(0.05) / 2)  # deviations .3 .1 .1 .3: variance (.09 + .01) / 2


@pytest.mark.parametrize("method", ["dmf", "proto_net", "classifier_baseline", "raw_pixels"])
@pytest.mark.parametrize("dynamic_sampling", [True, False])
@pytest.mark.parametrize("shot", [1, 2])
@pytest.mark.parametrize("table_bytes", [0, 2**30])
def test_cached_features_give_the_accuracies_of_forwarding_every_episode(
    data: DataSet, method: str, dynamic_sampling: bool, shot: int, table_bytes: int, monkeypatch
) -> None:
    monkeypatch.setattr("dmf.evaluation.tables.TABLE_BYTES", table_bytes)  # 0: through memory-mapped files
    config = TINY.replace(model__dynamic_sampling=dynamic_sampling)
    if method != "dmf":
        config = TINY.with_paths(
            {"model.method": method} | ({} if method == "raw_pixels" else {"start.head": "linear"})
        )
    torch.manual_seed(0)
    model = build_method(config.model, config.data, len(data.train.classes)).double()
    augment = Augmentation(config.augmentation, config.data)
    bank = episode_bank(data.test, EvaluationConfig(episodes=12, shot=shot, queries=4))
    monkeypatch.setattr(augment, "evaluate", lambda pixels: Augmentation.evaluate(augment, pixels).double())
    cached = episode_accuracies(model, data.test, bank, augment)
    model.eval()
    for index in range(12):
        support, query = (
            augment.evaluate(data.test.pixels(rows.flatten())).unflatten(0, rows.shape)
            for rows in (bank.support[index : index + 1], bank.query[index : index + 1])
        )
        targets = bank.targets[index : index + 1]
        with torch.inference_mode():
            predicted = model(Episode(support, query, targets, targets)).argmax(-1)
        assert (predicted == targets).double().mean().item() == cached[index]


def test_the_method_keeps_its_mode(data: DataSet) -> None:
    model = build_method(TINY.model, TINY.data, 5).train()
    bank = episode_bank(data.val, EvaluationConfig(split="val", episodes=2, shot=1))
    episode_accuracies(model, data.val, bank, Augmentation(TINY.augmentation, TINY.data))
    assert model.training


def test_more_shots_than_trained_with(tmp_path: Path, data: DataSet) -> None:
    train(TINY, data, tmp_path)
    record = evaluate_folder(tmp_path, TINY, EvaluationConfig(episodes=10, shot=5), data)
    assert record.config.shot == 5 and len(record.correct) == len(record.accuracies) == 10
    assert record.accuracy == pytest.approx(record.accuracies.mean())
