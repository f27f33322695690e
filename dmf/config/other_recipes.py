"""Published trainings of the methods other than DMF, as recipes: their values, where they are from, what differs.

They are of miniImageNet unless their name says otherwise. A recipe without a number of shots in its name holds for any,
unless it sets one. What a source does and no setting here can do is stated in words, and so is what no source says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of a published training."""

    values: Mapping[str, Any]
    """Dotted path -> value, where it differs from the default."""
    source: str
    """The paper or the code that they are from."""
    differences: tuple[str, ...] = ()
    """What that training does otherwise, and what is not known of it, one phrase each."""
    tested: tuple[int, ...] = ()
    """The numbers of shots that it is published for, if it trains with another one."""


def step_lr(every: int, factor: float, epochs: int) -> list[list[float]]:
    """Milestones that multiply the learning rate by `factor` after each `every` of `epochs` epochs."""
    return [[every * count, round(factor**count, 12)] for count in range(1, (epochs - 1) // every + 1)]


# Augmentation. Without a name to the contrary, our evaluations read whole images, without cropping.
UNTOUCHED: dict[str, Any] = {"crop": "none", "color_jitter": 0.0, "flip": False, "erasing": 0.0}
RESIZED: dict[str, Any] = {"crop": "resized", "color_jitter": 0.4, "flip": True, "erasing": 0.0}
PADDED: dict[str, Any] = {"crop": "padded", "crop_padding": 8, "color_jitter": 0.4, "flip": True, "erasing": 0.0}


def augmented(how: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Settings of the section `augmentation`."""
    return {f"augmentation.{name}": value for name, value in {**how, **more}.items()}


WHOLE_IMAGE = {"data.resize": "center_crop"}
"""Evaluations see the central 84 pixels of images scaled to 92."""
MINI = {"data.normalisation": "mini_imagenet"}
EVERY_EPOCH = {"training.validate_every": 1}
SGD = {"training.warmup_epochs": 0, "training.optimiser": "sgd", "training.momentum": 0.9, "training.nesterov": True}
PLAIN_SGD = SGD | {"training.nesterov": False}
ADAM = {"training.warmup_epochs": 0, "training.optimiser": "adam", "training.weight_decay": 0.0}
CONSTANT = {"training.schedule": "constant"}


def steps(milestones: list[list[float]]) -> dict[str, Any]:
    """A learning rate that falls in steps."""
    return {"training.schedule": "steps", "training.milestones": milestones}


def started(**settings: Any) -> dict[str, Any]:
    """Settings of the pre-training's optimisation."""
    return {f"start.training.{name}": value for name, value in settings.items()}


CONV4 = {"model.backbone": "conv64f", "model.last_pooling": True, "model.conv_slope": 0.0}
RESNET = {"model.backbone": "resnet12", "model.last_pooling": True}
ONE, FIVE = {"episodes.shot": 1}, {"episodes.shot": 5}
BOTH = (1, 5)

LAST_EPOCH = "the source tests the last epoch; here, the best validation epoch"
ON_TEST = "the source selects the epoch on the test classes; here, on the validation classes"
MEAN = "the source's embedding is the flattened map; here, its mean over positions"
FLAT = "the source's embedding is the mean over positions; here, the flattened map"
SIX = "the source's maps have 5x5 positions, since its poolings round down; here, 6x6"
WIDE_CROP = "the source's test images are the centre of images scaled to 115 %; here, to 92/84"
ENLARGED = "the source crops images scaled to 92 pixels or more; here, images padded by 8"
NORMAL = "the source draws all initial weights from N(0, 0.02); here, the fusion layer is He-normal, the rest PyTorch's"
SMALL_TEST = "the source tests 600 episodes of 16 queries per class"


def libfewshot(file: str, commit: str) -> str:
    """A file of LibFewShot's reproduction, as a source."""
    return f"RL-VIG/LibFewShot@{commit}, reproduce/{file}"


LFS = {
    **MINI,
    **augmented(PADDED),
    "episodes.queries": 15,
    "training.warmup_epochs": 0,
    "training.epochs": 100,
    "training.episodes_per_epoch": 2000,
    "training.episodes_per_step": 4,
    "training.validation_episodes": 600,
    **EVERY_EPOCH,
}
LFS_COSINE = {**SGD, "training.learning_rate": 0.1, "training.learning_rate_floor": 0.0}

SNELL = {
    **CONV4,
    "model.method": "proto_net",
    "model.distance": "sum",
    **augmented(UNTOUCHED),
    "episodes.queries": 15,
    **ADAM,
    "training.learning_rate": 1e-3,
    **steps(step_lr(20, 0.5, 300)),
    "training.epochs": 300,
    "training.episodes_per_epoch": 100,
    "training.episodes_per_step": 1,
    "validation.way": 5,
    "training.validation_episodes": 100,
    **EVERY_EPOCH,
}
OF_SNELL = (
    "Snell et al., NeurIPS 2017: 30-way for 1 shot and 20-way for 5, 15 queries per class, Adam with 1e-3, halved "
    "every 2,000 episodes; jakesnell/prototypical-networks@3e543c8, run_train.py: 100 episodes per epoch, one per step"
)
UNTIL = "the source stops when 200 epochs have not improved the validation; here, after 300 epochs"
PROTO_NET = {
    "proto_net_conv64f_1shot": Recipe({**SNELL, **ONE, "episodes.way": 30}, OF_SNELL, (UNTIL,)),
    "proto_net_conv64f_5shot": Recipe({**SNELL, **FIVE, "episodes.way": 20}, OF_SNELL, (UNTIL,)),
    "proto_net_resnet12": Recipe(
        {
            **LFS,
            **RESNET,
            "model.method": "proto_net",
            "model.distance": "sum",
            **ADAM,
            "training.weight_decay": 5e-4,
            "training.learning_rate": 1e-3,
            **steps(step_lr(10, 0.5, 100)),
            "training.episodes_per_step": 1,
        },
        libfewshot("Proto/ProtoNet-miniImageNet--ravi-resnet12-5-1-Table2.yaml", "2663682"),
        (FLAT, SIX, ENLARGED),
    ),
}

CLOSER_LOOK = {
    **CONV4,
    **WHOLE_IMAGE,
    **augmented(RESIZED),
    "episodes.queries": 16,
    **ADAM,
    **CONSTANT,
    "training.learning_rate": 1e-3,
    "training.episodes_per_epoch": 100,
    "training.episodes_per_step": 1,
    "training.validation_episodes": 100,
    "validation.queries": 16,
    **EVERY_EPOCH,
}
MATCHING = {**CLOSER_LOOK, "model.method": "matching_net", "model.flattened": True}
OF_CLOSER_LOOK = "wyharveychen/CloserLookFewShot@0fcfed9, train.py with --train_aug"
MATCHING_NET = {
    "matching_net_conv64f_1shot": Recipe(
        {**MATCHING, **ONE, "training.epochs": 600}, OF_CLOSER_LOOK, (WIDE_CROP, SMALL_TEST)
    ),
    "matching_net_conv64f_5shot": Recipe(
        {**MATCHING, **FIVE, "training.epochs": 400}, OF_CLOSER_LOOK, (WIDE_CROP, SMALL_TEST)
    ),
}

SUNG = {
    "model.method": "relation_net",
    "model.backbone": "conv64f",
    "model.conv_slope": 0.0,
    "model.relation_momentum": 1.0,
    **augmented(UNTOUCHED),
    **ADAM,
    "training.learning_rate": 1e-3,
    **steps(step_lr(20, 0.5, 100)),
    "training.epochs": 100,
    "training.episodes_per_epoch": 5000,
    "training.episodes_per_step": 1,
    "training.validation_episodes": 600,
    **EVERY_EPOCH,
}
OF_SUNG = "floodsung/LearningToCompare_FSL@addd2c9, miniimagenet_train_{}_shot.py (500,000 episodes)"
SUNG_DIFFERS = (
    "the source's maps have 19x19 positions, after two poolings; here, 10x10, after three",
    "the source clips the norms of the gradients of both networks to 0.5",
    ON_TEST,
)
RELATION_NET = {
    "relation_net_conv64f_1shot": Recipe({**SUNG, **ONE, "episodes.queries": 15}, OF_SUNG.format("one"), SUNG_DIFFERS),
    "relation_net_conv64f_5shot": Recipe({**SUNG, **FIVE, "episodes.queries": 10}, OF_SUNG.format("few"), SUNG_DIFFERS),
    "relation_net_resnet12": Recipe(
        {
            **LFS,
            "model.method": "relation_net",
            "model.backbone": "resnet12",
            "model.relation_loss": "cross_entropy",
            "model.relation_momentum": 1.0,
            **ADAM,
            "training.learning_rate": 1e-3,
            **steps(step_lr(20, 0.5, 100)),
            "training.episodes_per_step": 1,
        },
        libfewshot("RelationNet/RelationNet-miniImageNet--ravi-resnet12-5-1-Table2.yaml", "3ae4f64"),
        (ENLARGED, "the source's maps have 21x21 positions, after two poolings; here, 11x11, after three"),
    ),
}

CAN_MINI = {
    "model.backbone": "resnet12_can",
    **augmented(PADDED, color_jitter=0.0, erasing=0.5),
    "episodes.queries": 6,
    **SGD,
    "training.learning_rate": 0.1,
    **steps([[60, 0.06], [70, 0.012], [80, 0.0024]]),
    "training.epochs": 90,
    "training.episodes_per_epoch": 1200,
    "training.episodes_per_step": 4,
}
CAN_TIERED = {
    **CAN_MINI,
    "data.name": "tiered_imagenet",
    **steps([[20, 0.1], [40, 0.01], [60, 0.001]]),
    "training.epochs": 80,
    "training.episodes_per_epoch": 13_980,
}
CAN_CONV4 = {**LFS, **CONV4, **LFS_COSINE, "model.method": "can", "model.conv_slope": 0.2}
OF_CAN = "blue-blue272/fewshot-CAN@a576250, args_{}.py and train.py (rates 0.1, 0.006, 0.0012 and 0.00024)"
OF_CAN_TIERED = "blue-blue272/fewshot-CAN@a576250, args_tiered.py and train.py (rates 0.1, 0.01, 0.001 and 0.0001)"
CAN = {
    "can_resnet12": Recipe({**CAN_MINI, "model.method": "can"}, OF_CAN.format("xent"), (ON_TEST,)),
    "can_resnet12_tiered": Recipe({**CAN_TIERED, "model.method": "can"}, OF_CAN_TIERED, (ON_TEST,)),
    "can_transductive_resnet12": Recipe(
        {**CAN_MINI, "model.method": "can_transductive"}, OF_CAN.format("xent"), (ON_TEST,)
    ),
    "can_transductive_resnet12_tiered": Recipe(
        {**CAN_TIERED, "model.method": "can_transductive"}, OF_CAN_TIERED, (ON_TEST,)
    ),
    "can_conv64f": Recipe(
        CAN_CONV4,
        libfewshot("CAN/CAN-miniImageNet--ravi-Conv64F-5-5-Table2.yaml", "3ae4f64"),
        (ENLARGED, NORMAL),
    ),
    "can_transductive_conv64f": Recipe(
        {**CAN_CONV4, "model.method": "can_transductive"},
        libfewshot("CAN/CAN-miniImageNet--ravi-Conv64F-5-5-Table2.yaml", "3ae4f64"),
        (ENLARGED, NORMAL, "the source is inductive; its training is the same"),
    ),
}

FEAT_STAGE = {
    "model.method": "feat",
    **WHOLE_IMAGE,
    **augmented(UNTOUCHED),
    "start.head": "linear",
    "start.augmentation": RESIZED,
    "start.validation": {"way": 16, "shot": 1, "queries": 15},
    "episodes.queries": 15,
    "training.epochs": 200,
    "training.episodes_per_epoch": 100,
    "training.episodes_per_step": 1,
    "training.head_rate_factor": 10.0,
    "training.validation_episodes": 600,
    **EVERY_EPOCH,
}
FEAT_RESNET = {
    **FEAT_STAGE,
    **MINI,
    **RESNET,
    **started(
        epochs=500,
        batches_per_epoch=300,
        batch_size=128,
        learning_rate=0.1,
        schedule="steps",
        milestones=[[349, 0.1], [399, 0.01], [439, 0.001], [459, 1e-4], [479, 1e-5]],
        validation_episodes=200,
        validate_every=5,
        validate_all_from=101,
    ),
    **SGD,
    "training.learning_rate": 2e-4,
    **steps(step_lr(40, 0.5, 200)),
}
FEAT_CONV4 = {
    **FEAT_STAGE,
    **CONV4,
    **started(
        epochs=500,
        batches_per_epoch=2400,
        batch_size=16,
        optimiser="adam",
        learning_rate=1e-3,
        schedule="steps",
        milestones=[[74, 0.1], [149, 0.01], [299, 0.001]],
        validation_episodes=200,
        validate_every=5,
        validate_all_from=101,
    ),
    **ADAM,
    "training.learning_rate": 1e-4,
    **steps(step_lr(20, 0.5, 200)),
}
OF_FEAT = (
    "Sha-Lab/FEAT@47bdc7c, README.md, model/trainer/helpers.py; pre-training: issue 29 (rate 0.1, batch 128, 500 "
    "epochs, steps at 350, 400, 440, 460, 480)"
)
OF_FEAT_CONV4 = "Sha-Lab/FEAT@47bdc7c, README.md, model/trainer/helpers.py; pre-training: defaults of pretrain.py"
FEAT_TIERED = "what pre-trained the released weights on tieredImageNet is not known; here, as on miniImageNet"
FEAT_DIFFERS = (SIX, "the source tests 10,000 episodes")
FEAT_CONV4_DIFFERS = (
    "the source's network ends in a 5x5 max pooling; here, in the mean over positions",
    "what pre-trained the released 4-layer weights is not known; these are the script's defaults",
)


def feat(base: Mapping[str, Any], shot: int, weight: float, temperature: float, auxiliary: float) -> dict[str, Any]:
    """FEAT's settings for a number of shots."""
    return {
        **base,
        "episodes.shot": shot,
        "model.auxiliary_weight": weight,
        "model.temperature": temperature,
        "model.auxiliary_temperature": auxiliary,
    }


TIERED_1 = {"data.name": "tiered_imagenet", **steps(step_lr(20, 0.5, 200))}
TIERED_5 = {"data.name": "tiered_imagenet"}
FEAT = {
    "feat_resnet12_1shot": Recipe(feat(FEAT_RESNET, 1, 0.01, 64.0, 64.0), OF_FEAT, FEAT_DIFFERS),
    "feat_resnet12_5shot": Recipe(feat(FEAT_RESNET, 5, 0.1, 64.0, 32.0), OF_FEAT, FEAT_DIFFERS),
    "feat_resnet12_tiered_1shot": Recipe(
        feat({**FEAT_RESNET, **TIERED_1}, 1, 0.1, 64.0, 64.0), OF_FEAT, (*FEAT_DIFFERS, FEAT_TIERED)
    ),
    "feat_resnet12_tiered_5shot": Recipe(
        feat({**FEAT_RESNET, **TIERED_5}, 5, 0.1, 32.0, 64.0), OF_FEAT, (*FEAT_DIFFERS, FEAT_TIERED)
    ),
    "feat_conv64f_1shot": Recipe(feat(FEAT_CONV4, 1, 1.0, 64.0, 16.0), OF_FEAT_CONV4, FEAT_CONV4_DIFFERS),
    "feat_conv64f_5shot": Recipe(feat(FEAT_CONV4, 5, 0.1, 32.0, 64.0), OF_FEAT_CONV4, FEAT_CONV4_DIFFERS),
}

DEEPEMD = {
    "deepemd_resnet12": Recipe(
        {
            "model.method": "deepemd",
            **RESNET,
            "model.drop_rate": 0.0,
            **WHOLE_IMAGE,
            **augmented(RESIZED, color_jitter=0.0),
            "start.head": "linear",
            **started(
                epochs=120,
                batches_per_epoch=300,
                batch_size=128,
                learning_rate=0.1,
                schedule="steps",
                milestones=step_lr(30, 0.2, 120),
                validation_episodes=100,
                validate_every=1,
            ),
            **ONE,
            "episodes.queries": 15,
            **SGD,
            "training.learning_rate": 5e-4,
            **steps(step_lr(10, 0.5, 100)),
            "training.epochs": 100,
            "training.episodes_per_epoch": 50,
            "training.episodes_per_step": 1,
            "training.validation_episodes": 1000,
            **EVERY_EPOCH,
        },
        "icoz69/DeepEMD@8e9c53c, train_pretrain.py, train_meta.py and, for 5-shot tests of a 1-shot training, eval.py",
        (
            SIX,
            "the source normalises by 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 (of 255); here, by ImageNet's values",
            "the source's pre-training is validated by DeepEMD; here, by the nearest class mean",
            "the source tests 5,000 episodes",
        ),
        tested=BOTH,
    ),
}

YIN_START = {
    **RESNET,
    "model.drop_rate": 0.0,
    "start.head": "linear",
    **started(
        epochs=100,
        batches_per_epoch=300,
        batch_size=128,
        learning_rate=0.1,
        nesterov=False,
        schedule="steps",
        milestones=[[90, 0.1]],
        validation_episodes=200,
        validate_every=5,
    ),
}
OF_YIN = "yinboc/few-shot-meta-baseline@b229ff2, configs/train_classifier_mini.yaml and train_meta_mini.yaml"
YIN_DIFFERS = (
    "the source's network has 64-128-256-512 channels; here, 64-160-320-640",
    "the source's images have 80 pixels; here, 84",
    "the source goes on from the last epoch of the pre-training; here, from the best",
)
META_BASELINE = {
    "classifier_baseline_resnet12": Recipe(
        {**YIN_START, "model.method": "classifier_baseline", **augmented(RESIZED, color_jitter=0.0)},
        OF_YIN,
        YIN_DIFFERS,
    ),
    "meta_baseline_resnet12": Recipe(
        {
            **YIN_START,
            "model.method": "meta_baseline",
            **augmented(UNTOUCHED),
            "start.augmentation": {**RESIZED, "color_jitter": 0.0},
            "episodes.queries": 15,
            **PLAIN_SGD,
            **CONSTANT,
            "training.learning_rate": 1e-3,
            "training.epochs": 20,
            "training.episodes_per_epoch": 800,
            "training.episodes_per_step": 4,
            "training.validation_episodes": 800,
            **EVERY_EPOCH,
        },
        OF_YIN,
        YIN_DIFFERS,
    ),
}

LEE = {
    **MINI,
    **augmented(PADDED),
    "episodes.shot": 15,
    "episodes.queries": 6,
    **SGD,
    "training.learning_rate": 0.1,
    **steps([[19, 0.06], [39, 0.012], [49, 0.0024]]),
    "training.epochs": 60,
    "training.episodes_per_epoch": 8000,
    "training.episodes_per_step": 8,
    "validation.shot": 5,
    "training.validation_episodes": 2000,
    **EVERY_EPOCH,
}
LEE_TIERED = {**LEE, "data.name": "tiered_imagenet", "episodes.shot": 10}
OF_LEE = (
    "kjunelee/MetaOptNet@010273c, train.py (its scheduler steps before each epoch, so the rate falls after 19, 39 and "
    "49) and README.md: one training with {} shots for all tests"
)
SVM, RIDGE = {"model.method": "metaoptnet_svm"}, {"model.method": "metaoptnet_ridge"}
METAOPTNET = {
    "metaoptnet_svm_resnet12": Recipe({**LEE, **RESNET, **SVM}, OF_LEE.format(15), (SIX,), tested=BOTH),
    "metaoptnet_svm_resnet12_tiered": Recipe({**LEE_TIERED, **RESNET, **SVM}, OF_LEE.format(10), (SIX,), tested=BOTH),
    "metaoptnet_svm_conv64f": Recipe({**LEE, **CONV4, **SVM}, OF_LEE.format(15), tested=BOTH),
    "metaoptnet_ridge_resnet12": Recipe({**LEE, **RESNET, **RIDGE}, OF_LEE.format(15), (SIX,), tested=BOTH),
    "metaoptnet_ridge_resnet12_tiered": Recipe(
        {**LEE_TIERED, **RESNET, **RIDGE}, OF_LEE.format(10), (SIX,), tested=BOTH
    ),
    "metaoptnet_ridge_conv64f": Recipe({**LEE, **CONV4, **RIDGE}, OF_LEE.format(15), tested=BOTH),
}

UNBOUNDED = "the source learns the ridge without a bound; here, it stays positive"
R2D2 = {
    "r2d2_conv64f": Recipe(
        {**LFS, **CONV4, **LFS_COSINE, "model.method": "r2d2"},
        libfewshot("R2D2/R2D2-miniImageNet--ravi-Conv64F-5-5-Table2.yaml", "3ae4f64"),
        (ENLARGED, UNBOUNDED),
    ),
    "r2d2_resnet12": Recipe(
        {**LFS, **RESNET, **LFS_COSINE, "model.method": "r2d2"},
        libfewshot("R2D2/R2D2-miniImageNet--ravi-resnet12-5-5-Table2.yaml", "30645d7"),
        (SIX, ENLARGED, FLAT, UNBOUNDED),
    ),
}

FINN = {
    "model.backbone": "conv32f",
    "model.last_pooling": True,
    "model.conv_slope": 0.0,
    "model.classifier_way": 5,
    **augmented(UNTOUCHED),
    "episodes.queries": 15,
    **ADAM,
    **CONSTANT,
    "training.learning_rate": 1e-3,
    "training.epochs": 60,
    "training.episodes_per_epoch": 4000,
    "training.episodes_per_step": 4,
    "training.validation_episodes": 600,
    **EVERY_EPOCH,
}
OF_FINN = "cbfinn/maml@007d776, main.py: 60,000 steps of 4 episodes; 5 inner steps of 0.01, 10 in tests"
FINN_DIFFERS = (
    LAST_EPOCH,
    "the source clips each entry of a gradient to [-10, 10]",
    "the source tests 600 episodes with as many queries per class as shots",
)
MAML = {
    "maml_conv32f": Recipe({**FINN, "model.method": "maml"}, OF_FINN, FINN_DIFFERS),
    "maml_conv64f_1shot": Recipe(
        {**CLOSER_LOOK, **ONE, "model.method": "maml", "model.classifier_way": 5, "model.inner_steps_in_tests": 5}
        | {"training.episodes_per_step": 4, "training.epochs": 2400},
        OF_CLOSER_LOOK + ", methods/maml.py",
        (WIDE_CROP, SMALL_TEST, "the source sums the losses of 4 episodes; here, their mean, which Adam does not feel"),
    ),
    "maml_conv64f_5shot": Recipe(
        {**CLOSER_LOOK, **FIVE, "model.method": "maml", "model.classifier_way": 5, "model.inner_steps_in_tests": 5}
        | {"training.episodes_per_step": 4, "training.epochs": 1600},
        OF_CLOSER_LOOK + ", methods/maml.py",
        (WIDE_CROP, SMALL_TEST, "the source sums the losses of 4 episodes; here, their mean, which Adam does not feel"),
    ),
    "anil_conv32f": Recipe(
        {**FINN, "model.method": "anil"},
        f"as MAML: {OF_FINN}",
        ("Raghu et al., ICLR 2020, have no code; that they train as MAML does is assumed", *FINN_DIFFERS[1:]),
    ),
}

CHEN_START = {
    **CONV4,
    **WHOLE_IMAGE,
    **augmented(RESIZED),
    **started(
        epochs=400,
        batches_per_epoch=2400,
        batch_size=16,
        optimiser="adam",
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=0.0,
    ),
}
CHEN_DIFFERS = (MEAN, WIDE_CROP, LAST_EPOCH, SMALL_TEST)
BASELINE = {
    "baseline_conv64f": Recipe(
        {**CHEN_START, "model.method": "baseline", "start.head": "linear"},
        OF_CLOSER_LOOK,
        (*CHEN_DIFFERS, "the source's head has 200 outputs for 64 classes; here, 64"),
    ),
    "baseline_pp_conv64f": Recipe(
        {**CHEN_START, "model.method": "baseline_pp", "start.head": "weight_norm", "start.head_scale": 2.0},
        OF_CLOSER_LOOK,
        (*CHEN_DIFFERS, "the source's head has 200 outputs for 64 classes; here, 64"),
    ),
}

NEGATIVE = {
    "model.method": "negative_margin",
    **RESNET,
    **WHOLE_IMAGE,
    "data.normalisation": "cifar",
    **augmented(RESIZED),
    "start.head": "cosine",
    "start.head_scale": 30.0,
    "start.validation": {"way": 5, "shot": 5, "queries": 16},
    **started(
        epochs=400,
        warmup_epochs=100,
        batches_per_epoch=150,
        batch_size=256,
        optimiser="adam",
        learning_rate=3e-3,
        learning_rate_floor=0.00033,
        weight_decay=1e-4,
        validation_episodes=100,
        validate_every=20,
        validate_all_from=400,
    ),
}
OF_NEGATIVE = "bl0/negative-margin.few-shot@d2e244f, script/resnet12/miniImagenet_neg-cosine_{}-shot.sh, lib/config.py"
NEGATIVE_DIFFERS = (
    WIDE_CROP,
    SMALL_TEST,
    "the source's warm-up starts at a sixteenth of the rate; here, at 0",
    "the source's epochs are validated by its fitted head; here, by the nearest class mean",
)
NEGATIVE_MARGIN = {
    "negative_margin_resnet12_1shot": Recipe(
        {**NEGATIVE, **ONE, "start.head_margin": -0.02}, OF_NEGATIVE.format(1), NEGATIVE_DIFFERS
    ),
    "negative_margin_resnet12_5shot": Recipe(
        {**NEGATIVE, **FIVE, "start.head_margin": -0.01}, OF_NEGATIVE.format(5), NEGATIVE_DIFFERS
    ),
}

RFS = {
    "rfs_resnet12": Recipe(
        {
            "model.method": "rfs",
            "model.loss_weight": 5.0,
            **RESNET,
            **MINI,
            **augmented(PADDED),
            "start.head": "linear",
            **started(
                epochs=100,
                batches_per_epoch=600,
                batch_size=64,
                learning_rate=0.05,
                nesterov=False,
                schedule="steps",
                milestones=[[60, 0.1], [80, 0.01]],
            ),
        },
        "WangYueFt/rfs@9337f9b, train_supervised.py, dataset/transform_cfg.py, eval_fewshot.py",
        (
            SIX,
            LAST_EPOCH,
            "the source fits 5 augmented copies of each support image; here, the image with 5 times the weight",
            "the source tests 600 episodes",
        ),
    ),
    "rfs_conv64f": Recipe(
        {
            "model.method": "rfs",
            **CONV4,
            **MINI,
            **augmented(PADDED),
            "start.head": "linear",
            **started(
                epochs=100,
                batches_per_epoch=300,
                batch_size=128,
                learning_rate=0.1,
                learning_rate_floor=0.0,
                nesterov=False,
            ),
        },
        libfewshot("RFS/RFS-simple-miniImageNet--ravi-Conv64F-Table2.yaml", "9aded3a"),
        (ENLARGED, MEAN),
    ),
}

IDEME = {
    "model.method": "ideme_net",
    "model.backbone": "resnet18_imagenet",
    "model.rounds": 2,
    "data.image_size": 224,
    **WHOLE_IMAGE,
    **augmented(RESIZED, color_jitter=0.0),
    "start.head": "linear",
    **started(
        mixing_grid=3,
        optimiser="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="steps",
        milestones=step_lr(10, 0.5, 35),
        epochs=35,
        batches_per_epoch=500,
        batch_size=128,
    ),
    "episodes.queries": 15,
    **ADAM,
    "training.learning_rate": 1e-4,
    "training.head_rate_factor": 10.0,
    **steps(step_lr(40, 0.5, 120)),
    "training.epochs": 120,
    "training.episodes_per_epoch": 600,
    "training.episodes_per_step": 1,
    "training.validation_episodes": 600,
    **EVERY_EPOCH,
}
OF_IDEME = "tankche1/IDeMe-Net@6e8e212, onlyBasetwoLoss.py, datasets/softRandom.py and {}"
IDEME_DIFFERS = (
    ON_TEST,
    "the source repeats the rounds and keeps the best of several models; here, there are two rounds",
    "the source's rate of the scale is constant; here, it falls with the others",
    "the source does not train the embedding in a round's first epoch; here, it does",
    "the source keeps the epoch of the lowest loss; here, that of the highest accuracy",
    "the source's pre-training reads 500 images of each class and keeps the epoch of the lowest training loss",
    "the source's test images are the centre of images whose shorter side is scaled to 256 pixels; here, both to 245",
)
IDEME_NET = {
    "ideme_net_resnet18_imagenet_1shot": Recipe(
        {**IDEME, **ONE}, OF_IDEME.format("the README in its history"), IDEME_DIFFERS
    ),
    "ideme_net_resnet18_imagenet_5shot": Recipe(
        {**IDEME, **FIVE, "model.deformed_images": 5, "model.gallery_candidates": 30},
        OF_IDEME.format("README"),
        IDEME_DIFFERS,
    ),
}

AFRASIYABI = {
    "model.backbone": "conv4_relu",
    "model.last_pooling": True,
    "model.flattened": True,
    **WHOLE_IMAGE,
    **augmented(RESIZED),
    "start.head": "arc",
    "start.head_scale": 20.0,
    "start.head_margin": 0.01,
    "start.flattened": True,
    "start.validated_by": "fitted_head",
    **started(
        epochs=600,
        batches_per_epoch=600,
        batch_size=64,
        optimiser="adam",
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=0.0,
        warmup_epochs=0,
        validation_episodes=400,
        validate_every=1,
    ),
}
OF_AFRASIYABI = "ArmanAfrasiyabi/associative-alignment-fs@89db832, args_parser.py, transferLearning.py, {}"
AFRASIYABI_DIFFERS = (
    WIDE_CROP,
    "the source changes brightness, contrast and colour in this order; here, in any",
    "the source tests 600 episodes of 50 queries per class, ten times",
)
ASSOCIATIVE = {
    f"{method}_conv4_relu_{shot}shot": Recipe(
        {
            **AFRASIYABI,
            "model.method": method,
            "episodes.shot": shot,
            "start.validation": {"way": 5, "shot": shot, "queries": 50},
        },
        OF_AFRASIYABI.format(file),
        AFRASIYABI_DIFFERS,
    )
    for method, file in (
        ("fine_tuning", "methods/transferLearningFuns.py"),
        ("centroid_alignment", "associative_alignment.py"),
    )
    for shot in (1, 5)
}

OTHERS: dict[str, Recipe] = {
    **PROTO_NET,
    **MATCHING_NET,
    **RELATION_NET,
    **CAN,
    **FEAT,
    **DEEPEMD,
    **META_BASELINE,
    **METAOPTNET,
    **R2D2,
    **MAML,
    **BASELINE,
    **NEGATIVE_MARGIN,
    **RFS,
    **IDEME_NET,
    **ASSOCIATIVE,
}
"""Recipes of the methods other than DMF, by name."""
