"""Preference losses: the output asked to be better shall be better, by a scorer or by a pair of labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import DataError
from basicsr.registry import LOSS_REGISTRY
from basicsr.schema import Range

from .basic_loss import Reduction
from .loss_util import at_least_float32, check_reduction, check_same_shape, reduce_loss


@LOSS_REGISTRY.register()
class ScorePreferenceLoss(nn.Module):
    """QualiTeacher's preference loss, on the scores R_h and R_l of outputs asked for high and for low quality.

    ``-log sigma(beta (R_h - R_l - delta)) + lambda2 * -log sigma(beta (R_h - r))``, where r is the score of the
    teacher's label. The first term is a logistic loss of pairs with the margin beta * delta (SimPO, Y. Meng et al.,
    NeurIPS 2024). It also pushes R_l down, that is, it makes images asked for low quality worse; ``detach_low`` stops
    that. With beta 1 it is nearly linear in the gap: at gaps from -0.2 to 0.5 its slope is 0.57 to 0.40.

    Args:
        beta: Steepness; scores are in [0,1].
        delta: By how much the high score shall exceed the low one.
        lambda2: Factor on the second term.
        loss_weight: Factor on the loss.
        anchor: Which of the teacher's labels the high output shall exceed: the best, as released, the worst, as told
            of the paper, or none.
        detach_low: Whether the low output gets no gradient.
        reduction: ``none`` (one value an image), ``mean`` or ``sum`` over the images.

    Source: github.com/fengyang1399-pixel/QualiTeacher at 0e9a1618 (arXiv:2603.08030).
    """

    compares: ClassVar[str] = 'scores'

    def __init__(
        self,
        beta: Annotated[float, Range(0)] = 1.0,
        delta: float = 0.1,
        lambda2: Annotated[float, Range(0)] = 0.5,
        loss_weight: float = 1.0,
        anchor: Literal['best', 'worst', 'none'] = 'best',
        detach_low: bool = False,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        self.beta, self.delta, self.lambda2, self.loss_weight = beta, delta, lambda2, loss_weight
        self.anchor, self.detach_low = anchor, detach_low
        self.reduction = check_reduction('ScorePreferenceLoss', reduction)

    def forward(self, reward_high: Tensor, reward_low: Tensor, labels: Tensor) -> Tensor:
        """Compares scores.

        Args:
            reward_high: (N,), of the outputs asked for high quality.
            reward_low: (N,), of those asked for low quality.
            labels: (N,K), of the teacher's labels, NaN where there is none. The second term of an image without any is
                0.

        Returns:
            A scalar, or (N,) with ``reduction: none``.

        Raises:
            DataError: Shapes that do not fit.
        """
        _check_scores(reward_high, reward_low, labels)
        high, low, labels = (at_least_float32(x) for x in (reward_high, reward_low, labels.detach()))
        if self.detach_low:
            low = low.detach()
        loss = F.softplus(-self.beta * (high - low - self.delta))
        if self.anchor != 'none':
            known = ~labels.isnan()
            lead = high - self._reference(labels, known)
            beyond = torch.where(known.any(1), F.softplus(-self.beta * lead), 0.0)
            loss = loss + self.lambda2 * beyond
        return self.loss_weight * reduce_loss(loss, self.reduction)

    def _reference(self, labels: Tensor, known: Tensor) -> Tensor:
        """Score of the best or the worst label of each image, (N,); 0 where there is none."""
        sign = 1 if self.anchor == 'best' else -1
        top = (sign * labels).masked_fill(~known, -torch.inf).amax(1)
        return torch.where(known.any(1), sign * top, 0.0)


@LOSS_REGISTRY.register()
class RegressionPreferenceLoss(nn.Module):
    """Direct preference optimisation of a regression network, which needs no differentiable scorer.

    ``-log sigma(-beta [(|w - f|^2 - |w - f_ref|^2) - (|l - f|^2 - |l - f_ref|^2)])``: compared with the reference
    network, the output f shall come nearer to the preferred label w than to the other one l. DPO (R. Rafailov et al.,
    NeurIPS 2023) with Gaussian likelihoods; Diffusion-DPO (B. Wallace et al., CVPR 2024) has the same form with errors
    of noise in the place of errors of pixels. Squares are means over an image.

    Args:
        beta: Steepness. Squared errors of images in [0,1] differ by about 0.01, so that 100 makes the argument about 1.
        loss_weight: Factor on the loss.
        reduction: ``none`` (one value an image), ``mean`` or ``sum`` over the images.
    """

    compares: ClassVar[str] = 'images'

    def __init__(
        self, beta: Annotated[float, Range(0)] = 100.0, loss_weight: float = 1.0, reduction: Reduction = 'mean'
    ) -> None:
        super().__init__()
        self.beta, self.loss_weight = beta, loss_weight
        self.reduction = check_reduction('RegressionPreferenceLoss', reduction)

    def forward(self, output: Tensor, reference: Tensor, winner: Tensor, loser: Tensor) -> Tensor:
        """Compares images (N,3,H,W); gradients reach ``output`` only.

        Args:
            output: Of the network that is trained.
            reference: Of the frozen or averaged network, for the same input.
            winner: Preferred labels.
            loser: The others.

        Returns:
            A scalar, or (N,) with ``reduction: none``.

        Raises:
            DataError: Shapes that differ.
        """
        for other in (reference, winner, loser):
            check_same_shape('RegressionPreferenceLoss', output, other)
        others = (at_least_float32(x.detach()) for x in (reference, winner, loser))
        found, reference, winner, loser = (at_least_float32(output), *others)
        nearer = _squared(winner, found) - _squared(winner, reference)
        farther = _squared(loser, found) - _squared(loser, reference)
        return self.loss_weight * reduce_loss(F.softplus(self.beta * (nearer - farther)), self.reduction)


def _squared(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of each image, (N,)."""
    return (first - second).square().flatten(1).mean(1)


def _check_scores(high: Tensor, low: Tensor, labels: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (high, low, labels)]
    if high.dim() != 1 or low.shape != high.shape or labels.dim() != 2 or len(labels) != len(high) or 0 in shapes[2]:
        raise DataError(
            f'ScorePreferenceLoss: scores must be (N,), (N,) and (N,K), not {shapes[0]}, {shapes[1]} and {shapes[2]}.'
        )
