"""What a configuration of LibFewShot asks for, as a sweep.

Method, backbone and optimiser have to exist here. Every other setting is either mapped or told with the reason.
Facts about LibFewShot: RL-VIG/LibFewShot@0324dd6, core/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from dmf.config import METHODS
from dmf.config.other_recipes import ENLARGED, FLAT, MEAN, PADDED, SIX, UNBOUNDED, UNTOUCHED, augmented, step_lr
from dmf.data.known import DATASETS
from dmf.machine.paths import expanded
from dmf.values import shown
from orchestrator.import_config.configuration import Configuration

Choice = TypeVar("Choice")
Settings = dict[str, Any]
"""Dotted path -> value, as in a sweep's `set`."""
ELSEWHERE = (
    *("device_ids", "n_gpu", "workers", "dataloader_num", "deterministic", "use_memory", "parallel_part"),
    *("log_name", "log_level", "log_interval", "log_paramerter", "result_root", "save_interval", "save_part", "tag"),
    *("resume", "resume_path", "rank", "port", "tb_scale"),
)
"""Settings of LibFewShot that say where and how a program runs."""
OF_SHAPES = ("feat_dim", "num_class", "num_classes", "nFeat", "hdim", "hid_dim", "HW", "feat_height", "feat_width")
"""Arguments of its classifiers that say what the backbone and the images are."""
DATA_NAMES = {
    "miniimagenet": "mini_imagenet",
    "tieredimagenet": "tiered_imagenet",
    "cifarfs": "cifar_fs",
    "omniglot": "omniglot",
}
"""How the folder of a known data set may begin, in lower case without signs -> its name here."""


def _none_of_its_own(given: Configuration) -> Settings:
    """A classifier without arguments that are settings here."""
    return {}


def _of_proto_net(given: Configuration) -> Settings:
    return {"model.distance": "sum"}


def _of_r2d2(given: Configuration) -> Settings:
    given.tell("R2D2's ridge", UNBOUNDED)
    return {}


def _of_can(given: Configuration) -> Settings:
    given.leave(["classifier.kwargs.iter_num_prob"], "LibFewShot's CAN is inductive and does not read it")
    return {"model.score_scale": given.number("classifier.kwargs.scale_cls", 7.0)}


def _of_relation_net(given: Configuration) -> Settings:
    return {"model.relation_loss": "cross_entropy", "model.relation_momentum": 1.0}


def _of_feat(given: Configuration) -> Settings:
    balance = given.number("classifier.kwargs.balance")
    if balance == 0:
        raise ValueError(
            f"{given.where}: classifier.kwargs.balance=0 leaves FEAT only its auxiliary loss, which cannot be said here"
        )
    if balance != 1:
        given.tell(
            f"classifier.kwargs.balance={balance:g}",
            f"LibFewShot's loss is {balance:g} * few-shot + auxiliary; here it is that divided by {balance:g}, so the "
            "same training has the weight decay divided by it and, with SGD, the learning rate times it",
        )
    mode = given.text("classifier.kwargs.mode", "euclidean")
    if mode != "euclidean":
        given.tell(f"classifier.kwargs.mode={shown(mode)}", "there is no such score here; squared distances instead")
    return {
        "model.auxiliary_weight": 1 / balance,
        "model.temperature": given.number("classifier.kwargs.temperature", 1.0),
        "model.auxiliary_temperature": given.number("classifier.kwargs.temperature2", 1.0),
    }


def _of_dmf(given: Configuration) -> Settings:
    return {
        "model.groups": given.count("classifier.kwargs.groups", 1),
        "model.kernel_size": given.count("classifier.kwargs.kernel", 3),
    }


def _of_inner_loop(given: Configuration) -> Settings:
    """MAML and ANIL: `iter` steps, or `train_iter` and `test_iter`."""
    of = "classifier.kwargs.inner_param"
    rate = given.number(f"{of}.lr")
    if f"{of}.iter" in given.below(of):
        steps = tested = given.count(f"{of}.iter")
    else:
        steps, tested = given.count(f"{of}.train_iter"), given.count(f"{of}.test_iter")
    return {"model.inner_learning_rate": rate, "model.inner_steps": steps, "model.inner_steps_in_tests": tested}


def _of_baseline(given: Configuration) -> Settings:
    return {"start.head": "linear", **_fit(given)}


def _of_baseline_plus(given: Configuration) -> Settings:
    classes = given.any("classifier.kwargs.num_class")
    scale = 10.0 if isinstance(classes, int) and classes > 200 else 2.0
    return {"start.head": "weight_norm", "start.head_scale": scale, **_fit(given)}


def _of_neg_net(given: Configuration) -> Settings:
    of = "classifier.kwargs"
    margin = given.any(f"{of}.margin")
    if (inner := given.any(f"{of}.inner_param.inner_margin")) not in (None, 0):
        given.tell(f"{of}.inner_param.inner_margin={shown(inner)}", "the head fitted in tests has no margin here")
    return {
        "start.head": "cosine",
        "start.head_margin": -0.3 if margin is None else margin,
        "start.head_scale": given.number(f"{of}.scale_factor", 30.0),
        "model.fit_scale": given.number(f"{of}.inner_param.inner_scale_factor", 5.0),
        **_fit(given),
    }


def _of_rfs(given: Configuration) -> Settings:
    of = "classifier.kwargs"
    if given.flag(f"{of}.is_distill", False):
        given.tell(f"{of}.is_distill=True", "there is no distillation here; the first generation instead")
    given.leave([f"{of}.{name}" for name in ("gamma", "alpha", "kd_T")], "they weigh the loss of the distillation")
    given.leave([f"{of}.emb_func_path", f"{of}.classifier_path"], "they are the teacher of the distillation")
    return {"start.head": "linear", "model.loss_weight": 1.0}


def _fit(given: Configuration) -> Settings:
    """The head that is fitted to each test episode."""
    of = "classifier.kwargs.inner_param"
    found: Settings = {
        "model.fit_passes": given.count(f"{of}.inner_train_iter", 100),
        "model.fit_batch": given.count(f"{of}.inner_batch_size", 4),
    }
    name = given.text(f"{of}.inner_optim.name", "SGD")
    if name != "SGD":
        rest = given.below(f"{of}.inner_optim.kwargs")
        given.tell(f"{of}.inner_optim.name={shown(name)}", "the head is fitted by SGD here, with its published values")
        given.leave(rest, f"they are of {name}")
        return found
    return found | {
        "model.fit_learning_rate": given.number(f"{of}.inner_optim.kwargs.lr", 0.01),
        "model.fit_momentum": given.number(f"{of}.inner_optim.kwargs.momentum", 0.0),
        "model.fit_dampening": given.number(f"{of}.inner_optim.kwargs.dampening", 0.0),
        "model.fit_weight_decay": given.number(f"{of}.inner_optim.kwargs.weight_decay", 0.0),
    }


@dataclass(frozen=True)
class Classifier:
    """A classifier of LibFewShot that is a method here."""

    method: str
    reads: Literal["map", "flattened", "mean"]
    """What the method here makes of a feature map: it needs positions, or flattens it, or takes the mean over them."""
    settings: Callable[[Configuration], Settings]
    """Maps its arguments."""


CLASSIFIERS = {
    "ProtoNet": Classifier("proto_net", "flattened", _of_proto_net),
    "R2D2": Classifier("r2d2", "flattened", _of_r2d2),
    "RelationNet": Classifier("relation_net", "map", _of_relation_net),
    "CAN": Classifier("can", "map", _of_can),
    "FEAT": Classifier("feat", "mean", _of_feat),
    "DMF": Classifier("dmf", "map", _of_dmf),
    "META_FILTER": Classifier("dmf", "map", _of_dmf),
    "MetaBaseline": Classifier("meta_baseline", "mean", _none_of_its_own),
    "MAML": Classifier("maml", "flattened", _of_inner_loop),
    "ANIL": Classifier("anil", "flattened", _of_inner_loop),
    "Baseline": Classifier("baseline", "mean", _of_baseline),
    "BaselinePlus": Classifier("baseline_pp", "mean", _of_baseline_plus),
    "NegNet": Classifier("negative_margin", "mean", _of_neg_net),
    "RFSModel": Classifier("rfs", "mean", _of_rfs),
}
"""By LibFewShot's name."""


@dataclass(frozen=True)
class Backbone:
    """A backbone of LibFewShot that is one here."""

    name: str
    settings: Callable[[Configuration], Settings]
    pools: bool
    """Whether it takes the mean over positions unless told otherwise."""


def _of_conv(given: Configuration) -> Settings:
    of = "backbone.kwargs"
    slope, leaky = given.number(f"{of}.negative_slope", 0.2), given.flag(f"{of}.leaky_relu", False)
    if not given.flag(f"{of}.maxpool_last2", True):
        given.tell(f"{of}.maxpool_last2=False", "the third block always pools here, so maps have half the side")
    return {"model.last_pooling": given.flag(f"{of}.last_pool", True), "model.conv_slope": slope if leaky else 0.0}


def _of_resnet12(given: Configuration) -> Settings:
    of = "backbone.kwargs"
    given.leave([f"{of}.keep_prob"], "LibFewShot's ResNet-12 does not read it")
    pooled = given.flag(f"{of}.maxpool_last2", True)
    if pooled:
        given.tell("backbone.name=resnet12", SIX)
    else:
        told = "the source's maps then have 21x21 positions at 84 pixels; here, 11x11, since the third block pools"
        given.tell(f"{of}.maxpool_last2=False", told)
    return {"model.last_pooling": pooled, **_drop(given)}


def _of_resnet12_drop(given: Configuration) -> Settings:
    if not given.flag("backbone.kwargs.drop_block", True):
        given.tell("backbone.kwargs.drop_block=False", "blocks 3 and 4 have DropBlock here, not dropout")
    return {"model.last_pooling": False, **_drop(given)}


def _drop(given: Configuration) -> Settings:
    return {
        "model.drop_rate": given.number("backbone.kwargs.drop_rate", 0.1),
        "model.drop_block_size": given.count("backbone.kwargs.dropblock_size", 5),
    }


def _of_resnet18(given: Configuration) -> Settings:
    return {}


def _of_wrn(given: Configuration) -> Settings:
    of = "backbone.kwargs"
    depth, width = given.count(f"{of}.depth", 28), given.count(f"{of}.widen_factor", 10)
    if (depth, width) != (28, 10):
        raise ValueError(f"{given.where}: its backbone is WRN-{depth}-{width}, and here there is only WRN-28-10")
    if (rate := given.number(f"{of}.dropRate", 0.0)) > 0:
        given.tell(f"{of}.dropRate={rate:g}", "WRN-28-10 has no dropout here")
    given.tell("backbone.name=WRN", "the source takes the maximum over positions where its option says average")
    return {"model.wrn_variant": "s2m2"}


BACKBONES = {
    "Conv64F": Backbone("conv64f", _of_conv, False),
    "Conv32F": Backbone("conv32f", _of_conv, False),
    "resnet12": Backbone("resnet12", _of_resnet12, True),
    "resnet12_drop": Backbone("resnet12", _of_resnet12_drop, False),
    "resnet18": Backbone("resnet18", _of_resnet18, True),
    "WRN": Backbone("wrn28", _of_wrn, True),
}
"""By LibFewShot's name."""


def sweep_of(given: Configuration, name: str) -> dict[str, Any]:
    """The sweep that a configuration asks for, as plain data; what has no place in it is in `given.unmapped`.

    Raises ValueError, in one sentence, if the configuration cannot be had here, or has a value that cannot be.
    """
    classifier = _chosen(given, "classifier.name", CLASSIFIERS, "method")
    backbone = _chosen(given, "backbone.name", BACKBONES, "backbone")
    method = METHODS[classifier.method]
    epochs = given.count("epoch")
    data = _data(given)
    test = {
        "way": given.count("test_way", way := given.count("way_num", least=2), least=2),
        "shot": given.count("test_shot", shot := given.count("shot_num")),
        "queries": given.count("test_query", queries := given.count("query_num")),
    }
    tests = given.count("test_episode")
    settings = {
        **data,
        **_augmentation(given, data["data.image_size"]),
        "model.method": classifier.method,
        "model.backbone": backbone.name,
        **backbone.settings(given),
        **_weights(given, method.learns),
        **classifier.settings(given),
    }
    _tell_embedding(given, classifier, backbone)
    if method.learns:
        settings |= {"episodes.way": way, "episodes.shot": shot, "episodes.queries": queries}
        settings |= {f"validation.{each}": value for each, value in test.items()}
        settings |= _optimisation(given, epochs, "training") | _episodes(given)
        given.leave(["batch_size"], "LibFewShot reads it only for classifiers that it trains on batches")
    else:
        settings |= {f"start.validation.{each}": value for each, value in test.items()}
        settings |= _optimisation(given, epochs, "start.training") | _batches(given, data["data.name"])
        given.leave(["train_episode", "episode_size"], "LibFewShot trains this classifier on batches")
    at = "training" if method.learns else "start.training"
    settings |= {f"{at}.validation_episodes": tests, **_validation(given, epochs, at)}
    if "inner_steps" in method.model_fields:
        settings |= _classifier_way(given, way, test["way"])
    seed = given.count("seed", 0, least=0)
    evaluation = {"episodes": tests * given.count("test_epoch", 5), **test}
    given.leave([f"classifier.kwargs.{each}" for each in OF_SHAPES], "they follow from the images and the backbone")
    given.leave(ELSEWHERE, "where and how a program runs; here, options of the sweep and its resources say so")
    given.leave_rest("there is no such setting here")
    return {
        "name": name,
        "about": f"{classifier.method} on {backbone.name}, from a configuration of LibFewShot",
        "base": "released",
        "set": settings,
        "seeds": [seed],
        "evaluation": evaluation,
        "parts": [{"table": "1"}],
    }


def _chosen(given: Configuration, path: str, there_are: Mapping[str, Choice], what: str) -> Choice:
    name = given.text(path)
    if name not in there_are:
        raise ValueError(
            f"{given.where}: {path}={shown(name)} has no {what} here; those that can be imported are "
            f"{', '.join(there_are)}"
        )
    return there_are[name]


def _data(given: Configuration) -> Settings:
    root = given.text("data_root")
    folder = PurePosixPath(root).name.lower()
    plain = re.sub("[^a-z0-9]", "", folder)
    known = next((name for start, name in DATA_NAMES.items() if plain.startswith(start)), None)
    own = re.sub("[^a-z0-9]+", "_", folder).strip("_")[:80]
    return {
        "data.name": known or (own if own[:1].isalpha() else f"images_{own}".rstrip("_")),
        "data.root": str(_from_root(given, root, "data_root")),
        "data.image_size": given.count("image_size", 84),
        "data.normalisation": "mini_imagenet",
    }


def _from_root(given: Configuration, path: str, setting: str) -> Path:
    """The path that a setting gives; LibFewShot runs in its own folder."""
    there = Path(expanded(path, setting))
    return there if there.is_absolute() or given.root is None else given.root / there


def _augmentation(given: Configuration, size: int) -> Settings:
    for path in ("augment_times", "augment_times_query"):
        if (times := given.count(path, 1)) > 1:
            given.tell(f"{path}={times}", "an image is in an episode once here")
    how = given.any("augment_method")
    if not given.flag("augment", True):
        return augmented(UNTOUCHED)
    if how not in (None, "NormalAug"):
        given.tell(f"augment_method={shown(how)}", "not here; LibFewShot's usual one instead")
    given.tell("augment=True", ENLARGED)
    return augmented(PADDED, crop_padding=round(size * PADDED["crop_padding"] / 84))


def _tell_embedding(given: Configuration, classifier: Classifier, backbone: Backbone) -> None:
    """Tell if LibFewShot's classifier sees another embedding of the feature map than the method here."""
    pools = given.any("backbone.kwargs.avg_pool")
    pools = backbone.pools if pools is None else pools is True
    given.any("backbone.kwargs.is_flatten")  # a pooled or flattened map has the numbers of the other
    if given.any("backbone.kwargs.is_feature") is True:
        given.tell("backbone.kwargs.is_feature=True", "methods here see the last feature map only")
    if classifier.reads == "map" and pools:
        given.tell("backbone.kwargs.avg_pool", "the source has one position; here, the method sees the feature map")
    elif classifier.reads == "flattened" and pools:
        given.tell("backbone.kwargs.avg_pool", FLAT)
    elif classifier.reads == "mean" and not pools:
        given.tell("backbone.kwargs.is_flatten", MEAN)


def _weights(given: Configuration, learns: bool) -> Settings:
    """The weights that the backbone starts from; a method that `learns` nothing has a pre-training in their place."""
    path = given.any("pretrain_path")
    if path is None:
        return {}
    if not isinstance(path, str):
        raise given.wrong("pretrain_path", path, "text")
    if not learns:
        given.tell(f"pretrain_path={shown(path)}", "the pre-training starts from random weights here")
        return {}
    there = _from_root(given, path, "pretrain_path")
    if not there.is_file():
        given.tell(f"pretrain_path={shown(path)}", "there is no such file here; set model.weights to it where it is")
        return {}
    return {"model.weights": str(there)}


def _optimisation(given: Configuration, epochs: int, at: str) -> Settings:
    """Optimiser and schedule, for the section `at`."""
    name = given.text("optimizer.name")
    of = "optimizer.kwargs"
    if name not in ("SGD", "Adam"):
        raise ValueError(f"{given.where}: optimizer.name={shown(name)} cannot be had here; there are SGD and Adam")
    whole = given.number(f"{of}.lr", 1e-3 if name == "Adam" else None)
    rate = _rate_of_backbone(given, whole)
    found: Settings = {"epochs": epochs, "optimiser": name.lower(), "learning_rate": rate}
    if rate != whole:
        found["head_rate_factor"] = whole / rate
    if name == "SGD":
        found["momentum"] = given.number(f"{of}.momentum", 0.0)
        found["nesterov"] = given.flag(f"{of}.nesterov", False)
    elif (betas := given.any(f"{of}.betas")) not in (None, [0.9, 0.999]):
        given.tell(f"{of}.betas={shown(betas)}", "Adam's betas are 0.9 and 0.999 here")
    found["weight_decay"] = given.number(f"{of}.weight_decay", 0.0)
    found["warmup_epochs"] = given.count("warmup", 0, least=0)
    found |= _schedule(given, epochs, found["warmup_epochs"], rate)
    return {f"{at}.{name}": value for name, value in found.items()}


def _rate_of_backbone(given: Configuration, whole: float) -> float:
    """The learning rate of the backbone; `whole` is that of all parts without one of their own."""
    of, rate = "optimizer.other", whole
    if f"{of}.emb_func" in given.below(of):
        own = given.any(f"{of}.emb_func")
        if own is None:
            given.tell(f"{of}.emb_func=null", "it freezes the backbone; methods that learn from episodes train it here")
        elif not isinstance(own, int | float) or isinstance(own, bool) or not own > 0:
            raise given.wrong(f"{of}.emb_func", own, "a number above 0")
        else:
            rate = float(own)
    else:
        rate = given.number(f"{of}.emb_func.lr", whole)
    for path in given.below(of):
        told = "one rate is that of the backbone here, and training.head_rate_factor times it that of all else"
        given.tell(f"{path}={shown(given.any(path))}", told)
    if rate == 0:
        raise given.wrong("optimizer.kwargs.lr", rate, "a number above 0")
    return rate


def _schedule(given: Configuration, epochs: int, warmup: int, rate: float) -> Settings:
    """The schedule of the learning rate, which LibFewShot advances after each epoch."""
    name, of = given.text("lr_scheduler.name"), "lr_scheduler.kwargs"
    if name == "CosineAnnealingLR":
        if (period := given.count(f"{of}.T_max")) != epochs - warmup:
            told = f"the half cosine takes the {epochs - warmup} epochs after the warm-up here"
            given.tell(f"{of}.T_max={period}", told)
        if floor := given.number(f"{of}.eta_min", 0.0):
            given.tell(f"{of}.eta_min={floor:g}", "here, the half cosine falls to 0 and is held at this rate")
        return {"schedule": "half_cosine", "learning_rate_floor": min(1.0, floor / rate)}
    if name in ("StepLR", "ExponentialLR"):
        every = given.count(f"{of}.step_size") if name == "StepLR" else 1
        milestones = step_lr(every, given.number(f"{of}.gamma", 0.1 if name == "StepLR" else None), epochs - warmup)
    elif name == "MultiStepLR":
        after, factor = given.any(f"{of}.milestones"), given.number(f"{of}.gamma", 0.1)
        if not isinstance(after, list) or not all(type(each) is int and each > 0 for each in after):
            raise given.wrong(f"{of}.milestones", after, "a list of epochs")
        rising = enumerate(sorted(set(after)), 1)
        milestones = [[each, round(factor**count, 12)] for count, each in rising if each < epochs - warmup]
    else:
        given.tell(f"lr_scheduler.name={shown(name)}", "there is no such schedule here; the rate is constant instead")
        given.leave(given.below(of), f"they are of {shown(name)}, and none is executed")
        return {"schedule": "constant"}
    if any(factor == 0 for _, factor in milestones):
        raise given.wrong(f"{of}.gamma", 0, "a number above 0")
    if all(factor == 1 for _, factor in milestones):
        return {"schedule": "constant"}
    return {"schedule": "steps", "milestones": [[warmup + after, factor] for after, factor in milestones]}


def _episodes(given: Configuration) -> Settings:
    """Episodes of training; LibFewShot drops what does not fill a step."""
    episodes, together = given.count("train_episode"), given.count("episode_size", 1)
    if episodes < together:
        raise ValueError(f"{given.where}: train_episode={episodes} does not fill one step of episode_size={together}")
    return {"training.episodes_per_epoch": episodes - episodes % together, "training.episodes_per_step": together}


def _batches(given: Configuration, data: str) -> Settings:
    """Batches of a pre-training; LibFewShot's epoch is one pass over the training images."""
    batch = given.count("batch_size", 128, least=2)
    facts = DATASETS.get(data)
    if facts is not None and facts.images is not None:
        return {"start.training.batch_size": batch, "start.training.batches_per_epoch": facts.images[0] // batch}
    given.tell(
        "LibFewShot's epoch",
        "one pass over the training images, whose number is not known here; set start.training.batches_per_epoch to "
        f"it divided by {batch}",
    )
    return {"start.training.batch_size": batch}


def _validation(given: Configuration, epochs: int, at: str) -> Settings:
    every = given.count("val_per_epoch", 1)
    return {f"{at}.validate_every": every, **({f"{at}.validate_all_from": epochs} if every > 1 else {})}


def _classifier_way(given: Configuration, way: int, tested: int) -> Settings:
    """MAML's and ANIL's classifiers have initial weights of their own for each class."""
    if way == tested:
        return {"model.classifier_way": way}
    given.tell(f"test_way={tested}", f"the source's classifier has {way} outputs; here, any number from one start")
    return {}
