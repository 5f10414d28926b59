"""A perceptual loss on features whose weights come with the installation."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.registry import ARCH_REGISTRY, LOSS_REGISTRY, build
from basicsr.schema import Block

from .loss_util import at_least_float32, check_same_shape


@LOSS_REGISTRY.register()
class FeatureLoss(nn.Module):
    """Mean absolute difference of the features of a frozen network, each level relative to the target's mean magnitude.

    The idea is that of J. Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV
    2016. With the default backbone, EfficientNet-Lite0, it is neither the VGG loss of the literature nor LPIPS: its
    values cannot be compared with theirs.

    Args:
        loss_weight: Factor on the loss.
        layer_weights: Weights of the features at strides 2, 4, 8, 16 and 32; 0 leaves a level out.
        backbone: Block of the network; it must have ``features(images)``.
        relative: Whether each level is divided by the target's mean magnitude; the losses of BasicSR and of the mean
            teachers' releases are not.

    Raises:
        OptionError: The backbone has no features, or another number of them.
        MissingWeightsError: The backbone's weights are not on this machine.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        layer_weights: tuple[float, ...] = (0.1, 0.2, 0.4, 0.2, 0.1),
        backbone: Annotated[dict, Block('arch')] | None = None,
        relative: bool = True,
    ) -> None:
        super().__init__()
        block = backbone or {'type': 'EfficientNetLite0'}
        self.net = build(ARCH_REGISTRY, block).eval().requires_grad_(False)
        count = len(getattr(self.net, 'channels', ()))
        if not hasattr(self.net, 'features') or count != len(layer_weights):
            raise OptionError(
                f'FeatureLoss: {block["type"]} gives {count} features, but layer_weights has {len(layer_weights)}.'
            )
        self.loss_weight, self.layer_weights, self.relative = loss_weight, tuple(layer_weights), relative

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compares two batches (N,3,H,W) in [0,1]; returns a scalar.

        Raises:
            DataError: Shapes that differ.
        """
        check_same_shape('FeatureLoss', pred, target)
        with torch.no_grad():
            wanted = self.net.features(at_least_float32(target))
        found = self.net.features(at_least_float32(pred))
        loss = pred.new_zeros(())
        for weight, a, b in zip(self.layer_weights, found, wanted):
            if weight:
                distance = (a - b).abs().mean()
                loss = loss + weight * (distance / b.abs().mean().clamp_min(1e-6) if self.relative else distance)
        return self.loss_weight * loss

    def train(self, mode: bool = True) -> FeatureLoss:
        """As usual; the backbone stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self
