"""2,000 test episodes over 12,000 images of 84 x 84: forwarding every image once, compared with every episode.

Costs are linear in images and episodes, so all sides are measured on a sample and scaled: ours on a bank of episodes
over a split with the same 6 images per episode; the literal path, and per-episode forwarding with our own head, on
single episodes of it. The model is the released ResNet-12 (G = 64 for 1-shot, 160 for 5-shot), untrained.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import AVX512, Report, alternate, main, median, precisions, state_rates
from benchmarks.images import NAME, SIDE, opened, write_images
from benchmarks.literal import LiteralDMF, episode_logits
from benchmarks.steps import backbone_flops, fresh_method
from dmf.config import AugmentationConfig, DataConfig, EvaluationConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import ImageSplit
from dmf.episodes import Episode, EpisodeIndices
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.machine.device import set_up
from dmf.machine.precision import autocast
from dmf.methods.base import FewShotMethod

EPISODES, IMAGES = 2000, 12_000
AT_LEAST = {1: 20.0, 5: 22.0}
"""Least speed-up over the literal path, by shots."""
GROUPS = {1: 64, 5: 160}
TIED = 1e-5
"""Predictions can differ where the two best scores are this close."""


def run(report: Report) -> None:
    """Time 1-shot and 5-shot evaluations, and compare their predictions."""
    settings = report.settings
    device = torch.device(settings.device)
    set_up(settings.threads)
    rates = state_rates(report)
    sampled, classes = (40, 10) if settings.short else (100, 20)
    per_class = sampled * (IMAGES // EPISODES) // classes  # at least the 15 queries and 5 shots of an episode
    scale = EPISODES / sampled
    measured = precisions(device)
    with tempfile.TemporaryDirectory() as room:
        counts = {"train": (5, 20), "val": (5, 20), "test": (classes, per_class)}
        write_images(Path(room) / "images", counts)
        split = opened(Path(room) / "images", Path(room) / "cache").test
        augment = Augmentation(AugmentationConfig(), DataConfig(name=NAME, image_size=SIDE), device)
        for shot, at_least in AT_LEAST.items():
            method = fresh_method(device, groups=GROUPS[shot]).eval()
            literal = LiteralDMF.like(method).eval()
            bank = episode_bank(split, EvaluationConfig(episodes=sampled, shot=shot))
            one = bank[:1]
            _check_alike(method, literal, split, one, augment, device)
            variants: dict[str, Callable[[], object]] = {
                f"ours {precision}": lambda precision=precision, method=method, bank=bank: episode_accuracies(
                    method, split, bank, augment, precision
                )
                for precision in measured
            }
            variants["an episode, forwarded, our head"] = lambda method=method, one=one: forwarded(
                method, split, one, augment, device
            )
            variants["an episode, literal"] = lambda literal=literal, one=one: episode_logits(
                literal, split, one, augment, device
            )
            warmup = {name: 1 for name in variants if "literal" not in name and not settings.short}
            repeats = {name: 1 if settings.short and "literal" in name else settings.repeats for name in variants}
            times = alternate(variants, repeats, warmup)
            report.times(f"{shot}-shot: {sampled} episodes over {len(split)} images, or one", times)
            images = len(torch.unique(torch.cat([bank.support.flatten(), bank.query.flatten()])))
            for precision in measured:
                report.state(
                    f"{shot}-shot, {EPISODES} episodes over {IMAGES} images, {precision}",
                    scale * median(times[f"ours {precision}"]),
                    "s",
                    "scaled",
                )
                floor = backbone_flops(method) * images / rates[precision]
                report.floor(f"{shot}-shot: the backbone's products for {images} images, {precision}", floor, "s")
                report.state(
                    f"{shot}-shot, ours {precision}: times that floor", median(times[f"ours {precision}"]) / floor, "x"
                )
            per_episode = {name: [sampled * value for value in times[name]] for name in times if "episode" in name}
            report.state(
                f"{shot}-shot, per-episode forwarding with our own head over ours",
                median(per_episode["an episode, forwarded, our head"]) / median(times["ours fp32"]),
                "x",
                "fp32",
            )
            report.claim(
                f"{EPISODES} test episodes over {IMAGES} images, literal per-episode path over ours, {shot}-shot, fp32",
                median(per_episode["an episode, literal"]) / median(times["ours fp32"]),
                at_least=at_least,
                unit="x",
                seen=AVX512,
            )


def forwarded(
    method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation, device: torch.device
) -> Tensor:
    """Logits [B, Q, N] of episodes whose images are all forwarded."""
    support, query = (
        augment.evaluate(split.pixels(rows.flatten())).unflatten(0, rows.shape) for rows in (bank.support, bank.query)
    )
    with torch.inference_mode(), autocast(device, "fp32"):
        return method(Episode(support, query, bank.targets, bank.targets))


def _check_alike(
    method: FewShotMethod,
    literal: LiteralDMF,
    split: ImageSplit,
    bank: EpisodeIndices,
    augment: Augmentation,
    device: torch.device,
) -> None:
    """Raise RuntimeError if ours, the literal path and per-episode forwarding predict differently."""
    ours = forwarded(method, split, bank, augment, device).cpu()
    best = ours.topk(2, dim=-1).values
    clear = best[..., 0] - best[..., 1] > TIED
    theirs = episode_logits(literal, split, bank, augment, device).cpu()
    if not torch.equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear]):
        raise RuntimeError("the literal path and per-episode forwarding predict differently")
    right = (ours.argmax(-1) == bank.targets).double().mean().item()
    unclear = (~clear).double().mean().item()
    if abs(episode_accuracies(method, split, bank, augment)[0].item() - right) > unclear:
        raise RuntimeError("the evaluation and per-episode forwarding predict differently")


if __name__ == "__main__":
    sys.exit(main("evaluation", run))
