"""A perceptual loss that draws an image towards one picture and away from another."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.registry import ARCH_REGISTRY, LOSS_REGISTRY, build
from basicsr.schema import Block, Range

from .basic_loss import Reduction
from .loss_util import at_least_float32, check_reduction, check_same_shape, reduce_loss

WEIGHT_OF_STRIDE = {1: 1 / 32, 2: 1 / 16, 4: 1 / 8, 8: 1 / 4, 16: 1.0}  # of relu1_1 to relu5_1 of VGG, as published


@LOSS_REGISTRY.register()
class ContrastiveFeatureLoss(nn.Module):
    """Distance of features to a wanted image, divided by that to an unwanted one.

    The sum over levels j of ``w_j |f - p|_j / (|f - n|_j + eps)``; each distance is the mean absolute difference of one
    level of features of one image. H. Wu et al., "Contrastive learning for compact single image dehazing", CVPR 2021;
    Semi-UIR, Colabator and QualiTeacher use it with VGG19. Values with the default backbone, EfficientNet-Lite0, cannot
    be compared with theirs. For the published loss give ``backbone: {type: VGGFeatures}``, whose weights do not come
    with this project.

    Args:
        loss_weight: Factor on the loss.
        layer_weights: Weight of each level of features, 0 leaves it out; null takes those published for VGG, by
            stride: 1/32, 1/16, 1/8, 1/4, 1 at strides 1, 2, 4, 8, 16, and 0 at others.
        backbone: Block of the network; it must have ``features(images)``, ``channels`` and ``strides``. Null takes
            EfficientNetLite0.
        eps: Added to the distance to the unwanted image; QualiTeacher's release has 0, Semi-UIR 1e-7.
        reduction: ``none`` (one value an image), ``mean`` or ``sum`` over the images.

    Raises:
        OptionError: The backbone has no features, or another number of them; or all weights are 0.
        MissingWeightsError: The backbone's weights are not on this machine.
    """

    def __init__(
        self,
        loss_weight: float = 0.2,
        layer_weights: tuple[float, ...] | None = None,
        backbone: Annotated[dict, Block('arch')] | None = None,
        eps: Annotated[float, Range(0)] = 1e-7,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        block = backbone or {'type': 'EfficientNetLite0'}
        self.net = build(ARCH_REGISTRY, block).eval().requires_grad_(False)
        strides = tuple(getattr(self.net, 'strides', ()))
        self.layer_weights = tuple(WEIGHT_OF_STRIDE.get(s, 0.0) for s in strides)
        if layer_weights is not None:
            self.layer_weights = tuple(layer_weights)
        if not hasattr(self.net, 'features') or len(self.layer_weights) != len(strides) or not any(self.layer_weights):
            raise OptionError(
                f'ContrastiveFeatureLoss: {block["type"]} gives {len(strides)} features, but layer_weights has '
                f'{len(self.layer_weights)}; as many are needed, not all 0.'
            )
        self.loss_weight, self.eps, self.min_size = loss_weight, eps, max(strides)
        self.reduction = check_reduction('ContrastiveFeatureLoss', reduction)

    def forward(self, pred: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compares three batches (N,3,H,W) in [0,1]; gradients reach ``pred`` only.

        Args:
            pred: Restored images.
            positive: What they shall be like, such as clean images or pseudo-labels.
            negative: What they shall not be like, such as the input.

        Returns:
            A scalar, or (N,) with ``reduction: none``.

        Raises:
            DataError: Shapes that differ, or images too small to have the last feature.
        """
        check_same_shape('ContrastiveFeatureLoss', pred, positive)
        check_same_shape('ContrastiveFeatureLoss', pred, negative)
        with torch.no_grad():
            wanted, unwanted = self.features(positive), self.features(negative)
        return reduce_loss(self.compare(self.features(pred), wanted, unwanted), self.reduction)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features that :meth:`compare` reads, of images (N,3,H,W) in [0,1], in float32 also under autocast.

        Raises:
            DataError: The images are too small to have the last feature.
        """
        if min(images.shape[-2:]) < self.min_size:
            size, least = 'x'.join(map(str, images.shape[:-3:-1])), self.min_size
            raise DataError(f'ContrastiveFeatureLoss: images of {size} pixels; at least {least}x{least} are needed.')
        with torch.autocast(images.device.type, enabled=False):
            return self.net.features(at_least_float32(images))

    def compare(self, pred: list[Tensor], positive: list[Tensor], negative: list[Tensor]) -> Tensor:
        """The loss of each image, (N,), ``loss_weight`` included, from what :meth:`features` gave for the three.

        Features may be used for several comparisons; gradients reach ``pred`` only.
        """
        total = pred[0].new_zeros(len(pred[0]))
        for weight, f, p, n in zip(self.layer_weights, pred, positive, negative, strict=True):
            if weight:
                total = total + weight * _distance(f, p.detach()) / (_distance(f, n.detach()) + self.eps)
        return self.loss_weight * total

    def train(self, mode: bool = True) -> ContrastiveFeatureLoss:
        """As usual; the backbone stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of each image, (N,)."""
    return (first - second).abs().flatten(1).mean(1)
