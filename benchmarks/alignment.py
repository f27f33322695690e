"""One iteration of Associative Alignment: FLOPs, time and memory, and what a published test of 600 episodes comes to.

Conv4 with ReLU at 84 pixels, 5-way 1-shot, 50 related images per way, as published. The released code does the same
updates, and besides back-propagates through the network for the head's update, whose gradients nothing reads, and in
every episode embeds the 500 images of each of 50 related base classes again; its FLOPs are counted from these passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import AVX512, Report, main, median, peak_bytes, seconds
from dmf.backbones.conv4_relu import Conv4ReLU
from dmf.machine.device import set_up
from dmf.methods.adversarial_alignment.model import AdversarialAlignment
from dmf.methods.associative import AlignedMethod, EpisodeCopy
from dmf.methods.centroid_alignment.model import CentroidAlignment

WAYS, RELATED, SIDE = 5, 50, 84
SHORT_RELATED, SHORT_SIDE = 5, 28
"""Those of a short run."""
ITERATIONS, EPISODES = 150, 600
EMBEDDED = 50 * 500
"""Base images that the released code embeds in every episode."""
METHODS: dict[str, type[AlignedMethod]] = {"centroid": CentroidAlignment, "adversarial": AdversarialAlignment}
BYTES_AT_MOST = 2.0
"""Most memory of an iteration, relative to what one forward and backward pass of its related images takes."""


def run(report: Report) -> None:
    """Count and time an iteration of each alignment."""
    set_up(1)  # so that seconds are core-seconds, whatever --threads says
    related, side = (SHORT_RELATED, SHORT_SIDE) if report.settings.short else (RELATED, SIDE)
    image = _flops(lambda: Conv4ReLU(last_pooling=True).eval()(torch.randn(1, 3, side, side)))
    rows = []
    flops = _flops(iteration("centroid", related, side))
    released = flops + 2 * WAYS * related * image + EMBEDDED * image / ITERATIONS
    report.state(f"centroid: an episode of {ITERATIONS} iterations", ITERATIONS * flops / 1e12, "TFLOP")
    report.claim("FLOPs of an episode relative to the released passes", flops / released, at_most=0.7)
    for name in METHODS:
        step = iteration(name, related, side)
        step()
        taken = median([seconds(step) for _ in range(report.settings.repeats)])
        report.state(f"{name}: {EPISODES} episodes", EPISODES * ITERATIONS * taken / 3600, "core-hours", "scaled")
        rows.append({"alignment": name, "seconds": taken, "GFLOP/s of the network": flops / 1e9 / taken})
    report.table("an iteration on one core", rows)
    ours, pass_ = (peak_bytes(prepare, related, side, threads=1) for prepare in (_of_iteration, _of_pass))
    report.claim(
        "memory of an iteration relative to one pass of its related images, there and back",
        ours / pass_,
        at_most=BYTES_AT_MOST,
        seen=AVX512,
        note=f"{ours / 2**20:.0f} MiB",
    )


def iteration(name: str, related: int, side: int) -> Callable[[], object]:
    """A function that does one iteration on random images."""
    torch.manual_seed(0)
    method = METHODS[name](Conv4ReLU(last_pooling=True), flattened=True).eval()
    support = torch.randn(WAYS, 1, 3, side, side)
    with torch.no_grad():
        embedded = method.base_features(support.flatten(0, 1))[None, :, None]
    heads = method.fit(embedded, [0])
    copied = EpisodeCopy(method, heads, 0, support, method.alignment(WAYS, embedded.shape[-1]))
    images = torch.randn(WAYS * related, 3, side, side)
    return lambda: copied.step(images)


def _of_iteration(related: int, side: int) -> Callable[[], object]:
    return iteration("centroid", related, side)


def _of_pass(related: int, side: int) -> Callable[[], object]:
    network, images = Conv4ReLU(last_pooling=True), torch.randn(WAYS * related, 3, side, side)

    def there_and_back() -> None:
        network(images.contiguous(memory_format=torch.channels_last)).sum().backward()

    return there_and_back


def _flops(run_once: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run_once()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    sys.exit(main("alignment", run))
