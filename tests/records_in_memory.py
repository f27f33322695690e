"""Records for tests: real record values in a dict, with episodes drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.facts import Curves, Ended, Tested
from dmf.records.records import FORMAT, EvaluationRecord, Failure, TrainingRecord
from reports.statistics.cells import mean_ci95
from reports.tables import PlannedCell


def planned(
    table: str, evaluation: EvaluationConfig | None = None, seeds: tuple[int, ...] = (0,), **paths: Any
) -> PlannedCell:
    """A cell of `table` whose training differs from the defaults in `paths`."""
    config = ExperimentConfig().replace(**paths)
    return PlannedCell(
        table=table, config=config, evaluation=(evaluation or EvaluationConfig()).resolve(config), seeds=seeds
    )


def episodes(mean: float, count: int, seed: int = 0) -> np.ndarray:
    """Accuracies [count] over 75 queries around `mean`. Equal seeds give the same easy and hard episodes."""
    hardness = np.random.default_rng(seed).normal(0, 0.08, count)
    return np.clip(np.round(75 * (mean + hardness)) / 75, 0, 1)


def evaluation_of(training_key: str, test: EvaluationConfig, **different: Any) -> EvaluationRecord:
    """A model's test over two episodes, with half of the queries right."""
    values = {
        "training_key": training_key,
        "evaluation_key": test.key,
        "config": test,
        "accuracy": 0.5,
        "ci95": 0.1,
        "episode_accuracies": (0.4, 0.6),
        "bank": "b",
        "data_fingerprint": "d",
        "epoch": 1,
        "seconds": 1.0,
    }
    return EvaluationRecord(format=FORMAT, **{**values, **different})


@dataclass
class InMemory:
    """Implements `reports.tables.Records`."""

    trainings: dict[str, TrainingRecord] = field(default_factory=dict)
    evaluations: dict[tuple[str, str], EvaluationRecord] = field(default_factory=dict)
    at_work: set[str] = field(default_factory=set)

    def how_ended(self, key: str) -> Ended | None:
        record = self.trainings.get(key)
        return None if record is None else Ended.model_validate_json(record.model_dump_json())

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        record = self.evaluations.get((training_key, evaluation_key))
        return None if record is None else Tested.of(record)

    def curves(self, key: str) -> Curves | None:
        record = self.trainings.get(key)
        return None if record is None else Curves.of(record.history)

    def running(self, key: str) -> bool:
        return key in self.at_work

    def ended(self, config: ExperimentConfig, outcome: str = "finished", failure: Failure | None = None) -> None:
        """Record a training."""
        self.trainings[config.key] = TrainingRecord(
            format=FORMAT,
            key=config.key,
            config=config,
            outcome=outcome,
            failure=failure,
            parameters=1000,
            image_flops=28_000_000,
            seconds=10.0,
        )

    def tested(
        self, cell: PlannedCell, accuracies: np.ndarray | list[float], seed: int = 0, bank: str = "bank", **changed: Any
    ) -> EvaluationRecord:
        """Record one seed's evaluation with these episodes; its summary is right unless `changed`."""
        config = cell.config.replace(training__seed=seed)
        accuracy, ci95 = mean_ci95(accuracies)
        record = EvaluationRecord(
            format=FORMAT,
            training_key=config.key,
            evaluation_key=cell.evaluation.key,
            config=cell.evaluation,
            episode_accuracies=tuple(map(float, accuracies)),
            bank=bank,
            epoch=1,
            seconds=1.0,
            **({"accuracy": accuracy, "ci95": ci95, "data_fingerprint": "0" * 64} | changed),
        )
        self.ended(config)
        self.evaluations[config.key, cell.evaluation.key] = record
        return record
