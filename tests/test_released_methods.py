"""The other methods of Table 1 compared with their released code's numbers (float64; tolerances at each test)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.methods.can.model import CAN
from dmf.methods.can_transductive.model import CANTransductive, confident
from dmf.methods.deepemd.model import DeepEMD, node_similarities, node_weights
from dmf.methods.deepemd.transport import optimal_flows
from dmf.methods.feat.model import FEAT, with_classes
from dmf.methods.heads import positions_cross_entropy
from dmf.methods.matching_net.model import MatchingNet
from dmf.methods.meta_baseline.model import MetaBaseline
from dmf.methods.proto_net.model import ProtoNet
from dmf.methods.relation_net.model import RelationNet
from tests.released_numbers import inputs

COPIES = Path(inputs.__file__).parent / "methods"


class Numbers:
    """One file of a released code's numbers; inputs and parameters in float64.

    In the copies, a long result is a sketch: its norm, its product with random signs, and every stride-th value.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.facts = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        self.way, self.shot = int(self.facts["way"]), int(self.facts["shot"])

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def close(self, ours: Tensor, name: str, tolerance: float = 1e-9) -> None:
        """Assert closeness relative to the largest number of theirs."""
        ours = ours.detach()
        if f"{name}:sketch" in self.tensors:
            assert _sides(ours.shape) == _sides(self[f"{name}:shape"]), name
            ours, theirs = sketch(ours), self[f"{name}:sketch"]
        else:
            theirs = self[name]
            if ours.squeeze().shape == theirs.squeeze().shape:  # they keep 1x1 weights as [out, in], scalars as [1]
                ours = ours.view(theirs.shape)
        assert ours.shape == theirs.shape, name
        scale = max(theirs.abs().max().item(), 1e-300)
        difference = (ours - theirs).abs().max().item() / scale
        assert difference <= tolerance, f"{name}: {difference:.1e}"

    def parameters(self, prefix: str = "param.") -> dict[str, Tensor]:
        names = (name for name in self.tensors if name.startswith(prefix))
        return {name.removeprefix(prefix): self[name] for name in names}

    def episode(self) -> Episode:
        """Support by class, query and targets as leaves; the support's rows are in `self.order`."""
        labels = self["support_labels"]
        self.order = labels.argsort(dim=1, stable=True)
        support = self["support"].requires_grad_()
        rows = torch.arange(len(labels))[:, None]
        self.leaves = {"support": support, "query": self["query"].requires_grad_()}
        by_class = support[rows, self.order].unflatten(1, (self.way, self.shot))
        classes = self.tensors.get("query_global_labels", self["query_labels"])
        return Episode(by_class, self.leaves["query"], self["query_labels"], classes)

    def gradients_close(
        self, model: nn.Module, prefix: str = "grad.", names: dict[str, str] | None = None, tolerance: float = 1e-9
    ) -> None:
        """Compare the gradient of every leaf and parameter that the file has one for."""
        ours = {name: leaf.grad for name, leaf in self.leaves.items()}
        ours |= {(names or {}).get(name, name): value.grad for name, value in model.named_parameters()}
        theirs = {name.removeprefix(prefix).partition(":")[0] for name in self.tensors if name.startswith(prefix)}
        assert theirs
        for name in theirs:
            gradient = ours[name]
            assert gradient is not None, name
            self.close(gradient, prefix + name, tolerance)


def _sides(shape: Iterable[int]) -> list[int]:
    return [int(side) for side in shape if side > 1]


def sketch(values: Tensor) -> Tensor:
    """Norm, product with random signs, and about 40 values of a tensor, float64."""
    flat = values.double().flatten()
    signs = torch.from_numpy(np.random.RandomState(7).choice([-1.0, 1.0], len(flat)))
    return torch.cat([torch.stack([flat.norm(), flat @ signs]), flat[:: max(1, len(flat) // 40)]])


def cases(*names: str, whole_only: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """The copies of these files, and the whole files where they are; `whole_only` have no copies."""
    places = [("copied", name) for name in names] + [("whole", name) for name in (*names, *whole_only)]
    return pytest.mark.parametrize("numbers", places, indirect=True, ids="-".join)


@pytest.fixture
def numbers(request: pytest.FixtureRequest) -> Numbers:
    place, name = request.param
    folder = COPIES if place == "copied" else request.getfixturevalue("shared") / "fixtures/methods"
    return Numbers(folder / f"{name}.safetensors")


def fill(model: nn.Module, values: dict[str, Tensor], names: dict[str, str] | None = None) -> nn.Module:
    """Set parameters and buffers by name; `names` maps ours to theirs."""
    state = model.state_dict()
    with torch.no_grad():
        for ours, value in state.items():
            theirs = (names or {}).get(ours, ours)
            if theirs in values:
                value.copy_(values[theirs].view_as(value))
    assert {(names or {}).get(ours, ours) for ours in state} >= values.keys()
    return model


def per_episode(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


@cases("proto_net_1shot", "proto_net_scaled_5shot")
def test_proto_net(numbers: Numbers) -> None:
    """With and without a scale; released distances are those of MetaOptNet, whose scale multiplies the mean."""
    maps = numbers.episode()
    scaled = "param.scale" in numbers.tensors
    model = ProtoNet(nn.Identity(), "mean" if scaled else "sum").double()
    if model.log_scale is not None:
        with torch.no_grad():
            model.log_scale.fill_(numbers["param.scale"].item()).log_()
    logits = model.score(maps.support[..., None, None], maps.query[..., None, None])
    if "logits" in numbers.tensors:
        numbers.close(logits, "logits")
    loss = per_episode(logits, maps.targets)
    if model.log_scale is not None:
        numbers.close(loss.mean(), "loss_without_smoothing")
        smoothing = 0.1 * numbers.way / (numbers.way - 1)
        smoothed = F.cross_entropy(logits.flatten(0, 1), maps.targets.flatten(), label_smoothing=smoothing)
        numbers.close(smoothed, "loss")
        smoothed.backward()
        assert model.log_scale.grad is not None
        model.log_scale.grad /= numbers["param.scale"].item()  # of the scale, not of its logarithm
        numbers.gradients_close(model, names={"log_scale": "scale"})
        return
    numbers.close(loss, "loss")
    loss.sum().backward()
    numbers.gradients_close(model)


LSTM = {
    f"{ours}.{kind}_{letters}{end}": f"{theirs}.{part}.{kind}"
    for ours, end, theirs in (
        ("support_lstm", "_l0", "support_lstm.forward"),
        ("support_lstm", "_l0_reverse", "support_lstm.backward"),
        ("query_cell", "", "query_cell"),
    )
    for letters, part in (("ih", "input"), ("hh", "hidden"))
    for kind in ("weight", "bias")
}
"""Our names of the weights of matching networks -> the file's."""


@cases("matching_net_5shot", whole_only=("matching_net_1shot",))
def test_matching_net(numbers: Numbers) -> None:
    maps = numbers.episode()
    assert torch.equal(numbers.order[0], torch.arange(numbers.way * numbers.shot)), "the support is class by class"
    model = MatchingNet(nn.Identity(), maps.query.shape[-1]).double()
    fill(model, numbers.parameters(), LSTM)
    items = model.support_in_context(maps.support.flatten(1, 2))
    numbers.close(items, "support_embedding")
    numbers.close(model.query_in_context(maps.query, items), "query_embedding")
    logits = model.score_embeddings(maps.support, maps.query)
    numbers.close(logits, "log_probabilities")
    losses = [
        model.losses_of_embeddings(maps.support[b : b + 1], maps.query[b : b + 1], maps.targets[b : b + 1]).total
        for b in range(2)
    ]
    numbers.close(torch.stack(losses), "loss")
    torch.stack(losses).sum().backward()
    numbers.gradients_close(model, names=LSTM)


@pytest.mark.parametrize("loss", ["mse", "softmax"])
@cases("relation_net_5x5_1shot", whole_only=("relation_net_11x11_2shot",))
def test_relation_net(numbers: Numbers, loss: str) -> None:
    """Each episode is a batch of its own; the gradients of parameters are sums over the episodes."""
    maps = numbers.episode()
    model = relation_net(numbers, "mse" if loss == "mse" else "cross_entropy")
    fill(model, numbers.parameters())
    trained, tested, losses, statistics = [], [], [], []
    for b in range(len(maps.query)):
        own = Episode(*(part[b : b + 1] for part in (maps.support, maps.query, maps.targets, maps.labels)))
        model.train()
        trained.append(model.score(own.support, own.query)[0])
        losses.append(model.losses_of_maps(own).total)
        statistics.append({name: value.clone() for name, value in model.named_buffers()})
        model.eval()
        with torch.no_grad():
            tested.append(model.score(own.support, own.query)[0])
    shape = torch.sigmoid if loss == "mse" else torch.clone
    numbers.close(shape(torch.stack(trained)), f"{loss}.train.scores")
    numbers.close(shape(torch.stack(tested)), f"{loss}.eval.scores")
    numbers.close(torch.stack(losses), f"{loss}.train.loss")
    for name in ("norm1.running_mean", "norm1.running_var", "norm2.running_mean", "norm2.running_var"):
        numbers.close(torch.stack([each[name] for each in statistics]), f"train.after.{name}")
    torch.stack(losses).sum().backward()
    numbers.gradients_close(model, f"{loss}.train.grad.")


@cases("relation_net_libfewshot_2shot")
def test_libfewshots_relation_net_is_ours_with_its_first_weights_rearranged(numbers: Numbers) -> None:
    maps = numbers.episode()
    model = relation_net(numbers, "cross_entropy")
    values = numbers.parameters()
    of_query, of_class = values["conv1.weight"].chunk(2, dim=1)
    fill(model, values | {"conv1.weight": torch.cat([numbers.shot * of_class, of_query], 1)})
    model.train()
    numbers.close(model.score(maps.support, maps.query), "train.scores")
    loss = model.losses_of_maps(maps).total
    numbers.close(loss, "train.loss")
    loss.backward()
    of_class, of_query = model.conv1.weight.grad.chunk(2, dim=1)
    model.conv1.weight.grad = torch.cat([of_query, numbers.shot * of_class], 1)
    numbers.gradients_close(model, "train.grad.")
    for name, value in model.named_buffers():
        if "running" in name:
            numbers.close(value, f"train.after.{name}")
    numbers.close(model.eval().score(maps.support, maps.query), "eval.scores")


def relation_net(numbers: Numbers, loss: str) -> RelationNet:
    return RelationNet(nn.Identity(), tuple(numbers["query"].shape[2:]), loss, momentum=1.0).double()


OF_CAN = {
    f"attention.{ours}.{part}": f"fusion_{ours}.{part}"
    for ours in ("reduce", "norm", "expand")
    for part in ("weight", "bias", "running_mean", "running_var")
}
"""Our names of CAN's weights -> the file's."""


def can(numbers: Numbers, kind: type[CAN] = CAN) -> CAN:
    classifier = numbers.tensors.get("param.global_classifier.bias", torch.zeros(1))  # of no use without training
    model = kind(nn.Identity(), tuple(numbers["query"].shape[2:]), len(classifier)).double()
    fill(model, numbers.parameters(), OF_CAN)
    return model


@cases("can_head_1shot", whole_only=("can_head_5shot",))
def test_can_in_evaluation(numbers: Numbers) -> None:
    maps = numbers.episode()
    model = can(numbers).eval()
    logits = model.score(maps.support, maps.query)
    numbers.close(logits, "eval.logits")
    (logits * numbers["eval.logits_cotangent"]).sum().backward()
    numbers.gradients_close(model, "eval.grad.")
    of_classes, of_query = model.attend(maps.support.mean(2).flatten(-2), maps.query.flatten(-2))
    numbers.close(of_classes.transpose(1, 2), "eval.class_attention")
    numbers.close(of_query, "eval.query_attention")


@cases("can_head_1shot", whole_only=("can_head_5shot",))
def test_can_in_training(numbers: Numbers) -> None:
    maps = numbers.episode()
    model = can(numbers).train()
    losses = model.losses_of_maps(maps)
    numbers.close(losses.parts["few_shot"], "train.loss_few_shot")
    numbers.close(losses.parts["global"], "train.loss_global")
    numbers.close(losses.total, "train.loss")
    losses.total.backward()
    numbers.gradients_close(model, "train.grad.", OF_CAN)
    for name in ("running_mean", "running_var"):
        numbers.close(model.get_buffer(f"attention.norm.{name}"), f"train.fusion_norm.{name}_after")
    classes, query = maps.support.mean(2).flatten(-2), maps.query.flatten(-2)
    of_classes, of_query = model.attend(classes, query)
    numbers.close(of_classes.transpose(1, 2), "train.class_attention")
    numbers.close(of_query, "train.query_attention")
    scores = model.position_scores(classes, of_classes, query).view(*maps.query.shape[:2], numbers.way, 6, 6)
    numbers.close(scores, "train.few_shot_scores")
    torch.testing.assert_close(
        positions_cross_entropy(scores.flatten(0, 1), maps.targets.flatten()), losses.parts["few_shot"]
    )


@cases("can_transductive_1shot")
def test_can_transductive(numbers: Numbers) -> None:
    maps = numbers.episode()
    model = can(numbers, CANTransductive).eval()
    with torch.no_grad():
        first = model.score_classes(maps.support.mean(2), maps.query)
        numbers.close(first, "inductive_logits")
        numbers.close(model.score(maps.support, maps.query), "logits")
        members = confident(first, 14)[0]
    picked = numbers["step1.picked_queries"]
    assert set(members.sum(1).nonzero().flatten().tolist()) == set(picked.tolist())
    assert torch.equal(members[picked].argmax(1), numbers["step1.pseudo_labels"])


@pytest.mark.parametrize("score", ["squared", "projection"])
@cases("feat_5shot", whole_only=("feat_1shot",))
def test_feat(numbers: Numbers, score: str) -> None:
    maps = numbers.episode()
    settings = (float(numbers.facts[name]) for name in ("temperature", "auxiliary_temperature", "balance"))
    model = FEAT(nn.Identity(), maps.query.shape[-1], score, *settings, attention_dropout=0.0, output_dropout=0.0)
    fill(model.double(), numbers.parameters())
    theirs = "euclidean" if score == "squared" else "cosine"
    numbers.close(model.attention(maps.support.mean(2)), "adapted_prototypes")
    numbers.close(model.score_embeddings(maps.support, maps.query), f"{theirs}.logits")

    items, classes = with_classes(maps.support, maps.query, maps.targets)
    ours = model.auxiliary_logits(items, classes, numbers.way)
    rows = torch.arange(len(ours))[:, None]
    supports = numbers.way * numbers.shot
    in_their_order = ours.clone()
    in_their_order[rows, numbers.order] = ours[:, :supports]
    numbers.close(in_their_order, f"{theirs}.auxiliary_logits")

    losses = [
        model.losses_of_embeddings(maps.support[b : b + 1], maps.query[b : b + 1], maps.targets[b : b + 1])
        for b in range(2)
    ]
    numbers.close(torch.stack([each.parts["few_shot"] for each in losses]), f"{theirs}.loss_query")
    numbers.close(torch.stack([each.parts["auxiliary"] for each in losses]), f"{theirs}.loss_auxiliary")
    total = torch.stack([each.total for each in losses])
    numbers.close(total, f"{theirs}.loss")
    total.sum().backward()
    numbers.gradients_close(model, f"{theirs}.grad.")


@cases("deepemd_1shot")
def test_deepemd(numbers: Numbers) -> None:
    """OpenCV solves in float32, so their logits are good to 1e-6 and their gradients to 1e-4."""
    maps = numbers.episode()
    model = DeepEMD(nn.Identity()).double()
    classes, query = maps.support[:, :, 0].flatten(-2), maps.query.flatten(-2)
    of_query, of_classes = node_weights(classes, query)
    for ours, name in ((of_query, "query_weights"), (of_classes, "class_weights")):
        if name in numbers.tensors:  # before scaling
            theirs = numbers[name] + 1e-5
            numbers.tensors[f"{name}, scaled"] = theirs * (theirs.shape[-1] / theirs.sum(-1, keepdim=True))
            numbers.close(ours, f"{name}, scaled")
    flows = optimal_flows(1 - node_similarities(classes, query), of_query, of_classes)
    if "flow_episode0_query0" in numbers.tensors:
        assert (flows[0, 0] - numbers["flow_episode0_query0"]).abs().max() < 1e-5
    logits = model.score(maps.support, maps.query)
    numbers.close(logits, "logits", 1e-6)
    if "qp.logits" in numbers.tensors:
        numbers.close(logits[0, :1], "qp.logits", 1e-5)  # the programme has a quadratic term of 1e-6
    loss = per_episode(model.score_classes(classes, query), maps.targets)
    numbers.close(loss, "loss", 1e-6)
    torch.testing.assert_close(model.losses_of_maps(maps).total, loss.mean())
    loss.sum().backward()
    numbers.gradients_close(model, tolerance=1e-4)


@pytest.mark.parametrize("learning_rate", ["0.1", "100"])
@cases("deepemd_fit_2shot")
def test_deepemd_fits_class_maps(numbers: Numbers, learning_rate: str) -> None:
    way, shot = numbers.way, numbers.shot
    support, query = numbers["support"], numbers["query"]
    # Theirs: image i is of class i % way. Ours: class by class.
    by_class = support.unflatten(0, (shot, way)).transpose(0, 1)
    order = numbers["order"] % way * shot + numbers["order"] // way
    model = DeepEMD(nn.Identity(), learning_rate=float(learning_rate))
    classes = model.fit(by_class.flatten(-2)[None], order[None])
    numbers.close(classes[0].view(way, *support.shape[1:]), f"lr{learning_rate}.class_maps", 1e-6)
    with torch.no_grad():
        numbers.close(model.score_classes(classes, query.flatten(-2)[None])[0], f"lr{learning_rate}.logits", 1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "squared"])
@cases("meta_baseline_1shot", whole_only=("meta_baseline_5shot",))
def test_meta_baseline(numbers: Numbers, similarity: str) -> None:
    maps = numbers.episode()
    model = MetaBaseline(nn.Identity(), similarity).double()
    if similarity == "cosine":
        with torch.no_grad():
            model.scale.fill_(numbers["param.temperature"].item())
    else:
        with torch.no_grad():
            model.scale.fill_(float(numbers.facts["squared_temperature"]))
    numbers.close(model.score_embeddings(maps.support, maps.query), f"{similarity}.logits")
    loss = model.losses_of_embeddings(maps.support, maps.query, maps.targets).total
    numbers.close(loss, f"{similarity}.loss")
    loss.backward()
    numbers.gradients_close(model, f"{similarity}.grad.", {"scale": "temperature"})
