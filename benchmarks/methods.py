"""2,000 5-way 1-shot test episodes of every method from cached features, in core-seconds.

Features are those of Conv64F at 64 pixels (64 x 8 x 8) for 20 classes of 200 images; 15 queries per class. Heads are
fitted as long as published. What is timed is the episodes alone, as an evaluation runs them: with `score_rows` or
`adapt`, and without the images' one forward pass. The features are random, each class around a mean of its own, since
their values change no cost but the number of a solver's iterations. MAML forwards its images in every episode.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Report, main
from dmf.config import METHODS, DataConfig
from dmf.episodes import EpisodeIndices, EpisodeSampler
from dmf.evaluation.evaluate import EPISODES_PER_BATCH
from dmf.evaluation.tables import IMAGES_PER_BATCH, Tables
from dmf.machine.device import set_up
from dmf.methods import build_method
from dmf.methods.base import FewShotMethod, Table

EPISODES, SAMPLED = 2000, 80
"""Episodes of an evaluation, and of a short run, which is scaled."""
SLOW_SAMPLED = 160
"""Episodes of a method without a bound, also in full runs."""
CLASSES, PER_CLASS, SIZE, BASE_CLASSES = 20, 200, 64, 64
AT_MOST = 30.0
"""Most core-seconds, for all methods but these."""
AT_MOST_OF = {
    "baseline": 240.0,
    "baseline_pp": 240.0,
    "negative_margin": 240.0,
    "rfs": 240.0,
    "metaoptnet_svm": 600.0,
    "deepemd": 600.0,
}
UNBOUND = ("dmf", "maml")
"""Methods whose time is stated alone."""


def run(report: Report) -> None:
    """Time the episodes of each method, one after the other."""
    set_up(1)  # so that seconds are core-seconds, whatever --threads says
    device = torch.device(report.settings.device)
    labels = np.arange(CLASSES).repeat(PER_CLASS)
    bank = EpisodeSampler(labels, way=5, shot=1, queries=15, seed=0)(range(EPISODES))
    rows = []
    for name in METHODS:
        method = fresh(name).to(device)
        sampled = SAMPLED if report.settings.short else SLOW_SAMPLED if name in UNBOUND else EPISODES
        seconds = episode_seconds(method, images_of(method, labels), bank[:sampled]) * EPISODES / sampled
        note = "" if sampled == EPISODES else f"scaled from {sampled}"
        rows.append({"method": name, "core-seconds": seconds, "milliseconds an episode": 1e3 * seconds / EPISODES})
        title = f"{name}: {EPISODES} 5-way 1-shot episodes from cached features"
        if name in UNBOUND:
            report.state(title, seconds, "s", note)
        else:
            report.claim(title, seconds, at_most=AT_MOST_OF.get(name, AT_MOST), unit="s", note=note)
    report.table("core-seconds of 2,000 episodes", rows)


def fresh(name: str) -> FewShotMethod:
    """The method with Conv64F and otherwise its defaults, untrained, in evaluation mode."""
    torch.manual_seed(0)
    config = METHODS[name]()
    values = {"backbone": "conv64f", "groups": 16}
    config = config.with_paths({path: value for path, value in values.items() if path in type(config).model_fields})
    return build_method(config, DataConfig(image_size=SIZE), BASE_CLASSES).eval()


def images_of(method: FewShotMethod, labels: np.ndarray) -> Table:
    """The image table of images drawn around a mean of their class, which have passed through the backbone."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, 3, SIZE, SIZE, generator=generator)
    parts = []
    with torch.no_grad():
        for part in torch.from_numpy(labels).split(IMAGES_PER_BATCH):
            images = means[part] + torch.randn(len(part), 3, SIZE, SIZE, generator=generator)
            parts.append(method.image_table(method.maps(images)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def episode_seconds(method: FewShotMethod, images: Table, bank: EpisodeIndices) -> float:
    """Core-seconds for the episodes of `bank`, in batches as in an evaluation; the first batch is run before, too."""
    device = next((parameter.device for parameter in method.parameters()), torch.device("cpu"))
    tables = Tables(method, device, images, bank.support, bank.query, examples=None)
    with torch.no_grad() if method.adapts else torch.inference_mode():
        _scores(tables, range(EPISODES_PER_BATCH))
        started = time.process_time()
        for start in range(0, len(bank), EPISODES_PER_BATCH):
            _scores(tables, range(start, min(start + EPISODES_PER_BATCH, len(bank)))).argmax(-1)
        return time.process_time() - started


def _scores(tables: Tables, part: range) -> Tensor:
    rows = slice(part.start, part.stop)
    return tables.adapted_scores(rows, list(part)) if tables.method.adapts else tables.scores(rows)


if __name__ == "__main__":
    sys.exit(main("methods", run))
