"""Calibration: real steps on the embedded glyphs, each class in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.config import EvaluationConfig, ExperimentConfig
from orchestrator.costs.calibrate import calibrate, measured_aside
from orchestrator.costs.estimates import estimate
from orchestrator.costs.rates import Calibration, cost_class
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

CONFIG = ExperimentConfig().replace(
    data__name="glyphs",
    data__image_size=28,
    data__channels=1,
    data__normalisation="half",
    model__backbone="conv64f",
    episodes__queries=2,
    training__validation_episodes=4,
    training__device="cpu",
    training__learning_rate=1e30,
)
TEST = EvaluationConfig(episodes=4, shot=1)
PIXELS = CONFIG.replace(model__method="raw_pixels")
TRIALS = [Trial(config, (TEST,)) for config in (CONFIG, CONFIG.replace(training__seed=1), PIXELS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with TRIALS calibrated."""
    store = tmp_path_factory.mktemp("store")
    said: list[str] = []
    calibrate(TRIALS, Ledger(store), say=said.append)
    assert [line.split(":")[0] for line in said if line.startswith("[")] == [
        "[1/2] method=dmf",
        "[2/2] method=raw_pixels",
    ]
    return store


def test_every_class_is_measured_once(store: Path) -> None:
    learning, pixels = Calibration.of(store).measured
    assert [learning.cost_class, pixels.cost_class] == [cost_class(CONFIG), cost_class(PIXELS)]
    assert len(learning.episode_seconds) > 1 and min(learning.episode_seconds) > 0
    assert learning.image_seconds + learning.test_episode_seconds > 0
    assert 50e6 < (learning.peak_bytes or 0) < 20e9 and learning.image_bytes > 0
    assert (pixels.episode_seconds, pixels.parameters) == ((), 0)
    assert (learning.parameters or 0) > 100_000
    assert min(learning.images.values()) > 100


def test_trials_have_a_cost_then(store: Path) -> None:
    costs = estimate(TRIALS, Ledger(store), Calibration.of(store))
    assert {cost.source for cost in costs.values()} == {"calibration"}
    first, second, pixels = (costs[trial.key] for trial in TRIALS)
    assert first == second and (first.bytes or 0) > 50e6
    assert 0 < (pixels.seconds or 0) < (first.seconds or 0)
    assert (first.seconds_low or 0) < (first.seconds or 0) < (first.seconds_high or 0)


def test_what_was_measured_is_measured_again_only_if_asked(store: Path) -> None:
    before, said = Calibration.of(store), list[str]()
    assert calibrate(TRIALS, Ledger(store), say=said.append) == before
    assert said == []
    again = calibrate([TRIALS[2]], Ledger(store), again=True, say=said.append)
    assert said[-1].startswith("[1/1] ")
    assert [rates.cost_class for rates in again.measured] == [rates.cost_class for rates in before.measured]
    assert again.measured[0] == before.measured[0] and again.measured[1] != before.measured[1]
    assert Calibration.of(store) == again


def test_one_class_that_can_not_be_measured_does_not_stop_the_others(store: Path) -> None:
    nowhere = CONFIG.replace(data__name="mine", data__root="/nowhere")
    other = PIXELS.replace(episodes__shot=2)
    with pytest.raises(ValueError, match="some trainings could not be measured:\n.*mine.*: .*/nowhere"):
        calibrate([Trial(nowhere, ()), Trial(other, ())], Ledger(store), say=lambda line: None)
    assert cost_class(other) in {rates.cost_class for rates in Calibration.of(store).measured}


def test_a_mistake_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="^episodes of the train split: way=90000 needs 90000 classes"):
        measured_aside(CONFIG.replace(episodes__way=90_000))
