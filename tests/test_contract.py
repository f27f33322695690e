"""What every method promises. Each entry of METHODS, and each choice among its settings, runs through these tests."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from dmf.config import METHODS as CONFIGS
from dmf.config import AnyMethod, DataConfig, EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, open_data
from dmf.episodes import Episode
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.tables import Tables
from dmf.machine.precision import autocast
from dmf.methods import METHODS, build_method
from dmf.methods.associative import AlignedMethod
from dmf.methods.base import FewShotMethod
from dmf.methods.config import EmbeddingMethodConfig
from dmf.methods.ideme_net.model import IDeMeNet
from dmf.methods.related import BaseImages
from dmf.records.checkpoints import read_checkpoint
from dmf.records.records import BEST, Epoch
from dmf.training.run import train

DATA = DataConfig(name="glyphs", image_size=20, channels=1, normalisation="half")
GENERATOR = torch.Generator().manual_seed(3)
BASE_CLASSES = 7
SMALL: dict[str, Any] = {
    "data.name": "glyphs",
    "data.image_size": 20,
    "data.channels": 1,
    "data.normalisation": "half",
    "augmentation.crop_padding": 2,
    "episodes.queries": 2,
    "training.device": "cpu",
    "training.epochs": 2,
    "training.warmup_epochs": 0,
    "training.episodes_per_epoch": 4,
    "training.episodes_per_step": 2,
    "training.learning_rate": 0.05,
    "training.validation_episodes": 2,
    "validation.queries": 2,
}
STARTED: dict[str, Any] = {
    "start.head": "linear",
    "start.training.epochs": 2,
    "start.training.batches_per_epoch": 2,
    "start.training.batch_size": 8,
    "start.training.validation_episodes": 2,
    "start.validation.queries": 2,
}


SMALL_OF: dict[str, dict[str, Any]] = {
    "ideme_net": {"deform_blocks": 3, "deformed_images": 2, "gallery_per_class": 2, "gallery_candidates": 3},
}
"""Settings of methods that are too large, or impossible, at this size."""
OTHERS_OF: dict[str, list[dict[str, Any]]] = {
    "ideme_net": [{"rounds": 2}, {"rounds": 2, "protocol": "released"}],
}
"""Further settings to try, which are not one of a few."""
SHORT: dict[str, Any] = {
    "novel_steps": 20,
    "alignment_iterations": 2,
    "related_classes": 1,
    "related_images": 3,
    "critic_steps": 2,
}
"""Settings of methods that would otherwise take seconds an episode."""


def configured(method: str, **settings: Any) -> AnyMethod:
    backbone = {"backbone": "conv64f"} if issubclass(CONFIGS[method], EmbeddingMethodConfig) else {}
    short = {name: value for name, value in SHORT.items() if name in CONFIGS[method].model_fields}
    return CONFIGS[method]().with_paths(backbone | short | SMALL_OF.get(method, {}) | settings)


def settings_of(method: str) -> dict[str, Any]:
    """The same by dotted paths, with the method's name."""
    return {"model.method": method} | {f"model.{name}": value for name, value in SMALL_OF.get(method, {}).items()}


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a field that takes one of a few."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return (False, True) if annotation is bool else ()


def variants() -> Iterator[Any]:
    """Every method with its defaults, and with each other choice of each setting of its own."""
    for method, kind in CONFIGS.items():
        yield pytest.param(configured(method), id=method)
        for name in kind.model_fields.keys() - EmbeddingMethodConfig.model_fields.keys():
            field = kind.model_fields[name]
            for value in choices(field.annotation):
                if value != field.default:
                    yield pytest.param(configured(method, **{name: value}), id=f"{method}-{name}={value}")
        for settings in OTHERS_OF.get(method, ()):
            told = ",".join(f"{name}={value}" for name, value in settings.items())
            yield pytest.param(configured(method, **settings), id=f"{method}-{told}")


VARIANTS = sorted(variants(), key=lambda each: str(each.id))
every_variant = pytest.mark.parametrize("config", VARIANTS)
every_learner = pytest.mark.parametrize("config", [each for each in VARIANTS if each.values[0].learns])


@functools.cache
def built(config: AnyMethod) -> FewShotMethod:
    """The method in float64 and evaluation mode, with images if it carries some, and statistics of its own."""
    torch.manual_seed(0)
    model = build_method(config, DATA, BASE_CLASSES).double()
    with torch.no_grad():
        for name, values in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                values += 0.1 * torch.rand(values.shape, generator=GENERATOR, dtype=values.dtype)
            elif values.dtype == torch.uint8:
                values.random_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def images(episodes: int, ways: int, shots: int, queries: int) -> Episode:
    """Noisy copies of one picture per class; query j has class j % ways."""
    pictures = torch.rand(episodes, ways, 1, 20, 20, generator=GENERATOR, dtype=torch.float64)
    targets = torch.arange(queries).remainder(ways).expand(episodes, -1)

    def noisy(clean: Tensor) -> Tensor:
        return clean + 2 * torch.rand(clean.shape, generator=GENERATOR, dtype=torch.float64)

    support = noisy(pictures[:, :, None].expand(-1, -1, shots, -1, -1, -1))
    return Episode(support, noisy(pictures[:, targets[0]]), targets, targets % BASE_CLASSES)


def maps(model: FewShotMethod, *sizes: int) -> Episode:
    with torch.no_grad():
        return model.features(images(*sizes))


def base_of(model: FewShotMethod) -> BaseImages | None:
    """Four noisy copies of one picture per base class, for a method that reads base images."""
    if not model.reads_base:
        return None
    generator = torch.Generator().manual_seed(5)
    kind = next(model.parameters()).dtype
    labels = torch.arange(BASE_CLASSES).repeat_interleave(4)
    pictures = torch.rand(BASE_CLASSES, 1, 20, 20, generator=generator, dtype=kind)[labels]
    pictures += torch.rand(pictures.shape, generator=generator, dtype=kind)
    return BaseImages(labels, model.base_features(pictures), lambda rows: pictures[rows])


def answers(model: FewShotMethod, seen: Episode) -> Tensor:
    """Logits of an episode of images, by way of the tables where the method has no other."""
    if not model.reads_base:
        logits: Tensor = model(seen)
        return logits
    given = model.features(seen)
    return scores(model, given.support, given.query)


def scores(model: FewShotMethod, support: Tensor, query: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
    """Logits by way of the tables, as an evaluation computes them."""
    with torch.no_grad():
        table = model.image_table(torch.cat([support.flatten(0, 2), query.flatten(0, 1)]))
        supports, queries = support.shape[:3].numel(), query.shape[:2].numel()
        rows, query_rows = torch.arange(supports + queries).split([supports, queries])
        rows, query_rows = rows.view(support.shape[:3]), query_rows.view(query.shape[:2])
        if model.adapts:
            seeds = range(len(query)) if seeds is None else seeds
            each = model.adapt_each(table, rows, query_rows, seeds, base_of(model))
            return torch.stack([answer.logits for answer in each])
        classes = model.class_table(table, rows.flatten(0, 1))
        return model.score_rows(classes, torch.arange(rows[..., 0].numel()).view(rows.shape[:2]), table, query_rows)


def close(config: AnyMethod, ours: Tensor, theirs: Tensor) -> bool:
    adaptive = getattr(config, "solver", None) == "dopri5"  # its steps depend on the largest error of the batch
    tolerance = 1e-3 if adaptive else 1e-9
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("backbone", ["resnet12", "resnet18", pytest.param("wrn28", marks=pytest.mark.full)])
@pytest.mark.parametrize("method", [name for name, kind in CONFIGS.items() if kind.reads_base])
def test_copies_of_every_backbone_adapt_and_the_model_stays(method: str, backbone: str) -> None:
    """In float32, since WRN-28-10 and the moments of three Adams would take gigabytes."""
    torch.manual_seed(0)
    model = build_method(configured(method, backbone=backbone, alignment_iterations=1), DATA, BASE_CLASSES).eval()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    seen = images(1, 2, 2, 4)
    given = model.features(replace(seen, support=seen.support.float(), query=seen.query.float()))
    once = scores(model, given.support, given.query)
    assert once.shape == (1, 4, 2) and once.isfinite().all()
    assert torch.equal(scores(model, given.support, given.query), once)
    assert isinstance(model, AlignedMethod)
    model.settings = replace(model.settings, iterations=2)
    assert not torch.equal(scores(model, given.support, given.query), once)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@every_variant
@pytest.mark.parametrize("sizes", [(1, 2, 1, 1), (2, 5, 1, 7), (2, 3, 4, 10)], ids=str)
def test_any_way_shot_and_number_of_queries_and_tables_equal_maps(config: AnyMethod, sizes: tuple[int, ...]) -> None:
    model = built(config)
    given = maps(model, *sizes)
    ours = scores(model, given.support, given.query)
    assert ours.shape == (sizes[0], sizes[3], sizes[1]) and ours.isfinite().all()
    if not model.reads_base:
        with torch.no_grad():
            assert close(config, ours, model.score(given.support, given.query))


@every_variant
@pytest.mark.parametrize("shots", [1, 3])
def test_order_matters_where_the_method_says_so(config: AnyMethod, shots: int) -> None:
    model = built(config)
    given = maps(model, 2, 4, shots, 5)
    plain = scores(model, given.support, given.query)
    classes, items = torch.tensor([2, 0, 3, 1]), torch.arange(shots).roll(1)
    by_class = scores(model, given.support[:, classes], given.query)
    by_item = scores(model, given.support[:, :, items], given.query)
    if not model.reads_order:
        assert close(config, by_class, plain[..., classes])
        assert close(config, by_item, plain)
    elif shots > 1:
        assert not (close(config, by_class, plain[..., classes]) and close(config, by_item, plain))


@every_variant
def test_queries_are_scored_one_by_one_where_the_method_says_so(config: AnyMethod) -> None:
    model = built(config)
    given = maps(model, 2, 3, 2, 8)
    plain = scores(model, given.support, given.query)
    others = torch.tensor([5, 3, 0, 7, 1, 2, 6, 4])
    assert close(config, scores(model, given.support, given.query[:, others]), plain[:, others])
    some = scores(model, given.support, given.query[:, :4])
    assert close(config, some, plain[:, :4]) != model.transductive


@every_variant
def test_episodes_at_once_equal_one_at_a_time(config: AnyMethod) -> None:
    model = built(config)
    given = maps(model, 3, 4, 2, 6)
    together = scores(model, given.support, given.query, seeds=[7, 8, 9])
    for b, seed in enumerate((7, 8, 9)):
        alone = scores(model, given.support[b : b + 1], given.query[b : b + 1], seeds=[seed])
        assert close(config, together[b : b + 1], alone)


@every_learner
def test_losses_are_averages_over_episodes_in_any_order_of_queries(config: AnyMethod) -> None:
    """In evaluation mode, because batch norm and dropout see all episodes of a step."""
    model = built(config)
    given = maps(model, 2, 3, 2, 9)
    whole = model.losses_of_maps(given)
    others = torch.randperm(9, generator=GENERATOR)
    shuffled = Episode(given.support, given.query[:, others], given.targets[:, others], given.labels[:, others])
    parts = [
        Episode(given.support[b : b + 1], given.query[b : b + 1], given.targets[b : b + 1], given.labels[b : b + 1])
        for b in range(2)
    ]
    alone = [model.losses_of_maps(part) for part in parts]
    for name, loss in {"total": whole.total, **whole.parts}.items():
        same = model.losses_of_maps(shuffled)
        assert close(config, same.total if name == "total" else same.parts[name], loss), name
        each = [part.total if name == "total" else part.parts[name] for part in alone]
        assert close(config, torch.stack(each).mean(), loss), name


@every_learner
def test_gradients_are_finite_and_reach_every_weight(config: AnyMethod) -> None:
    model = built(config).train()
    model.zero_grad()
    model.losses(images(2, 3, 1, 6)).total.backward()
    model.eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def single(episode: Episode) -> Episode:
    return Episode(episode.support.float(), episode.query.float(), episode.targets, episode.labels)


@functools.cache
def learnt(config: AnyMethod) -> tuple[FewShotMethod, list[float]]:
    """The method in float32, trained on two episodes if it learns, and the losses of its steps."""
    torch.manual_seed(0)
    model = build_method(config, DATA, BASE_CLASSES).train()
    if isinstance(model, IDeMeNet) and not model.trains_embedding:  # embeddings of random weights are near each other
        torch.nn.init.constant_(model.scale, 1e4)
    seen, losses = single(images(2, 3, 1, 9)), []
    optimizer = torch.optim.Adam(model.parameters(), 3e-3) if config.learns else None
    for _ in range(20 if optimizer else 0):
        found = model.losses(seen)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        # Where a method trains a classifier, queries are scored by what that makes of the embedding.
        losses.append(found.parts.get("classification", found.total).item())
    return model.eval(), losses


@every_learner
def test_the_loss_falls_on_a_small_set(config: AnyMethod) -> None:
    losses = learnt(config)[1]
    assert sum(losses[-5:]) / 5 < 0.95 * losses[0]


@pytest.mark.parametrize("config", [each for each in VARIANTS if not each.values[0].reads_base])
def test_bf16_is_near_fp32(config: AnyMethod) -> None:
    """A number of 8 bits has a relative error of up to 1/256.

    Adaptation to base images is left out: which images a head finds related is a matter of all or nothing, and Adam's
    first steps have the size of the learning rate whatever that of the gradient. Which queries a transductive method
    takes for certain is all or nothing too, so a few of its logits may be others.
    """
    model, seen = learnt(config)[0], single(images(2, 5, 1, 20))
    with torch.no_grad():
        exact = model(seen)
        with autocast(torch.device("cpu"), "bf16"):
            ours = model(seen)
    assert ours.dtype == torch.float32
    near = (ours - exact).abs() <= 0.1 * (exact.max() - exact.min())
    assert near.double().mean() > 0.9 if model.transductive else near.all()


@pytest.fixture(scope="module")
def glyphs(cache: Path) -> DataSet:
    return open_data(DATA, cache_dir=cache)


@every_variant
@pytest.mark.parametrize("shot", [1, 2])
def test_an_evaluation_from_cached_tables_equals_forwarding(
    config: AnyMethod, shot: int, glyphs: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(config)
    experiment = ExperimentConfig().with_paths(SMALL)
    augment = Augmentation(experiment.augmentation, DATA)
    monkeypatch.setattr(augment, "evaluate", lambda pixels: Augmentation.evaluate(augment, pixels).double())
    bank = episode_bank(glyphs.test, EvaluationConfig(episodes=6, shot=shot, queries=2))
    with torch.no_grad(), Tables.of(model, glyphs.test, bank, augment) as tables:
        seeds = list(range(6))
        each = tables.adapted(slice(0, 6), seeds, base_of(model)) if model.adapts else ()
        cached = torch.stack([answer.logits for answer in each]) if model.adapts else tables.scores(slice(0, 6))
        support, query = (
            augment.evaluate(glyphs.test.pixels(rows.flatten())).unflatten(0, rows.shape)
            for rows in (bank.support, bank.query)
        )
        forwarded = answers(model, Episode(support, query, bank.targets, bank.targets))
    assert close(config, cached, forwarded)


def stopped(done: Epoch) -> None:
    if done.epoch == 1:
        raise KeyboardInterrupt


def train_twice(config: Any, data: DataSet, folder: Path, starts: dict[str, Path]) -> dict[str, Path]:
    """Train without interruption, and stopped after the first of two epochs and resumed; checks that they are equal."""
    whole = train(config, data, folder / "whole", start=starts.get("whole"))
    if whole.history:
        with pytest.raises(KeyboardInterrupt):
            train(config, data, folder / "resumed", stopped, start=starts.get("resumed"))
    torch.manual_seed(99)  # what else the process has drawn must not matter
    resumed = train(config, data, folder / "resumed", start=starts.get("resumed"))
    assert resumed.weights == whole.weights and len(whole.history) in (0, 2)
    assert [each.loss for each in resumed.history] == [each.loss for each in whole.history]
    return {name: folder / name / BEST for name in ("whole", "resumed")}


@pytest.fixture(scope="module")
def stages(glyphs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weights of one pre-training, never stopped and resumed."""
    config = ExperimentConfig().with_paths({"model.method": "proto_net", "model.backbone": "conv64f"} | SMALL | STARTED)
    assert config.stage is not None
    return train_twice(config.stage, glyphs, tmp_path_factory.mktemp("stage"), {})


@pytest.mark.parametrize("method", METHODS)
def test_a_training_stopped_in_any_stage_resumes_to_the_same_bits(
    method: str, glyphs: DataSet, stages: dict[str, Path], tmp_path: Path
) -> None:
    embeds = issubclass(CONFIGS[method], EmbeddingMethodConfig)
    settings = ({"model.backbone": "conv64f"} | STARTED) if embeds else {}
    config = ExperimentConfig().with_paths(settings_of(method) | SMALL | settings)
    found = train_twice(config, glyphs, tmp_path, stages if embeds else {})
    tensors = [read_checkpoint(path)[0] for path in found.values()]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0] | tensors[1])


@pytest.mark.parametrize("protocol", ["clean", "released"])
def test_every_round_stopped_and_resumed_has_the_same_bits(
    protocol: str, glyphs: DataSet, stages: dict[str, Path], tmp_path: Path
) -> None:
    settings = settings_of("ideme_net") | SMALL | STARTED | {"model.backbone": "conv64f", "model.protocol": protocol}
    starts = stages
    for rounds in (1, 2, 3):
        config = ExperimentConfig().with_paths(settings | {"model.rounds": rounds})
        before = read_checkpoint(starts["whole"])[0]
        starts = train_twice(config, glyphs, tmp_path / str(rounds), starts)
        whole, resumed = (read_checkpoint(path)[0] for path in starts.values())
        assert all(torch.equal(whole[name], resumed[name]) for name in whole | resumed)
        moved = {name for name in before.keys() & whole.keys() if not torch.equal(before[name], whole[name])}
        parts = {".".join(name.split(".")[1:3]) for name in moved}
        assert ("backbone.layers" in parts) == (rounds == 2 or protocol == "released"), "statistics or weights"
        if rounds > 1:
            assert {"deformation.encoder", "scale"} & parts == (
                {"deformation.encoder", "scale"} if rounds == 3 else {"scale"} if protocol == "released" else set()
            )


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_setting_is_named(method: str) -> None:
    start = {"start.head": "linear"} if CONFIGS[method].needs_start else {}
    plain = ExperimentConfig().with_paths({"model.method": method} | start)
    for name, field in CONFIGS[method].model_fields.items():
        bounded = field.annotation is not float or field.metadata
        wrongs = ("nonsense",) if name == "method" else ("nonsense", [1], *((-1.5,) if bounded else ()))
        wrongs = wrongs[1:] if name == "weights" else wrongs  # any text is a path
        for wrong in wrongs:
            with pytest.raises(ValueError, match="expected one of dmf, " if name == "method" else f"\\.{name}: "):
                plain.with_paths({f"model.{name}": wrong})
    with pytest.raises(ValueError, match="'model.nonsense' is not a parameter; the parameters there are "):
        plain.with_paths({"model.nonsense": 1})
