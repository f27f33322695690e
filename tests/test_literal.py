"""The literal version, the benchmarks' reference, compared with the released code's numbers and with our model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.literal import Erasing, LiteralDMF, episode_logits, training_loader, training_transform
from dmf.config import AugmentationConfig, DataConfig, DMFConfig, EvaluationConfig
from dmf.data.augment import ERASED_FILL, Augmentation
from dmf.data.sets import ImageSplit
from dmf.data.store import Squares
from dmf.episodes import Episode, EpisodeSampler
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.methods import build_method
from dmf.methods.dmf.model import DMF
from tests.released_numbers import inputs
from tests.test_released import SMALL, close, copied, gradient_equals, released_loss


@pytest.mark.parametrize("name", SMALL)  # at full size, 26 s: `python -m benchmarks.head` holds both to each other
def test_head_equals_released(name: str) -> None:
    numbers = copied(name)
    seed, way, shots, groups = numbers["seed"], numbers["way"], numbers["shots"], numbers["groups"]
    episodes, queries, channels, side = 2, 6, 32, 5
    maps = inputs.feature_maps(seed, episodes, way, queries, channels, side, shots)
    model = LiteralDMF(nn.Identity(), channels, base_classes=2, groups=groups).double()
    offset, kernel = inputs.head_weights(seed, channels, groups)
    with torch.no_grad():
        # Like theirs, this is a convolution over concat(query, support).
        model.meta_filter.offset_conv.weight.copy_(offset)
        model.meta_filter.filter_conv.weight.copy_(kernel)
    support, query = (x.double().requires_grad_() for x in maps)
    grouped = support.unflatten(1, (way, shots))

    scores = model.score_map(*model.pairs(grouped, query)).flatten(0, 1)
    close(scores, numbers["scores"])
    close(model.score(grouped, query).flatten(0, 1), numbers["test_scores"])
    targets = (torch.arange(queries) % way).expand(episodes, -1)
    few_shot = model.losses(Episode(grouped, query, targets, torch.zeros_like(targets))).parts["few_shot"]
    close(few_shot, numbers["ce_few_shot"], 1e-7)  # stored as float32

    loss = released_loss(scores, seed)
    close(loss, numbers["loss"])
    loss.backward()
    gradient_equals(model.meta_filter.offset_conv.weight.grad, numbers, "off_conv", 1e-9)
    gradient_equals(model.meta_filter.filter_conv.weight.grad, numbers, "kernel_conv", 1e-9)
    gradient_equals(support.grad, numbers, "support", 1e-9)
    gradient_equals(query.grad, numbers, "query", 1e-9)


@pytest.mark.parametrize(("groups", "shots"), [(64, 1), (8, 3)])
def test_literal_equals_ours(groups: int, shots: int) -> None:
    torch.manual_seed(0)
    ours = DMF(nn.Identity(), 64, base_classes=7, groups=groups).double()
    literal = LiteralDMF.like(ours)
    targets = torch.tensor([[0, 1, 2, 2], [1, 1, 0, 2]])
    support, query = torch.randn(2, 3, shots, 64, 5, 4).double(), torch.randn(2, 4, 64, 5, 4).double()
    results = []
    for model in (literal, ours):
        leaves = [x.clone().requires_grad_() for x in (support, query)]
        losses = model.losses(Episode(*leaves, targets, targets + 3)).parts
        (losses["global"] + 0.5 * losses["few_shot"]).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((losses, gradients, [leaf.grad for leaf in leaves], model.score(support, query).detach()))
    (losses, gradients, leaf_gradients, scores), ours_of = results
    close(scores, ours_of[3])
    for name, loss in losses.items():
        close(loss.detach(), ours_of[0][name].detach())
    assert set(gradients) == set(ours_of[1])
    for name, gradient in gradients.items():
        close(gradient, ours_of[1][name])
    for gradient, other in zip(leaf_gradients, ours_of[2], strict=True):
        close(gradient, other)


def test_like_copies_the_whole_model() -> None:
    model = build_method(DMFConfig(backbone="conv64f", groups=16), DataConfig(image_size=28), base_classes=3).eval()
    literal = LiteralDMF.like(model)
    assert not literal.training
    assert all(p.is_contiguous() for p in literal.parameters())
    mine, theirs = literal.state_dict(), model.state_dict()
    assert set(mine) == set(theirs)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]) and value.data_ptr() != theirs[name].data_ptr(), name
    images = torch.rand(2, 3, 28, 28)
    torch.testing.assert_close(literal.maps(images), model.maps(images))


def test_like_refuses_what_the_released_code_is_not() -> None:
    model = build_method(DMFConfig(backbone="conv64f", groups=16, score_border=0), DataConfig(), base_classes=3)
    with pytest.raises(ValueError, match="only the released code's settings"):
        LiteralDMF.like(model)


def split_of(pixels: np.ndarray, per_class: int) -> ImageSplit:
    labels = np.arange(len(pixels)) // per_class
    return ImageSplit("test", labels, tuple(f"c{i}" for i in range(labels[-1] + 1)), "", Squares(pixels))


def test_per_episode_evaluation_equals_ours() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(24, 28, 28, 3), dtype=np.uint8)
    split, data = split_of(pixels, per_class=6), DataConfig(name="mine", image_size=28)
    model = build_method(DMFConfig(backbone="conv64f", groups=16), data, base_classes=3).eval()
    bank = episode_bank(split, EvaluationConfig(episodes=5, way=3, shot=2, queries=3))
    augment = Augmentation(AugmentationConfig(), data)
    logits = episode_logits(LiteralDMF.like(model), split, bank, augment)
    assert logits.shape == (5, 9, 3)
    accuracies = (logits.argmax(-1) == bank.targets).double().mean(-1)
    assert torch.equal(accuracies, episode_accuracies(model, split, bank, augment))


def test_erasing_fills_a_rectangle_of_the_stated_area() -> None:
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        image = Erasing(1.0)(torch.zeros(3, 40, 40))
        erased = image[0] != 0
        rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
        box = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box, torch.tensor(ERASED_FILL)[:, None, None].expand_as(box))
        shares.append(erased.float().mean().item())
    assert 0.01 < min(shares) < 0.05 and 0.35 < max(shares) < 0.42
    assert torch.equal(Erasing(0.0)(torch.zeros(3, 9, 9)), torch.zeros(3, 9, 9))


def test_loader_reads_the_episodes_of_the_sampler(tmp_path) -> None:
    """Images of one colour each, whose order of brightness survives any augmentation."""
    files = []
    for row in range(12):
        files.append(tmp_path / f"{row}.png")
        Image.new("RGB", (84, 84), (row * 20, 0, 0)).save(files[-1])
    sampler = EpisodeSampler(np.arange(12) // 4, way=2, shot=1, queries=2, seed=0)
    episodes = sampler(range(4))
    batches = list(training_loader(files, episodes, episodes_per_step=2, workers=0))
    assert [x.shape for x in batches[0]] == [(2, 2, 3, 84, 84), (2, 4, 3, 84, 84), (2, 4)]
    assert len(batches) == 2 and torch.equal(batches[1][2], episodes.targets[2:])
    plain = training_loader(files, episodes, episodes_per_step=4, workers=0)
    plain.dataset.transform = training_transform().transforms[3]  # only to a tensor
    support, query, _ = next(iter(plain))
    assert torch.equal((support[:, :, 0, 0, 0] * 255).round().long(), episodes.support.flatten(1) * 20)
    assert torch.equal((query[:, :, 0, 0, 0] * 255).round().long(), episodes.query * 20)
