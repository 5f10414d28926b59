"""Losses that compare a restored image with its target, pixel by pixel or frequency by frequency.

All take ``forward(pred, target, weight=None)`` with (N, C, H, W) tensors, RGB in [0, 1], and compute in float32 (or
float64, for float64 input), also inside a mixed-precision region. Options are BasicSR's; ``PSNRLoss`` is NAFNet's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.errors import DataError
from basicsr.registry import LOSS_REGISTRY

from .loss_util import (
    at_least_float32,
    check_reduction,
    check_same_shape,
    reduce_loss,
    weight_reduce_loss,
    weighted_mean,
)

Reduction = Literal['none', 'mean', 'sum']


class _ElementLoss(nn.Module, ABC):
    """What the losses below share: checks, precision, weights, reduction. A subclass says what one element costs."""

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = check_reduction(type(self).__name__, reduction)

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compares two batches.

        Args:
            pred: Restored images (N, C, H, W).
            target: Wanted images, of the same shape.
            weight: Element weights that can be spread to that shape, such as (N, 1, H, W); ``mean`` is then the
                weighted mean.

        Returns:
            A scalar, or one value an element with ``reduction: none``.

        Raises:
            DataError: Shapes that do not fit.
        """
        check_same_shape(type(self).__name__, pred, target)
        loss = self._elements(at_least_float32(pred), at_least_float32(target))
        return self.loss_weight * weight_reduce_loss(loss, weight, self.reduction)

    @abstractmethod
    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of every element."""


@LOSS_REGISTRY.register()
class L1Loss(_ElementLoss):
    """Mean absolute error.

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none``, ``mean`` or ``sum`` over the elements.
    """

    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).abs()


@LOSS_REGISTRY.register()
class MSELoss(_ElementLoss):
    """Mean squared error.

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none``, ``mean`` or ``sum`` over the elements.
    """

    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square()


@LOSS_REGISTRY.register()
class CharbonnierLoss(_ElementLoss):
    """Smooth absolute error, sqrt(d^2 + eps) (Lai et al., LapSRN, CVPR 2017).

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none``, ``mean`` or ``sum`` over the elements.
        eps: Rounds the tip: the loss of equal pixels is its square root.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = 'mean', eps: float = 1e-12) -> None:
        super().__init__(loss_weight, reduction)
        self.eps = eps

    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        return ((pred - target).square() + self.eps).sqrt()


@LOSS_REGISTRY.register()
class PSNRLoss(_ElementLoss):
    """Negative PSNR in dB, (10 / ln 10) * log(MSE + 1e-8) of each image (NAFNet, arXiv:2204.04676; range [0, 1]).

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none``, ``mean`` or ``sum`` over the images; published is ``mean``.
        toY: Compare only the luma of BT.601, as in the Y-channel metrics.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = 'mean', toY: bool = False) -> None:
        super().__init__(loss_weight, reduction)
        self.toY = toY

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compares two batches (N, C, H, W); weights make the MSE of each image a weighted mean.

        Raises:
            DataError: Shapes that do not fit; not three channels with ``toY``.
        """
        check_same_shape('PSNRLoss', pred, target)
        squares = self._elements(at_least_float32(pred), at_least_float32(target))
        image = (1, 2, 3)
        mse = squares.mean(image) if weight is None else weighted_mean(squares, weight, image)
        return self.loss_weight * reduce_loss(10 / math.log(10) * torch.log(mse + 1e-8), self.reduction)

    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        difference = pred - target
        if self.toY:
            difference = _luma(difference)
        return difference.square()


@LOSS_REGISTRY.register()
class FFTLoss(_ElementLoss):
    """Mean absolute error between the real and between the imaginary parts of the 2-D Fourier transforms.

    The transform is ``torch.fft.rfft2`` of each channel without scaling (``norm='backward'``): the half spectrum
    (H, W // 2 + 1), whose values grow with the number of pixels. The mean runs over both parts of all its frequencies.
    MIMO-UNet (Cho et al., ICCV 2021) takes it over the full spectrum; its weight of 0.1 is a good start here too.

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none``, ``mean`` or ``sum`` over the elements; ``none`` gives (N, C, H, W // 2 + 1, 2).
    """

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compares two batches (N, C, H, W); weights must be constant over each plane, (N or 1, C or 1, 1, 1).

        Raises:
            DataError: Shapes that do not fit.
        """
        if weight is not None:
            if weight.dim() != 4 or weight.shape[2:] != (1, 1):
                raise DataError(
                    f'FFTLoss: weights must be (N, C, 1, 1), since a frequency has no place, not {tuple(weight.shape)}.'
                )
            weight = weight.unsqueeze(-1)
        return super().forward(pred, target, weight)

    def _elements(self, pred: Tensor, target: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfft2(pred - target)).abs()  # linear: one transform instead of two


def _luma(difference: Tensor) -> Tensor:
    """Difference of luma, (N, 1, H, W), of an RGB difference: BT.601 without its offset, which cancels."""
    if difference.shape[1] != 3:
        raise DataError(f'PSNRLoss: toY needs three channels (RGB), not {difference.shape[1]}.')
    coefficients = difference.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255.0
    return (difference * coefficients).sum(dim=1, keepdim=True)
