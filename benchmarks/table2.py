"""A cost model of the paper's Table 2: the backbone's FLOPs in every training, divided by a rate.

python -m benchmarks.table2 --rate 2e14          # FLOP/s that training reaches; prints hours per training and in total

It counts the convolutions of ResNet-12, which are all but a few percent of a step (`benchmarks.step` measures how few,
and the rate): forward and backward for every training image, and forward for every validation and test image once per
evaluation. For comparison, it also gives the cost if every episode of an evaluation were forwarded.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import aligned, number
from benchmarks.steps import backbone_flops, fresh_method
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import DATASETS
from dmf.training.schedule import validates
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan

TABLE2 = Path(__file__).resolve().parents[1] / "sweeps" / "table2.yaml"


@dataclass(frozen=True)
class Cost:
    """FLOPs of one training, by part."""

    training: float
    validation: float
    test: float
    validation_by_episodes: float
    """FLOPs of validation if every episode were forwarded."""

    @property
    def all(self) -> float:
        return self.training + self.validation + self.test


def cost(config: ExperimentConfig, test: EvaluationConfig, per_image: float) -> Cost:
    """The cost of a training and its test, with `per_image` FLOPs for the forward pass of one image."""
    training, episodes = config.training, config.episodes
    images = training.epochs * training.episodes_per_epoch * episodes.way * (episodes.shot + episodes.queries)
    validations = sum(validates(epoch, training) for epoch in range(1, training.epochs + 1))
    known = DATASETS[config.data.name].images
    if known is None:
        raise ValueError(f"data.name={config.data.name!r} has no fixed number of images; the model needs one")
    per_episode = EvaluationConfig().way * (episodes.shot + EvaluationConfig().queries)
    drawn = training.validation_episodes * per_episode
    return Cost(
        training=3 * per_image * images,
        validation=per_image * validations * min(known[1], drawn),
        test=per_image * min(known[2], test.episodes * per_episode),
        validation_by_episodes=per_image * validations * drawn,
    )


def main(argv: list[str] | None = None) -> int:
    """Print the costs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table2", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, required=True, help="FLOP/s")
    rate = parser.parse_args(argv).rate
    if not rate > 0:
        parser.error(f"--rate {rate}: expected a positive number of FLOP/s, such as 2e14")
    trials = plan(read_spec(TABLE2, ["seeds=[0]"])).trials()
    per_image = backbone_flops(fresh_method(torch.device("cpu")))
    kinds: dict[int, list[Cost]] = {}
    for trial in trials:
        kinds.setdefault(trial.config.episodes.shot, []).append(cost(trial.config, trial.evaluations[0], per_image))
    table = [
        {
            "trainings": f"{len(costs)} of {shot} shot",
            "training PFLOP": number(costs[0].training / 1e15),
            "validation PFLOP": number(costs[0].validation / 1e15),
            "by episodes": number(costs[0].validation_by_episodes / 1e15),
            "hours each": number(costs[0].all / rate / 3600),
            "hours": number(sum(cost.all for cost in costs) / rate / 3600),
        }
        for shot, costs in sorted(kinds.items())
    ]
    print("\n".join(aligned(table)))
    together = sum(cost.all for costs in kinds.values() for cost in costs)
    print(
        f"\n{len(trials)} trainings of one seed, {together:.3g} FLOP: {number(together / rate / 3600)} hours "
        f"at {rate:.3g} FLOP/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
