"""A loss that asks a restored image and its transmission to give the hazy image back."""

from __future__ import annotations

from torch import Tensor, nn

from basicsr.errors import DataError
from basicsr.registry import LOSS_REGISTRY

from .basic_loss import Reduction
from .loss_util import at_least_float32, check_reduction, check_same_shape, reduce_loss, weight_reduce_loss


@LOSS_REGISTRY.register()
class ScatteringLoss(nn.Module):
    """Mean absolute error of the atmospheric scattering model with white air light: |J t + (1 - t) - I|.

    Only for networks that give a transmission, such as CORUN: without one (t = 1) it would draw the output to the hazy
    input. C. Fang et al., "Real-world image dehazing with coherence-based pseudo labeling and cooperative unfolding
    network", NeurIPS 2024; the default weight is that of its release and of QualiTeacher's, 0.5 x 0.01.

    Args:
        loss_weight: Factor on the loss.
        reduction: ``none`` (one value an image), ``mean`` or ``sum`` over the images.
    """

    def __init__(self, loss_weight: float = 0.005, reduction: Reduction = 'mean') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = check_reduction('ScatteringLoss', reduction)

    def forward(self, output: Tensor, transmission: Tensor, hazy: Tensor, weight: Tensor | None = None) -> Tensor:
        """Rebuilds the hazy images.

        Args:
            output: Restored images J (N,3,H,W).
            transmission: Transmission t in [0,1], (N,1,H,W) or (N,3,H,W).
            hazy: Hazy images I, of the shape of ``output``.
            weight: Confidence (N,1,H,W) that multiplies the error of every pixel; unlike in L1Loss, the mean is not
                divided by it (as released).

        Returns:
            A scalar, or (N,) with ``reduction: none``.

        Raises:
            DataError: Shapes that do not fit.
        """
        check_same_shape('ScatteringLoss', output, hazy)
        shape = tuple(transmission.shape)
        if shape not in ((len(output), 1, *output.shape[2:]), tuple(output.shape)):
            raise DataError(f'ScatteringLoss: the transmission is {shape}, but the output {tuple(output.shape)}.')
        clear, t, hazy = (at_least_float32(x) for x in (output, transmission, hazy))
        error = weight_reduce_loss((clear * t + (1 - t) - hazy).abs(), weight, 'none')
        return self.loss_weight * reduce_loss(error.flatten(1).mean(1), self.reduction)
