"""Dynamic Meta-filter (DMF, CVPR 2021) and methods to compare it with: models, data, training, evaluation."""

__version__ = "0.1.0"
