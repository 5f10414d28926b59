"""A judge that compares with the degraded image, as a loss that may not buy its score with the picture."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import OptionError
from basicsr.metrics.score import load
from basicsr.registry import LOSS_REGISTRY
from basicsr.schema import Block, Range

from .loss_util import check_same_shape


@LOSS_REGISTRY.register()
class DegradedReferenceLoss(nn.Module):
    """One minus the score of restored images by a differentiable scorer such as CKDN, under a guard of fidelity.

    Every judge can be gamed: pixels that are pushed up its gradient win a high score with a worse picture. So the score
    has a gradient only in images whose root mean square distance from an anchor, the clean image or what a trusted
    network made, is at most ``tolerance``. Those further away are only pulled back, by
    ``guard_weight * (distance / tolerance - 1)``.

    The scorer is frozen, is no part of a checkpoint and works in float32, also in a mixed-precision region.

    Args:
        scorer: Block of the scorer or ensemble, such as ``{type: CKDNScorer, weights: FILE}``.
        loss_weight: Factor on the loss.
        tolerance: Distance from the anchor beyond which the score does not count, in [0,1]; 0.02 is 34 dB.
        guard_weight: Weight of the guard.

    Raises:
        OptionError: The scorer has no gradient.
        MissingWeightsError: Its weights are not on this machine.
    """

    def __init__(
        self,
        scorer: Annotated[dict, Block('scorer')],
        loss_weight: float = 1.0,
        tolerance: Annotated[float, Range(1e-4, 1)] = 0.02,
        guard_weight: Annotated[float, Range(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.loss_weight, self.tolerance, self.guard_weight = loss_weight, tolerance, guard_weight
        self.scorer = scorer
        if not load(self.scorer).differentiable:  # before any work: its weights must be there too
            raise OptionError(f'DegradedReferenceLoss: {scorer["type"]} has no gradient; take a scorer that has one.')

    def forward(self, pred: Tensor, degraded: Tensor, anchor: Tensor) -> Tensor:
        """Judges a batch.

        Args:
            pred: Restored images (N,3,H,W) in [0,1].
            degraded: What they were restored from, of the same shape.
            anchor: What they are to stay near to, of the same shape; gets no gradient.

        Returns:
            A scalar.

        Raises:
            DataError: Shapes that differ, or that the scorer cannot judge.
        """
        check_same_shape('DegradedReferenceLoss', pred, anchor)
        with torch.autocast(pred.device.type, enabled=False):
            pred = pred if pred.dtype == torch.float64 else pred.float()
            distance = _distance(pred, anchor.detach().to(pred))
            score = load(self.scorer, str(pred.device))(pred.clamp(0, 1), degraded.to(pred))
            score = torch.where(distance > self.tolerance, score.detach(), score)
            guard = self.guard_weight * F.relu(distance / self.tolerance - 1)
            return self.loss_weight * (F.relu(1 - score) + guard).mean()


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference (N,) of images; the gradient of equal ones is 0."""
    return (first - second).square().mean((1, 2, 3)).clamp_min(1e-12).sqrt()
