"""RFS-simple (Tian et al., "Rethinking few-shot image classification", ECCV 2020)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision
from dmf.methods.base import FewShotMethod, Table
from dmf.methods.heads import embeddings, with_ones
from dmf.methods.rfs.config import RFSConfig

MOST_STEPS = 100
TOLERANCE = 1e-9
"""Largest change of a logit in Newton's last step."""


class RFS(FewShotMethod):
    """Logits are those of a logistic regression on the support's embeddings, divided by their norm.

    The regression minimises 1/2 |W|^2 + loss_weight * sum of cross-entropies, with biases free of the penalty. The
    released code stops scikit-learn's solver at its tolerance, 7e-4 from the minimum; here Newton's method reaches it,
    for all episodes of a batch at once. By default, the released tests fit five augmented copies of each support image;
    here the image counts once, and `loss_weight` 5 gives it the weight of five.
    """

    def __init__(self, backbone: nn.Module, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.loss_weight = loss_weight

    @classmethod
    def build(cls, backbone: nn.Module, config: RFSConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, config.loss_weight)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        return self._of_embeddings(embeddings(support), embeddings(query))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": embeddings(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return {"embeddings": images["embeddings"][rows]}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        return self._of_embeddings(classes["embeddings"][class_rows], images["embeddings"][query_rows])

    def _of_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        """Embeddings [B, N, K, C] and [B, Q, C] -> logits [B, Q, N]."""
        ways, shots = support.shape[1:3]
        images, queries = (F.normalize(rows.double(), dim=-1) for rows in (support.flatten(1, 2), query))
        targets = torch.eye(ways, dtype=torch.float64, device=query.device).repeat_interleave(shots, 0)
        with full_precision(query.device):
            duals, biases = logistic_regression(images @ images.mT, targets, self.loss_weight)
            logits = queries @ images.mT @ duals + biases[:, None]
        return logits.to(query.dtype)


def logistic_regression(kernel: Tensor, targets: Tensor, loss_weight: float) -> tuple[Tensor, Tensor]:
    """Kernels [B, n, n] and one-hot targets [n, N] -> duals A [B, n, N] and biases [B, N], whose mean is 0.

    At the minimum, W = X^T A with A = loss_weight * (Y - P), for rows X and probabilities P. Rows L with L L^T = X X^T
    have the same A, and only n columns; the regression is fitted to these.

    With d the largest range over classes of an image's change of logits in a Newton step, the loss along the step lies
    below a function that is least at log(1 + d) / d of it (self-concordance of the softmax), so each such step lowers
    the loss, and near the minimum the steps are whole.
    """
    values, vectors = torch.linalg.eigh(kernel)
    rows = with_ones(vectors * values.clamp(min=0).sqrt()[:, None])  # [B, n, n + 1]
    columns, ways = rows.shape[-1], targets.shape[-1]
    penalty = torch.ones(columns, 1, dtype=kernel.dtype, device=kernel.device)
    penalty[-1] = 0
    # Equal shifts of all biases change no probability; this term for the square of their sum makes them 0.
    curvature = torch.block_diag(*[torch.eye(ways).to(kernel)] * (columns - 1), torch.ones(ways, ways).to(kernel))
    weights = torch.zeros(len(kernel), columns, ways, dtype=kernel.dtype, device=kernel.device)
    for _ in range(MOST_STEPS):
        probabilities = (rows @ weights).softmax(-1)
        gradient = loss_weight * rows.mT @ (probabilities - targets) + penalty * weights
        spread = torch.diag_embed(probabilities) - probabilities[..., :, None] * probabilities[..., None, :]
        hessian = torch.einsum("bif,bicd,big->bfcgd", rows, spread, rows).flatten(3).flatten(1, 2)
        factor = torch.linalg.cholesky(loss_weight * hessian + curvature)
        step = torch.cholesky_solve(gradient.flatten(1)[..., None], factor)[..., 0].unflatten(1, (columns, ways))
        change = rows @ step
        ranges = (change.amax(-1) - change.amin(-1)).amax(-1)
        length = torch.where(ranges > 0, ranges.log1p() / ranges, 1.0)
        weights = weights - length[:, None, None] * step
        if ranges.max() < TOLERANCE:
            break
    return loss_weight * (targets - (rows @ weights).softmax(-1)), weights[:, -1]
