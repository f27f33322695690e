"""2,000 5-way 1-shot test episodes of every method from cached features, in core-seconds.

Features are those of Conv64F at 64 pixels (64 x 8 x 8) for 20 classes of 200 images; 15 queries per class. Heads are
fitted as long as published. What is timed is the episodes alone, as an evaluation runs them: with `score_rows` or
`adapt`, and without the images' one forward pass. The features are random, each class around a mean of its own, since
their values change no cost but the number of a solver's iterations. MAML forwards its images in every episode, and
IDeMe-Net its deformed images. Methods that align to base images are timed in `benchmarks.alignment`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import AVX512, Report, main, peak_bytes
from dmf.config import METHODS, DataConfig
from dmf.episodes import EpisodeIndices, EpisodeSampler
from dmf.evaluation.evaluate import EPISODES_PER_BATCH
from dmf.evaluation.tables import IMAGES_PER_BATCH, Tables
from dmf.machine.device import set_up
from dmf.methods import build_method
from dmf.methods.base import FewShotMethod, Table
from dmf.methods.heads import squared_distances
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.ideme_net.model import IDeMeNet

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
    "fine_tuning": 240.0,
    "metaoptnet_svm": 600.0,
    "deepemd": 600.0,
}
UNBOUND = ("dmf", "maml", "ideme_net")
"""Methods whose time is stated alone."""


def run(report: Report) -> None:
    """Time the episodes of each method, one after the other."""
    set_up(1)  # so that seconds are core-seconds, whatever --threads says
    device = torch.device(report.settings.device)
    labels = np.arange(CLASSES).repeat(PER_CLASS)
    bank = EpisodeSampler(labels, way=5, shot=1, queries=15, seed=0)(range(EPISODES))
    rows = []
    for name in (each for each, config in METHODS.items() if not config.reads_base):
        method = fresh(name).to(device)
        sampled = SAMPLED if report.settings.short else SLOW_SAMPLED if name in UNBOUND else EPISODES
        seconds = episode_seconds(method, images_of(method, labels), bank[:sampled]) * EPISODES / sampled
        note = "" if sampled == EPISODES else f"scaled from {sampled}"
        rows.append({"method": name, "core-seconds": seconds, "milliseconds an episode": 1e3 * seconds / EPISODES})
        title = f"{name}: {EPISODES} 5-way 1-shot episodes from cached features"
        if name in UNBOUND:
            report.state(title, seconds, "s", note)
        else:
            report.claim(title, seconds, at_most=AT_MOST_OF.get(name, AT_MOST), unit="s", note=note, seen=AVX512)
    report.table("core-seconds of 2,000 episodes", rows)
    deformation(report)


def deformation(report: Report) -> None:
    """A 5-shot training episode of IDeMe-Net at 224 px with ResNet-18, as in its README, against the released steps.

    FLOPs of the released steps, and what their graph keeps for the ways back, are counted on tensors without storage.
    """
    with torch.device("meta"):
        released = _flops_of(lambda: _released_step(_ideme_net(1)))
        kept = _bytes_kept(lambda: _released_step(_ideme_net(1), backward=False))
    title = "IDeMe-Net, 5-shot training episode at 224 px"
    report.state(f"{title}: FLOPs of the released steps", released / 1e12, "TFLOP")
    report.state(f"{title}: memory that the released graph keeps", kept / 2**30, "GiB")
    for rounds, name in ((1, "deformation"), (2, "embedding")):
        peak = peak_bytes(prepared_step, rounds, threads=1)
        told = f"{title}: memory of a step for the {name}, relative to what the released graph keeps"
        report.claim(told, peak / kept, at_most=1 / 4, note=f"{peak / 2**30:.2f} GiB")
        flops = _flops_of(prepared_step(rounds))
        told = f"{title}: FLOPs of a step for the {name}, relative to released"
        if rounds == 1:
            report.claim(told, flops / released, at_most=1 / 3, note=f"{flops / 1e12:.2f} TFLOP")
        else:  # what is left are three passes for each image
            report.state(told, flops / released, note=f"{flops / 1e12:.2f} TFLOP")


def prepared_step(rounds: int) -> Callable[[], None]:
    """Losses and gradients of an episode of 5 ways, 5 shots and 75 queries in the last of so many rounds."""
    model = _ideme_net(rounds)
    model.gallery_features()
    images = torch.rand(1, 5, 5, 3, 224, 224)
    support, query, targets = torch.rand(1, 5, 5, 512), torch.rand(1, 75, 512), torch.arange(5).repeat_interleave(15)

    def step() -> None:
        if model.trains_embedding:
            losses = model.embedding_losses(images, torch.arange(5)[None])
        else:
            losses = model.deformation_losses(images, support, query, targets[None])
        losses.total.backward()

    return step


def _ideme_net(rounds: int) -> IDeMeNet:
    torch.manual_seed(0)
    settings = {"deformed_images": 5, "gallery_candidates": 30, "gallery_per_class": 2}
    config = IDeMeNetConfig(backbone="resnet18_imagenet").with_paths(settings | {"rounds": rounds})
    model = build_method(config, DataConfig(image_size=224), BASE_CLASSES)
    assert isinstance(model, IDeMeNet)
    return model.train()


def _released_step(model: IDeMeNet, backward: bool = True) -> None:
    """A training step as the released script takes it: every weight is differentiated, for each of two losses."""
    model.requires_grad_()
    support, query = torch.rand(25, 3, 224, 224), torch.rand(75, 3, 224, 224)
    with torch.no_grad():
        model.embed(support)  # for the centres; the script keeps no graph of it
    ours, theirs = torch.rand(2, 150, 3, 224, 224)
    weights = model.deformation(ours, theirs)
    mask = (weights.view(150, 9, 1, 1, 1) * torch.rand(150, 9, 3, 224, 224)).sum(1)
    rows = model.embed(mask * ours + (1 - mask) * theirs)
    prototypes, queries = rows.view(1, 5, 30, 512).mean(2), model.embed(query)[None]
    few_shot = (-model.scale * squared_distances(queries, prototypes)).log_softmax(-1).mean()
    classification = model.classifier(rows).log_softmax(-1).mean()
    if backward:
        few_shot.backward(retain_graph=True)  # the script does so twice, the second time for the scale
        classification.backward()


def _flops_of(run: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _bytes_kept(run: Callable[[], None]) -> int:
    """Bytes of the tensors that a graph keeps, each storage once."""
    storages: dict[int, tuple[Any, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(size for _, size in storages.values())


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
    if not tables.method.adapts:
        return tables.scores(rows)
    return torch.stack([each.logits for each in tables.adapted(rows, list(part))])


if __name__ == "__main__":
    sys.exit(main("methods", run))
