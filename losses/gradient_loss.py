"""A loss on the gradients of images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.registry import LOSS_REGISTRY

from .basic_loss import Reduction
from .loss_util import at_least_float32, check_reduction, check_same_shape, reduce_loss


@LOSS_REGISTRY.register()
class GradientLoss(nn.Module):
    """Mean absolute difference of the gradient magnitudes of two images.

    S. Huang et al., "Contrastive semi-supervised learning for underwater image restoration via reliable bank",
    CVPR 2023, with its weight. The magnitude, of each channel, is sqrt(dx^2 + dy^2 + 1e-6) with dx and dy the plain
    differences of the two neighbours; outside the image there are zeros.

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none`` (one value an image), ``mean`` or ``sum`` over the images.
    """

    def __init__(self, loss_weight: float = 0.1, reduction: Reduction = 'mean') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = check_reduction('GradientLoss', reduction)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compares two batches (N,C,H,W); returns a scalar, or (N,) with ``reduction: none``.

        Raises:
            DataError: Shapes that differ.
        """
        check_same_shape('GradientLoss', pred, target)
        return self.compare(self.magnitude(pred), self.magnitude(target))

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of two maps of magnitudes, such as a network's own and that of the target."""
        loss = (at_least_float32(pred) - at_least_float32(target)).abs().flatten(1).mean(1)
        return self.loss_weight * reduce_loss(loss, self.reduction)

    @staticmethod
    def magnitude(images: Tensor) -> Tensor:
        """Length of the gradient of each channel of (N,C,H,W), the same shape."""
        x = F.pad(at_least_float32(images), (1, 1, 1, 1))
        across = x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
        down = x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
        return (across.square() + down.square() + 1e-6).sqrt()
