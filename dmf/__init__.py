"""Dynamic Meta-filter (DMF, CVPR 2021) and methods to compare it with: models, data, training, evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmf.machine.starting import starting

if TYPE_CHECKING:
    from os import PathLike

    from dmf.classifier import Classifier

__version__ = "0.1.0"
starting(__name__)


def load(folder: str | PathLike[str], device: str = "cpu") -> Classifier:
    """The trained model in a training's folder, to classify images of one's own: see `dmf.classifier`."""
    from dmf.classifier import load as loaded  # imports torch, which much of this package does without

    return loaded(folder, device)
