"""What methods solve or adapt in every episode: optimality, gradients, other sizes, batches, and orders of classes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones.conv64f import Conv64F
from dmf.backbones.drop_block import DropBlock
from dmf.config import DataConfig
from dmf.episodes import Episode
from dmf.methods import build_method
from dmf.methods.anil.model import ANIL
from dmf.methods.base import FewShotMethod
from dmf.methods.baseline.model import Baseline
from dmf.methods.baseline_pp.model import BaselinePP
from dmf.methods.dual import ridge_duals
from dmf.methods.fitted_head import Fit, FittedHead
from dmf.methods.inner_loop import InnerLoopMethod
from dmf.methods.maml.config import MAMLConfig
from dmf.methods.maml.model import MAML
from dmf.methods.metaoptnet_svm.crammer_singer import crammer_singer
from dmf.methods.metaoptnet_svm.model import MetaOptNetSVM
from dmf.methods.negative_margin.model import NegativeMargin
from dmf.methods.r2d2.model import R2D2
from dmf.methods.rfs.model import RFS, logistic_regression

Sizes = tuple[int, int, int]
"""Ways, shots and features."""
SIZES = [(2, 1, 3), (5, 1, 40), (3, 4, 5), (5, 5, 200), (20, 1, 64), (5, 15, 30)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def support_of(sizes: Sizes, scale: float = 1.0, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Rows [B, n, D] around a prototype of each class, and one-hot labels [n, N]."""
    ways, shots, features = sizes
    rows = scale * (drawn(batch, ways, 1, features) + drawn(batch, ways, shots, features, seed=1)).flatten(1, 2)
    return rows, torch.eye(ways, dtype=torch.float64).repeat_interleave(shots, 0)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("slack_weight", [0.1, 10.0])
def test_the_svm_is_optimal(sizes: Sizes, scale: float, slack_weight: float) -> None:
    """The problem is convex, so its conditions of optimality are all there is to check."""
    rows, targets = support_of(sizes, scale)
    kernel = rows @ rows.mT
    duals = crammer_singer(kernel, targets, slack_weight, ridge=1.0)
    bounds = slack_weight * targets
    assert (duals <= bounds + 1e-9 * slack_weight).all() and duals.sum(-1).abs().max() < 1e-9 * slack_weight
    slope = kernel @ duals + duals - targets  # equals -l_i - z_ic, with z 0 where the bound is not met
    size = 1 + slope.abs().max()
    free = bounds - duals > 1e-7 * duals.abs().max()
    level = torch.where(free, slope, -torch.inf).amax(-1, keepdim=True)
    assert free.any(-1).all()
    assert ((slope - level).abs() <= 1e-7 * size)[free].all(), "images' free duals share a multiplier"
    assert (slope - level <= 1e-7 * size)[~free].all(), "no multiplier of a bound is negative"


@pytest.mark.parametrize("sizes", [(2, 1, 3), (5, 1, 12), (3, 4, 5)])
def test_gradients_pass_through_the_svm(sizes: Sizes) -> None:
    rows, targets = support_of(sizes, batch=2)

    def duals(rows: Tensor) -> Tensor:
        return crammer_singer(rows @ rows.mT, targets, 0.1, 1.0)

    assert torch.autograd.gradcheck(duals, rows.requires_grad_(), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
def test_ridge_duals_are_ridge_regression(sizes: Sizes) -> None:
    """With weights of the features' size instead of duals: (Z^T Z + ridge I)^-1 Z^T Y."""
    rows, targets = support_of(sizes)
    plain = torch.linalg.solve(rows.mT @ rows + 7.0 * torch.eye(rows.shape[-1]), rows.mT @ targets)
    torch.testing.assert_close(rows.mT @ ridge_duals(rows @ rows.mT, targets, 7.0), plain)


@pytest.mark.parametrize("sizes", [*SIZES, (2, 30, 2)])
@pytest.mark.parametrize(("scale", "loss_weight"), [(0.1, 1.0), (1.0, 0.01), (10.0, 100.0)])
def test_logistic_regression_is_at_the_minimum(sizes: Sizes, scale: float, loss_weight: float) -> None:
    rows, targets = support_of(sizes, scale)
    duals, biases = logistic_regression(rows @ rows.mT, targets, loss_weight)
    weights = rows.mT @ duals
    errors = (rows @ weights + biases[:, None]).softmax(-1) - targets
    gradient = weights + loss_weight * rows.mT @ errors
    assert gradient.abs().max() < 1e-9 * (1 + loss_weight * rows.abs().sum(1).max())
    assert errors.sum(1).abs().max() < 1e-9 and biases.mean(-1).abs().max() < 1e-9


def test_logistic_regression_is_that_of_a_general_optimiser() -> None:
    rows, targets = support_of((3, 4, 5), batch=1)
    x, y = rows[0].numpy(), targets.numpy()

    def loss(flat: np.ndarray) -> float:
        weights, biases = flat[:15].reshape(5, 3), flat[15:]
        logits = x @ weights + biases
        largest = logits.max(1, keepdims=True)
        normaliser = np.log(np.exp(logits - largest).sum(1)) + largest[:, 0]
        return 0.5 * (weights**2).sum() + (normaliser - (logits * y).sum(1)).sum()

    found = scipy.optimize.minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-7}).x
    duals, biases = logistic_regression(rows @ rows.mT, targets, 1.0)
    np.testing.assert_allclose((rows.mT @ duals)[0].numpy().ravel(), found[:15], atol=1e-5)
    np.testing.assert_allclose(biases[0].numpy(), found[15:] - found[15:].mean(), atol=1e-5)


class WeightNormed(nn.Module):
    """Baseline++'s head by PyTorch's own weight normalisation."""

    def __init__(self, start: Tensor, scale: float) -> None:
        super().__init__()
        linear = nn.Linear(len(start) - 1, start.shape[1], bias=False).double()
        self.linear = nn.utils.parametrizations.weight_norm(linear)
        self.linear.parametrizations.weight.original1.data.copy_(start[:-1].T)
        self.linear.parametrizations.weight.original0.data.copy_(start[-1:].T)
        self.scale = scale

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * self.linear(rows / (rows.norm(dim=-1, keepdim=True) + 1e-5))


class Cosine(nn.Module):
    def __init__(self, start: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.T.clone())
        self.scale = scale

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * F.cosine_similarity(rows[:, None], self.weight, dim=-1)


def linear_of(start: Tensor, scale: float) -> nn.Module:
    head = nn.Linear(len(start) - 1, start.shape[1]).double()
    head.load_state_dict({"weight": start[:-1].T, "bias": start[-1]})
    return head


SGD = Fit(passes=7, batch=4)


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (Baseline(nn.Identity(), SGD), linear_of),
        (BaselinePP(nn.Identity(), SGD, scale=2.0), WeightNormed),
        (NegativeMargin(nn.Identity(), SGD, scale=5.0), Cosine),
    ],
)
def test_heads_are_fitted_as_sgd_of_pytorch_fits_them(
    model: FittedHead, head: Callable[[Tensor, float], nn.Module]
) -> None:
    """One episode at a time with `torch.optim.SGD`."""
    support, query = drawn(3, 5, 2, 6), drawn(3, 8, 6, seed=1)
    seeds = (3, 14, 15)
    logits = model.fit_and_score(support, query, seeds)
    for number, seed in enumerate(seeds):
        start, orders = model.drawn(seed, 5, 2, 6)
        fitted = head(start, getattr(model, "scale", 1.0)).double()
        optimizer = torch.optim.SGD(fitted.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3)
        images, targets = support[number].flatten(0, 1), torch.arange(5).repeat_interleave(2)
        for order in orders:
            for rows in order.split(4):
                optimizer.zero_grad()
                F.cross_entropy(fitted(images[rows]), targets[rows]).backward()
                optimizer.step()
        torch.testing.assert_close(logits[number], fitted(query[number]), rtol=0, atol=1e-9)
    one_by_one = [model.fit_and_score(support[i : i + 1], query[i : i + 1], seeds[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(one_by_one), logits, rtol=0, atol=1e-12)
    assert not torch.equal(model.fit_and_score(support, query, (1, 1, 1)), logits)


def test_a_fitted_norm_starts_as_the_norm_of_its_direction() -> None:
    start, _ = BaselinePP(nn.Identity(), SGD).drawn(0, 5, 2, 6)
    torch.testing.assert_close(start[-1], start[:-1].norm(dim=0))


def small_maml(**settings: object) -> MAML:
    torch.manual_seed(0)
    return MAML(Conv64F(1, last_pooling=True), 64, steps=3, steps_in_tests=3, learning_rate=0.1, **settings).double()


def images(ways: int = 4, shots: int = 2, batch: int = 2) -> Episode:
    targets = torch.arange(ways).repeat_interleave(3).expand(batch, -1)
    return Episode(drawn(batch, ways, shots, 1, 16, 16), drawn(batch, ways * 3, 1, 16, 16, seed=1), targets, targets)


def by_autograd(model: MAML, episode: Episode) -> Tensor:
    """MAML's loss without torch.func."""
    losses = []
    for support, query, targets in zip(episode.support, episode.query, episode.targets, strict=True):
        weights = dict(model.backbone.named_parameters()) | {"classifier": model.initial_classifier(len(support))}
        labels = torch.arange(len(support)).repeat_interleave(support.shape[1])
        for _ in range(model.steps):
            loss = F.cross_entropy(model._logits(weights, support.flatten(0, 1)), labels)
            gradients = torch.autograd.grad(loss, tuple(weights.values()), create_graph=model.second_order)
            weights = {
                name: value - model.learning_rate * gradient
                for (name, value), gradient in zip(weights.items(), gradients, strict=True)
            }
        losses.append(F.cross_entropy(model._logits(weights, query), targets))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("way", [None, 4])
def test_maml_is_gradient_descent_of_each_episode(second_order: bool, way: int | None) -> None:
    model, episode = small_maml(second_order=second_order, way=way), images()
    plain = copy.deepcopy(model)
    losses = [model.losses(episode).total, by_autograd(plain, episode)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert theirs.grad.abs().max() > 0 or (name == "classifier.bias" and way is None), f"{name} has no effect"
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10, msg=name)


def test_mamls_order_matters() -> None:
    gradients = []
    for second_order in (True, False):
        model = small_maml(second_order=second_order)
        model.losses(images()).total.backward()
        gradients.append(model.classifier.weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3 * gradients[0].abs().max()


def test_maml_does_not_use_or_change_running_statistics() -> None:
    model, episode = small_maml(), images()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert len(before) == 12, "they are kept, so that the weights of a pre-training can be loaded"
    model.losses(episode)
    model.eval()
    with torch.no_grad():
        tested = model(episode)
        for name, value in model.named_buffers():
            assert torch.equal(before[name], value)
            value.fill_(7)
        assert torch.equal(model(episode), tested)


def test_more_steps_are_taken_in_tests() -> None:
    for model in (ANIL(nn.Identity(), 6, steps=1, steps_in_tests=2), MAML(nn.Identity(), 6, steps=1, steps_in_tests=2)):
        support, query = drawn(1, 3, 2, 6, 1, 1).float(), drawn(1, 4, 6, 1, 1).float()
        assert model.steps == 1 and model.eval().steps == 2
        twice = model(Episode(support, query, query, query))
        assert not torch.equal(model.train()(Episode(support, query, query, query)), twice)


def test_anil_is_maml_without_a_backbone() -> None:
    """Where there is nothing but a classifier, the two adapt alike."""
    support, query = drawn(2, 3, 2, 6, 1, 1), drawn(2, 4, 6, 1, 1, seed=1)
    models: list[InnerLoopMethod] = []
    for kind in (ANIL, MAML):
        torch.manual_seed(0)
        models.append(kind(nn.Identity(), 6, steps=4, learning_rate=0.5).double())
    scores = [model.score(support, query) for model in models]
    torch.testing.assert_close(*scores)
    for score in scores:
        score.square().sum().backward()
    torch.testing.assert_close(*(model.classifier.weight.grad for model in models))


@pytest.mark.parametrize("kind", [ANIL, MAML])
def test_initial_weights_of_each_class_fit_that_many_classes(kind: type[InnerLoopMethod]) -> None:
    model = kind(nn.Identity(), 6, way=5)
    with pytest.raises(ValueError, match=r"has initial weights for 5 classes, but an episode has 3; .*=null"):
        model.score(torch.zeros(1, 3, 1, 6, 1, 1), torch.zeros(1, 2, 6, 1, 1))


SOLVERS = [
    MetaOptNetSVM(nn.Identity()),
    R2D2(nn.Identity()),
    RFS(nn.Identity()),
    ANIL(nn.Identity(), 24),
    MAML(nn.Identity(), 24),
]


@pytest.mark.parametrize("model", SOLVERS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (5, 1), (3, 4)])
def test_any_way_in_any_order(model: FewShotMethod, ways: int, shots: int) -> None:
    model = model.double()
    support, query = drawn(2, ways, shots, 6, 2, 2), drawn(2, 7, 6, 2, 2, seed=1)
    scores = model.score(support, query)
    assert scores.shape == (2, 7, ways)
    order = torch.randperm(ways, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model.score(support[:, order], query), scores[..., order])
    torch.testing.assert_close(model.score(support.flip(2), query), scores)
    torch.testing.assert_close(model.score(support[1:], query[1:]), scores[1:])


def test_solvers_do_not_depend_on_the_precision_of_a_product() -> None:
    """Scores of bfloat16 maps, under autocast, are those of the same numbers in float32."""
    for model in SOLVERS[:4]:
        support, query = drawn(2, 3, 4, 6, 2, 2).bfloat16(), drawn(2, 7, 6, 2, 2).bfloat16()
        expected = model.float().score(support.float(), query.float())
        with torch.autocast("cpu", torch.bfloat16):
            ours = model.score(support, query)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected)


def test_maml_counts_the_forward_passes_of_drop_block() -> None:
    model = build_method(MAMLConfig(inner_steps=2, drop_block_ramp=9), DataConfig(image_size=16, channels=1), 3)
    drops = [module for module in model.modules() if isinstance(module, DropBlock)]
    episode = images(ways=2, batch=1)
    episode = Episode(episode.support.float(), episode.query.float(), episode.targets, episode.labels)
    for done in (3, 6):
        model.losses(episode)
        assert [int(drop.forwards) for drop in drops] == [done, done], "two steps, and the queries"
    model.eval()(episode)
    assert [int(drop.forwards) for drop in drops] == [6, 6]


def test_maml_in_bfloat16_is_near_float32() -> None:
    model, episode = small_maml().float().eval(), images()
    model.learning_rate = 0.01
    episode = Episode(episode.support.float(), episode.query.float(), episode.targets, episode.labels)
    expected = model(episode)
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(episode)
    assert ours.dtype == torch.float32
    assert (ours - expected).abs().max() < 0.1 * expected.abs().max()
