"""Associative Alignment held to the numbers of its released code, and to what must be true of it.

Tolerances are relative to a tensor's largest value, in float64: 1e-9, and 1e-7 for what Adam has touched.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones.conv4_relu import Conv4ReLU
from dmf.config import ClassifierConfig, DataConfig
from dmf.methods.adversarial_alignment.model import AdversarialAlignment, Critic, critic_loss
from dmf.methods.associative import AlignmentSettings, EpisodeCopy
from dmf.methods.centroid_alignment.model import CentroidAlignment, centroid_loss
from dmf.methods.novel_head import Kind, NovelHead, adam, fitted
from dmf.methods.related import BaseImages, related
from dmf.training.classifier import BaseClassifier, BaseHead
from tests.released_numbers import inputs

COPY = Path(inputs.__file__).parent / "methods/associative_alignment.safetensors"
BY_ADAM = 1e-7
KINDS: dict[str, Kind] = {"softmax": "linear", "cosmax": "cosine", "arcmax": "arc"}
"""Their names of heads -> ours."""
every_head = pytest.mark.parametrize("name", KINDS)


class Numbers:
    """The released code's numbers; inputs in float64."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self.facts = json.loads(file.metadata()["json"])

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def close(self, ours: Tensor, name: str, tolerance: float = 1e-9) -> None:
        theirs = self[name]
        ours = ours.detach().view(theirs.shape)
        difference = (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-300)
        assert difference <= tolerance, f"{name}: {difference:.1e}"

    def images(self, name: str) -> Tensor:
        return self.tensors[name].double() / 32

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Their Conv4's parameters and buffers under our names, the convolutions' biases within the running means."""
        found = {}
        for block in range(4):
            theirs = f"{prefix}nConvBlock.{block}.convBlock"
            conv, norm = f"layers.{4 * block}", f"layers.{4 * block + 1}"
            found[f"{conv}.weight"] = self[f"{theirs}.0.weight"]
            for part in ("weight", "bias", "running_var"):
                found[f"{norm}.{part}"] = self[f"{theirs}.1.{part}"]
            found[f"{norm}.running_mean"] = self[f"{theirs}.1.running_mean"] - self[f"{theirs}.0.bias"]
            if f"{theirs}.1.num_batches_tracked" in self.tensors:
                found[f"{norm}.num_batches_tracked"] = self[f"{theirs}.1.num_batches_tracked"][0]
        return found

    def holds(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.tensors)

    def states_close(self, network: nn.Module, prefix: str) -> None:
        for name, theirs in self.state(prefix).items():
            ours = network.state_dict()[name]
            if not theirs.is_floating_point():
                assert ours == theirs, name
                continue
            difference = (ours - theirs).abs().max() / theirs.abs().max()
            assert difference <= BY_ADAM, f"{prefix}{name}: {difference:.1e}"


@pytest.fixture(params=["copied", "whole"], scope="module")
def numbers(request: pytest.FixtureRequest) -> Numbers:
    if request.param == "copied":
        return Numbers(COPY)
    return Numbers(request.getfixturevalue("shared") / "fixtures/methods/associative_alignment.safetensors")


class Narrow(Conv4ReLU):
    width: ClassVar[int] = 8


def network(numbers: Numbers) -> nn.Module:
    backbone = Narrow(last_pooling=True).double()
    backbone.load_state_dict(numbers.state("net."), strict=False)
    return backbone


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("softmax", BaseHead(9, 6, "linear")),
        ("cosmax_s20", BaseHead(9, 6, "cosine", 20)),
        ("arcmax_s20_m0.01", BaseHead(9, 6, "arc", 20, 0.01)),
        ("arcmax_s15_m0.001", BaseHead(9, 6, "arc", 15, 0.001)),
        ("arcmax_s5_m0.4", BaseHead(9, 6, "arc", 5, 0.4)),
    ],
)
def test_heads_of_pre_training(name: str, head: BaseHead, numbers: Numbers) -> None:
    head, features, labels = copy.deepcopy(head).double(), numbers["head.z"].requires_grad_(), numbers["head.labels"]
    with torch.no_grad():
        head.weight.copy_(numbers["head.weight"])
        if head.bias is not None:
            head.bias.copy_(numbers["head.bias"])
    plain = head(features)
    numbers.close(plain / head.scale if head.kind == "arc" else plain, f"head.{name}.output")
    loss = F.cross_entropy(head(features, labels), labels)
    loss.backward()
    numbers.close(loss, f"head.{name}.loss")
    for gradient, what in ((features.grad, "z"), (head.weight.grad, "weight")):
        assert gradient is not None
        numbers.close(gradient, f"head.{name}.grad_{what}")
    if head.bias is not None:
        assert head.bias.grad is not None
        numbers.close(head.bias.grad, f"head.{name}.grad_bias")
    kind = KINDS[name.partition("_")[0]]
    parameters = [head.weight.detach(), *([] if head.bias is None else [head.bias.detach()])]
    novel = NovelHead(kind, head.scale, head.margin)
    torch.testing.assert_close(novel.logits(parameters, features), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        novel.loss([each[None] for each in parameters], features[None], labels), loss, rtol=1e-12, atol=0
    )


def test_a_margin_is_finite_at_a_cosine_of_one() -> None:
    features = torch.eye(3).requires_grad_()
    weight = torch.eye(3).requires_grad_()
    NovelHead("arc", 20, 0.5).loss([weight[None]], features[None], torch.arange(3)).backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert weight.grad is not None and weight.grad.isfinite().all()


@every_head
def test_a_heads_fit(name: str, numbers: Numbers) -> None:
    shape = numbers.facts["fit.shape"]
    features = numbers["fit.x"].flatten(2)
    support, query = features[:, : shape["shot"]], features[:, shape["shot"] :].flatten(0, 1)
    scale, margin = numbers.facts[f"fit.{name}.s_m"]
    head = NovelHead(KINDS[name], scale, margin)
    start = [numbers["fit.start_weight"][None], *([numbers["fit.start_bias"][None]] if name == "softmax" else [])]
    labels = torch.arange(shape["way"]).repeat_interleave(shape["shot"])
    for steps in (1, 10, 200):
        heads = fitted(head, start, support.flatten(0, 1)[None], labels, steps, 1e-3)
        numbers.close(heads.parameters[0], f"fit.{name}.after_{steps}.weight", BY_ADAM)
        if name == "softmax":
            numbers.close(heads.parameters[1], f"fit.{name}.after_{steps}.bias", BY_ADAM)
    logits = head.logits([each[0] for each in heads.parameters], query)
    numbers.close(logits / scale if name == "arcmax" else logits, f"fit.{name}.query_output", BY_ADAM)
    right = logits.argmax(1) == torch.arange(shape["way"]).repeat_interleave(shape["queries"])
    assert 100 * right.double().mean() == numbers[f"fit.{name}.accuracy_percent"]


def test_related_base_classes(numbers: Numbers) -> None:
    labels = torch.arange(14).repeat_interleave(numbers["related.class_sizes"])
    head = NovelHead("arc")
    predicted = head.predicted([numbers["related.head_weight"][None]], numbers["related.features"])[0]
    fractions = torch.stack([F.one_hot(predicted[labels == base], 5).double().mean(0) for base in range(14)])
    assert torch.equal(fractions, numbers["related.fraction"])
    found = related(labels, predicted, ways=5, classes=numbers.facts["related.n_B"])
    assert torch.equal(found.chosen, numbers["related.chosen"]) and found.empty == 0
    assert_rows(found.rows, numbers, "related")


def assert_rows(rows: tuple[Tensor, ...], numbers: Numbers, prefix: str) -> None:
    theirs = numbers[f"{prefix}.kept_rows"].split(numbers[f"{prefix}.kept_counts"].tolist())
    for ours, expected in zip(rows, theirs, strict=True):
        assert torch.equal(ours, expected.sort().values)


def test_the_centroid_loss(numbers: Numbers) -> None:
    base, support = (numbers[f"centroid.{name}"].requires_grad_() for name in ("related", "support"))
    loss = centroid_loss(base.unflatten(0, (5, -1)), support.unflatten(0, (5, -1)))
    loss.backward()
    numbers.close(loss, "centroid.loss")
    for name, leaf in (("related", base), ("support", support)):
        assert leaf.grad is not None
        numbers.close(leaf.grad, f"centroid.grad_{name}")


def test_two_batches_of_pre_training(numbers: Numbers) -> None:
    scale, margin = numbers.facts["base_train.s_m"]
    config = ClassifierConfig(
        backbone="conv4_relu", last_pooling=True, head="arc", head_scale=scale, head_margin=margin, flattened=True
    )
    classifier = BaseClassifier(network(numbers), config, DataConfig(image_size=16), 5).double()
    classifier.head.weight = nn.Parameter(numbers["base_train.head_weight"])
    optimizer = adam(classifier.parameters(), 1e-3)
    images, losses = numbers.images("base_images_int8"), []
    classifier.train()
    for base, image, label in numbers["base_train.batches"]:
        losses.append(F.cross_entropy(classifier(images[base, image], label), label))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    numbers.close(torch.stack(losses).mean(), "base_train.mean_loss")
    numbers.states_close(classifier.backbone, "base_train.after.net.")
    numbers.close(classifier.head.weight, "base_train.after.head_weight", BY_ADAM)


@every_head
def test_an_episode_is_aligned(name: str, numbers: Numbers) -> None:
    facts, prefix = numbers.facts["adapt"], f"adapt.{name}"
    head = NovelHead(KINDS[name], facts["fit_s"], facts["margin"])
    settings = AlignmentSettings(scale=facts["s_after_fit"], related_classes=facts["n_B"])
    method = CentroidAlignment(
        network(numbers), head, facts["fit_steps"], facts["lr"], flattened=True, settings=settings
    ).eval()
    base, episode = numbers.images("base_images_int8").flatten(0, 1), numbers.images("episode_images_int8")
    support, query = episode[:, : facts["shot"]], episode[:, facts["shot"] :].flatten(0, 1)
    start = [numbers["adapt.start_weight"][None], *([numbers["adapt.start_bias"][None]] if name == "softmax" else [])]
    with torch.no_grad():
        own, of_base = method.base_features(support.flatten(0, 1)), method.base_features(base)
    heads = fitted(head, start, own[None], torch.arange(5), facts["fit_steps"], facts["lr"])
    for ours, what in zip(heads.parameters, ("weight", "bias"), strict=False):
        numbers.close(ours, f"{prefix}.head_fit_{what}", BY_ADAM)
    found = related(
        torch.arange(12).repeat_interleave(8), head.predicted(heads.parameters, of_base)[0], 5, facts["n_B"]
    )
    assert torch.equal(found.chosen, numbers[f"{prefix}.chosen"])
    assert_rows(found.rows, numbers, prefix)

    copied = EpisodeCopy(method, heads, 0, support, centroid_loss)
    after = {0: [copied.logits(query), *snapshot(copied)]}
    losses = []
    for number, rows in enumerate(numbers[f"{prefix}.sample_rows"], 1):
        losses.append(copied.step(base[rows]))
        after[number] = [copied.logits(query), *snapshot(copied)]
    for ours, what in zip(zip(*losses, strict=True), ("centroid", "related_head", "support_head"), strict=True):
        numbers.close(torch.stack(ours), f"{prefix}.{what}_losses", BY_ADAM)
    for number, (logits, state, parameters) in after.items():
        there = f"{prefix}.after_{number}."
        if not numbers.holds(there):
            continue
        scale = settings.scale if name == "arcmax" else 1
        numbers.close(logits / scale, f"{there}query_output", BY_ADAM)
        right = logits.argmax(1) == torch.arange(5).repeat_interleave(facts["queries"])
        assert abs(100 * right.double().mean() - numbers[f"{there}accuracy_percent"]) < 1e-9
        for ours, what in zip(parameters, ("weight", "bias"), strict=False):
            numbers.close(ours, f"{there}head_{what}", BY_ADAM)
        if numbers.holds(f"{there}net."):
            numbers.states_close(state, f"{there}net.")


def snapshot(copied: EpisodeCopy) -> tuple[nn.Module, list[Tensor]]:
    return copy.deepcopy(copied.network), [each.detach().clone() for each in copied.parameters]


def test_the_critic(numbers: Numbers) -> None:
    critic = Critic(6, 5, 4).double()
    with torch.no_grad():
        for name, layer in (("fc", critic.hidden), ("out", critic.out)):
            layer.weight.copy_(numbers[f"critic.{name}.weight"])
            layer.bias.copy_(numbers[f"critic.{name}.bias"])
    numbers.close(critic.out(F.relu(critic.hidden(numbers["critic.input"]))), "critic.output")


def tiny(kind: Kind = "arc") -> NovelHead:
    return NovelHead(kind, scale=5.0, margin=0.1)


@pytest.mark.parametrize("kind", KINDS.values())
def test_all_fits_at_once_are_the_fits_one_by_one(kind: Kind) -> None:
    """Also in a batch of other heads, and when Adam goes on with one of them."""
    torch.manual_seed(0)
    head, features, labels = tiny(kind), torch.randn(3, 8, 6).double(), torch.arange(4).repeat_interleave(2)
    starts = [head.initial(seed, 4, 6) for seed in (5, 6, 7)]
    together = fitted(head, [torch.stack(each) for each in zip(*starts, strict=True)], features, labels, 12, 1e-2)
    for number, start in enumerate(starts):
        parameters = [each.clone().requires_grad_() for each in start]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        for step in range(15):
            if step == 12:
                for ours, theirs in zip(together.parameters, parameters, strict=True):
                    torch.testing.assert_close(ours[number], theirs.detach(), rtol=1e-7, atol=1e-9)
            optimizer.zero_grad()
            scores = head.logits(parameters, features[number])
            if kind == "arc":
                cosines = scores / head.scale
                angles = cosines.acos() + head.margin * F.one_hot(labels, 4) * (cosines > 0)
                scores = head.scale * angles.cos()
            F.cross_entropy(scores, labels).backward()
            optimizer.step()
        own, going_on = together.one(number, 1e-2)
        for _ in range(3):
            going_on.zero_grad()
            head.loss(own, features[number][None], labels).backward()
            going_on.step()
        for ours, theirs in zip(own, parameters, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-7, atol=1e-9)


def test_a_heads_start_is_its_seeds() -> None:
    one, same, other = (tiny().initial(seed, 3, 4)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_ways_choose_in_order_and_an_empty_one_takes_what_is_left() -> None:
    """Four classes of two images. Way 0 takes the class of both ways, and nothing is predicted as way 2."""
    labels = torch.arange(4).repeat_interleave(2)
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0])
    found = related(labels, predicted, ways=3, classes=1)
    assert found.chosen.tolist() == [[0], [1], [2]], "class 3 is as good for way 0, and class 2 for way 1"
    assert [rows.tolist() for rows in found.rows] == [[0, 1], [3], [4, 5]] and found.empty == 1
    with pytest.raises(ValueError, match="way=3 with related_classes=2 takes 6 base classes, but there are 4; lower"):
        related(labels, predicted, ways=3, classes=2)


def test_each_way_gives_as_many_images_as_the_smallest_has() -> None:
    labels = torch.arange(2).repeat_interleave(6)
    found = related(labels, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]), ways=2, classes=1)
    generator = torch.Generator().manual_seed(0)
    drawn = [found.sample(5, generator) for _ in range(20)]
    assert {len(rows) for rows in drawn} == {6}
    for rows in drawn:
        assert sorted(rows[:3].tolist()) == [0, 1, 2] and len(rows[3:].unique()) == 3
        assert set(rows[3:].tolist()) <= set(range(6, 12))
    assert len({tuple(rows.tolist()) for rows in drawn}) > 1


class Flat(nn.Module):
    """A network of one learnt layer whose maps are 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layer(images.flatten(1))[..., None, None]
        return maps


def gap(method: AdversarialAlignment, base: Tensor, support: Tensor) -> Tensor:
    """Mean features' distance between related images and the support, over the ways."""
    features = [method.base_features(each.flatten(0, 1)).unflatten(0, (2, -1)).mean(1) for each in (base, support)]
    return (features[0] - features[1]).norm(dim=-1).mean()


def test_the_critic_draws_base_images_to_the_support_of_their_way() -> None:
    torch.manual_seed(0)
    method = AdversarialAlignment(Flat(), critic_width=32)
    base = torch.randn(2, 40, 1, 2, 3) + torch.tensor([3.0, -3.0]).view(2, 1, 1, 1, 1)
    support = torch.randn(2, 5, 1, 2, 3)
    before = gap(method, base, support)
    loss = method.alignment(ways=2, length=4)
    optimizer = torch.optim.Adam(method.backbone.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        features = (method.base_features(each.flatten(0, 1)).unflatten(0, (2, -1)) for each in (base, support))
        loss(*features).backward()
        optimizer.step()
    assert gap(method, base, support) < 0.3 * before


def test_the_critics_gradient_has_length_one_where_the_penalty_is_large() -> None:
    torch.manual_seed(0)
    critic = Critic(3, 2, 64)
    base, support = torch.randn(2, 50, 3) + 2, torch.randn(2, 4, 3)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        critic_loss(critic, base, support, penalty=10.0).backward()
        optimizer.step()
    between = (base + support[:, :1]).div(2).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(between).sum(), between)
    assert 0.7 < slopes.norm(dim=-1).mean() < 1.3
    assert critic(support).mean() - critic(base).mean() > 1, "the gap is about the distance of the means"


class Read:
    """An episode and base images for tests of whole adaptations."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def of(self, method: CentroidAlignment) -> BaseImages:
        with torch.no_grad():
            return BaseImages(self.labels, method.base_features(self.images), lambda rows: self.images[rows])


def test_weights_that_change_are_not_those_that_autocast_keeps() -> None:
    """In bfloat16, an adaptation inside a context that caches casts gives what one without a cache gives."""
    torch.manual_seed(0)
    method = CentroidAlignment(
        Conv4ReLU(last_pooling=True), settings=AlignmentSettings(iterations=3, learning_rate=0.01, related_classes=2)
    ).eval()
    base = Read(torch.randn(24, 3, 16, 16), torch.arange(6).repeat_interleave(4))
    support, query = torch.arange(3)[None, :, None], torch.arange(3, 9)[None]
    images, logits = torch.randn(9, 3, 16, 16), []
    for caches in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=caches), torch.no_grad():
            table = method.image_table(images)
            (answer,) = method.adapt_each(table, support, query, [0], base.of(method))
        logits.append(answer.logits)
    assert torch.equal(*logits)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        (exact,) = method.adapt_each(method.image_table(images), support, query, [0], base.of(method))
    assert torch.equal(torch.random.get_rng_state(), before), "an adaptation leaves the process's generator alone"
    assert not torch.equal(exact.logits, logits[0])
