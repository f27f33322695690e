"""Methods: DMF's score compared with its definition, ProtoNet, raw pixels, and their common interface."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.config import METHODS as CONFIGS
from dmf.config import DataConfig
from dmf.episodes import Episode
from dmf.machine.precision import autocast
from dmf.methods import METHODS, build_method
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.model import DMF
from dmf.methods.dmf.scorers import FilterScorer, OnePassScorer, Scorer
from dmf.methods.proto_net.model import ProtoNet
from dmf.methods.raw_pixels.model import RawPixels

B, N, K, Q, C, H, W = 2, 3, 2, 4, 8, 5, 4
GENERATOR = torch.Generator().manual_seed(1)


def maps(*shape: int) -> Tensor:
    return F.leaky_relu(torch.randn(*shape, generator=GENERATOR, dtype=torch.float64), 0.1)


SUPPORT, QUERY = maps(B, N, K, C, H, W), maps(B, Q, C, H, W)
TARGETS = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
SMALL = {name: {"backbone": "conv64f"} for name in METHODS} | {
    "dmf": {"backbone": "conv64f", "groups": 16},
    "raw_pixels": {},
    "ideme_net": {"backbone": "conv64f", "deform_blocks": 3},
}
"""Settings of each method for a small model."""
OTHER_LOSSES = {
    "dmf": {"global"},
    "can": {"global"},
    "can_transductive": {"global"},
    "feat": {"auxiliary"},
}
"""Names of each method's losses beside the few-shot loss."""
LABELS = torch.tensor([[4, 1, 0, 4], [3, 3, 2, 0]])


def dmf(steps=1, solver="rk4", kernel_size=1, rectified=True, groups=4, **options) -> DMF:
    torch.manual_seed(2)
    alignment = Alignment(steps, solver, kernel_size, rectified)
    return DMF(nn.Identity(), C, base_classes=5, groups=groups, alignment=alignment, **options).double()


def defined_scores(model: DMF, support: Tensor, query: Tensor) -> Tensor:
    """The score map pair by pair, from torchvision's deformable convolution and explicitly aligned maps."""
    from torchvision.ops import deform_conv2d

    scores = torch.empty(B, Q, N, H, W, dtype=torch.float64)
    for b, n, q in itertools.product(range(B), range(N), range(Q)):
        class_map, query_map = support[b, n].mean(0)[None], query[b, q][None]
        aligned = query_map
        if model.meta_filter is not None:
            offsets = torch.zeros(1, 18, H, W, dtype=torch.float64)
            if model.meta_filter.offset_conv is not None:
                offsets = model.meta_filter.offset_conv(torch.cat([query_map, class_map], 1))
            filters = deform_conv2d(class_map, offsets, model.meta_filter.filter_conv.weight, padding=1).sigmoid()
            aligned = model.alignment(query_map, filters)
        normalised = (
            class_map / class_map.norm(dim=1, keepdim=True) if model.class_weight == "normalised" else class_map
        )
        weight = normalised.mean((2, 3))[0]
        scores[b, q, n] = (weight[:, None, None] * aligned[0]).sum(0)
    return scores


@pytest.mark.parametrize("steps", [0, 1, 2, 3, "ode"])
@pytest.mark.parametrize("dynamic_sampling", [True, False])
@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (1, 4), (1, 8), (3, 2)])
def test_score_equals_its_definition(steps, dynamic_sampling: bool, kernel_size: int, groups: int) -> None:
    model = dmf(steps, kernel_size=kernel_size, groups=groups, dynamic_sampling=dynamic_sampling)
    classes = SUPPORT.mean(2)
    ours = model.score_map(classes, QUERY)
    torch.testing.assert_close(ours, defined_scores(model, SUPPORT, QUERY), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "exact"])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("class_weight", ["normalised", "pooled"])
def test_choices_equal_their_definition(solver: str, rectified: bool, class_weight: str) -> None:
    model = dmf("ode", solver, rectified=rectified, class_weight=class_weight)
    classes = SUPPORT.mean(2)
    ours = model.score_map(classes, QUERY)
    tolerance = 1e-4 if solver == "dopri5" else 1e-9  # its steps depend on the batch's largest error
    torch.testing.assert_close(ours, defined_scores(model, SUPPORT, QUERY), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 0}, FilterScorer),
        ({"steps": 1}, OnePassScorer),
        ({"steps": "ode"}, OnePassScorer),
        ({"steps": "ode", "solver": "exact"}, OnePassScorer),
        ({"steps": "ode", "solver": "dopri5"}, FilterScorer),
        ({"steps": 1, "kernel_size": 3, "groups": 2}, FilterScorer),
        ({"steps": "ode", "dynamic_sampling": False}, FilterScorer),
    ],
)
def test_settings_choose_the_scorer(options: dict, expected: type[Scorer]) -> None:
    assert type(dmf(**options).scorer) is expected


def test_scorers_of_a_copy_use_the_weights_of_the_copy() -> None:
    model = dmf("ode")
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.meta_filter.filter_conv.weight)
    assert not any("scorer" in name for name in model.state_dict())
    assert (model.score(SUPPORT, QUERY) - other.score(SUPPORT, QUERY)).abs().max() > 1e-6
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.score(SUPPORT, QUERY), other.score(SUPPORT, QUERY))


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": "ode"}, {"steps": "ode", "dynamic_sampling": False}])
def test_tables_give_the_scores_of_maps(options: dict) -> None:
    model = dmf(**options)
    images = model.image_table(torch.cat([SUPPORT.flatten(0, 2), QUERY.flatten(0, 1)]))
    shots = B * N * K
    classes = model.class_table(images, torch.arange(shots).view(B * N, K))
    class_rows, query_rows = torch.arange(B * N).view(B, N), torch.arange(shots, shots + B * Q).view(B, Q)
    with torch.no_grad():
        ours = model.score_rows(classes, class_rows, images, query_rows)
    torch.testing.assert_close(ours, model.score(SUPPORT, QUERY), rtol=1e-9, atol=1e-12)


def test_every_choice_changes_the_score() -> None:
    """Every setting of the ablations has an effect."""
    variants = {
        "full": dmf("ode"),
        "no alignment": dmf(0),
        "one": dmf(1),
        "two": dmf(2),
        "three": dmf(3),
        "exact": dmf("ode", "exact"),
        "static": dmf("ode", dynamic_sampling=False),
        "groups": dmf("ode", groups=2),
        "k=3": dmf("ode", kernel_size=3),
        "not rectified": dmf("ode", rectified=False),
        "pooled": dmf("ode", class_weight="pooled"),
        "no border": dmf("ode", score_border=0),
    }
    scores = {name: model.score(SUPPORT, QUERY) for name, model in variants.items()}
    for one, other in itertools.combinations(scores, 2):
        assert (scores[one] - scores[other]).abs().max() > 1e-6, f"{one} and {other} are the same"


def test_loss_of_the_bordered_score_map() -> None:
    """The released code's zero border, here by actual padding."""
    model = dmf()
    scores = maps(B, Q, N, H, W)
    bordered = F.pad(scores, [1] * 4).flatten(0, 1)
    expected = F.cross_entropy(bordered, TARGETS.flatten()[:, None, None].expand(-1, H + 2, W + 2))
    torch.testing.assert_close(model.few_shot_loss(scores, TARGETS), expected)
    without = dmf(score_border=0).few_shot_loss(scores, TARGETS)
    torch.testing.assert_close(
        without, F.cross_entropy(scores.flatten(0, 1), TARGETS.flatten()[:, None, None].expand(-1, H, W))
    )
    assert dmf().few_shot_loss(torch.zeros_like(scores), TARGETS).item() == pytest.approx(math.log(N))


def test_global_classifier_sees_the_query_or_its_own_alignment() -> None:
    episode = Episode(SUPPORT, QUERY, TARGETS, LABELS)
    plain, aligned = dmf(1, global_input="query"), dmf(1, global_input="aligned")
    logits = plain.global_classifier(QUERY.flatten(0, 1))
    expected = F.cross_entropy(logits, LABELS.flatten()[:, None, None].expand(-1, H, W))
    torch.testing.assert_close(plain.losses(episode).parts["global"], expected)

    filters = aligned.meta_filter(SUPPORT.mean(2), QUERY)
    own = torch.stack(
        [
            aligned.alignment(QUERY[b, q][None], filters[b, TARGETS[b, q], q][None])[0]
            for b in range(B)
            for q in range(Q)
        ]
    )
    expected = F.cross_entropy(aligned.global_classifier(own), LABELS.flatten()[:, None, None].expand(-1, H, W))
    torch.testing.assert_close(aligned.losses(episode).parts["global"], expected)
    few_shot = [model.losses(episode).parts["few_shot"] for model in (plain, aligned)]
    torch.testing.assert_close(*few_shot, msg="the filters that both parts share give the same score")
    assert not torch.allclose(aligned.losses(episode).parts["global"], plain.losses(episode).parts["global"])


def test_gradients_reach_every_weight_of_dmf() -> None:
    for options in ({}, {"kernel_size": 3, "groups": 2}, {"solver": "dopri5", "steps": "ode"}):
        model = dmf(**({"steps": "ode"} | options))
        losses = model.losses(Episode(SUPPORT, QUERY, TARGETS, LABELS)).parts
        (losses["few_shot"] + losses["global"]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_proto_net_scores_by_distances() -> None:
    prototypes = SUPPORT.mean(2)
    expected = torch.empty(B, Q, N, dtype=torch.float64)
    for b, q, n in itertools.product(range(B), range(Q), range(N)):
        expected[b, q, n] = -(QUERY[b, q] - prototypes[b, n]).square().sum()
    torch.testing.assert_close(ProtoNet(nn.Identity(), "sum").double().score(SUPPORT, QUERY), expected)
    of_mean = ProtoNet(nn.Identity(), initial_scale=3.0).double().score(SUPPORT, QUERY)
    torch.testing.assert_close(of_mean, 3 * expected / QUERY[0, 0].numel(), rtol=1e-6, atol=1e-6)


def test_proto_net_ranks_features_that_are_far_from_zero() -> None:
    """In float32, |q|^2 - 2 qp + |p|^2 of features around 10 has nothing left of distances around 0.01."""
    draws = torch.Generator().manual_seed(0)
    maps = [10 + 0.01 * torch.randn(*shape, 640, 6, 6, generator=draws) for shape in ((1, 5, 1), (1, 75))]
    model = ProtoNet(nn.Identity(), "sum")
    exact = model.score(*(each.double() for each in maps))
    torch.testing.assert_close(model.score(*maps).double(), exact, rtol=1e-3, atol=0)


def test_raw_pixels_is_a_cosine() -> None:
    prototypes = SUPPORT.mean(2)
    expected = F.cosine_similarity(QUERY.flatten(2)[:, :, None], prototypes.flatten(2)[:, None], dim=-1)
    torch.testing.assert_close(RawPixels(nn.Identity()).score(SUPPORT, QUERY), expected)


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        (ProtoNet(nn.Identity()), 1e-6),
        (RawPixels(nn.Identity()), 1e-6),
        (dmf(0).float(), 1e-6),
        # With alignment, filters are products of numbers of eight bits.
        (dmf("ode").float(), 0.02),
        (dmf("ode", "dopri5").float(), 0.02),
        (dmf("ode", dynamic_sampling=False).float(), 0.02),
        (dmf("ode", kernel_size=3, groups=2).float(), 0.02),
    ],
)
def test_bfloat16_maps_are_scored_in_float32(model, tolerance: float) -> None:
    support, query = SUPPORT.bfloat16(), QUERY.bfloat16()
    expected = model.score(support.float(), query.float())
    with autocast(torch.device("cpu"), "bf16"):
        ours = model.score(support, query)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_methods_share_their_interface(method: str) -> None:
    torch.manual_seed(0)
    data = DataConfig(image_size=20, channels=1)
    config = CONFIGS[method]().with_paths(SMALL[method])
    model = build_method(config, data, base_classes=9)
    episode = Episode(
        torch.rand(2, 5, 1, 1, 20, 20),
        torch.rand(2, 10, 1, 20, 20),
        torch.zeros(2, 10).long(),
        torch.ones(2, 10).long(),
    )
    if model.reads_base:
        with pytest.raises(NotImplementedError, match="needs base images; call adapt_each"):
            model(episode)
    else:
        assert model(episode).shape == (2, 10, 5)
    if not config.learns:
        with pytest.raises(NotImplementedError, match="learns nothing from episodes"):
            model.losses(episode)
        return
    losses = model.losses(episode)
    assert set(losses.parts) == {"few_shot"} | OTHER_LOSSES.get(method, set())
    assert all(loss.isfinite() and loss.dim() == 0 for loss in (losses.total, *losses.parts.values()))
    if "global" in losses.parts:
        torch.testing.assert_close(losses.total, losses.parts["global"] + 0.5 * losses.parts["few_shot"])


def test_every_method_has_a_configuration_and_a_class() -> None:
    assert CONFIGS.keys() == METHODS.keys()
