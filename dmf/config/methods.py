"""The union of all methods' configurations, discriminated by `method`. Add a new method's configuration here."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Discriminator, Tag

from dmf.backbones.config import BackboneConfig
from dmf.methods.adversarial_alignment.config import AdversarialAlignmentConfig
from dmf.methods.anil.config import ANILConfig
from dmf.methods.baseline.config import BaselineConfig
from dmf.methods.baseline_pp.config import BaselinePPConfig
from dmf.methods.can.config import CANConfig
from dmf.methods.can_transductive.config import CANTransductiveConfig
from dmf.methods.centroid_alignment.config import CentroidAlignmentConfig
from dmf.methods.classifier_baseline.config import ClassifierBaselineConfig
from dmf.methods.deepemd.config import DeepEMDConfig
from dmf.methods.dmf.config import DMFConfig
from dmf.methods.feat.config import FEATConfig
from dmf.methods.fine_tuning.config import FineTuningConfig
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.maml.config import MAMLConfig
from dmf.methods.matching_net.config import MatchingNetConfig
from dmf.methods.meta_baseline.config import MetaBaselineConfig
from dmf.methods.metaoptnet_ridge.config import MetaOptNetRidgeConfig
from dmf.methods.metaoptnet_svm.config import MetaOptNetSVMConfig
from dmf.methods.negative_margin.config import NegativeMarginConfig
from dmf.methods.proto_net.config import ProtoNetConfig
from dmf.methods.r2d2.config import R2D2Config
from dmf.methods.raw_pixels.config import RawPixelsConfig
from dmf.methods.relation_net.config import RelationNetConfig
from dmf.methods.rfs.config import RFSConfig
from dmf.values import tag_by

AnyMethod = (
    DMFConfig
    | ProtoNetConfig
    | ClassifierBaselineConfig
    | BaselineConfig
    | BaselinePPConfig
    | NegativeMarginConfig
    | RFSConfig
    | MatchingNetConfig
    | RelationNetConfig
    | CANConfig
    | CANTransductiveConfig
    | FEATConfig
    | DeepEMDConfig
    | MetaBaselineConfig
    | FineTuningConfig
    | CentroidAlignmentConfig
    | AdversarialAlignmentConfig
    | MAMLConfig
    | ANILConfig
    | R2D2Config
    | MetaOptNetRidgeConfig
    | MetaOptNetSVMConfig
    | IDeMeNetConfig
    | RawPixelsConfig
)
ModelConfig = Annotated[
    Annotated[DMFConfig, Tag("<dmf>")]
    | Annotated[ProtoNetConfig, Tag("<proto_net>")]
    | Annotated[ClassifierBaselineConfig, Tag("<classifier_baseline>")]
    | Annotated[BaselineConfig, Tag("<baseline>")]
    | Annotated[BaselinePPConfig, Tag("<baseline_pp>")]
    | Annotated[NegativeMarginConfig, Tag("<negative_margin>")]
    | Annotated[RFSConfig, Tag("<rfs>")]
    | Annotated[MatchingNetConfig, Tag("<matching_net>")]
    | Annotated[RelationNetConfig, Tag("<relation_net>")]
    | Annotated[CANConfig, Tag("<can>")]
    | Annotated[CANTransductiveConfig, Tag("<can_transductive>")]
    | Annotated[FEATConfig, Tag("<feat>")]
    | Annotated[DeepEMDConfig, Tag("<deepemd>")]
    | Annotated[MetaBaselineConfig, Tag("<meta_baseline>")]
    | Annotated[FineTuningConfig, Tag("<fine_tuning>")]
    | Annotated[CentroidAlignmentConfig, Tag("<centroid_alignment>")]
    | Annotated[AdversarialAlignmentConfig, Tag("<adversarial_alignment>")]
    | Annotated[MAMLConfig, Tag("<maml>")]
    | Annotated[ANILConfig, Tag("<anil>")]
    | Annotated[R2D2Config, Tag("<r2d2>")]
    | Annotated[MetaOptNetRidgeConfig, Tag("<metaoptnet_ridge>")]
    | Annotated[MetaOptNetSVMConfig, Tag("<metaoptnet_svm>")]
    | Annotated[IDeMeNetConfig, Tag("<ideme_net>")]
    | Annotated[RawPixelsConfig, Tag("<raw_pixels>")],
    Discriminator(tag_by("method", "dmf")),
]
METHODS: dict[str, type[AnyMethod]] = {kind.model_fields["method"].default: kind for kind in get_args(AnyMethod)}
"""Configuration classes by method name."""


def has(method: str, path: str) -> bool:
    """Whether a method has the parameter at a dotted path; only methods with a backbone have `start.*`."""
    section, _, name = path.partition(".")
    if method not in METHODS:
        return True
    kind = METHODS[method]
    return name in kind.model_fields if section == "model" else section != "start" or issubclass(kind, BackboneConfig)
