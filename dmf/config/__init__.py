"""Every hyper-parameter, defined once: its name, default, range and meaning. Defaults follow the released code.

Where the paper and its released code differ, one field offers both values, and `RECIPES` chooses between them. The
settings of methods and backbones are defined beside their code, in `dmf.methods.*.config` and `dmf.backbones.config`.
"""

from dmf.config.experiment import (
    NOT_IDENTITY,
    AnyTraining,
    ClassifierConfig,
    ExperimentConfig,
    Pretraining,
    StartConfig,
    Training,
)
from dmf.config.methods import METHODS, AnyMethod, ModelConfig
from dmf.config.recipes import RECIPES, no_recipe, recipe, recipes_of
from dmf.config.sections import (
    AugmentationConfig,
    BatchOptimisationConfig,
    BatchTrainingConfig,
    DataConfig,
    EpisodeConfig,
    EvaluationConfig,
    OptimisationConfig,
    OtherDataConfig,
    Task,
    TrainingConfig,
    ValidationConfig,
)
from dmf.methods.dmf.config import DMFConfig

__all__ = [
    "METHODS",
    "NOT_IDENTITY",
    "RECIPES",
    "AnyMethod",
    "AnyTraining",
    "AugmentationConfig",
    "BatchOptimisationConfig",
    "BatchTrainingConfig",
    "ClassifierConfig",
    "DMFConfig",
    "DataConfig",
    "EpisodeConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "ModelConfig",
    "OptimisationConfig",
    "OtherDataConfig",
    "Pretraining",
    "StartConfig",
    "Task",
    "Training",
    "TrainingConfig",
    "ValidationConfig",
    "no_recipe",
    "recipe",
    "recipes_of",
]
