"""CAN with transductive inference (Hou et al., NeurIPS 2019, section 5): the queries of an episode help each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide
from dmf.methods.can.model import CAN


class CANTransductive(CAN):
    """CAN, whose class maps also average the queries that it is most confident of.

    With n = floor(35/75 * Q), steps i = 1, ..., floor(Q / n) take the n * i queries with the largest best logit of the
    step before (the first one takes CAN's), each as one more support image of the class that it scores highest, and
    score all queries again. The picks of a step do not depend on those before, and ignore how many go to each class.
    Fewer than 3 queries leave CAN's logits. The training is CAN's.
    """

    transductive = True

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        with full_precision(query.device):
            support, query = wide(support), wide(query)
            sums, shots = support.sum(2), support.shape[2]
            logits = self.score_classes(sums / shots, query)
            step = query.shape[1] * 35 // 75
            for picks in range(step, query.shape[1] + 1, step) if step else ():
                members = confident(logits, picks)
                added = torch.einsum("bqn,bqchw->bnchw", members, query)
                sizes = (shots + members.sum(1))[..., None, None, None]
                logits = self.score_classes((sums + added) / sizes, query)
            return logits


def confident(logits: Tensor, picks: int) -> Tensor:
    """Logits [B, Q, N] -> [B, Q, N]: 1 at the best class of the `picks` queries with the largest best logits."""
    best, labels = logits.max(-1)
    picked = torch.zeros_like(best).scatter(1, best.topk(picks, dim=1).indices, 1.0)
    return F.one_hot(labels, logits.shape[-1]) * picked[..., None]
