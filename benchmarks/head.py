"""The head, which is everything after the backbone (filters, alignment, score, both losses), and the literal version.

Inputs are feature maps of 640 x 11 x 11 that require gradients, for 1-shot episodes. They are in channels-last layout
for ours, as dmf's backbone returns them, and contiguous for the literal version. Weights are the same, with offsets of
about 1.5 positions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from benchmarks.harness import (
    AVX2,
    AVX512,
    Report,
    alternate,
    main,
    median,
    peak_bytes,
    precisions,
    ratio,
    state_rates,
)
from benchmarks.literal import LiteralDMF
from dmf.config import DMFConfig, EpisodeConfig, EvaluationConfig, TrainingConfig
from dmf.episodes import Episode
from dmf.machine.precision import autocast, pinned
from dmf.methods.dmf.model import DMF

GROUPS = (64, 640)
SIDE, BASE_CLASSES, WAY = 11, 64, EpisodeConfig().way
QUERIES = {"training": EpisodeConfig().queries * WAY, "evaluation": EvaluationConfig().queries * WAY}
SAMPLING = "torchvision's deform_conv2d"
OFFSET = 1.5
"""Standard deviation of the offsets in positions, the same as for the released numbers in tests/released_numbers."""
SPEED = {("training", 64): 35, ("training", 640): 15, ("evaluation", 64): 35, ("evaluation", 640): 20}
MEMORY = {64: 1 / 6, 640: 1 / 4}
OVER_FLOOR = {64: 1.8, 640: 2.5}
"""Largest time of a training step's head relative to its matrix products at the machine's rate, by groups."""
TASKS = {"training": "forward+backward", "evaluation": "evaluation"}
TOLERANCE = 1e-4
"""Relative tolerance for float32 losses and scores."""
GRADIENT_TOLERANCE = 10
"""Multiple of the tolerance for gradients, by their norm: their slopes jump where a sample crosses a position."""


def run(report: Report) -> None:
    """The head of a training step and of evaluation: time, memory, floor."""
    settings = report.settings
    episodes = 1 if settings.short else TrainingConfig().episodes_per_step
    rates = state_rates(report)
    ours = dict(zip(("ours", "ours bf16"), precisions(torch.device(settings.device)), strict=False))
    note = f"{episodes} episodes, 1-shot" if episodes > 1 else "1 episode, 1-shot"
    for groups in GROUPS:
        for task, title in TASKS.items():
            name = f"head, {title}, {episodes} x {QUERIES[task]} queries, G={groups}"
            variants = {
                variant: call(variant, task, groups, episodes, settings.device) for variant in ("literal", *ours)
            }
            _check_equal(name, variants["literal"](), variants["ours"]())
            slow = 1 if settings.short else settings.repeats
            repeats = {"literal": slow, **dict.fromkeys(ours, settings.repeats)}
            part = {SAMPLING: deformable(task, groups, episodes, settings.device)}
            # The check has just warmed up the literal version.
            times = alternate(variants | part, repeats | {SAMPLING: 1}, warmup=dict.fromkeys(ours, 1))
            report.times(name, times)
            report.claim(
                f"{name}: times faster than literal",
                ratio(times, "literal", "ours"),
                at_least=SPEED[task, groups],
                unit="x",
                note=note,
                seen=AVX512,
            )
            share = ratio(times, SAMPLING, "literal")
            report.state(f"{name}: share of {SAMPLING} in the literal time", share, "", "timed by itself")
            if "ours bf16" in ours:
                report.state(f"{name}, bf16", median(times["ours bf16"]), "s")
                report.state(f"{name}, bf16: times faster than literal fp32", ratio(times, "literal", "ours bf16"), "x")
            work = flops(task, groups, episodes)
            report.floor(f"{name}: matrix products", work, "FLOP")
            for variant, precision in ours.items():
                report.floor(f"{name}: at the {precision} rate", work / rates[precision], "s")
                share, what = (
                    median(times[variant]) / (work / rates[precision]),
                    f"{name}, {precision}: times its floor",
                )
                if task == "training" and precision == "fp32" and settings.device == "cpu":
                    report.claim(what, share, at_most=OVER_FLOOR[groups], unit="x", seen=f"{AVX512}; {AVX2}")
                else:
                    report.state(what, share, "x")
            del variants, part
            peaks = {
                variant: peak_bytes(
                    call,
                    variant,
                    task,
                    groups,
                    episodes,
                    settings.device,
                    threads=settings.threads,
                    device=settings.device,
                )
                for variant in repeats
            }
            report.table(f"{name}: peak memory", [{"variant": v, "peak MB": peak / 1e6} for v, peak in peaks.items()])
            share = peaks["ours"] / peaks["literal"]
            if task == "training":
                report.claim(f"{name}: peak memory over literal", share, at_most=MEMORY[groups], note=note, seen=AVX512)
            else:
                report.state(f"{name}: peak memory over literal", share)


def call(variant: str, task: str, groups: int, episodes: int, device: str = "cpu") -> Callable[[], dict[str, Tensor]]:
    """A function without arguments that computes losses and gradients, or scores, and returns them by name.

    `variant` is "literal", "ours" or "ours bf16", which uses autocast on maps in bfloat16, as a backbone under autocast
    returns them. The function has already run on small maps, so that libraries are loaded.
    """
    torch.manual_seed(0)
    maps = feature_maps(episodes * (WAY + QUERIES[task])).to(device)
    model = head(groups, maps).to(device).train(task == "training")
    if variant == "literal":
        model = LiteralDMF.like(model)
    else:
        maps = maps.contiguous(memory_format=torch.channels_last)
    precision = "fp32"
    if variant == "ours bf16":
        maps, precision = maps.bfloat16(), "bf16"

    def training(maps: Tensor, episodes: int) -> dict[str, Tensor]:
        maps.grad = None
        model.zero_grad(set_to_none=True)
        with pinned(precision):
            with autocast(maps.device, precision):
                losses = model.losses_of_maps(as_episode(maps, episodes))
            losses.total.backward()
        return {name: loss.detach() for name, loss in losses.parts.items()} | {"gradient": maps.grad}

    def evaluation(maps: Tensor, episodes: int) -> dict[str, Tensor]:
        episode = as_episode(maps, episodes)
        with torch.inference_mode(), autocast(maps.device, precision):
            return {"scores": model.score(episode.support, episode.query)}

    function = {"training": training, "evaluation": evaluation}[task]
    function(maps[: WAY + QUERIES[task], :, :3, :3].clone().requires_grad_(), 1)
    maps.requires_grad_()
    return lambda: function(maps, episodes)


def deformable(task: str, groups: int, episodes: int, device: str = "cpu") -> Callable[[], object]:
    """A function that runs only the literal version's deformable convolution.

    On CPUs, torchvision's is mostly single-threaded and has a slow backward, a large part of the literal time.
    """
    torch.manual_seed(0)
    maps = feature_maps(episodes * (WAY + QUERIES[task])).to(device)
    model = LiteralDMF.like(head(groups, maps).to(device))
    episode = as_episode(maps, episodes)
    classes, queries = (pairs.flatten(0, 2) for pairs in model.pairs(episode.support, episode.query))
    with torch.no_grad():
        offsets = model.meta_filter.offset_conv(torch.cat([queries, classes], dim=1))
    training = task == "training"
    inputs = [x.requires_grad_(training) for x in (classes, offsets, model.meta_filter.filter_conv.weight.detach())]

    def function() -> None:
        out = deform_conv2d(*inputs, padding=(1, 1))
        if training:
            torch.autograd.grad(out.sum(), inputs)

    return function


def feature_maps(count: int) -> Tensor:
    """Random maps [count, C, H, W], as after a leaky ReLU."""
    return F.leaky_relu(torch.randn(count, DMFConfig().channels, SIDE, SIDE), 0.1)


def head(groups: int, maps: Tensor) -> DMF:
    """DMF without its backbone; its offsets on pairs of `maps` have standard deviation OFFSET."""
    model = DMF.build(nn.Identity(), DMFConfig(groups=groups), BASE_CLASSES).to(memory_format=torch.channels_last)
    weight = model.meta_filter.offset_conv.weight
    fan = math.prod(weight.shape[1:])
    nn.init.normal_(weight, std=OFFSET / (math.sqrt(fan) * maps.square().mean().sqrt().item()))
    return model


def as_episode(maps: Tensor, episodes: int) -> Episode:
    """The rows of `maps`, support first, as a batch of 1-shot episodes."""
    support, query = maps.split([episodes * WAY, len(maps) - episodes * WAY])
    query = query.unflatten(0, (episodes, -1))
    targets = torch.arange(query.shape[1], device=maps.device).expand(episodes, -1) % WAY
    return Episode(support.unflatten(0, (episodes, WAY, 1)), query, targets, targets + WAY)


def flops(task: str, groups: int, episodes: int) -> float:
    """FLOPs of the head's matrix products: the two parts of the offset convolution, tap maps, global classifier.

    A training step has two more products of the same size for each one's gradients. Sampling and score, with 72 G + 2 C
    operations per pair and position, are not matrix products and are left out.
    """
    channels, positions = DMFConfig().channels, SIDE * SIDE
    classes, queries = episodes * WAY, episodes * QUERIES[task]
    offsets = (classes + queries) * 25 * 18 * channels
    taps = classes * 9 * groups * channels
    classifier = queries * BASE_CLASSES * channels if task == "training" else 0
    return 2.0 * positions * (offsets + taps + classifier) * (3 if task == "training" else 1)


def _check_equal(name: str, literal: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Raise RuntimeError if results differ by more than rounding, which would make a comparison of times worthless."""
    for field, theirs in literal.items():
        error = ((ours[field].float() - theirs).norm() / theirs.norm()).item()
        tolerance = TOLERANCE * (GRADIENT_TOLERANCE if field == "gradient" else 1)
        if not error <= tolerance:
            raise RuntimeError(f"{name}: {field} differs from the literal version's by {error:.1e} > {tolerance:.1e}")


if __name__ == "__main__":
    sys.exit(main("head", run))
