"""IDeMe-Net compared with its released code's numbers in float64, and its memory-saving ways with plain ones."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dmf import evaluate, released_ideme_net
from dmf.backbones.resnet18_imagenet import ResNet18ImageNet
from dmf.config import DataConfig, ExperimentConfig
from dmf.data.sets import ImageSplit
from dmf.data.store import Squares
from dmf.episodes import Episode, EpisodeIndices, EpisodeSampler
from dmf.evaluation.tasks import check_episodes
from dmf.methods import build_method
from dmf.methods.heads import episode_cross_entropy
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.ideme_net.deformation import OneBranch
from dmf.methods.ideme_net.fusion import cuts, mixed
from dmf.methods.ideme_net.gallery import Gallery, gallery_rows
from dmf.methods.ideme_net.model import Drawn, IDeMeNet, draws
from dmf.training.mixing import ClassMixing, with_partners
from tests.released_numbers import inputs
from tests.released_numbers.inputs import normal

COPY = Path(inputs.__file__).parent / "methods" / "ideme_net.safetensors"
SIZE = 224


class Numbers:
    """The released code's numbers, in float64, and the seeds and sizes behind them."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.facts: dict[str, Any] = json.loads(file.metadata()["json"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def close(self, ours: Tensor, name: str, tolerance: float = 1e-9) -> None:
        """Assert closeness relative to the largest number of theirs."""
        theirs = self[name]
        ours = ours.detach().reshape(theirs.shape)
        difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300)
        assert difference <= tolerance, f"{name}: {difference:.1e}"


@pytest.fixture(params=["copied", "whole"])
def numbers(request: pytest.FixtureRequest) -> Numbers:
    copied = request.param == "copied"
    return Numbers(COPY if copied else request.getfixturevalue("shared") / "fixtures/methods/ideme_net.safetensors")


@pytest.fixture
def whole(shared: Path) -> Numbers:
    return Numbers(shared / "fixtures/methods/ideme_net.safetensors")


def blocks(seed: int, count: int) -> np.ndarray:
    """Images of 7x7 uniform cells, float32 [n, 3, 224, 224]."""
    return normal(seed, count, 3, 7, 7).repeat(32, 2).repeat(32, 3)


def doubled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).double()


def sketch(values: Tensor) -> Tensor:
    """Norm, sum, product with random signs, and eight values."""
    flat = values.detach().double().flatten()
    signs = torch.from_numpy(np.random.RandomState(7).randint(0, 2, len(flat)) * 2.0 - 1)
    some = flat[:: -(-len(flat) // 8)][:8]
    return torch.cat([torch.stack([flat.norm(), flat.sum(), flat @ signs]), F.pad(some, (0, 8 - len(some)))])


def cell_means(images: Tensor, grid: int) -> Tensor:
    places = cuts(SIZE, grid)
    rows = [images[:, :, a:b] for a, b in itertools.pairwise(places)]
    cells = [row[..., a:b].mean((2, 3)) for row in rows for a, b in itertools.pairwise(places)]
    return torch.stack(cells, -1)


@pytest.mark.parametrize("grid", [3, 5, 7])
def test_fusion(numbers: Numbers, grid: int) -> None:
    seed = numbers.facts[f"fuse{grid}.seed"]
    ours, theirs, cotangent = (doubled(normal(seed + n, 2, 3, SIZE, SIZE)) for n in (0, 1, 3))
    weights = numbers[f"fuse{grid}.weights"]
    for each in (ours, theirs, weights):
        each.requires_grad_()
    assert cuts(SIZE, grid) == numbers[f"fuse{grid}.cuts"].tolist()
    blended = mixed(ours, theirs, weights)
    numbers.close(cell_means(blended, grid), f"fuse{grid}.cell_means")
    numbers.close(blended[:, :, 3::17, 5::19], f"fuse{grid}.sample")
    numbers.close(sketch(blended), f"fuse{grid}.sketch")
    (blended * cotangent).sum().backward()
    numbers.close(weights.grad, f"fuse{grid}.grad_weights")
    numbers.close(sketch(ours.grad), f"fuse{grid}.grad_a_sketch")
    numbers.close(sketch(theirs.grad), f"fuse{grid}.grad_b_sketch")


class Fixed(nn.Module):
    """A network whose results are known in advance."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("no image passes through it")


def of_vectors(features: Tensor, candidates: int, deformed: int) -> IDeMeNet:
    """The method on known embeddings of the gallery [G, D]."""
    gallery = Gallery(1, len(features), 1, 1)
    model = IDeMeNet(Fixed(), Fixed(), features.shape[1], gallery, deformed, candidates, released=True).double()
    model.kept_features.copy_(features)
    return model


@pytest.mark.parametrize("name", ["gallery", "gallery_negative_scale"])
def test_choice_of_gallery_images(numbers: Numbers, name: str) -> None:
    sizes = numbers.facts[f"{name}.shape"]
    ways, shots, deformed, candidates = (sizes[each] for each in ("ways", "shots", "augnum", "chooseNum"))
    model = of_vectors(numbers[f"{name}.features"], candidates, deformed)
    with torch.no_grad():
        model.scale.fill_(numbers[f"{name}.scale"].item())
    support = numbers[f"{name}.support_features"].view(1, ways, shots, -1)
    found = model.nearest(support)
    assert torch.equal(found[0], numbers[f"{name}.candidates"])
    seed = int(numbers.facts[f"{name}.draws"].partition("RandomState(")[2].partition(")")[0])
    flips, picks = draws(np.random.RandomState(seed), ways * shots * deformed, candidates)
    rows = torch.arange(ways * shots * (1 + deformed)).view(-1, 1 + deformed)[:, 1:].flatten()  # without the images
    assert (torch.tensor(flips) == 0).int().tolist() == numbers[f"{name}.row_flipped"][rows].tolist()
    ours = found[0].gather(1, torch.tensor(picks).view(ways, -1)).flatten()
    assert torch.equal(ours, numbers[f"{name}.row_gallery"][rows])
    expected = torch.arange(ways * shots).repeat_interleave(deformed)
    assert torch.equal(expected, numbers[f"{name}.row_support"][rows])


def test_our_gallery_is_the_official_one(numbers: Numbers) -> None:
    labels = np.arange(64).repeat(600)
    ours = torch.from_numpy(gallery_rows(labels, 30)) - 600 * torch.arange(64)[:, None]
    assert torch.equal(ours, numbers["official_gallery.index_in_class"])


def test_prototype_loss(numbers: Numbers) -> None:
    sizes = numbers.facts["proto.shape"]
    ways, shots, deformed, queries = (sizes[each] for each in ("ways", "shots", "augnum", "test_num"))
    rows, query, scale = (numbers[f"proto.{each}"].requires_grad_() for each in ("rows", "queries", "scale"))
    model = of_vectors(numbers["proto.rows"], 1, deformed)
    model.scale = nn.Parameter(scale[0].detach())
    by_image = rows.view(1, ways, shots, 1 + deformed, -1)
    logits = model.score_embeddings(by_image[:, :, :, 0], by_image[:, :, :, 1:].flatten(2, 3), query[None])
    numbers.close(-logits, "proto.distances")
    numbers.close(logits.log_softmax(-1), "proto.log_p")
    targets = torch.arange(ways).repeat_interleave(queries)[None]
    loss = episode_cross_entropy(logits, targets)
    numbers.close(loss, "proto.loss")
    numbers.close((logits.argmax(-1) == targets).double().mean(), "proto.accuracy")
    loss.backward()
    numbers.close(rows.grad, "proto.grad_rows")
    numbers.close(query.grad, "proto.grad_queries")
    numbers.close(model.scale.grad, "proto.grad_scale")


def test_classification_loss(numbers: Numbers) -> None:
    names = ("rows", "fc_weight", "fc_bias")
    given = [numbers["proto.rows"], *(numbers[f"classify.{each}"] for each in names[1:])]
    rows, weight, bias = (each.requires_grad_() for each in given)
    loss = F.cross_entropy(F.linear(rows, weight, bias), numbers["classify.labels"])
    numbers.close(loss, "classify.loss")
    gradients = torch.autograd.grad(loss, (rows, weight, bias))
    for name, gradient in zip(names, gradients, strict=True):
        numbers.close(gradient, f"classify.grad_{name}")


def test_first_stage(numbers: Numbers) -> None:
    facts = numbers.facts["stage1"]
    pairs, seed = numbers["stage1.image_and_partner"], facts["seed"] - 52000
    rows = pairs[:, 0].numpy()
    labels = np.arange(len(facts["files_per_class"])).repeat(facts["files_per_class"])
    mixing = ClassMixing(labels, 3)
    assert labels[rows].tolist() == numbers["stage1.labels"].tolist()
    places, partners, weights = mixing.drawn(rows, np.random.RandomState(facts["seed"]))
    assert places.tolist() == (pairs[:, 1] >= 0).nonzero().flatten().tolist()
    assert torch.equal(partners, pairs[places, 1])
    theirs = numbers["stage1.weights"][places]
    torch.testing.assert_close(weights.double(), theirs, rtol=1e-7, atol=0)  # ours are float32

    def image(row: int) -> np.ndarray:
        return blocks(seed + 50000 + row, 1)[0] + np.float32(0.2) * normal(seed + 51000 + row, 3, SIZE, SIZE)

    images, others = (doubled(np.stack([image(int(row)) for row in each])) for each in (rows, partners))
    blended = with_partners(images, others, places, theirs)
    numbers.close(cell_means(blended, 3), "stage1.cell_means")
    numbers.close(blended[:, :, 3::17, 5::19], "stage1.sample")


class FloatGallery(Gallery):
    """A gallery of images that are no bytes."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(1, len(images), 3, SIZE)
        self.float_images = images

    def images(self, rows: Tensor) -> Tensor:
        return self.float_images[rows]


def filled(keys: list[tuple[str, list[int]]], seed: int) -> dict[str, Tensor]:
    """Weights of the residual network that was run."""
    found = {}
    for place, (name, shape) in enumerate(keys):
        x = normal(seed + 1000 + place, *shape) if shape else np.float32(0)
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        if name.endswith(("running_mean", "bias")):
            x = np.float32(0.1) * x
        elif name.endswith("running_var"):
            x = 1 + np.float32(0.5) * np.tanh(x)
        elif len(shape) == 4:
            x = x * np.float32(np.sqrt(2 / fan_in))
        elif len(shape) == 2:
            x = x * np.float32(np.sqrt(1 / fan_in))
        elif len(shape) == 1:
            x = np.float32(0.6) + np.float32(0.2) * np.tanh(x)
        found[name] = torch.tensor(x) if shape else torch.zeros((), dtype=torch.int64)
    return found


class Rerun:
    """The method with the weights and the gallery of the released script's run."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.run = numbers, numbers.facts["run"]
        seed = self.run["seed"]
        gallery = [
            blocks(seed + 30000 + i, 1)[0] + np.float32(0.2) * normal(seed + 40000 + i, 3, SIZE, SIZE)
            for i in range(self.run["G"])
        ]
        weights = filled(numbers.facts["resnet18.keys"], self.run["resnet18_fill"])
        backbone = ResNet18ImageNet()
        backbone.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})
        self.model = IDeMeNet(
            backbone,
            OneBranch(3, SIZE, 9),
            512,
            FloatGallery(doubled(np.stack(gallery))),
            deformed=self.run["augnum"],
            candidates=self.run["choose"],
            released=True,
        ).double()
        self.model.classifier = nn.Linear(512, 64).double()
        state = self.model.state_dict()
        for theirs in (name for name in numbers.tensors if name.startswith("weights.")):
            state[ours_of(theirs.removeprefix("weights."))].copy_(numbers[theirs].squeeze())
        self.model.requires_grad_()

    def episode(self, epoch: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
        """Support [1, W, K, 3, 224, 224], query [1, W * Q, 3, 224, 224] and targets of an episode."""
        seed = self.run["seed"] + 20000 + 100 * epoch + (50 if part == "train" else 0)
        ways = self.run["ways"]

        def images(each: int, first: int) -> Tensor:
            parts = (
                blocks(seed, ways),
                blocks(seed + first, ways * each),
                normal(seed + first + 1, ways * each, 3, SIZE, SIZE),
            )
            p, b, n = parts
            return doubled(np.float32(0.9) * p.repeat(each, 0) + np.float32(0.5) * b + np.float32(0.2) * n)

        support = images(self.run["shots"], 1).unflatten(0, (1, ways, -1))
        query = images(self.run["test_num"], 4)[None]
        return support, query, torch.arange(ways).repeat_interleave(self.run["test_num"])[None]

    def drawn(self, name: str) -> Drawn:
        """What the script drew for an episode."""
        rows = self.numbers[f"{name}.rows"].view(-1, 1 + self.run["augnum"], 3)
        assert (rows[:, 0, 2] == -1).all()
        support, flipped, gallery = rows[:, 1:].flatten(0, 1).unbind(1)
        return Drawn(support, gallery, flipped.bool(), torch.zeros_like(flipped).bool())

    def compare(self, name: str, of: Callable[[Tensor], Tensor]) -> None:
        """Compare sketches of all parameters of a group."""
        named, group = dict(self.model.named_parameters()), name.split(".")[3]
        ours = torch.stack([sketch(of(named[ours_of(each)])) for each in self.numbers.facts[f"run.{group}.names"]])
        for row, theirs in zip(ours, self.numbers[name], strict=True):
            assert (row - theirs).abs().max() <= 1e-9 * theirs.abs().max(), name


OURS = {
    "attentionNet.": "deformation.",
    "toWeight.0.": "deformation.to_weights.",
    "CNet.": "backbone.",
    "fc.": "classifier.",
}


def ours_of(theirs: str) -> str:
    """Our name of a parameter of the released script."""
    start = next((each for each in OURS if theirs.startswith(each)), "")
    return OURS.get(start, "") + theirs.removeprefix(start)


@pytest.mark.full
def test_the_script_as_a_whole(whole: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pass over the gallery, and three epochs of a test and a training episode."""
    rerun = Rerun(whole)
    model = rerun.model
    monkeypatch.setattr("dmf.methods.ideme_net.model.GALLERY_CHUNK", rerun.run["batch"])
    model.keep_gallery_features()
    whole.close(model.kept_features[0], "gallery_pass.features")
    for name, value in model.backbone.named_buffers():
        if "running" in name:
            whole.close(value, f"gallery_pass.{name}")
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    adam.param_groups[0]["params"] = [*model.deformation.parameters(), model.scale, *model.classifier.parameters()]
    adam.add_param_group({"params": list(model.backbone.parameters()), "lr": 1e-4})
    for name in rerun.run["episodes"]:
        epoch, _, part = name.partition(".")
        support, query, targets = rerun.episode(int(epoch), part)
        name = f"run.{name}"
        drawn = rerun.drawn(name)
        monkeypatch.setattr(model, "drawn", lambda *_, made=drawn: made)
        assert torch.equal(model.nearest(model.embed_all(support))[0], whole[f"{name}.candidates"])
        with torch.no_grad():
            weights = model.deformation(*model.pairs(support.flatten(0, 2), drawn))
            theirs = whole[f"{name}.weights"].view(-1, 1 + rerun.run["augnum"], 9)[:, 1:].reshape(weights.shape)
            torch.testing.assert_close(weights, theirs, rtol=0, atol=1e-9 * theirs.abs().max().item())
            logits = model.score(support, query)
        whole.close((logits.argmax(-1) == targets).double().mean(), f"{name}.accuracy")
        embedded = model.embed_all(support), model.embed_all(query)
        model.requires_grad_()
        if part == "test":
            whole.close(episode_cross_entropy(logits, targets), f"{name}.loss")
            continue
        adam.zero_grad()
        for each in (model.backbone, model.classifier):
            each.requires_grad_(False)
        prototype = model.deformation_losses(support, *embedded, targets).total
        whole.close(prototype, f"{name}.loss")
        prototype.backward()
        parts = ["deform", "scale"]
        for each in (model.backbone, model.classifier):
            each.requires_grad_()
        classification = model.embedding_losses(support, whole[f"{name}.reals"][None]).total
        whole.close(classification, f"{name}.cls_loss")
        if epoch != "0":
            classification.backward()
            parts.append("embedding")
        for each in parts:
            rerun.compare(f"{name}.{each}.grad", lambda parameter: parameter.grad)
        adam.step()
        for each in parts:
            rerun.compare(f"{name}.{each}.after", lambda parameter: parameter)


def small(**settings: Any) -> IDeMeNet:
    """The method in float64 on random images of 32 pixels, with statistics of batch normalisation of its own."""
    torch.manual_seed(1)
    config = IDeMeNetConfig(deformed_images=3, gallery_per_class=2, gallery_candidates=4).with_paths(settings)
    model = build_method(config, DataConfig(image_size=32), base_classes=6).double()
    model.gallery.fill(torch.randint(256, (12, 32, 32, 3), dtype=torch.uint8), torch.tensor(0.4), torch.tensor(0.2))
    for name, buffer in [*model.backbone.named_buffers(), *model.deformation.named_buffers()]:
        if "running" in name:
            buffer.copy_(0.5 + torch.rand_like(buffer))
    return model


def plain_embeddings(model: IDeMeNet, images: Tensor, drawn: Drawn) -> Tensor:
    """Embeddings of deformed images by the definition: a mask of the images' size, and one graph for everything."""
    ours, theirs = images.flatten(0, 2)[drawn.support], model.gallery.images(drawn.gallery)
    ours = torch.stack([a.flip(-1) if flip else a for a, flip in zip(ours, drawn.support_flipped, strict=True)])
    theirs = torch.stack([b.flip(-1) if flip else b for b, flip in zip(theirs, drawn.gallery_flipped, strict=True)])
    weights = model.deformation(ours, theirs)
    places = torch.bucketize(torch.arange(32), torch.tensor(cuts(32, 3))[1:-1], right=True)
    mask = weights[:, places[:, None] * 3 + places[None]][:, None].expand_as(ours)
    found = model.backbone(mask * ours + (1 - mask) * theirs).mean((2, 3))
    return found.view(*images.shape[:2], -1, found.shape[-1])


IMAGES = torch.randn(2, 3, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
QUERIES = torch.randn(2, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TARGETS = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 1, 0, 0, 1, 2]])
LABELS = torch.tensor([[5, 0, 3], [1, 4, 2]])


def gradients_close(model: IDeMeNet, loss: Tensor, expected: Tensor) -> None:
    learnt = {name: each for name, each in model.named_parameters() if each.requires_grad}
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    loss.backward()
    for (name, each), plain in zip(learnt.items(), torch.autograd.grad(expected, learnt.values()), strict=True):
        assert (each.grad - plain).abs().max() <= 1e-9 * plain.abs().max(), name


@pytest.fixture(params=[1, 40], ids=["all again", "some kept"])
def in_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of seven images; the activations of none of the 36 deformed images, or of most, are kept."""
    monkeypatch.setattr("dmf.methods.ideme_net.model.PIXELS_AT_ONCE", 7 * 32**2)
    monkeypatch.setattr("dmf.methods.ideme_net.model.PIXELS_KEPT", request.param * 32**2)


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("settings", [{"backbone": "conv64f"}, {"backbone": "resnet18_imagenet", "deform_branches": 2}])
def test_gradients_of_the_deformation_are_those_of_the_definition(settings: dict[str, Any]) -> None:
    model = small(**settings).eval()  # draws from a fixed seed
    with torch.no_grad():
        model.scale.fill_(3.0)
    support, query = model.embed_all(IMAGES), model.embed_all(QUERIES)
    loss = model.deformation_losses(IMAGES, support, query, TARGETS).total
    drawn = model.drawn(model.nearest(support), 2, [0, 0])
    prototypes = torch.cat([support, plain_embeddings(model, IMAGES, drawn)], 2).mean(2)
    logits = -model.scale * (query[:, :, None] - prototypes[:, None]).square().sum(-1)
    gradients_close(model, loss, F.cross_entropy(logits.flatten(0, 1), TARGETS.flatten()))


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("protocol", ["clean", "released"])
def test_gradients_of_the_embedding_are_those_of_the_definition(protocol: str) -> None:
    model = small(backbone="resnet18_imagenet", rounds=2, protocol=protocol).eval()
    support, query = model.embed_all(IMAGES), model.embed_all(QUERIES)
    loss = model.embedding_losses(IMAGES, LABELS, query if protocol == "released" else None, TARGETS).total
    drawn = model.drawn(model.nearest(support), 2, [0, 0])
    deformed = plain_embeddings(model, IMAGES, drawn)
    originals = model.backbone(IMAGES.flatten(0, 2)).mean((2, 3)).view(*IMAGES.shape[:3], -1)
    logits = model.classifier(torch.cat([originals, deformed], 2).flatten(0, 2))
    expected = F.cross_entropy(logits, LABELS.repeat_interleave(8, 1).flatten())
    if protocol == "released":
        prototypes = torch.cat([originals, deformed], 2).mean(2).detach()
        scores = -model.scale * (query[:, :, None] - prototypes[:, None]).square().sum(-1)
        expected = expected + F.cross_entropy(scores.flatten(0, 1), TARGETS.flatten())
    gradients_close(model, loss, expected)


def test_the_gallery_follows_the_embedding_from_epoch_to_epoch() -> None:
    """And an evaluation uses the embedding of the moment; in the released protocol, that of the round's start."""
    model = small(backbone="conv64f", rounds=2)
    before = model.gallery_features()
    learnt = list(model.backbone.parameters())
    optimiser = torch.optim.SGD(learnt, lr=0.1, fused=True)
    sum(each.square().sum() for each in learnt).backward()
    optimiser.step()
    assert torch.equal(model.gallery_features(), before), "within an epoch"
    after = model.train().gallery_features()
    assert not torch.equal(after, before) and torch.equal(after, model.eval().gallery_features())
    torch.testing.assert_close(after, model.embed_all(model.gallery.images(torch.arange(12))))
    assert torch.equal(copy.deepcopy(model).gallery_features(), after)
    old = small(backbone="conv64f", rounds=2, protocol="released")
    statistics = old.backbone.layers[1].running_mean.clone()
    old.keep_gallery_features()
    assert (old.backbone.layers[1].running_mean != statistics).all() and not old.backbone.layers[1].training
    kept = old.gallery_features().clone()
    with torch.no_grad():
        old.backbone.layers[0].weight.mul_(1.1)
    assert torch.equal(old.train().gallery_features(), kept)


def test_a_step_back_propagates_to_images_only_in_an_odd_round() -> None:
    """Neither the embedding's weights nor those of queries and originals are differentiated."""
    model = small(backbone="conv64f")
    support, query = model.embed_all(IMAGES), model.embed_all(QUERIES)
    model.nearest(support)
    with FlopCounterMode(display=False) as whole:
        model.deformation_losses(IMAGES, support, query, TARGETS).total.backward()
    with FlopCounterMode(display=False) as forward:
        model.embed_all(IMAGES)
    with FlopCounterMode(display=False) as deformation:
        model.deformation(IMAGES.flatten(0, 2), IMAGES.flatten(0, 2)).sum().backward()
    per_image = forward.get_total_flops() / 12
    with FlopCounterMode(display=False) as once:
        model.deformation(IMAGES.flatten(0, 2), IMAGES.flatten(0, 2)).detach()
    again = deformation.get_total_flops() + once.get_total_flops()
    to_fold = per_image  # the first step looks at which layers follow each other
    assert whole.get_total_flops() <= 36 * 2 * per_image + to_fold + 36 / 12 * again + 1e5


def official(numbers: Numbers, softrandom: bool) -> dict[str, Tensor]:
    """A state dict with the names and shapes of an official checkpoint."""
    keys = numbers.facts["released_state_dict_keys"]
    if softrandom:
        keys = [(f"convnet.{name}", shape) for name, shape in numbers.facts["resnet18.keys"]]
    state = filled(keys, 7)
    for name in [name for name in state if name.startswith("CNet.resnet.convnet.") and ".fc." not in name]:
        state[name] = state[name.replace("resnet.convnet.", "")]
    return state


def test_official_checkpoints_load(numbers: Numbers, tmp_path: Path) -> None:
    state = official(numbers, softrandom=False)
    torch.save(state, tmp_path / "metaNet_1shot.t7")
    model = released_ideme_net.load(tmp_path / "metaNet_1shot.t7")
    assert model.deformed == 7 and model.scale.shape == () and model.scale == state["scale"]
    assert torch.equal(model.classifier.weight, state["fc.weight"])
    assert torch.equal(model.backbone.layer4[1].bn2.running_var, state["CNet.layer4.1.bn2.running_var"])
    assert torch.equal(model.deformation.encoder[4][0].weight, state["attentionNet.encoder.4.0.weight"])
    torch.save(official(numbers, softrandom=True), tmp_path / "softRandom.t7")
    embedding = released_ideme_net.load(tmp_path / "softRandom.t7")
    assert embedding.deformed == 0
    images = torch.rand(1, 2, 1, 3, SIZE, SIZE)
    assert embedding.eval()(Episode(images, images[:, :, 0], torch.zeros(1, 2), torch.zeros(1, 2))).shape == (1, 2, 2)
    torch.save({"a": 1.0}, tmp_path / "other.t7")
    with pytest.raises(ValueError, match=r"other.t7: a is a float, expected a tensor"):
        released_ideme_net.load(tmp_path / "other.t7")
    with pytest.raises(ValueError, match="is no checkpoint of the released IDeMe-Net: it has neither fc nor"):
        released_ideme_net.load({"a": torch.ones(1)})
    uncounted = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    assert len(uncounted) < len(state)
    older = released_ideme_net.load(uncounted)
    assert all(
        torch.equal(older.state_dict()[name], value)
        for name, value in model.state_dict().items()
        if "num_b" not in name
    )
    with pytest.raises(ValueError, match="holds another model: 1 of its tensors differ, first scale: got nothing"):
        released_ideme_net.load({name: value for name, value in state.items() if name != "scale"})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Folders of noise: six base classes, and three in each other split, of eight pictures."""
    random = np.random.default_rng(0)
    for split, classes in (("train", 6), ("val", 3), ("test", 3)):
        for number in range(classes):
            folder = tmp_path / "pictures" / split / f"{split}{number}"
            folder.mkdir(parents=True)
            for image in range(8):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((40, 40)).save(folder / f"{image}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("name", ["metaNet_1shot.t7", "softRandom.t7"])
def test_official_checkpoints_are_tested_with_a_gallery_of_their_images(
    name: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMF_CACHE", str(tmp_path / "cache"))
    state = official(Numbers(COPY), softrandom=name == "softRandom.t7")
    for key in [key for key in state if "fc." in key]:
        state[key] = state[key][:6]
    torch.save(state, tmp_path / name)
    line = (
        f"--resume {tmp_path / name} --dataset noise --root {pictures} --episodes 2 --queries 2 --way 3 --nExemplars 1"
    )
    settings = ["model.method=ideme_net", "model.gallery_per_class=2", "model.gallery_candidates=3"]
    galleries: list[Tensor] = []
    fill = Gallery.fill

    def kept(gallery: Gallery, pixels: Tensor, mean: Tensor, std: Tensor) -> None:
        galleries.append(pixels)
        fill(gallery, pixels, mean, std)

    monkeypatch.setattr(Gallery, "fill", kept)
    assert evaluate.main([*line.split(), *settings]) == 0, capsys.readouterr().err
    assert "3-way 1-shot, 2 test episodes" in capsys.readouterr().out
    assert galleries[0].shape == (12, SIZE, SIZE, 3) and galleries[0].float().std() > 10, "two images of each class"
    passes: list[Tensor] = []
    keep = IDeMeNet.keep_gallery_features

    def passed(model: IDeMeNet) -> None:
        keep(model)
        passes.append(model.kept_features.flatten(0, 1))

    monkeypatch.setattr(IDeMeNet, "keep_gallery_features", passed)
    if name == "metaNet_1shot.t7":  # the other deforms no image
        assert evaluate.main([*line.split(), *settings, "model.protocol=released"]) == 0, capsys.readouterr().err
        assert "2 test episodes" in capsys.readouterr().out
        assert len(passes) == 1 and len(passes[0].unique(dim=0)) == 12, "images differ in their embeddings"
    assert evaluate.main([*line.split(), *settings, "data.image_size=84"]) == 2
    assert "data.image_size=84, but" in (said := capsys.readouterr().err) and "reads 224 pixels; leave it out" in said
    assert evaluate.main([*line.split(), *settings, "--groups", "4"]) == 2
    assert "--groups is for DMF, but model.method=ideme_net" in capsys.readouterr().err
    torch.save(official(Numbers(COPY), softrandom=name == "softRandom.t7"), tmp_path / name)
    assert evaluate.main([*line.split(), *settings]) == 2
    assert "knows 64 base classes, but the training split of noise has 6" in capsys.readouterr().err


def test_a_gallery_may_leave_one_image_for_the_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation in training mode needs two values: maps of 1x1 have one for each image."""
    monkeypatch.setattr("dmf.methods.ideme_net.model.GALLERY_CHUNK", 4)
    config = IDeMeNetConfig(
        backbone="resnet18_imagenet", gallery_per_class=3, gallery_candidates=2, protocol="released", deform_blocks=3
    )
    model = build_method(config, DataConfig(image_size=32), 3).eval()
    assert isinstance(model, IDeMeNet)
    pixels = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.gallery.fill(pixels, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    model.keep_gallery_features()
    assert len(model.kept_features.flatten(0, 1).unique(dim=0)) == 9
    assert not any(module.training for module in model.modules())


def test_official_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"fc.weight": Path}, tmp_path / "metaNet_1shot.t7")
    with pytest.raises(ValueError, match="is not a checkpoint of tensors and numbers only"):
        released_ideme_net.load(tmp_path / "metaNet_1shot.t7")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.image_size": 28}, "28 is too small for model.deform_blocks=5, which halve it 5 times; use 32 pixels"),
        ({"start.head": "cosine"}, "got start.head=cosine, use linear"),
        ({"model.gallery_per_class": 4}, "model.gallery_per_class=4 is more than the 3 images of the smallest class"),
        ({"model.gallery_candidates": 20}, "model.gallery_candidates=20 is more than the 15 images of the gallery"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    plain = {"model.method": "ideme_net", "model.gallery_per_class": 3, "start.head": "linear"}
    labels = np.arange(5).repeat([4, 3, 9, 9, 9])
    split = ImageSplit("train", labels, tuple("abcde"), "", Squares(np.zeros((34, 8, 8, 3), np.uint8)))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_episodes(ExperimentConfig().with_paths(plain | settings), split)


def test_rounds_are_stages_that_share_what_comes_before() -> None:
    plain = {"model.method": "ideme_net", "start.head": "linear", "start.training.mixing_grid": 3}
    third = ExperimentConfig().with_paths(plain | {"model.rounds": 3})
    first = ExperimentConfig().with_paths(plain)
    assert [stage.key for stage in third.stages[1:]] == [first.key, first.replace(model__rounds=2).key]
    assert [stage.model.trains_embedding for stage in third.stages[1:]] == [False, True]
    assert first.stage == third.stages[0] and first.stage.training.mixing_grid == 3
    classifier = ExperimentConfig().with_paths(plain | {"model.method": "classifier_baseline"})
    assert classifier.stage == first.stage


def test_overlapping_episodes() -> None:
    """Drawn apart, a query is one of the support images as often as chance has it; the support stays as it was."""
    labels = np.arange(6).repeat(10)
    apart, together = (EpisodeSampler(labels, 5, 2, 4, seed=0, overlapping=each)(range(200)) for each in (False, True))
    assert torch.equal(together.targets, apart.targets)

    def shared(episodes: EpisodeIndices) -> float:
        query = episodes.query.unflatten(1, (5, 4))
        return (query[..., None] == episodes.support[:, :, None]).any(-1).double().mean().item()

    assert shared(apart) == 0 and shared(together) == pytest.approx(0.2, abs=0.03)
    assert (labels[together.query] == labels[together.support[..., :1]].repeat(4, 2).reshape(200, 20)).all()
