"""Losses of rankings: the better of two images shall have the higher score."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import DataError
from basicsr.registry import LOSS_REGISTRY
from basicsr.schema import Range


@LOSS_REGISTRY.register()
class RankingLoss(nn.Module):
    """Logistic loss of pairs, log(1 + exp(s_worse - s_better)), within ladders and between them.

    The pairs of RankIQA (X. Liu et al., ICCV 2017) under the loss of RankNet (C. Burges et al., ICML 2005).

    Args:
        loss_weight: Factor on the loss.
        across_weight: Weight of pairs of different pictures, which give scores a common scale.
        across_gap: Least difference of level for two different pictures to be compared.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        across_weight: Annotated[float, Range(0)] = 0.25,
        across_gap: Annotated[float, Range(0, 1)] = 0.45,
    ) -> None:
        super().__init__()
        self.loss_weight, self.across_weight, self.across_gap = loss_weight, across_weight, across_gap

    def forward(self, scores: Tensor, levels: Tensor, comparable: Tensor | None = None) -> Tensor:
        """Compares scores with the order they should have.

        Args:
            scores: (N,K), K views of each of N pictures, higher better.
            levels: (N,K), how degraded each is, 0 for clean.
            comparable: (N,) bool, which pictures may be compared with others; None takes all.

        Returns:
            A scalar.

        Raises:
            DataError: Shapes that do not fit.
        """
        if scores.dim() != 2 or scores.shape != levels.shape:
            raise DataError(
                f'RankingLoss: scores {tuple(scores.shape)} and levels {tuple(levels.shape)} must be (N,K).'
            )
        loss = _pairs(scores, levels, 0.0)
        if self.across_weight > 0:
            counted = None if comparable is None else comparable.unsqueeze(1).expand(scores.shape).reshape(1, -1)
            between = _pairs(scores.reshape(1, -1), levels.reshape(1, -1), self.across_gap, counted)
            loss = loss + self.across_weight * between
        return self.loss_weight * loss


def _pairs(scores: Tensor, levels: Tensor, gap: float, counted: Tensor | None = None) -> Tensor:
    """Mean over the pairs of a row, of those that count, whose levels differ by more than ``gap``; 0 without any."""
    lead = scores.unsqueeze(2) - scores.unsqueeze(1)  # of the first over the second
    better = levels.unsqueeze(1) - levels.unsqueeze(2) > gap
    if counted is not None:
        better = better & counted.unsqueeze(2) & counted.unsqueeze(1)
    return (F.softplus(-lead.float()) * better).sum() / better.sum().clamp_min(1)
